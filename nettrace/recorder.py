"""Takes what a run sees, and what is asked of the host about it, and writes it to a recording."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional

from . import columns, tables
from .analyzers import hook_functions
from .errors import StreamError
from .event import Event, Record
from .header import Header
from .host import Host, Key, Remembering
from .meaning import return_text
from .recording import Chunk, Writer
from .rules import Rules
from .sinks import CLOCK_CHANGE_NS, Summary
from .tables import Paths, Table

# A chunk has no more than these.
_EVENTS_MAX = 8192
_RECORDS_MAX = 4096


class Recorder:
    """Writes a recording; what it is told it takes in the way Player does.

    `host` is the host as it must be asked from now on, so that each answer is in the recording before it is needed.
    """

    def __init__(self, writer: Writer, host: Host) -> None:
        self.host = Remembering(host, self._answer)
        self._writer = writer
        self._header: Optional[Header] = None
        self._wall_offset_ns = 0
        self._trace_numbers: dict[str, int] = {}
        self._clear()

    @property
    def error(self) -> Optional[StreamError]:
        """Why nothing is recorded any more."""
        return self._writer.error

    def begin(self, header: Header, meanings: Rules) -> None:
        """Writes what must be known of the run, and of the kernel for what may come of it."""
        self._header = header
        self._wall_offset_ns = header.clock_offset_ns
        self._trace_numbers = {trace.name: number for number, trace in enumerate(header.traces)}
        host = self.host
        for trace in header.traces:
            if trace.function is not None:
                return_text(host.return_type(trace.function) or "", 0, host.enum_names, trace.function)
        for enum in {"sk_rst_reason", *meanings.enums}:
            host.enum_names(enum)
        for number in host.enum_names("skb_drop_reason"):
            host.drop_reason(number)
        self._clear()
        self._writer.head = self._head
        self._writer.begin()

    def push(self, record: Record) -> None:
        """Takes one record."""
        # What was asked about the one before is known only now.
        if self._events >= _EVENTS_MAX or len(self._records) >= _RECORDS_MAX:
            self.flush()
        self.host.ask_again()
        self._records.append(record)
        self._events += len(record.events)
        self._items += 1

    def expire(self, now_ns: int) -> None:
        """Notes that packets that nothing was heard of for long are given up."""
        self._mark("expire", now_ns)

    def close(self, now_ns: int) -> None:
        """Notes that all packets are given up."""
        self._mark("close", now_ns)

    def gap(self, events: int) -> None:
        """Notes that hits were lost."""
        self._mark("gap", events)

    def table(self, table: Table) -> None:
        """Takes what was counted so far."""
        if isinstance(table, Paths):
            for reason, location in {node.drop for node in table.nodes if node.drop is not None}:
                self._ask_drop(reason, location)
        self._mark("table", {"kind": tables.kind_of(table), **table.plain()})

    def clock(self, wall_offset_ns: int) -> None:
        """Notes what wall-clock time is by now, if the clock was set or the host was asleep."""
        if abs(wall_offset_ns - self._wall_offset_ns) > CLOCK_CHANGE_NS:
            self._wall_offset_ns = wall_offset_ns
            self._mark("clock", wall_offset_ns)

    def flush(self) -> None:
        """Writes what was taken: from now on nobody can take it away."""
        if not self._items and not self._answers:
            return
        chunk: dict[str, Any] = {}
        if self._records:
            self._ask(self._records)
            chunk["records"] = columns.encode(self._records, self._trace_numbers)
        if self._marks:
            chunk["marks"] = self._marks
        if self._answers:
            chunk["answers"] = sorted(self._answers, key=lambda answer: answer[0])
        self._clear()
        self._writer.write(chunk)
        self._writer.rotate()

    def end(self, summary: Summary) -> None:
        """Writes what was seen in all, and what was not."""
        self.flush()
        self._writer.write({"end": asdict(summary)})

    def _head(self) -> list[Chunk]:
        assert self._header is not None
        header = {"nettrace": self._header.plain(), "shapes": columns.SHAPES}
        return [header, {"answers": [[0, *answer] for answer in self.host.answers.all()]}]

    def _clear(self) -> None:
        self._records: list[Record] = []
        self._marks: list[list[Any]] = []
        self._answers: list[list[Any]] = []  # each with the place of what it was asked about
        self._items = self._events = 0
        self._early = False

    def _mark(self, kind: str, value: Any) -> None:
        self.host.ask_again()
        self._marks.append([self._items, kind, value])
        self._items += 1

    def _answer(self, kind: str, key: Key, answer: Any) -> None:
        self._answers.append([0 if self._early else max(0, self._items - 1), kind, key, answer])

    def _ask(self, records: Sequence[Record]) -> None:
        """Asks what nobody had to know for what was shown, but may want to know of the recording."""
        self._early = True
        events = [event for record in records for event in record.events]
        for device in {id(event.device): event.device for event in events}.values():
            if device is not None and device.netns and ("netns", device.netns) not in self.host.answers:
                self.host.netns(device.netns)
        for event in events:
            if event[_FIRST_EXTRA:] != _NO_EXTRAS:
                self._ask_of(event)

    def _ask_of(self, event: Event) -> None:
        for address in (*event.stack, *hook_functions(event)):
            self.host.symbol(address)
        if event.drop is not None:
            self._ask_drop(event.drop.reason, event.drop.location)
        socket = 0 if event.detail is None else event.detail.socket
        if socket and ("owner", socket) not in self.host.answers:
            self.host.owner(socket)

    def _ask_drop(self, reason: Optional[int], location: int) -> None:
        self.host.symbol(location)
        if reason is not None:
            self.host.drop_reason(reason)


# What most events have nothing of: from `detail` on.
_FIRST_EXTRA = Event._fields.index("detail")
_NO_EXTRAS = tuple(Event._field_defaults[name] for name in Event._fields[_FIRST_EXTRA:])
