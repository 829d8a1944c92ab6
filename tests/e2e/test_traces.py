"""Which traces there are, and what they tell beyond that a packet came by."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re

import pytest

from .net import Host, ping
from .tool import Nettrace
from .traffic import run_peer

Pair = tuple[Host, Host]

PINGS = 3
PACKETS = 300


@pytest.fixture(scope="module")
def told(pair: Pair) -> Nettrace:
    """Pings with all that can be told of traces, and of traces chosen in every way."""
    left, right = pair
    ping(left, right.ip)
    with Nettrace(
        "-p", "icmp", "-d", right.ip, "--detail", "-o", "group,len,mark", "--ret", "--latency-show", "--latency-free",
        "--trace-matcher", "__ip_local_out", "--trace-exclude", "nf_hook_slow,ip-route",
        "--trace-stack", "icmp_rcv,life",
    ) as trace:  # fmt: skip
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        trace.wait_blocks(PINGS)
        assert trace.stop() == 0
    return trace


def test_traces_are_excluded_and_matched_as_asked(told: Nettrace) -> None:
    assert len(told.blocks) == PINGS
    for block in told.blocks:
        assert block.traces[0] == "__ip_local_out"
        assert not {"nf_hook_slow", "ip_route_input_slow", "fib_validate_source"} & set(block.traces)
        assert "icmp_echo" in block.traces


def test_the_call_stack_leads_from_the_program_to_the_function(told: Nettrace) -> None:
    for block in told.blocks:
        (line,) = [line for line in block.lines if line.trace == "icmp_rcv"]
        assert line.stack[0] == "icmp_rcv"
        assert "ip_local_deliver_finish" in line.stack or "ip_protocol_deliver_rcu" in line.stack
        (end,) = [line for line in block.lines if line.trace == "consume_skb"]
        assert any(name.startswith("icmp_rcv") for name in end.stack), end.stack
        assert not any(name.startswith(("bpf_", "__bpf_")) for name in end.stack)
        assert all(not line.stack for line in block.lines if line.trace not in ("icmp_rcv", "consume_skb"))


def test_returns_are_told_by_their_meaning(told: Nettrace) -> None:
    for block in told.blocks:
        notes = {line.trace: line.note for line in block.lines}
        # The function hands back the packet that it was given.
        (line,) = [line for line in block.lines if line.trace == "ip_rcv_core"]
        assert re.match(rf"\*return: {line.skb}\b", line.note), line.note
        assert notes["__dev_queue_xmit"].startswith("*return: NET_XMIT_SUCCESS")
        assert "return" not in notes["consume_skb"] and "return" not in notes["netif_receive_skb"]


def test_columns_are_as_asked(told: Nettrace) -> None:
    for block in told.blocks:
        for line in block.lines:
            assert re.search(r"\[[a-z0-9-]+ *\]\[len:\d+\]\[mark:0x0\]$", line.detail), line.detail
        groups = {line.trace: line.detail for line in block.lines}
        assert "[icmp" in groups["icmp_rcv"]
        # 8 bytes of header and 56 of data, and below the IP header of 20 the Ethernet one.
        assert "[len:64]" in groups["icmp_rcv"] and "[len:98]" in groups["net_dev_start_xmit"]


def test_times_add_up(told: Nettrace) -> None:
    for block in told.blocks:
        steps = [line.latency_ms for line in block.lines]
        assert steps[0] is None
        whole = (block.lines[-1].seconds - block.lines[0].seconds) * 1000
        assert block.latency_ms == pytest.approx(whole, abs=0.002)
        assert sum(step for step in steps if step is not None) == pytest.approx(whole, abs=0.001 * len(steps))


def test_a_return_is_that_of_its_own_call(pair: Pair) -> None:
    """Packets of both directions on both CPUs: ip_rcv_core() returns the very packet that it was given."""
    left, right = pair
    with Nettrace("-p", "udp", "-D", "7301", "-t", "ip_rcv_core,udp_rcv", "--ret", "--detail") as trace:
        senders = [
            host.popen("python3", "tests/e2e/peer.py", "udp-flood", target.ip, "7301", str(first), str(PACKETS))
            for host, target, first in ((left, right, 31000), (right, left, 32000))
        ]
        for sender in senders:
            sender.communicate()
            assert sender.returncode == 0
        assert run_peer(left, "udp-flood", right.ip, "7301", "33000", "1") == {"sent": 1}
        trace.wait_blocks(1, containing=":33000 -> ")
        assert trace.stop() == 0
    blocks = trace.blocks
    assert len(blocks) + trace.summary("packets lost whole") == 2 * PACKETS + 1
    for block in blocks:
        lines = [line for line in block.lines if line.trace == "ip_rcv_core"]
        assert [line.note for line in lines] == [f"*return: {lines[0].skb}*"], block


def test_hits_are_counted(pair: Pair) -> None:
    left, right = pair
    with Nettrace("-p", "icmp", "--addr", right.ip, "--func-stats", "-c", str(2 * PINGS)) as trace:
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        assert trace.wait_end() == 0
    tables = "\n".join(trace.body).split("function statistics:\n")
    counts = dict(re.findall(r"^ (\S+) *: (\d+)$", tables[-1], re.MULTILINE))
    assert counts["icmp_rcv"] == counts["netif_receive_skb"] == str(2 * PINGS)
    assert counts["icmp_echo"] == str(PINGS)


def test_all_traces_of_the_tree_at_once(pair: Pair) -> None:
    left, right = pair
    with Nettrace("-t", "all", "-p", "icmp", "-d", right.ip, "-c", "2", "-v") as trace:
        ping(left, right.ip, 2)
        assert trace.wait_end() == 0
    assert len(trace.blocks) == 2
    for block in trace.blocks:
        assert {"__ip_local_out", "netif_receive_skb", "icmp_rcv", "consume_skb"} <= set(block.traces)
        assert block.marks == []
    reasons = re.findall(r"^\S+ is skipped: (.*)$", trace.stderr, re.MULTILINE)
    expected = re.compile(
        r"no such function|no tracepoint|inlined|only a socket|not to be traced|no packet among|several"
    )
    assert reasons
    assert [reason for reason in reasons if not expected.search(reason)] == []
