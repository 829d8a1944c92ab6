"""What became different between two recordings: packet by packet, and in all.

Both are read twice: to see what they have in common, and then side by side, so that no more packets are held than
wait for their like.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import sqrt
from typing import NamedTuple, Optional

from .alignment import Parting, Reader, partings
from .errors import StreamError, UsageError
from .event import Context
from .flows import SCOPES, Scope, headers_of, scope_of
from .header import Header
from .histogram import BUCKETS, Histogram, bucket
from .matching import Matches
from .replay import Recording

# More flows than these are taken together, more packets do not wait for their like, more paths and more ways to differ
# are only counted.
FLOWS_MAX = 4096
WAITING_MAX = 8192
PATHS_MAX = 4096
KINDS_MAX = 16
OTHER_FLOWS = "(all other flows)"

# Less is noise: a share is another one if it is by more than so many standard errors; a percentile, if the ranges
# that it is in, so many standard errors of its rank to either side, have nothing in common and it is so much another.
ERRORS = 3
LEAST_CHANGE = 0.1
PERCENTS = (50, 99)

Path = tuple[tuple[str, ...], ...]  # the traces of each skb of a packet
Times = tuple[Counter[int], Counter[int]]  # how often, by bucket, on both sides
Wanted = Callable[[Recording], Optional[Matches]]


class Side(NamedTuple):
    """One of the recordings."""

    path: str
    header: Header
    packets: int
    incomplete: int  # packets that are not compared, as part of their path was lost
    alone: tuple[str, ...]  # traces that only this one had attached
    trouble: str  # why it could not be read to its end


class Share(NamedTuple):
    """How often packets of a flow took a path."""

    path: Path
    first: int
    second: int


class Slower(NamedTuple):
    """A percentile that is another one: of packets that took the same path, or of a step from one trace to another."""

    name: str
    percent: int
    first_ns: int
    second_ns: int
    first: int  # how many it is of
    second: int


@dataclass
class Flow:
    """What became of packets that are of one kind."""

    name: str
    first: int = 0  # packets
    second: int = 0
    pairs: int = 0
    partings: dict[tuple[object, ...], tuple[int, Parting]] = field(default_factory=dict)  # by kind
    parted: int = 0  # pairs
    others: int = 0  # places where pairs part that are of too many kinds to be told
    shares: list[Share] = field(default_factory=list)  # those that are other ones

    @property
    def differs(self) -> bool:
        """Whether there is anything to be told."""
        return bool(self.parted or self.shares or not self.first or not self.second)


@dataclass(frozen=True)
class Comparison:
    """What became different from the first recording to the second."""

    first: Side
    second: Side
    traces: int  # that both had attached
    scope: Scope
    flows: tuple[Flow, ...]  # those with most packets first
    slower: tuple[Slower, ...]
    unpaired: int  # packets that did not wait for their like
    uncounted: int  # packets whose path was one too many


def compare(first: str, second: str, wanted: Wanted) -> Comparison:
    """What differs between two recordings of whole packets; wanted: which packets of one are looked at."""
    headers = [_header(path) for path in (first, second)]
    attached = [{trace.name for trace in header.traces} - {name for name, _ in header.skipped} for header in headers]
    both = attached[0] & attached[1]
    if not both:
        raise UsageError(f"--diff: {first} and {second} have no trace in common")
    scope = scope_of(*(_flows(path, wanted) for path in (first, second)))
    sides = [_Reading(path, both, scope, wanted) for path in (first, second)]
    found = _Found()
    for packets in zip_longest(*sides):
        for number, context in enumerate(packets):
            if context is not None:
                found.take(number, context, sides)
    told = [
        Side(side.path, header, side.packets, side.incomplete, tuple(sorted(mine - both)), side.trouble)
        for side, header, mine in zip(sides, headers, attached)
    ]
    flows = sorted(found.flows.values(), key=lambda flow: (-flow.first - flow.second, flow.name))
    for flow in flows:
        flow.shares = _shares(flow, found.paths[flow.name])
    slower = [*_slower(_commonest(found.paths)), *_slower(found.steps)]
    return Comparison(told[0], told[1], len(both), scope, tuple(flows), tuple(slower), found.unpaired, found.uncounted)


def _header(path: str) -> Header:
    with Recording(path) as recording:
        if recording.header.mode != "packets":
            raise UsageError(f"--diff compares whole packets, and {path} is a recording of {recording.header.mode}")
        return recording.header


def _flows(path: str, wanted: Wanted) -> dict[Scope, Counter[str]]:
    """How many packets of each flow there are, in each scope."""
    counts: dict[Scope, Counter[str]] = {scope: Counter() for scope in SCOPES}
    with Recording(path) as recording:
        matches = wanted(recording)
        try:
            for context in recording:
                if _is_whole(context) and (matches is None or matches(context)):
                    headers = headers_of(context)
                    for scope, flows in counts.items():
                        flow = scope.flow(headers)
                        if flow in flows or len(flows) < FLOWS_MAX:
                            flows[flow] += 1
        except StreamError:
            pass  # is told when it is read again
    return counts


def _is_whole(context: Context) -> bool:
    return bool(context.events) and not context.missing


class _Reading:
    """The packets of one recording that are compared, as they come."""

    def __init__(self, path: str, traces: set[str], scope: Scope, wanted: Wanted) -> None:
        self.path = path
        self.packets = self.incomplete = 0
        self.trouble = ""
        self.scope = scope
        self._recording = Recording(path)
        self._wanted = wanted
        self.reader = Reader(self._recording, traces, with_addresses=scope is SCOPES[0])

    def __iter__(self) -> Iterator[Context]:
        matches = self._wanted(self._recording)
        with self._recording:
            try:
                for context in self._recording:
                    if matches is not None and not matches(context):
                        continue
                    self.packets += 1
                    if _is_whole(context):
                        yield context
                    else:
                        self.incomplete += 1
            except StreamError as error:
                self.trouble = str(error)


class _Found:
    """What was found so far."""

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.paths: dict[str, dict[Path, Times]] = {}  # of a flow, from the first trace to the last
        self.steps: dict[str, Times] = {}
        self.unpaired = self.uncounted = 0
        self._waiting: dict[str, deque[tuple[int, Context]]] = {}
        self._held = self._paths = 0

    def take(self, number: int, context: Context, sides: Sequence[_Reading]) -> None:
        """A packet of one of both sides."""
        name = sides[number].scope.flow(headers_of(context))
        if name not in self.flows and len(self.flows) >= FLOWS_MAX:
            name = OTHER_FLOWS
        flow = self.flows.setdefault(name, Flow(name))
        flow.first += number == 0
        flow.second += number == 1
        self._count(number, name, context, sides[number].reader)
        self._pair(number, flow, context, sides)

    def _pair(self, number: int, flow: Flow, context: Context, sides: Sequence[_Reading]) -> None:
        """The packet and the one of the other side that came as the same one of the flow."""
        waiting = self._waiting.setdefault(flow.name, deque())
        if not waiting or waiting[0][0] == number:
            if self._held < WAITING_MAX:
                waiting.append((number, context))
                self._held += 1
            else:
                self.unpaired += 1
            return
        _, other = waiting.popleft()
        self._held -= 1
        pair = (context, other) if number == 0 else (other, context)
        flow.pairs += 1
        places = partings(*pair, sides[0].reader, sides[1].reader)
        flow.parted += bool(places)
        for place in places:
            known = flow.partings.get(place.kind)
            if known is not None or len(flow.partings) < KINDS_MAX:
                flow.partings[place.kind] = (1, place) if known is None else (known[0] + 1, known[1])
            else:
                flow.others += 1

    def _count(self, number: int, name: str, context: Context, reader: Reader) -> None:
        lives = reader.lives(context)
        path = tuple(tuple(item.trace for item in life) for life in lives)
        paths = self.paths.setdefault(name, {})
        if path not in paths and self._paths < PATHS_MAX:
            self._paths += 1
            paths[path] = Counter(), Counter()
        if path in paths:
            times = [item.time_ns for life in lives for item in life]
            paths[path][number][bucket(max(times) - min(times)) if times else 0] += 1
        else:
            self.uncounted += 1
        for life in lives:
            for before, item in zip(life, life[1:]):
                both = self.steps.setdefault(f"{before.trace} -> {item.trace}", (Counter(), Counter()))
                both[number][bucket(item.time_ns - before.time_ns)] += 1


def _commonest(paths: Mapping[str, Mapping[Path, Times]]) -> dict[str, Times]:
    """How long packets of each flow took that went the way that most of them do on both sides."""
    found = {}
    for name, of_flow in paths.items():
        times = max(of_flow.values(), key=lambda both: min(map(_total, both)), default=None)
        if times is not None:
            found[name if len(of_flow) == 1 else f"{name} (its commonest path)"] = times
    return found


def _total(times: Counter[int]) -> int:
    return sum(times.values())


def _shares(flow: Flow, paths: Mapping[Path, Times]) -> list[Share]:
    """The paths whose share of the flow is another one, the most frequent first."""
    shares = [Share(path, *map(_total, both)) for path, both in paths.items()]
    found = [share for share in shares if share_differs(share.first, flow.first, share.second, flow.second)]
    return sorted(found, key=lambda share: (-share.first - share.second, share.path))


def share_differs(first: int, of_first: int, second: int, of_second: int) -> bool:
    """Whether two shares differ by more than chance would have it."""
    if not of_first or not of_second:
        return False
    both = (first + second) / (of_first + of_second)
    error = sqrt(both * (1 - both) * (1 / of_first + 1 / of_second))
    return abs(first / of_first - second / of_second) > ERRORS * error


def _slower(times: Mapping[str, Times]) -> list[Slower]:
    """What takes another time now, what became slower by most first."""
    found = []
    for name, both in times.items():
        first, second = map(_histogram, both)
        for percent in PERCENTS:
            if percentile_differs(first, second, percent):
                values = first.percentile(percent), second.percentile(percent)
                found.append(Slower(name, percent, *values, first.total, second.total))
    return sorted(found, key=lambda row: (row.first_ns - row.second_ns, row.name, row.percent))


def percentile_differs(first: Histogram, second: Histogram, percent: int) -> bool:
    """Whether a percentile is another one, by more than chance would have it and by more than a little."""
    ranges = [_range_of(histogram, percent) for histogram in (first, second)]
    if ranges[0] is None or ranges[1] is None:
        return False
    apart = ranges[0][1] < ranges[1][0] or ranges[1][1] < ranges[0][0]
    values = sorted((first.percentile(percent), second.percentile(percent)))
    return apart and values[1] - values[0] > LEAST_CHANGE * values[0]


def _range_of(histogram: Histogram, percent: int) -> Optional[tuple[int, int]]:
    """What a percentile is at least and at most; None: there are too few values to tell."""
    total, part = histogram.total, percent / 100
    if not total:
        return None
    error = ERRORS * sqrt(part * (1 - part) / total)
    if part - error < 0 or part + error > 1:
        return None
    return histogram.percentile(100 * (part - error)), histogram.percentile(100 * (part + error))


def _histogram(times: Counter[int]) -> Histogram:
    counts = [0] * BUCKETS
    for number, count in times.items():
        counts[number] = count
    return Histogram(tuple(counts))
