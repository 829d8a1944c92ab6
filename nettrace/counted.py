"""What the programs of a run counted, as tables."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .histogram import Histogram
from .latency import edge_of
from .paths import counted_nodes
from .run import totals
from .sockets import peer_of
from .source import RTT_HISTOGRAMS
from .tables import LatencySummary, Paths, Peer, RoundTrips

if TYPE_CHECKING:
    from .bpf import Session


def latencies(session: "Session", trace: Callable[[int, int], str]) -> LatencySummary:
    """What the programs of --latency-summary counted so far."""
    numbers = totals(session.counters())
    histogram = Histogram.from_bytes(session.value("latencies", 0))
    edges = [edge_of(key, values, trace) for key, values in session.entries("edges")]
    return LatencySummary(histogram, edges, numbers["one_point"], numbers["short"])


def paths(session: "Session", trace: Callable[[int, int], str]) -> Paths:
    """What the programs of --paths counted so far."""
    numbers = totals(session.counters())
    return Paths(
        counted_nodes(session.entries("path_nodes"), trace),
        packets=numbers["matched"],
        unfinished=numbers["matched"] + numbers["cloned"] - numbers["freed"],
        unplaced=numbers["steps_lost"],
    )


def round_trips(session: "Session", _trace: Callable[[int, int], str], *, by_peer: bool) -> RoundTrips:
    """What the programs of --rtt counted so far."""
    values = [session.value("rtt_histograms", number) for number in range(len(RTT_HISTOGRAMS))]
    sample, smoothed, least = [Histogram.from_bytes(value) for value in values]
    if not by_peer:
        return RoundTrips(sample, smoothed, least)
    peers = [Peer(*peer_of(key), Histogram.from_bytes(value)) for key, value in session.entries("rtt_peers")]
    return RoundTrips(sample, smoothed, least, peers, totals(session.counters())["crowded_out"])
