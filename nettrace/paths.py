"""Which paths packets took: as the programs count it, and worked out from whole packets that were recorded."""

import struct
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple, Optional

from .event import NO_REASON, Context, Event
from .histogram import BUCKETS, COARSE_BUCKETS, Histogram, bucket, of_coarse
from .sinks import Display, Lookups, Summary, Text
from .tables import PathNode, Paths
from .times import Derived

# Steps of all paths; what there are more is counted.
NODES_MAX = 1 << 16
_NO_NODE = -2
_ENDS = ("free", "drop")  # roles of traces

# struct path_node of bpf/paths.h: parent, step, drop's location and reason, count, ended, times.
_NODE = struct.Struct(f"<6Q{4 * COARSE_BUCKETS}s")

Drop = Optional[tuple[Optional[int], int]]


class Grouping:
    """Groups packets by the path they took.

    roles: of the traces that have one, see tracer.yaml: they tell where a packet's clones were made. end_at: traces
    after which a packet was not followed any more.
    """

    def __init__(self, roles: Optional[Mapping[str, str]] = None, end_at: Collection[str] = ()) -> None:
        self._roles = roles or {}
        self._end_at = end_at
        self._tree = Steps(NODES_MAX)
        self._packets = self._unfinished = self._incomplete = 0

    def add(self, context: Context) -> None:
        """Takes a packet."""
        if context.missing:
            self._incomplete += 1
            return
        self._packets += 1
        tree, roles = self._tree, self._roles
        here: dict[int, tuple[int, Event]] = {}  # where each skb is
        makers: list[tuple[int, Event]] = []  # where one was made that was not seen yet
        latest: Optional[tuple[int, Event]] = None
        for item in context.events:
            before = here.get(item.skb)
            # A clone may be given the address of one that was freed.
            if before is None or item.number <= before[1].number:
                if before is not None:
                    tree.end(before[0])
                before = makers[-1] if makers else latest
                if makers and roles[makers[-1][1].trace] == "clone":
                    makers.pop()
            drop = None if item.drop is None else (item.drop.reason, item.drop.location)
            node = tree.find(-1 if before is None else before[0], item.trace, drop)
            tree.count(node, None if before is None else item.time_ns - before[1].time_ns)
            latest = here[item.skb] = node, item
            if roles.get(item.trace) in ("clone", "segments"):
                makers.append(latest)
        for node, last in here.values():
            if context.unfinished and roles.get(last.trace) not in _ENDS and last.trace not in self._end_at:
                self._unfinished += 1
            else:
                tree.end(node)

    def table(self) -> Paths:
        """What was taken so far."""
        return Paths(self._tree.nodes(), self._packets, self._unfinished, self._incomplete, self._tree.unplaced)


class PathsGrouped(Derived):
    """Groups packets by the path they took, and shows that at the end."""

    def __init__(self, sink: Text, display: Display, lookups: Lookups) -> None:
        super().__init__(sink, display, lookups)
        self._grouping = Grouping(lookups.roles, display.end_traces)

    def context(self, context: Context) -> bool:
        """A packet."""
        self._grouping.add(context)
        return True

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over."""
        self._sink.table(self._grouping.table())
        self._sink.end(summary)


class Steps:
    """The nodes of the tree, while they grow; nodes_max: what comes beyond it is only counted."""

    def __init__(self, nodes_max: int) -> None:
        self.unplaced = 0
        self._nodes_max = nodes_max
        self._numbers: dict[tuple[int, str, Drop], int] = {}
        self._counts: list[int] = []
        self._ended: list[int] = []
        self._times: list[Counter[int]] = []

    def find(self, parent: int, trace: str, drop: Drop) -> int:
        """The number of the node that follows another one."""
        key = parent, trace, drop
        number = self._numbers.get(key)
        if number is None:
            if parent == _NO_NODE or len(self._numbers) >= self._nodes_max:
                return _NO_NODE
            number = self._numbers[key] = len(self._numbers)
            self._counts.append(0)
            self._ended.append(0)
            self._times.append(Counter())
        return number

    def count(self, number: int, took_ns: Optional[int]) -> None:
        """An skb came here; took_ns: since the node before."""
        if number == _NO_NODE:
            self.unplaced += 1
            return
        self._counts[number] += 1
        if took_ns is not None:
            self._times[number][bucket(took_ns)] += 1

    def end(self, number: int) -> None:
        """The path of an skb ended here."""
        if number != _NO_NODE:
            self._ended[number] += 1

    def add(self, number: int, counted: "Counted") -> None:
        """What was counted here elsewhere."""
        self._counts[number] += counted.skbs
        self._ended[number] += counted.ended
        self._times[number].update(counted.times)

    def nodes(self) -> list[PathNode]:
        """All of them, parents before their children."""
        return [
            PathNode(*key, self._counts[number], self._ended[number], _histogram(self._times[number]))
            for key, number in self._numbers.items()
        ]


class Counted(NamedTuple):
    """A node as the programs have it."""

    parent: int  # key of the node before it; 0: paths begin here
    kind: int
    where: int
    drop: Drop
    skbs: int
    ended: int
    times: Mapping[int, int]  # counts, by bucket

    @classmethod
    def of(cls, cpus: bytes) -> Optional["Counted"]:
        """From an entry of the table, a value for each CPU; None if it is not complete yet."""
        values = list(_NODE.iter_unpack(cpus))
        # Those CPUs that made it know what it is, all the others only count.
        parent, step, location, reason, *_ = max(values, key=itemgetter(1))
        if not step:
            return None
        times: Counter[int] = Counter()
        for value in values:
            counts = enumerate(array("I", value[-1]))
            times.update({of_coarse(number): count for number, count in counts if count})
        drop = (None if reason == NO_REASON else reason, location) if location else None
        skbs, ended = (sum(value[at] for value in values) for at in (4, 5))
        return cls(parent, step >> 32, step & 0xFFFFFFFF, drop, skbs, ended, times)


def counted_nodes(entries: Iterable[tuple[bytes, bytes]], trace: Callable[[int, int], str]) -> list[PathNode]:
    """The tree that the programs have; trace: what the trace of a step is called."""
    children: dict[int, list[tuple[int, Counted]]] = defaultdict(list)
    for raw, cpus in entries:
        node = Counted.of(cpus)
        if node is not None:
            children[node.parent].append((int.from_bytes(raw, "little"), node))
    steps = Steps(NODES_MAX)
    parents = [(0, -1)]
    while parents:
        parent, number_of_parent = parents.pop()
        for key, counted in children[parent]:
            number = steps.find(number_of_parent, trace(counted.kind, counted.where), counted.drop)
            steps.add(number, counted)
            parents.append((key, number))
    return steps.nodes()


def _histogram(times: Mapping[int, int]) -> Histogram:
    counts = [0] * BUCKETS
    for number, count in times.items():
        counts[number] = count
    return Histogram(tuple(counts))
