"""A recording as one page of HTML for whoever looks into an incident later: all that is on it.

Numbers are of all packets; packets themselves are on it as far as there is room, chosen so that each kind is there.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional, TextIO

from .choice import Choice
from .diagnosis import ERROR, INFO, WARN, Finding
from .event import Context, Device, Event
from .header import Header
from .histogram import BUCKETS, Histogram, bucket
from .jsonlines import news
from .packets import flow, packet_text
from .pagefile import filled
from .pagetables import ROWS_MAX, costliest, counted, histograms, path_tree
from .paths import Grouping
from .report import told_text
from .sinks import Display, Lookups, Summary, Text, place_in_code
from .sockets import socket_text
from .stacks import stack_lines
from .tables import DropCounts, LatencySummary, Paths, Table
from .tally import Flows, Kind, Moments

FIRST_MAX = 400  # packets that are on the page for what they are
SLOWEST_MAX = 100  # and for how long they took
STEPS_MAX = 600  # of one packet, the first and the last ones
FLOWS_MAX = 200
DROPS_MAX = 10_000  # reasons and places that are told apart
PLACES_MAX = 8  # of a kind of finding

# How soon a packet is on the page: as many dropped ones as this are before the second of a path.
_COSTS = {ERROR: 1, "drop": 1, WARN: 2, "unknown": 4, "path": 8, "any": 16}
_NS = 1_000_000_000
_NOWHERE = Device(0, "", 0)


class Page(Text):
    """What a recording tells, as a page that is written when it is over.

    findings: of a packet. name: of the recording. command: what the page is made by.
    """

    def __init__(
        self, out: TextIO, display: Display, lookups: Lookups, findings: Callable[[Context], Sequence[Finding]], *,
        name: str, command: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(out, display, lookups)
        self._findings = findings
        self._name = name
        self._command = command
        self._words: dict[str, int] = {}
        self._choice = Choice(FIRST_MAX, SLOWEST_MAX)
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._drops: dict[tuple[Optional[int], int], int] = {}
        self._drops_rest = 0
        self._flows = Flows()
        self._moments = Moments()
        self._latencies = [0] * BUCKETS
        self._counts = dict.fromkeys(
            ("packets", "events", "dropped", "error", "warn", "unfinished", "incomplete", "one_point", "gaps"), 0
        )
        self._first_ns: Optional[int] = None
        self._last_ns = 0
        self._offset_ns = 0
        self._table: Optional[Table] = None

    def begin(self, header: Header) -> None:
        """The run begins."""
        self._header = header
        self._offset_ns = header.clock_offset_ns
        self._paths = Grouping(self._know.roles, frozenset(header.end_at))

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now."""
        self._offset_ns = wall_offset_ns

    def gap(self, events: int) -> None:
        """So many events were lost here."""
        self._counts["gaps"] += events

    def table(self, table: Table) -> None:
        """What was counted so far; the last table has all of it."""
        self._table = table

    def events(self, events: Iterable[Event]) -> None:
        """Each is by itself; of three in a row, where packets' times are told, they are a packet's."""
        if self._header.mode == "latency":
            end, first, last = events
            self.context(Context(0, (end.skb,), (first, last, end), False, False))
            return
        for item in events:
            self.context(Context(0, (item.skb,), (item,), False, False))

    def duration_ns(self, events: Sequence[Event]) -> int:
        """How long a packet took."""
        if self._header.mode == "latency":
            return events[1].time_ns - events[0].time_ns
        return super().duration_ns(events)

    def flush(self) -> None:
        """There is nothing to see before the end."""

    def context(self, context: Context) -> bool:
        """Counts a packet, and keeps it if there is room for it."""
        findings = self._findings(context)
        drops = [item for item in context.events if item.drop is not None]
        if drops:
            lost = {id(finding.event) for finding in findings}
            drops = [item for item in drops if id(item) in lost]  # else it has served its purpose
        took_ns = self._count(context, findings, drops)
        if self._header.mode == "packets":
            self._paths.add(context)
        kinds: list[tuple[Any, int]] = [("any", _COSTS["any"])]
        kinds += [((each.level, each.name), _COSTS[each.level]) for each in findings if each.level != INFO]
        kinds += [(item.drop, _COSTS["drop"]) for item in drops]
        if context.unfinished or context.missing:
            kinds.append(((context.unfinished, context.missing), _COSTS["unknown"]))
        kinds.append((tuple(item.trace for item in context.events[:STEPS_MAX]), _COSTS["path"]))
        self._choice.offer(kinds, took_ns, lambda: self._kept(context, findings, drops, took_ns))
        return True

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over: writes the page."""
        self._out.write(filled(self.data(summary)))

    def _count(self, context: Context, findings: Sequence[Finding], drops: Sequence[Event]) -> int:
        """Counts a packet, and tells how long it took."""
        count = self._counts
        levels = {finding.level for finding in findings}
        wrong = bool(levels & {ERROR, WARN})
        count["packets"] += 1
        count["events"] += len(context.events)
        count["dropped"] += bool(drops)
        count["error"] += ERROR in levels
        count["warn"] += WARN in levels and ERROR not in levels
        count["unfinished"] += context.unfinished
        count["incomplete"] += context.missing
        for finding in findings:
            key = (finding.level, finding.name)
            if key not in self._kinds:
                self._kinds[key] = Kind(finding)
            self._kinds[key].add(finding, self._choice.offered, self.place(finding.event.device or _NOWHERE))
        for item in drops:
            assert item.drop is not None
            where = (item.drop.reason, item.drop.location)
            if where in self._drops or len(self._drops) < DROPS_MAX:
                self._drops[where] = self._drops.get(where, 0) + 1
            else:
                self._drops_rest += 1
        if not context.events:
            return 0
        first = context.events[0]
        self._first_ns = first.time_ns if self._first_ns is None else min(self._first_ns, first.time_ns)
        self._last_ns = max(self._last_ns, context.events[-1].time_ns)
        self._moments.add(first.time_ns, bool(drops))
        ends = flow(first.packet)
        if ends is not None:
            self._flows.add(ends, bool(drops), wrong)
        took_ns = self.duration_ns(context.events)
        if self._header.mode in ("packets", "latency") and not context.unfinished:
            if self._header.mode == "packets" and len(self.points(context.events)) < 2:
                count["one_point"] += 1
            else:
                self._latencies[bucket(max(0, took_ns))] += 1
        return took_ns

    # ---- what is on the page of a packet

    def _kept(
        self, context: Context, findings: Sequence[Finding], drops: Sequence[Event], took_ns: int
    ) -> dict[str, Any]:
        start_ns = context.events[0].time_ns if context.events else 0
        steps = list(self._steps(context, start_ns, {id(item) for item in drops}))
        half = STEPS_MAX // 2
        kept = (
            [*range(len(steps))] if len(steps) <= STEPS_MAX else [*range(half), *range(len(steps) - half, len(steps))]
        )
        places = {id(item): at for at, item in enumerate(context.events)}
        at_of = {at: number for number, at in enumerate(kept)}
        return {
            "number": self._choice.offered,
            "skbs": [f"0x{skb:x}" for skb in context.skbs],
            "start_ns": str(start_ns),
            "time": self._when(start_ns),
            "took_ns": took_ns,
            "steps_in_all": len(steps),
            "unfinished": context.unfinished,
            "incomplete": context.missing,
            "steps": [steps[at] for at in kept],
            "findings": [
                [each.level, each.name, at_of.get(places.get(id(each.event), -1), -1), each.root]
                for each in findings
            ],
        }  # fmt: skip

    def _steps(self, context: Context, start_ns: int, drops: set[int]) -> Iterator[list[Any]]:
        """Of each step: time, trace, skb, headers, place, namespace, CPU, task, and what else it tells by letter."""
        skbs = {skb: number for number, skb in enumerate(context.skbs)}
        where: dict[int, Device] = {}
        last = _NOWHERE
        for item, new in zip(context.events, news(context, self._maker)):
            device = item.device
            if device is None or not (device.ifindex or device.netns):
                device = where.get(item.skb, last)  # no longer at a device is not elsewhere
            where[item.skb] = last = device
            text = packet_text(item.packet) if item.socket is None else socket_text(item.packet, item.socket)
            detail = item.detail
            step: list[Any] = [
                item.time_ns - start_ns, self._word(item.trace), skbs.get(item.skb, 0), self._word(text),
                self._word(self.place(device) if device.ifindex else ""),
                self._word(self._netns(device.netns) if device.netns else ""),
                -1 if detail is None else detail.cpu,
                -1 if detail is None else self._word(self._process_column(item)[1:-1]),
            ]  # fmt: skip
            told = self._told(item, new.made, new.change, id(item) in drops)
            yield [*step, told] if told else step

    def _told(self, item: Event, made: Optional[str], change: Optional[str], dropped: bool) -> dict[str, Any]:
        know = self._know
        told: dict[str, Any] = {}
        if made is not None:
            told["made"] = made
        if change is not None:
            told["change"] = self._word(change)
        if item.returned is not None:
            value = know.returned(item.trace, item.returned.value)
            told["returned"] = [self._word(value), item.returned.time_ns - item.time_ns]
        if item.drop is not None:
            told["drop"] = self._drop(item.drop.reason, item.drop.location, dropped)
        remarks = [[level, self._word(text)] for level, text in know.remarks(item)]
        if remarks:
            told["remarks"] = remarks
        if item.stack:
            told["stack"] = [self._word(line.strip()) for line in [*stack_lines(item.stack, know.symbol)][1:]]
        if item.detail is not None and item.detail.mark:
            told["mark"] = f"0x{item.detail.mark:x}"
        return told

    def _drop(self, reason: Optional[int], location: int, dropped: bool) -> list[Any]:
        """Why and where a packet was given up; dropped: it had not served its purpose yet."""
        name = None if reason is None else self._word(self._know.reason(reason))
        return [name, self._word(place_in_code(location, self._know.symbol)), dropped]

    def _node_drop(self, reason: Optional[int], location: int) -> list[Any]:
        """Likewise, of a path."""
        return self._drop(reason, location, isinstance(self._table, Paths) or (reason, location) in self._drops)

    def _word(self, text: str) -> int:
        """The number of a text: most are there many times."""
        return self._words.setdefault(text, len(self._words))

    def _when(self, time_ns: int) -> str:
        """Wall-clock time where the recording is from."""
        second, rest = divmod(time_ns + self._offset_ns, _NS)
        local = time.gmtime(second + self._header.utc_offset_s)
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}.{rest // 1000:06d}"

    # ---- the page

    def data(self, summary: Optional[Summary]) -> dict[str, Any]:
        """All that the page shows."""
        header, packets = self._header, self._choice.kept()
        ahead_s = header.utc_offset_s
        table = self._table if isinstance(self._table, Paths) else self._paths.table()
        alone = self._table.one_point if isinstance(self._table, LatencySummary) else self._counts["one_point"]
        latencies = Histogram(tuple(self._latencies)) if header.mode in ("packets", "latency") else None
        return {
            "run": {
                "name": self._name,
                "mode": header.mode,
                "unit": header.unit,
                "command": _command(header.command),
                "made": _command(self._command),
                "kernel": header.kernel,
                "machine": header.machine,
                "version": header.version,
                "attached": header.attached,
                "detail": header.detail,
                "began": None if self._first_ns is None else self._when(self._first_ns),
                "ended": None if self._first_ns is None else self._when(self._last_ns),
                "zone": f"UTC{'-' if ahead_s < 0 else '+'}{abs(ahead_s) // 3600:02d}:{abs(ahead_s) // 60 % 60:02d}",
                "span_ns": 0 if self._first_ns is None else self._last_ns - self._first_ns,
                "start_ns": str(self._first_ns or 0),
                "traces": [[text or "" for text in (each.group, each.name, each.desc)]
                           for each in header.traces],
                "skipped": [[name, reason] for name, reason in header.skipped],
            },
            "summary": None if summary is None else _summary(summary),
            "counts": {**self._counts, "one_point": alone},
            "moments": self._moments_data(),
            "findings": [self._kind(kind) for kind in sorted(self._kinds.values(), key=_severity)],
            "drops": self._drop_rows(),
            "paths": path_tree(table, self._word, self._node_drop),
            "histograms": list(histograms(self._table, latencies)),
            "tables": [*counted(self._table), *costliest(table)],
            "flows": self._flow_rows(),
            "words": list(self._words),
            "packets": packets,
        }  # fmt: skip

    def _moments_data(self) -> Optional[dict[str, Any]]:
        moments = self._moments
        if moments.start_ns is None:
            return None
        first, last = min(moments.counts), max(moments.counts)
        start_ns = moments.start_ns + first * moments.width_ns
        return {
            "width_ns": moments.width_ns,
            "counts": [moments.counts.get(number, [0, 0]) for number in range(first, last + 1)],
            "began": self._when(start_ns),
            "ended": self._when(start_ns + (last + 1 - first) * moments.width_ns),
        }

    def _kind(self, kind: Kind) -> dict[str, Any]:
        finding = kind.finding
        places = sorted(kind.places.items(), key=lambda row: (-row[1], row[0]))
        return {
            "level": finding.level,
            "name": finding.name,
            "message": finding.message,
            "packets": kind.packets,
            "roots": kind.roots,
            "advice": list(finding.advice),
            "places": [[trace, place, count] for (trace, place), count in places[:PLACES_MAX]],
            "places_rest": len(places[PLACES_MAX:]),
            "examples": [
                {
                    "time": self._when(each.event.time_ns),
                    "headers": packet_text(each.event.packet),
                    "told": [[told.label, told_text(told)] for told in each.told],
                    "evidence": [[proof.source, proof.text] for proof in each.evidence],
                    "doubt": each.doubt,
                }
                for each in kind.examples
            ],
        }  # fmt: skip

    def _drop_rows(self) -> dict[str, Any]:
        drops: Mapping[tuple[Optional[int], int], int]
        drops = self._table.drops if isinstance(self._table, DropCounts) else self._drops
        know = self._know
        rows: list[list[Any]] = [
            [None if reason is None else know.reason(reason), place_in_code(location, know.symbol), count,
             None if reason is None else know.meaning(reason)]
            for (reason, location), count in drops.items()
        ]  # fmt: skip
        rows.sort(key=lambda row: (-row[2], row[0] or "", row[1]))
        return {
            "rows": rows[:ROWS_MAX],
            "all": sum(drops.values()) + self._drops_rest,
            "more": len(rows[ROWS_MAX:]),
            "rest": self._drops_rest,
        }

    def _flow_rows(self) -> dict[str, Any]:
        rows = sorted(self._flows.counts.items(), key=lambda row: (-row[1][2], -row[1][0], row[0]))
        return {
            "rows": [[*key, *count] for key, count in rows[:FLOWS_MAX]],
            "more": len(rows[FLOWS_MAX:]),
            "others": self._flows.others,
        }


def _severity(kind: Kind) -> tuple[Any, ...]:
    return (ERROR, WARN, INFO).index(kind.finding.level), -kind.roots, -kind.packets, kind.finding.name


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["nettrace", *map(shlex.quote, arguments)])


def _summary(summary: Summary) -> dict[str, Any]:
    lost = [[sum(summary.lost_messages), "messages lost"]]
    lost += [[count, what] for count, what, is_lost in summary.counts() if is_lost]
    return {
        "text": summary.text(verbose=True),
        "lost": [row for row in lost if row[0]],
        "left_out": [[count, what] for count, what, is_lost in summary.counts() if count and not is_lost],
        "skipped": summary.skipped,
    }
