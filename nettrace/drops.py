"""What --drop shows of the kernel's drops: which reasons, and which frees that are no drops it leaves out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Optional

from .errors import UsageError
from .event import HAS_L4, Packet
from .filters import PacketFilter
from .kernel import Kernel
from .suggest import did_you_mean

# Why only the tracepoint itself tells of drops, within a sentence.
UNREAD = "the kernel is locked down (confidentiality mode) and lets no program read them"
# Reasons and places that --drop-stat can tell apart.
PLACES_MAX = 4096

# Names, as Kernel.drop_reasons has them: what was no drop at all, and what does not say why there is one.
_NO_DROPS = ("NOT_DROPPED_YET", "CONSUMED")
NO_REASONS = ("NOT_SPECIFIED", "QUEUE_PURGE")
_PREFIXES = ("SKB_DROP_REASON_", "SKB_")
# What a condition can ask where no program may read packets: what runs, and how many a second.
_WITHOUT_PACKETS = ("tgid", "comm", "rate_limit")
_COLUMNS_OF_PACKETS = ("if", "netns", "mark", "len")
_OPTIONS = {
    "l3": "-p",
    "l4": "-p with a protocol inside of IP",
    "expression": "an expression",
    "pkt_len": "--pkt-len",
    "tcp_flags": "--tcp-flags",
}

_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_TCP_FLAGS_AT, _TCP_FIN = 13, 0x01


_ANSWERS = {_ICMP: 0, _ICMPV6: 129}  # types of echo replies


class NormalFree(NamedTuple):
    """Packets that a function has done with and frees as if it dropped them.

    They are told from real drops there by the transport header: of this protocol, and with
    one of these values, under the mask, in the byte at this offset.
    """

    function: str
    protocol: int
    offset: int
    mask: int
    values: tuple[int, ...]


# Seen with healthy traffic (tests/e2e/test_drop.py); these are for drops without a reason only.
NORMAL_FREES = (
    # A reply is freed as served only if a ping socket took it; that raw sockets have their copies does not count
    # (net/ipv4/icmp.c, icmp_rcv).
    NormalFree("icmp_rcv", _ICMP, 0, 0xFF, (0,)),
    # "until the v6 path can be better sorted assume failure": all but replies to ping sockets, whatever became
    # of them (net/ipv6/icmp.c, icmpv6_rcv). Here: errors, pings, multicast listeners, routers, neighbours.
    NormalFree("icmpv6_rcv", _ICMPV6, 0, 0xFF, (1, 2, 3, 4, *range(128, 138), 143)),
    # The FIN of a peer whose connection is closed here and only waits for it ends where packets do that no
    # socket is for (net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c, do_time_wait).
    NormalFree("tcp_v4_rcv", _TCP, _TCP_FLAGS_AT, _TCP_FIN, (_TCP_FIN,)),
    NormalFree("tcp_v6_rcv", _TCP, _TCP_FLAGS_AT, _TCP_FIN, (_TCP_FIN,)),
    # What GRO put together is freed with the first packet of it (net/core/skbuff.c, skb_release_data).
    NormalFree("skb_release_data", _TCP, 0, 0, (0,)),
    NormalFree("skb_release_data", _UDP, 0, 0, (0,)),
    # A FIN is left in the queue of a socket whose program does not wait for it (net/core/stream.c).
    NormalFree("sk_stream_kill_queues", _TCP, _TCP_FLAGS_AT, _TCP_FIN, (_TCP_FIN,)),
)


def is_normal_free(function: str, packet: Packet, reason: Optional[str]) -> bool:
    """Whether a function that frees this packet has only done with it."""
    if not packet.flags & HAS_L4:
        return False
    # A raw socket's clone does not count as one: a ping that uses such a socket gets its answer all the same.
    if reason == "NO_SOCKET":
        return packet.l4_protocol in _ANSWERS and packet.l4[0] == _ANSWERS[packet.l4_protocol]
    if reason not in (None, *NO_REASONS):
        return False
    return any(
        free.function == function.partition(".")[0]
        and free.protocol == packet.l4_protocol
        and packet.l4[free.offset] & free.mask in free.values
        for free in NORMAL_FREES
    )


class _Range(NamedTuple):
    start: int
    size: int
    free: NormalFree


@dataclass(frozen=True)
class Drops:
    """What is asked of drops, as numbers of one kernel."""

    reasons: tuple[int, ...] = ()  # only these; empty: all but `no_drops`
    no_drops: tuple[int, ...] = ()  # reasons that say that nothing was dropped
    no_reasons: tuple[int, ...] = ()  # reasons that do not say why
    harmless: tuple[int, ...] = ()  # reasons that healthy packets meet
    normal_frees: tuple[_Range, ...] = ()
    count: bool = False  # only how many there are is told, by reason and place
    unread: bool = False  # no program may read the kernel's memory

    @property
    def addresses(self) -> dict[str, int]:
        """Those that are not in the C text, by their names there."""
        return {_start(free): start for start, _, free in self.normal_frees}

    def c_text(self) -> str:
        """The same for bpf/drops.h."""
        lines = ["#define DROPS 1", f"#define DROP_PLACES_MAX {PLACES_MAX}"]
        lines += [f"#define {name} 1" for name, on in (("COUNT_DROPS", self.count), ("UNREAD", self.unread)) if on]
        if self.reasons:
            lines.append("#define DROP_REASONS(X)" + "".join(f" X({number:#x})" for number in self.reasons))
        lines.append("#define NOT_DROPS(X)" + "".join(f" X({number:#x})" for number in self.no_drops))
        lines.append("#define HARMLESS(X)" + "".join(f" X({number:#x})" for number in self.harmless))
        lines.append("#define NO_REASONS(X)" + "".join(f" X({number:#x})" for number in self.no_reasons))
        frees = [
            f" X({_start(free)}, {size:#x}, {free.protocol}, {free.offset}, {free.mask:#x}, {value:#x})"
            for _, size, free in self.normal_frees
            for value in free.values
        ]
        if frees and not self.unread:
            lines.append("#define NORMAL_FREES(X)" + "".join(frees))
        return "\n".join(lines) + "\n"


def _start(free: NormalFree) -> str:
    return f"AT_{free.function}"


def choose(
    kernel: Kernel, *, reasons: Optional[str] = None, count: bool = False, unread: bool = False,
    harmless: Collection[str] = (),
) -> Drops:  # fmt: skip
    """What is asked of drops on this kernel; `reasons` as the user gives them, names with commas."""
    numbers = {name: number for number, name in kernel.drop_reasons.items()}
    return Drops(
        reasons=() if reasons is None else _reasons(kernel, reasons),
        no_drops=tuple(numbers[name] for name in _NO_DROPS if name in numbers),
        no_reasons=tuple(numbers[name] for name in NO_REASONS if name in numbers),
        harmless=tuple(number for name, number in numbers.items() if name in harmless),
        normal_frees=() if unread else _normal_frees(kernel),
        count=count,
        unread=unread,
    )


def refuse_contents(packet_filter: PacketFilter, columns: Sequence[str], *, protocol_known: bool) -> None:
    """Raises UsageError where a condition or column needs more of a packet than a tracepoint tells by itself."""
    told = (*_WITHOUT_PACKETS, "l3") if protocol_known else _WITHOUT_PACKETS
    asked = [field.name for field in fields(packet_filter) if getattr(packet_filter, field.name) not in (None, False)]
    for name in asked:
        if name not in told:
            option = _OPTIONS.get(name, f"--{name}")
            raise UsageError(f"{option} needs what is in packets, and {UNREAD}: leave it out")
    for name in columns:
        if name in _COLUMNS_OF_PACKETS:
            raise UsageError(f"--output: the column '{name}' needs what is in packets, and {UNREAD}: leave it out")


def shortages(kernel: Kernel, *, unread: bool) -> list[str]:
    """What cannot be told of drops on this kernel, a sentence each."""
    found = []
    if unread:
        found.append(
            "the headers of packets, their devices and sockets are not shown and cannot be asked for: "
            "the kernel is locked down (confidentiality mode) and lets no program read them"
        )
    if not kernel.features.drop_reasons:
        found.append("this kernel tells where it drops packets but not why (reasons came with Linux 5.17)")
    if kernel.symbols.hidden:
        found.append(
            "the kernel hides its addresses (sysctl kernel.kptr_restrict, or for want of CAP_SYSLOG), "
            "so places are shown as numbers"
        )
    return found


def _reasons(kernel: Kernel, words: str) -> tuple[int, ...]:
    known = kernel.drop_reason_numbers
    if not known:
        raise UsageError("--reason: this kernel gives no reasons for drops (they came with Linux 5.17): leave it out")
    by_upper_case = {name.upper(): number for name, number in known.items()}
    found = []
    for word in [word.strip() for word in words.split(",") if word.strip()]:
        name = word.upper()
        for prefix in _PREFIXES:
            if name not in by_upper_case and name.startswith(prefix):
                name = name[len(prefix) :]
        if name not in by_upper_case:
            raise UsageError(f"--reason: this kernel has no reason '{word}'{did_you_mean(name, known, most=3)}")
        found.append(by_upper_case[name])
    if not found:
        raise UsageError("--reason needs the name of a reason, such as NO_SOCKET")
    return tuple(dict.fromkeys(found))


def _normal_frees(kernel: Kernel) -> tuple[_Range, ...]:
    ranges = []
    for free in NORMAL_FREES:
        start = kernel.symbols.address(kernel.symbols.resolve(free.function) or "")
        symbol = None if start is None else kernel.symbols.lookup(start)
        if start is not None and symbol is not None and symbol.size:
            ranges.append(_Range(start, symbol.size, free))
    return tuple(ranges)
