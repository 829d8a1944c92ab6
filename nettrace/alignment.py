"""Where two packets that should do the same part, and what differs there."""

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile, zip_longest
from typing import Any, NamedTuple, Optional

from . import analyzers, live
from .event import FROM_SOCKET, Context, Device, Event
from .flows import without_client_ports
from .packets import change_text
from .replay import Recording

# What is told of events that says nothing about the way of a packet, or is another thing each time.
_RESTLESS = ("round trip", "retransmission", "functions at this hook", "decided by")
_COUNTING = ("queue", "receive buffer", "accept queue", "size", "rule")
# States in which a neighbour's address is known.
_KNOWN_NEIGHBOUR = re.compile(r"\b(?:REACHABLE|STALE|DELAY|PROBE|PERMANENT|NOARP)\b")
_PLACE = "place of the drop"
_KNOWN_MAX = 1 << 14  # steps that say the same, whose words are kept
_PLACES_MAX = 4  # of a pair that are told
_POINTER = re.compile(r"\b0x[0-9a-f]{9,}\b")


class Said(NamedTuple):
    """What a step says of one thing: as it is compared, and as it is shown."""

    compared: str
    text: str


class Difference(NamedTuple):
    """What differs at a step that both packets have."""

    trace: str
    what: str
    first: str
    second: str


class Parting(NamedTuple):
    """A place where two packets differ."""

    skb: int  # of the packet and its clones, in the order in which they were seen
    alike: int  # steps of it before
    differences: tuple[Difference, ...]  # at steps that both have, up to where their ways part, each once
    first_ns: int  # when that was, since the beginning of the packet
    second_ns: int
    after: str = ""  # the last trace before the ways part; empty: they part at once, or not at all
    first: tuple[str, ...] = ()  # where the ways part, what the first one does until they meet again
    second: tuple[str, ...] = ()
    meet: str = ""  # where they meet again

    @property
    def kind(self) -> tuple[object, ...]:
        """What is the same for packets that differ in the same way."""
        return self._replace(alike=0, first_ns=0, second_ns=0)


def lives(events: Sequence[Event]) -> list[list[Event]]:
    """The steps of each skb of a packet by itself, the skbs in the order of their first steps."""
    found: list[list[Event]] = []
    now: dict[int, list[Event]] = {}
    for item in events:
        life = now.get(item.skb)
        # A clone may be given the address of one that was freed.
        if life is None or item.number <= life[-1].number:
            life = now[item.skb] = []
            found.append(life)
        life.append(item)
    return found


class Reader:
    """Reads the steps of a recording's packets as they can be compared with those of another one.

    traces: those that count. with_addresses: whether addresses are to be the same.
    """

    def __init__(self, recording: Recording, traces: Collection[str], *, with_addresses: bool) -> None:
        self.returns = live.return_types(recording.host, recording.header.traces)
        self.kernel = recording.header.kernel
        self._known: dict[tuple[object, ...], dict[str, Said]] = {}
        self._recording = recording
        self._traces = traces
        self._with_addresses = with_addresses
        # That an skb is freed in the end, and by what, is not part of its way.
        self._frees = {trace.name for trace in recording.header.traces if trace.role == "free"}
        self._lookups = recording.lookups

    def lives(self, context: Context) -> list[list[Event]]:
        """The steps that count of each skb."""
        return [[item for item in life if self._counts(item)] for life in lives(context.events)]

    def _counts(self, item: Event) -> bool:
        return item.trace in self._traces and item.trace not in self._frees

    def name(self, item: Event) -> str:
        """A step, and why it is one that a packet should not meet."""
        said = self.said(item, None)
        why = [said[what].text for what in ("drop reason", _PLACE) if what in said]
        return f"{item.trace} ({', '.join(why)})" if why else item.trace

    def said(self, item: Event, before: Optional[Event]) -> dict[str, Said]:
        """What a step says, by what that is about; before: the step before it of this skb."""
        headers = item.packet
        change = "" if before is None else change_text(before.packet, headers)
        # Of what has no headers yet, TCP keeps another number in the place of the mark.
        mark = None if item.detail is None or headers.flags & FROM_SOCKET else item.detail.mark
        returned = None if item.returned is None else item.returned.value
        size = (headers.l3_protocol, headers.l3_length, headers.gso_size) if item.facts else None
        alike = item.trace, item.device, item.facts, item.drop, change, mark, returned, size
        found = self._known.get(alike)
        if found is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            found = self._known[alike] = self._said(item, change, mark)
        return found

    def _said(self, item: Event, change: str, mark: Optional[int]) -> dict[str, Said]:
        found = dict(self._told(item))
        if item.device is not None and (item.device.ifindex or item.device.netns):
            place = self._place(item.device)
            found["device"] = Said(place, place)
        found["headers"] = Said(self._general(change), change or "unchanged")
        if mark is not None:
            found["mark"] = Said(str(mark), f"0x{mark:x}")
        if item.returned is not None:
            text = self._lookups.returned(item.trace, item.returned.value)
            compared = text
            if (self.returns(item.trace) or "").endswith("*"):
                compared = "an address" if item.returned.value else "NULL"
            found["return"] = Said(_POINTER.sub("an address", compared), text)
        if item.drop is not None:
            reason = "" if item.drop.reason is None else self._recording.host.drop_reason(item.drop.reason)
            symbol = self._recording.host.symbol(item.drop.location)
            if reason:
                found["drop reason"] = Said(reason, reason)
            if symbol is not None:
                found[_PLACE] = Said(symbol.name, symbol.name)
        return found

    def _told(self, item: Event) -> Iterator[tuple[str, Said]]:
        told: Sequence[analyzers.Told] = self._recording.diagnosis.told(item)
        for label, text, _ in told:
            if label not in _RESTLESS:
                compared = re.sub(r"\d+", "N", text) if label in _COUNTING else text
                if label == "neighbour":
                    compared = _KNOWN_NEIGHBOUR.sub("known", text)
                yield label, Said(self._general(compared), text)

    def _place(self, device: Device) -> str:
        """A device and its namespace by name, as numbers are others on other hosts."""
        netns = "" if device.netns == self._lookups.own_netns else self._lookups.netns(device.netns) or "unnamed"
        name = device.name if device.ifindex else ""
        return f"{name}@{netns}" if netns else name

    def _general(self, text: str) -> str:
        """A text without what differs from run to run or, where addresses do not count, from host to host."""
        text = re.sub(r"\bid \d+ -> \d+", "id", without_client_ports(text))
        if not self._with_addresses:
            text = re.sub(r" via \S+|(?<=source) \S+ -> [^\s,]+|(?<=destination) \S+ -> [^\s,]+", "", text)
        return text


def partings(first: Context, second: Context, mine: Reader, theirs: Reader) -> list[Parting]:
    """The places where two packets differ, the first one first, and no more than are worth telling."""
    ways, others = mine.lives(first), theirs.lives(second)
    nothing: list[Event] = []
    starts = first.events[0].time_ns, second.events[0].time_ns
    found = [
        place
        for skb, (way, other) in enumerate(zip_longest(ways, others, fillvalue=nothing))
        for place in _of_life(skb, way, other, mine, theirs, starts)
    ]
    if not found and first.unfinished != second.unfinished:
        ends = ["not seen to be freed" if context.unfinished else "freed" for context in (first, second)]
        first_ns, second_ns = (context.events[-1].time_ns - start for context, start in zip((first, second), starts))
        end = Difference(first.events[-1].trace, "end", *ends)
        return [Parting(0, len(first.events), (end,), first_ns, second_ns)]
    return sorted(found, key=lambda place: place.first_ns)[:_PLACES_MAX]


def _of_life(
    skb: int, way: Sequence[Event], other: Sequence[Event], mine: Reader, theirs: Reader, starts: tuple[int, int]
) -> Iterator[Parting]:
    """The places where the ways of one skb differ."""
    differences: dict[tuple[str, str, str], Difference] = {}  # those not told yet
    told: set[tuple[str, str, str]] = set()
    here = there = -1  # the first step that they are about
    at = other_at = 0

    def place(alike: int, other_alike: int, **parts: Any) -> Parting:
        first_ns, second_ns = _elapsed(way, alike, starts[0]), _elapsed(other, other_alike, starts[1])
        return Parting(skb, alike, tuple(differences.values()), first_ns, second_ns, **parts)

    for until, other_until, size in _meetings(way, other):
        if (at, other_at) != (until, other_until):
            yield place(
                here if differences else at, there if differences else other_at,
                after=way[at - 1].trace if at else "",
                first=tuple(map(mine.name, way[at:until])),
                second=tuple(map(theirs.name, other[other_at:other_until])),
                meet=way[until].trace if size else "",
            )  # fmt: skip
            differences.clear()
        for at, other_at in zip(range(until, until + size), range(other_until, other_until + size)):
            said = mine.said(way[at], way[at - 1] if at else None)
            other_said = theirs.said(other[other_at], other[other_at - 1] if other_at else None)
            for each in _differences(way[at].trace, said, other_said, mine, theirs):
                key = each.what, each.first, each.second
                # What is another thing from here on, such as a mark, is told once.
                if key not in told:
                    here, there = (here, there) if differences else (at, other_at)
                    told.add(key)
                    differences[key] = each
        at, other_at = until + size, other_until + size
    if differences:
        yield place(here, there)


def _meetings(way: Sequence[Event], other: Sequence[Event]) -> Iterator[tuple[int, int, int]]:
    """Where two ways are the same: from which step to which, and for how long; at last their ends."""
    traces, other_traces = [item.trace for item in way], [item.trace for item in other]
    # What they begin with is the same, whatever longer parts they have in common later.
    alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(traces, other_traces))))
    yield 0, 0, alike
    rest, other_rest = traces[alike:], other_traces[alike:]
    for block in SequenceMatcher(None, rest, other_rest, autojunk=False).get_matching_blocks():
        yield alike + block.a, alike + block.b, block.size


def _elapsed(life: Sequence[Event], here: int, start_ns: int) -> int:
    """When this step was or, if there is none, the last one."""
    return life[min(here, len(life) - 1)].time_ns - start_ns if life else 0


def _differences(
    trace: str, said: dict[str, Said], other_said: dict[str, Said], mine: Reader, theirs: Reader
) -> Iterator[Difference]:
    for what in (what for what in said if what in other_said):
        if said[what].compared != other_said[what].compared:
            # Another kernel may have other functions in this place, and functions that return other things.
            if mine.kernel != theirs.kernel and (
                what == _PLACE or (what == "return" and mine.returns(trace) != theirs.returns(trace))
            ):
                continue
            yield Difference(trace, what, said[what].text, other_said[what].text)
