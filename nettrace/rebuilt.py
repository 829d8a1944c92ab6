"""Recorded headers as bytes again: an Ethernet frame, with what is known of it."""

import struct
from typing import NamedTuple, Optional

from .event import FRAGMENT, FROM_SOCKET, HAS_L4, UNREAD, Packet

_IP, _IPV6, _ARP, _RARP, _VLAN, _QINQ = 0x0800, 0x86DD, 0x0806, 0x8035, 0x8100, 0x88A8
_FRAGMENT_HEADER, _AH = 44, 51
_IPV4_HEADER, _IPV6_HEADER = struct.Struct(">BBHHHBBH"), struct.Struct(">IHBB")
_MORE_FRAGMENTS = 0x2000
# What is known of a transport header, as Frame has it.
_PORTS = bytes(4)
_ECHO = b"\0\0\xff\xff\0\0\0\0"  # all but the checksum
_L4_UNKNOWN = {6: bytes(14), **dict.fromkeys((17, 33, 132, 136), _PORTS), 50: bytes(8), 1: _ECHO, 58: _ECHO}
_ENDLESS = 1 << 33


class Frame(NamedTuple):
    """The first bytes of a frame, the bits of them that are not known, and where it ends."""

    data: bytes
    unknown: bytes
    length: int


# Some bytes, and the bits of them that are not known.
_Part = tuple[bytes, bytes]


def frame(packet: Packet) -> Optional[Frame]:
    """The packet as if it had no IP options and no extension header but for fragments; None: it had no headers yet."""
    if packet.flags & (UNREAD | FROM_SOCKET):
        return None
    tags = [tci for tci in (packet.vlan_tci, packet.vlan_tci2) if tci]
    types = [_QINQ, _VLAN] if len(tags) == 2 else [_VLAN] * len(tags)
    link = [_gap(12), *(_known(struct.pack(">HH", *tag)) for tag in zip(types, tags))]
    link.append(_known(packet.l3_protocol.to_bytes(2, "big")))
    parts = [*link, *_network(packet)]
    data, unknown = (b"".join(each) for each in zip(*parts))
    length = sum(len(part) for part, _ in link) + packet.l3_length if packet.l3_length else _ENDLESS
    return Frame(data[:length], unknown[:length], length)


def _known(data: bytes) -> _Part:
    return data, bytes(len(data))


def _gap(size: int) -> _Part:
    return bytes(size), b"\xff" * size


def _network(packet: Packet) -> list[_Part]:
    if packet.l3_protocol == _IP:
        return [*_ipv4(packet), *_transport(packet)]
    if packet.l3_protocol == _IPV6:
        return [*_ipv6(packet), *_transport(packet)]
    if packet.l3_protocol in (_ARP, _RARP) and packet.flags & HAS_L4:
        operation, sender, target = packet.l4[:2], packet.l4[2:8], packet.l4[8:14]
        return [_gap(2), _known(b"\x08\x00\x06\x04" + operation + sender + packet.saddr + target + packet.daddr)]
    return []


def _ipv4(packet: Packet) -> list[_Part]:
    offset = packet.fragment_offset >> 3
    more = _MORE_FRAGMENTS if packet.flags & FRAGMENT and not offset else 0
    header = _IPV4_HEADER.pack(0x45, 0, packet.l3_length, 0, more | offset, 0, packet.l4_protocol, 0)
    fragment_unknown = 0xC000 | (_MORE_FRAGMENTS if offset else 0)
    length_unknown = 0 if packet.l3_length else 0xFFFF
    unknown = _IPV4_HEADER.pack(0x0F, 0xFF, length_unknown, 0xFFFF, fragment_unknown, 0xFF, 0, 0xFFFF)
    return [(header, unknown), _known(packet.saddr + packet.daddr)]


def _ipv6(packet: Packet) -> list[_Part]:
    following = _FRAGMENT_HEADER if packet.flags & FRAGMENT else packet.l4_protocol
    header = _IPV6_HEADER.pack(6 << 28, max(0, packet.l3_length - 40), following, 0)
    unknown = _IPV6_HEADER.pack(0x0FFFFFFF, 0 if packet.l3_length else 0xFFFF, 0, 0xFF)
    parts = [(header, unknown), _known(packet.saddr + packet.daddr)]
    if packet.flags & FRAGMENT:
        fragment = struct.pack(">BBHI", packet.l4_protocol, 0, packet.fragment_offset, 0)
        parts.append((fragment, struct.pack(">BBHI", 0, 0xFF, 0x7, 0xFFFFFFFF)))
    return parts


def _transport(packet: Packet) -> list[_Part]:
    if not packet.flags & HAS_L4 or packet.fragment_offset:
        return []
    if packet.l4_protocol == _AH:
        return [_gap(4), _known(packet.l4[:8])]
    unknown = _L4_UNKNOWN.get(packet.l4_protocol, b"")
    return [(packet.l4[: len(unknown)], unknown)]
