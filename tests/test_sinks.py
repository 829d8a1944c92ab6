"""Every form of line, against the text that a user reads."""

import io
import os
import struct
import time
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Optional

import pytest

from nettrace.event import Context, Detail, Drop, Event, Packet
from nettrace.plan import Plan, Probe, Program, Skipped
from nettrace.sinks import Summary, Text, packet_text, tree_text
from nettrace.tree import Group, Trace, Tree

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
) -> Packet:
    """A packet; with l4, which is filled up with zeros, it has a transport header."""
    family = AF_INET6 if protocol == IPV6 else AF_INET
    return Packet(
        length=98, vlan_tci=vlan_tci, l3_protocol=protocol, l4_protocol=l4_protocol,
        flags=flags | (0 if l4 is None else HAS_L4), fragment_offset=fragment_offset, l3_length=84,
        saddr=inet_pton(family, source), daddr=inet_pton(family, target), l4=(l4 or b"").ljust(16, b"\0"),
    )  # fmt: skip


def ipv6(l4_protocol: int, l4: Optional[bytes] = None, **more: Any) -> Packet:
    return packet(IPV6, l4_protocol, l4, source="2001:db8::1", target="fe80::2", **more)


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
        (icmp(3, 1), "type: 3 (destination unreachable), code: 1"),
        (icmp(11, 0), "type: 11 (time exceeded), code: 0"),
        (icmp(5, 1), "type: 5 (redirect), code: 1"),
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
        (icmp(2), "type: 2 (packet too big), code: 0"),
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
        (packet(0x88CC), "ether protocol: 0x88cc"),
        (packet(0x0060, vlan_tci=1), "ether protocol: 0x0060 vlan:1"),
        (packet(0), "unknown"),
    ],
)
def test_fragments_tags_and_other_protocols(what: Packet, text: str) -> None:
    assert packet_text(what) == text


def shown(
    *events: Event, detail: bool = False, wall_offset_ns: Optional[int] = None, context: Optional[Context] = None
) -> str:
    out = io.StringIO()
    sink = Text(
        out, location=lambda address: f"at-{address:x}", reason=lambda value: f"REASON_{value}", detail=detail,
        wall_offset_ns=wall_offset_ns,
    )  # fmt: skip
    if context is None:
        sink.events(events)
    else:
        sink.context(context)
    return out.getvalue()


SKB = 0xFFFF88810A0B0C00
RECEIVED = Event(12_000_345_678, "ip_rcv", SKB, PING)


def test_a_line() -> None:
    assert shown(RECEIVED) == f"[12.000345] [ip_rcv              ] {PING_TEXT}\n"


def test_several_lines() -> None:
    later = RECEIVED._replace(time_ns=13_999_999_999, trace="ip_local_deliver_finish")
    assert shown(RECEIVED, later) == (
        f"[12.000345] [ip_rcv              ] {PING_TEXT}\n[13.999999] [ip_local_deliver_finish] {PING_TEXT}\n"
    )
    assert shown() == ""


def test_times_below_a_second() -> None:
    assert shown(RECEIVED._replace(time_ns=1_999)).startswith("[0.000001] ")


@pytest.mark.parametrize(
    ("detail", "columns"),
    [
        (
            Detail(cpu=3, pid=4242, comm="curl", ifindex=2, ifname="eth0", netns=4026531840),
            "[cpu:3  ][eth0 ][curl-4242][ns:4026531840]",
        ),
        (
            Detail(cpu=127, pid=0, comm="swapper/127", ifindex=0, ifname="", netns=0),
            "[cpu:127][     ][swapper/127-0][ns:0]",
        ),
        # A process may call itself anything.
        (
            Detail(cpu=0, pid=1, comm="a\n[\x1b[2J\x7f", ifindex=1, ifname="e\x1b0", netns=1),
            "[cpu:0  ][e\\x1b0][a\\n[\\x1b[2J\\x7f-1][ns:1]",
        ),
        (
            Detail(cpu=0, pid=1, comm="Web Cönt\u202e", ifindex=1, ifname="wlp0s20f3", netns=1),
            "[cpu:0  ][wlp0s20f3][Web Cönt\\u202e-1][ns:1]",
        ),
    ],
)
def test_detail(detail: Detail, columns: str) -> None:
    line = RECEIVED._replace(detail=detail)
    assert shown(line, detail=True) == f"[12.000345] [0a0b0c00][ip_rcv              ]{columns} {PING_TEXT}\n"
    assert shown(line) == shown(RECEIVED)


def test_detail_where_the_kernel_sent_none() -> None:
    assert shown(RECEIVED, detail=True) == shown(RECEIVED)


@pytest.fixture
def kolkata() -> Iterator[None]:
    """A time zone with half an hour in it."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "IST-5:30"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_dates(kolkata: None) -> None:
    # 1,000,000,000 s after 1970 it was 01:46:40 in Greenwich, on September 9th, 2001.
    offset_ns = 1_000_000_000 * 10**9 - 12 * 10**9
    assert shown(RECEIVED, wall_offset_ns=offset_ns) == (
        f"[2001-09-09 07:16:40.000345] [ip_rcv              ] {PING_TEXT}\n"
    )
    # The sum's microseconds, not those of either.
    assert shown(RECEIVED, wall_offset_ns=offset_ns + 999_654_322).startswith("[2001-09-09 07:16:41.000000] ")


@pytest.mark.parametrize(
    ("drop", "note"),
    [
        (Drop(0xABCD, None), "*at-abcd*"),
        (Drop(0xABCD, 2), "*reason: REASON_2, at-abcd*"),
        (Drop(0xABCD, 0), "*reason: REASON_0, at-abcd*"),
    ],
)
def test_drops(drop: Drop, note: str) -> None:
    line = RECEIVED._replace(trace="kfree_skb", drop=drop)
    assert shown(line) == f"[12.000345] [kfree_skb           ] {PING_TEXT} {note}\n"


def block(*events: Event, skbs: tuple[int, ...] = (SKB,), unfinished: bool = False, missing: bool = False) -> str:
    return shown(context=Context(7, skbs, events, unfinished, missing))


def test_a_packets_block() -> None:
    clone = RECEIVED._replace(time_ns=12_000_400_000, trace="tpacket_rcv", skb=SKB + 0x100)
    assert block(RECEIVED, clone, skbs=(SKB, SKB + 0x100)) == (
        "***************** 0a0b0c00,0a0b0d00 ***************\n"
        f"[12.000345] [ip_rcv              ] {PING_TEXT}\n"
        f"[12.000400] [tpacket_rcv         ] {PING_TEXT}\n"
        "\n"
    )


@pytest.mark.parametrize(
    ("unfinished", "missing", "marks"),
    [
        (False, True, "(incomplete: part of this packet's path was lost)\n"),
        (True, False, "(unfinished: this packet was not seen to be freed)\n"),
        (
            True, True,
            "(incomplete: part of this packet's path was lost)\n(unfinished: this packet was not seen to be freed)\n",
        ),
    ],
)  # fmt: skip
def test_marks_of_a_block(unfinished: bool, missing: bool, marks: str) -> None:
    assert block(RECEIVED, unfinished=unfinished, missing=missing) == (
        f"***************** 0a0b0c00 ***************\n[12.000345] [ip_rcv              ] {PING_TEXT}\n{marks}\n"
    )


def test_a_block_without_events() -> None:
    assert block(missing=True) == (
        "***************** 0a0b0c00 ***************\n(incomplete: part of this packet's path was lost)\n\n"
    )
    assert block() == "***************** 0a0b0c00 ***************\n\n"


class Counting(io.StringIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_what_is_written_is_seen_when_the_batch_is_done() -> None:
    out = Counting()
    sink = Text(out, location=hex, reason=str)
    sink.note("begin trace...")
    assert (out.getvalue(), out.flushes) == ("begin trace...\n", 1)
    sink.events([RECEIVED])
    sink.context(Context(7, (SKB,), (RECEIVED,), False, False))
    assert out.flushes == 1
    sink.flush()
    assert out.flushes == 2


def trace(name: str, tracepoint: Optional[str] = None) -> Trace:
    return Trace(
        name=name, desc=f"the packet is at {name}", group="g", functions=() if tracepoint else (name,),
        tracepoint=tracepoint, skb=0, sk=None, deref=False, match=False, role=None, default=True,
    )  # fmt: skip


def test_the_tree() -> None:
    enters, cloned, renamed, absent = trace("enters", "net:enters"), trace("cloned"), trace("renamed"), trace("absent")
    inner = Group("inner", "below", (), (renamed, absent), default=False)
    root = Group("all", "all traces", (Group("outer", "above", (inner,), (enters, cloned), default=True),), (), True)
    plan = Plan(
        probes=(
            Probe(enters, "enters", Program("tracepoint")),
            Probe(cloned, "cloned", Program("kprobe", clones=True)),
            Probe(cloned, "cloned", Program("clone_return")),
            Probe(renamed, "renamed.isra.0", Program("kprobe")),
        ),
        skipped=(Skipped(absent, "this kernel has no such function"),),
        tracepoints=(enters,),
    )
    assert tree_text(Tree(root), plan) == (
        "all: all traces\n"
        "    outer: above\n"
        "        - enters: the packet is at enters [tracepoint enters]\n"
        "        - cloned: the packet is at cloned [function cloned]\n"
        "        inner: below (off unless asked for)\n"
        "            - renamed: the packet is at renamed [function renamed.isra.0]\n"
        "            - absent: the packet is at absent [missing: this kernel has no such function]\n"
        "3 of 4 traces can be attached on this kernel\n"
    )


QUIET = Summary(
    unit="packets", shown=3, events=40, lost_messages=(0, 0), lost_packets=0, unread_messages=0, missed_hits=0,
    untracked=0, evicted=0, unfinished=0, incomplete=0, skipped=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "3 packets, 40 events, 0 messages lost, 0 unfinished, 0 traces skipped"),
        ({"unit": "events", "shown": 40}, "40 events, 0 messages lost, 0 unfinished, 0 traces skipped"),
        (
            {"lost_messages": (0, 2, 0, 5)},
            "3 packets, 40 events, 7 messages lost (cpu1: 2, cpu3: 5), 0 unfinished, 0 traces skipped",
        ),
        (
            {"skipped": 2, "incomplete": 1, "unfinished": 4},
            "3 packets, 40 events, 0 messages lost, 4 unfinished, 1 incomplete, 2 traces skipped (-v tells why)",
        ),
        (
            {"lost_packets": 1, "unread_messages": 5, "missed_hits": 2, "untracked": 3, "evicted": 4},
            "3 packets, 40 events, 0 messages lost, 1 packets lost whole, 5 messages left unread, "
            "2 hits missed, "
            "3 packets not followed for want of room, 4 skbs pushed out of the tracking map, "
            "0 unfinished, 0 traces skipped",
        ),
    ],
)
def test_the_closing_line(changes: dict[str, Any], text: str) -> None:
    values = {**QUIET.__dict__, **changes}
    assert Summary(**values).text(verbose=False) == text
    assert Summary(**values).text(verbose=True) == text.replace(" (-v tells why)", "")
