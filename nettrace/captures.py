"""The packets themselves, where they were seen, in a pcapng file beside what is shown of them."""

import io
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Optional

from . import pcapng
from .diagnosis import Finding
from .errors import StreamError
from .event import Context, Event
from .header import Header
from .sinks import CLOCK_CHANGE_NS, Display, Lookups, Summary, Text, place_in_code
from .tables import Table


class Capture:
    """A pcapng file: put() writes to it; error: why nothing more is written."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.error: Optional[StreamError] = None
        self._put = put

    def write(self, blocks: bytes) -> None:
        """Writes whole blocks."""
        if self.error is not None or not blocks:
            return
        try:
            self._put(blocks)
        except StreamError as error:
            self.error = error


class Captured(Text):
    """Writes what another sink shows to a pcapng file, too.

    points: the traces whose packets are written; None: all. findings: of a packet, if they were asked for.
    """

    def __init__(
        self, sink: Text, capture: Capture, lookups: Lookups, *, points: Optional[Collection[str]] = None,
        findings: Optional[Callable[[Context], Sequence[Finding]]] = None,
    ) -> None:  # fmt: skip
        super().__init__(io.StringIO(), Display(), lookups)
        self._sink = sink
        self._capture = capture
        self._points = points
        self._findings = findings
        self._descriptions: dict[str, str] = {}
        self._interfaces: dict[tuple[str, bool], int] = {}
        self._offset_ns = self._snaplen = 0

    def begin(self, header: Header) -> None:
        """The run begins."""
        self._offset_ns = header.clock_offset_ns
        self._snaplen = header.snaplen
        self._descriptions = {trace.name: f"{trace.function or 'tracepoint'}: {trace.desc}" for trace in header.traces}
        system, program = f"Linux {header.kernel}", f"nettrace {header.version}"
        self._capture.write(pcapng.section(header.machine, system, program))
        self._sink.begin(header)

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over."""
        self._sink.end(summary)

    @property
    def done(self) -> bool:
        """Whether enough was shown, or no more can be written."""
        return self._sink.done or self._capture.error is not None

    def context(self, context: Context) -> bool:
        """A packet; false: it is not to be shown, and not to be written either."""
        if not self._sink.context(context):
            return False
        said: dict[int, list[str]] = {}
        for finding in () if self._findings is None else self._findings(context):
            words = f"{finding.level}: {finding.message}{' (the likely cause)' if finding.root else ''}"
            said.setdefault(id(finding.event), []).append(words)
        self._write(context.events, context.packet_id, said)
        return True

    def events(self, events: Iterable[Event]) -> None:
        """Hits that stand for themselves."""
        hits = tuple(events)
        self._sink.events(hits)
        self._write(hits, 0, {})

    def duration_ns(self, events: Sequence[Event]) -> int:
        """How long a packet took."""
        return self._sink.duration_ns(events)

    def gap(self, events: int) -> None:
        """So many events were lost here."""
        self._sink.gap(events)

    def table(self, table: Table) -> None:
        """What was counted so far."""
        self._sink.table(table)

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now."""
        if abs(wall_offset_ns - self._offset_ns) > CLOCK_CHANGE_NS:
            self._offset_ns = wall_offset_ns
        self._sink.keep_time(wall_offset_ns)

    def flush(self) -> None:
        """Lets the reader see what was written."""
        self._sink.flush()

    def _write(self, events: Iterable[Event], packet_id: int, said: dict[int, list[str]]) -> None:
        blocks: list[bytes] = []
        for item in events:
            frame = item.frame
            if frame is None or (self._points is not None and item.trace not in self._points):
                continue
            number = self._interfaces.get((item.trace, frame.is_ethernet))
            if number is None:
                number = self._interfaces[item.trace, frame.is_ethernet] = len(self._interfaces)
                blocks.append(self._interface(item.trace, is_ethernet=frame.is_ethernet))
            if len(frame.data) > self._snaplen:  # with the tag that was beside it
                frame = frame._replace(data=frame.data[: self._snaplen])
            comment = self._comment(item, packet_id, said.get(id(item), ()))
            blocks.append(pcapng.packet(number, item.time_ns + self._offset_ns, frame, packet_id, comment))
        self._capture.write(b"".join(blocks))

    def _interface(self, trace: str, *, is_ethernet: bool) -> bytes:
        description = self._descriptions.get(trace, "")
        if is_ethernet:
            return pcapng.interface(trace, description, pcapng.ETHERNET, self._snaplen)
        return pcapng.interface(trace, f"{description} (from the IP header on)", pcapng.RAW_IP, self._snaplen)

    def _comment(self, item: Event, packet_id: int, said: Sequence[str]) -> str:
        parts = [f"packet {packet_id}"] if packet_id else []
        parts += [f"skb 0x{item.skb:x}", item.trace]
        place = "" if item.device is None else self._where(item)
        if place:
            parts.append(place)
        if item.drop is not None:
            parts.append(self._drop(item))
        return "; ".join([", ".join(parts), *said])

    def _where(self, item: Event) -> str:
        assert item.device is not None
        if not item.device.netns:
            return ""
        netns = self._netns(item.device.netns)
        return f"{self.place(item.device._replace(netns=self._know.own_netns))}@{netns}"

    def _drop(self, item: Event) -> str:
        assert item.drop is not None
        where = place_in_code(item.drop.location, self._know.symbol)
        if item.drop.reason is None:
            return f"dropped at {where}"
        meaning = self._know.meaning(item.drop.reason)
        return f"dropped at {where}: {self._know.reason(item.drop.reason)}{f' ({meaning})' if meaning else ''}"


def once(findings: Callable[[Context], Sequence[Finding]]) -> Callable[[Context], Sequence[Finding]]:
    """The same, for several who ask about the same packet one after the other."""
    latest: list[tuple[Context, Sequence[Finding]]] = []

    def found(context: Context) -> Sequence[Finding]:
        if not latest or latest[0][0] is not context:
            latest[:] = [(context, findings(context))]
        return latest[0][1]

    return found
