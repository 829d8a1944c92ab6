"""What a run costs, and what it goes without, by a clock and programs that are made up."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from collections.abc import Collection, Mapping

import pytest

from nettrace import cost
from nettrace.cost import Budget, Cost, Decision, Meter, Usage, Used, by_trace

SECOND = 1_000_000_000
TRACES = ("enter", "ip_rcv", "ip_output", "nf_hook_slow", "tcp_ack")
# The kernel's number of each, as sampled() tells them: kind and place.
PLACES = {name: (1, number) for number, name in enumerate(TRACES)}


class Host:
    """Two programs: one of `enter`, one of all the others; each trace costs so many nanoseconds a second."""

    def __init__(self, **costs: int) -> None:
        self.now = 5 * SECOND
        self.process = 0
        self.load = {**dict.fromkeys(TRACES, 0), **costs}
        self.attached = list(TRACES)
        self.spent = dict.fromkeys(TRACES, 0)
        self.shed_at: list[tuple[int, tuple[str, ...]]] = []

    def run(self, seconds: float = 1.0) -> None:
        self.now += int(seconds * SECOND)
        for trace in self.attached:
            self.spent[trace] += int(self.load[trace] * seconds)

    def used(self) -> tuple[Used, ...]:
        others = [trace for trace in self.attached if trace != "enter"]
        shared = sum(self.spent[trace] for trace in TRACES if trace != "enter")
        # A hit takes 100 ns.
        return (
            Used(("enter",), self.spent["enter"], self.spent["enter"] // 100),
            Used(tuple(others), shared, shared // 100),
            Used((), 0, 0),
        )

    def sampled(self) -> Mapping[tuple[int, int], int]:
        return {PLACES[trace]: spent // 1_600 for trace, spent in self.spent.items() if spent}

    def shed(self, traces: Collection[str]) -> None:
        self.attached = [trace for trace in self.attached if trace not in traces]
        self.shed_at.append((self.now, tuple(traces)))
        self.now += SECOND // 10  # it takes its time, and costs something
        self.spent["enter"] += 7_000


def meter(host: Host, percent: float | None = None, optional: Collection[str] = TRACES[1:]) -> Meter:
    return Meter(
        host, lambda kind, where: TRACES[where], limit=None if percent is None else percent / 100, traces=TRACES,
        optional=optional, now_ns=lambda: host.now, process_ns=lambda: host.process,
    )  # fmt: skip


def test_a_program_is_shared_out_by_hits() -> None:
    before = Usage(0, (Used(("a", "b"), 1_000, 10), Used(("c",), 0, 0)), 0, {"a": 5})
    after = Usage(9, (Used(("a", "b"), 5_000, 50), Used(("c",), 70, 1)), 0, {"a": 15, "b": 30})
    assert by_trace(before, after) == {"a": 1_000, "b": 3_000, "c": 70}
    # Nothing was sampled yet.
    assert by_trace(before, after._replace(hits={"a": 5})) == {"a": 2_000, "b": 2_000, "c": 70}


def test_what_a_run_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost.os, "cpu_count", lambda: 4)
    host = Host(enter=10_000_000, ip_rcv=6_000_000, tcp_ack=2_000_000)
    measured = meter(host)
    host.run(2)
    host.process = 200_000_000
    assert measured.tick() == Decision()
    found = measured.cost()
    assert (found.wall_ns, found.cpus, found.programs_ns, found.process_ns) == (2 * SECOND, 4, 36_000_000, 200_000_000)
    assert found.runs == 360_000
    assert list(found.traces.items()) == [("enter", 20_000_000), ("ip_rcv", 12_000_000), ("tcp_ack", 4_000_000)]
    assert found.text(1_000) == (
        "cost: 360000 runs of programs of 100 ns, 1.80% of a CPU, nettrace itself 10.00%, together 2.95% of all CPUs "
        "(4), a packet 36.0 us and 200.0 us\ncostliest traces: enter 56%, ip_rcv 33%, tcp_ack 11%"
    )
    assert "a packet" not in found.text(0)


def test_nothing_happened() -> None:
    assert Cost(0, 1, 0, 0, 0, {}).text(0) == (
        "cost: 0 runs of programs, 0.00% of a CPU, nettrace itself 0.00%, together 0.00% of all CPUs (1)"
    )


def test_the_hottest_go_first_and_no_more_than_needed() -> None:
    host = Host(enter=50_000_000, ip_rcv=20_000_000, nf_hook_slow=40_000_000, tcp_ack=1_000_000)
    budget = meter(host, 8)
    host.run()  # 11.1 %: too much by 3.1, and nf_hook_slow has 4
    assert budget.tick() == Decision(shed=("nf_hook_slow",))
    assert host.attached == ["enter", "ip_rcv", "ip_output", "tcp_ack"]
    for _ in range(5):
        host.run()
        assert budget.tick() == Decision()
    # More traffic: the rest that may go is not enough.
    host.load["enter"] = 200_000_000
    host.run()
    assert budget.tick() == Decision(shed=("ip_rcv", "tcp_ack"))
    host.run()
    assert budget.tick() == Decision()  # one second is no trend
    host.run()
    assert budget.tick() == Decision(stop=True)
    found = budget.cost()
    assert (found.shed, found.over) == (("nf_hook_slow", "ip_rcv", "tcp_ack"), True)
    assert found.traces["nf_hook_slow"] == 40_000_000
    assert sum(found.traces.values()) == found.programs_ns
    assert found.text(0).splitlines()[-2:] == [
        "taken away by --max-cpu: nf_hook_slow, ip_rcv, tcp_ack",
        "ended by --max-cpu",
    ]


def test_what_others_depend_on_stays() -> None:
    host = Host(enter=50_000_000, ip_rcv=1_000_000)
    budget = meter(host, 1, optional=())
    host.run()
    assert budget.tick() == Decision()
    host.run()
    assert budget.tick() == Decision(stop=True)
    assert host.shed_at == []


def test_a_burst_is_no_trend() -> None:
    host = Host(enter=50_000_000)
    budget = meter(host, 1)
    for _ in range(3):
        host.load["enter"] = 50_000_000
        host.run()
        assert budget.tick() == Decision()
        host.load["enter"] = 0
        host.run()
        assert budget.tick() == Decision()


def test_the_last_trace_is_not_taken_away() -> None:
    host = Host(enter=50_000_000, ip_rcv=60_000_000)
    budget = Budget(0.01, ("enter", "ip_rcv"), ("enter", "ip_rcv"), Usage(host.now, host.used(), 0, {}))
    host.run()
    hits = {"enter": 5, "ip_rcv": 6}
    assert budget.look(Usage(host.now, host.used(), 0, hits)).shed == ("ip_rcv",)
    host.run(2)
    assert budget.look(Usage(host.now, host.used(), 0, hits)) == Decision()
    host.run()
    assert budget.look(Usage(host.now, host.used(), 0, hits)) == Decision(stop=True)


def test_the_process_counts_too_and_short_times_do_not() -> None:
    host = Host()
    budget = meter(host, 20)
    host.run(0.5)
    host.process = SECOND // 2
    assert budget.tick() == Decision()  # half a second of it, but too soon to tell
    host.run(0.5)
    assert budget.tick() == Decision()  # too much; nothing of it is a trace's
    host.process += SECOND
    host.run()
    assert budget.tick() == Decision(stop=True)


def test_taking_away_is_not_held_against_it() -> None:
    host = Host(enter=5_000_000, ip_rcv=30_000_000)
    budget = meter(host, 1)
    host.run()
    assert budget.tick().shed == ("ip_rcv",)
    # What was spent while it was done, and that it took a tenth of a second, is not in the next window.
    host.run(0.95)
    assert budget.tick() == Decision()
    host.run(0.05)
    assert budget.tick() == Decision()
