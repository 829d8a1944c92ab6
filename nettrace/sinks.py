"""What the user reads: packets, events and summaries as text."""

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Optional, TextIO

from . import event
from .event import Context, Event, Packet
from .plan import Plan
from .tree import Group, Tree

_ETH_P_IP = 0x0800
_ETH_P_ARP = 0x0806
_ETH_P_RARP = 0x8035
_ETH_P_IPV6 = 0x86DD

_TCP = 6
_ICMP = 1
_ICMPV6 = 58
_ESP = 50
_AH = 51
_WITH_PORTS = (6, 17, 33, 132, 136)

_L4_NAMES = {
    0: "HOPOPT", 1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 8: "EGP", 12: "PUP", 17: "UDP", 22: "IDP", 29: "TP",
    33: "DCCP", 41: "IPV6", 46: "RSVP", 47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 59: "no next header",
    92: "MTP", 94: "BEETPH", 98: "ENCAP", 103: "PIM", 108: "COMP", 112: "VRRP", 115: "L2TP", 132: "SCTP",
    136: "UDPLITE", 137: "MPLS", 255: "RAW",
}  # fmt: skip

_ICMP_TYPES = {
    3: "destination unreachable", 4: "source quench", 5: "redirect", 9: "router advertisement",
    10: "router solicitation", 11: "time exceeded", 12: "parameter problem", 13: "timestamp request",
    14: "timestamp reply",
}  # fmt: skip
_ICMP_ECHO = {8: "ping request", 0: "ping reply", 42: "ping request(ext)", 43: "ping reply(ext)"}
_ICMPV6_TYPES = {
    1: "destination unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem",
    130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement", 137: "redirect", 143: "multicast listener report",
}  # fmt: skip
_ICMPV6_ECHO = {128: "ping request", 129: "ping reply", 160: "ping request(ext)", 161: "ping reply(ext)"}

# The letters in the order that users of the older programs know; the rarer ones after them.
_TCP_FLAGS = ((0x02, "S"), (0x10, "A"), (0x08, "P"), (0x04, "R"), (0x01, "F"), (0x20, "U"), (0x40, "E"), (0x80, "C"))

_ARP_REQUEST = 1
_ARP_REPLY = 2


@functools.lru_cache(maxsize=4096)
def packet_text(packet: Packet) -> str:
    """A packet's headers on one line."""
    if packet.l3_protocol in (_ETH_P_IP, _ETH_P_IPV6):
        text = _ip_text(packet)
    elif packet.l3_protocol in (_ETH_P_ARP, _ETH_P_RARP):
        text = _arp_text(packet)
    elif packet.l3_protocol:
        text = f"ether protocol: 0x{packet.l3_protocol:04x}"
    else:
        text = "unknown"
    if packet.flags & event.FRAGMENT:
        text += f" frag:{packet.fragment_offset}"
    if packet.vlan_tci:
        text += f" vlan:{packet.vlan_tci & 0xFFF}"
    return text


def _ip_text(packet: Packet) -> str:
    protocol = packet.l4_protocol
    name = _L4_NAMES.get(protocol, str(protocol))
    saddr, daddr = str(ip_address(packet.saddr)), str(ip_address(packet.daddr))
    if not packet.flags & event.HAS_L4:
        return f"{name}: {saddr} -> {daddr}"
    if protocol in _WITH_PORTS:
        sport, dport = event.PORTS_L4.unpack(packet.l4)
        if packet.l3_protocol == _ETH_P_IPV6:
            saddr, daddr = f"[{saddr}]", f"[{daddr}]"
        ends = f"{name}: {saddr}:{sport} -> {daddr}:{dport}"
        return ends + _tcp_tail(packet.l4) if protocol == _TCP else ends
    ends = f"{name}: {saddr} -> {daddr}"
    if protocol == _ICMP and packet.l3_protocol == _ETH_P_IP:
        return ends + _icmp_tail(packet.l4, _ICMP_ECHO, _ICMP_TYPES)
    if protocol == _ICMPV6:
        return ends + _icmp_tail(packet.l4, _ICMPV6_ECHO, _ICMPV6_TYPES)
    if protocol in (_ESP, _AH):
        spi, sequence = event.SPI_L4.unpack(packet.l4)
        return f"{ends} spi:0x{spi:x} seq:0x{sequence:x}"
    return ends


def _tcp_tail(l4: bytes) -> str:
    _, _, seq, ack, flags = event.TCP_L4.unpack(l4)
    letters = "".join(letter for bit, letter in _TCP_FLAGS if flags & bit)
    return f" seq:{seq}, ack:{ack}, flags:{letters}"


def _icmp_tail(l4: bytes, echoes: dict[int, str], types: dict[int, str]) -> str:
    kind, code, ident, sequence = event.ICMP_L4.unpack(l4)
    if kind in echoes:
        if echoes[kind].endswith("(ext)"):
            sequence >>= 8  # RFC 8335: one byte, and flags in the other
        return f" {echoes[kind]}, seq: {sequence}, id: {ident}"
    name = f" ({types[kind]})" if kind in types else ""
    return f" type: {kind}{name}, code: {code}"


def _arp_text(packet: Packet) -> str:
    name = "ARP" if packet.l3_protocol == _ETH_P_ARP else "RARP"
    if not packet.flags & event.HAS_L4:
        return f"{name}: not for IPv4 over Ethernet"
    operation, sender_mac, _ = event.ARP_L4.unpack(packet.l4)
    sender, target = str(ip_address(packet.saddr)), str(ip_address(packet.daddr))
    if operation == _ARP_REQUEST:
        return f"{name}: who has {target}, tell {sender}"
    if operation == _ARP_REPLY:
        return f"{name}: {sender} is at {':'.join(f'{byte:02X}' for byte in sender_mac)}"
    return f"{name}: operation {operation}, {sender} -> {target}"


class Text:
    """Packets and events as lines of text.

    location: the name of a code address. reason: the name of a drop reason.
    wall_offset_ns: what to add to an event's time for wall-clock time; None prints the event's own.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        location: Callable[[int], str],
        reason: Callable[[int], str],
        detail: bool = False,
        wall_offset_ns: Optional[int] = None,
    ) -> None:
        self._out = out
        self._location = location
        self._reason = reason
        self._detail = detail
        self._wall_offset_ns = wall_offset_ns
        # Most steps of a packet have the headers of the step before.
        self._packet: Optional[Packet] = None
        self._packet_text = ""

    def context(self, context: Context) -> None:
        """A packet's block: a header with its skbs, a line an event, an empty line."""
        skbs = ",".join(f"{skb & 0xFFFFFFFF:08x}" for skb in context.skbs)
        lines = [f"***************** {skbs} ***************"]
        lines += [self._line(item) for item in context.events]
        if context.missing:
            lines.append("(incomplete: part of this packet's path was lost)")
        if context.unfinished:
            lines.append("(unfinished: this packet was not seen to be freed)")
        lines.append("\n")
        self._out.write("\n".join(lines))

    def events(self, events: Iterable[Event]) -> None:
        """A line each, as they come."""
        self._out.writelines(self._line(item) + "\n" for item in events)

    def flush(self) -> None:
        """Lets the reader see what was written."""
        self._out.flush()

    def note(self, text: str) -> None:
        """A line that is no event's."""
        self._out.write(text + "\n")
        self._out.flush()

    def _line(self, item: Event) -> str:
        if item.packet is not self._packet:
            self._packet = item.packet
            self._packet_text = packet_text(item.packet)
        line = f"{self._time(item.time_ns)}{self._trace(item)} {self._packet_text}"
        if item.drop is not None:
            where = self._location(item.drop.location)
            line += (
                f" *{where}*" if item.drop.reason is None else f" *reason: {self._reason(item.drop.reason)}, {where}*"
            )
        return line

    def _time(self, time_ns: int) -> str:
        if self._wall_offset_ns is None:
            return f"[{time_ns // 1_000_000_000}.{time_ns // 1000 % 1_000_000:06d}] "
        wall_us = (time_ns + self._wall_offset_ns) // 1000
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_us // 1_000_000))
        return f"[{date}.{wall_us % 1_000_000:06d}] "

    def _trace(self, item: Event) -> str:
        name = f"[{item.trace:<20}]"
        detail = item.detail
        if not self._detail or detail is None:
            return name
        return (
            f"[{item.skb & 0xFFFFFFFF:08x}]{name}[cpu:{detail.cpu:<3}][{_printable(detail.ifname):<5}]"
            f"[{_printable(detail.comm)}-{detail.pid}][ns:{detail.netns}]"
        )


def _printable(name: str) -> str:
    """A name that anybody may have given, without what would move the cursor or begin a line."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def tree_text(tree: Tree, plan: Plan) -> str:
    """The tree of traces, and for each whether and how this kernel lets it be attached."""
    targets: dict[str, str] = {}
    for probe in plan.probes:
        kind = "tracepoint" if probe.program.is_tracepoint else "function"
        targets.setdefault(probe.trace.name, f"{kind} {probe.target}")
    missing = {skip.trace.name: skip.reason for skip in plan.skipped}
    lines: list[str] = []

    def add(group: Group, depth: int) -> None:
        indent = "    " * depth
        off = "" if group.default else " (off unless asked for)"
        lines.append(f"{indent}{group.name}: {group.desc}{off}")
        for trace in group.traces:
            state = f"missing: {missing[trace.name]}" if trace.name in missing else targets.get(trace.name, "")
            lines.append(f"{indent}    - {trace.name}: {trace.desc} [{state}]")
        for child in group.groups:
            add(child, depth + 1)

    add(tree.root, 0)
    attached = len(tree.traces()) - len(missing)
    lines.append(f"{attached} of {len(tree.traces())} traces can be attached on this kernel")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Summary:
    """What a run saw, and everything that it did not."""

    unit: str  # what was counted: "packets", or "events" if packets were not followed
    shown: int
    events: int
    lost_messages: tuple[int, ...]  # by CPU: there was no room in the buffer
    lost_packets: int  # of which nothing at all reached the buffer
    unread_messages: int  # were in the buffer when the time to end was over
    missed_hits: int  # found no place to wait for the work
    untracked: int  # matching packets that the tracking map refused
    evicted: int  # skbs that the tracking map pushed out for newer ones
    unfinished: int
    incomplete: int
    skipped: int  # traces

    def text(self, verbose: bool) -> str:
        """The closing line; what did not happen is left out, but for what everybody looks for."""
        parts = [f"{self.shown} {self.unit}"]
        if self.unit != "events":
            parts.append(f"{self.events} events")
        per_cpu = ", ".join(f"cpu{cpu}: {count}" for cpu, count in enumerate(self.lost_messages) if count)
        parts.append(f"{sum(self.lost_messages)} messages lost" + (f" ({per_cpu})" if per_cpu else ""))
        for count, what in (
            (self.lost_packets, f"{self.unit} lost whole"),
            (self.unread_messages, "messages left unread"),
            (self.missed_hits, "hits missed"),
            (self.untracked, "packets not followed for want of room"),
            (self.evicted, "skbs pushed out of the tracking map"),
        ):
            if count:
                parts.append(f"{count} {what}")
        parts.append(f"{self.unfinished} unfinished")
        if self.incomplete:
            parts.append(f"{self.incomplete} incomplete")
        hint = "" if verbose or not self.skipped else " (-v tells why)"
        parts.append(f"{self.skipped} traces skipped{hint}")
        return ", ".join(parts)
