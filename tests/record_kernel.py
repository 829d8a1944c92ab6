"""Records the facts of a kernel that unit tests need, cut down to a few hundred kilobytes, and puts them up again.

As root, inside a kernel under test: python3 -m tests.record_kernel FOLDER. For one of ours:

    python3 -m tests.vm run 6.12 'python3 -m tests.record_kernel /mnt/out' --out tests/data/kernels/6.12
    rm tests/data/kernels/6.12/console.log

The folder gets the paths that the files have in /proc and /sys, BTF in an archive. BTF keeps
the structs, enums, functions and tracepoints named below or in tracer.yaml. Structs are
complete by value; what they merely point to is a forward declaration.
"""

import gzip
import io
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "kernels"
VERSIONS = ("5.10", "6.1", "6.12", "7.2")
TREE = HERE.parent / "tracer.yaml"


def _words(text: str) -> list[str]:
    return text.split()


STRUCTS = _words(
    """
    sk_buff skb_shared_info sk_buff_head sock sock_common inet_sock inet_connection_sock tcp_sock udp_sock raw_sock
    ipv6_pinfo tcp_skb_cb net ns_common net_device netdev_queue Qdisc Qdisc_ops softnet_data napi_gro_cb dst_entry
    rtable rt6_info neighbour nf_hook_state nf_hook_entries nf_hook_entry nf_hook_ops xt_table nf_conn
    nf_conntrack_tuple nft_pktinfo nft_chain nft_base_chain nft_table nft_rule nft_rule_dp nft_rule_blob nft_expr
    nft_traceinfo nft_verdict nft_immediate_expr rhltable
    request_sock inet_request_sock tcp_request_sock inet_timewait_sock tcp_timewait_sock fib_info fib6_info
    fib_nh_common tcf_proto tcf_proto_ops xdp_buff bpf_prog bpf_prog_aux nf_nat_range2 nft_pktinfo nft_regs
    xt_action_param xt_table_info jiffies timer_list sk_psock udphdr minmax minmax_sample listen_sock request_sock_queue
    ethhdr iphdr ipv6hdr tcphdr udphdr icmphdr
    socket socket_alloc inode cred page skb_frag bio_vec rate_sample minmax_sample
    """
)
ENUMS = _words(
    """
    bpf_map_type bpf_attach_type bpf_prog_type bpf_func_id skb_drop_reason skb_drop_reason_subsys ovs_drop_reason
    mac80211_drop_reason qdisc_drop_reason sk_rst_reason nf_inet_hooks nf_dev_hooks gro_result netdev_tx
    rx_handler_result tcp_tw_status tcp_ca_state xdp_action ip_conntrack_info tcp_conntrack
    """
)
FUNCTIONS = _words(
    """
    kfree_skb kfree_skbmem consume_skb skb_clone skb_release_head_state ip_rcv ip_rcv_core ip_local_deliver ip_output
    nf_hook_slow __tcp_transmit_skb nf_conntrack_in nft_do_chain nft_immediate_eval register_fprobe_ips
    bpf_kprobe_multi_link_attach _stext _etext _sinittext _einittext tcp_v4_rcv tcp_v4_send_reset xfrm_output_gso
    __netif_receive_skb_core console_show printk _printk icmp_push_reply
    """
)
TRACEPOINTS = ["skb:kfree_skb", "skb:consume_skb", "net:netif_receive_skb", "net:napi_gro_receive_entry"]
# Data symbols whose addresses are asked for.
VARIABLES = ["page_offset_base", "vmemmap_base"]
# Every module that a function in tracer.yaml is in; what is built in, or does not exist, is left alone.
MODULES = _words(
    """
    veth tun tap macvtap macvlan ipvlan dummy ifb net_failover bonding team vrf 8021q macsec mac80211 ppp_generic pppoe
    pptp bridge br_netfilter openvswitch vxlan geneve ip_gre ip6_gre ipip sit ip6_tunnel ip_vti ip6_vti fou gtp
    l2tp_core l2tp_ip wireguard mpls_router mpls_iptunnel esp4 esp6 esp4_offload esp6_offload ah4 ah6 ipcomp ipcomp6
    xfrm_interface sctp
    act_bpf act_connmark act_csum act_ct act_ctinfo act_gact act_gate act_ife act_mirred act_mpls act_nat act_pedit
    act_police act_sample act_simple act_skbedit act_skbmod act_tunnel_key act_vlan
    cls_basic cls_bpf cls_cgroup cls_flow cls_flower cls_fw cls_matchall cls_route cls_u32
    sch_cake sch_codel sch_fq sch_fq_codel sch_hfsc sch_htb sch_netem sch_prio sch_red sch_sfq sch_taprio sch_tbf
    nf_conntrack nf_conntrack_bridge nf_nat nf_tables nft_chain_nat nft_compat nft_fwd_netdev
    nft_masq nft_nat nft_queue nft_redir nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nft_synproxy
    nft_tproxy nft_reject_bridge nf_flow_table nf_defrag_ipv6
    nf_dup_ipv4 nf_dup_ipv6 nf_reject_ipv4 nf_reject_ipv6 nf_synproxy_core ip_vs ip_vs_rr
    iptable_filter iptable_nat ip6table_filter arptable_filter ebtable_filter
    """
)
# Examples of symbols that must not be taken for functions, or are one of several.
ODDITIES = (r"\.isra\.", r"\.constprop\.", r"\.part\.", r"\.cold", r"__UNIQUE_ID", r"__pfx_")
ODDITIES_EACH = 8
PLAIN_FILES = ("proc/sys/kernel/osrelease", "sys/bus/event_source/devices/kprobe/type", "sys/kernel/security/lockdown")
BLACKLIST_LINES = 10

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = range(1, 9)
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = range(9, 16)
_FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(16, 20)
_REFERENCES = (_PTR, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _TYPE_TAG)
_HEADER = struct.Struct("<HBBIIIII")


def unpack(version: str, folder: Path) -> Path:
    """Puts a recorded kernel's files where nettrace.kernel.Kernel(folder) finds them, and returns the folder."""
    shutil.copytree(DATA / version, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    packed = folder / "sys/kernel/btf.tar.gz"
    (folder / "sys/kernel/btf").mkdir(exist_ok=True)
    with tarfile.open(packed) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            (folder / "sys/kernel/btf" / member.name).write_bytes(file.read())
    packed.unlink()
    # The kernel was recorded by root.
    (folder / "proc/self").mkdir()
    (folder / "proc/self/status").write_text("Name:\tpython3\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t0\n")
    return folder


def _pack(blobs: Mapping[str, bytes]) -> bytes:
    """One archive of small files, the same bytes whenever it is made."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, blob in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return packed.getvalue()


class _Name(NamedTuple):
    text: bytes


class _Id(NamedTuple):
    owner: "_Cutter"
    place: int


_Word = Union[int, _Name, _Id]


class _Cutter:
    """Copies some of the types of a BTF blob into a new one."""

    def __init__(self, blob: bytes, base: "Optional[_Cutter]" = None) -> None:
        _, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(blob)
        self.base = base
        self._strings = blob[header + strings : header + strings + strings_size]
        self._types = memoryview(blob[header + types : header + types + types_size]).cast("I")
        self._first_id = 1 if base is None else base.end_id
        self._at = []
        at = 0
        while at < len(self._types):
            self._at.append(at)
            at += 3 + _extra_words(self._types[at + 1])
        self.end_id: int = self._first_id + len(self._at)
        self._copies: dict[tuple[int, bool], _Word] = {}
        self._records: list[tuple[_Word, ...]] = []

    def roots(self) -> list[tuple[str, int, int]]:
        """Name, kind and id of every type that has a name."""
        return [
            (self._name(self._types[at]).text.decode(), self._types[at + 1] >> 24 & 31, self._first_id + place)
            for place, at in enumerate(self._at)
            if self._types[at]
        ]

    def keep(self, type_id: int, pointed_to: bool = False) -> _Word:
        """Copies a type and what it is made of, once."""
        if type_id == 0:
            return 0
        if type_id < self._first_id:
            assert self.base is not None
            return self.base.keep(type_id, pointed_to)
        if (type_id, pointed_to) not in self._copies:
            self._copies[type_id, pointed_to] = self._copy(self._at[type_id - self._first_id], pointed_to)
        return self._copies[type_id, pointed_to]

    def _copy(self, at: int, pointed_to: bool) -> _Word:
        words = self._types
        name, info, third = self._name(words[at]), words[at + 1], words[at + 2]
        kind, vlen = info >> 24 & 31, info & 0xFFFF
        extra = words[at + 3 : at + 3 + _extra_words(info)].tolist()
        if kind in (_STRUCT, _UNION):
            if pointed_to:
                return self._add(name, _FWD << 24 | (kind == _UNION) << 31, 0) if name.text else 0
            rest: list[_Word] = []
            for i in range(0, 3 * vlen, 3):
                rest += [self._name(extra[i]), self._keep_member(extra[i + 1]), extra[i + 2]]
            return self._add(name, info, third, *rest)
        if kind == _FUNC_PROTO:
            rest = []
            for i in range(0, 2 * vlen, 2):
                rest += [self._name(extra[i]), self.keep(extra[i + 1], pointed_to=False) if extra[i + 1] else 0]
            return self._add(name, info, self.keep(third), *rest)
        if kind in _REFERENCES:
            return self._add(name, info, self.keep(third, pointed_to=pointed_to or kind == _PTR))
        if kind == _ARRAY:
            return self._add(name, info, third, self.keep(extra[0], pointed_to), self.keep(extra[1]), extra[2])
        if kind in (_ENUM, _ENUM64) and name.text.decode() not in ENUMS:
            return self._add(name, info & ~0xFFFF, third)
        if kind in (_ENUM, _ENUM64):
            step = 2 if kind == _ENUM else 3
            rest = [self._name(word) if i % step == 0 else word for i, word in enumerate(extra)]
            return self._add(name, info, third, *rest)
        assert kind in (_INT, _FLOAT, _FWD), kind
        return self._add(name, info, third, *extra)

    def _keep_member(self, type_id: int) -> _Word:
        """Like keep, but a pointer to a function becomes one to void: prototypes of callbacks would pull in a lot."""
        owner = self
        while type_id < owner._first_id and owner.base is not None:
            owner = owner.base
        if type_id:
            at = owner._at[type_id - owner._first_id]
            target = owner._types[at + 2]
            if owner._types[at + 1] >> 24 & 31 == _PTR and owner._kind(target) == _FUNC_PROTO:
                return owner._add(_Name(b""), _PTR << 24, 0)
        return self.keep(type_id)

    def _kind(self, type_id: int) -> int:
        if type_id < self._first_id:
            return 0 if self.base is None or type_id == 0 else self.base._kind(type_id)
        return self._types[self._at[type_id - self._first_id] + 1] >> 24 & 31

    def _add(self, *words: _Word) -> _Word:
        self._records.append(words)
        return _Id(self, len(self._records) - 1)

    def _name(self, offset: int) -> _Name:
        if self.base is not None:
            if offset < len(self.base._strings):
                return self.base._name(offset)
            offset -= len(self.base._strings)
        return _Name(self._strings[offset : self._strings.index(0, offset)])

    def blob(self) -> bytes:
        """The new BTF; the base's must not change any more."""
        known = {} if self.base is None else dict(self.base.strings()[0])
        offsets, strings = self.strings(known, 0 if self.base is None else len(self.base.strings()[1]))
        types = bytearray()
        for record in self._records:
            for word in record:
                if isinstance(word, _Name):
                    word = offsets[word.text]
                elif isinstance(word, _Id):
                    word = word.owner.new_first_id() + word.place
                types += word.to_bytes(4, "little")
        header = _HEADER.pack(0xEB9F, 1, 0, _HEADER.size, 0, len(types), len(types), len(strings))
        return header + bytes(types) + strings

    def new_first_id(self) -> int:
        return 1 if self.base is None else self.base.new_first_id() + len(self.base._records)

    def strings(self, known: Optional[dict[bytes, int]] = None, start: int = 0) -> tuple[dict[bytes, int], bytes]:
        """The string section, in the order of first use as libbpf writes it, and where each string is."""
        offsets = dict(known or {})
        data = bytearray()
        if self.base is None:
            data += b"\0"
            offsets[b""] = 0
        for record in self._records:
            for word in record:
                if isinstance(word, _Name) and word.text not in offsets:
                    offsets[word.text] = start + len(data)
                    data += word.text + b"\0"
        return offsets, bytes(data)


def _extra_words(info: int) -> int:
    """How many words follow the three that every type begins with."""
    kind, vlen = info >> 24 & 31, info & 0xFFFF
    return {
        _INT: 1, _ARRAY: 3, _STRUCT: 3 * vlen, _UNION: 3 * vlen, _ENUM: 2 * vlen, _FUNC_PROTO: 2 * vlen,
        _VAR: 1, _DATASEC: 3 * vlen, _DECL_TAG: 1, _ENUM64: 3 * vlen,
    }.get(kind, 0)  # fmt: skip


def cut_btf(folder: Path, words: Iterable[str]) -> dict[str, bytes]:
    """The cut-down BTF of the kernel and of each module that has something of interest, by file name."""
    words = set(words)
    wanted = {(name, kind) for name in STRUCTS for kind in (_STRUCT, _UNION)}
    wanted |= {(name, kind) for name in ENUMS for kind in (_ENUM, _ENUM64)}
    wanted |= {(name, _FUNC) for name in words}
    wanted |= {(f"btf_trace_{name}", _TYPEDEF) for name in words}
    base = _Cutter((folder / "vmlinux").read_bytes())
    cutters = {"vmlinux": base}
    found = _keep_wanted(base, wanted)
    for path in sorted(folder.iterdir()):
        if path.name != "vmlinux":
            module = _Cutter(path.read_bytes(), base)
            if _keep_wanted(module, {root for root in wanted if root[1] == _FUNC or root not in found}):
                cutters[path.name] = module
    return {name: cutter.blob() for name, cutter in cutters.items()}


def _keep_wanted(cutter: _Cutter, wanted: set[tuple[str, int]]) -> set[tuple[str, int]]:
    found = set()
    for name, kind, type_id in cutter.roots():
        if (name, kind) in wanted:
            found.add((name, kind))
            cutter.keep(type_id)
    return found


def cut_kallsyms(data: bytes, words: Iterable[str]) -> bytes:
    """The lines of the functions, of the functions right behind them, and of a few oddities, in their order."""
    words = set(words)
    lines = data.decode().splitlines()
    names = [line[19:].partition("\t")[0] for line in lines]
    keep = {place for place, name in enumerate(names) if name.partition(".")[0] in words}
    text = sorted(
        (place for place, line in enumerate(lines) if line[17] in "tTwW"), key=lambda place: lines[place][:16]
    )
    for here, behind in zip(text, text[1:]):
        if here in keep and names[here].partition(".")[0] in words:
            keep.add(behind)
    for oddity in ODDITIES:
        matching = [place for place, name in enumerate(names) if re.search(oddity, name)]
        keep.update(matching[:ODDITIES_EACH])
    keep.update([place for place, line in enumerate(lines) if line[17] in "dDbBrR"][:ODDITIES_EACH])
    keep.update([place for place, line in enumerate(lines) if line.endswith("]")][:ODDITIES_EACH])
    return "".join(lines[place] + "\n" for place in sorted(keep)).encode()


def record(folder: Path, root: Path = Path("/")) -> None:
    """Writes the facts of the running kernel into the folder."""
    tree = TREE.read_text(encoding="utf-8") if TREE.exists() else ""
    words = {*FUNCTIONS, *VARIABLES, *re.findall(r"\w+", tree)}
    tracepoints = {*TRACEPOINTS, *re.findall(r'tracepoint: "?(\w+:\w+)', tree)}
    words.update(name.partition(":")[2] for name in tracepoints)

    _write(folder / "sys/kernel/btf.tar.gz", _pack(cut_btf(root / "sys/kernel/btf", words)))
    _write(folder / "proc/kallsyms", cut_kallsyms((root / "proc/kallsyms").read_bytes(), words))
    tracing = "sys/kernel/tracing"
    functions = (root / tracing / "available_filter_functions").read_text().splitlines(keepends=True)
    traceable = [line for line in functions if line.split()[0].partition(".")[0] in words]
    _write(folder / tracing / "available_filter_functions", "".join(traceable).encode())
    for name in sorted(tracepoints):
        path = f"{tracing}/events/{name.replace(':', '/')}/format"
        if (root / path).exists():
            _write(folder / path, (root / path).read_bytes())
    blacklist = (root / "sys/kernel/debug/kprobes/blacklist").read_text().splitlines(keepends=True)
    kept = [line for place, line in enumerate(blacklist) if place < BLACKLIST_LINES or line.split()[-1] in words]
    _write(folder / "sys/kernel/debug/kprobes/blacklist", "".join(kept).encode())
    for name in PLAIN_FILES:
        if (root / name).exists():
            _write(folder / name, (root / name).read_bytes())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main(arguments: Sequence[str]) -> None:
    for module in MODULES:
        subprocess.run(["modprobe", "-q", module], check=False)
    record(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
