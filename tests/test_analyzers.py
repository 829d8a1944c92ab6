"""What facts say in words, against the numbers of the kernel's headers."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import socket
from typing import Any, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace import files, tree
from nettrace.analyzers import _DECIDING, Told, deciding, headers_read, hook_functions, hook_text, tell
from nettrace.event import Context, Event, Packet
from nettrace.plan import HOOK_FUNCTIONS

from .headers import IP, PING, UDP, packet


def told(one: Any = PING, **facts: Union[int, str]) -> list[Told]:
    return list(tell(Event(0, "x", 1, one, facts=tuple(facts.items())), tick_ns=4_000_000))


def register(address: str) -> int:
    """An address as it is in the register of a little-endian machine."""
    return int.from_bytes(socket.inet_aton(address), "little")


def swapped(number: int) -> int:
    """16 bits in network byte order, as a little-endian machine reads them."""
    return int.from_bytes(number.to_bytes(2, "big"), "little")


# NFPROTO_* and the hooks of each, by their numbers in include/uapi/linux/netfilter*.h
HOOKS = {
    (2, 0): "ipv4 in chain: PRE_ROUTING",
    (2, 1): "ipv4 in chain: INPUT",
    (2, 2): "ipv4 in chain: FORWARD",
    (2, 3): "ipv4 in chain: OUTPUT",
    (2, 4): "ipv4 in chain: POST_ROUTING",
    (10, 1): "ipv6 in chain: INPUT",
    (1, 5): "inet in chain: INGRESS",
    (3, 0): "arp in chain: ARP_IN",
    (3, 1): "arp in chain: ARP_OUT",
    (3, 2): "arp in chain: ARP_FORWARD",
    (5, 0): "netdev in chain: INGRESS",
    (5, 1): "netdev in chain: EGRESS",
    (7, 2): "bridge in chain: FORWARD",
    (7, 5): "bridge in chain: BROUTING",
    (3, 3): "arp in chain: 3",
    (5, 2): "netdev in chain: 2",
    (12, 6): "12 in chain: 6",
}


@pytest.mark.parametrize(("family", "hook"), HOOKS)
def test_hooks(family: int, hook: int) -> None:
    assert hook_text(family, hook) == HOOKS[family, hook]
    assert told(family=family, hook=hook) == [Told("hook", HOOKS[family, hook])]


@pytest.mark.parametrize(
    ("facts", "label", "text"),
    [
        ({"table": "filter", "chain": "INPUT"}, "table", "nftables table:filter, chain:INPUT"),
        ({"table": "nat", "hook": 4}, "table", "iptables table:nat, chain:POST_ROUTING"),
        ({"table": "nat", "hook": 9}, "table", "iptables table:nat"),
        ({"table": "raw"}, "table", "iptables table:raw"),
        # NFT_JUMP, NFT_RETURN and NF_DROP; the target is a jump's
        (
            {"chain": "input", "handle": 5, "verdict": -3, "target": "mine"},
            "rule", "chain:input, handle:5, verdict:jump mine",
        ),
        (
            {"chain": "mine", "handle": 6, "verdict": -5, "target": "old"},
            "rule", "chain:mine, handle:6, verdict:return",
        ),
        ({"chain": "mine", "handle": 7, "verdict": 0}, "rule", "chain:mine, handle:7, verdict:drop"),
        (
            {"kind": "tbf", "handle": 0x8001_0000, "packets": 7, "limit": 10},
            "queue", "qdisc tbf 8001: holds 7 packets of 10",
        ),
        ({"kind": "noqueue", "handle": 0, "packets": 0, "limit": 0}, "queue", "qdisc noqueue holds 0 packets"),
        ({"kind": "fq_codel", "handle": 0x10000, "packets": 1}, "queue", "qdisc fq_codel 1: holds 1 packet"),
        (
            {"route": 1, "gateway": register("192.168.7.1"), "device": "eth0"},
            "route", "route: unicast via 192.168.7.1 dev eth0",
        ),
        ({"route": 2, "gateway": 0, "device": "lo"}, "route", "route: local dev lo"),
        # AF_INET and AF_INET6; behind an IPv4 gateway, and where there is none, the kernel leaves what was there.
        (
            {"route": 1, "gateway": 0xFF << 64 | register("192.168.7.1"), "gateway_family": 2, "device": "eth0"},
            "route", "route: unicast via 192.168.7.1 dev eth0",
        ),
        (
            {"route": 1, "gateway": 0x77 << 120 | 0x80FE, "gateway_family": 10, "device": "eth0"},
            "route", "route: unicast via fe80::77 dev eth0",
        ),
        ({"route": 1, "gateway": 0xFF << 64, "gateway_family": 0, "device": "lo"}, "route", "route: unicast dev lo"),
        ({"route": 3, "device": "eth0"}, "route", "route: broadcast dev eth0"),
        ({"route": 5, "device": "eth0"}, "route", "route: multicast dev eth0"),
        ({"route": 7, "device": "lo"}, "route", "route: unreachable dev lo"),
        ({"route": 99, "device": "lo"}, "route", "route: 99 dev lo"),
        # NUD_*
        ({"neighbour": 0}, "neighbour", "neighbour: NONE"),
        ({"neighbour": 0x01}, "neighbour", "neighbour: INCOMPLETE"),
        ({"neighbour": 0x02}, "neighbour", "neighbour: REACHABLE"),
        ({"neighbour": 0x20}, "neighbour", "neighbour: FAILED"),
        ({"neighbour": 0x80}, "neighbour", "neighbour: PERMANENT"),
        ({"neighbour": 0x03}, "neighbour", "neighbour: 3"),
        # TCP_*
        ({"state": 1}, "socket state", "state: TCP_ESTABLISHED"),
        ({"state": 7}, "socket state", "state: TCP_CLOSE"),
        ({"state": 10}, "socket state", "state: TCP_LISTEN"),
        ({"state": 12}, "socket state", "state: TCP_NEW_SYN_RECV"),
        ({"state": 77}, "socket state", "state: TCP_77"),
        ({"reset_reason": 0}, "reset reason", "reason: 0"),
        ({"memory": 5000, "limit": 5000}, "receive buffer", "receive buffer: 5000 of 5000 bytes"),
        # A queue of length 1 has room for two: sk_acceptq_is_full()
        ({"queued": 2, "backlog": 1}, "accept queue", "accept queue is full: 2 of 1"),
        # enum ip_conntrack_info, in the low bits of a pointer
        ({"connection": 0xFFFF888100000000}, "connection", "connection: established"),
        ({"connection": 0xFFFF888100000001}, "connection", "connection: related"),
        ({"connection": 0xFFFF888100000002}, "connection", "connection: new"),
        ({"connection": 0xFFFF888100000003}, "connection", "connection: established, reply"),
        ({"connection": 7}, "connection", "connection: untracked"),
        # srtt_us is eight times the time in microseconds
        ({"rtt": 8 * 152_001, "rtt_min": 95}, "round trip", "srtt:152.001ms, rtt_min:0.095ms"),
        (
            {"sequence": 100, "end": 1548, "timeouts": 0, "rto": 51, "resent": 0},
            "retransmission", "retransmission: seq 100:1548, RTO 204 ms, sent again on this connection before: 0",
        ),
        (
            {"sequence": 4294967295, "end": 9, "timeouts": 3, "rto": 400, "resent": 7},
            "retransmission",
            "retransmission: seq 4294967295:9, timeouts in a row: 3, RTO 1600 ms, "
            "sent again on this connection before: 7",
        ),
        ({"connection": 0xFFFF888100000005}, "connection", "connection: 5"),
    ],
)  # fmt: skip
def test_facts_in_words(facts: dict[str, Union[int, str]], label: str, text: str) -> None:
    assert told(**facts) == [Told(label, text)]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        # Only half of it is known.
        {"family": 2},
        {"hook": 1},
        {"chain": "INPUT"},
        {"kind": "tbf"},
        {"route": 1},
        {"device": "eth0"},
        {"memory": 9},
        {"queued": 9},
        # Nothing out of the ordinary.
        {"memory": 4999, "limit": 5000},
        {"memory": 1, "limit": 0},
        {"queued": 1, "backlog": 1},
        {"connection": 0},
        {"state": 0},
        # Without a route, its device has no name.
        {"route": 0, "gateway": 0, "device": ""},
        # Before the first sample.
        {"rtt": 0, "rtt_min": 0xFFFFFFFF},
        # For rules only.
        {"ttl": 1},
        {"hop_limit": 1},
        {"error": 113},
        {"type": 3, "code": 3},
    ],
)
def test_what_says_nothing(facts: dict[str, Union[int, str]]) -> None:
    assert told(**facts) == []


LARGE = packet(IP, UDP, l3_length=1500)
DF, MF = swapped(0x4000), swapped(0x2000)


@pytest.mark.parametrize(
    ("one", "facts", "text"),
    [
        (LARGE, {"mtu": 1400, "fragment": DF}, "size: 1500 bytes, the device takes 1400, and DF is set"),
        # IPv6 routers never cut a packet.
        (LARGE, {"mtu": 1400}, "size: 1500 bytes, the device takes 1400"),
        (LARGE, {"mtu": 1500, "fragment": DF}, ""),
        (LARGE, {"mtu": 1400, "fragment": 0}, ""),
        (LARGE, {"mtu": 1400, "fragment": MF}, ""),
        (LARGE, {"mtu": 0, "fragment": DF}, ""),
        # Its segments are what has to fit.
        (LARGE._replace(gso_size=1300), {"mtu": 1400, "fragment": DF}, ""),
    ],
)
def test_what_is_too_large(one: Any, facts: dict[str, Union[int, str]], text: str) -> None:
    assert told(one, **facts) == ([Told("size", text)] if text else [])


def test_all_that_an_event_tells() -> None:
    route: dict[str, Union[int, str]] = {
        "route": 1,
        "gateway": 0,
        "device": "eth1",
        "mtu": 1400,
        "fragment": DF,
        "ttl": 64,
    }
    assert [each.label for each in told(LARGE, **route)] == ["route", "size"]
    assert [each.label for each in told(state=10, reset_reason=2)] == ["socket state", "reset reason"]


def test_a_reset_reason_has_a_name() -> None:
    item = Event(0, "tcp_v4_send_reset", 1, PING, facts=(("reset_reason", 2),))
    assert tell(item, {2: "NO_SOCKET"}.__getitem__) == (Told("reset reason", "reason: NO_SOCKET"),)


def hook(*addresses: int, count: Optional[int] = None, skb: int = 1, at: int = 0) -> Event:
    """A hook with these functions, and others behind them."""
    found = {"functions": len(addresses) if count is None else count, **dict(zip(HOOK_FUNCTIONS, addresses))}
    return Event(at, "nf_hook_slow", skb, PING, facts=tuple(found.items()))


NAMES = {
    1: "ipv4_conntrack_in", 2: "nft_do_chain_inet", 3: "nft_do_chain_ipv4", 4: "iptable_filter_hook", 5: "ipt_do_table",
    6: "selinux_ip_forward",
}  # fmt: skip


def name(address: int) -> str:
    return NAMES.get(address, hex(address))


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (hook(1, 2), "ipv4_conntrack_in, nft_do_chain_inet"),
        (hook(99), "0x63"),
        # More than were read are counted.
        (hook(*range(1, 9), count=11), f"{', '.join(name(at) for at in range(1, 9))}, and 3 more"),
        # What is behind the last one is not of this hook.
        (hook(1, 2, 3, count=1), "ipv4_conntrack_in"),
        (hook(count=3), ""),
        (hook(), ""),
    ],
)
def test_the_functions_at_a_hook(item: Event, text: str) -> None:
    assert tell(item, symbol=name) == ((Told("functions at this hook", text, in_lines=False),) if text else ())


@pytest.mark.parametrize(
    ("functions", "called", "decided"),
    [
        ((1, 2), ["nft_do_chain"], "nft_do_chain_inet"),
        ((1, 2, 3), ["nft_do_chain"], "nft_do_chain_inet"),
        ((1, 2, 3), ["nf_conntrack_in", "nft_do_chain", "nft_do_chain"], "nft_do_chain_ipv4"),
        ((1, 2), ["nf_conntrack_in"], "ipv4_conntrack_in"),
        ((1, 4), ["ipt_do_table"], "iptable_filter_hook"),
        ((6, 5), ["ipt_do_table"], "ipt_do_table"),
        # Nothing of what was called is known to be at this hook, or more often than it is.
        ((6,), [], ""),
        ((6,), ["nft_do_chain"], ""),
        ((2,), ["nft_do_chain", "nft_do_chain"], ""),
        ((), ["nft_do_chain"], ""),
    ],
)
def test_which_function_decided(functions: tuple[int, ...], called: list[str], decided: str) -> None:
    first = hook(*functions)
    others = [Event(at, trace, 1, PING) for at, trace in enumerate(called, 1)]
    expected = Told("decided by", decided, in_lines=False) if decided else None
    # What came before, at the next hook, or to a clone, was not called at this one.
    before, after = Event(-1, "nft_do_chain", 1, PING), Event(9, "nf_hook_slow", 1, PING)
    clone, later = Event(8, "nft_do_chain", 2, PING), Event(10, "nft_do_chain", 1, PING)
    way = (before, first, *others, clone, after, later)
    assert deciding(Context(7, (1, 2), way, False, False), first, name) == expected


def test_what_decides_is_a_trace() -> None:
    assert _DECIDING.keys() <= {trace.name for trace in tree.load(files.TREE).traces()}
    assert hook_functions(Event(0, "nf_hook_slow", 1, PING)) == []


# What is said of each fact, where it is said at all; with which others it is said together.
EXAMPLES: dict[str, dict[str, Union[int, str]]] = {
    "hook": {"hook": 1, "family": 2}, "family": {"hook": 1, "family": 2}, "table": {"table": "a"},
    "chain": {"table": "a", "chain": "b"}, "kind": {"kind": "fq", "packets": 1}, "handle": {"kind": "fq", "packets": 1},
    "packets": {"kind": "fq", "packets": 1}, "limit": {"memory": 9, "limit": 1}, "memory": {"memory": 9, "limit": 1},
    "route": {"route": 1, "device": "a"}, "gateway": {"route": 1, "device": "a"}, "device": {"route": 1, "device": "a"},
    "mtu": {"mtu": 10}, "fragment": {"mtu": 10, "fragment": DF}, "neighbour": {"neighbour": 1}, "state": {"state": 1},
    "reset_reason": {"reset_reason": 1}, "queued": {"queued": 9, "backlog": 1}, "backlog": {"queued": 9, "backlog": 1},
    "gateway_family": {"route": 1, "device": "a"}, **{name: {"rtt": 8, "rtt_min": 1} for name in ("rtt", "rtt_min")},
    **{name: {"sequence": 1, "end": 2} for name in ("sequence", "end", "timeouts", "rto", "resent")},
    "connection": {"connection": 7}, "functions": {"functions": 1, "function0": 1},
    **{name: {"functions": 8, **dict.fromkeys(HOOK_FUNCTIONS, 1)} for name in HOOK_FUNCTIONS},
}  # fmt: skip
# Conditions of rules.
FOR_RULES = {"ttl", "hop_limit", "error", "type", "code"}


def test_no_fact_of_the_tree_is_for_nothing() -> None:
    known = {name for trace in tree.load(files.TREE).traces() for name, _ in trace.facts}
    assert known == EXAMPLES.keys() | FOR_RULES
    for facts in EXAMPLES.values():
        assert told(LARGE, **facts)


NUMBERS = st.integers(0, 1 << 16)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(EXAMPLES)), NUMBERS, min_size=8),
    st.builds(Packet, *[NUMBERS] * 7, st.just(bytes(4)), st.just(bytes(4)), st.just(bytes(16)), gso_size=NUMBERS),
)
def test_nothing_else_of_the_headers_matters(facts: dict[str, int], one: Packet) -> None:
    protocol, length, segment = headers_read(one)
    other = PING._replace(l3_protocol=protocol, l3_length=length, gso_size=segment)
    assert told(one, **facts) == told(other, **facts)
