"""Evidence from devices and what hangs on them: qdiscs, programs, checksums, backlogs, and connection tracking.

Called inside a namespace, see evidence.
"""

import array
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Optional

from . import netlink
from .btf import libbpf
from .errors import KernelError
from .evidence import ROOT, Evidence, counters, from_proc, from_setting, proc, setting, told_setting
from .evidence_routes import Address

_SOURCE = "rtnetlink"

# Where a device's filters may hang: the hooks of clsact, of which ingress is also the qdisc ingress; the root qdisc.
_HOOKS = {0xFFFFFFF2: "ingress", 0xFFFFFFF3: "egress", 0xFFFFFFFF: "root qdisc"}
# linux/pkt_cls.h
_VERDICTS = {-1: "unspecified", 0: "ok", 1: "reclassify", 2: "drop", 3: "pipe", 4: "stolen", 5: "queued", 6: "repeat",
             7: "redirect", 8: "trap"}  # fmt: skip
_IN_BYTES = ("bfifo", "tbf")

# linux/if_link.h
_XDP_MODES = {1: "in the driver", 2: "generic", 3: "in the hardware", 4: "more than one"}

_SIOCETHTOOL = 0x8946
_OFFLOADS = {0x14: "receive", 0x16: "transmit"}

_CONNTRACK_STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT",
                     "CLOSE", "SYN_SENT2")  # fmt: skip
_CONNTRACK_FLAGS = {0x2: "answered", 0x4: "assured", 0x10: "SNAT", 0x20: "DNAT", 0x200: "dying"}


def qdisc(ifindex: int) -> Iterator[Evidence]:
    """The queues of a device: their limits, what waits in them, what they dropped."""
    found = netlink.link(ifindex)
    name, length = found.get_attr("IFLA_IFNAME"), found.get_attr("IFLA_TXQLEN")
    for one in netlink.qdiscs(ifindex):
        kind = one.get_attr("TCA_KIND")
        if kind in ("ingress", "clsact"):
            continue
        place = "root" if one["parent"] == 0xFFFFFFFF else f"parent {_handle(one['parent'])}"
        words = [f"the qdisc {kind} {_handle(one['handle'])} of {name} ({place})"]
        limit = _limit(one.get_attr("TCA_OPTIONS"))
        if limit is None and kind == "pfifo_fast":
            limit = length
        if limit is not None:
            words.append(f"limit {limit} {'bytes' if kind in _IN_BYTES else 'packets'}")
        queue = _queue(one)
        words.append(f"waiting {queue['qlen']} packets or {queue['backlog']} bytes")
        words.append(f"dropped {queue['drops']}, over limits {queue['overlimits']}")
        yield Evidence(_SOURCE, ", ".join(words))
    yield Evidence(_SOURCE, f"the txqueuelen of {name} is {length}")


def xdp(ifindex: int) -> Iterator[Evidence]:
    """The XDP program of a device."""
    found = netlink.link(ifindex)
    name = found.get_attr("IFLA_IFNAME")
    mode, program = netlink.xdp(found)
    if not mode:
        yield Evidence(_SOURCE, f"{name} has no XDP program")
        return
    text = f"{name} has an XDP program, {_XDP_MODES.get(mode, f'mode {mode}')}: {_program_name(program)} (id {program})"
    yield Evidence(_SOURCE, text)


def tc_filters(ifindex: int) -> Iterator[Evidence]:
    """The tc filters of a device and what they do."""
    name = netlink.device_name(ifindex)
    for hook, where in _HOOKS.items():
        for one in netlink.filters(ifindex, hook):
            options = one.get_attr("TCA_OPTIONS")
            # The head of a list and a table of hashes are listed too, and do nothing themselves.
            if not hasattr(options, "get_attr") or options.get_attr("TCA_U32_DIVISOR"):
                continue
            kind = one.get_attr("TCA_KIND")
            program, number = netlink.filter_program(one) if kind == "bpf" else ("", 0)
            what = [f"program {program} (id {number})"] if number else list(_actions(options))
            text = f"tc filter {kind} at {name} {where}, preference {one['info'] >> 16}"
            yield Evidence(_SOURCE, ": ".join([text, *what]))


def conntrack(*, root: Path = ROOT) -> Iterator[Evidence]:
    """How full the table of connections is, and what was dropped because of it."""
    count, most = (setting(f"net/netfilter/nf_conntrack_{name}", root) for name in ("count", "max"))
    if count is None:
        yield from_setting("net/netfilter/nf_conntrack_count", "connections are not tracked on this host")
        return
    yield from_setting("net/netfilter/nf_conntrack_count", f"{count} connections are tracked, the limit is {most}")
    lines = (proc("net/stat/nf_conntrack", root) or "").splitlines()
    if len(lines) > 1:
        rows = [dict(zip(lines[0].split(), (int(value, 16) for value in line.split()))) for line in lines[1:]]
        sums = [f"{name} {sum(row.get(name, 0) for row in rows)}" for name in ("insert_failed", "drop", "early_drop")]
        yield from_proc("net/stat/nf_conntrack", ", ".join(sums))


def conntrack_entry(
    protocol: str, saddr: Address, sport: int, daddr: Address, dport: int, *, root: Path = ROOT
) -> Iterator[Evidence]:
    """What connection tracking knows of a flow of TCP or UDP."""
    if setting("net/netfilter/nf_conntrack_count", root) is None:
        return  # asking would load the module
    family = socket.AF_INET if ip_address(saddr).version == 4 else socket.AF_INET6
    number = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}[protocol]
    flow = f"{protocol.upper()} {saddr} port {sport} to {daddr} port {dport}"
    try:
        found = netlink.connection(family, number, (str(saddr), sport), (str(daddr), dport))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        yield Evidence("conntrack", f"no connection is known for {flow}")
        return
    source, target = _tuple(found.get_attr("CTA_TUPLE_REPLY"))
    words = [f"{flow} is known, answers go from {source} to {target}"]
    info = found.get_attr("CTA_PROTOINFO")
    tcp = info.get_attr("CTA_PROTOINFO_TCP") if info else None
    if tcp:
        words.append(_CONNTRACK_STATES[tcp.get_attr("CTA_PROTOINFO_TCP_STATE")])
    status = found.get_attr("CTA_STATUS") or 0
    words += [word for bit, word in _CONNTRACK_FLAGS.items() if status & bit]
    mark = found.get_attr("CTA_MARK")
    if mark:
        words.append(f"mark {mark:#x}")
    yield Evidence("conntrack", ", ".join(words))


def backlog(*, root: Path = ROOT) -> Iterator[Evidence]:
    """What CPUs dropped because too many packets waited for them; of the whole host."""
    yield from told_setting(
        "net/core/netdev_max_backlog", "the most packets that wait for a CPU", root, of_the_host=True
    )
    rows = [[int(word, 16) for word in line.split()] for line in (proc("net/softnet_stat", root) or "").splitlines()]
    if rows:
        dropped = [(cpu, row[1]) for cpu, row in enumerate(rows) if row[1]]
        # From 5.10 on the number of the CPU is there, for some may be off: Linux commit 7d58e6555870.
        named = ", ".join(f"CPU {rows[cpu][12] if len(rows[cpu]) > 12 else cpu}: {count}" for cpu, count in dropped)
        text = f"packets that all CPUs dropped with a full backlog: {sum(count for _, count in dropped)}"
        yield from_proc("net/softnet_stat", f"{text}{f' ({named})' if named else ''}")


def handlers(protocol: int, ifname: str, *, root: Path = ROOT) -> Iterator[Evidence]:
    """Who receives packets of a protocol, an EtherType, that come in by a device."""
    text = proc("net/ptype", root)
    if text is None:
        return
    found: list[str] = []
    for line in text.splitlines()[1:]:
        # "0806 eth0     arp_rcv", maybe with a module behind it; without a device it is for all of them.
        kind, *device, function = (word for word in line.split() if not word.startswith("["))
        if kind in ("ALL", f"{protocol:04x}") and device in ([], [ifname]):
            found.append(function if kind != "ALL" else f"{function} (a packet socket, which only watches)")
    who = ", ".join(dict.fromkeys(found)) or "nobody"
    yield from_proc("net/ptype", f"who takes packets of protocol 0x{protocol:04x} that come in by {ifname}: {who}")


def checksum(ifname: str, *, root: Path = ROOT) -> Iterator[Evidence]:
    """Who checks checksums, and how many were wrong."""
    told = [f"{what} {'on' if on else 'off'}" for what, on in _checksum_offloads(ifname)]
    if told:
        yield Evidence("ethtool", f"checksum offload of {ifname}: {', '.join(told)}")
    for name in ("snmp", "netstat"):
        wrong = {
            f"{protocol} {values['InCsumErrors']}"
            for protocol, values in counters(name, root).items()
            if "InCsumErrors" in values
        }
        if wrong:
            yield from_proc(f"net/{name}", f"packets with a bad checksum so far: {', '.join(sorted(wrong))}")
    lines = [line.split() for line in (proc("net/snmp6", root) or "").splitlines()]
    wrong6 = [f"{line[0][: -len('InCsumErrors')]} {line[1]}" for line in lines if line[0].endswith("InCsumErrors")]
    if wrong6:
        yield from_proc("net/snmp6", f"packets with a bad checksum so far: {', '.join(wrong6)}")


def _handle(number: int) -> str:
    minor = number & 0xFFFF
    return f"{number >> 16:x}:{f'{minor:x}' if minor else ''}"


def _limit(options: Any) -> Optional[int]:
    """The limit among a qdisc's options, which pyroute2 gives as a struct, as attributes, or not at all."""
    if isinstance(options, str):  # struct tc_fifo_qopt as "01:02:03:04"
        data = bytes.fromhex(options.replace(":", ""))
        return int(struct.unpack("=I", data)[0]) if len(data) == 4 else None
    if not isinstance(options, dict):
        return None
    if "limit" in options:
        return int(options["limit"])
    for name, value in options.get("attrs", []):
        if name.endswith("_LIMIT"):
            return int(value)
        if name.endswith(("_PARMS", "_QOPT")):
            return _limit(value)
    return None


def _queue(one: netlink.Message) -> dict[str, int]:
    stats = one.get_attr("TCA_STATS2")
    queue = stats.get_attr("TCA_STATS_QUEUE") if stats else None
    return {name: queue[name] if queue else 0 for name in ("qlen", "backlog", "drops", "overlimits")}


def _program_name(number: int) -> str:
    unknown = "a program"
    try:
        library = libbpf()
    except KernelError:
        return unknown
    file = library.bpf_prog_get_fd_by_id(number)
    if file < 0:
        return unknown
    try:
        info = ctypes.create_string_buffer(80)  # struct bpf_prog_info up to its name
        length = ctypes.c_uint32(len(info))
        if library.bpf_obj_get_info_by_fd(file, info, ctypes.byref(length)) != 0:
            return unknown
        return info.raw[64:80].rstrip(b"\0").decode(errors="replace") or unknown
    finally:
        os.close(file)


def _actions(options: Any) -> Iterator[str]:
    """What the actions of a filter are, and their verdicts."""
    for name, actions in options.get("attrs", []):
        if not name.endswith("_ACT") or not hasattr(actions, "get_attr"):
            continue
        for _, action in actions["attrs"]:
            kind = action.get_attr("TCA_ACT_KIND")
            settings = action.get_attr("TCA_ACT_OPTIONS")
            parameters = next((value for key, value in settings["attrs"] if key.endswith("_PARMS")), None)
            verdict = parameters.get("action") if isinstance(parameters, dict) else None
            yield kind if verdict is None else f"action {kind} {_VERDICTS.get(_signed(verdict), verdict)}"


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _tuple(attribute: Any) -> tuple[str, str]:
    """The two ends that a tuple of connection tracking has."""
    addresses, ports = attribute.get_attr("CTA_TUPLE_IP"), attribute.get_attr("CTA_TUPLE_PROTO")
    version = "V4" if addresses.get_attr("CTA_IP_V4_SRC") else "V6"
    source, target = (
        f"{addresses.get_attr(f'CTA_IP_{version}_{end}')} port {ports.get_attr(f'CTA_PROTO_{end}_PORT')}"
        for end in ("SRC", "DST")
    )
    return source, target


def _checksum_offloads(ifname: str) -> Iterator[tuple[str, bool]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command, what in _OFFLOADS.items():
            value = array.array("I", [command, 0])  # struct ethtool_value
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0]))
            except OSError:
                continue
            yield what, bool(value[1])
