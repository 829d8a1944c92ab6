"""A plan becomes C text: the kernel's offsets as numbers, the files of bpf/, and a stub a program."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import event, facts, histogram, layouts, pcap
from .btf import Btf, Member
from .errors import KernelError
from .filters import CONDITIONS, PacketFilter
from .kernel import Kernel
from .objects import VALUE_MARK
from .plan import MARKS, Plan, Program, Watched
from .settings import Settings

_FIRST = ("maps.h", "packet.h", "filter.h")
FILES = (*_FIRST, "drops.h", "facts.h", "bytes.h", "follow.h", "log.h", "track.h", "probes.h", "nft.h")
BASIC_FILES = (
    *_FIRST, "drops.h", "facts.h", "bytes.h", "follow.h", "log.h", "single.h", "basic.h", "probes.h", "nft.h",
)  # fmt: skip
_LATENCY_FILES = (*_FIRST, "follow.h", "histogram.h", "latency.h")
LATENCY_FILES = (*_LATENCY_FILES, "times.h", "probes.h")
SUMMARY_FILES = (*_LATENCY_FILES, "edges.h", "probes.h")
PATHS_FILES = (*_LATENCY_FILES, "paths.h", "probes.h")
SOCKET_FILES = (
    *_FIRST, "facts.h", "follow.h", "log.h", "single.h", "histogram.h", "socket.h", "sock.h", "probes.h",
)  # fmt: skip
MONITOR_FILES = (
    *_FIRST, "histogram.h", "drops.h", "facts.h", "follow.h", "log.h", "transit.h", "single.h", "socket.h", "verdict.h",
    "probes.h", "watch.h",
)  # fmt: skip

# What the C reads of the kernel's structs. A name after the colon is what the member is called
# in C, where the path has a dot, another struct embeds it, or kernels call it differently: of
# names with bars between them, structs or members, the first that the kernel has.
_MEMBERS = {
    "sk_buff": (
        "next", "len", "data_len", "dev", "sk", "cb", "mark", "protocol", "transport_header", "network_header",
        "mac_header", "tail", "end", "head", "data", "vlan_tci", "vlan_proto",
    ),
    "skb_shared_info": ("nr_frags", "gso_size", "gso_segs", "frags"),
    # Linux commit 21d2e6737c97 (6.9) gave it a type of its own, with a netmem_ref for the page.
    "skb_frag|bio_vec": ("netmem|bv_page:page", "offset|bv_offset:offset", "len|bv_len:size"),
    "sock": (
        "__sk_common.skc_family:skc_family", "__sk_common.skc_state:skc_state", "__sk_common.skc_daddr:skc_daddr",
        "__sk_common.skc_rcv_saddr:skc_rcv_saddr", "__sk_common.skc_dport:skc_dport",
        "__sk_common.skc_num:skc_num", "__sk_common.skc_v6_daddr:skc_v6_daddr",
        "__sk_common.skc_v6_rcv_saddr:skc_v6_rcv_saddr", "__sk_common.skc_net:skc_net", "sk_protocol", "sk_socket",
    ),
    "socket_alloc": ("socket", "vfs_inode.i_ino:inode"),
    "tcp_sock": ("rcv_nxt",),
    "tcp_skb_cb": ("seq", "tcp_flags"),
    "net_device": ("ifindex", "name", "nd_net"),
    "net": ("ns.inum:ns_inum",),
}  # fmt: skip

# What it reads of sockets, where it is about them.
_SOCKET_MEMBERS = {
    "sock": ("sk_mark", "sk_wmem_queued", "sk_wmem_alloc", "sk_backlog.rmem_alloc:rmem_alloc"),
    "inet_connection_sock": (
        "icsk_pending", "icsk_ack.pending:ack_pending",
        # In the kernels that lack the first, the timer itself is the only one to know.
        "icsk_ack.timeout|icsk_delack_timer.expires:ack_timeout",
    ),
    # Linux 7.2 has the timer in struct sock.
    "inet_connection_sock|sock": (
        "icsk_timeout|icsk_retransmit_timer.expires|tcp_retransmit_timer.expires:timeout",
    ),
    "tcp_sock": ("packets_out", "retrans_out", "snd_una", "snd_nxt", "srtt_us", "rtt_min"),
    "inet_sock": ("inet_sport",),
    "minmax_sample": ("v",),
    "rate_sample": ("rtt_us",),
}  # fmt: skip

# The members that one read of the skb fetches together (struct view).
_VIEW = (
    "vlan_present", "vlan_proto", "vlan_tci", "protocol", "network_header", "mac_header", "tail", "head", "data",
)  # fmt: skip
_VIEW_BYTES_MAX = 128

# What is counted of round trips: the sample, and what the socket then has as the smoothed and the least one.
RTT_HISTOGRAMS = ("sample", "smoothed", "least")


@dataclass(frozen=True)
class Source:
    """The whole program.

    The numbers of the filter and this boot's addresses are no part of what is compiled, so that others need no other
    compilation.
    """

    text: str  # with the numbers
    compiled: str  # with VALUE(index) in their places
    values: tuple[int, ...]  # by index: the filter's numbers, then addresses_of()


def render(plan: Plan, kernel: Kernel, settings: Settings, packet_filter: PacketFilter, bpf_dir: Path) -> Source:
    """The C text; raises KernelError where the kernel's types lack what the C needs."""
    defines: dict[str, int] = {}
    defines.update(_offsets(kernel.btf))
    addresses = addresses_of(kernel, settings)
    if "AT_page_offset_base" in addresses:
        defines["SIZEOF_page"] = kernel.btf.struct_size("page") or 0
    defines.update(MARKS)
    defines["VALUE_MARK"] = VALUE_MARK
    defines.update(TRACKED_MAX=settings.tracked_max, LOG_SLOTS=settings.log_slots, RINGBUF_PAGES=settings.ringbuf_pages)
    if settings.snaplen:
        defines["SNAPLEN"] = settings.snaplen
    # Only there while nf_tables is loaded.
    nft = any(program.kind.startswith("nft_") for program in plan.programs)
    defines.update((nft and layouts.nft_offsets(kernel.types_of(layouts.NFT_CORE))) or {})
    about_sockets = settings.sockets or settings.trouble is not None
    if settings.latency or about_sockets:
        defines.update(histogram.constants())
    if settings.latency:
        defines.update(HOPS=settings.hops, EDGES_MAX=settings.edges_max, PATH_NODES_MAX=settings.path_nodes_max)
    if about_sockets:
        defines.update(_socket_offsets(kernel.btf), TICK_NS=kernel.tick_ns)
        defines.update({f"RTT_{name.upper()}": number for number, name in enumerate(RTT_HISTOGRAMS)})
        defines["RTT_HISTOGRAMS"] = len(RTT_HISTOGRAMS)
        if settings.peers_max:
            defines["RTT_PEERS_MAX"] = settings.peers_max
    switches = {
        "FOLLOW": settings.follow,
        "USE_RINGBUF": settings.ringbuf,
        "WITH_DETAIL": settings.detail,
        "WITH_STACK": any(
            probe.program.stack or (probe.program.by_cookie and probe.cookie & MARKS["STACK"]) for probe in plan.probes
        ),
        "WITH_FACTS": bool(plan.facts),
        "WITH_BYTES": bool(settings.snaplen),
        "WITH_NFT": nft,
        "COUNT_HITS": settings.count_hits or settings.trouble is not None,
        "ONLY_COUNT": settings.only_counts,
        # With --monitor each trace has a program of its own, whose runs the kernel counts.
        "SAMPLE_HITS": settings.sample_hits and settings.trouble is None,
        "MONITOR": settings.trouble is not None,
        "MEASURE_TRANSIT": any(probe.numbers is not None and probe.numbers.begins for probe in plan.probes),
        "WATCH_BY_KPROBES": any(program.name == "watch_function" for program in plan.programs),
        "LATENCY": settings.latency,
        "TIMES": settings.latency and not (settings.latency_summary or settings.paths),
        "LATENCY_SUMMARY": settings.latency_summary,
        "PATHS": settings.paths,
        "SOCKETS": settings.sockets,
        "COUNT_RTT": settings.count_rtt,
    }
    defines.update({name: 1 for name, on in switches.items() if on})
    defines.update({name: 1 for name, on in packet_filter.shape.items() if on})
    defines.update({f"ASK_{name}": bit for name, bit in CONDITIONS.items()})
    numbers = {**packet_filter.numbers(), **addresses}
    head = "#include <uapi/linux/ptrace.h>\n" + _defines({name: hex(value) for name, value in defines.items()})
    parts = [event.c_text()]
    if settings.drops is not None:
        parts.append(settings.drops.c_text())
    needed = {
        "drops.h": settings.drops is not None, "transit.h": switches["MEASURE_TRANSIT"], "bytes.h": settings.snaplen,
    }  # fmt: skip
    for name in _files(settings):
        if not needed.get(name, True):
            continue
        # BCC rewrites no #included code, so the files are put together here.
        parts.append(f'#line 1 "bpf/{name}"\n{(bpf_dir / name).read_text(encoding="utf-8")}')
        if name == "filter.h" and packet_filter.expression is not None:
            parts.append('#line 1 "expression"\n' + pcap.c_text(packet_filter.expression))
        if name == "facts.h" and plan.facts:
            parts.append('#line 1 "facts"\n' + facts.c_text(plan.facts))
        if name == "verdict.h" and settings.trouble is not None:
            parts.append('#line 1 "trouble"\n' + settings.trouble)
    parts.append('#line 1 "stubs"\n')
    parts += [_stub(program) + "\n" for program in plan.programs if not program.is_watch]
    body = "".join(parts)
    places = {name: f"VALUE({index})" for index, name in enumerate(numbers)}
    if settings.trouble is not None:
        # Other numbers for each function.
        fields = enumerate(Watched._fields, len(numbers))
        head += _defines({f"PROBE_{name.upper()}": f"VALUE({index})" for index, name in fields})
    return Source(
        head + _defines({name: hex(number) for name, number in numbers.items()}) + body,
        head + _defines(places) + body,
        tuple(numbers.values()),
    )


def _files(settings: Settings) -> tuple[str, ...]:
    if settings.trouble is not None:
        return MONITOR_FILES
    if settings.sockets:
        return SOCKET_FILES
    if settings.latency:
        return PATHS_FILES if settings.paths else SUMMARY_FILES if settings.latency_summary else LATENCY_FILES
    return FILES if settings.follow else BASIC_FILES


def _defines(macros: Mapping[str, str]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in macros.items())


def _stub(program: Program) -> str:
    flags = " | ".join(mark for mark, on in zip(MARKS, program.marks) if on) or "0"
    skb_from = "FIRST_MEMBER" if program.deref else "DIRECT"
    if program.kind == "kprobe":
        sk = "none" if program.sk is None else program.sk
        return f"KPROBE({program.name}, {skb_from}, {program.skb}, {sk}, {flags}, {program.facts})"
    if program.by_cookie:
        concerns = f"BEGINS_AT_{program.skb}" if program.match else "ANYTHING" if program.deref else "GOES_ON"
        return f"KPROBE_BY_COOKIE({program.name}, {concerns})"
    if program.kind == "nft_eval":
        return f"NFT_EVAL({program.name}, {flags})"
    if program.kind.startswith("nft_"):
        return f"{program.kind.upper()}({program.name}, {flags}, {program.facts})"
    if program.kind == "function_return":
        return f"RETURN({program.name}, {program.most})"
    if program.kind == "tracepoint":
        return (
            f"TRACEPOINT({program.name}, {program.skb}, {program.tracepoint}, {flags}, {program.facts}, "
            f"{program.arguments})"
        )
    macro = {"drop": "DROP_TRACEPOINT", "drop_record": "DROP_RECORD", "drop_arguments": "DROP_ARGUMENTS"}[program.kind]
    protocol = f"{program.protocol}, " if program.kind == "drop_record" else ""
    return (
        f"{macro}({program.name}, {program.skb}, {program.location}, {program.reason}, {protocol}"
        f"{program.tracepoint}, {flags})"
    )


def _places(btf: Btf, structs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    defines: dict[str, int] = {}
    for struct, members in structs.items():
        for entry in members:
            path, _, alias = entry.partition(":")
            defines[f"OFF_{struct.partition('|')[0]}__{alias or path}"] = _member(btf, struct, path).offset
    return defines


def _socket_offsets(btf: Btf) -> dict[str, int]:
    state = _member(btf, "inet_connection_sock", "icsk_ca_state")
    name = "inet_connection_sock__ca_state"
    return {
        **_places(btf, _SOCKET_MEMBERS),
        f"OFF_{name}": state.offset,
        f"SHIFT_{name}": state.shift,
        f"MASK_{name}": state.mask,
    }


def _offsets(btf: Btf) -> dict[str, int]:
    defines = _places(btf, _MEMBERS)
    # Linux commit 354259fa73e2 (6.2) removed the bit: a protocol of 0 now says that there is no tag.
    present = btf.member("sk_buff", "vlan_present")
    if present is not None:
        defines["HAVE_VLAN_PRESENT"] = 1
        defines["OFF_sk_buff__vlan_present"] = present.offset
        defines["MASK_sk_buff__vlan_present"] = present.mask << present.shift
    offsets = [_member(btf, "sk_buff", name) for name in _VIEW if name != "vlan_present" or present is not None]
    start = min(member.offset for member in offsets) // 8 * 8
    size = (max(member.offset + member.size for member in offsets) - start + 7) // 8 * 8
    if size > _VIEW_BYTES_MAX:
        raise KernelError(f"the members of struct sk_buff lie {size} bytes apart on this kernel: please report it")
    defines.update(SKB_VIEW_AT=start, SKB_VIEW_BYTES=size)
    return defines


def addresses_of(kernel: Kernel, settings: Settings) -> dict[str, int]:
    """The addresses that the programs need, by their names in C."""
    found = {} if settings.drops is None else settings.drops.addresses
    # What leads from a struct page to the page's address; nothing where that is not known.
    at = {f"AT_{name}": kernel.symbols.data_address(name) for name in ("page_offset_base", "vmemmap_base")}
    if kernel.btf.struct_size("page") is not None and None not in at.values():
        found.update((name, address or 0) for name, address in at.items())
    return found


def _member(btf: Btf, structs: str, paths: str) -> Member:
    for struct in structs.split("|"):
        for path in paths.split("|"):
            member = btf.member(struct, path)
            if member is not None:
                return member
    raise KernelError(f"this kernel's struct {structs} has no member {paths}: please report its release (uname -r)")
