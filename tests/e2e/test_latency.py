"""How long packets take, where the time is known: a qdisc that delays, Nagle, and a program that reads late."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .net import Host, hosts, join, ping
from .tool import Nettrace
from .traffic import Peer, run_peer, udp

PORT = 7600
DELAY_MS = 100.0  # of everything that the near host sends
HOLD_MS = 150.0  # that data lies in the receive queue of the far host
# netem rounds the delay to ticks of its own.
TOLERANCE_MS = 0.1

LINE = re.compile(
    r"\[(?P<time>[\d.]+)\] \[(?P<end>\S+) *\]\[(?P<first>\S+) -> (?P<last>\S+) *\] "
    r"(?P<packet>TCP: .*?) latency: (?P<ms>\d+\.\d{3})ms"
)


@dataclass(frozen=True)
class Measured:
    """A line."""

    seconds: float
    end: str
    first: str
    last: str
    packet: str
    ms: float

    @classmethod
    def of(cls, text: str) -> "Measured":
        match = LINE.fullmatch(text)
        assert match, text
        return cls(float(match["time"]), *match.group("end", "first", "last", "packet"), float(match["ms"]))


@dataclass(frozen=True)
class Exchange:
    """What the programs and the hosts said of a connection."""

    near: Host
    held_ms: float  # between the data's being there and the reading
    sent_ms: float  # that the first write took
    acknowledged_ms: float  # between the first write and the last acknowledgement
    near_sent: int  # segments
    far_sent: int


@pytest.fixture(scope="module")
def delayed() -> Iterator[tuple[Host, Host]]:
    """Two hosts; what the near one sends waits in its qdisc."""
    with hosts("near", "far"):
        join("near", "n0", ["10.0.43.1/24", "fd43::1/64"], "far", "f0", ["10.0.43.2/24", "fd43::2/64"])
        near, far = Host("near", "10.0.43.1", "fd43::1"), Host("far", "10.0.43.2", "fd43::2")
        for address in (far.ip, far.ip6):
            assert ping(near, address)["received"] == 1
        near.sh(f"tc qdisc add dev n0 root netem delay {DELAY_MS}ms")
        yield near, far


def exchange(near: Host, far: Host, address: str) -> Exchange:
    """A connection from near to far with two segments of one byte, which far reads late and then closes."""
    before = near.snmp("Tcp", "OutSegs"), far.snmp("Tcp", "OutSegs")
    server = Peer(far, "tcp-slow-serve", address, str(PORT), str(HOLD_MS / 1000))
    client = run_peer(near, "tcp-two-writes", address, str(PORT))
    served = server.result()
    return Exchange(
        near,
        (served["read_ns"] - served["there_ns"]) / 1e6,
        (client["sent_ns"] - client["written_ns"]) / 1e6,
        (client["acknowledged_ns"] - client["written_ns"]) / 1e6,
        near.snmp("Tcp", "OutSegs") - before[0],
        far.snmp("Tcp", "OutSegs") - before[1],
    )


def from_near(lines: list[Measured], far_address: str) -> list[Measured]:
    target = f"[{far_address}]:{PORT}" if ":" in far_address else f"{far_address}:{PORT}"
    return [line for line in lines if f"-> {target} " in line.packet]


@pytest.mark.parametrize("more", [(), ("--backend", "kprobe", "--perf-buffer")], ids=["", "kprobe"])
def test_from_ip_to_the_driver(delayed: tuple[Host, Host], more: tuple[str, ...]) -> None:
    near, far = delayed
    traces = "__ip_queue_xmit,ip6_xmit"
    with Nettrace(
        "--latency", "-p", "tcp", "-P", str(PORT), "-t", f"{traces},net_dev_start_xmit", "--trace-matcher", traces,
        "--trace-free", "net_dev_start_xmit", "--min-latency", "50ms", *more,
    ) as trace:  # fmt: skip
        exchanges = [exchange(near, far, address) for address in (far.ip, far.ip6)]
        sent = sum(each.near_sent for each in exchanges)
        trace.wait_lines(sent)
        assert trace.stop() == 0
    lines = [Measured.of(text) for text in trace.body]
    # As many as the host says that it has sent; what the far one sends waits nowhere.
    assert len(lines) == sent == trace.summary("packets")
    for address, each in zip((far.ip, far.ip6), exchanges):
        assert len(from_near(lines, address)) == each.near_sent
    assert {line.last for line in lines} == {line.end for line in lines} == {"net_dev_start_xmit"}
    assert {line.first for line in from_near(lines, far.ip)} == {"__ip_queue_xmit"}
    assert all(line.ms >= DELAY_MS - TOLERANCE_MS for line in lines)
    assert sorted(line.ms for line in lines)[len(lines) // 2] < 2 * DELAY_MS
    # A SYN-ACK and what a closed socket says go other ways.
    short = trace.summary("packets below the least latency")
    assert 0 < short <= sum(each.far_sent for each in exchanges)
    assert trace.summary("messages lost") == trace.summary("unfinished") == 0


def test_from_the_program_to_the_transmission(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    with Nettrace(
        "--latency", "-p", "tcp", "-P", str(PORT), "-t", "tcp_skb_entail,__tcp_transmit_skb,__tcp_retransmit_skb",
        "--trace-matcher", "tcp_skb_entail", "--trace-free", "__tcp_transmit_skb,__tcp_retransmit_skb",
    ) as trace:  # fmt: skip
        exchanges = [exchange(near, far, address) for address in (far.ip, far.ip6)]
        trace.wait_lines(4)
        assert trace.stop() == 0
    lines = [Measured.of(text) for text in trace.body]
    assert len(lines) == 4 == trace.summary("packets")
    assert {(line.first, line.last) for line in lines} == {("tcp_skb_entail", "__tcp_transmit_skb")}
    for pair, each in ((lines[:2], exchanges[0]), (lines[2:], exchanges[1])):
        # The first byte goes while it is written; the second one when the first one was acknowledged.
        assert pair[0].ms <= each.sent_ms
        assert DELAY_MS - TOLERANCE_MS <= pair[1].ms < each.acknowledged_ms


def test_from_the_program_to_the_acknowledgement(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    with Nettrace("--latency", "-p", "tcp", "-P", str(PORT), "-t", "tcp_skb_entail", "--latency-free") as trace:
        exchanges = [exchange(near, far, address) for address in (far.ip, far.ip6)]
        trace.wait_lines(4)
        assert trace.stop() == 0
    lines = [Measured.of(text) for text in trace.body]
    assert len(lines) == 4 == trace.summary("packets")
    # Not the freeing of the clones that were sent: these are freed when the far host's program has read them.
    assert {(line.first, line.last) for line in lines} == {("tcp_skb_entail", "__kfree_skb")}
    for address, each in zip((far.ip, far.ip6), exchanges):
        times = [line.ms for line in from_near(lines, address)]
        assert len(times) == 2 and min(times) >= DELAY_MS - TOLERANCE_MS
        assert max(times) < each.acknowledged_ms + 10


def test_from_the_driver_to_the_socket_while_somebody_listens(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    queues = "tcp_queue_rcv,tcp_data_queue_ofo"
    with Nettrace(
        "--latency", "-p", "tcp", "-P", str(PORT), "-t", f"__netif_receive_skb_core,{queues}",
        "--trace-matcher", "__netif_receive_skb_core", "--trace-free", queues,
    ) as trace:  # fmt: skip
        received = near.snmp("Tcp", "InSegs") + far.snmp("Tcp", "InSegs")
        # A packet socket, for which each packet is cloned.
        monitor = Peer(far, "sniff", "f0", "4")
        for address in (far.ip, far.ip6):
            exchange(near, far, address)
        monitor.result()
        received = near.snmp("Tcp", "InSegs") + far.snmp("Tcp", "InSegs") - received
        trace.wait_lines(4)
        assert trace.stop() == 0
    lines = [Measured.of(text) for text in trace.body]
    data = [line for line in lines if "flags:AP" in line.packet]
    assert {line.first for line in lines} == {"__netif_receive_skb_core"}
    assert len(from_near(data, far.ip)) == len(from_near(data, far.ip6)) == 2
    assert all(line.ms < DELAY_MS for line in data)
    # Which of them depends on what the compiler inlined.
    assert {line.last for line in data} <= {"tcp_queue_rcv", "tcp_data_queue_ofo", "tcp_data_queue"}
    # Every segment that the hosts have received has a line or was seen at the first point only.
    assert len(lines) + trace.summary("packets seen at one point only") == received


def test_in_the_receive_queue(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    queues = "tcp_queue_rcv,tcp_data_queue_ofo"
    with Nettrace(
        "--latency", "-p", "tcp", "-P", str(PORT), "-t", queues, "--trace-matcher", queues, "--latency-free",
        "--min-latency", f"{HOLD_MS}ms",
    ) as trace:  # fmt: skip
        exchanges = [exchange(near, far, address) for address in (far.ip, far.ip6)]
        trace.wait_lines(2)
        assert trace.stop() == 0
    lines = [Measured.of(text) for text in trace.body]
    for address, each in zip((far.ip, far.ip6), exchanges):
        # The data of the second segment may be merged into the first one: then its own way ends at once.
        waited = [line for line in from_near(lines, address) if "flags:AP" in line.packet]
        assert 1 <= len(waited) <= 2
        assert all(line.ms >= each.held_ms for line in waited)
        assert all(line.last == line.end != line.first for line in waited)


def tables(trace: Nettrace) -> list[str]:
    """The last ones that were printed."""
    return trace.body[max(at for at, text in enumerate(trace.body) if text.startswith("latency distribution")) :]


def counted(lines: list[str]) -> list[tuple[float, float, int]]:
    """The rows of the distribution: from and to microseconds, and how many."""
    found = (re.match(r" +([\d.]+)us - +([\d.]+)us: +(\d+) ", text) for text in lines)
    return [(float(row[1]), float(row[2]), int(row[3])) for row in found if row]


def test_the_summary_tells_how_many_packets_took_how_long_and_where(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    count = 20
    with Nettrace("--latency-summary", "-p", "udp", "-P", str(PORT), "-c", str(2 * count)) as trace:
        for address in (far.ip, far.ip6):
            assert udp(near, far, address, PORT, count) == count
        assert trace.wait_end() == 0
    last = tables(trace)
    assert last[0] == f"latency distribution: {2 * count} packets"
    rows = counted(last)
    assert sum(number for _, _, number in rows) == 2 * count
    assert rows[0][1] >= (DELAY_MS - TOLERANCE_MS) * 1000
    percentiles = re.search(r"p50 ([\d.]+)us  p90 ([\d.]+)us  p99 ([\d.]+)us", "\n".join(last))
    assert percentiles
    p50, p90, p99 = map(float, percentiles.groups())
    # The middle of a bucket is at most a 32nd away from what is counted there.
    assert (DELAY_MS - TOLERANCE_MS) * 1000 * 31 / 32 <= p50 <= p90 <= p99
    steps = last[last.index("costliest steps:") + 1 :]
    assert steps[0].split() == ["from", "to", "count", "mean", "max", "share"]
    ways = [line.split() for line in steps[1:] if line.strip() and "others)" not in line]
    origin, target, _, mean, most, share = ways[0]
    # Which of these there are depends on the kernel.
    assert origin in ("__dev_queue_xmit", "netem_enqueue", "qdisc_enqueue")
    # Of several packets that the qdisc gives away at once, some functions see only the first.
    waits = [int(steps) for way, _, steps, mean, _, _ in ways if way == origin and float(mean[:-2]) >= DELAY_MS * 900]
    assert sum(waits) == 2 * count
    assert target in ("qdisc_dequeue", "sch_direct_xmit", "net_dev_start_xmit")
    # qdisc_enqueue tells when the packet is in the queue already.
    assert DELAY_MS * 900 <= float(mean[:-2]) <= float(most[:-2])
    assert float(share[:-1]) > 50
    assert trace.summary("packets") == 2 * count
    assert trace.summary("packets seen at one point only") == trace.summary("unfinished") == 0


def test_the_summary_leaves_out_what_was_fast_or_seen_once(delayed: tuple[Host, Host]) -> None:
    near, far = delayed
    # A device that swallows all.
    far.ip_commands("link add d0 type dummy", "addr add 10.0.44.1/24 dev d0", "link set d0 up")
    with Nettrace(
        "--latency-summary", "-p", "icmp", "-t", "__dev_queue_xmit,netem_enqueue,__netif_receive_skb_core",
        "--trace-matcher", "__dev_queue_xmit", "--min-latency", "50ms",
    ) as trace:  # fmt: skip
        assert ping(near, far.ip, 3)["received"] == 3
        assert ping(far, "10.0.44.9", 2, "-W 1")["received"] == 0
        assert trace.stop() == 0
    last = tables(trace)
    assert last[0] == "latency distribution: 3 packets"
    assert sum(number for _, _, number in counted(last)) == 3
    # The answers to the three wait nowhere.
    assert trace.summary("packets below the least latency") == 3
    assert trace.summary("packets seen at one point only") == 2
    steps = last[last.index("costliest steps:") + 2 :]
    assert [tuple(line.split()[:3]) for line in steps if line] == [
        ("netem_enqueue", "__netif_receive_skb_core", "3"),
        ("__dev_queue_xmit", "netem_enqueue", "3"),
    ]
