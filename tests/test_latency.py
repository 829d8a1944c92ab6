"""What becomes of the numbers that the programs count of latencies."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

from nettrace import counted, event
from nettrace.errors import StreamError
from nettrace.histogram import BUCKETS, Histogram, bucket, table
from nettrace.latency import Edge, latency_text
from nettrace.recorder import Recorder
from nettrace.recording import Writer
from nettrace.run import Run
from nettrace.settings import Settings
from nettrace.sinks import Display, Lookups, Text

CPUS = 2


class Counted:
    """A session that has counted."""

    def __init__(self) -> None:
        self.latencies_ns: list[list[int]] = [[] for _ in range(CPUS)]
        self.edges: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self.numbers: dict[str, int] = {}
        self.left: list[bytes] = []

    def counters(self) -> list[dict[str, int]]:
        measured = sum(map(len, self.latencies_ns))
        first = {name: {"measured": measured, **self.numbers}.get(name, 0) for name in event.COUNTERS}
        return [first, dict.fromkeys(event.COUNTERS, 0)]

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        assert name == "edges"
        return [
            (struct.pack("<QQ", *key), b"".join(struct.pack("<QQQ", *cpu) for cpu in cpus))
            for key, cpus in self.edges.items()
        ]

    def value(self, name: str, index: int) -> bytes:
        assert (name, index) == ("latencies", 0)
        counts = [[0] * BUCKETS for _ in range(CPUS)]
        for cpu, values in enumerate(self.latencies_ns):
            for value in values:
                counts[cpu][bucket(value)] += 1
        sums = map(sum, self.latencies_ns)
        return b"".join(struct.pack(f"<{BUCKETS + 1}Q", *cpu, total) for cpu, total in zip(counts, sums))

    def poll(self, _timeout_ms: int) -> list[bytes]:
        return []

    def stop_matching(self) -> None:
        pass

    def take_tracked(self) -> list[bytes]:
        return self.left


def started(session: Counted, count: Optional[int] = None) -> tuple[Run, io.StringIO]:
    out = io.StringIO()
    trace = SimpleNamespace(name="qdisc_enqueue")
    what: Any = SimpleNamespace(tracepoints=[trace], facts=())
    settings = Settings(latency=True, latency_summary=True)
    known: Any = session
    run = Run(
        known, what, {0xFFFFFFFF81000000: "ip_rcv"}, settings, Text(out, Display(), Lookups()), count=count,
        join_clones=True, table=counted.latencies,
    )  # fmt: skip
    return run, out


FUNCTION = event.STEP << 32 | 0x81000004
TRACEPOINT = event.STEP_TRACEPOINT << 32


def test_what_the_cpus_counted_is_added_up() -> None:
    session = Counted()
    session.latencies_ns = [[1_000, 2_000], [1_000]]
    session.edges = {(TRACEPOINT, FUNCTION): [(2, 300_000, 200_000), (1, 100_000, 100_000)]}
    session.numbers = {"one_point": 4, "short": 5, "matched": 12, "freed": 12, "steps_lost": 6}
    run, out = started(session)
    run.finish()
    lines = out.getvalue().splitlines()
    assert lines[0] == "latency distribution: 3 packets"
    assert "  not counted: 4 seen at one point only" in lines and "  not counted: 5 below the least latency" in lines
    assert (
        "qdisc_enqueue              ip_rcv                             3      133.3us      200.0us 100.0%"
        in out.getvalue()
    )
    summary = run.summary(skipped=0)
    assert (summary.shown, summary.one_point, summary.short, summary.evicted, summary.steps_lost) == (3, 4, 5, 0, 6)
    assert summary.events is None and summary.unit == "packets"


def test_it_ends_after_so_many_packets() -> None:
    session = Counted()
    run, _ = started(session, count=2)
    for ended in (False, True):
        session.latencies_ns[0].append(5)
        run._tell_table()
        assert run.done is ended


def test_packets_on_their_way_are_counted_once_however_many_clones_they_have() -> None:
    session = Counted()
    session.numbers = {"matched": 3, "cloned": 2, "freed": 2}
    for packet_id, parent_id in ((8, 0), (8, 8), (9, 9)):
        fields = dict.fromkeys((name for _, name, _ in event.RECORD.fields), 0)
        fields.update(packet_id=packet_id, parent_id=parent_id)
        values = [bytes(6) if name == "unused" else value for name, value in fields.items()]
        session.left.append(event.RECORD.struct.pack(*values))
    run, _ = started(session)
    run.finish()
    summary = run.summary(skipped=0)
    assert (summary.unfinished, summary.evicted) == (2, 0)


def histogram_of(*values: int) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts))


def test_the_tables_of_latencies() -> None:
    edges = [
        Edge("ip_rcv", "ip_local_deliver", 4, 8_000, 5_000),
        Edge("netem_enqueue", "qdisc_dequeue", 3, 90_000_000, 31_000_000),
    ]
    text = latency_text(histogram_of(1_000, 1_000, 30_000_000), edges, one_point=2, short=7)
    assert text == (
        "latency distribution: 3 packets\n"
        + "\n".join(table(histogram_of(1_000, 1_000, 30_000_000), lambda ns: f"{ns / 1000:.1f}us"))
        + "\n  p50 1.0us  p90 29884.4us  p99 29884.4us\n"
        "  not counted: 7 below the least latency\n"
        "  not counted: 2 seen at one point only\n"
        "costliest steps:\n"
        "  from                       to                             count         mean          max  share\n"
        "  netem_enqueue              qdisc_dequeue                      3    30000.0us    31000.0us 100.0%\n"
        "  ip_rcv                     ip_local_deliver                   4        2.0us        5.0us   0.0%"
    )
    assert latency_text(histogram_of(), [], one_point=0, short=0) == "latency distribution: 0 packets"


def test_the_table_of_steps_is_bounded() -> None:
    edges = [Edge(f"from_{number:02}", "to", 2, number * 100, number * 60) for number in range(30)]
    lines = latency_text(histogram_of(5), edges, one_point=0, short=0).splitlines()
    steps = lines[lines.index("costliest steps:") + 2 :]
    assert [line.split()[0] for line in steps] == [*(f"from_{number:02}" for number in range(29, 9, -1)), "(10"]
    assert steps[-1].split() == ["(10", "others)", "20", "10.3%"]


def test_a_recording_that_fails_ends_the_run_in_order(tmp_path: Path) -> None:
    function: Any = SimpleNamespace(probes=[], tracepoints=[], facts=())
    session: Any = Counted()
    host: Any = SimpleNamespace(own_netns=1, enum_names=lambda _: {}, drop_reason=str)
    with Writer(str(tmp_path / "x")) as writer:
        recorder = Recorder(writer, host)
        run = Run(
            session, function, {}, Settings(ringbuf=True), Text(io.StringIO(), Display(), Lookups()),
            count=None, join_clones=True, recorder=recorder,
        )  # fmt: skip
        assert not run.done
        writer.error = StreamError("no room")
        assert run.done
