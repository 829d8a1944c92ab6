"""The usual packets, from a message to text by templates.

Most packets take a way that others took before them: their messages have the same items, and differ in times, in
headers and in a few facts. Such a message is compared with what is known, as one large number, and what differs is put
in a template that was made of a block as sinks.Text writes it. Whatever is not just like that goes the way of all
others: it is decoded, joined with the rest of its packet, and then shown.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, Optional, TypeVar, Union

from . import event
from .analyzers import headers_read
from .decode import Decoder, headers, items
from .event import Context, Packet, Record
from .lifecycle import is_alone
from .packets import change_text, packet_text
from .sinks import Text

_SECOND_NS, _US_NS = 1_000_000_000, 1000
# How many templates there are at most for messages of one length, and how much is remembered of what differs.
_TEMPLATES_MAX = 16
_REMEMBERED_MAX = 512

_STEPS = (event.STEP, event.STEP_TRACEPOINT)
# Other items are rare in messages of whole packets, or more depends on them than they tell.
_USUAL = (*_STEPS, event.PACKET, event.INNER, event.DEVICE, event.FACTS)
# By these a packet is one of its own; all else of a record must be as it was.
_OWN = ("packet_id", "record_id", "skb", "sequence", "cpu", "place", "unused")
# What may differ in headers without any text but their own changing.
_FREE = (
    "length", "fragment_offset", "l3_length", "saddr", "daddr", "l4", "tunnel_id", "gso_size", "gso_segs", "unused",
)  # fmt: skip
_SKB_AT, _SKB_BYTES = event.RECORD.place("skb")
_SKB = 0xFFFFFFFF  # as much of the address as is shown

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Line(NamedTuple):
    """A step's line: the trace, which headers it shows, which facts it tells (None: none), and what comes behind."""

    trace: str
    head: int
    facts: Optional[int]
    rest: str


class _Facts(NamedTuple):
    """Facts in a message: of which step, which headers it has, and where they are."""

    step: int
    head: int
    place: slice


class _Packet(NamedTuple):
    """Headers, their text, and what facts depend on of them."""

    headers: Packet
    text: str
    read: tuple[int, ...]


class _Unusual(Exception):
    """There can be no template of this."""


class Templates:
    """Shows messages of whole packets that are like others before them; the sink must be plain, see Text.is_plain."""

    def __init__(self, decoder: Decoder, sink: Text) -> None:
        self._decoder = decoder
        self._sink = sink
        self._by_size: dict[int, list[_Template]] = {}

    def show(self, raw: bytes) -> int:
        """Writes a message's block, if there is a template of it; returns how many steps it has, 0 if there is none."""
        template = self._of(raw)
        text = None if template is None else template.text(raw)
        if template is None or text is None:
            return 0
        self._decoder.pass_by(raw)
        self._sink.write(text)
        return template.steps

    def learn(self, raw: bytes, record: Record) -> None:
        """Makes a template of a message, where it tells all of a packet."""
        # Where there is one already, it was by its headers or times that the message differed.
        if not is_alone(record) or not record.events or self._of(raw) is not None:
            return
        try:
            template = _Template(raw, record, self._decoder, self._sink)
        except _Unusual:
            return
        templates = self._by_size.setdefault(len(raw), [])
        templates.insert(0, template)
        del templates[_TEMPLATES_MAX:]

    def _of(self, raw: bytes) -> "Optional[_Template]":
        """The template of such messages."""
        number = int.from_bytes(raw, "little")
        for template in self._by_size.get(len(raw), ()):
            if number & template.mask == template.expected:
                return template
        return None


class _Template:
    """How packets that took one way are shown."""

    def __init__(self, raw: bytes, record: Record, decoder: Decoder, sink: Text) -> None:
        self.steps = len(record.events)
        self._decoder = decoder
        self._sink = sink
        self._events = record.events
        self._heads: list[slice] = []  # headers, with what they carry
        self._facts: list[_Facts] = []
        self._packets: dict[bytes, _Packet] = {}
        self._changes: dict[tuple[bytes, bytes], str] = {}
        self._notes: dict[tuple[int, bytes, tuple[int, ...]], str] = {}
        self._forms: dict[tuple[object, ...], str] = {}
        head_of_step: list[int] = []
        times, at = "<", 0
        for kind, start, end in items(raw, record.slots):
            if kind not in _USUAL:
                raise _Unusual
            if kind in _STEPS:
                head_of_step.append(len(self._heads) - 1)
                times += f"{start - at}xQ"
                at = start + 8
            elif kind == event.PACKET:
                self._heads.append(slice(start, end))
            elif kind == event.INNER:
                self._heads[-1] = slice(self._heads[-1].start, end)
            elif kind == event.FACTS:
                self._facts.append(_Facts(len(head_of_step) - 1, len(self._heads) - 1, slice(start, end)))
        self._times = struct.Struct(times)
        self.mask = _mask(raw, record.slots)
        self.expected = int.from_bytes(raw, "little") & self.mask
        self._usual_changes = self._changes_of([raw[place] for place in self._heads])
        self._lines = self._lines_of(raw, record, head_of_step)

    def text(self, raw: bytes) -> Optional[str]:
        """The block of a message that this is a template of; None: more differs than a template has room for."""
        times = self._times.unpack_from(raw)
        second = times[0] // _SECOND_NS
        start_ns = second * _SECOND_NS
        us = [(time_ns - start_ns) // _US_NS for time_ns in times]
        if us[-1] >= 1_000_000 or us != sorted(us):
            return None
        heads = [raw[place] for place in self._heads]
        if self._usual_changes != self._changes_of(heads):
            return None
        notes = self._notes_of(raw, heads)
        key = (second, *heads, *notes)
        form = self._forms.get(key)
        if form is None:
            form = _keep(self._forms, key, self._form(second, heads, notes))
        return form % (int.from_bytes(raw[_SKB_AT : _SKB_AT + _SKB_BYTES], "little") & _SKB, *us)

    def _form(self, second: int, heads: Sequence[bytes], notes: Sequence[str]) -> str:
        """The block without the numbers that are every packet's own."""
        texts = [self._packet(head).text for head in heads]
        lines = ["***************** %08x ***************"]
        for line in self._lines:
            if isinstance(line, str):
                lines.append(line)
            else:
                note = "" if line.facts is None else notes[line.facts]
                lines.append(f"[{second}.%06d] [{line.trace:<20}]{_literal(f' {texts[line.head]}{note}{line.rest}')}")
        return "\n".join([*lines, "\n"])

    def _lines_of(self, raw: bytes, record: Record, head_of_step: Sequence[int]) -> list[Union[_Line, str]]:
        """What the sink makes of it, taken apart; what is no step's line stays as it is."""
        heads = [raw[place] for place in self._heads]
        notes = self._notes_of(raw, heads)
        facts = {told.step: number for number, told in enumerate(self._facts)}
        lines: list[Union[_Line, str]] = []
        step = 0
        for line in self._sink.lines(Context(record.packet_id, (record.skb,), record.events, False, False)):
            if line.startswith("["):
                item, head, number = self._events[step], head_of_step[step], facts.get(step)
                start = f"{self._sink.start(item)} {self._packet(heads[head]).text}"
                start += "" if number is None else notes[number]
                if not line.startswith(start):
                    raise _Unusual
                lines.append(_Line(item.trace, head, number, line[len(start) :]))
                step += 1
            else:
                lines.append(_literal(line))
        if step != len(self._events):
            raise _Unusual
        return lines

    def _changes_of(self, heads: Sequence[bytes]) -> list[str]:
        """What is said of headers that differ from those before."""
        return [self._change(*pair) for pair in zip(heads, heads[1:])]

    def _change(self, before: bytes, after: bytes) -> str:
        change = self._changes.get((before, after))
        if change is None:
            text = change_text(self._packet(before).headers, self._packet(after).headers)
            change = _keep(self._changes, (before, after), text)
        return change

    def _packet(self, head: bytes) -> _Packet:
        """The headers, and what is to be known of them."""
        found = self._packets.get(head)
        if found is None:
            packet = headers(head)
            found = _keep(self._packets, head, _Packet(packet, packet_text(packet), headers_read(packet)))
        return found

    def _notes_of(self, raw: bytes, heads: Sequence[bytes]) -> list[str]:
        """What is said of each step that tells facts."""
        return [self._note(told, raw, heads[told.head]) for told in self._facts]

    def _note(self, told: _Facts, raw: bytes, head: bytes) -> str:
        packet, _, read = self._packet(head)
        key = told.step, raw[told.place], read
        note = self._notes.get(key)
        if note is None:
            facts = self._decoder.facts(raw, told.place.start)
            item = self._events[told.step]._replace(packet=packet, facts=facts)
            note = _keep(self._notes, key, self._sink.notes(item))
        return note


def _mask(raw: bytes, slots: int) -> int:
    """A number with those bits set that must be the same in all messages of one template."""
    mask = bytearray(b"\xff" * len(raw))

    def free(start: int, size: int) -> None:
        mask[start : start + size] = bytes(size)

    for name in _OWN:
        free(*event.RECORD.place(name))
    end = event.RECORD.size
    for kind, start, end in items(raw, slots):
        if kind in _STEPS:
            free(start, 8)
        elif kind in (event.PACKET, event.INNER):
            for name in _FREE:
                offset, size = event.PACKET_ITEM.place(name)
                free(start + offset, size)
        elif kind == event.FACTS:
            free(start + event.SLOT_BYTES, end - start - event.SLOT_BYTES)
    free(end, len(raw) - end)  # what a perf buffer pads it with
    return int.from_bytes(mask, "little")


def _literal(text: str) -> str:
    """As it is written in a form."""
    return text.replace("%", "%%")


def _keep(memory: dict[_Key, _Value], key: _Key, value: _Value) -> _Value:
    """Remembers it; what was remembered before is forgotten if it is too much."""
    if len(memory) >= _REMEMBERED_MAX:
        memory.clear()
    memory[key] = value
    return value
