"""The packet filter on packets that were recorded: a packet matches if it did at any of its events."""

from typing import Callable, Optional

from .errors import UsageError
from .event import HAS_L4, PORTS_L4, Context, Event, Packet
from .filters import Network, PacketFilter, Range
from .header import Header
from .host import Host

_IP, _IPV6, _ARP, _RARP = 0x0800, 0x86DD, 0x0806, 0x8035
_TCP = 6
_WITH_PORTS = (6, 17, 33, 132, 136)
_FLAGS_AT = 13  # of a TCP header
# What only the kernel can decide, and what a recording has only with --detail.
_LIVE = {"expression": "an expression", "srtt_us": "--filter-srtt", "min_rtt_us": "--filter-minrtt",
         "rate_limit": "--rate-limit"}  # fmt: skip
_OF_DETAIL = {"tgid": "--pid", "comm": "--comm", "mark": "--mark"}


def matcher(
    packet_filter: PacketFilter, header: Header, host: Host, netns: Optional[str] = None
) -> Optional[Callable[[Context], bool]]:
    """What says whether a packet matches; None: all do. Raises UsageError for what the recording does not tell.

    netns: the name of the namespace that it must be in.
    """
    for name, option in _LIVE.items():
        if getattr(packet_filter, name) is not None:
            raise UsageError(f"{option} cannot be applied to a recording: leave it out")
    for name, option in _OF_DETAIL.items():
        if getattr(packet_filter, name) is not None and not header.detail:
            raise UsageError(f"{option} needs what only --detail records: leave it out")
    if packet_filter.is_empty and netns is None:
        return None

    def is_there(item: Event) -> bool:
        return netns is None or (item.device is not None and host.netns(item.device.netns) == netns)

    def matches(context: Context) -> bool:
        return any(is_there(item) and _event_matches(packet_filter, item) for item in context.events)

    return matches


def _event_matches(wanted: PacketFilter, item: Event) -> bool:
    if wanted.netns is not None and (item.device is None or item.device.netns != wanted.netns):
        return False
    if wanted.iface is not None and (
        item.device is None or not item.device.ifindex or item.device.name.encode(errors="replace") != wanted.iface
    ):
        return False
    detail = item.detail
    if wanted.tgid is not None and (detail is None or detail.tgid != wanted.tgid):
        return False
    if wanted.comm is not None and (detail is None or detail.comm.encode(errors="replace") != wanted.comm):
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
