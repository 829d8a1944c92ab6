"""Headers as text, against what a user reads; and what is said of headers that changed."""

import struct
from typing import Any

import pytest

from nettrace.event import TUNNELS, Packet
from nettrace.packets import change_text, packet_text

from .headers import (
    AH,
    ARP,
    ESP,
    FRAGMENT,
    FROM_SOCKET,
    GRE,
    HAS_L4,
    ICMP,
    ICMPV6,
    IP,
    IPV6,
    PING,
    PING_TEXT,
    RARP,
    TCP,
    UDP,
    arp,
    icmp,
    ipv6,
    packet,
    ports,
    tcp,
)


@pytest.mark.parametrize(
    ("bits", "letters"),
    [
        (0x02, "S"), (0x12, "SA"), (0x10, "A"), (0x18, "AP"), (0x04, "R"), (0x14, "AR"), (0x01, "F"), (0x11, "AF"),
        (0x19, "APF"), (0x1F, "SAPRF"), (0x20, "U"), (0x40, "E"), (0x80, "C"), (0xFF, "SAPRFUEC"), (0xC2, "SEC"),
        (0x00, ""),
    ],
)  # fmt: skip
def test_tcp(bits: int, letters: str) -> None:
    text = packet_text(packet(IP, TCP, tcp(bits, seq=4294967295, ack=0)))
    assert text == f"TCP: 10.0.0.1:40000 -> 10.0.0.2:443 seq:4294967295, ack:0, flags:{letters}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (packet(IP, UDP, ports(53, 65535)), "UDP: 10.0.0.1:53 -> 10.0.0.2:65535"),
        (packet(IP, 136, ports(1, 2)), "UDPLITE: 10.0.0.1:1 -> 10.0.0.2:2"),
        (packet(IP, 132, ports(1, 2)), "SCTP: 10.0.0.1:1 -> 10.0.0.2:2"),
        (packet(IP, 33, ports(1, 2)), "DCCP: 10.0.0.1:1 -> 10.0.0.2:2"),
        (packet(IP, UDP), "UDP: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, TCP), "TCP: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, UDP, ports(53, 80), flags=FROM_SOCKET), "UDP: 10.0.0.1:53 -> 10.0.0.2:80"),
        (packet(IP, GRE), "GRE: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 4), "IPIP: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 2), "IGMP: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 41), "IPV6: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 89), "OSPF: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 112), "VRRP: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, 253), "253: 10.0.0.1 -> 10.0.0.2"),
        (packet(IP, ESP, struct.pack(">II", 0xC0FFEE, 16)), "ESP: 10.0.0.1 -> 10.0.0.2 spi:0xc0ffee seq:0x10"),
        (packet(IP, AH, struct.pack(">II", 1, 0xFF)), "AH: 10.0.0.1 -> 10.0.0.2 spi:0x1 seq:0xff"),
    ],
)
def test_transport_protocols(what: Packet, text: str) -> None:
    assert packet_text(what) == text


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (icmp(8), "ping request, seq: 7, id: 4660"),
        (icmp(0), "ping reply, seq: 7, id: 4660"),
        # RFC 8335: the sequence number has one byte, and flags follow.
        (icmp(42, sequence=0x0701), "ping request(ext), seq: 7, id: 4660"),
        (icmp(43, sequence=0x0744), "ping reply(ext), seq: 7, id: 4660"),
        # Only echoes have an id and a sequence number.
        (icmp(3, 1), "type: 3 (destination unreachable), code: 1 (host unreachable)"),
        (icmp(3, 3), "type: 3 (destination unreachable), code: 3 (port unreachable)"),
        (icmp(3, 13), "type: 3 (destination unreachable), code: 13 (administratively prohibited)"),
        (icmp(3, 16), "type: 3 (destination unreachable), code: 16"),
        # The MTU is in the last two of the four bytes that an echo's id and sequence number take.
        (
            icmp(3, 4, ident=0, sequence=1400),
            "type: 3 (destination unreachable), code: 4 (fragmentation needed), mtu: 1400",
        ),
        (icmp(11, 0), "type: 11 (time exceeded), code: 0 (TTL exceeded)"),
        (icmp(11, 1), "type: 11 (time exceeded), code: 1 (reassembly timed out)"),
        (icmp(5, 1, 0x0A00, 0x00FE), "type: 5 (redirect), code: 1 (for the host), gateway: 10.0.0.254"),
        (icmp(200, 9), "type: 200, code: 9"),
    ],
)
def test_icmp(what: bytes, text: str) -> None:
    assert packet_text(packet(IP, ICMP, what)) == f"ICMP: 10.0.0.1 -> 10.0.0.2 {text}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (icmp(128), "ping request, seq: 7, id: 4660"),
        (icmp(129), "ping reply, seq: 7, id: 4660"),
        (icmp(160, sequence=0x0701), "ping request(ext), seq: 7, id: 4660"),
        (icmp(161, sequence=0x0744), "ping reply(ext), seq: 7, id: 4660"),
        (icmp(135), "type: 135 (neighbour solicitation), code: 0"),
        (icmp(1, 0), "type: 1 (destination unreachable), code: 0 (no route)"),
        (icmp(1, 3), "type: 1 (destination unreachable), code: 3 (address unreachable)"),
        (icmp(1, 4), "type: 1 (destination unreachable), code: 4 (port unreachable)"),
        (icmp(3, 0), "type: 3 (time exceeded), code: 0 (hop limit exceeded)"),
        # All four bytes are the MTU.
        (icmp(2, ident=1, sequence=2), "type: 2 (packet too big), code: 0, mtu: 65538"),
        # Numbers that are echoes in ICMP are not in ICMPv6.
        (icmp(8), "type: 8, code: 0"),
        (icmp(0), "type: 0, code: 0"),
    ],
)
def test_icmpv6(what: bytes, text: str) -> None:
    assert packet_text(ipv6(ICMPV6, what)) == f"ICMPv6: 2001:db8::1 -> fe80::2 {text}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (ipv6(TCP, tcp(0x12)), "TCP: [2001:db8::1]:40000 -> [fe80::2]:443 seq:1, ack:2, flags:SA"),
        (ipv6(UDP, ports(53, 5353)), "UDP: [2001:db8::1]:53 -> [fe80::2]:5353"),
        (ipv6(UDP), "UDP: 2001:db8::1 -> fe80::2"),
        (ipv6(ESP, struct.pack(">II", 1, 2)), "ESP: 2001:db8::1 -> fe80::2 spi:0x1 seq:0x2"),
        (ipv6(59), "no next header: 2001:db8::1 -> fe80::2"),
        (ipv6(0), "HOPOPT: 2001:db8::1 -> fe80::2"),
        (packet(IPV6, UDP, source="::", target="::1"), "UDP: :: -> ::1"),
    ],
)
def test_ipv6(what: Packet, text: str) -> None:
    assert packet_text(what) == text


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (packet(ARP, 0, arp(1)), "ARP: who has 10.0.0.2, tell 10.0.0.1"),
        (packet(ARP, 0, arp(2)), "ARP: 10.0.0.1 is at 02:AB:CD:EF:00:01"),
        (packet(ARP, 0, arp(9)), "ARP: operation 9, 10.0.0.1 -> 10.0.0.2"),
        (packet(RARP, 0, arp(3)), "RARP: operation 3, 10.0.0.1 -> 10.0.0.2"),
        (packet(ARP), "ARP: not for IPv4 over Ethernet"),
    ],
)
def test_arp(what: Packet, text: str) -> None:
    assert packet_text(what) == text


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (PING._replace(vlan_tci=0x6007), f"{PING_TEXT} vlan:7"),  # with a priority
        (PING._replace(flags=HAS_L4 | FRAGMENT), f"{PING_TEXT} frag:0"),
        (packet(IP, ICMP, flags=FRAGMENT, fragment_offset=1480), "ICMP: 10.0.0.1 -> 10.0.0.2 frag:1480"),
        (
            ipv6(UDP, flags=FRAGMENT, fragment_offset=1448, vlan_tci=4094),
            "UDP: 2001:db8::1 -> fe80::2 frag:1448 vlan:4094",
        ),
        (packet(ARP, 0, arp(1), vlan_tci=7), "ARP: who has 10.0.0.2, tell 10.0.0.1 vlan:7"),
        # A port's bytes in a later fragment are the payload's.
        (packet(IP, UDP, ports(1, 2), flags=FRAGMENT, fragment_offset=8), "UDP: 10.0.0.1 -> 10.0.0.2 frag:8"),
        (packet(IP, UDP, ports(1, 2), flags=FRAGMENT), "UDP: 10.0.0.1:1 -> 10.0.0.2:2 frag:0"),
        (PING._replace(vlan_tci=100, vlan_tci2=0x600A), f"{PING_TEXT} vlan:100.10"),
        (PING._replace(vlan_tci2=10), f"{PING_TEXT} vlan:0.10"),
        (PING._replace(gso_size=1448, gso_segs=4), f"{PING_TEXT} gso:4x1448"),
        (PING._replace(gso_size=1448, vlan_tci=7), f"{PING_TEXT} vlan:7 gso:?x1448"),
        (PING._replace(gso_segs=1), PING_TEXT),
        (packet(0x88CC), "LLDP"),
        (packet(0x8864, vlan_tci=7), "PPPoE vlan:7"),
        (packet(0x8847), "MPLS"),
        (packet(0x88B5), "ether protocol: 0x88b5"),
        (packet(0x0060, vlan_tci=1), "ether protocol: 0x0060 vlan:1"),
        (packet(0), "unknown"),
    ],
)
def test_fragments_tags_and_other_protocols(what: Packet, text: str) -> None:
    assert packet_text(what) == text


def carried(tunnel: str, number: int = 0, what: Packet = PING) -> Packet:
    """A packet as the inner one of a tunnel, or of an ICMP error."""
    return what._replace(tunnel=TUNNELS.index(tunnel), tunnel_id=number)


VXLAN = packet(IP, UDP, ports(54321, 4789), inner=carried("vxlan", 42), l3_length=134)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (VXLAN, f"UDP: 10.0.0.1:54321 -> 10.0.0.2:4789 | vxlan 42: {PING_TEXT}"),
        (
            packet(IP, UDP, ports(1, 4789), vlan_tci=7, inner=carried("vxlan")._replace(vlan_tci=8)),
            f"UDP: 10.0.0.1:1 -> 10.0.0.2:4789 vlan:7 | vxlan 0: {PING_TEXT} vlan:8",
        ),
        (
            ipv6(UDP, ports(1, 6081), inner=carried("geneve", 0xABCDEF)),
            f"UDP: [2001:db8::1]:1 -> [fe80::2]:6081 | geneve 11259375: {PING_TEXT}",
        ),
        (packet(IP, GRE, inner=carried("gre", 5)), f"GRE: 10.0.0.1 -> 10.0.0.2 | gre key 5: {PING_TEXT}"),
        (packet(IP, GRE, inner=carried("gre")), f"GRE: 10.0.0.1 -> 10.0.0.2 | gre: {PING_TEXT}"),
        (packet(IP, 4, inner=carried("ip")), f"IPIP: 10.0.0.1 -> 10.0.0.2 | {PING_TEXT}"),
        (
            packet(IP, 41, inner=carried("ip", what=ipv6(UDP, ports(1, 2)))),
            "IPV6: 10.0.0.1 -> 10.0.0.2 | UDP: [2001:db8::1]:1 -> [fe80::2]:2",
        ),
        (
            packet(IP, ICMP, icmp(3, 3), inner=carried("icmp", what=packet(IP, UDP, ports(5, 9)))),
            "ICMP: 10.0.0.1 -> 10.0.0.2 type: 3 (destination unreachable), code: 3 (port unreachable)"
            " | UDP: 10.0.0.1:5 -> 10.0.0.2:9",
        ),
        # An error about a packet of a tunnel shows both.
        (
            packet(IP, ICMP, icmp(11), inner=carried("icmp", what=VXLAN)),
            "ICMP: 10.0.0.1 -> 10.0.0.2 type: 11 (time exceeded), code: 0 (TTL exceeded)"
            f" | UDP: 10.0.0.1:54321 -> 10.0.0.2:4789 | vxlan 42: {PING_TEXT}",
        ),
        (packet(IP, GRE, inner=carried("gre", what=packet(0))), "GRE: 10.0.0.1 -> 10.0.0.2 | gre: unknown"),
    ],
)
def test_inner_packets(what: Packet, text: str) -> None:
    assert packet_text(what) == text


def udp(**more: Any) -> Packet:
    return packet(IP, UDP, ports(4444, 53), **more)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (udp(), udp(source="10.9.9.9"), "NAT: source 10.0.0.1:4444 -> 10.9.9.9:4444"),
        (udp(), udp(target="10.9.9.9"), "NAT: destination 10.0.0.2:53 -> 10.9.9.9:53"),
        (udp(), packet(IP, UDP, ports(4445, 53)), "NAT: source 10.0.0.1:4444 -> 10.0.0.1:4445"),
        (
            udp(), packet(IP, UDP, ports(4444, 5353), source="10.0.0.3", target="127.0.0.1"),
            "NAT: source 10.0.0.1:4444 -> 10.0.0.3:4444, destination 10.0.0.2:53 -> 127.0.0.1:5353",
        ),
        (
            ipv6(TCP, tcp(2)), ipv6(TCP, tcp(2), target="2001:db8::9"),
            "NAT: destination [fe80::2]:443 -> [2001:db8::9]:443",
        ),
        (PING, packet(IP, ICMP, icmp(8), source="10.0.0.9"), "NAT: source 10.0.0.1 -> 10.0.0.9"),
        (
            PING, packet(IP, ICMP, icmp(8, ident=9), source="10.0.0.9"),
            "NAT: source 10.0.0.1 -> 10.0.0.9, id 4660 -> 9",
        ),
        # Of an error's packet, the four bytes are no id.
        (packet(IP, ICMP, icmp(5, 1, 0x0A00, 1)), packet(IP, ICMP, icmp(5, 1, 0x0A01, 1)), ""),
        # A fragment that was not the first has no ports to compare.
        (udp(), packet(IP, UDP, flags=FRAGMENT, fragment_offset=8), ""),
        (
            udp(flags=FRAGMENT), packet(IP, UDP, flags=FRAGMENT, fragment_offset=8, source="10.0.0.9"),
            "NAT: source 10.0.0.1 -> 10.0.0.9",
        ),
        # A local packet's header has no length yet; skb->len has the Ethernet header or not.
        (udp(l3_length=0, length=112), udp(source="10.0.0.9"), "NAT: source 10.0.0.1:4444 -> 10.0.0.9:4444"),
        (udp(l3_length=0), udp(source="10.0.0.9", length=112), "NAT: source 10.0.0.1:4444 -> 10.0.0.9:4444"),
        (udp(l3_length=0), udp(source="10.0.0.9", l3_length=144, length=158), "encapsulated"),
        # What else may change on a packet's way.
        (udp(), udp(vlan_tci=7), ""),
        (udp(), udp(l3_length=2000, gso_size=1448), ""),
        (packet(IP, TCP, tcp(2)), packet(IP, TCP, tcp(0x12, seq=9)), ""),
        (packet(ARP, 0, arp(1)), packet(ARP, 0, arp(2)), ""),
        # The socket knew no address yet.
        (udp(flags=FROM_SOCKET, source="0.0.0.0"), udp(), ""),
        (packet(0), udp(), ""),
    ],
)  # fmt: skip
def test_address_translation(before: Packet, after: Packet, text: str) -> None:
    assert change_text(before, after) == text


PLAIN = packet(IP, TCP, tcp(0x18), source="192.168.0.1", target="192.168.0.2")


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        (VXLAN, PING),
        # What carries UDP in UDP is no address translation.
        (packet(IP, UDP, ports(1, 4789), inner=carried("vxlan", 1, udp()), l3_length=134), udp(source="1.1.1.1")),
        (packet(IP, GRE, inner=carried("gre"), l3_length=108), PING),
        (packet(IP, 4, inner=carried("ip"), l3_length=104), PING),
        (packet(IP, 41, l3_length=104), ipv6(TCP, tcp(2))),  # the inner one could not be read
        # ESP between the same two addresses, and between gateways.
        (packet(IP, ESP, struct.pack(">II", 1, 2), l3_length=120), packet(IP, TCP, tcp(2))),
        (packet(IP, ESP, struct.pack(">II", 1, 2), l3_length=140), PLAIN),
        (packet(IP, AH, struct.pack(">II", 1, 2), l3_length=108), packet(IP, TCP, tcp(2))),
        (packet(0x8847), PING),
        (packet(0x8864), ipv6(UDP, ports(1, 2))),
        # Tunnels that cannot be looked into: WireGuard with UDP and TCP inside.
        (packet(IP, UDP, ports(51820, 51820), l3_length=144), udp(source="1.1.1.1")),
        (packet(IP, UDP, ports(51820, 51820), l3_length=144), PLAIN),
        # A tunnel in a tunnel.
        (packet(IP, GRE, inner=carried("gre", what=VXLAN), l3_length=160), VXLAN),
    ],
)
def test_tunnels_are_entered_and_left(outside: Packet, inside: Packet) -> None:
    assert change_text(inside, outside) == "encapsulated"
    assert change_text(outside, inside) == "decapsulated"


def test_translation_outside_of_a_tunnel() -> None:
    translated = VXLAN._replace(saddr=bytes([10, 9, 9, 9]))
    assert change_text(VXLAN, translated) == "NAT: source 10.0.0.1:54321 -> 10.9.9.9:54321"


def test_an_icmp_error_is_no_tunnel() -> None:
    error = packet(IP, ICMP, icmp(3, 3), inner=carried("icmp", what=udp()))
    assert change_text(error, error._replace(daddr=bytes([10, 9, 9, 9]))) == "NAT: destination 10.0.0.2 -> 10.9.9.9"
    assert change_text(error._replace(inner=None), error) == ""
