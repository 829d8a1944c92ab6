"""Recordings whose packets did something else: made from one that is recorded, for tests that compare or judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Optional

import nettrace
from nettrace.alignment import lives
from nettrace.columns import SHAPES, encode
from nettrace.event import Context, Drop, Event, Record, Return
from nettrace.header import Header
from nettrace.recording import Writer, chunks, opened

FOLDER = Path(__file__).parent / "data" / "recordings"
DIAG = FOLDER / "6.12" / "diag.ntr"
MINUS_ONE = (1 << 64) - 1


def packets(path: Path = DIAG) -> list[Context]:
    with nettrace.open(str(path)) as recording:
        return list(recording)


def is_ping(context: Context, kind: str = "request") -> bool:
    """Whether it is a ping request, or a ping reply."""
    headers = context.events[0].packet
    return headers.l4_protocol == 1 and headers.l4[0] == {"request": 8, "reply": 0}[kind]


def again(context: Context, later_ns: int) -> Context:
    """The same packet, later and with an id of its own."""
    events = tuple(
        item._replace(
            time_ns=item.time_ns + later_ns,
            returned=None
            if item.returned is None
            else item.returned._replace(time_ns=item.returned.time_ns + later_ns),
        )
        for item in context.events
    )
    return context._replace(packet_id=context.packet_id + (later_ns << 20), events=events)


def changed(context: Context, trace: str, change: Callable[[Event], Event]) -> Context:
    """The packet with another thing told at this trace."""
    assert any(item.trace == trace for item in context.events)
    return context._replace(events=tuple(change(item) if item.trace == trace else item for item in context.events))


def without(context: Context, *traces: str) -> Context:
    """The packet, had it not passed these traces."""
    kept = tuple(item for item in context.events if item.trace not in traces)
    assert len(kept) < len(context.events)
    return context._replace(events=kept)


def dropped(context: Context, after: str, reason: Optional[int], location: int) -> Context:
    """The packet, had it been dropped where it passed this trace."""
    way = [item for item in context.events if item.skb == context.events[0].skb]
    place = next(at for at, item in enumerate(way) if item.trace == after)
    verdict = way[place]._replace(returned=Return(way[place].time_ns + 2000, MINUS_ONE))
    end = verdict._replace(
        time_ns=verdict.time_ns + 1000, trace="kfree_skb", number=verdict.number + 1, facts=(), returned=None,
        drop=Drop(location, reason),
    )  # fmt: skip
    return context._replace(skbs=(verdict.skb,), events=(*way[:place], verdict, end))


def slower(context: Context, at: str, ns: int) -> Context:
    """The packet, had it taken so much longer to come to this trace."""
    place = next(number for number, item in enumerate(context.events) if item.trace == at)
    later = (item._replace(time_ns=item.time_ns + ns) for item in context.events[place:])
    return context._replace(events=(*context.events[:place], *later))


def write(
    path: Path, contexts: Iterable[Context], source: Path = DIAG, *,
    header: Callable[[Header], Header] = lambda header: header, answers: Iterable[list[Any]] = (), lost: int = 0,
    end: bool = True,
) -> str:  # fmt: skip
    """A recording of these packets, by a run and on a host like those of another recording."""
    with nettrace.open(str(source)) as recording:
        recording.feed(_Nobody())
        assert recording.summary is not None
        plain = header(recording.header)
        summary = asdict(replace(recording.summary, lost_messages=(lost,)))
    with opened(str(source)) as file:
        known = [[0, *answer[1:]] for _, chunk in chunks(file, str(source)) for answer in chunk.get("answers", ())]
    numbers = {trace.name: number for number, trace in enumerate(plain.traces)}
    with Writer(str(path)) as writer:
        writer.head = lambda: [{"nettrace": plain.plain(), "shapes": SHAPES}, {"answers": [*known, *answers]}]
        writer.begin()
        found = [record for context in contexts for record in _records(context)]
        for start in range(0, len(found), 1000):
            writer.write({"records": encode(found[start : start + 1000], numbers)})
        if end:
            writer.write({"marks": [[0, "close", 0]]})
            writer.write({"end": summary})
    return str(path)


def _records(context: Context) -> Iterable[Record]:
    """What a run would have told of a packet."""
    ways = lives(context.events)
    for number, way in enumerate(ways):
        own = context.packet_id + number
        way = [item._replace(number=place) for place, item in enumerate(way)]
        returned = [(item.number, item.returned) for item in way if item.returned is not None]
        yield Record(
            context.packet_id, own, context.packet_id if number else 0, way[0].skb, 0 if number else len(ways) - 1,
            not context.unfinished, False, 1 if context.missing else 0, len(way),
            tuple(item._replace(returned=None) for item in way), len(returned),
        )  # fmt: skip
        for pair in returned:
            yield Record(context.packet_id, own, 0, way[0].skb, 0, False, False, 0, 0, (), 0, (pair,))


class _Nobody:
    """Takes a recording and keeps nothing."""

    def push(self, record: Record) -> None: ...
    def expire(self, now_ns: int) -> None: ...
    def close(self, now_ns: int) -> None: ...
    def gap(self, events: int) -> None: ...
    def table(self, table: Any) -> None: ...
    def clock(self, wall_offset_ns: int) -> None: ...
