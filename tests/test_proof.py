"""Which questions a finding puts to the host, and in which namespace; the answers are another module's."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import socket
from functools import partial
from ipaddress import ip_address
from typing import Any, Optional

import pytest

from nettrace import evidence, evidence_routes, proof
from nettrace.diagnosis import Finding
from nettrace.event import Context, Detail, Device, Event, Packet
from nettrace.evidence import Evidence
from nettrace.evidence_firewall import Firewalls

from .headers import ARP, IP, PING, TCP, UDP, ipv6, packet, ports, tcp

OWN, OTHER = 4026531840, 4026532999
ETH0, ETH1, FAR = Device(2, "eth0", OWN), Device(3, "eth1", OWN), Device(2, "eth0", OTHER)
SEGMENT = packet(IP, TCP, tcp(2))
SOURCE, TARGET = ip_address("10.0.0.1"), ip_address("10.0.0.2")
ANSWER = [Evidence("ip route", "there is none")]

# A question as the function's name, its arguments and its keywords; a namespace, and what is asked there.
Question = tuple[str, tuple[Any, ...], dict[str, Any]]
Asked = list[tuple[int, list[Question]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found: Asked = []

    def question(one: evidence.Fact) -> Question:
        if isinstance(one, partial):
            return one.func.__name__, one.args, one.keywords
        return getattr(one, "__name__", ""), (), {}

    def read(netns: int, *questions: evidence.Fact, timeout_s: float) -> list[Evidence]:
        assert timeout_s == 0.5
        found.append((netns, [question(one) for one in questions]))
        return ANSWER

    monkeypatch.setattr(evidence, "read", read)
    return found


def step(trace: str, device: Optional[Device] = None, one: Packet = SEGMENT, skb: int = 1, **more: Any) -> Event:
    return Event(0, trace, skb, one, device=device, **more)


def ask(wanted: str, *way: Event, at: int = -1) -> list[Evidence]:
    """Asks what is wanted, in words, for a finding at one of the steps."""
    finding = Finding(way[at], "error", "a", "it is a", wanted=tuple(wanted.split()))
    return proof.Prover(OWN, 0.5).evidence(finding, Context(7, (1,), way, False, False))


IN = step("ip_rcv_core", ETH0)
DETAIL = Detail(cpu=0, pid=1, tgid=1, comm="x", mark=0x1F, length=60, socket=0)
ENDS = (TARGET, 443, SOURCE, 40000)


QUESTIONS: list[tuple[str, list[Question]]] = [
    ("listeners", [("listeners", ("tcp", TARGET, 443), {})]),
    ("accept_queue", [("accept_queue", (TARGET, 443), {})]),
    ("sockets", [("flow_sockets", ("tcp", *ENDS), {})]),
    ("rp_filter", [("rp_filter", ("eth0", SOURCE, TARGET), {"mark": 0x1F})]),
    ("forwarding", [("forwarding", ("eth0", socket.AF_INET), {})]),
    ("route", [("route", (TARGET, SOURCE), {"iif": 2, "mark": 0x1F})]),
    ("neighbour", [("neighbour", (2, TARGET), {})]),
    ("mtu", [("_mtu_of", (2, "", TARGET, SOURCE), {})]),
    ("device", [("device", (2,), {})]),
    ("qdisc", [("qdisc", (2,), {})]),
    ("xdp", [("xdp", (2,), {})]),
    ("tc", [("tc_filters", (2,), {})]),
    ("conntrack", [("conntrack", (), {}), ("conntrack_entry", ("tcp", SOURCE, 40000, TARGET, 443), {})]),
    ("backlog", [("backlog", (), {})]),
    ("checksum", [("checksum", ("eth0",), {})]),
    ("handlers", [("handlers", (IP, "eth0"), {})]),
    # One after the other, as the rule has them.
    ("device qdisc", [("device", (2,), {}), ("qdisc", (2,), {})]),
]


@pytest.mark.parametrize(("wanted", "questions"), QUESTIONS)
def test_the_packets_own_values_are_asked_about(wanted: str, questions: list[Question], asked: Asked) -> None:
    assert ask(wanted, IN, step("x", ETH0, detail=DETAIL)) == ANSWER
    assert asked == [(OWN, questions)]


def test_whoever_has_no_time_asks_nothing(asked: Asked) -> None:
    finding = Finding(IN, "error", "a", "it is a", wanted=("backlog",))
    assert proof.Prover(OWN, 0).evidence(finding, Context(7, (1,), (IN,), False, False)) == []
    assert asked == []


def test_firewalls_are_asked_in_their_own_way(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, told = Evidence("nftables", "rule 4 decided"), []

    def evidence(firewalls: Firewalls, item: Event, events: tuple[Event, ...], netns: int) -> list[Evidence]:
        told.append((item.trace, len(events), netns))
        return [rule, rule]

    monkeypatch.setattr(Firewalls, "evidence", evidence)
    # Before all others; and what is said twice is shown once.
    assert ask("backlog firewall", IN, step("nft_do_chain", FAR)) == [rule, *ANSWER]
    assert ask("firewall", IN) == [rule]
    assert told == [("nft_do_chain", 2, OTHER), ("ip_rcv_core", 1, OWN)]
    assert asked == [(OTHER, [("backlog", (), {})])]


def test_all_questions_are_above() -> None:
    assert {wanted for wanted, _ in QUESTIONS} == {*proof._OF_DEVICES, *proof._OF_FLOWS, "device qdisc"}


@pytest.mark.parametrize(
    ("one", "device", "wanted", "functions"),
    [
        (packet(IP, UDP, ports(4444, 53)), ETH0, "listeners sockets", ["listeners", "flow_sockets"]),
        # Only TCP has a queue of connections to accept, and only TCP and UDP have ports here.
        (packet(IP, UDP, ports(4444, 53)), ETH0, "accept_queue", []),
        (PING, ETH0, "listeners accept_queue sockets", []),
        (PING, ETH0, "conntrack route", ["conntrack", "route"]),
        # Of a fragment but the first, no ports are known.
        (packet(IP, UDP, fragment_offset=1480), ETH0, "listeners sockets conntrack", ["conntrack"]),
        # Without a device nothing is asked about it.
        (SEGMENT, Device(0, "", OWN), "rp_filter forwarding neighbour device qdisc xdp tc checksum", []),
        (SEGMENT, None, "device listeners", ["listeners"]),
        # ARP has addresses but no ports, other protocols have neither.
        (packet(ARP), ETH0, "listeners route neighbour", ["route", "neighbour"]),
        (packet(0x88CC), ETH0, "route neighbour rp_filter mtu device conntrack", ["device", "conntrack"]),
        (SEGMENT, ETH0, "", []),
    ],
)
def test_what_cannot_be_asked(
    one: Packet, device: Optional[Device], wanted: str, functions: list[str], asked: Asked
) -> None:
    answer = ask(wanted, step("x", device, one))
    assert [name for _, questions in asked for name, _, _ in questions] == functions
    assert answer == (ANSWER if functions else [])


def test_ipv6(asked: Asked) -> None:
    ask("forwarding neighbour listeners", step("x", ETH0, ipv6(UDP, ports(4444, 53))))
    target = ip_address("fe80::2")
    assert asked == [
        (OWN, [
            ("forwarding", ("eth0", socket.AF_INET6), {}), ("neighbour", (2, target), {}),
            ("listeners", ("udp", target, 53), {}),
        ])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "netns"),
    [
        ([step("x", FAR)], OTHER),
        # It was last seen there.
        ([step("ip_rcv_core", FAR), step("x")], OTHER),
        ([step("ip_rcv_core", FAR), step("x"), step("y")], OTHER),
        # A clone was, this one not.
        ([step("ip_rcv_core", FAR, skb=2), step("x")], OWN),
        ([step("x", Device(0, "", OTHER))], OTHER),
        ([step("x", Device(0, "", 0))], OWN),
        ([step("x")], OWN),
    ],
)
def test_the_namespace_is_the_packets(way: list[Event], netns: int, asked: Asked) -> None:
    ask("backlog", *way)
    assert asked == [(netns, [("backlog", (), {})])]


def test_what_came_later_says_nothing(asked: Asked) -> None:
    ask("backlog", step("ip_rcv_core", ETH0), step("x"), step("ip_rcv_core", FAR), at=1)
    assert [netns for netns, _ in asked] == [OWN]


def asked_of(name: str, asked: Asked) -> Question:
    """The one question of this name."""
    (found,) = [question for _, questions in asked for question in questions if question[0] == name]
    return found


@pytest.mark.parametrize(
    ("way", "iif"),
    [
        ([step("ip_rcv_core", ETH0), step("x", ETH0)], 2),
        ([step("ip_rcv_core", ETH0)], 2),
        # On its way out a forwarded packet is at another device, and came in by the first.
        ([step("ip_rcv_core", ETH0), step("ip_output", ETH1)], 2),
        # A bridge receives what its port did.
        ([step("netif_receive_skb", ETH1), step("netif_receive_skb", ETH0), step("x", ETH0)], 2),
        # What came into another namespace is this one's own.
        ([step("ip_rcv_core", FAR), step("ip_output", ETH1)], 0),
        ([step("__ip_local_out", Device(0, "", OWN)), step("ip_output", ETH1)], 0),
        ([step("ip_rcv_core", ETH0, skb=2), step("ip_output", ETH1)], 0),
        ([step("ip_rcv_core"), step("ip_output", ETH1)], 0),
        # It was elsewhere meanwhile, and came back by another device.
        ([step("ip_rcv_core", ETH0), step("ip_rcv_core", FAR), step("ip_output", ETH1)], 0),
        ([step("ip_rcv_core", ETH0), step("ip_rcv_core", FAR), step("ip_rcv_core", ETH1)], 3),
    ],
)
def test_routes_are_asked_for_as_the_packet_came(way: list[Event], iif: int, asked: Asked) -> None:
    ask("route", *way)
    assert asked_of("route", asked)[2] == {"iif": iif, "mark": 0}


def gateway(text: str) -> tuple[tuple[str, int], ...]:
    """The facts, as a little-endian machine has them."""
    address = ip_address(text)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return ("gateway", int.from_bytes(address.packed, "little")), ("gateway_family", family)


ROUTER, ROUTER6 = ip_address("192.168.7.1"), ip_address("fe80::77")


@pytest.mark.parametrize(
    ("way", "at", "hop"),
    [
        ([step("x", ETH0)], -1, TARGET),
        ([step("ip_output", ETH0, facts=gateway("192.168.7.1")), step("x", ETH0)], -1, ROUTER),
        ([step("ip_output", ETH0, facts=gateway("192.168.7.1"))], -1, ROUTER),
        # An IPv4 route by a router of IPv6, and a route of IPv6, whose facts have no family.
        ([step("ip_output", ETH0, facts=gateway("fe80::77"))], -1, ROUTER6),
        ([step("ip6_output", ETH0, ipv6(UDP), facts=gateway("fe80::77")[:1])], -1, ROUTER6),
        # The destination is on the link.
        ([step("ip_output", ETH0, facts=gateway("0.0.0.0")), step("x", ETH0)], -1, TARGET),
        ([step("ip_output", ETH0, facts=gateway("192.168.7.1"), skb=2), step("x", ETH0)], -1, TARGET),
        ([step("x", ETH0), step("ip_output", ETH0, facts=gateway("192.168.7.1"))], 0, TARGET),
        (
            [
                step("ip_forward", ETH0, facts=gateway("10.9.9.9")),
                step("ip_output", ETH0, facts=gateway("192.168.7.1")), step("x", ETH0),
            ], -1, ROUTER,
        ),
        (
            [
                step("ip_forward", ETH0, facts=gateway("10.9.9.9")),
                step("ip_output", ETH0, facts=gateway("0.0.0.0")), step("x", ETH0),
            ], -1, TARGET,
        ),
    ],
)  # fmt: skip
def test_the_neighbour_is_the_next_hop(way: list[Event], at: int, hop: object, asked: Asked) -> None:
    ask("neighbour", *way, at=at)
    assert asked_of("neighbour", asked)[1] == (2, hop)


@pytest.mark.parametrize(
    ("way", "at", "name"),
    [
        ([step("ip_forward", ETH0, facts=(("device", "eth1"),)), step("x", ETH0)], -1, "eth1"),
        ([step("ip_forward", ETH0, facts=(("device", ""),)), step("x", ETH0)], -1, ""),
        ([step("x", ETH0), step("ip_output", ETH0, facts=(("device", "eth1"),))], 0, ""),
        ([step("ip_forward", ETH0, facts=(("device", "eth1"),), skb=2), step("x", ETH0)], -1, ""),
    ],
)
def test_the_mtu_is_that_of_the_way_out(way: list[Event], at: int, name: str, asked: Asked) -> None:
    ask("mtu", *way, at=at)
    assert asked_of("_mtu_of", asked)[1] == (2, name, TARGET, SOURCE)


@pytest.mark.parametrize(("name", "ifindex"), [("lo", 1), ("", 2), ("gone", 2)])
def test_a_device_is_looked_up_where_the_question_is_answered(
    name: str, ifindex: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index(name: str) -> int:
        if name == "gone":
            raise OSError("no device of this name")
        return {"lo": 1}[name]

    monkeypatch.setattr(evidence_routes, "mtu", lambda *arguments: iter([Evidence("x", str(arguments))]))
    monkeypatch.setattr(socket, "if_nametoindex", index)
    (found,) = proof._mtu_of(2, name, TARGET, SOURCE)
    assert found.text == str((ifindex, TARGET, SOURCE))
