"""A packet's headers as text, and what became of them between two steps."""

import functools
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Optional

from . import event
from .event import Packet

_ETH_P_IP = 0x0800
_ETH_P_ARP = 0x0806
_ETH_P_RARP = 0x8035
_ETH_P_IPV6 = 0x86DD
_IP = (_ETH_P_IP, _ETH_P_IPV6)
# What carries other packets, and hides them: MPLS, PPPoE, MACsec.
_CARRYING_L3 = (0x8847, 0x8848, 0x8864, 0x88E5)

_L3_NAMES = {
    0x0004: "802.2 LLC", 0x0842: "Wake-on-LAN", 0x22F0: "TSN", 0x22F3: "TRILL", 0x4305: "BATMAN", 0x6003: "DECnet",
    0x809B: "AppleTalk", 0x80F3: "AARP", 0x8100: "802.1Q", 0x8137: "IPX", 0x8808: "Ethernet flow control",
    0x8809: "LACP", 0x8847: "MPLS", 0x8848: "MPLS multicast", 0x8863: "PPPoE discovery", 0x8864: "PPPoE",
    0x888E: "802.1X", 0x8892: "PROFINET", 0x88A2: "AoE", 0x88A8: "802.1ad", 0x88CA: "TIPC", 0x88CC: "LLDP",
    0x88E3: "MRP", 0x88E5: "MACsec", 0x88F5: "MVRP", 0x88F7: "PTP", 0x88FB: "PRP", 0x8902: "CFM", 0x8906: "FCoE",
    0x8914: "FIP", 0x8915: "RoCE", 0x892F: "HSR", 0x894F: "NSH", 0x9000: "Ethernet loopback",
}  # fmt: skip

# Of packets whose headers could not be read.
_UNREAD_NAMES = {_ETH_P_IP: "IPv4", _ETH_P_IPV6: "IPv6", _ETH_P_ARP: "ARP", _ETH_P_RARP: "RARP"}

_TCP = 6
_ICMP = 1
_ICMPV6 = 58
_ESP = 50
_AH = 51
_WITH_PORTS = (6, 17, 33, 132, 136)
# IPIP, IPv6 in something, GRE, MPLS: a header behind the outer one, whether it could be read or not.
_CARRYING_L4 = (4, 41, 47, 137)

_L4_NAMES = {
    0: "HOPOPT", 1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 8: "EGP", 9: "IGP", 12: "PUP", 17: "UDP", 22: "IDP",
    29: "TP", 33: "DCCP", 41: "IPV6", 43: "IPv6 routing", 44: "IPv6 fragment", 46: "RSVP", 47: "GRE", 50: "ESP",
    51: "AH", 58: "ICMPv6", 59: "no next header", 60: "IPv6 options", 88: "EIGRP", 89: "OSPF", 92: "MTP",
    94: "BEETPH", 97: "EtherIP", 98: "ENCAP", 103: "PIM", 108: "COMP", 112: "VRRP", 115: "L2TP", 132: "SCTP",
    133: "FC", 135: "MH", 136: "UDPLITE", 137: "MPLS", 139: "HIP", 143: "Ethernet", 255: "RAW",
}  # fmt: skip

_UNREACHABLE = 3
_FRAGMENTATION_NEEDED = 4
_REDIRECT = 5
_ICMP_TYPES = {
    3: "destination unreachable", 4: "source quench", 5: "redirect", 9: "router advertisement",
    10: "router solicitation", 11: "time exceeded", 12: "parameter problem", 13: "timestamp request",
    14: "timestamp reply",
}  # fmt: skip
_ICMP_CODES = {
    3: (
        "net unreachable", "host unreachable", "protocol unreachable", "port unreachable", "fragmentation needed",
        "source route failed", "net unknown", "host unknown", "source host isolated", "net prohibited",
        "host prohibited", "net unreachable for this service", "host unreachable for this service",
        "administratively prohibited", "precedence violation", "precedence cutoff",
    ),
    5: ("for the net", "for the host", "for the net and service", "for the host and service"),
    11: ("TTL exceeded", "reassembly timed out"),
}  # fmt: skip
_ICMP_ECHO = {8: "ping request", 0: "ping reply", 42: "ping request(ext)", 43: "ping reply(ext)"}
_PACKET_TOO_BIG = 2
_ICMPV6_TYPES = {
    1: "destination unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem",
    130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement", 137: "redirect", 143: "multicast listener report",
}  # fmt: skip
_ICMPV6_CODES = {
    1: (
        "no route", "administratively prohibited", "beyond the source's scope", "address unreachable",
        "port unreachable", "source address refused", "route refused",
    ),
    3: ("hop limit exceeded", "reassembly timed out"),
    4: ("wrong header field", "unknown next header", "unknown option"),
}  # fmt: skip
_ICMPV6_ECHO = {128: "ping request", 129: "ping reply", 160: "ping request(ext)", 161: "ping reply(ext)"}

# The letters in the order that users of the older programs know; the rarer ones after them.
TCP_FLAGS = ((0x02, "S"), (0x10, "A"), (0x08, "P"), (0x04, "R"), (0x01, "F"), (0x20, "U"), (0x40, "E"), (0x80, "C"))

_ARP_REQUEST = 1
_ARP_REPLY = 2

_ICMP_ERROR = event.TUNNELS.index("icmp")
# Tunnels whose number is always there, be it 0; and the word before it.
_TUNNEL_IDS = {"vxlan": "", "geneve": "", "gre": "key "}
# An IPv4 and a UDP header: no tunnel adds less to a packet without showing itself as one.
_LEAST_TUNNEL_BYTES = 28


@functools.lru_cache(maxsize=4096)
def packet_text(packet: Packet) -> str:
    """A packet's headers on one line."""
    if packet.flags & event.UNREAD:
        text = _UNREAD_NAMES.get(packet.l3_protocol) or _l3_text(packet.l3_protocol)
    elif packet.l3_protocol in _IP:
        text = _ip_text(packet)
    elif packet.l3_protocol in (_ETH_P_ARP, _ETH_P_RARP):
        text = _arp_text(packet)
    else:
        text = _l3_text(packet.l3_protocol)
    if packet.flags & event.FRAGMENT:
        text += f" frag:{packet.fragment_offset}"
    if packet.vlan_tci or packet.vlan_tci2:
        text += f" vlan:{packet.vlan_tci & 0xFFF}"
        if packet.vlan_tci2:
            text += f".{packet.vlan_tci2 & 0xFFF}"
    if packet.gso_size:
        # A guest or a program that handed the packet over may not have counted the segments.
        text += f" gso:{packet.gso_segs or '?'}x{packet.gso_size}"
    if packet.inner is not None:
        text += f" | {_tunnel_text(packet.inner)}{packet_text(packet.inner)}"
    return text


def _l3_text(protocol: int) -> str:
    if not protocol:
        return "unknown"
    return _L3_NAMES.get(protocol) or f"ether protocol: 0x{protocol:04x}"


def protocol_name(protocol: int) -> str:
    """The name of a protocol of layer 4, else its number."""
    return _L4_NAMES.get(protocol, str(protocol))


def flow(packet: Packet) -> Optional[tuple[str, str, str]]:
    """Protocol, source and target, with their ports if they have some; None of what is no IP packet."""
    if packet.flags & event.UNREAD or packet.l3_protocol not in _IP:
        return None
    return protocol_name(packet.l4_protocol), *_ends(packet)


def _tunnel_text(inner: Packet) -> str:
    """What an inner packet came in, where the outer headers do not say it."""
    name = event.TUNNELS[inner.tunnel]
    if name not in _TUNNEL_IDS:
        return ""
    if name == "gre" and not inner.tunnel_id:
        return "gre: "
    return f"{name} {_TUNNEL_IDS[name]}{inner.tunnel_id}: "


def _address(raw: bytes) -> str:
    return inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)


def _has_l4(packet: Packet) -> bool:
    """Whether the transport header was read; a later fragment has none, whatever its bytes look like."""
    return bool(packet.flags & event.HAS_L4) and not packet.fragment_offset


def _without_l4(packet: Packet) -> Packet:
    return packet._replace(flags=packet.flags & ~event.HAS_L4)


def _ip_text(packet: Packet) -> str:
    protocol = packet.l4_protocol
    name = protocol_name(protocol)
    if not _has_l4(packet):
        return f"{name}: {_address(packet.saddr)} -> {_address(packet.daddr)}"
    source, target = _ends(packet)
    ends = f"{name}: {source} -> {target}"
    if protocol == _TCP:
        return ends + _tcp_tail(packet.l4)
    if protocol == _ICMP and packet.l3_protocol == _ETH_P_IP:
        return ends + _icmp_tail(packet.l4, is_v6=False)
    if protocol == _ICMPV6:
        return ends + _icmp_tail(packet.l4, is_v6=True)
    if protocol in (_ESP, _AH):
        spi, sequence = event.SPI_L4.unpack(packet.l4)
        return f"{ends} spi:0x{spi:x} seq:0x{sequence:x}"
    return ends


def _ends(packet: Packet) -> tuple[str, str]:
    """Source and target, with their ports if they have some."""
    source, target = _address(packet.saddr), _address(packet.daddr)
    if packet.l4_protocol not in _WITH_PORTS or not _has_l4(packet):
        return source, target
    sport, dport = event.PORTS_L4.unpack(packet.l4)
    if packet.l3_protocol == _ETH_P_IPV6:
        return f"[{source}]:{sport}", f"[{target}]:{dport}"
    return f"{source}:{sport}", f"{target}:{dport}"


def _tcp_tail(l4: bytes) -> str:
    _, _, seq, ack, flags = event.TCP_L4.unpack(l4)
    letters = "".join(letter for bit, letter in TCP_FLAGS if flags & bit)
    return f" seq:{seq}, ack:{ack}, flags:{letters}"


def _icmp_tail(l4: bytes, *, is_v6: bool) -> str:
    kind, code, ident, sequence = event.ICMP_L4.unpack(l4)
    echoes = _ICMPV6_ECHO if is_v6 else _ICMP_ECHO
    if kind in echoes:
        if echoes[kind].endswith("(ext)"):
            sequence >>= 8  # RFC 8335: one byte, and flags in the other
        return f" {echoes[kind]}, seq: {sequence}, id: {ident}"
    name = (_ICMPV6_TYPES if is_v6 else _ICMP_TYPES).get(kind)
    codes = (_ICMPV6_CODES if is_v6 else _ICMP_CODES).get(kind, ())
    text = f" type: {kind}" + (f" ({name})" if name else "")
    text += f", code: {code}" + (f" ({codes[code]})" if code < len(codes) else "")
    # The four bytes that echoes have their id and sequence number in.
    if is_v6 and kind == _PACKET_TOO_BIG:
        text += f", mtu: {ident << 16 | sequence}"
    elif not is_v6 and (kind, code) == (_UNREACHABLE, _FRAGMENTATION_NEEDED):
        text += f", mtu: {sequence}"
    elif not is_v6 and kind == _REDIRECT:
        text += f", gateway: {_address(l4[4:8])}"
    return text


def _arp_text(packet: Packet) -> str:
    name = "ARP" if packet.l3_protocol == _ETH_P_ARP else "RARP"
    if not packet.flags & event.HAS_L4:
        return f"{name}: not for IPv4 over Ethernet"
    operation, sender_mac, _ = event.ARP_L4.unpack(packet.l4)
    sender, target = _address(packet.saddr), _address(packet.daddr)
    if operation == _ARP_REQUEST:
        return f"{name}: who has {target}, tell {sender}"
    if operation == _ARP_REPLY:
        return f"{name}: {sender} is at {':'.join(f'{byte:02X}' for byte in sender_mac)}"
    return f"{name}: operation {operation}, {sender} -> {target}"


def change_text(before: Packet, after: Packet) -> str:
    """What became of a packet that had other headers before: "NAT: ...", "encapsulated", "decapsulated" or nothing."""
    if before is after or (before.flags | after.flags) & event.FROM_SOCKET:
        return ""  # headers that were not built yet cannot have been changed
    if _has_l4(before) != _has_l4(after):
        before, after = _without_l4(before), _without_l4(after)
    deeper = _layers(after) - _layers(before)
    if deeper == 0:
        if _who(before) == _who(after):
            return ""
        # A tunnel that hides what it carries (WireGuard, a VXLAN on a port of its own) shows by the length. The
        # header of a local packet does not have it yet when it is first seen; skb->len may be off by a link header.
        grown = after.length - before.length
        if before.l3_length and after.l3_length:
            grown = after.l3_length - before.l3_length
        if abs(grown) >= _LEAST_TUNNEL_BYTES:
            deeper = grown
        elif (before.l3_protocol, before.l4_protocol) == (after.l3_protocol, after.l4_protocol):
            return _nat_text(before, after)
    if deeper > 0:
        return "encapsulated"
    return "decapsulated" if deeper < 0 else ""


def _layers(packet: Optional[Packet]) -> int:
    """How many headers that carry others a packet has."""
    layers = 0
    while packet is not None:
        is_ip = packet.l3_protocol in _IP
        inner = packet.inner if packet.inner is None or packet.inner.tunnel != _ICMP_ERROR else None
        if is_ip and packet.l4_protocol in (_ESP, _AH):
            layers += 1
        if inner is not None or packet.l3_protocol in _CARRYING_L3 or (is_ip and packet.l4_protocol in _CARRYING_L4):
            layers += 1
        packet = inner
    return layers


def _who(packet: Packet) -> tuple[object, ...]:
    """All that address translation may change, and the protocols."""
    ports = packet.l4[:4] if packet.l4_protocol in _WITH_PORTS and _has_l4(packet) else _ping_id(packet)
    return packet.l3_protocol, packet.l4_protocol, packet.saddr, packet.daddr, ports


def _ping_id(packet: Packet) -> Optional[int]:
    """The number that stands in for a port in pings."""
    echoes = {_ICMP: _ICMP_ECHO, _ICMPV6: _ICMPV6_ECHO}.get(packet.l4_protocol)
    if echoes is None or not _has_l4(packet) or packet.l4[0] not in echoes:
        return None
    return int.from_bytes(packet.l4[4:6], "big")


def _nat_text(before: Packet, after: Packet) -> str:
    names = ("source", "destination")
    parts = [f"{name} {old} -> {new}" for name, old, new in zip(names, _ends(before), _ends(after)) if old != new]
    old_id, new_id = _ping_id(before), _ping_id(after)
    if old_id != new_id:
        parts.append(f"id {old_id} -> {new_id}")
    return f"NAT: {', '.join(parts)}" if parts else ""
