"""What packets are expected to do, as a file of --assert says it, and whether a packet does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from . import filters, matching, yamlfile
from . import netns as namespaces
from .counts import counted
from .errors import ConfigurationError, UsageError
from .event import Context, Event
from .header import Header
from .host import Host
from .matching import Matches
from .suggest import did_you_mean
from .yamlfile import Item

# What a flow is chosen by: the options on packets, as far as recordings can be asked.
_FLOW = (
    "saddr", "daddr", "addr", "sport", "dport", "port", "proto", "tcp_flags", "pkt_len", "mark", "iface", "netns",
    "pid", "comm", "inner",
)  # fmt: skip
_WORDS = ("fail", "allow")


class Fault(NamedTuple):
    """How a packet is not as expected."""

    why: str
    unknown: bool = False  # it may be as expected: what is lost or yet to come would tell


class Point(NamedTuple):
    """A place where a packet may pass: one of these traces."""

    name: str  # as the file has it
    traces: frozenset[str]


class Limit(NamedTuple):
    """How long a packet may take from one point to another, or in all."""

    most_ns: int
    origin: Optional[Point] = None
    target: Optional[Point] = None


@dataclass(frozen=True)
class Expectation:
    """What the packets of a flow are to do."""

    name: str
    matches: Matches
    least: int = 1  # packets
    most: Optional[int] = None
    must_pass: tuple[Point, ...] = ()  # in this order
    must_not_pass: tuple[Point, ...] = ()
    drops: Optional[frozenset[str]] = None  # reasons and functions where packets may be dropped; None: all may
    limits: tuple[Limit, ...] = ()
    incomplete: bool = False  # what was not seen whole is judged by what was seen

    def faults(
        self, context: Context, dropped: Callable[[Event], Optional[tuple[str, str]]],
        duration_ns: Callable[[Sequence[Event]], int],
    ) -> list[Fault]:  # fmt: skip
        """How this packet is not as expected.

        dropped: the reason and the function, where an event is a drop. duration_ns: how long events took in all.
        """
        found = [*self._way(context), *self._drops(context, dropped), *self._times(context, duration_ns)]
        return [fault for fault in found if not (fault.unknown and self.incomplete)]

    def amount(self, packets: int, seen_whole: bool) -> list[Fault]:
        """What is wrong with the number of packets; seen_whole: there were no more than these."""
        wanted = str(self.least) if self.least == self.most else f"at least {self.least}"
        if packets < self.least:
            if packets:
                why = f"{packets} of {wanted} packets"
            else:
                why = "no packet fits, so nothing was tested" if self.least == 1 else f"no packet fits, not {wanted}"
            return [Fault(why)]
        if self.most is not None and packets > self.most:
            most = str(self.most) if self.least == self.most else f"at most {self.most}"
            return [Fault(f"{counted(packets, 'packets')}, not {most}")]
        if self.most is not None and not seen_whole and not self.incomplete:
            return [Fault(f"{packets} packets were seen, and there may be more that were lost", unknown=True)]
        return []

    def _way(self, context: Context) -> Iterator[Fault]:
        whole = not (context.missing or context.unfinished)
        events = iter(context.events)
        before = ""
        for point in self.must_pass:
            if not any(item.trace in point.traces for item in events):
                yield Fault(f"it did not pass {point.name}{before}", not whole)
                break
            before = f" after {point.name}"
        for point in self.must_not_pass:
            if any(item.trace in point.traces for item in context.events):
                yield Fault(f"it passed {point.name}")
            elif not whole:
                yield Fault(f"whether it passed {point.name} is not known{_because(context)}", unknown=True)

    def _drops(self, context: Context, dropped: Callable[[Event], Optional[tuple[str, str]]]) -> Iterator[Fault]:
        if self.drops is None:
            return
        found = [drop for drop in map(dropped, context.events) if drop is not None]
        bad = [drop for drop in found if self.drops.isdisjoint(drop)]
        for reason, function in bad:
            yield Fault(f"it was dropped in {function or 'a place without a name'}{f': {reason}' if reason else ''}")
        if not bad and (context.missing or context.unfinished):
            yield Fault(f"whether it was dropped is not known{_because(context)}", unknown=True)

    def _times(self, context: Context, duration_ns: Callable[[Sequence[Event]], int]) -> Iterator[Fault]:
        whole = not (context.missing or context.unfinished)
        for limit in self.limits:
            if limit.origin is None or limit.target is None:
                took_ns: Optional[int] = duration_ns(context.events)
                way = ""
            else:
                took_ns = _time_between(context.events, limit.origin, limit.target)
                way = f" from {limit.origin.name} to {limit.target.name}"
            if took_ns is None:
                yield Fault(f"it did not go{way}, so it has no time", not whole)
            elif took_ns > limit.most_ns:
                yield Fault(f"it took {_milliseconds(took_ns)}{way}, more than {_milliseconds(limit.most_ns)}")
            elif not way and not whole:
                yield Fault(f"how long it took is not known{_because(context)}", unknown=True)


@dataclass(frozen=True)
class Expectations:
    """What a file expects of a run."""

    name: str  # of the file
    expectations: tuple[Expectation, ...]
    incomplete: bool = False  # packets may have been lost


def _because(context: Context) -> str:
    return ": part of its path was lost" if context.missing else ": it was not seen to be freed"


def _time_between(events: Sequence[Event], origin: Point, target: Point) -> Optional[int]:
    later = iter(events)
    first = next((item for item in later if item.trace in origin.traces), None)
    last = next((item for item in later if item.trace in target.traces), None)
    return None if first is None or last is None else last.time_ns - first.time_ns


def _milliseconds(duration_ns: int) -> str:
    return f"{duration_ns / 1_000_000:.3f} ms"


@dataclass(frozen=True)
class _Run:
    """What a file's words are about."""

    header: Header
    host: Host
    words: dict[str, set[str]] = field(default_factory=dict)  # traces by what they and their groups are called

    @classmethod
    def of(cls, header: Header, host: Host) -> "_Run":
        run = cls(header, host)
        skipped = {name for name, _ in header.skipped}
        for trace in header.traces:
            if trace.name not in skipped:
                for word in (trace.name, trace.group):
                    run.words.setdefault(word, set()).add(trace.name)
        return run

    def point(self, item: Item) -> Point:
        name = item.text()
        found = [traces for word, traces in self.words.items() if fnmatchcase(word, name)]
        if not found:
            why = dict(self.header.skipped).get(name)
            if why is not None:
                raise item.error(f"{name} was not attached in this run: {why}")
            raise item.error(f"no trace or group '{name}' was attached in this run{did_you_mean(name, self.words)}")
        return Point(name, frozenset().union(*found))

    def points(self, item: Item) -> tuple[Point, ...]:
        return tuple(self.point(each) for each in _some(item))

    def flow(self, item: Item) -> Matches:
        fields = item.fields((), _FLOW)
        inner = "inner" in fields and fields["inner"].boolean()
        words = {name: _word(field) for name, field in fields.items() if name != "inner"}
        netns = words.pop("netns", None)
        inode = None if netns is None else namespaces.inode(netns)
        try:
            packet_filter = filters.parse(**words, netns=inode, inner=inner)
            matches = matching.matcher(packet_filter, self.header, self.host, netns if inode is None else None)
        except UsageError as error:
            raise item.error(str(error)) from error
        return matches or (lambda context: context)


def load(path: str, header: Header, host: Host) -> Expectations:
    """What a file expects of this run; UsageError where it is wrong, or about what the run did not look at."""
    try:
        fields = yamlfile.load(path).fields(("expect",), ("incomplete",))
        incomplete = "incomplete" in fields and fields["incomplete"].choice(_WORDS) == "allow"
        run = _Run.of(header, host)
        found = tuple(_expectation(item, run, incomplete) for item in _some(fields["expect"]))
        names: set[str] = set()
        for item, each in zip(fields["expect"].items(), found):
            if each.name in names:
                raise item.error(f"two expectations are called '{each.name}'")
            names.add(each.name)
    except ConfigurationError as error:
        raise UsageError(f"--assert: {error}") from error
    return Expectations(Path(path).stem, found, incomplete)


def _expectation(item: Item, run: _Run, incomplete: bool) -> Expectation:
    fields = item.fields(
        ("name", "flow"), ("packets", "must_pass", "must_not_pass", "drops", "max_latency", "incomplete")
    )
    least, most = _amount(fields["packets"]) if "packets" in fields else (1, None)
    if "drops" in fields and not any(trace.role == "drop" for trace in run.header.traces):
        raise fields["drops"].error("drops were not traced in this run")
    return Expectation(
        name=fields["name"].text(),
        matches=run.flow(fields["flow"]),
        least=least,
        most=most,
        must_pass=run.points(fields["must_pass"]) if "must_pass" in fields else (),
        must_not_pass=run.points(fields["must_not_pass"]) if "must_not_pass" in fields else (),
        drops=_drops(fields["drops"]) if "drops" in fields else None,
        limits=_limits(fields["max_latency"], run) if "max_latency" in fields else (),
        incomplete=fields["incomplete"].choice(_WORDS) == "allow" if "incomplete" in fields else incomplete,
    )


def _some(item: Item) -> list[Item]:
    found = item.items()
    if not found:
        raise item.error("the list is empty")
    return found


def _word(item: Item) -> str:
    """A word of the command line, which YAML may take for a number."""
    return str(item.value) if type(item.value) is int else item.text()


def _amount(item: Item) -> tuple[int, Optional[int]]:
    if not isinstance(item.value, dict):
        number = item.integer(0)
        return number, number
    fields = item.fields((), ("min", "max"))
    if not fields:
        raise item.error("'min' or 'max' is missing")
    least = fields["min"].integer(0) if "min" in fields else 1
    return least, fields["max"].integer(max(1, least)) if "max" in fields else None


def _drops(item: Item) -> frozenset[str]:
    if item.value == "none":
        return frozenset()
    if not isinstance(item.value, list):
        raise item.error("'none', or a list of the reasons that are allowed, is expected")
    return frozenset(each.text() for each in _some(item))


def _limits(item: Item, run: _Run) -> tuple[Limit, ...]:
    if not isinstance(item.value, (dict, list)):
        return (Limit(_time(item)),)
    limits = []
    for each in _some(item) if isinstance(item.value, list) else [item]:
        fields = each.fields(("from", "to", "max"))
        limits.append(Limit(_time(fields["max"]), run.point(fields["from"]), run.point(fields["to"])))
    return tuple(limits)


def _time(item: Item) -> int:
    try:
        return filters.duration_ns("a time", _word(item))
    except UsageError as error:
        raise item.error(str(error)) from error
