"""One run for each IP version, with everything that two hosts say to each other, checked from many sides."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .net import Host, forget, ping
from .tool import READ_BY_PROGRAM, Block, Nettrace
from .traffic import Connection, tcp, tcp_refused, udp

PINGS = 3
DATAGRAMS = 5
OPEN_PORT, CLOSED_PORT, UDP_PORT = 7001, 7002, 7003
TCP_BYTES = 30000


@dataclass
class Observed:
    """What nettrace printed, and what the hosts said."""

    left: Host
    right: Host
    source: str
    target: str
    version: int
    blocks: list[Block]
    pings: dict[str, int]
    connection: Connection
    datagrams: int
    tcp_segments: int
    summary: dict[str, int]

    def of(self, text: str) -> list[Block]:
        return [block for block in self.blocks if block.has(text)]

    def end(self, address: str, port: int) -> str:
        return f"{address}:{port}" if self.version == 4 else f"[{address}]:{port}"


def in_segments(*hosts: Host) -> int:
    return sum(host.snmp("Tcp", "InSegs") for host in hosts)


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def observed(request: pytest.FixtureRequest, pair: tuple[Host, Host]) -> Iterator[Observed]:
    left, right = pair
    version = request.param
    source, target, other = (left.ip, right.ip, "10.0.42.3") if version == 4 else (left.ip6, right.ip6, "fd42::3")
    with Nettrace("--addr", target, "--detail") as trace:
        forget(left, right)
        before = in_segments(left, right)
        pings = ping(left, target, PINGS)
        assert ping(left, other, 2)["received"] == 2
        connection = tcp(left, right, target, OPEN_PORT, TCP_BYTES)
        tcp_refused(left, target, CLOSED_PORT)
        datagrams = udp(left, right, target, UDP_PORT, DATAGRAMS)
        segments = in_segments(left, right) - before
        # The last thing that happened comes out last: TCP's final ACK of the connection is long gone.
        trace.wait_blocks(DATAGRAMS, containing="UDP")
        assert trace.stop() == 0
    yield Observed(
        left, right, source, target, version, trace.blocks, pings, connection, datagrams, segments,
        {what: trace.summary(what) for what in ("packets", "events", "messages lost", "unfinished", "incomplete")},
    )  # fmt: skip


def test_every_ping_and_answer_is_one_packet(observed: Observed) -> None:
    assert observed.pings == {"transmitted": PINGS, "received": PINGS}
    for kind, ends in (
        ("ping request", f"{observed.source} -> {observed.target}"),
        ("ping reply", f"{observed.target} -> {observed.source}"),
    ):
        blocks = observed.of(kind)
        assert len(blocks) == PINGS
        for sequence, block in enumerate(blocks, 1):
            assert len(block.packets) == 1
            assert f"{ends} {kind}, seq: {sequence}, id: " in block.packets[0]


def test_a_ping_is_seen_from_output_to_free(observed: Observed) -> None:
    v4 = ["ip_finish_output2", "__dev_queue_xmit", "netif_receive_skb", "ip_rcv_core",
          "ip_local_deliver", "icmp_rcv", "icmp_echo"]  # fmt: skip
    v6 = ["ip6_finish_output2", "__dev_queue_xmit", "netif_receive_skb", "ip6_rcv_core", "ip6_input", "icmpv6_rcv",
          "icmpv6_echo_reply"]  # fmt: skip
    expected = v4 if observed.version == 4 else v6
    first = "__ip_local_out" if observed.version == 4 else "__ip6_local_out"
    for block in observed.of("ping request"):
        # While the neighbour's address is unknown, a copy of the packet is made and freed.
        original = [line.trace for line in block.lines if line.skb == block.skbs[0]]
        assert original[0] == first
        assert [name for name in original if name in expected] == expected
        # Linux 5.10 frees a request of IPv6 as if it were dropped, also when it was answered.
        assert original[-1] in (("consume_skb",) if observed.version == 4 else ("consume_skb", "kfree_skb"))


def test_the_reply_reaches_the_program(observed: Observed) -> None:
    for block in observed.of("ping reply"):
        assert "netif_receive_skb" in block.traces
        assert {"raw_rcv", "rawv6_rcv", "ping_queue_rcv_skb"} & set(block.traces)


def test_events_are_in_time_order(observed: Observed) -> None:
    for block in observed.blocks:
        times = [line.seconds for line in block.lines]
        assert times == sorted(times)


def test_nothing_of_another_flow(observed: Observed) -> None:
    pattern = re.compile(rf"(?<![\d:a-f]){re.escape(observed.target)}(?![\da-f])")
    for block in observed.blocks:
        for line in block.lines:
            # Who answers for an address does not tell who asked.
            assert pattern.search(line.packet) or line.packet.startswith(f"ARP: {observed.source} is at "), line


def test_every_tcp_segment_is_seen(observed: Observed) -> None:
    receive = "tcp_v4_rcv" if observed.version == 4 else "tcp_v6_rcv"
    seen = sum(block.traces.count(receive) for block in observed.of("TCP:"))
    assert seen == observed.tcp_segments


def test_tcp_connect_data_and_close(observed: Observed) -> None:
    assert observed.connection.received == TCP_BYTES
    client = observed.end(observed.source, observed.connection.client_port)
    server = observed.end(observed.target, OPEN_PORT)
    flags_there = [flags(block) for block in observed.of(f"TCP: {client} -> {server}")]
    flags_back = [flags(block) for block in observed.of(f"TCP: {server} -> {client}")]
    assert flags_there.count("S") == 1
    assert flags_back.count("SA") == 1
    assert any("P" in each for each in flags_there)
    assert sum("F" in each for each in flags_there) == 1
    assert sum("F" in each for each in flags_back) == 1
    assert not any("R" in each for each in flags_there + flags_back)


def flags(block: Block) -> str:
    """The flags that a segment had when it arrived."""
    received = [line for line in block.lines if line.trace in ("netif_receive_skb", "tcp_v4_rcv", "tcp_v6_rcv")]
    match = re.search(r"flags:(\w*)", (received or block.lines)[-1].packet)
    assert match
    return match[1]


def test_sequence_numbers_cover_the_data(observed: Observed) -> None:
    client = observed.end(observed.source, observed.connection.client_port)
    server = observed.end(observed.target, OPEN_PORT)
    sequences = {}
    for block in observed.of(f"TCP: {client} -> {server}"):
        match = re.search(r"seq:(\d+), ack", block.lines[-1].packet)
        assert match
        sequences.setdefault(flags(block), []).append(int(match[1]))
    start, end = sequences["S"][0], next(values for key, values in sequences.items() if "F" in key)[-1]
    # The FIN takes the number behind the data; it may ride on the last data segment.
    assert 0 < (end - start) % 2**32 <= TCP_BYTES + 1


def test_a_syn_to_a_closed_port_dies_of_no_socket(observed: Observed, kernel_has_reasons: bool) -> None:
    server = observed.end(observed.target, CLOSED_PORT)
    (syn,) = observed.of(f"-> {server} ")
    receive = "tcp_v4_rcv" if observed.version == 4 else "tcp_v6_rcv"
    (drop,) = [line for line in syn.lines if line.trace == "kfree_skb"]
    assert drop.skb == next(line.skb for line in syn.lines if line.trace == receive)
    reason = r"reason: NO_SOCKET, " if kernel_has_reasons else ""
    assert re.fullmatch(rf"\*{reason}{receive}\+0x[0-9a-f]+\*", drop.note), drop.note
    # What is left is the sender's own copy, kept for sending again.
    assert {line.skb for line in syn.lines[syn.lines.index(drop) + 1 :]} <= {syn.skbs[0]}


def test_the_rst_goes_its_own_way(observed: Observed) -> None:
    server = observed.end(observed.target, CLOSED_PORT)
    (rst,) = observed.of(f"TCP: {server} -> ")
    assert flags(rst) == "AR"
    assert "tcp_rcv_state_process" in rst.traces
    assert not rst.marks


def test_every_datagram_is_one_packet(observed: Observed) -> None:
    assert observed.datagrams == DATAGRAMS
    blocks = observed.of("UDP:")
    assert len(blocks) == DATAGRAMS
    receive = "udp_rcv" if observed.version == 4 else "udpv6_rcv"
    for block in blocks:
        assert f"-> {observed.end(observed.target, UDP_PORT)}" in block.packets[0]
        assert [name for name in block.traces if name in (receive, "__udp_enqueue_schedule_skb")] == [
            receive, "__udp_enqueue_schedule_skb",
        ]  # fmt: skip
        assert block.traces[-1] in READ_BY_PROGRAM


def test_arp_question_and_answer(observed: Observed) -> None:
    if observed.version == 6:
        # Neighbour discovery is ICMPv6 to a multicast group: the answer is from the address itself.
        assert observed.of(f"{observed.target} -> {observed.source} type: 136 (neighbour advertisement)")
        return
    mac = observed.right.sh("cat /sys/class/net/r0/address").strip().upper()
    assert observed.of(f"ARP: who has {observed.target}, tell {observed.source}")
    # If the run takes long, the neighbour is asked again.
    answers = observed.of(f"ARP: {observed.target} is at {mac}")
    assert answers
    for answer in answers:
        assert answer.traces[0] == "arp_xmit"
        assert "arp_process" in answer.traces


def test_detail_names_namespace_interface_and_cpu(observed: Observed) -> None:
    columns = re.compile(r"^\[cpu:(\d+) *\]\[(?:\d+:\S+)? *\]\[(?:task|sk):.+-\d+(?:/\d+)?\]\[ns:.+\]$")
    seen = set()
    for block in observed.of("ping request"):
        for line in block.lines:
            match = columns.match(line.detail)
            assert match, line.detail
            assert int(match[1]) < 16
            assert line.skb in block.skbs
            seen.update((line.interface, host.name) for host in (observed.left, observed.right)
                        if host.is_netns(line.netns))  # fmt: skip
        assert ":ping-" in block.lines[0].detail
    assert {("l0", "left"), ("r0", "right")} <= seen
    assert {name for name, _ in seen} <= {"", "l0", "r0"}


def test_the_summary_adds_up(observed: Observed) -> None:
    assert observed.summary == {
        "packets": len(observed.blocks),
        "events": sum(len(block.lines) for block in observed.blocks),
        "messages lost": 0,
        "unfinished": sum("unfinished" in block.marks for block in observed.blocks),
        "incomplete": 0,
    }
