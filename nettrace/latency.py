"""How long packets took, as text: what the programs counted of them, and which steps took the most of it."""

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .counts import counted
from .histogram import Histogram, percentiles, table

_KEY = struct.Struct("<QQ")  # struct edge in bpf/latency.h: the kind of a step and its place, twice
_TIMES = struct.Struct("<QQQ")  # struct edge_times, one a CPU

# How many steps are shown, those that took the most of the time.
_COSTLIEST = 20


class Edge(NamedTuple):
    """All steps of packets from one trace to another."""

    origin: str
    target: str
    steps: int
    total_ns: int
    most_ns: int  # that one of them took


def edge_of(key: bytes, values: bytes, trace: Callable[[int, int], str]) -> Edge:
    """An entry of the table of edges, all CPUs together; trace: what the trace of a step is called."""
    origin, target = (trace(place >> 32, place & 0xFFFFFFFF) for place in _KEY.unpack(key))
    counts, totals_ns, most_ns = zip(*_TIMES.iter_unpack(values))
    return Edge(origin, target, sum(counts), sum(totals_ns), max(most_ns))


def latency_text(latencies: Histogram, edges: Iterable[Edge], *, one_point: int, short: int) -> str:
    """How long packets took, and the steps that took the most of it."""
    lines = [f"latency distribution: {counted(latencies.total, 'packets')}"]
    if latencies.total:
        lines += [*table(latencies, _microseconds), f"  {percentiles(latencies, _microseconds)}"]
    for count, what in ((short, "below the least latency"), (one_point, "seen at one point only")):
        if count:
            lines.append(f"  not counted: {count} {what}")
    costliest = sorted(edges, key=lambda edge: (-edge.total_ns, edge))
    whole_ns = max(1, sum(edge.total_ns for edge in costliest))
    if costliest:
        lines += ["costliest steps:", _edge_line("from", "to", "count", "mean", "max", "share")]
    for edge in costliest[:_COSTLIEST]:
        mean, most = _microseconds(edge.total_ns // edge.steps), _microseconds(edge.most_ns)
        share = f"{edge.total_ns / whole_ns:.1%}"
        lines.append(_edge_line(edge.origin, edge.target, str(edge.steps), mean, most, share))
    rest = costliest[_COSTLIEST:]
    if rest:
        share = f"{sum(edge.total_ns for edge in rest) / whole_ns:.1%}"
        lines.append(_edge_line(f"({len(rest)} others)", "", str(sum(edge.steps for edge in rest)), "", "", share))
    return "\n".join(lines)


def _edge_line(origin: str, target: str, count: str, mean: str, most: str, share: str) -> str:
    return f"  {origin:<26} {target:<26} {count:>9} {mean:>12} {most:>12} {share:>6}"


def _microseconds(duration_ns: int) -> str:
    return f"{duration_ns / 1000:.1f}us"
