"""Packets made by hand, for the tests of all that shows them."""

import struct
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Optional

from nettrace.event import Packet

IP, ARP, RARP, IPV6 = 0x0800, 0x0806, 0x8035, 0x86DD
ICMP, TCP, UDP, GRE, ESP, AH, ICMPV6 = 1, 6, 17, 47, 50, 51, 58
HAS_L4, FRAGMENT, FROM_SOCKET = 1, 2, 4


def packet(
    protocol: int,
    l4_protocol: int = 0,
    l4: Optional[bytes] = None,
    *,
    source: str = "10.0.0.1",
    target: str = "10.0.0.2",
    flags: int = 0,
    vlan_tci: int = 0,
    fragment_offset: int = 0,
    length: int = 98,
    l3_length: int = 84,
    **more: Any,
) -> Packet:
    """A packet; with l4, which is filled up with zeros, it has a transport header."""
    family = AF_INET6 if protocol == IPV6 else AF_INET
    return Packet(
        length=length, vlan_tci=vlan_tci, l3_protocol=protocol, l4_protocol=l4_protocol,
        flags=flags | (0 if l4 is None else HAS_L4), fragment_offset=fragment_offset, l3_length=l3_length,
        saddr=inet_pton(family, source), daddr=inet_pton(family, target), l4=(l4 or b"").ljust(16, b"\0"), **more,
    )  # fmt: skip


def ipv6(l4_protocol: int, l4: Optional[bytes] = None, **more: Any) -> Packet:
    return packet(IPV6, l4_protocol, l4, **{"source": "2001:db8::1", "target": "fe80::2", **more})


def tcp(flags: int, *, seq: int = 1, ack: int = 2) -> bytes:
    # The header length is in the upper four bits.
    return struct.pack(">HHIIH", 40000, 443, seq, ack, 0x5000 | flags)


def ports(sport: int, dport: int) -> bytes:
    return struct.pack(">HH", sport, dport)


def icmp(kind: int, code: int = 0, ident: int = 0x1234, sequence: int = 7) -> bytes:
    return struct.pack(">BBHHH", kind, code, 0, ident, sequence)


def arp(operation: int) -> bytes:
    return struct.pack(">H6s6s", operation, bytes.fromhex("02abcdef0001"), bytes.fromhex("020000000002"))


PING = packet(IP, ICMP, icmp(8))
PING_TEXT = "ICMP: 10.0.0.1 -> 10.0.0.2 ping request, seq: 7, id: 4660"
