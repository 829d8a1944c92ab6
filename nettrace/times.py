"""How long packets took, worked out from whole packets that were recorded, as runs measure it that do nothing else."""

import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Optional

from .event import Context, Event
from .header import Header
from .histogram import BUCKETS, Histogram, bucket
from .latency import Edge
from .sinks import Display, Lookups, Summary, Text
from .tables import LatencySummary


class Derived(Text):
    """Takes whole packets, and shows what is worked out from them by another sink."""

    def __init__(self, sink: Text, display: Display, lookups: Lookups) -> None:
        super().__init__(io.StringIO(), display, lookups)
        self.one_point = 0  # packets without a time, as they were seen at one point only
        self._sink = sink

    def begin(self, header: Header) -> None:
        """The run begins."""
        self._sink.begin(header)

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over."""
        self._sink.end(summary)

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now."""
        self._sink.keep_time(wall_offset_ns)

    def flush(self) -> None:
        """Lets the reader see what was written."""
        self._sink.flush()


class Times(Derived):
    """Of each packet that was seen to its end, how long it took.

    sink: shows that, packet by packet.
    """

    def context(self, context: Context) -> bool:
        """A packet; false: it has no time."""
        points = self.points(context.events)
        if context.unfinished or len(points) < 2:
            self.one_point += not context.unfinished
            return False
        self._take(context, points)
        return True

    def _take(self, context: Context, points: Sequence[Event]) -> None:
        self._sink.events((context.events[-1], context.events[0], points[-1]))


class TimesSummed(Times):
    """The same in all, in one table at the end."""

    def __init__(self, sink: Text, display: Display, lookups: Lookups) -> None:
        super().__init__(sink, display, lookups)
        self._counts = [0] * BUCKETS
        self._edges: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over."""
        edges = [Edge(*names, *numbers) for names, numbers in self._edges.items()]
        short = 0 if summary is None else summary.short
        self._sink.table(LatencySummary(Histogram(tuple(self._counts)), edges, self.one_point, short))
        self._sink.end(summary)

    def _take(self, context: Context, points: Sequence[Event]) -> None:
        self._counts[bucket(points[-1].time_ns - context.events[0].time_ns)] += 1
        before: dict[int, Event] = {}
        for item in points:
            origin = before.get(item.skb)
            if origin is not None and item.number > origin.number:
                took_ns = item.time_ns - origin.time_ns
                numbers = self._edges[origin.trace, item.trace]
                numbers[:] = numbers[0] + 1, numbers[1] + took_ns, max(numbers[2], took_ns)
            before[item.skb] = item
