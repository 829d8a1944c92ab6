"""Reading a recording: the same records, in the same order, with what the host said of them then."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from types import TracebackType
from typing import Any, Optional, Protocol

from . import files, filters, live, matching, rules, tree
from .columns import Decoder
from .cost import Cost
from .diagnosis import Diagnosis, Finding
from .errors import StreamError
from .event import Context, Event, Record
from .header import Header
from .host import Recorded
from .player import Player
from .recording import Chunk, chunks, opened
from .rules import Rules
from .sinks import Display, Lookups, Summary, Text
from .tables import KINDS, Table

_MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


class Taker(Protocol):
    """What a recording is fed to: a Player, or a Recorder."""

    def push(self, record: Record) -> None:
        """Takes a record."""

    def expire(self, now_ns: int) -> None:
        """Packets that nothing was heard of for long were given up then."""

    def close(self, now_ns: int) -> None:
        """All packets were given up then: the run was over."""

    def gap(self, events: int) -> None:
        """So many hits were lost."""

    def table(self, table: Table) -> None:
        """What was counted so far."""

    def clock(self, wall_offset_ns: int) -> None:
        """What wall-clock time was ahead by."""


class Recording:
    """A recording, to be read once, from its beginning: by iterating over its packets, or by feed().

    Where it goes on in another file, and that is there beside it, that is read too.

    header: what the run was. host: what its numbers stand for, as far as it was read. summary: what it saw and did
    not see, once all was read. table: the last one of what was only counted. Where the recording is damaged or has
    no end, StreamError says so, after all that can be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.summary: Optional[Summary] = None
        self.table: Optional[Table] = None
        self.next: Optional[str] = None  # the file that goes on where this one ends, if it is not there
        self._begin(path)
        self._meanings: Optional[Rules] = None
        self._diagnosis: Optional[Diagnosis] = None

    def _begin(self, path: str) -> None:
        self._file = opened(path)
        try:
            self._chunks = chunks(self._file, path)
            self._read_header(path)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, path: str) -> None:
        try:
            at, chunk = next(self._chunks)
        except StopIteration as error:
            raise StreamError(f"{path} is cut off: nothing was recorded") from error
        try:
            header = Header.of(chunk["nettrace"])
            shapes = {str(name): tuple(map(str, shape)) for name, shape in chunk["shapes"].items()}
        except (*_MALFORMED, StreamError) as error:
            raise StreamError(f"{path} is damaged at byte {at}: {error}") from error
        if path == self.path:
            self.header = header
            self.host = Recorded(header.own_netns, header.tick_ns)
            self._decoder = Decoder([trace.name for trace in header.traces], shapes)
        elif header != self.header:
            raise StreamError(f"{path} is of another run than {self.path}, which it should go on from")

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; iterating further fails."""
        self._file.close()

    def __iter__(self) -> Iterator[Context]:
        """The packets, each when it is complete; single events, where packets were not followed, as packets too."""
        sink = _Packets(self.lookups)
        player = Player(sink, follow=self.header.mode == "packets", join_clones=self.header.join_clones)
        for _ in self.play(player):
            yield from sink.take()

    def packets(self, **conditions: str) -> Iterator[Context]:
        """The packets that fit all conditions, which are named as the options are: proto="tcp", dport="443".

        As for the options, a packet fits if it does at one of its events; UsageError where a condition makes no sense.
        """
        matches = matching.matcher(filters.parse(**conditions), self.header, self.host)  # type: ignore[arg-type]
        return (packet for packet in self if matches is None or matches(packet))

    def events(self) -> Iterator[Event]:
        """The events of the packets."""
        return (event for packet in self for event in packet.events)

    def drops(self, packet: Context) -> list[tuple[str, str]]:
        """Where the packet or a clone of it was dropped: the reason, if the kernel gives one, and the function.

        What happens to healthy packets too, is no drop.
        """
        found = map(live.dropped(self.host, self.diagnosis), packet.events)
        return [drop for drop in found if drop is not None]

    @property
    def meanings(self) -> Rules:
        """The rules that events are judged by."""
        if self._meanings is None:
            self._meanings = rules.load(files.RULES, tree.load(files.TREE))
        return self._meanings

    @property
    def diagnosis(self) -> Diagnosis:
        """What says what events mean."""
        if self._diagnosis is None:
            self._diagnosis = live.diagnosis(self.host, self.header.traces, self.meanings)
        return self._diagnosis

    @property
    def lookups(self) -> Lookups:
        """What the host said of its numbers and names, without remarks."""
        return live.lookups(self.host, self.header.traces)

    def findings(self, packet: Context) -> tuple[Finding, ...]:
        """What is to be said of a packet, the likely root cause first; with evidence if that was read live."""
        return self.diagnosis.findings(packet)

    def text(self, packet: Context, display: Optional[Display] = None) -> str:
        """A packet's block as nettrace prints it."""
        out = io.StringIO()
        display = display or Display()
        lookups = replace(self.lookups, remarks=self.diagnosis.remarks, remarked=self.meanings.by_trace)
        Text(out, replace(display, stacks=frozenset(self.header.stack_at)), lookups).context(packet)
        return out.getvalue()

    def feed(self, taker: Taker) -> None:
        """Hands all of it over."""
        for _ in self.play(taker):
            pass

    def play(self, taker: Taker) -> Iterator[None]:
        """Hands it over chunk by chunk, with the files that go on where this one ends, as far as they are there."""
        trouble: Optional[StreamError] = None
        path = self.path
        try:
            while True:
                for at, chunk in self._chunks:
                    try:
                        if not getattr(taker, "done", False):
                            self._hand_over(chunk, taker)
                        self._end(chunk)
                    except StreamError as error:
                        raise StreamError(f"{path} is damaged at byte {at}: {error}") from error
                    yield
                if self.next is None:
                    break
                path = os.path.join(os.path.dirname(self.path), os.path.basename(self.next))
                if not os.path.exists(path):
                    break
                self._file.close()
                self.next = None
                self._begin(path)
        except StreamError as error:
            trouble = error
        if self.summary is None:
            # What is still on its way will not come to its end in this file.
            taker.close(0)
            yield
            if trouble is None and self.next is None:
                trouble = StreamError(f"{path} has no end: the run still goes on, or it was killed")
        if trouble is not None:
            raise trouble

    def _hand_over(self, chunk: Chunk, taker: Taker) -> None:
        records = self._decoder.records(chunk.get("records", {}))
        marks, answers = _placed(chunk.get("marks", []), 3), _placed(chunk.get("answers", []), 4)
        if not marks and not answers:
            for record in records:
                taker.push(record)
            return
        ordered, told = iter(records), iter([*answers, [1 << 62, None, None, None]])
        marked = {mark[0]: mark for mark in marks}
        place, kind, key, answer = next(told)
        for at in range(len(records) + len(marks)):
            while place <= at:
                self._take_answer(kind, key, answer)
                place, kind, key, answer = next(told)
            if at in marked:
                self._mark(marked[at][1], marked[at][2], taker)
            else:
                for record in islice(ordered, 1):
                    taker.push(record)
        while kind is not None:
            self._take_answer(kind, key, answer)
            place, kind, key, answer = next(told)

    def _take_answer(self, kind: str, key: Any, answer: Any) -> None:
        try:
            self.host.take(kind, key, answer)
        except _MALFORMED as error:
            raise StreamError(f"what it says of a {kind} makes no sense") from error

    def _mark(self, kind: str, value: Any, taker: Taker) -> None:
        if kind == "table":
            self._take_table(value, taker)
            return
        take = {"expire": taker.expire, "close": taker.close, "gap": taker.gap, "clock": taker.clock}.get(kind)
        if not isinstance(value, int) or abs(value) >= 1 << 63:
            raise StreamError(f"'{kind}' is followed by no number")
        if take is not None:  # else a later version knows what that is
            take(value)

    def _take_table(self, plain: Any, taker: Taker) -> None:
        try:
            kind = KINDS.get(plain["kind"])
            table = None if kind is None else kind.of(plain)
        except _MALFORMED as error:
            raise StreamError("a table makes no sense") from error
        if table is not None:
            self.table = table
            taker.table(table)

    def _end(self, chunk: Chunk) -> None:
        if "next" in chunk:
            self.next = str(chunk["next"])
        if "end" not in chunk:
            return
        known = {field.name for field in fields(Summary)}
        try:
            plain = {name: value for name, value in chunk["end"].items() if name in known}
            lost = tuple(map(int, plain.pop("lost_messages")))
            cost = plain.pop("cost", None)
            if any(not isinstance(value, int) for name, value in plain.items() if name not in ("unit", "events")):
                raise ValueError("a count")
            told = None if cost is None else Cost.of(cost)
            self.summary = Summary(**{**plain, "lost_messages": lost, "cost": told})
        except _MALFORMED as error:
            raise StreamError("its summary makes no sense") from error


class _Packets(Text):
    """Collects packets."""

    def __init__(self, lookups: Lookups) -> None:
        super().__init__(io.StringIO(), Display(), lookups)
        self._packets: list[Context] = []

    def context(self, context: Context) -> bool:
        self._packets.append(context)
        return True

    def events(self, events: Iterable[Event]) -> None:
        for item in events:
            self._packets.append(Context(0, (item.skb,), (item,), False, False))

    def gap(self, events: int) -> None:
        pass

    def table(self, table: Table) -> None:
        pass

    def take(self) -> list[Context]:
        """Those since it was last asked."""
        taken, self._packets = self._packets, []
        return taken


def _placed(rows: Any, length: int) -> Sequence[Sequence[Any]]:
    """Rows that begin with a place and a kind."""
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == length and isinstance(row[0], int) and isinstance(row[1], str)
        for row in rows
    ):
        raise StreamError("what happened between the records makes no sense")
    return rows
