"""What a run costs its host, and what it goes without when that is more than the user allows."""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Protocol

# How long is looked at before anything is decided, and how many such times in a row must be too dear to give up.
WINDOW_NS = 1_000_000_000
TRIES = 2
# The traces that are told; nothing of fewer runs, as only a sample of them says which trace they were for.
COSTLIEST = 5
SAMPLED_RUNS = 1000


class Used(NamedTuple):
    """What one loaded program took up to now."""

    traces: tuple[str, ...]  # that it is attached to
    run_time_ns: int
    runs: int


class Usage(NamedTuple):
    """What a run took up to now."""

    at_ns: int
    programs: tuple[Used, ...]
    process_ns: int
    hits: Mapping[str, int]  # by trace; of programs with one trace only, none need be known

    @property
    def run_time_ns(self) -> int:
        """Of all programs."""
        return sum(used.run_time_ns for used in self.programs)


def by_trace(before: Usage, after: Usage) -> dict[str, float]:
    """How long programs ran in between, in nanoseconds, for each trace.

    The kernel measures programs, and one program serves many functions: its time is shared out by their hits.
    """
    found: dict[str, float] = {}
    for old, new in zip(before.programs, after.programs):
        spent = new.run_time_ns - old.run_time_ns
        hits = {trace: after.hits.get(trace, 0) - before.hits.get(trace, 0) for trace in old.traces}
        total = sum(hits.values())
        for trace, count in hits.items():
            found[trace] = found.get(trace, 0.0) + spent * (count / total if total else 1 / len(hits))
    return found


@dataclass(frozen=True)
class Cost:
    """What a run cost."""

    wall_ns: int
    cpus: int
    runs: int  # of programs: hits, and returns of functions
    programs_ns: int
    process_ns: int
    traces: Mapping[str, int]  # the programs' time for each, the costliest first
    shed: tuple[str, ...] = ()  # traces that were taken away
    over: bool = False  # and that was not enough

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Cost":
        """From what a recording tells; ValueError or TypeError where that makes no sense."""
        cost = cls(**{**told, "shed": tuple(map(str, told["shed"]))})
        numbers = [cost.wall_ns, cost.cpus, cost.runs, cost.programs_ns, cost.process_ns, *cost.traces.values()]
        if not {int}.issuperset(map(type, numbers)) or cost.cpus < 1 or min(numbers) < 0 or max(numbers) >> 64:
            raise ValueError("a cost")
        return cost

    def text(self, packets: int) -> str:
        """Some lines behind the summary; packets: how many this was for."""
        parts = [f"{self.runs} runs of programs"]
        if self.runs:
            parts[0] += f" of {self.programs_ns / self.runs:.0f} ns"
        parts.append(f"{self._percent(self.programs_ns)} of a CPU")
        parts.append(f"nettrace itself {self._percent(self.process_ns)}")
        both = (self.programs_ns + self.process_ns) / self.cpus
        parts.append(f"together {self._percent(both)} of all CPUs ({self.cpus})")
        if packets:
            parts.append(f"a packet {_us(self.programs_ns / packets)} and {_us(self.process_ns / packets)}")
        lines = [f"cost: {', '.join(parts)}"]
        if self.runs >= SAMPLED_RUNS:
            shares = [
                f"{trace} {100 * spent / self.programs_ns:.0f}%"
                for trace, spent in list(self.traces.items())[:COSTLIEST]
            ]
            lines.append(f"costliest traces: {', '.join(shares)}")
        if self.shed:
            lines.append(f"taken away by --max-cpu: {', '.join(self.shed)}")
        if self.over:
            lines.append("ended by --max-cpu")
        return "\n".join(lines)

    def _percent(self, spent_ns: float) -> str:
        return f"{100 * spent_ns / self.wall_ns:.2f}%" if self.wall_ns else "0.00%"


def _us(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.1f} us"


class Decision(NamedTuple):
    """What is to be done about the cost."""

    shed: tuple[str, ...] = ()
    stop: bool = False


class Budget:
    """Decides what to go without, so that programs and process together stay within a part of one CPU's time.

    optional: the traces that the others do not depend on.
    """

    def __init__(self, limit: float, traces: Collection[str], optional: Collection[str], begin: Usage) -> None:
        self._limit = limit
        self._optional = set(optional)
        self._needed = bool(set(traces) - self._optional)
        self._last = begin
        self._tries = 0

    def look(self, usage: Usage) -> Decision:
        """Decides once for each window, and sheds no more than makes up for what was too much."""
        last, wall_ns = self._last, usage.at_ns - self._last.at_ns
        if wall_ns < WINDOW_NS:
            return Decision()
        self._last = usage
        spent = usage.run_time_ns - last.run_time_ns + usage.process_ns - last.process_ns
        excess = spent - self._limit * wall_ns
        if excess <= 0:
            self._tries = 0
            return Decision()
        shed = self._hottest(by_trace(last, usage), excess)
        if shed:
            self._tries = 0
            return Decision(shed)
        self._tries += 1
        return Decision(stop=self._tries == TRIES)

    def _hottest(self, costs: Mapping[str, float], excess: float) -> tuple[str, ...]:
        hot = sorted((trace for trace in self._optional if costs.get(trace, 0) > 0), key=lambda trace: -costs[trace])
        if not self._needed and len(hot) == len(self._optional):
            hot = hot[:-1]  # with nothing left to see, it may as well end
        shed = []
        for trace in hot:
            if excess <= 0:
                break
            shed.append(trace)
            excess -= costs[trace]
        self._optional.difference_update(shed)
        return tuple(shed)

    def resume(self, usage: Usage) -> None:
        """What it took to take traces away does not count."""
        self._last = usage


class Attached(Protocol):
    """The programs of a run."""

    def used(self) -> tuple[Used, ...]:
        """What each of them took so far."""

    def sampled(self) -> Mapping[tuple[int, int], int]:
        """Hits, by kind and place."""

    def shed(self, traces: Collection[str]) -> None:
        """Takes the probes of these traces away."""


class Meter:
    """Follows what a run costs, from when it is made.

    trace: tells the trace of hits by kind and place. limit: None, or the part of a CPU that must not be exceeded by
    what is attached without these being taken away: `optional` of `traces`.
    """

    def __init__(
        self, session: Attached, trace: Callable[[int, int], str], *, limit: Optional[float] = None,
        traces: Collection[str] = (), optional: Collection[str] = (), now_ns: Callable[[], int] = time.monotonic_ns,
        process_ns: Callable[[], int] = time.process_time_ns,
    ) -> None:  # fmt: skip
        self._session = session
        self._trace = trace
        self._now_ns = now_ns
        self._process_ns = process_ns
        self._begin = self._usage()
        self._costs: dict[str, float] = {}
        self._from = self._begin
        self._shed: list[str] = []
        self._over = False
        self._budget = None if limit is None else Budget(limit, traces, optional, self._begin)
        self._looked_ns = self._begin.at_ns

    def tick(self) -> Decision:
        """To be called often; what it decides to take away is away then."""
        if self._budget is None or self._now_ns() - self._looked_ns < WINDOW_NS:
            return Decision()
        usage = self._usage()
        self._looked_ns = usage.at_ns
        decision = self._budget.look(usage)
        if decision.shed:
            self._session.shed(decision.shed)
            self._shed += decision.shed
            self._add(self._usage())
            self._looked_ns = self._from.at_ns
            self._budget.resume(self._from)
        self._over |= decision.stop
        return decision

    def cost(self) -> Cost:
        """What it cost up to now."""
        usage = self._usage()
        self._add(usage)
        costs = sorted(self._costs.items(), key=lambda item: -item[1])
        return Cost(
            wall_ns=usage.at_ns - self._begin.at_ns,
            cpus=os.cpu_count() or 1,
            runs=sum(used.runs for used in usage.programs) - sum(used.runs for used in self._begin.programs),
            programs_ns=usage.run_time_ns - self._begin.run_time_ns,
            process_ns=usage.process_ns - self._begin.process_ns,
            traces={trace: round(spent) for trace, spent in costs if spent},
            shed=tuple(self._shed),
            over=self._over,
        )

    def _add(self, usage: Usage) -> None:
        """What was spent was for the traces that there were until now."""
        for trace, spent in by_trace(self._from, usage).items():
            self._costs[trace] = self._costs.get(trace, 0.0) + spent
        self._from = usage

    def _usage(self) -> Usage:
        hits: dict[str, int] = {}
        for (kind, where), count in self._session.sampled().items():
            trace = self._trace(kind, where)
            hits[trace] = hits.get(trace, 0) + count
        return Usage(self._now_ns(), self._session.used(), self._process_ns(), hits)


def shed_text(traces: Sequence[str], limit: float) -> str:
    """That these were taken away."""
    return (
        f"more than {limit:.10g}% of a CPU: goes on without {', '.join(traces)}; packets that are on their way now "
        "may lack other steps too"
    )
