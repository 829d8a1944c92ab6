"""A run: messages go through the decoder to the player, and to the recorder if there is one, until the end."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Optional, Union

from .decode import Decoder
from .event import PLACES, Record
from .player import IDLE_NS, Player
from .settings import Settings
from .sinks import Summary, Text
from .stream import TimeOrder
from .tables import FunctionStats
from .tables import Table as Counted
from .templates import Templates

if TYPE_CHECKING:
    from .anonymous import Anonymised, Anonymiser
    from .bpf import Session
    from .plan import Plan
    from .recorder import Recorder

POLL_MS = 100
# How often packets whose end was not seen are looked for, and how long they must have been idle: IDLE_NS.
SWEEP_NS = 5_000_000_000
SECOND_NS = 1_000_000_000
# While messages wait, what became of those before them is shown at least so often: evidence takes its time.
SHOW_NS = 50_000_000
# How long the end may take to read what is left; what then is unread is counted.
DRAIN_NS = 500_000_000

Table = Callable[["Session", Callable[[int, int], str]], Counted]


class Every:
    """Something that is to be done now and then."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._done_ns = time.monotonic_ns()

    def due(self, now_ns: int) -> bool:
        """Whether it is time again; then it is taken as done."""
        if now_ns - self._done_ns < self._period_ns:
            return False
        self._done_ns = now_ns
        return True


def wall_offset_ns() -> int:
    """What to add to the time of events, CLOCK_MONOTONIC, for wall-clock time."""
    # Of several measurements the one that was least disturbed.
    readings = []
    for _ in range(5):
        before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


class Run:
    """Reads what a session's programs send, shows and records it.

    traces_at: the traces by the addresses of their functions.
    count: how many packets (hits, if packets are not followed) to show; None for all.
    min_latency_ns: of packets that took less, nothing is shown.
    table: what the programs counted so far, to be shown every second in place of hits; it is given the session and
    what tells the trace of a step, by kind and place.
    anonymiser: what is shown and recorded has other addresses and names.
    """

    def __init__(
        self, session: "Session", plan: "Plan", traces_at: Mapping[int, str], settings: Settings, sink: Text, *,
        count: Optional[int], join_clones: bool, min_latency_ns: Optional[int] = None,
        table: Optional[Table] = None, recorder: "Optional[Recorder]" = None,
        anonymiser: "Optional[Anonymiser]" = None,
    ) -> None:  # fmt: skip
        self._unit = unit_of(settings)
        self._ended = False
        self._session = session
        # Else each message stands for itself.
        self._follow = settings.follow and not settings.latency
        self._latency = settings.latency
        self._sink = sink
        self._player = Player(
            sink, follow=self._follow, count=count, join_clones=join_clones, min_latency_ns=min_latency_ns
        )
        self._recorder = recorder
        # What is recorded is so before it is shown.
        takers: Sequence[Union[Player, Recorder]] = [self._player] if recorder is None else [recorder, self._player]
        self._takers: Sequence[Union[Player, Recorder, Anonymised]] = takers
        if anonymiser is not None:
            self._takers = [anonymiser.before(taker) for taker in takers]
        self._count = count
        self._unfinished = self._gaps = self._swept = self._hits = 0
        self._decoder = Decoder(traces_at, [trace.name for trace in plan.tracepoints], plan.facts)
        shows_all = self._follow and len(self._takers) == 1 and not (anonymiser or table or min_latency_ns)
        self._templates = Templates(self._decoder, sink) if shows_all and sink.is_plain else None
        # A ring buffer is in order by itself; perf buffers are one a CPU.
        self._order = None if settings.ringbuf else TimeOrder()
        self._table = self._hits_table if settings.count_hits else table
        # What counts as a packet where a table is all that is shown.
        self._counted = "measured" if settings.latency else "matched"
        self._sweeps, self._seconds, self._shows = Every(SWEEP_NS), Every(SECOND_NS), Every(SHOW_NS)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be shown."""
        return self._ended or self._player.done or (self._recorder is not None and self._recorder.error is not None)

    def trace(self, kind: int, where: int) -> str:
        """The trace that steps of this kind at this place are of."""
        return self._decoder.trace(kind, where)

    def step(self) -> None:
        """Waits a moment for messages, shows what became complete."""
        before_ns = time.monotonic_ns()
        for raw in self._session.poll(POLL_MS):
            self._receive(raw)
        self._release(before_ns)
        if self._follow and self._sweeps.due(before_ns):
            self._sweep(before_ns - IDLE_NS)
            for taker in self._takers:
                taker.expire(before_ns)
        if self._seconds.due(before_ns):
            offset_ns = wall_offset_ns()
            for taker in self._takers:
                taker.clock(offset_ns)
            self._tell_table()
        self._flush()

    def finish(self) -> None:
        """Shows what is left: in the buffer, in the kernel, and in the lifecycle engine."""
        self._session.stop_matching()
        self._drain()
        self._tell_gaps()
        if self._follow:
            self._sweep(None)
            self._drain()
            now_ns = time.monotonic_ns()
            for taker in self._takers:
                taker.close(now_ns)
        if self._latency:
            self._count_unfinished()
        self._tell_table()
        self._flush()

    def summary(self, *, skipped: int) -> Summary:
        """What was seen and what was not, up to now."""
        per_cpu = self._session.counters()
        total = totals(per_cpu)
        sent = sum(total[f"messages_{place}"] for place in range(PLACES + 1)) - total["lost_messages"]
        ended = total["freed"] + total["reused"] + self._swept
        player = self._player
        return Summary(
            unit=self._unit,
            shown=player.shown if self._table is None else total[self._counted],
            events=None if self._latency else player.events + self._hits,
            lost_messages=tuple(cpu["lost_messages"] for cpu in per_cpu),
            lost_packets=total["lost_packets"],
            unread_messages=0 if self.done else sent - self._decoder.messages,
            missed_hits=total["missed"],
            untracked=total["untracked"],
            evicted=total["matched"] + total["cloned"] - ended if self._follow or self._latency else 0,
            unfinished=player.unfinished + self._unfinished,
            incomplete=player.incomplete,
            skipped=skipped,
            short=total["short"] + player.short,
            over_rate=total["over_rate"],
            calls_lost=total["calls_lost"],
            normal_frees=total["normal_frees"],
            one_point=total["one_point"],
            steps_lost=total["steps_lost"],
            families_lost=total["families_lost"],
        )

    def _flush(self) -> None:
        for taker in self._takers:
            taker.flush()

    def _drain(self) -> None:
        """Reads until the buffer was empty once, or for a while if more comes all the time."""
        limit_ns = time.monotonic_ns() + DRAIN_NS
        while not self.done and time.monotonic_ns() < limit_ns:
            messages = self._session.poll(0)
            if not messages:
                break
            for raw in messages:
                self._receive(raw)
        self._release(None)

    def _sweep(self, older_than_ns: Optional[int]) -> None:
        for raw in self._session.take_tracked(older_than_ns):
            self._swept += 1
            if not self.done and self._table is None:
                self._take(self._decoder.decode(raw, sent=False))

    def _count_unfinished(self) -> None:
        """Packets that are still on their way have no time yet."""
        packets = [self._decoder.decode(raw, sent=False).packet_id for raw in self._session.take_tracked()]
        self._swept += len(packets)
        self._unfinished += len(set(packets))
        self._drain()

    def _receive(self, raw: bytes) -> None:
        if self.done:
            return
        steps = 0 if self._templates is None else self._templates.show(raw)
        if steps:
            self._player.shown_already(steps)
            return
        record = self._decoder.decode(raw)
        if self._follow or self._order is None:
            self._take(record)
            if self._templates is not None:
                self._templates.learn(raw, record)
        else:
            for ordered in self._order.push(record):
                self._take(ordered)
        if self._shows.due(time.monotonic_ns()):
            self._flush()

    def _release(self, before_ns: Optional[int]) -> None:
        """Prints single hits that no other CPU's buffer can still precede."""
        if self._order is None or self._follow:
            return
        for record in self._order.flush() if before_ns is None else self._order.ready(before_ns):
            self._take(record)

    def _take(self, record: Record) -> None:
        if self.done:
            return
        self._tell_gaps()
        for taker in self._takers:
            taker.push(record)

    def _tell_gaps(self) -> None:
        """Where hits that stand for themselves were lost; of followed packets, their blocks tell."""
        if not self._follow and self._decoder.gaps != self._gaps:
            for taker in self._takers:
                taker.gap(self._decoder.gaps - self._gaps)
            self._gaps = self._decoder.gaps

    def _tell_table(self) -> None:
        """Shows what was counted so far, if that is what was asked for."""
        if self._table is None:
            return
        counted = self._table(self._session, self._decoder.trace)
        for taker in self._takers:
            taker.table(counted)
        matched = totals(self._session.counters())[self._counted]
        self._ended = self._ended or (self._count is not None and matched >= self._count)

    def _hits_table(self, session: "Session", trace: Callable[[int, int], str]) -> FunctionStats:
        """How often each trace was hit so far."""
        hits: Counter[str] = Counter()
        for (kind, where), count in session.hits().items():
            hits[trace(kind, where)] += count
        self._hits = sum(hits.values())
        return FunctionStats(hits)


def unit_of(settings: Settings) -> str:
    """What a run of these settings counts."""
    return "packets" if settings.follow else "drops" if settings.only_drops else "events"


def totals(per_cpu: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The counters of all CPUs together."""
    return {name: sum(cpu[name] for cpu in per_cpu) for name in per_cpu[0]}
