"""--monitor: a line for each trouble and none else, and the same in numbers, against what the hosts count."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import socket
import urllib.request
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .net import Host, ping, sh
from .tool import Line, Nettrace, parse_line
from .traffic import Peer, send_udp, tcp, tcp_refused, udp

Pair = tuple[Host, Host]

OPEN, CLOSED, CROWDED, STALLED, FULL, LAST = 9400, 9401, 9402, 9403, 9404, 9499
DATAGRAMS = 5
# More than an emulated CPU that is busy delays healthy traffic.
DELAY_MS = 400


@dataclass(frozen=True)
class Seen:
    """What nettrace told, what the metrics were at the end, and what the hosts counted meanwhile."""

    trace: Nettrace
    lines: list[Line]
    metrics: dict[str, float]
    counted: dict[str, int]
    ended: dict[str, int]  # what they had counted when nettrace had ended

    def of(self, trace: str, text: str = "") -> list[Line]:
        return [line for line in self.lines if line.trace == trace and text in line.packet]


def scraped(port: int) -> dict[str, float]:
    """The metrics, by name and labels as they are written."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {}
    for name, labels, value, *_ in samples:
        inside = ",".join(f'{key}="{word}"' for key, word in labels.items())
        found[f"{name.replace('nettrace_', '', 1)}{{{inside}}}"] = value
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def counters(left: Host, right: Host) -> dict[str, int]:
    return {
        "resent": left.snmp("Tcp", "RetransSegs") + right.snmp("Tcp", "RetransSegs"),
        "resets": right.snmp("Tcp", "OutRsts"),
        "no ports": right.snmp("Udp", "NoPorts") + right.snmp6("Udp6NoPorts"),
        "overflows": right.netstat("TcpExt", "ListenOverflows"),
        "timeouts": left.netstat("TcpExt", "TCPTimeouts") + right.netstat("TcpExt", "TCPTimeouts"),
        "buffer": right.snmp("Udp", "RcvbufErrors"),
    }


@pytest.fixture(scope="module")
def seen(pair: Pair) -> Seen:
    left, right = pair
    port = free_port()
    right.sh("nft 'add table ip t; add chain ip t input { type filter hook input priority 0; }'")
    right.sh("nft add rule ip t input icmp type echo-request drop")
    left.sh("sysctl -qw net.ipv4.neigh.l0.retrans_time_ms=100")
    try:
        before = counters(left, right)
        with Nettrace("--monitor", "--metrics", str(port), "--filter-srtt", str(DELAY_MS // 2), "--detail") as trace:
            assert tcp(left, right, right.ip, OPEN, 200_000).received == 200_000
            assert udp(left, right, right.ip6, OPEN, 3) == 3
            send_udp(left, right.ip, LAST)
            trace.wait_line(f":{LAST} ")
            for address in (right.ip, right.ip6):
                send_udp(left, address, CLOSED, DATAGRAMS)
                tcp_refused(left, address, CLOSED)
            assert ping(left, right.ip, 2)["received"] == 0
            assert ping(left, "10.0.42.99")["received"] == 0
            holder = Peer(right, "udp-hold", right.ip, str(FULL))
            send_udp_full(left, right)
            holder.kill()
            crowd = Peer(right, "tcp-crowd", right.ip, str(CROWDED), "4")
            trace.wait_line("[tcp_conn_request")
            crowd.kill()
            server = Peer(right, "tcp-serve", right.ip, str(STALLED))
            stalled = Peer(left, "tcp-stall", right.ip, str(STALLED), "5000")
            left.sh(f"tc qdisc add dev l0 root netem delay {DELAY_MS}ms")
            stalled.go_on()
            trace.wait_line("[tcp_ack_update_rtt")
            left.sh("tc qdisc change dev l0 root netem loss 100%")
            # Those whose SYNs were dropped have sent theirs again, too.
            others = sum("[tcp_retransmit " in line for line in trace.output)
            trace.wait_lines_with("[tcp_retransmit ", others + 2)
            stalled.kill()
            server.kill()
            left.sh("tc qdisc del dev l0 root")
            send_udp(left, right.ip, LAST + 1)
            trace.wait_line(f":{LAST + 1} ")
            metrics = scraped(port)
            counted = {name: after - before[name] for name, after in counters(left, right).items()}
            assert trace.stop() == 0
            ended = {name: after - before[name] for name, after in counters(left, right).items()}
    finally:
        left.sh("tc qdisc del dev l0 root", check=False)
        right.sh("nft delete table ip t", check=False)
    return Seen(trace, [parse_line(text) for text in trace.body], metrics, counted, ended)


def send_udp_full(left: Host, right: Host) -> None:
    """More than the receive buffer of a program holds that does not read."""
    buffer = int(sh("sysctl -n net.core.rmem_default"))
    send_udp(left, right.ip, FULL, count=2 * buffer // 1000, size=1000)


def test_healthy_traffic_is_no_trouble(seen: Seen) -> None:
    first = next(place for place, line in enumerate(seen.lines) if f":{LAST} " in f"{line.packet} ")
    # An emulated CPU is slow enough for segments to overtake each other.
    others = [line for line in seen.lines[:first] if not re.search("reason: TCP_O|DSACK|NOT_SPECIFIED", line.note)]
    assert [line for line in others if f":{OPEN}" in line.packet] == []


def test_drops_are_lines_and_numbers(seen: Seen, pair: Pair, kernel_has_reasons: bool) -> None:
    _, right = pair
    lines = [line for line in seen.of("kfree_skb", f":{CLOSED}") if line.packet.startswith("UDP")]
    assert len(lines) == 2 * DATAGRAMS
    # Two more were sent to see the others come.
    assert seen.counted["no ports"] == 2 * DATAGRAMS + 2
    # Without reasons, the place tells what for the datagram was dropped.
    wanted = re.compile(
        r'reason="NO_SOCKET",.*udp' if kernel_has_reasons else r'reason="none",place="__udp[46]_lib_rcv'
    )
    found = sum(number for name, number in seen.metrics.items() if wanted.search(name))
    assert found == seen.counted["no ports"]
    assert all(right.is_netns(line.netns) for line in lines)


def test_a_refused_connection(seen: Seen, pair: Pair) -> None:
    _, right = pair
    for lookup, reset, address in (
        ("__inet_lookup_listener", "tcp_v4_send_reset", right.ip),
        ("inet6_lookup_listener", "tcp_v6_send_reset", f"[{right.ip6}]"),
    ):
        (sent,) = seen.of(reset, f" -> {address}:{CLOSED} ")
        assert "answers the segment with a RST" in sent.note
        looked_up = seen.of(lookup, f" -> {address}:{CLOSED} ")
        assert all("no socket listens" in line.note for line in looked_up)
    assert seen.of("tcp_reset")
    assert seen.metrics['tcp_resets_total{direction="sent"}'] >= 2
    # The same packets, counted by the host; its own end of a killed connection may add some on both sides.
    assert seen.counted["resets"] >= 2


def test_a_rule_that_drops_is_told_with_its_chain(seen: Seen) -> None:
    lines = seen.of("nft_do_chain", "ping request")
    assert len(lines) == 2
    assert all("chain:input" in line.note and "ICMP: 10.0.42.1 -> 10.0.42.2 ping" in line.packet for line in lines)


def test_a_neighbour_that_does_not_answer(seen: Seen) -> None:
    assert len(seen.of("arp_error_report", "10.0.42.99")) == 1
    assert seen.metrics["neighbour_failures_total{}"] == 1


def test_a_listener_that_does_not_accept(seen: Seen) -> None:
    lines = seen.of("tcp_conn_request", f":{CROWDED} ")
    assert len(lines) == seen.counted["overflows"] == seen.metrics["tcp_listen_overflows_total{}"] >= 1
    assert all("its queue is full" in line.note for line in lines)


def test_a_program_that_does_not_read(seen: Seen) -> None:
    lines = seen.of("__udp_enqueue_schedule_skb", f":{FULL}")
    assert len(lines) == seen.counted["buffer"] == seen.metrics["receive_buffer_full_total{}"] >= 10
    assert all("ENOMEM" in line.note or "buffer" in line.note for line in lines)


def test_retransmissions(seen: Seen) -> None:
    # The kernel counts the first of several time-outs in a row; while a segment is still queued, none is sent again.
    assert seen.of("tcp_retransmit_timer") and seen.ended["timeouts"] >= 1
    assert 2 <= len(seen.of("tcp_retransmit")) <= seen.ended["resent"]
    assert seen.of("tcp_retransmit", f":{STALLED} ")
    assert 2 <= seen.metrics["tcp_retransmissions_total{}"] <= seen.counted["resent"]
    assert seen.metrics["tcp_retransmission_timeouts_total{}"] >= 1


def test_round_trips(seen: Seen) -> None:
    lines = seen.of("tcp_ack_update_rtt")
    assert lines
    for line in lines:
        match = re.search(r"rtt:([\d.]+)ms, srtt:([\d.]+)ms", line.note)
        assert match and float(match[2]) >= DELAY_MS / 2, line
    assert seen.metrics["tcp_rtt_seconds_count{}"] > len(lines)
    slow = seen.metrics["tcp_rtt_seconds_count{}"] - seen.metrics['tcp_rtt_seconds_bucket{le="0.065536"}']
    assert slow >= 1


def test_packets_are_timed_by_chance(seen: Seen) -> None:
    timed = [seen.metrics[f'stack_seconds_count{{direction="{direction}"}}'] for direction in ("in", "out")]
    assert sum(timed) > 0


def test_what_it_costs_and_loses(seen: Seen) -> None:
    assert seen.metrics["cpu_seconds_total{}"] > 0 and seen.metrics["memory_max_bytes{}"] > 1 << 20
    last = max(place for place, line in enumerate(seen.lines) if f":{LAST + 1} " in f"{line.packet} ")
    assert last + 1 <= seen.metrics["events_total{}"] <= len(seen.lines)
    assert {number for name, number in seen.metrics.items() if name.startswith("events_lost_total")} == {0}
    assert seen.trace.summary("events") == len(seen.lines)
