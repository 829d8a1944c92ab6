"""Filters, counts and ways of showing, each against traffic of which some must match and some must not."""

import re
import time

import pytest

from .net import Host, ping
from .tool import READ_BY_PROGRAM, Nettrace
from .traffic import UdpServer, send_udp, udp

Pair = tuple[Host, Host]

# Two traces attach in a moment, and a hit of theirs is a datagram that came in.
RECEIVE = ("--basic", "-t", "udp_rcv,udpv6_rcv")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-s", "10.0.42.1"], {("10.0.42.1:6001", "10.0.42.2:6002"), ("10.0.42.1:6003", "10.0.42.3:6004")}),
        (["-d", "10.0.42.3", "-p", "ip"], {("10.0.42.1:6003", "10.0.42.3:6004")}),
        (["--addr", "10.0.42.2"], {("10.0.42.1:6001", "10.0.42.2:6002"), ("10.0.42.2:6005", "10.0.42.1:6006")}),
        (["-S", "6005", "-D", "6006"], {("10.0.42.2:6005", "10.0.42.1:6006")}),
        (["-d", "fd42::2", "-p", "udp", "-P", "6007"], {("[fd42::1]:6007", "[fd42::2]:6008")}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters(pair: Pair, options: list[str], expected: set[tuple[str, str]]) -> None:
    left, right = pair
    with Nettrace(*RECEIVE, *options) as trace:
        assert udp(left, right, "10.0.42.2", 6002, source_port=6001) == 1
        assert udp(left, right, "10.0.42.3", 6004, source_port=6003) == 1
        assert udp(right, left, "10.0.42.1", 6006, source_port=6005) == 1
        assert udp(left, right, "fd42::2", 6008, source_port=6007) == 1
        trace.wait_lines(len(expected))
        assert trace.stop() == 0
    seen = [tuple(line.packet[len("UDP: ") :].split(" -> ")) for line in trace.lines]
    assert sorted(seen) == sorted(expected)


def test_a_count_stops_at_exactly_so_many_packets(pair: Pair) -> None:
    left, right = pair
    with Nettrace("-p", "icmp", "--addr", right.ip, "-c", "2") as trace:
        pinger = left.popen("ping", "-n", "-i", "0.2", "-c", "50", right.ip)
        started = time.monotonic()
        assert trace.wait_end() == 0
        assert time.monotonic() - started < 60
        pinger.terminate()
        pinger.communicate()
    request, reply = trace.blocks
    assert request.has("ping request, seq: 1")
    assert reply.has("ping reply, seq: 1")
    assert trace.summary("packets") == 2


def test_basic_prints_each_hit_as_it_comes_and_dates_are_wall_clock_time(pair: Pair) -> None:
    left, right = pair
    with Nettrace("--basic", "-p", "udp", "-D", "6010", "--date") as trace:
        before = time.time()
        assert udp(left, right, right.ip, 6010, count=3) == 3
        after = time.time()
        trace.wait_lines(3 * 8)
        assert trace.stop() == 0
    names = [line.trace for line in trace.lines]
    for name in ("__ip_local_out", "__dev_queue_xmit", "netif_receive_skb", "udp_rcv"):
        assert names.count(name) == 3, name
    assert sum(names.count(name) for name in READ_BY_PROGRAM) == 3
    times = [line.time for line in trace.lines]
    assert times == sorted(times)
    for each in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", each)
        seconds = time.mktime(time.strptime(each[:19], "%Y-%m-%d %H:%M:%S")) + float(each[19:])
        assert before - 0.01 <= seconds <= after + 0.01
    assert trace.summary("events") == len(trace.lines)


def test_chosen_traces_are_all_that_is_shown(pair: Pair) -> None:
    left, right = pair
    with Nettrace("-p", "udp", "-D", "6012", "-t", "ip_output,udp_rcv", "-c", "1") as trace:
        receiver = UdpServer(right, right.ip, 6012)
        send_udp(left, right.ip, 6012)
        assert receiver.datagrams() == 1
        assert trace.wait_end() == 0
    (block,) = trace.blocks
    # What ends a packet is always there: a block is printed when its packet is freed.
    assert block.traces[:-1] == ["ip_output", "udp_rcv"]
    assert block.traces[-1] in READ_BY_PROGRAM


def test_a_vlan_tag_is_shown_and_followed(pair: Pair) -> None:
    left, right = pair
    for host, device, address in ((left, "l0", "10.0.43.1"), (right, "r0", "10.0.43.2")):
        host.sh(f"ip link add link {device} name vlan7 type vlan id 7")
        host.sh(f"ip addr add {address}/24 dev vlan7")
        host.sh("ip link set vlan7 up")
    with Nettrace("-p", "icmp", "-d", "10.0.43.2", "-c", "1") as trace:
        assert ping(left, "10.0.43.2")["received"] == 1
        assert trace.wait_end() == 0
    for host in pair:
        host.sh("ip link del vlan7")
    (block,) = trace.blocks
    tags = [line.packet.partition(" vlan:")[2] for line in block.lines]
    assert "7" in tags
    assert tags[0] == ""
    assert block.traces[-1] == "consume_skb"
