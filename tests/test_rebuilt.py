"""Frames made of what is recorded of packets, against the frames that these were: what is known of them is true."""

import struct
from typing import Optional

import pytest

from nettrace import pcap, rebuilt
from nettrace.event import Packet
from tests import record_pcap

from . import headers
from .headers import AH, ARP, ESP, FRAGMENT, FROM_SOCKET, ICMP, ICMPV6, IP, TCP, UDP, packet
from .test_pcap import EXPECTED, FRAMES, ether, ipv4, ipv6, tcp, udp

UNREAD = 8
PING = struct.pack(">BBHHH", 8, 0, 0, 0x1234, 7)
ICMP_RECORDED = PING[:2] + b"\0\0" + PING[4:]


def of(name: str) -> Packet:
    """What is recorded of a packet of test_pcap, by its name there."""
    data = FRAMES[name]
    tags = []
    while data[12:14] in (b"\x81\x00", b"\x88\xa8"):
        tags.append(int.from_bytes(data[14:16], "big"))
        data = data[:12] + data[16:]
    network = data[14:]
    tci, tci2 = (*tags, 0, 0)[:2]
    if data[12:14] == b"\x08\x06":
        addresses = network[6:14] + network[18:24]
        return packet(ARP, 0, addresses, source="0.0.0.0", target="0.0.0.0", vlan_tci=tci, l3_length=0)
    if data[12:14] == b"\x86\xdd":
        size = struct.unpack(">H", network[4:6])[0] + 40
        return headers.ipv6(network[6], network[40:54], source="fd00::1", target="fd00::2", l3_length=size)
    at = (network[0] & 0xF) * 4
    fragment = struct.unpack(">H", network[6:8])[0]
    protocol = network[9]
    l4 = network[at : at + {TCP: 14, UDP: 4, ICMP: 8}[protocol]]
    if protocol == ICMP:
        l4 = l4[:2] + b"\0\0" + l4[4:]
    flags = FRAGMENT if fragment & 0x3FFF else 1
    size = struct.unpack(">H", network[2:4])[0]
    addresses = network[12:16], network[16:20]
    return Packet(len(data), tci, IP, protocol, flags, fragment << 3, size, *addresses, l4.ljust(16, b"\0"), tci2)


def rebuild(one: Packet) -> rebuilt.Frame:
    frame = rebuilt.frame(one)
    assert frame is not None and len(frame.data) == len(frame.unknown) <= frame.length
    return frame


def known(frame: rebuilt.Frame) -> list[int]:
    """The places of bytes that are known whole."""
    return [at for at, unknown in enumerate(frame.unknown) if not unknown]


CASES: dict[str, tuple[Packet, bytes, Optional[list[int]]]] = {
    "tcp": (
        packet(IP, TCP, tcp(1234, 80, 0x12)[:14], l3_length=60),
        ether(0x0800, ipv4(6, tcp(1234, 80, 0x12) + bytes(20))),
        [12, 13, 16, 17, 21, 23, *range(26, 48)],
    ),
    "udp": (
        packet(IP, UDP, udp(53, 7)[:4], l3_length=28), ether(0x0800, ipv4(17, udp(53, 7))),
        [12, 13, 16, 17, 21, 23, *range(26, 38)],
    ),
    "ping": (
        packet(IP, ICMP, ICMP_RECORDED, l3_length=28), ether(0x0800, ipv4(1, PING)),
        [12, 13, 16, 17, 21, 23, *range(26, 36), *range(38, 42)],
    ),
    "later fragment": (
        packet(IP, UDP, flags=FRAGMENT, fragment_offset=0x80, l3_length=120),
        ether(0x0800, ipv4(17, bytes(100), fragment=0x0010)), [12, 13, 16, 17, 21, 23, *range(26, 34)],
    ),
    "first fragment": (
        packet(IP, UDP, udp(53, 7)[:4], flags=FRAGMENT, l3_length=28),
        ether(0x0800, ipv4(17, udp(53, 7), fragment=0x2000)), [12, 13, 16, 17, 21, 23, *range(26, 38)],
    ),
    "esp": (
        packet(IP, ESP, bytes(range(8)), l3_length=44), ether(0x0800, ipv4(50, bytes(range(24)))), None,
    ),
    "ah": (
        packet(IP, AH, bytes(range(4, 12)), l3_length=44), ether(0x0800, ipv4(51, bytes(range(24)))),
        [12, 13, 16, 17, 21, 23, *range(26, 34), *range(38, 46)],
    ),
    "tcp6": (
        headers.ipv6(TCP, tcp(1234, 80, 2)[:14], source="fd00::1", target="fd00::2", l3_length=60),
        ether(0x86DD, ipv6(6, tcp(1234, 80, 2))), [12, 13, 18, 19, 20, *range(22, 68)],
    ),
    "ping6": (
        headers.ipv6(ICMPV6, ICMP_RECORDED, source="fd00::1", target="fd00::2", l3_length=48),
        ether(0x86DD, ipv6(58, PING)), None,
    ),
    "fragment6": (
        headers.ipv6(UDP, udp(53, 7)[:4], source="fd00::1", target="fd00::2", flags=FRAGMENT, l3_length=56),
        ether(0x86DD, ipv6(44, struct.pack(">BBHI", 17, 0, 1, 99) + udp(53, 7))),
        [12, 13, 18, 19, 20, *range(22, 55), 56, *range(62, 66)],
    ),
    "arp": (
        packet(ARP, 0, headers.arp(1), l3_length=0), ether(
            0x0806, struct.pack(">HHBB", 1, 0x0800, 6, 4) + headers.arp(1)[:8] + bytes([10, 0, 0, 1]) +
            headers.arp(1)[8:14] + bytes([10, 0, 0, 2]),
        ), [12, 13, *range(16, 42)],
    ),
    "odd arp": (packet(ARP, l3_length=0), ether(0x0806, bytes(8)), [12, 13]),
    "tag": (
        packet(IP, UDP, udp(53, 7)[:4], l3_length=28, vlan_tci=0x2005),
        ether(0x0800, ipv4(17, udp(53, 7)), (0x8100, 0x2005)), None,
    ),
    "two tags": (
        packet(IP, UDP, udp(53, 7)[:4], l3_length=28, vlan_tci=6, vlan_tci2=7),
        ether(0x0800, ipv4(17, udp(53, 7)), (0x88A8, 6), (0x8100, 7)), None,
    ),
    "what nettrace does not read": (packet(0x88CC, l3_length=0), ether(0x88CC, bytes(40)), [12, 13]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_of_a_frame_is_so(name: str) -> None:
    recorded, whole, places = CASES[name]
    frame = rebuild(recorded)
    assert len(frame.data) > 13
    for at, (data, unknown, real) in enumerate(zip(frame.data, frame.unknown, whole)):
        assert (data ^ real) & ~unknown == 0, at
    assert places is None or known(frame) == places
    assert frame.length in (len(whole), 1 << 33)


def test_what_has_no_headers_is_no_frame() -> None:
    assert rebuilt.frame(packet(IP, TCP, tcp(1, 2, 2)[:14], flags=FROM_SOCKET)) is None
    assert rebuilt.frame(packet(IP, flags=UNREAD)) is None


# What is not recorded: MAC addresses, TTL, TOS, checksums, how long the header and the frame are, and what follows.
NOT_RECORDED = {
    "greater 100", "ether src 02:00:00:00:00:01", "ether[6] = 2 and udp", "ip[0] / ip[8] = 1",
    "ip[2:2] - (ip[0] & 0xf) * 4 > 90", "ip[8] << 2 | 3 = 259", "ip[8] % 10 = 9", "ip[8] >> ip[1] = 69",
    "ip[2:2] + 14 = len", "udp[8:4] = 0x01020304", "udp[100] = 1",
}  # fmt: skip


@pytest.mark.parametrize("expression", EXPECTED)
def test_expressions_decide_as_for_the_packets_themselves(expression: str) -> None:
    l2, _ = record_pcap.load()[expression]
    matching, _ = EXPECTED[expression]
    # How much was there of a packet that was cut off, its recording does not tell.
    found = {name: pcap.decide(l2.instructions, rebuild(of(name))) for name in FRAMES if name != "cut"}
    assert {name for name, matches in found.items() if matches} == matching - {"cut"} or None in found.values()
    assert all(matches in (None, name in matching) for name, matches in found.items())
    assert (None in found.values()) == (expression in NOT_RECORDED)
