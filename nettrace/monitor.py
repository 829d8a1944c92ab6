"""What --monitor counts, for --metrics, and what it cannot watch as its module came later."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

from . import event, live, metrics, plan, sinks, source
from .histogram import Histogram
from .kernel import ABSENT, Kernel
from .plan import Plan, Skipped
from .requirements import can_measure
from .run import Run, totals

if TYPE_CHECKING:
    from .bpf import Session
    from .exporters import Exporter

log = logging.getLogger("nettrace")
# How often it is looked whether modules were loaded.
LOOK_S = 5


class Latecomers:
    """Functions that would be watched, had their modules been there when the run was planned."""

    def __init__(self, kernel: Kernel, skipped: Iterable[Skipped]) -> None:
        self._missing = [skip.trace for skip in skipped if skip.reason == ABSENT and skip.trace.functions]
        self._modules = kernel.modules()
        self._kernel = kernel

    def found(self) -> list[str]:
        """The traces whose functions came since it was last looked."""
        kernel = self._kernel.anew()
        before, self._modules = self._modules, kernel.modules()
        if self._modules <= before:
            return []
        come = [trace for trace in self._missing if any(kernel.obstacle(name) is None for name in trace.functions)]
        self._missing = [trace for trace in self._missing if trace not in come]
        return [trace.name for trace in come]

    def tell(self) -> None:
        """Says as long as the process lives, and once of each, that they are not watched."""
        while True:
            time.sleep(LOOK_S)
            names = self.found()
            if names:
                log.warning(
                    "nettrace: modules loaded after the start have functions that are not watched (%s): start it again",
                    ", ".join(names),
                )


def counted(session: "Session", run: Run, what: Plan, kernel: Kernel) -> metrics.Counted:
    """What --metrics tells."""
    hits: Counter[str] = Counter()
    for (kind, where), count in session.hits().items():
        hits[run.trace(kind, where)] += count
    watched = {probe.trace.name for probe in what.probes if probe.trace.monitor}
    lookups = live.lookups(live.Running(kernel, 0), live.traced(what))
    return metrics.Counted(
        drops=metrics.totals_by_place(
            session.drops(), lookups.reason, lambda place: sinks.place_in_code(place, lookups.symbol), event.NO_REASON
        ),
        hits={trace: hits[trace] for trace in watched},
        counters=totals(session.counters()),
        round_trips=Histogram.from_bytes(session.value("rtt_histograms", source.RTT_HISTOGRAMS.index("sample"))),
        transits={
            direction: Histogram.from_bytes(session.value("transit_histograms", number - 1))
            for number, direction in plan.DIRECTIONS.items()
        },
        attached=len(watched - {skip.trace.name for skip in session.skipped}),
        skipped=len(what.skipped) + len(session.skipped),
    )  # fmt: skip


@contextmanager
def exported(way: Optional["Exporter"], session: "Session", run: Run, what: Plan, kernel: Kernel) -> Iterator[None]:
    """Metrics leave by this way, for the time of a with block."""
    if way is None:
        yield
        return
    cost = metrics.Cost(session.measure_run_times, session.run_time_ns)
    tick = cost.tick if can_measure(kernel) else lambda: None

    def render() -> str:
        return metrics.text(metrics.families(counted(session, run, what, kernel), kernel.release, cost.ratio))

    with way.exported(render, tick):
        yield
    cost.stop()
