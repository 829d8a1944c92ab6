"""What a run saw, in the order of time, goes through the lifecycle engine to the sink, live and from a recording."""

from typing import Callable, Optional

from .event import Context, Record
from .lifecycle import Lifecycle
from .sinks import Text
from .tables import Table

IDLE_NS = 30_000_000_000


class Player:
    """Shows what it is given, and counts it.

    follow: records are parts of packets; else each stands for itself. count: how many packets or records to show;
    None for all. min_latency_ns: of packets that took less, nothing is shown. wanted: what is shown of them at all,
    None for nothing.
    """

    def __init__(
        self, sink: Text, *, follow: bool, count: Optional[int] = None, join_clones: bool = True,
        min_latency_ns: Optional[int] = None, wanted: Optional[Callable[[Context], Optional[Context]]] = None,
    ) -> None:  # fmt: skip
        self.done = False
        self.shown = self.events = self.unfinished = self.incomplete = self.short = 0
        self._sink = sink
        self._follow = follow
        self._count = count
        self._min_latency_ns = min_latency_ns or 0
        self._wanted = wanted
        self._lifecycle = Lifecycle(idle_ns=IDLE_NS, join_clones=join_clones)
        self._now_ns = 0

    def push(self, record: Record) -> None:
        """Takes one record."""
        if self._follow:
            contexts = self._lifecycle.push(record)
            if contexts:
                self._show(contexts)
        elif not self.done:
            self._print(record)

    def shown_already(self, steps: int) -> None:
        """A whole packet of so many steps was shown elsewhere."""
        self.shown += 1
        self.events += steps
        self.done = self.shown == self._count or self._sink.done

    def expire(self, now_ns: int) -> None:
        """Shows packets that nothing was heard of for long."""
        self._now_ns = now_ns
        if self._follow:
            self._show(self._lifecycle.expire(now_ns))

    def close(self, now_ns: int) -> None:
        """Shows what is left."""
        self._now_ns = max(self._now_ns, now_ns)
        if self._follow:
            self._show(self._lifecycle.close())

    def gap(self, events: int) -> None:
        """So many hits that stand for themselves were lost here."""
        self._sink.gap(events)

    def table(self, table: Table) -> None:
        """What was counted so far."""
        self._sink.table(table)

    def clock(self, wall_offset_ns: int) -> None:
        """From now on wall-clock time is by so much ahead of the events' own."""
        self._sink.keep_time(wall_offset_ns)

    def flush(self) -> None:
        """Lets the reader see what was shown."""
        self._sink.flush()

    def _show(self, contexts: list[Context]) -> None:
        for each in contexts:
            if self.done:
                return
            context = each if self._wanted is None else self._wanted(each)
            if context is None:
                continue
            if self._min_latency_ns and self._took_ns(context) < self._min_latency_ns:
                self.short += 1
                continue
            self.shown += self._sink.context(context)
            self.events += len(context.events)
            self.unfinished += context.unfinished
            self.incomplete += context.missing
            self.done = self.shown == self._count or self._sink.done

    def _took_ns(self, context: Context) -> int:
        """How long a packet took; one that did not end, up to now."""
        if context.unfinished and context.events:
            now_ns = max(self._now_ns, self._lifecycle.latest_ns)
            return now_ns - context.events[0].time_ns
        return self._sink.duration_ns(context.events)

    def _print(self, record: Record) -> None:
        if self._wanted is not None:
            alone = Context(record.packet_id, (record.skb,), record.events, False, False)
            if self._wanted(alone) is None:
                return
        if self._min_latency_ns and self._sink.duration_ns(record.events) < self._min_latency_ns:
            self.short += 1
            return
        self._sink.events(record.events)
        self.shown += 1
        self.events += len(record.events)
        self.done = self.shown == self._count or self._sink.done
