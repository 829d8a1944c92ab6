"""What runs that only count have counted: the same tables as text, as JSON and in recordings."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

from .counts import counted
from .histogram import BUCKETS, Histogram
from .latency import Edge, latency_text
from .pathtree import DropText, tree_lines
from .pathtree import PathNode as PathNode
from .sockets import peers_text, rtt_text

_PEER_BYTES = 16
_SECONDS_MAX = 1e10  # centuries


class FunctionStats(NamedTuple):
    """How often each trace was hit."""

    hits: Mapping[str, int]

    def text(self) -> str:
        """A table, the most hit first."""
        rows = sorted(((name, count) for name, count in self.hits.items() if count), key=lambda row: (-row[1], row[0]))
        return "\n".join(["function statistics:", *(f" {name:<32}: {count}" for name, count in rows), "\n"])

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"hits": dict(self.hits)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "FunctionStats":
        """From what plain() made."""
        return cls({str(name): _number(count) for name, count in plain["hits"].items()})


class LatencySummary(NamedTuple):
    """How long packets took, and their steps."""

    latencies: Histogram
    edges: Sequence[Edge]
    one_point: int
    short: int

    def text(self) -> str:
        """Two tables."""
        return latency_text(self.latencies, self.edges, one_point=self.one_point, short=self.short)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        edges = [edge._asdict() for edge in self.edges]
        return {
            "latencies": _buckets(self.latencies), "edges": edges, "one_point": self.one_point, "short": self.short
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "LatencySummary":
        """From what plain() made."""
        edges = [
            Edge(str(edge["origin"]), str(edge["target"]), *(_number(edge[name]) for name in Edge._fields[2:]))
            for edge in plain["edges"]
        ]
        if any(edge.steps < 1 for edge in edges):
            raise ValueError("a step that nothing took")
        return cls(_histogram(plain["latencies"]), edges, _number(plain["one_point"]), _number(plain["short"]))


class Peer(NamedTuple):
    """Round trips to one address."""

    address: bytes
    l3_protocol: int
    times: Histogram


class RoundTrips(NamedTuple):
    """How long round trips were: the samples, the smoothed and the least ones, and by peer if that was asked for."""

    sample: Histogram
    smoothed: Histogram
    least: Histogram
    peers: Optional[Sequence[Peer]] = None
    crowded_out: int = 0

    def text(self) -> str:
        """A table, and one of the peers."""
        text = rtt_text([self.sample, self.smoothed, self.least])
        return text if self.peers is None else f"{text}\n{peers_text(self.peers, self.crowded_out)}"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        histograms = {name: _buckets(getattr(self, name)) for name in ("sample", "smoothed", "least")}
        peers = (
            None
            if self.peers is None
            else [
                {"address": peer.address.hex(), "l3_protocol": peer.l3_protocol, "times": _buckets(peer.times)}
                for peer in self.peers
            ]
        )
        return {**histograms, "peers": peers, "crowded_out": self.crowded_out}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "RoundTrips":
        """From what plain() made."""
        peers: Optional[list[Peer]] = None
        if plain["peers"] is not None:
            peers = [
                Peer(bytes.fromhex(peer["address"]), _number(peer["l3_protocol"]), _histogram(peer["times"]))
                for peer in plain["peers"]
            ]
            if any(len(peer.address) != _PEER_BYTES for peer in peers):
                raise ValueError("an address")
        sample, smoothed, least = (_histogram(plain[name]) for name in ("sample", "smoothed", "least"))
        return cls(sample, smoothed, least, peers, _number(plain["crowded_out"]))


class DropCounts(NamedTuple):
    """How many packets were dropped, by reason and place; last: no more tables come."""

    drops: Mapping[tuple[Optional[int], int], int]
    seconds: float  # since the table before; of the last one, since the start
    last: bool

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        drops = [
            {"reason": reason, "location": location, "count": count} for (reason, location), count in self.drops.items()
        ]
        return {"drops": drops, "seconds": self.seconds, "last": self.last}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "DropCounts":
        """From what plain() made."""
        drops = {
            (None if row["reason"] is None else _number(row["reason"]), _number(row["location"])): _number(row["count"])
            for row in plain["drops"]
        }
        seconds = float(plain["seconds"])
        if not 0 < seconds < _SECONDS_MAX:
            raise ValueError("a time")
        return cls(drops, seconds, bool(plain["last"]))


class Paths(NamedTuple):
    """Packets, grouped by the path they took; clones branch off where they were made."""

    nodes: Sequence[PathNode]  # parents come before their children
    packets: int  # that the shares are of
    unfinished: int  # skbs that were not seen to their end
    incomplete: int = 0  # packets left out, as a part of their path was lost
    unplaced: int = 0  # steps left out for want of room

    def text(self, drop_text: DropText, *, whole: bool) -> str:
        """A tree; see tree_lines()."""
        lines = [f"paths of {counted(self.packets, 'packets')}:"]
        lines += tree_lines(self.nodes, self.packets, drop_text, whole=whole)
        for count, what in (
            (self.unfinished, "skbs not seen to the end"),
            (self.incomplete, "packets left out, as a part of the path was lost"),
            (self.unplaced, "steps left out for want of room"),
        ):
            if count:
                lines.append(f"  {counted(count, what)}")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        nodes = [[*node[:-1], _buckets(node.times)] for node in self.nodes]
        return {**self._asdict(), "nodes": nodes}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Paths":
        """From what plain() made."""
        nodes: list[PathNode] = []
        for parent, trace, drop, count, ended, times in plain["nodes"]:
            if not -1 <= parent < len(nodes):
                raise ValueError("a step comes before the one that it follows")
            where = None if drop is None else (None if drop[0] is None else _number(drop[0]), _number(drop[1]))
            nodes.append(
                PathNode(_number(parent), str(trace), where, _number(count), _number(ended), _histogram(times))
            )
        return cls(nodes, *(_number(plain[name]) for name in cls._fields[1:]))


Table = Union[FunctionStats, LatencySummary, RoundTrips, DropCounts, Paths]
KINDS: dict[str, type[Table]] = {
    "function-stats": FunctionStats, "latency-summary": LatencySummary, "rtt": RoundTrips, "drop-stat": DropCounts,
    "paths": Paths,
}  # fmt: skip


def kind_of(table: Table) -> str:
    """The name that JSON and recordings have for this kind of table."""
    return next(name for name, kind in KINDS.items() if isinstance(table, kind))


def _buckets(histogram: Histogram) -> dict[str, int]:
    """Only those that have something, by number."""
    return {str(number): count for number, count in enumerate(histogram.counts) if count}


def _histogram(buckets: Mapping[str, int]) -> Histogram:
    counts = [0] * BUCKETS
    for number, count in buckets.items():
        counts[int(number)] = _number(count)
    return Histogram(tuple(counts))


def _number(value: Any) -> int:
    """What a recording says, if it can be counted."""
    number = int(value)
    if abs(number) >= 1 << 64:
        raise ValueError("a number")
    return number
