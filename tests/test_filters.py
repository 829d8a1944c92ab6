"""The packet filter: what is taken, what is refused, and the constants it becomes."""

import dataclasses
import socket
import struct
from typing import Any, Callable, Optional

import pytest

from nettrace import event, filters
from nettrace.errors import UsageError
from nettrace.filters import PacketFilter, parse
from tests.native import Native, needs_compiler


def words(prefix: str, family: int, address: str, letter: str = "W") -> dict[str, int]:
    """The constants of an address, as the kernel's own byte order would have them in memory."""
    packed = socket.inet_pton(family, address).ljust(16, b"\0")
    return {f"{prefix}_{letter}{i}": struct.unpack_from("<I", packed, 4 * i)[0] for i in range(4)}


def asked(*conditions: str) -> dict[str, int]:
    return {"FILTER_ASKED": sum(filters.CONDITIONS[name] for name in conditions)}


def test_nothing_asked_for() -> None:
    empty = parse()
    assert empty.is_empty
    assert empty == PacketFilter()
    assert empty.constants() == {}
    assert empty.numbers() == dict.fromkeys(filters.NUMBERS, 0)
    assert not any(empty.shape.values())


NARROWING: dict[str, Any] = {
    "saddr": "10.0.0.1",
    "daddr": "10.0.0.0/8",
    "addr": "::1",
    "sport": "1",
    "dport": "2-3",
    "port": "3",
    "proto": "tcp",
    "tcp_flags": "S",
    "pkt_len": "40",
    "pid": "1",
    "comm": "ping",
    "netns": 0xF0000001,
    "iface": "lo",
    "mark": "0",
    "expression": "tcp",
    "filter_srtt": "10",
    "filter_minrtt": "10",
}
NOT_NARROWING: dict[str, Any] = {"inner": True, "min_latency": "1", "rate_limit": "1"}


def test_each_condition_makes_it_not_empty() -> None:
    for option, word in NARROWING.items():
        assert not parse(**{option: word}).is_empty, option
    # An address of zeros is a condition too: DHCP clients send from it.
    assert not parse(saddr="0.0.0.0").is_empty


def test_what_chooses_no_packets_leaves_it_empty() -> None:
    for option, word in NOT_NARROWING.items():
        packet_filter = parse(**{option: word})
        assert packet_filter.is_empty
        assert packet_filter != PacketFilter()


def test_all_options_are_tried() -> None:
    assert {*NARROWING, *NOT_NARROWING} == parse.__kwdefaults__.keys()


@pytest.mark.parametrize(("word", "us"), [("10", 10_000), ("0.5", 500), ("200us", 200), ("1.5s", 1_500_000)])
def test_round_trips_are_in_milliseconds_unless_they_say_otherwise(word: str, us: int) -> None:
    assert parse(filter_srtt=word, filter_minrtt="1us").constants() == {
        **asked("SRTT", "MINRTT"),
        "FILTER_SRTT_US": us,
        "FILTER_MINRTT_US": 1,
    }


@pytest.mark.parametrize("word", ["0", "-1", "10m", "999ns", "5000s", "", "x"])
def test_what_is_no_round_trip(word: str) -> None:
    for option in ("filter_srtt", "filter_minrtt"):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: '{word}' is not"):
            parse(**{option: word})


def test_ipv4_constants() -> None:
    assert parse(saddr="192.168.1.2").constants() == {
        **asked("SADDR", "IPV4"),
        **words("FILTER_SADDR", socket.AF_INET, "255.255.255.255", "M"),
        "FILTER_SADDR_W0": 0x0201A8C0,
        "FILTER_SADDR_W1": 0,
        "FILTER_SADDR_W2": 0,
        "FILTER_SADDR_W3": 0,
    }


def test_ipv6_constants() -> None:
    assert parse(daddr="2001:db8::1").constants() == {
        **asked("DADDR", "IPV6"),
        **words("FILTER_DADDR", socket.AF_INET6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "M"),
        **words("FILTER_DADDR", socket.AF_INET6, "2001:db8::1"),
    }


def test_prefixes_become_masks() -> None:
    assert parse(daddr="10.128.0.0/9").constants() == {
        **asked("DADDR", "IPV4"),
        **words("FILTER_DADDR", socket.AF_INET, "10.128.0.0"),
        **words("FILTER_DADDR", socket.AF_INET, "255.128.0.0", "M"),
    }
    assert parse(addr="fc00::/7", saddr="::/0").constants() == {
        **asked("ADDR", "SADDR", "IPV6"),
        **words("FILTER_SADDR", socket.AF_INET6, "::"),
        **words("FILTER_SADDR", socket.AF_INET6, "::", "M"),
        **words("FILTER_ADDR", socket.AF_INET6, "fc00::"),
        **words("FILTER_ADDR", socket.AF_INET6, "fe00::", "M"),
    }
    # A prefix of all bits is an address.
    assert parse(saddr="10.0.0.1/32") == parse(saddr="10.0.0.1")
    assert parse(saddr="fd00::1/128") == parse(saddr="fd00::1")


def test_constants_of_everything() -> None:
    packet_filter = parse(
        saddr="10.0.0.1",
        daddr="10.0.0.2",
        addr="10.0.0.1",
        sport="1024",
        dport="65535",
        port="80-1024",
        proto="TCP",
        tcp_flags="sA!",
        pkt_len="40-1500",
        pid="4711",
        comm="ping",
        netns=4026531840,
        iface="eth0",
        mark="0x10/0xff",
        expression="tcp",
        inner=True,
        min_latency="1.5ms",
        rate_limit="100",
    )
    assert packet_filter.constants() == {
        **asked(
            "SADDR",
            "DADDR",
            "ADDR",
            "IPV4",
            "SPORT",
            "DPORT",
            "PORT",
            "L4",
            "TCP_FLAGS",
            "TCP_FLAGS_EXACT",
            "LEN",
            "TGID",
            "COMM",
            "NETNS",
            "IFNAME",
            "MARK",
            "MIN_LATENCY",
        ),
        **words("FILTER_SADDR", socket.AF_INET, "255.255.255.255", "M"),
        **words("FILTER_DADDR", socket.AF_INET, "255.255.255.255", "M"),
        **words("FILTER_ADDR", socket.AF_INET, "255.255.255.255", "M"),
        **words("FILTER_SADDR", socket.AF_INET, "10.0.0.1"),
        **words("FILTER_DADDR", socket.AF_INET, "10.0.0.2"),
        **words("FILTER_ADDR", socket.AF_INET, "10.0.0.1"),
        "FILTER_SPORT_MIN": 1024,
        "FILTER_SPORT_MAX": 1024,
        "FILTER_DPORT_MIN": 65535,
        "FILTER_DPORT_MAX": 65535,
        "FILTER_PORT_MIN": 80,
        "FILTER_PORT_MAX": 1024,
        "FILTER_L4": 6,
        "FILTER_TCP_FLAGS": 0x12,
        "FILTER_LEN_MIN": 40,
        "FILTER_LEN_MAX": 1500,
        "FILTER_TGID": 4711,
        "FILTER_COMM_W0": 0x676E6970,
        "FILTER_COMM_W1": 0,
        "FILTER_COMM_W2": 0,
        "FILTER_COMM_W3": 0,
        "FILTER_NETNS": 4026531840,
        "FILTER_IFNAME_W0": 0x30687465,
        "FILTER_IFNAME_W1": 0,
        "FILTER_IFNAME_W2": 0,
        "FILTER_IFNAME_W3": 0,
        "FILTER_IFNAME_M0": 0xFFFFFFFF,
        "FILTER_IFNAME_M1": 0xFF,
        "FILTER_IFNAME_M2": 0,
        "FILTER_IFNAME_M3": 0,
        "FILTER_MARK": 0x10,
        "FILTER_MARK_MASK": 0xFF,
        "MIN_LATENCY_NS": 1_500_000,
        "RATE_LIMIT": 100,
    }
    assert packet_filter.numbers() == {**dict.fromkeys(filters.NUMBERS, 0), **packet_filter.constants()}
    assert all(packet_filter.shape.values())


@pytest.mark.parametrize(
    ("word", "mask"),
    [("S", 0x02), ("a", 0x10), ("P", 0x08), ("R", 0x04), ("F", 0x01), ("U", 0x20), ("E", 0x40), ("C", 0x80)],
)
def test_tcp_flags(word: str, mask: int) -> None:
    assert parse(tcp_flags=word).constants() == {**asked("TCP_FLAGS"), "FILTER_TCP_FLAGS": mask}
    assert parse(tcp_flags=f"{word}{word}!").constants() == {
        **asked("TCP_FLAGS", "TCP_FLAGS_EXACT"),
        "FILTER_TCP_FLAGS": mask,
    }


@pytest.mark.parametrize(
    ("word", "nanoseconds"),
    [
        ("1", 1_000),
        ("1.5", 1_500),
        ("0.001", 1),
        ("200us", 200_000),
        ("1.5ms", 1_500_000),
        ("2s", 2_000_000_000),
        ("7ns", 7),
        ("3MS", 3_000_000),
        ("0.1s", 100_000_000),
    ],
)
def test_latencies(word: str, nanoseconds: int) -> None:
    assert parse(min_latency=word).constants() == {**asked("MIN_LATENCY"), "MIN_LATENCY_NS": nanoseconds}


@pytest.mark.parametrize(
    ("word", "value", "mask"),
    [
        ("1", 1, 0xFFFFFFFF),
        ("0", 0, 0xFFFFFFFF),
        ("0x10/0x10", 16, 16),
        ("0/0xf", 0, 15),
        ("4294967295", 2**32 - 1, 2**32 - 1),
    ],
)
def test_marks(word: str, value: int, mask: int) -> None:
    assert parse(mark=word).constants() == {
        **asked("MARK"),
        "FILTER_MARK": value,
        "FILTER_MARK_MASK": mask,
    }


def test_a_long_name_of_a_task_is_cut_as_the_kernel_does() -> None:
    assert parse(comm="a-name-of-more-than-15-bytes") == parse(comm="a-name-of-more-")
    assert parse(comm="a-name-of-more-") != parse(comm="a-name-of-more")


@pytest.mark.parametrize(
    ("word", "l3", "l4"),
    [
        ("ip", 0x0800, None),
        ("IPv4", 0x0800, None),
        ("ipv6", 0x86DD, None),
        ("ip6", 0x86DD, None),
        ("ARP", 0x0806, None),
        ("tcp", None, 6),
        (" Udp ", None, 17),
        ("icmp", None, 1),
        ("icmp6", None, 58),
        ("sctp", None, 132),
        ("6", None, 6),
        ("0", None, 0),
        ("255", None, 255),
        ("0x11", None, 17),
        ("253", None, 253),
        ("0x86DD", 0x86DD, None),
        ("2048", 0x0800, None),
        ("0x0600", 0x0600, None),
        ("0xffff", 0xFFFF, None),
    ],
)
def test_protocols(word: str, l3: Optional[int], l4: Optional[int]) -> None:
    packet_filter = parse(proto=word)
    assert (packet_filter.l3, packet_filter.l4) == (l3, l4)


def test_no_protocol_is_in_both_tables() -> None:
    assert not filters.L3_PROTOCOLS.keys() & filters.L4_PROTOCOLS.keys()


def test_l4_numbers_are_those_of_the_system() -> None:
    for name in ("icmp", "igmp", "tcp", "udp", "gre", "esp", "ah", "icmpv6", "pim", "sctp", "udplite", "mpls", "raw"):
        constant = getattr(socket, f"IPPROTO_{name.upper()}", None)
        assert constant in (None, filters.L4_PROTOCOLS[name])


@pytest.mark.parametrize(
    "options",
    [
        {"proto": "arp", "addr": "10.0.0.1"},
        {"proto": "rarp", "addr": "10.0.0.1"},
        {"proto": "ip", "addr": "10.0.0.1"},
        {"proto": "ipv6", "addr": "::1", "port": "53"},
        {"proto": "ip", "port": "53"},
        {"proto": "tcp", "addr": "::1"},
        {"proto": "icmp", "addr": "10.0.0.1"},
        {"proto": "icmpv6", "addr": "fe80::1"},
        {"proto": "udplite", "sport": "1"},
        {"proto": "sctp", "dport": "1"},
        {"proto": "dccp", "port": "1"},
        {"saddr": "::1", "daddr": "::2"},
        {"proto": "6", "port": "80", "tcp_flags": "S"},
        {"proto": "0x800", "port": "80", "tcp_flags": "S", "pkt_len": "40"},
        {"proto": "0x806", "addr": "10.0.0.1"},
        {"proto": "200", "addr": "::1", "pkt_len": "100"},
        {"proto": "udp", "pkt_len": "100-200"},
        {"proto": "ipv6", "tcp_flags": "R"},
        {"saddr": "10.0.0.0/8", "daddr": "192.168.0.0/16", "addr": "10.1.0.0/16"},
        {"sport": "1-100", "dport": "200", "port": "100-150"},
        {"iface": "a-name-of-15-by"},
        {"comm": "with a space"},
        {"pid": "4194304"},
        {"sport": "80-80"},
    ],
)
def test_allowed(options: dict[str, str]) -> None:
    assert parse(**options) != PacketFilter()


def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert parse(addr="::ffff:10.0.0.1") == parse(addr="10.0.0.1")
    assert parse(addr="::ffff:10.0.0.0/104") == parse(addr="10.0.0.0/8")


TAG = "--proto: a VLAN tag is not a protocol, the packet in it is of one; give an expression such as 'vlan 5'"
FLAGS = "they are S, A, P, R, F, U, E, C, and a ! at the end means just these"
DEVICE = "--iface: '{}' cannot be a device: names have 1 to 15 bytes, no space, no / and no :"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"saddr": "10.0.0.256"}, "--saddr: '10.0.0.256' is not an IPv4 or IPv6 address"),
        ({"daddr": "10.0.0/8"}, "--daddr: '10.0.0/8' is not an IPv4 or IPv6 network"),
        ({"daddr": "10.0.0.0/33"}, "--daddr: '/33' is not a prefix of an IPv4 address"),
        ({"daddr": "fd00::/129"}, "--daddr: '/129' is not a prefix of an IPv6 address"),
        ({"daddr": "10.0.0.0/"}, "--daddr: '/' is not a prefix of an IPv4 address"),
        ({"daddr": "10.0.0.0/0x8"}, "--daddr: '/0x8' is not a prefix of an IPv4 address"),
        ({"daddr": "10.0.0.0/255.0.0.0"}, "--daddr: '/255.0.0.0' is not a prefix of an IPv4 address"),
        ({"addr": "10.0.0.1/8"}, "--addr: 10.0.0.1/8 has bits set behind its prefix; did you mean 10.0.0.0/8?"),
        ({"addr": "fd00::1/8"}, "--addr: fd00::1/8 has bits set behind its prefix; did you mean fd00::/8?"),
        ({"addr": "fe80::%eth0/64"}, "--addr: leave out '%eth0', packets do not carry it"),
        ({"addr": "localhost"}, "--addr: 'localhost' is not an IPv4 or IPv6 address"),
        ({"addr": ""}, "--addr: '' is not an IPv4 or IPv6 address"),
        ({"addr": "fe80::1%eth0"}, "--addr: leave out '%eth0', packets do not carry it"),
        ({"saddr": "10.0.0.1", "daddr": "::1"}, "IPv4 and IPv6 addresses in one filter match no packet"),
        ({"daddr": "::1", "addr": "10.0.0.1"}, "IPv4 and IPv6 addresses in one filter match no packet"),
        ({"port": "0"}, "--port: '0' is not a port, 1 to 65535"),
        ({"sport": "65536"}, "--sport: '65536' is not a port, 1 to 65535"),
        ({"dport": "-1"}, "--dport: '-1' is not a port, 1 to 65535"),
        ({"port": "http"}, "--port: 'http' is not a port, 1 to 65535"),
        ({"port": "1_000"}, "--port: '1_000' is not a port, 1 to 65535"),
        ({"port": "\u0668"}, "--port: '\u0668' is not a port, 1 to 65535"),
        ({"port": ""}, "--port: '' is not a port, 1 to 65535"),
        ({"proto": "tpc"}, "--proto: no protocol 'tpc'; did you mean 'tcp'?"),
        ({"proto": "icmpv4"}, "--proto: no protocol 'icmpv4'; did you mean 'icmpv6'?"),
        ({"proto": "-6"}, "--proto: no protocol '-6'"),
        ({"proto": "6_0"}, "--proto: no protocol '6_0'"),
        (
            {"proto": "256"},
            "--proto: 256 is neither a protocol inside IP (0 to 255) nor an EtherType (0x600 to 0xffff)",
        ),
        (
            {"proto": "0x5ff"},
            "--proto: 0x5ff is neither a protocol inside IP (0 to 255) nor an EtherType (0x600 to 0xffff)",
        ),
        (
            {"proto": "65536"},
            "--proto: 65536 is neither a protocol inside IP (0 to 255) nor an EtherType (0x600 to 0xffff)",
        ),
        ({"proto": "vlan"}, TAG),
        ({"proto": "8021Q"}, TAG),
        ({"proto": "0x88A8"}, TAG),
        ({"proto": "200", "port": "80"}, "--proto 200 has no ports, only tcp, udp, udplite, sctp, dccp do"),
        ({"proto": "0x1234", "addr": "10.0.0.1"}, "--proto 0x1234 has no addresses to match"),
        ({"proto": "1", "addr": "::1"}, "--proto icmp has no IPv6 addresses; did you mean --proto icmpv6?"),
        ({"port": "80-70"}, "--port: 80-70 ends before it begins; did you mean 70-80?"),
        ({"port": "80-"}, "--port: '' is not a port, 1 to 65535"),
        ({"port": "1-2-3"}, "--port: '2-3' is not a port, 1 to 65535"),
        ({"port": "0-10"}, "--port: '0' is not a port, 1 to 65535"),
        ({"port": "9" * 5000}, f"--port: '{'9' * 5000}' is not a port, 1 to 65535"),
        ({"pkt_len": "0"}, "--pkt-len: '0' is not a length, 1 to 65535"),
        ({"pkt_len": "100-50"}, "--pkt-len: 100-50 ends before it begins; did you mean 50-100?"),
        ({"tcp_flags": "SX"}, f"--tcp-flags: 'X' is not a TCP flag; {FLAGS}"),
        ({"tcp_flags": "!S"}, f"--tcp-flags: '!' is not a TCP flag; {FLAGS}"),
        ({"tcp_flags": "S!!"}, f"--tcp-flags: '!' is not a TCP flag; {FLAGS}"),
        ({"tcp_flags": "!"}, f"--tcp-flags: '!' names no TCP flag; {FLAGS}"),
        ({"tcp_flags": ""}, f"--tcp-flags: '' names no TCP flag; {FLAGS}"),
        (
            {"proto": "udp", "tcp_flags": "S"},
            "--proto udp has no TCP flags: leave out --proto or --tcp-flags",
        ),
        (
            {"proto": "arp", "pkt_len": "40"},
            "--proto arp has no length to match: --pkt-len is that of IPv4 and IPv6",
        ),
        ({"pid": "0"}, "--pid: '0' is not the number of a process, 1 to 4194304"),
        ({"pid": "ping"}, "--pid: 'ping' is not the number of a process, 1 to 4194304"),
        ({"comm": ""}, "--comm needs the name of a task"),
        ({"iface": "a-name-of-16-byt"}, DEVICE.format("a-name-of-16-byt")),
        ({"iface": ""}, DEVICE.format("")),
        ({"iface": "eth0:1"}, DEVICE.format("eth0:1")),
        ({"iface": ".."}, DEVICE.format("..")),
        ({"mark": "x"}, "--mark: 'x' is not VALUE or VALUE/MASK, each below 2^32, decimal or 0x..."),
        ({"mark": "1/"}, "--mark: '1/' is not VALUE or VALUE/MASK, each below 2^32, decimal or 0x..."),
        (
            {"mark": "0x100000000"},
            "--mark: '0x100000000' is not VALUE or VALUE/MASK, each below 2^32, decimal or 0x...",
        ),
        ({"mark": "0/0"}, "--mark: a mask of 0 asks for nothing"),
        ({"mark": "3/2"}, "--mark: 3/2 matches nothing, as the value has bits that are not in the mask"),
        ({"min_latency": "0"}, "--min-latency: '0' is not a time such as 200 (microseconds), 1.5ms or 2s"),
        ({"min_latency": "0.1ns"}, "--min-latency: '0.1ns' is not a time such as 200 (microseconds), 1.5ms or 2s"),
        ({"min_latency": "1h"}, "--min-latency: '1h' is not a time such as 200 (microseconds), 1.5ms or 2s"),
        (
            {"min_latency": "99999999999s"},
            "--min-latency: '99999999999s' is not a time such as 200 (microseconds), 1.5ms or 2s",
        ),
        ({"rate_limit": "0"}, "--rate-limit: '0' is not a rate, 1 to 4294967295"),
        ({"expression": " "}, "the filter expression is empty: leave it out or see pcap-filter(7)"),
        (
            {"saddr": "10.0.0.1", "daddr": "10.0.0.2", "addr": "10.0.0.3"},
            "--addr with neither that of --saddr nor that of --daddr matches no packet",
        ),
        (
            {"sport": "1", "dport": "2-4", "port": "5"},
            "--port with neither that of --sport nor that of --dport matches no packet",
        ),
        ({"proto": "icmp", "addr": "::1"}, "--proto icmp has no IPv6 addresses; did you mean --proto icmpv6?"),
        ({"proto": "icmp6", "saddr": "10.0.0.1"}, "--proto icmpv6 has no IPv4 addresses; did you mean --proto icmp?"),
        ({"proto": "ip", "addr": "::1"}, "--proto ip has no IPv6 addresses; did you mean --proto ipv6?"),
        ({"proto": "ipv6", "addr": "10.0.0.1"}, "--proto ipv6 has no IPv4 addresses; did you mean --proto ip?"),
        ({"proto": "arp", "addr": "::1"}, "--proto arp has no IPv6 addresses; did you mean --proto icmpv6?"),
        ({"proto": "lldp", "addr": "10.0.0.1"}, "--proto lldp has no addresses to match"),
        ({"proto": "icmp", "port": "80"}, "--proto icmp has no ports, only tcp, udp, udplite, sctp, dccp do"),
        ({"proto": "arp", "dport": "80"}, "--proto arp has no ports, only tcp, udp, udplite, sctp, dccp do"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(**options)
    assert str(raised.value) == message


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PacketFilter().port = 1  # type: ignore[misc]


# What the C makes of it.


def packet(
    *, l3: int = 0x0800, l4: int = 6, flags: int = event.HAS_L4, length: int = 0, saddr: str = "10.0.0.1",
    daddr: str = "10.0.0.2", sport: int = 0, dport: int = 0, tcp_flags: int = 0,
) -> bytes:  # fmt: skip
    family = socket.AF_INET6 if ":" in saddr else socket.AF_INET
    addresses = [socket.inet_pton(family, address).ljust(16, b"\0") for address in (saddr, daddr)]
    l4_bytes = event.TCP_L4.pack(sport, dport, 0, 0, tcp_flags) if flags & event.HAS_L4 else bytes(16)
    values = {
        "l3_protocol": l3,
        "l4_protocol": l4,
        "flags": flags,
        "l3_length": length,
        "saddr": addresses[0],
        "daddr": addresses[1],
        "l4": l4_bytes,
    }
    fields = event.PACKET_ITEM.fields
    return event.PACKET_ITEM.struct.pack(*(values.get(name, b"" if count > 1 else 0) for _, name, count in fields))


IPV6 = {"l3": 0x86DD, "saddr": "fd00::1", "daddr": "fd00::2"}
ARP = {"l3": 0x0806, "l4": 0}
S, A, R = 0x02, 0x10, 0x04

HEADERS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({}, ARP, True),
    ({"saddr": "10.0.0.1"}, {}, True),
    ({"saddr": "10.0.0.1"}, ARP, True),
    ({"saddr": "10.0.0.2"}, {}, False),
    ({"daddr": "10.0.0.2"}, {}, True),
    ({"addr": "10.0.0.1"}, {}, True),
    ({"addr": "10.0.0.2"}, {}, True),
    ({"addr": "10.0.0.3"}, {}, False),
    ({"saddr": "10.0.0.0/30"}, {}, True),
    ({"saddr": "10.0.0.0/30"}, {"saddr": "10.0.0.3"}, True),
    ({"saddr": "10.0.0.0/30"}, {"saddr": "10.0.0.4"}, False),
    ({"saddr": "0.0.0.0/0"}, {}, True),
    ({"saddr": "0.0.0.0/0"}, ARP, True),
    ({"saddr": "0.0.0.0/0"}, IPV6, False),
    ({"saddr": "::/0"}, IPV6, True),
    ({"saddr": "::/0"}, {}, False),
    ({"addr": "fd00::/64"}, IPV6, True),
    ({"addr": "fd00::2"}, IPV6, True),
    ({"addr": "fd00::3"}, IPV6, False),
    ({"daddr": "fd00:0:0:8000::/49"}, {**IPV6, "daddr": "fd00:0:0:8000::1"}, True),
    ({"daddr": "fd00:0:0:8000::/49"}, {**IPV6, "daddr": "fd00:0:0:7fff::1"}, False),
    ({"daddr": "fd00::1:0/112", "saddr": "fd00::1"}, {**IPV6, "daddr": "fd00::1:ffff"}, True),
    ({"daddr": "fd00::1:0/112", "saddr": "fd00::1"}, {**IPV6, "daddr": "fd00::2:ffff"}, False),
    ({"sport": "80"}, {"sport": 80}, True),
    ({"sport": "80"}, {"dport": 80}, False),
    ({"dport": "80"}, {"dport": 80, "l4": 17}, True),
    ({"dport": "80"}, {"dport": 80, "l4": 132}, True),
    ({"dport": "80"}, {"dport": 80, "l4": 136}, True),
    ({"dport": "80"}, {"dport": 80, "l4": 33}, True),
    ({"dport": "80"}, {"dport": 80, "l4": 1}, False),
    ({"dport": "80"}, {"dport": 80, "l3": 0x0806}, False),
    ({"dport": "80"}, {"flags": 0}, False),
    ({"port": "7000-7010"}, {"sport": 7000}, True),
    ({"port": "7000-7010"}, {"dport": 7010}, True),
    ({"port": "7000-7010"}, {"sport": 6999, "dport": 7011}, False),
    ({"port": "1-65535"}, {"flags": event.FRAGMENT}, False),
    ({"sport": "1-65535"}, {"sport": 65535}, True),
    ({"sport": "256"}, {"sport": 1}, False),
    ({"sport": "1-10", "dport": "20-30", "port": "30"}, {"sport": 5, "dport": 30}, True),
    ({"sport": "1-10", "dport": "20-30", "port": "30"}, {"sport": 5, "dport": 29}, False),
    ({"proto": "tcp"}, {}, True),
    ({"proto": "tcp"}, {"l4": 17}, False),
    ({"proto": "tcp"}, IPV6, True),
    ({"proto": "tcp"}, {"l3": 0x0806, "l4": 6}, False),
    ({"proto": "0"}, {"l4": 0}, True),
    ({"proto": "0"}, ARP, False),
    ({"proto": "0x86dd"}, IPV6, True),
    ({"proto": "0x86dd"}, {}, False),
    ({"tcp_flags": "SA"}, {"tcp_flags": S}, True),
    ({"tcp_flags": "SA"}, {"tcp_flags": A}, True),
    ({"tcp_flags": "SA"}, {"tcp_flags": R}, False),
    ({"tcp_flags": "SA"}, {"tcp_flags": S, "l4": 17}, False),
    ({"tcp_flags": "SA"}, {"tcp_flags": S, "l3": 0x0806}, False),
    ({"tcp_flags": "SA"}, {"flags": 0}, False),
    ({"tcp_flags": "SA!"}, {"tcp_flags": S | A}, True),
    ({"tcp_flags": "SA!"}, {**IPV6, "tcp_flags": S | A}, True),
    ({"tcp_flags": "SA!"}, {"tcp_flags": S}, False),
    ({"tcp_flags": "SA!"}, {"tcp_flags": S | A | 0x40}, False),
    ({"tcp_flags": "C"}, {"tcp_flags": 0x80}, True),
    ({"pkt_len": "84"}, {"length": 84}, True),
    ({"pkt_len": "84"}, {"length": 85}, False),
    ({"pkt_len": "40-1500"}, {**IPV6, "length": 1500}, True),
    ({"pkt_len": "40-1500"}, {"length": 39}, False),
    ({"pkt_len": "1-65535"}, {"length": 65535}, True),
    ({"pkt_len": "1-65535"}, {"length": 0}, False),
    ({"pkt_len": "1-65535"}, {**ARP, "length": 28}, False),
]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Native]:
    """The filter that these options ask for, compiled once for each."""
    compiled: dict[str, Native] = {}

    def of(options: dict[str, Any], more: str = "") -> Native:
        key = repr(sorted(options.items())) + more
        if key not in compiled:
            compiled[key] = Native(tmp_path_factory.mktemp("filter"), parse(**options), more)
        return compiled[key]

    return of


@needs_compiler
@pytest.mark.parametrize(("options", "of", "expected"), HEADERS)
def test_headers(native: Callable[..., Native], options: dict[str, Any], of: dict[str, Any], expected: bool) -> None:
    assert native(options).headers_match(packet(**of)) == expected


SKB, SK, DEV, NET, OTHER_NET, REQUEST = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000


def kernel_objects(filter_: Native) -> dict[str, int]:
    """An skb, a socket, a device and two namespaces, and their addresses."""
    filter_.put(0, bytes(0x8000))
    at = {name: filter_.put(place, b"") for name, place in (("skb", SKB), ("sk", SK), ("dev", DEV), ("net", NET))}
    filter_.put_number(at["net"], "OFF_net__ns_inum", "<I", 0xF0000010)
    filter_.put_number(at["dev"], "OFF_net_device__nd_net", "<Q", at["net"])
    filter_.put(DEV, b"eth0\0left over")
    return at


@needs_compiler
def test_mark_of_an_skb(native: Callable[..., Native]) -> None:
    plain, masked = native({"mark": "5"}), native({"mark": "0x10/0xf0"})
    for filter_, mark, expected in (
        (plain, 5, True), (plain, 4, False), (plain, 0x80000005, False), (masked, 0x10, True),
        (masked, 0xFFFFFF1F, True), (masked, 0x20, False),
    ):  # fmt: skip
        at = kernel_objects(filter_)
        filter_.put_number(at["skb"], "OFF_sk_buff__mark", "<I", mark)
        assert filter_.skb_matches(at["skb"]) == expected, hex(mark)


@needs_compiler
def test_process_is_not_thread(native: Callable[..., Native]) -> None:
    filter_ = native({"pid": "100"})
    filter_.set_task(tgid=100, pid=101)
    assert filter_.skb_matches(0)
    filter_.set_task(tgid=99, pid=100)
    assert not filter_.skb_matches(0)


@needs_compiler
def test_name_of_the_task(native: Callable[..., Native]) -> None:
    filter_ = native({"comm": "systemd-resolved"})
    # 15 bytes are all that the kernel keeps.
    for comm, expected in ((b"systemd-resolve", True), (b"systemd-resolv", False), (b"ping", False)):
        filter_.set_task(comm=comm)
        assert filter_.skb_matches(0) == expected
    filter_ = native({"comm": "ping"})
    for comm, expected in ((b"ping", True), (b"ping6", False), (b"pin", False)):
        filter_.set_task(comm=comm)
        assert filter_.skb_matches(0) == expected


@needs_compiler
@pytest.mark.parametrize(
    ("name", "found"),
    [("eth0", True), ("eth", False), ("eth00", False), ("eth0.5", False)],
)
def test_device(native: Callable[..., Native], name: str, found: bool) -> None:
    filter_ = native({"iface": name})
    at = kernel_objects(filter_)
    assert not filter_.skb_matches(at["skb"])  # no device yet
    filter_.put_number(at["skb"], "OFF_sk_buff__dev", "<Q", at["dev"])
    assert filter_.skb_matches(at["skb"]) == found


@needs_compiler
def test_what_is_no_device_is_not_taken_for_one(native: Callable[..., Native]) -> None:
    filter_ = native({"iface": "eth0"})
    at = kernel_objects(filter_)
    filter_.put_number(at["skb"], "OFF_sk_buff__dev", "<Q", at["dev"])
    assert filter_.skb_matches(at["skb"])
    for inode in (0, 1, 0x12345678, 0xEFFF0000):
        filter_.put_number(at["net"], "OFF_net__ns_inum", "<I", inode)
        assert not filter_.skb_matches(at["skb"])
    filter_.put_number(at["net"], "OFF_net__ns_inum", "<I", 0xEFFFFFF9)  # the initial namespace, from 6.18 on
    assert filter_.skb_matches(at["skb"])
    filter_.put_number(at["dev"], "OFF_net_device__nd_net", "<Q", 0x7F0000004000)
    assert not filter_.skb_matches(at["skb"])
    filter_.put_number(at["skb"], "OFF_sk_buff__dev", "<Q", 64)  # as UDP keeps a length there
    assert not filter_.skb_matches(at["skb"])


@needs_compiler
def test_namespace_of_device_then_of_socket(native: Callable[..., Native]) -> None:
    filter_ = native({"netns": 0xF0000010})
    at = kernel_objects(filter_)
    other, request = filter_.put(OTHER_NET, b""), filter_.put(REQUEST, b"")
    filter_.put_number(other, "OFF_net__ns_inum", "<I", 0xF0000011)
    filter_.put_number(at["sk"], "OFF_sock__skc_net", "<Q", at["net"])
    filter_.put_number(request, "OFF_sock__skc_net", "<Q", other)

    def matches(*, dev: int, sk: int, argument: int) -> bool:
        filter_.put_number(at["skb"], "OFF_sk_buff__dev", "<Q", dev)
        filter_.put_number(at["skb"], "OFF_sk_buff__sk", "<Q", sk)
        return filter_.skb_matches(at["skb"], sk=argument)

    assert not matches(dev=0, sk=0, argument=0)
    assert matches(dev=at["dev"], sk=0, argument=0)
    assert matches(dev=at["dev"], sk=request, argument=request)
    assert matches(dev=0, sk=at["sk"], argument=0)
    assert matches(dev=0, sk=0, argument=at["sk"])
    assert matches(dev=0, sk=at["sk"], argument=request)
    assert not matches(dev=0, sk=request, argument=at["sk"])
    assert matches(dev=1400, sk=at["sk"], argument=0)
    filter_.put_number(at["dev"], "OFF_net_device__nd_net", "<Q", other)
    assert not matches(dev=at["dev"], sk=at["sk"], argument=at["sk"])


@needs_compiler
def test_all_conditions_must_hold(native: Callable[..., Native]) -> None:
    filter_ = native({"pid": "7", "comm": "x", "mark": "1", "iface": "eth0", "netns": 0xF0000010})
    at = kernel_objects(filter_)
    filter_.put_number(at["skb"], "OFF_sk_buff__mark", "<I", 1)
    filter_.put_number(at["skb"], "OFF_sk_buff__dev", "<Q", at["dev"])
    filter_.set_task(tgid=7, comm=b"x")
    assert filter_.skb_matches(at["skb"])
    filter_.set_task(tgid=7, comm=b"y")
    assert not filter_.skb_matches(at["skb"])
    filter_.set_task(tgid=7, comm=b"x")
    filter_.put_number(at["net"], "OFF_net__ns_inum", "<I", 0xF0000011)
    assert not filter_.skb_matches(at["skb"])
