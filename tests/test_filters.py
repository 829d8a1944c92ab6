"""The packet filter: what is taken, what is refused, and the constants it becomes."""

import dataclasses
import socket
import struct
from typing import Optional

import pytest

from nettrace import filters
from nettrace.errors import UsageError
from nettrace.filters import PacketFilter, parse


def words(prefix: str, family: int, address: str) -> dict[str, int]:
    """The constants of an address, as the kernel's own byte order would have them in memory."""
    packed = socket.inet_pton(family, address).ljust(16, b"\0")
    return {f"{prefix}_W{i}": struct.unpack_from("<I", packed, 4 * i)[0] for i in range(4)}


def test_nothing_asked_for() -> None:
    empty = parse()
    assert empty.is_empty
    assert empty == PacketFilter()
    assert empty.constants() == {}


def test_each_condition_makes_it_not_empty() -> None:
    addresses = {"saddr": "10.0.0.1", "daddr": "10.0.0.1", "addr": "::1"}
    others = {"sport": "1", "dport": "2", "port": "3", "proto": "tcp"}
    for option, word in {**addresses, **others}.items():
        assert not parse(**{option: word}).is_empty
    # An address of zeros is a condition too: DHCP clients send from it.
    assert not parse(saddr="0.0.0.0").is_empty


def test_ipv4_constants() -> None:
    assert parse(saddr="192.168.1.2").constants() == {
        "FILTER_ADDRESS_FAMILY": 4,
        "FILTER_SADDR_W0": 0x0201A8C0,
        "FILTER_SADDR_W1": 0,
        "FILTER_SADDR_W2": 0,
        "FILTER_SADDR_W3": 0,
    }


def test_ipv6_constants() -> None:
    assert parse(daddr="2001:db8::1").constants() == {
        "FILTER_ADDRESS_FAMILY": 6,
        **words("FILTER_DADDR", socket.AF_INET6, "2001:db8::1"),
    }


def test_all_constants() -> None:
    packet_filter = parse(
        saddr="10.0.0.1", daddr="10.0.0.2", addr="10.0.0.1", sport="1024", dport="65535", port="80", proto="TCP"
    )
    assert packet_filter.constants() == {
        "FILTER_ADDRESS_FAMILY": 4,
        **words("FILTER_SADDR", socket.AF_INET, "10.0.0.1"),
        **words("FILTER_DADDR", socket.AF_INET, "10.0.0.2"),
        **words("FILTER_ADDR", socket.AF_INET, "10.0.0.1"),
        "FILTER_PORTS": 1,
        "FILTER_SPORT": 1024,
        "FILTER_DPORT": 65535,
        "FILTER_PORT": 80,
        "FILTER_L4": 6,
    }


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
    ],
)
def test_allowed(options: dict[str, str]) -> None:
    assert parse(**options).constants()


def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert parse(addr="::ffff:10.0.0.1") == parse(addr="10.0.0.1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"saddr": "10.0.0.256"}, "--saddr: '10.0.0.256' is not an IPv4 or IPv6 address"),
        ({"daddr": "10.0.0.0/8"}, "--daddr: '10.0.0.0/8' is not an IPv4 or IPv6 address"),
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
        ({"proto": "6"}, "--proto: no protocol '6'"),
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
def test_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(**options)
    assert str(raised.value) == message


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PacketFilter().port = 1  # type: ignore[misc]
