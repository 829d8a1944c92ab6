"""What the user reads: packets, events and summaries as text."""

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, TextIO

from .cost import Cost
from .counts import counted
from .diagnosis import Analysis, Finding
from .event import Context, Device, Event, Packet
from .header import Header
from .kernel import Symbol
from .names import DETAIL_COLUMNS
from .packets import change_text, packet_text
from .report import FINISHED, report_text
from .sockets import socket_text
from .stacks import stack_lines
from .tables import DropCounts, Paths, Table

_NS_PER_MS = 1_000_000
CLOCK_CHANGE_NS = _NS_PER_MS  # less is no change of the clock but of what measuring it took
_ENDS = ("free", "drop")  # roles of traces
_LEVEL_CODES = {"error": "31", "warn": "33"}


@dataclass(frozen=True)
class Display:
    """What is shown of packets and events."""

    detail: bool = False  # the columns of --detail
    columns: tuple[str, ...] = ()  # of COLUMNS, in the user's order
    traces: bool = True  # the trace of each event; with `detail` it is shown anyway
    meanings: bool = False  # what drop reasons mean, once each
    rare_paths: bool = False  # rare branches of paths, too
    tiny: bool = False  # headers on the first line of a packet only
    latency: bool = False  # the time since the line before, and in all
    latency_free: bool = False  # the time in all includes the last free
    end_traces: frozenset[str] = frozenset()  # traces that the time in all includes although they free
    returns: bool = True  # what functions returned, as far as it is told
    stacks: frozenset[str] = frozenset()  # traces whose stack was asked for
    wall_offset_ns: Optional[int] = None  # from an event's time to wall-clock time; None: its own time is shown
    utc_offset_s: Optional[int] = None  # of the local time there; None: as it is here
    colour: bool = False


@dataclass(frozen=True)
class Lookups:
    """What numbers and names stand for, on the host that the events are from."""

    symbol: Callable[[int], Optional[Symbol]] = lambda address: None
    reason: Callable[[int], str] = str
    meaning: Callable[[int], Optional[str]] = lambda reason: None  # in words
    returned: Callable[[str, int], str] = lambda trace, value: str(value)  # empty: nothing
    netns: Callable[[int], Optional[str]] = lambda inode: None
    own_netns: int = 0  # needs no name
    owner: Callable[[int], Optional[tuple[str, int]]] = lambda inode: None  # name and number of a process
    groups: Mapping[str, str] = field(default_factory=dict)  # of traces
    roles: Mapping[str, str] = field(default_factory=dict)  # of the traces that have one, see tracer.yaml
    remarks: Callable[[Event], Iterable[tuple[str, str]]] = lambda item: ()  # level and text, by what the step tells
    remarked: frozenset[str] = frozenset()  # traces that there may be remarks on, beside those that tell facts


# What was last written of an skb: its headers, where it was, these headers' text, its mark, the step's number.
_Line = tuple[Optional[Packet], Optional[Device], str, str, int]
_NO_LINE: _Line = (None, None, "", "", -1)


class _Places:
    """Where the skbs of a packet are, up to the line that is being written."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._of: dict[int, Device] = {}
        self._last: Optional[Device] = None

    def move(self, item: Event) -> Optional[tuple[Optional[Device], Device]]:
        """From where to where an skb has come with this event, if it did; where a new one is from is not told."""
        here, before = item.device, self._of.get(item.skb)
        there = before or self._last
        if here is None or not (here.ifindex or here.netns):
            here = there
        elif there is not None and here.netns == there.netns and here.ifindex in (0, there.ifindex):
            here = there  # no longer at a device is not elsewhere
        if here is None:
            return None
        self._of[item.skb] = self._last = here
        if here is there or (before is None and self._has_yet_to_meet_a_device(here)):
            return None
        return before, here

    def forget(self, skb: int) -> None:
        """The skb of this address is another one from now on."""
        self._of.pop(skb, None)

    def _has_yet_to_meet_a_device(self, here: Device) -> bool:
        """Whether a packet that begins without a device gets one in the same namespace: that will be told."""
        return not here.ifindex and any(
            item.device and item.device.ifindex and item.device.netns == here.netns for item in self._events
        )


class _Starts(dict[str, str]):
    """Traces as they are shown."""

    def __missing__(self, trace: str) -> str:
        self[trace] = text = f"[{trace:<20}]"
        return text


class Held(io.StringIO):
    """Holds back what is written, until it is released: what is recorded must be so before it is shown."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._held_for = out

    def isatty(self) -> bool:
        """Whether it will be on a terminal."""
        return self._held_for.isatty()

    def flush(self) -> None:
        """Releases it."""
        self._held_for.write(self.getvalue())
        self._held_for.flush()
        self.seek(0)
        self.truncate()


class Text:
    """Packets and events as lines of text."""

    def __init__(self, out: TextIO, display: Display, lookups: Lookups) -> None:
        self._out = out
        self._show = display
        self._know = lookups
        names = display.columns
        if display.detail:
            names = DETAIL_COLUMNS + tuple(name for name in names if name not in (*DETAIL_COLUMNS, "id"))
        makers = {
            "id": _skb_column, "cpu": _cpu_column, "if": _interface_column, "netns": self._netns_column,
            "pid": self._process_column, "group": self._group_column, "mark": _mark_column, "len": _length_column,
        }  # fmt: skip
        self._columns = [makers[name] for name in names]
        self._marks_skbs = not display.detail and "id" not in names
        self._marks_moves = not {"if", "netns"} <= set(names)
        self._plain = not (display.detail or names or display.colour or display.wall_offset_ns is not None)
        self._wall_offset_ns = display.wall_offset_ns
        self._explained: set[int] = set()  # drop reasons
        self._second = -1
        self._second_text = ""
        self._starts = _Starts()
        self._trace_remarks: dict[str, str] = {}  # on steps that tell nothing but that they were reached
        # Most hits have the headers of the hit before.
        self._packet: Optional[Packet] = None
        self._packet_text = ""

    def begin(self, header: Header) -> None:
        """The run begins: from now on packets are seen."""
        self.note("begin trace...")
        self.flush()

    def end(self, summary: Optional["Summary"]) -> None:
        """The run is over; what it saw and did not see, if that is known, is told elsewhere."""
        self.note("end trace...")
        self.flush()

    def context(self, context: Context) -> bool:
        """A packet's block: a header with its skbs, a line an event, an empty line; false: it is not to be shown."""
        skbs = ",".join(f"{skb & 0xFFFFFFFF:08x}" for skb in context.skbs)
        lines = [self._bold(f"***************** {skbs} ***************")]
        lines += self.lines(context)
        if self._show.latency and context.events:
            lines.append(f"total latency: {_milliseconds(self.duration_ns(context.events))}")
        if context.missing:
            lines.append(self._yellow("(incomplete: part of this packet's path was lost)"))
        if context.unfinished:
            lines.append(self._yellow("(unfinished: this packet was not seen to be freed)"))
        lines.append("\n")
        self._out.write("\n".join(lines))
        return True

    def events(self, events: Iterable[Event]) -> None:
        """A line each, as they come."""
        lines: list[str] = []
        for item in events:
            if item.packet is not self._packet:
                self._packet = item.packet
                self._packet_text = packet_text(item.packet)
            text = self._packet_text if item.socket is None else socket_text(item.packet, item.socket)
            lines.append(f"{self.start(item)} {text}{self.notes(item)}")
            lines += self._stack(item)
            if self._show.meanings and item.drop is not None and item.drop.reason is not None:
                lines += self._meaning(item.drop.reason)
        lines.append("")
        self._out.write("\n".join(lines))

    @property
    def is_plain(self) -> bool:
        """Whether blocks are shown whole and as they are, so that Templates can write them."""
        show = self._show
        is_short = show.tiny or show.latency or bool(show.stacks)
        return type(self) is Text and self._plain and not is_short

    def write(self, text: str) -> None:
        """A block, or lines, as they are."""
        self._out.write(text)

    @property
    def done(self) -> bool:
        """Whether enough was shown."""
        return False

    @property
    def failed(self) -> bool:
        """Whether the run is to end with an exit status that says that something is wrong."""
        return False

    def duration_ns(self, events: Sequence[Event]) -> int:
        """How long a packet took; that it is freed in the end is not part of its way, unless it was asked for."""
        if not events:
            return 0
        points = self.points(events)
        return points[-1].time_ns - events[0].time_ns if points else 0

    def points(self, events: Sequence[Event]) -> list[Event]:
        """The steps that count for how long a packet took."""
        if self._show.latency_free:
            return list(events)
        roles, ends = self._know.roles, self._show.end_traces
        return [item for item in events if roles.get(item.trace) not in _ENDS or item.trace in ends]

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now, if the clock was set or the host was asleep."""
        if self._wall_offset_ns is not None and abs(wall_offset_ns - self._wall_offset_ns) > CLOCK_CHANGE_NS:
            self._wall_offset_ns = wall_offset_ns

    def flush(self) -> None:
        """Lets the reader see what was written."""
        self._out.flush()

    def gap(self, events: int) -> None:
        """So many events that stand for themselves were lost here."""
        self.note(f"({counted(events, 'events')} lost)")

    def table(self, table: Table) -> None:
        """What was counted so far."""
        assert not isinstance(table, (DropCounts, Paths))
        self.note(table.text().rstrip("\n") + "\n")

    def note(self, text: str) -> None:
        """A line that is no event's."""
        self._out.write(text + "\n")

    def place(self, device: Device) -> str:
        """Where that is: "eth0", "eth0@namespace" unless it is the tool's own one, "@namespace" for no device."""
        netns = "" if device.netns == self._know.own_netns else self._netns(device.netns)
        interface = device.name if device.ifindex else ""
        return f"{interface}@{netns}" if netns else interface

    def paint(self, level: str, text: str) -> str:
        """The text in the colour of a level: info, warn or error."""
        return self._paint(_LEVEL_CODES.get(level, "2"), text) if self._show.colour else text

    def lines(self, context: Context) -> list[str]:
        """The lines of a packet's events, and between them where it came to be elsewhere."""
        lines: list[str] = []
        several = self._marks_skbs and len(context.skbs) > 1
        tiny, latency, plain, stacks = self._show.tiny, self._show.latency, self._plain, self._show.stacks
        remarked = self._know.remarked
        places = _Places(context.events)
        others: dict[int, _Line] = {}  # the last lines of the other skbs
        packet, device, text, mark, number = _NO_LINE
        skb = before_ns = -1
        lives = 0
        known, starts = self._trace_remarks, self._starts
        for at, item in enumerate(context.events):
            time_ns, trace, skb_now, packet_now, number_now, device_now, _, drop, stack, returned, facts, _, _ = item
            notes = ""
            if skb_now != skb or number_now <= number:
                others[skb] = packet, device, text, mark, number
                skb = skb_now
                packet, device, text, mark, number = others.get(skb, _NO_LINE)
                # A clone may be given the address of one that was freed.
                if number_now <= number or packet is None:
                    packet = device = None
                    places.forget(skb)
                    mark = f"[{_letters(lives)}]" if several else ""
                    if lives:
                        notes = self._yellow(f" *{self._maker(context.events[:at])} {skb & 0xFFFFFFFF:08x}*")
                    lives += 1
            number = number_now
            # Most steps of an skb have the headers of the step before, at the same place.
            if packet_now is not packet or device_now is not device:
                change = "" if packet is None else change_text(packet, packet_now)
                if change:
                    notes = self._yellow(f" *{change}*")
                move = places.move(item)
                if move is not None and self._marks_moves:
                    lines += self._move(*move, mark)
                packet, device, text = packet_now, device_now, f" {packet_text(packet_now)}"
            shown = "" if tiny and before_ns >= 0 else text
            if drop is not None or returned is not None or facts:
                notes = self.notes(item) + notes
            elif trace in remarked:
                # There is nothing to tell it from the other steps of its trace.
                if trace not in known:
                    known[trace] = self.notes(item)
                notes = known[trace] + notes
            if latency and before_ns >= 0:
                notes = f" latency: {_milliseconds(time_ns - before_ns)}{notes}"
            if plain:
                digits = str(time_ns).zfill(10)
                lines.append(f"[{digits[:-9]}.{digits[-9:-3]}] {starts[trace]}{mark}{shown}{notes}")
            else:
                lines.append(f"{self.start(item, mark)}{shown}{notes}")
            if stack or trace in stacks:
                lines += self._stack(item)
            before_ns = time_ns
        return lines

    def start(self, item: Event, mark: str = "") -> str:
        """The time, the trace and the columns; mark tells which of a packet's skbs it is."""
        if not (self._show.traces or self._show.detail):
            return f"{self._time(item.time_ns)}{''.join([column(item) for column in self._columns])}".rstrip(" ")
        trace = self._starts[item.trace]
        if item.drop is not None:
            trace = self._red(trace)
        skb = _skb_column(item) if self._show.detail else ""
        return f"{self._time(item.time_ns)}{skb}{trace}{mark}{''.join([column(item) for column in self._columns])}"

    def _time(self, time_ns: int) -> str:
        if self._wall_offset_ns is None:
            digits = str(time_ns).zfill(10)
            return f"[{digits[:-9]}.{digits[-9:-3]}] "
        second, us = divmod((time_ns + self._wall_offset_ns) // 1000, 1_000_000)
        if second != self._second:
            self._second = second
            ahead_s = self._show.utc_offset_s
            local = time.localtime(second) if ahead_s is None else time.gmtime(second + ahead_s)
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", local)
        return f"[{self._second_text}.{us:06d}] "

    def notes(self, item: Event) -> str:
        """What the event tells beyond the headers."""
        text = ""
        if item.returned is not None and self._show.returns:
            value = self._know.returned(item.trace, item.returned.value)
            text += " *return" + (f": {value}" if value else "")
            if self._show.latency:
                text += f" after {_milliseconds(item.returned.time_ns - item.time_ns)}"
            text += "*"
        if item.drop is not None:
            where = place_in_code(item.drop.location, self._know.symbol)
            why = "" if item.drop.reason is None else f"reason: {self._know.reason(item.drop.reason)}, "
            text += self._red(f" *{why}{where}*")
        for level, remark in self._know.remarks(item):
            text += self.paint(level, f" *{remark}*")
        return text

    def _stack(self, item: Event) -> list[str]:
        if item.stack or item.trace in self._show.stacks:
            return list(stack_lines(item.stack, self._know.symbol))
        return []

    def _meaning(self, reason: int) -> list[str]:
        """What a reason means, the first time that it is there."""
        if reason in self._explained:
            return []
        self._explained.add(reason)
        text = self._know.meaning(reason)
        return [self._cyan(f"    {self._know.reason(reason)}: {text}")] if text else []

    def _move(self, there: Optional[Device], here: Device, mark: str) -> list[str]:
        """The line that says so; none for a packet that begins in the tool's own namespace and at no device yet."""
        if there is None or (there.netns == here.netns and not there.ifindex):
            place = self.place(here)
        else:
            place = f"{self.place(there) or f'@{there.netns}'} -> {self.place(here) or f'@{here.netns}'}"
        return [self._cyan(f"    ~ {mark}{' ' if mark else ''}{place}")] if place else []

    def _netns(self, inode: int) -> str:
        return self._know.netns(inode) or str(inode)

    def _maker(self, events: Sequence[Event]) -> str:
        """What the skb is that appears after these events."""
        roles = (self._know.roles.get(item.trace) for item in reversed(events))
        role = next((role for role in roles if role in ("clone", "segments")), "clone")
        return "segment" if role == "segments" else "clone"

    def _netns_column(self, item: Event) -> str:
        return f"[ns:{self._netns(item.device.netns) if item.device and item.device.netns else '?'}]"

    def _process_column(self, item: Event) -> str:
        """The process whose socket the packet is of, if that is known; else the task that was running."""
        detail = item.detail
        if detail is None:
            return "[task:?]"
        owner = self._know.owner(detail.socket) if detail.socket else None
        if owner is not None:
            return f"[sk:{owner[0]}-{owner[1]}]"
        thread = f"/{detail.pid}" if detail.pid != detail.tgid else ""
        return f"[task:{detail.comm}-{detail.tgid}{thread}]"

    def _group_column(self, item: Event) -> str:
        return f"[{self._know.groups.get(item.trace, ''):<8}]"

    def _bold(self, text: str) -> str:
        return self._paint("1", text)

    def _red(self, text: str) -> str:
        return self._paint("31", text)

    def _yellow(self, text: str) -> str:
        return self._paint("33", text)

    def _cyan(self, text: str) -> str:
        return self._paint("36", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._show.colour else text


class Diagnosed(Text):
    """Packets with the analysis of what happened to them; findings, quiet and keep: as for diagnosis.Analysis."""

    def __init__(
        self, out: TextIO, display: Display, lookups: Lookups, findings: Callable[[Context], Sequence[Finding]], *,
        quiet: bool, keep: bool,
    ) -> None:  # fmt: skip
        super().__init__(out, display, lookups)
        self._analysis = Analysis(findings, quiet=quiet, keep=keep)

    @property
    def done(self) -> bool:
        """Whether an error was found, and that was what the user waited for."""
        return self._analysis.done

    def context(self, context: Context) -> bool:
        """A packet's block, and its analysis."""
        findings = self._analysis.of(context)
        if findings is None:
            return False
        super().context(context)
        whole = not (context.unfinished or context.missing)
        self._out.write(
            report_text(findings, lambda trace: self._know.groups.get(trace, ""), self.place, self.paint, whole=whole)
        )
        if self.done:
            self.note(FINISHED)
        return True


class LatencyText(Text):
    """A line a packet: where its way began and ended for us, and how long that took."""

    def duration_ns(self, events: Sequence[Event]) -> int:
        """How long a packet took: its events are its end, the first one and the last one."""
        _, first, last = events
        return last.time_ns - first.time_ns

    def events(self, events: Iterable[Event]) -> None:
        """The packet of these events: its end, the first one and the last one."""
        end, first, last = events
        way = f"[{first.trace} -> {last.trace}"
        self._out.write(
            f"{self._time(end.time_ns)}[{end.trace:<20}]{way:<37}] {packet_text(first.packet)}"
            f" latency: {_milliseconds(last.time_ns - first.time_ns)}\n"
        )


def _skb_column(item: Event) -> str:
    return f"[{item.skb & 0xFFFFFFFF:08x}]"


def _cpu_column(item: Event) -> str:
    return f"[cpu:{item.detail.cpu if item.detail else '?':<3}]"


def _interface_column(item: Event) -> str:
    device = item.device
    name = f"{device.ifindex}:{device.name}" if device and device.ifindex else ""
    return f"[{name:<6}]"


def _mark_column(item: Event) -> str:
    return f"[mark:{f'0x{item.detail.mark:x}' if item.detail else '?'}]"


def _length_column(item: Event) -> str:
    return f"[len:{item.detail.length if item.detail else item.packet.length}]"


def place_in_code(address: int, symbol_of: Callable[[int], Optional[Symbol]]) -> str:
    """An address in the kernel's code: "ip_rcv+0x12", or its number where no symbol is known."""
    symbol = symbol_of(address)
    return f"0x{address:x}" if symbol is None else f"{symbol.name}+0x{symbol.offset:x}"


def _milliseconds(duration_ns: int) -> str:
    return f"{duration_ns // _NS_PER_MS}.{duration_ns // 1000 % 1000:03d}ms"


def _letters(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream should get colours, by what it is and by the environment."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return stream.isatty() and environ.get("CLICOLOR") != "0" and environ.get("TERM") != "dumb"


class _Redrawn:
    """Lines that on a terminal take the place of those before."""

    def __init__(self, out: TextIO) -> None:
        self.rewinds = out.isatty()
        self._out = out
        self._lines = 0  # that were written last

    def write(self, lines: Sequence[str], *, last: bool) -> None:
        """Writes them, unless they are the last ones only as many as there is room for."""
        if self.rewinds and not last:
            import shutil

            columns, rows = shutil.get_terminal_size()
            if len(lines) > rows - 1:
                lines = [*lines[: rows - 2], f"... and {len(lines) - rows + 2} more"]
            lines = [line[:columns] for line in lines]
        if self.rewinds and self._lines:
            self._out.write(f"\033[{self._lines}A\033[J")
        self._lines = len(lines)
        self._out.write("\n".join([*lines, "" if self.rewinds else "\n"]))


class DropTable(Text):
    """How many packets were dropped, by reason and place; on a terminal each table takes the place of the last one."""

    def __init__(self, out: TextIO, display: Display, lookups: Lookups) -> None:
        super().__init__(out, display, lookups)
        self._meanings = display.meanings
        self._redrawn = _Redrawn(out)
        self._before: Mapping[tuple[Optional[int], int], int] = {}

    def table(self, table: Table) -> None:
        """The drops so far, with the rate since the table before; no more lines than there is room for.

        The last one has the rate of the whole run, and what the reasons mean if that was asked for.
        """
        assert isinstance(table, DropCounts)
        drops = table.drops
        before = {} if table.last else self._before
        self._before = drops
        rates = {key: (count - before.get(key, 0)) / table.seconds for key, count in drops.items()}
        lines = self._rows(drops, rates)
        if table.last and self._meanings:
            for reason in sorted({reason for reason, _ in drops if reason is not None}):
                text = self._know.meaning(reason)
                lines += [f"{self._know.reason(reason)}: {text}"] if text else []
        self._redrawn.write(lines, last=table.last)

    def _rows(
        self, drops: Mapping[tuple[Optional[int], int], int], rates: Mapping[tuple[Optional[int], int], float]
    ) -> list[str]:
        rows = []
        for (reason, location), count in drops.items():
            why = "-" if reason is None else self._know.reason(reason)
            place = place_in_code(location, self._know.symbol)
            rows.append((why, place, count, f"{rates[reason, location]:.1f}/s"))
        rows.sort(key=lambda row: (-row[2], row[:2]))
        lines = [f"{'reason':<32} {'location':<40} {'count':>12} {'rate':>12}"]
        return lines + [f"{why:<32} {place:<40} {count:>12} {rate:>12}" for why, place, count, rate in rows]


class PathTable(Text):
    """Packets by the paths that they took: the last table, and on a terminal those before, each in the same place."""

    def __init__(self, out: TextIO, display: Display, lookups: Lookups) -> None:
        super().__init__(out, display, lookups)
        self._redrawn = _Redrawn(out)
        self._last: Optional[Paths] = None

    def table(self, table: Table) -> None:
        """The paths so far."""
        assert isinstance(table, Paths)
        self._last = table
        if self._redrawn.rewinds:
            self._write(table, last=False)

    def end(self, summary: Optional["Summary"]) -> None:
        """The run is over."""
        if self._last is not None:
            self._write(self._last, last=True)
        self.flush()

    def _write(self, paths: Paths, *, last: bool) -> None:
        text = paths.text(self._drop_text, whole=self._show.rare_paths)
        self._redrawn.write(text.split("\n"), last=last)

    def _drop_text(self, reason: Optional[int], location: int) -> str:
        why = "" if reason is None else f": {self._know.reason(reason)}"
        return f"dropped{why} at {place_in_code(location, self._know.symbol)}"


@dataclass(frozen=True)
class Summary:
    """What a run saw, and everything that it did not."""

    unit: str  # what was counted: "packets", or "events" or "drops" if packets were not followed
    shown: int
    events: Optional[int]  # None: it is not their number that matters
    lost_messages: tuple[int, ...]  # by CPU: there was no room in the buffer
    lost_packets: int  # of which nothing at all reached the buffer
    unread_messages: int  # were in the buffer when the time to end was over
    missed_hits: int  # found no place to wait for the work
    untracked: int  # matching packets that the tracking map refused
    evicted: int  # skbs that the tracking map pushed out for newer ones
    unfinished: int
    incomplete: int
    skipped: int  # traces
    short: int = 0  # packets that took less than the least latency asked for
    over_rate: int = 0  # matching packets beyond the rate limit
    calls_lost: int = 0  # calls whose return was not told
    normal_frees: int = 0  # frees that the kernel reports as drops though the packet has served its purpose
    uncounted: int = 0  # drops that the table has no line for
    one_point: int = 0  # packets that have no time, as they were seen at one point only
    steps_lost: int = 0  # that the table of the costliest ones had no room for
    families_lost: int = 0  # skbs of packets that have none, as the table of those with clones had no room
    cost: Optional[Cost] = None  # of the run, if that was measured

    def counts(self) -> tuple[tuple[int, str, bool], ...]:
        """What is not among what was shown, in words, and whether it was lost, not left out."""
        return (
            (self.lost_packets, f"{self.unit} lost whole", True),
            (self.unread_messages, "messages left unread", True),
            (self.missed_hits, "hits missed", True),
            (self.untracked, "packets not followed for want of room", True),
            (self.evicted, "skbs pushed out of the tracking map", True),
            (self.calls_lost, "returns missed", True),
            (self.over_rate, "packets beyond the rate limit", False),
            (self.short, "packets below the least latency", False),
            (self.normal_frees, "normal frees left out", False),
            (self.uncounted, "drops not in the table for want of room", True),
            (self.one_point, "packets seen at one point only", False),
            (self.steps_lost, "steps not counted for want of room", True),
            (self.families_lost, "skbs of packets with clones not measured for want of room", True),
        )

    def text(self, verbose: bool) -> str:
        """The closing line; what did not happen is left out, but for what everybody looks for."""
        parts = [counted(self.shown, self.unit)]
        if self.unit == "packets" and self.events is not None:
            parts.append(counted(self.events, "events"))
        per_cpu = ", ".join(f"cpu{cpu}: {count}" for cpu, count in enumerate(self.lost_messages) if count)
        parts.append(counted(sum(self.lost_messages), "messages lost") + (f" ({per_cpu})" if per_cpu else ""))
        for count, what, _ in self.counts():
            if count:
                parts.append(counted(count, what))
        if self.unit != "drops":
            parts.append(f"{self.unfinished} unfinished")
        if self.incomplete:
            parts.append(f"{self.incomplete} incomplete")
        hint = "" if verbose or not self.skipped else " (-v tells why)"
        parts.append(counted(self.skipped, "traces skipped") + hint)
        return ", ".join(parts)

    def cost_text(self) -> str:
        """What the run cost, in lines of their own; nothing if that was not measured."""
        return "" if self.cost is None else "\n" + self.cost.text(self.shown if self.unit == "packets" else 0)
