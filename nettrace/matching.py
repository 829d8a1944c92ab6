"""What is asked for of packets that were recorded: events of some traces, and packets that match at any of these."""

import functools
from collections.abc import Collection
from typing import Callable, Optional

from . import pcap, rebuilt
from .errors import UsageError
from .event import HAS_L4, PORTS_L4, Context, Event, Packet
from .filters import Network, PacketFilter, Range
from .header import TABLES, Header
from .host import Host
from .printable import printable, text_of

_IP, _IPV6, _ARP, _RARP = 0x0800, 0x86DD, 0x0806, 0x8035
_TCP = 6
_WITH_PORTS = (6, 17, 33, 132, 136)
_FLAGS_AT = 13  # of a TCP header
# What a recording has only with --detail, and only of sockets.
_OF_DETAIL = {"tgid": "--pid", "comm": "--comm", "mark": "--mark"}
_OF_SOCKETS = {"srtt_us": "--filter-srtt", "min_rtt_us": "--filter-minrtt"}
_WITH_SOCKETS = ("sockets", "trouble")

Matches = Callable[[Context], Optional[Context]]


def matcher(
    packet_filter: PacketFilter, header: Header, host: Host, netns: Optional[str] = None,
    traces: Optional[Collection[str]] = None,
) -> Optional[Matches]:  # fmt: skip
    """What says what is shown of a packet, None: nothing; or None: all of every one is.

    netns: the name of the namespace that it must be in. traces: whose events are shown. Raises UsageError for what
    the recording does not tell.
    """
    is_filtered = not packet_filter.is_empty or netns is not None
    if not is_filtered and traces is None:
        return None
    _check(packet_filter, header, only_some=traces is not None)
    conditions = _conditions(packet_filter, header, host, netns)

    def wanted(context: Context) -> Optional[Context]:
        if traces is not None:
            context = _only(context, traces)
            if not context.events:
                return None
        if is_filtered and not any(all(holds(item) for holds in conditions) for item in context.events):
            return None
        return context

    return wanted


def _check(packet_filter: PacketFilter, header: Header, *, only_some: bool) -> None:
    """Refuses what this recording does not tell."""
    if header.mode in TABLES:
        raise UsageError(f"a recording of {header.mode} is one of numbers, not of packets: leave the conditions out")
    if only_some and header.mode == "latency":
        raise UsageError(
            "a recording of latency tells the ends of packets' ways only: leave out -t and --trace-exclude"
        )
    for name, option in _OF_DETAIL.items():
        if getattr(packet_filter, name) is not None and not header.detail:
            raise UsageError(f"{option} needs what only --detail records: leave it out")
    for name, option in _OF_SOCKETS.items():
        if getattr(packet_filter, name) is not None and header.mode not in _WITH_SOCKETS:
            raise UsageError(f"{option} is about sockets, and this is a recording of {header.mode}: leave it out")


def _conditions(
    packet_filter: PacketFilter, header: Header, host: Host, netns: Optional[str]
) -> list[Callable[[Event], bool]]:
    """What must hold of an event."""
    conditions: list[Callable[[Event], bool]] = [functools.partial(_event_matches, packet_filter)]
    if netns is not None:
        name = printable(netns)
        conditions.append(lambda item: item.device is not None and host.netns(item.device.netns) == name)
    if packet_filter.srtt_us is not None or packet_filter.min_rtt_us is not None:
        only_samples = header.mode == "trouble"
        conditions.append(functools.partial(_is_slow, packet_filter, only_samples=only_samples))
    if packet_filter.expression is not None:
        conditions.append(_expression(packet_filter.expression))
    return conditions


def _only(context: Context, traces: Collection[str]) -> Context:
    events = tuple(item for item in context.events if item.trace in traces)
    there = {item.skb for item in events}
    return context._replace(events=events, skbs=tuple(skb for skb in context.skbs if skb in there))


def _is_slow(wanted: PacketFilter, item: Event, *, only_samples: bool) -> bool:
    """Whether the round trips of its socket take as long as is asked for, as is_slow() in bpf/socket.h says it."""
    state = item.socket
    if only_samples and (state is None or state.rtt_us is None):
        return True  # --monitor tells of all other trouble
    if state is None:
        return False
    return (wanted.srtt_us is None or (state.srtt_us is not None and state.srtt_us >= wanted.srtt_us)) and (
        wanted.min_rtt_us is None or (state.rtt_min_us is not None and state.rtt_min_us >= wanted.min_rtt_us)
    )


def _expression(expression: str) -> Callable[[Event], bool]:
    """A filter expression, on what was recorded of headers."""
    l2, l3 = pcap.compile_expression(expression)
    program = l2.instructions or l3.instructions

    @functools.lru_cache(maxsize=1024)
    def decide(packet: Packet) -> bool:
        frame = rebuilt.frame(packet)
        matches = False if frame is None else pcap.decide(program, frame)
        if matches is None:
            raise UsageError(
                f"expression '{expression}' asks for what is not recorded of packets, which is their addresses, "
                "protocols, ports, ICMP types, sequence numbers and TCP flags: leave it out"
            )
        return matches

    return lambda item: decide(item.packet)


def _event_matches(wanted: PacketFilter, item: Event) -> bool:
    if wanted.netns is not None and (item.device is None or item.device.netns != wanted.netns):
        return False
    if wanted.iface is not None and (
        item.device is None or not item.device.ifindex or item.device.name != text_of(wanted.iface)
    ):
        return False
    detail = item.detail
    if wanted.tgid is not None and (detail is None or detail.tgid != wanted.tgid):
        return False
    if wanted.comm is not None and (detail is None or detail.comm != text_of(wanted.comm)):
        return False
    if wanted.mark is not None and (detail is None or detail.mark & wanted.mark.mask != wanted.mark.value):
        return False
    packet: Optional[Packet] = item.packet
    while packet is not None:
        if headers_match(wanted, packet):
            return True
        packet = packet.inner if wanted.inner else None
    return False


def headers_match(wanted: PacketFilter, packet: Packet) -> bool:
    """Whether one set of headers is what was asked for, as headers_match() in bpf/filter.h says it."""
    protocol, is_ip = packet.l3_protocol, packet.l3_protocol in (_IP, _IPV6)
    if wanted.l3 is not None and protocol != wanted.l3:
        return False
    if wanted.l4 is not None and not (is_ip and packet.l4_protocol == wanted.l4):
        return False
    if wanted.pkt_len is not None and not (is_ip and _within(wanted.pkt_len, packet.l3_length)):
        return False
    return (
        _addresses_match(wanted, packet) and _ports_match(wanted, packet, is_ip) and _flags_match(wanted, packet, is_ip)
    )


def _addresses_match(wanted: PacketFilter, packet: Packet) -> bool:
    for network, addresses in (
        (wanted.saddr, [packet.saddr]), (wanted.daddr, [packet.daddr]), (wanted.addr, [packet.saddr, packet.daddr]),
    ):  # fmt: skip
        if network is not None and not any(_is_in(network, packet.l3_protocol, address) for address in addresses):
            return False
    return True


def _is_in(network: Network, protocol: int, address: bytes) -> bool:
    if protocol not in ((_IP, _ARP, _RARP) if network.version == 4 else (_IPV6,)):
        return False
    mask = int(network.netmask)
    return int.from_bytes(address, "big") & mask == int(network.network_address)


def _ports_match(wanted: PacketFilter, packet: Packet, is_ip: bool) -> bool:
    if wanted.sport is None and wanted.dport is None and wanted.port is None:
        return True
    if not (packet.flags & HAS_L4 and is_ip and packet.l4_protocol in _WITH_PORTS):
        return False
    sport, dport = PORTS_L4.unpack(packet.l4)
    return (
        (wanted.sport is None or _within(wanted.sport, sport))
        and (wanted.dport is None or _within(wanted.dport, dport))
        and (wanted.port is None or _within(wanted.port, sport) or _within(wanted.port, dport))
    )


def _flags_match(wanted: PacketFilter, packet: Packet, is_ip: bool) -> bool:
    if wanted.tcp_flags is None:
        return True
    if not (packet.flags & HAS_L4 and is_ip and packet.l4_protocol == _TCP):
        return False
    flags = packet.l4[_FLAGS_AT]
    return flags == wanted.tcp_flags.mask if wanted.tcp_flags.exact else bool(flags & wanted.tcp_flags.mask)


def _within(wanted: Range, number: int) -> bool:
    return wanted.first <= number <= wanted.last
