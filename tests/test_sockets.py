"""Sockets as lines, and round trips as tables."""

import pytest

from nettrace.event import Packet, Socket
from nettrace.histogram import BUCKETS, Histogram, bucket
from nettrace.sockets import peer_of, peers_text, rtt_text, socket_text

from .headers import FROM_SOCKET, IP, IPV6, TCP, UDP, packet, ports

OPEN = Socket(
    state=1, whole=True, packets_out=2, retrans_out=1, unacked=300, wmem=1280, rmem=64, timer=5, timer_ns=176_000_000
)


def ends(l4_protocol: int = TCP, sport: int = 40000, dport: int = 443) -> Packet:
    return packet(IP, l4_protocol, ports(sport, dport), flags=FROM_SOCKET)


def of(*values: int) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts))


@pytest.mark.parametrize(
    ("socket", "text"),
    [
        (OPEN, "ESTABLISHED CA_Open out:(p2 r1) unack:300 mem:(w1280 r64) timer:(loss_probe, 0.176s)"),
        (
            OPEN._replace(ca_state=4, timer=1, timer_ns=2_000_000_000),
            "ESTABLISHED CA_Loss out:(p2 r1) unack:300 mem:(w1280 r64) timer:(retrans, 2.000s)",
        ),
        # It is late: the timer softirq has not come to it yet.
        (
            OPEN._replace(timer=2, timer_ns=-4_000_000),
            "ESTABLISHED CA_Open out:(p2 r1) unack:300 mem:(w1280 r64) timer:(dack, -0.004s)",
        ),
        (Socket(state=10, whole=True), "LISTEN CA_Open out:(p0 r0) unack:0 mem:(w0 r0)"),
        (Socket(state=12, whole=False), "NEW_SYN_RECV"),
        (Socket(state=6, whole=False), "TIME_WAIT"),
        # What a newer kernel may have.
        (
            Socket(state=99, whole=True, ca_state=7, timer=9),
            "99 7 out:(p0 r0) unack:0 mem:(w0 r0) timer:(9, 0.000s)",
        ),
        (
            OPEN._replace(timer=None, rtt_us=343, srtt_us=1462, rtt_min_us=301),
            "ESTABLISHED CA_Open out:(p2 r1) unack:300 mem:(w1280 r64)"
            " *rtt:0.343ms, srtt:1.462ms, rtt_min:0.301ms*",
        ),
        (
            OPEN._replace(timer=None, rtt_us=20000),
            "ESTABLISHED CA_Open out:(p2 r1) unack:300 mem:(w1280 r64) *rtt:20.000ms*",
        ),
    ],
)  # fmt: skip
def test_tcp(socket: Socket, text: str) -> None:
    assert socket_text(ends(), socket) == f"TCP: 10.0.0.1:40000 -> 10.0.0.2:443 {text}"


def test_udp_and_ipv6() -> None:
    assert socket_text(ends(UDP), Socket(7, True, wmem=768)) == "UDP: 10.0.0.1:40000 -> 10.0.0.2:443 mem:(w768 r0)"
    v6 = packet(IPV6, TCP, ports(9000, 0), flags=FROM_SOCKET, source="fd42::1", target="::")
    assert socket_text(v6, Socket(10, True)).startswith("TCP: fd42::1:9000 -> :::0 LISTEN ")


def test_a_protocol_without_ports() -> None:
    assert socket_text(packet(IP, 1, flags=FROM_SOCKET), Socket(1, True)) == "ICMP: 10.0.0.1 -> 10.0.0.2 mem:(w0 r0)"


def test_table() -> None:
    text = rtt_text([of(30_000, 30_000, 30_000, 70_000), of(31_000), of(29_000)])
    assert text.splitlines() == [
        "rtt distribution: 4 samples",
        "   16.384ms -  32.767ms: 3  75.0% |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
        "   32.768ms -  65.535ms: 0   0.0% |                                        |",
        "   65.536ms - 131.071ms: 1  25.0% |@@@@@@@@@@@@@@                          |",
        "  sample    p50 30.207ms  p90 71.679ms  p99 71.679ms",
        "  smoothed  p50 31.231ms  p90 31.231ms  p99 31.231ms",
        "  least     p50 29.183ms  p90 29.183ms  p99 29.183ms",
    ]
    assert rtt_text([of(), of(), of()]) == "rtt distribution: 0 samples"


def test_peers_are_shown_by_their_samples_and_bounded() -> None:
    def key(last: int) -> bytes:
        return bytes([10, 0, 0, last]).ljust(16, b"\0") + IP.to_bytes(4, "little") + bytes(4)

    peers = [(*peer_of(key(last)), of(*[1000] * last)) for last in range(1, 23)]
    lines = peers_text(peers, crowded_out=5).splitlines()
    assert lines[0] == f"  {'10.0.0.22':<39} {22:>8} samples  p50 1.007ms  p90 1.007ms  p99 1.007ms"
    assert [line.split()[0] for line in lines[:20]] == [f"10.0.0.{last}" for last in range(22, 2, -1)]
    assert lines[20:] == ["  2 more peers: 3 samples", "  peers beyond the first 22: 5 samples"]
    six = (bytes(15) + b"\1", IPV6, of(16))
    assert peers_text([six], 0).split() == ["::1", "1", "samples", "p50", "0.016ms", "p90", "0.016ms", "p99", "0.016ms"]
