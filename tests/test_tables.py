"""Tables of what was counted: as text, and the same again from what a recording has of them."""

import json

import pytest

from nettrace.histogram import Histogram, bucket
from nettrace.latency import Edge
from nettrace.tables import (
    KINDS,
    DropCounts,
    FunctionStats,
    LatencySummary,
    PathNode,
    Paths,
    Peer,
    RoundTrips,
    Table,
    kind_of,
)


def histogram(*values: int) -> Histogram:
    counts = [0] * len(Histogram.from_bytes(b"").counts)
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts))


TABLES: list[Table] = [
    FunctionStats({"ip_rcv": 7, "unhit": 0}),
    LatencySummary(histogram(1_000, 2_000), [Edge("ip_rcv", "tcp_v4_rcv", 2, 1 << 60, 5)], 1, 0),
    RoundTrips(histogram(30), histogram(31), histogram(29)),
    RoundTrips(histogram(30), histogram(31), histogram(29), [Peer(bytes(range(16)), 0x86DD, histogram(30))], 4),
    DropCounts({(None, 0xFFFFFFFF81000010): 1, (3, 0x20): 2}, 1.25, last=True),
    Paths(
        [
            PathNode(-1, "ip_rcv", None, 3, 0, histogram()),
            PathNode(0, "kfree_skb", (3, 0xFFFFFFFF81000010), 2, 2, histogram(700, 1 << 33)),
            PathNode(0, "kfree_skb", (None, 0x20), 1, 1, histogram(900)),
        ], 3, 4, 1, 5,
    ),
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=kind_of)
def test_a_table_comes_back_as_it_was(table: Table) -> None:
    assert KINDS[kind_of(table)].of(json.loads(json.dumps(table.plain()))) == table


def test_the_table_of_hits() -> None:
    hits = {"ip_rcv": 7, "unhit": 0, "b": 12, "a": 7, "inet6_a_function_with_a_long_name": 1}
    assert FunctionStats(hits).text() == (
        "function statistics:\n"
        " b                               : 12\n"
        " a                               : 7\n"
        " ip_rcv                          : 7\n"
        " inet6_a_function_with_a_long_name: 1\n"
        "\n"
    )
    assert FunctionStats({}).text() == "function statistics:\n\n"


def test_paths_tell_what_is_not_in_the_tree() -> None:
    paths = Paths([PathNode(-1, "ip_rcv", None, 3, 0, histogram())], 3, 1)
    assert paths.text(lambda reason, location: "", whole=False) == (
        "paths of 3 packets:\n"
        "      skbs   share         p50         p99  path\n"
        "         3  100.0%           -           -  ip_rcv\n"
        "  1 skb not seen to the end"
    )
    more = paths._replace(incomplete=4, unplaced=5).text(lambda reason, location: "", whole=False).splitlines()
    assert more[-2:] == [
        "  4 packets left out, as a part of the path was lost", "  5 steps left out for want of room"
    ]  # fmt: skip


def test_a_step_that_follows_a_later_one_makes_no_sense() -> None:
    plain = Paths([PathNode(0, "ip_rcv", None, 3, 0, histogram())], 3, 0).plain()
    with pytest.raises(ValueError, match="comes before"):
        Paths.of(plain)


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        ("latency-summary", {"edges": [{"origin": "a", "target": "b", "steps": 0, "total_ns": 1, "most_ns": 1}]}),
        ("latency-summary", {"edges": [{"origin": "a", "target": "b", "steps": 1, "total_ns": "", "most_ns": 1}]}),
        ("latency-summary", {"short": 10**400}), ("rtt", {"sample": {"1": 1 << 70}}),
        ("rtt", {"peers": [{"address": "00", "l3_protocol": 0x800, "times": {}}]}), ("drop-stat", {"seconds": 0}),
        ("drop-stat", {"drops": [{"reason": "x", "location": 1, "count": 1}]}),
        ("drop-stat", {"seconds": float("nan")}),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_none(kind: str, plain: "dict[str, object]") -> None:
    table = next(each for each in TABLES if kind_of(each) == kind)
    with pytest.raises(ValueError):
        KINDS[kind].of({**table.plain(), **plain})
