"""What is on a page of tables: paths, histograms and counts, in plain values and no more of them than are of use."""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, Optional

from .histogram import BUCKETS, Histogram, first_of
from .sockets import address_text
from .tables import FunctionStats, LatencySummary, Paths, RoundTrips, Table

NODES_MAX = 3000  # steps of all paths
ROWS_MAX = 100  # of a table


def path_tree(table: Paths, word: Callable[[str], int], drop: Callable[..., list[Any]]) -> dict[str, Any]:
    """The steps that most packets took, each behind the one that it follows.

    word: the number that the page has for a text. drop: the same for a reason and a place.
    """
    below: dict[int, list[int]] = {}
    for number, node in enumerate(table.nodes):
        below.setdefault(node.parent, []).append(number)
    places = {-1: -1}  # of those that are on the page
    rows: list[list[Any]] = []
    next_ones: list[tuple[int, int]] = []
    for number in below.get(-1, ()):
        heappush(next_ones, (-table.nodes[number].count, number))
    while next_ones and len(rows) < NODES_MAX:
        _, number = heappop(next_ones)
        node = table.nodes[number]
        places[number] = len(rows)
        timed = node.times.total
        rows.append([
            places[node.parent], word(node.trace), None if node.drop is None else drop(*node.drop),
            node.count, node.ended, node.times.percentile(50) if timed else None,
            node.times.percentile(99) if timed else None, 0,
        ])  # fmt: skip
        for child in below.get(number, ()):
            heappush(next_ones, (-table.nodes[child].count, child))
    for _, number in next_ones:
        node = table.nodes[number]
        if node.parent >= 0:
            rows[places[node.parent]][-1] += 1
    return {
        "nodes": rows, "rest": len(table.nodes) - len(rows), "packets": table.packets,
        "unfinished": table.unfinished, "incomplete": table.incomplete, "unplaced": table.unplaced,
    }  # fmt: skip


def histograms(table: Optional[Table], latencies: Optional[Histogram]) -> Iterator[dict[str, Any]]:
    """How long things took; latencies: of the packets that were seen."""
    if isinstance(table, RoundTrips):
        for name, one in (("samples", table.sample), ("smoothed", table.smoothed), ("least", table.least)):
            yield _histogram(f"Round trips: {name}", one, 1000)
    elif isinstance(table, LatencySummary):
        yield _histogram("How long packets took", table.latencies, 1)
    elif latencies is not None:
        yield _histogram("How long packets took", latencies, 1)


def counted(table: Optional[Table]) -> Iterator[dict[str, Any]]:
    """What is only counted; the columns' names tell what is a time."""
    if isinstance(table, FunctionStats):
        rows: list[list[Any]] = [[name, count] for name, count in table.hits.items() if count]
        yield _table("Hits of traces", ["trace", "hits"], rows, 1)
    elif isinstance(table, LatencySummary):
        rows = [
            [edge.origin, edge.target, edge.steps, edge.total_ns // max(1, edge.steps), edge.most_ns, edge.total_ns]
            for edge in table.edges
        ]
        yield _table("Costliest steps", ["from", "to", "count", "mean_ns", "max_ns", "total_ns"], rows, 5)
    elif isinstance(table, RoundTrips) and table.peers is not None:
        rows = [
            [
                address_text(peer.l3_protocol, peer.address),
                peer.times.total,
                *(peer.times.percentile(each) * 1000 for each in (50, 90, 99)),
            ]
            for peer in table.peers
        ]
        note = f"{table.crowded_out} samples of yet other peers were not told apart" if table.crowded_out else ""
        yield {**_table("Peers", ["peer", "samples", "p50_ns", "p90_ns", "p99_ns"], rows, 1), "note": note}


def costliest(table: Paths) -> Iterator[dict[str, Any]]:
    """Between which traces the time went, whatever came before."""
    sums: dict[tuple[str, str], dict[int, int]] = {}  # few of the many buckets have something
    for node in table.nodes:
        if node.parent >= 0:
            counts = sums.setdefault((table.nodes[node.parent].trace, node.trace), {})
            for number, count in enumerate(node.times.counts):
                if count:
                    counts[number] = counts.get(number, 0) + count
    totals_ns = {
        names: sum((first_of(number) + first_of(number + 1) - 1) // 2 * count for number, count in counts.items())
        for names, counts in sums.items()
    }
    rows: list[list[Any]] = []
    for names, total_ns in sorted(totals_ns.items(), key=lambda row: (-row[1], row[0]))[:ROWS_MAX]:
        times = Histogram(tuple(sums[names].get(number, 0) for number in range(BUCKETS)))
        powers = [[row.last.bit_length(), row.values] for row in times.rows() if row.values]
        rows.append([*names, times.total, *map(times.percentile, (50, 99, 100)), total_ns, powers])
    if rows:
        columns = ["from", "to", "count", "p50_ns", "p99_ns", "max_ns", "total_ns", "distribution"]
        yield _table("Costliest steps", columns, rows, 6)


def _histogram(title: str, histogram: Histogram, unit_ns: int) -> dict[str, Any]:
    return {
        "title": title,
        "count": histogram.total,
        "percentiles_ns": {f"p{each}": histogram.percentile(each) * unit_ns for each in (50, 90, 99)},
        "rows": [[row.first * unit_ns, (row.last + 1) * unit_ns, row.values] for row in histogram.rows()],
    }


def _table(title: str, columns: Sequence[str], rows: list[list[Any]], by: int) -> dict[str, Any]:
    rows.sort(key=lambda row: -row[by])
    return {"title": title, "columns": columns, "rows": rows[:ROWS_MAX], "more": len(rows[ROWS_MAX:])}
