"""The tree of paths as text."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
from typing import Optional

import pytest

from nettrace.kernel import Symbol
from nettrace.pathtree import PathNode, tree_lines
from nettrace.sinks import Display, Lookups, PathTable
from nettrace.tables import Paths

from .test_drops import Terminal
from .test_tables import histogram

Drop = Optional[tuple[Optional[int], int]]


def node(parent: int, trace: str, count: int, ended: int = 0, *times: int, drop: Drop = None) -> PathNode:
    return PathNode(parent, trace, drop, count, ended, histogram(*times))


def drop_text(reason: Optional[int], location: int) -> str:
    return f"dropped: {reason} at {location:#x}"


def lines(*nodes: PathNode, packets: int, whole: bool = False) -> list[str]:
    return tree_lines(nodes, packets, drop_text, whole=whole)


def test_a_path_without_branches_is_not_indented() -> None:
    assert lines(
        node(-1, "ip_rcv", 2), node(0, "udp_rcv", 2, 0, 1_000, 3_000), node(1, "consume_skb", 2, 2, 500, 500), packets=2
    ) == [
        "      skbs   share         p50         p99  path",
        "         2  100.0%           -           -  ip_rcv",
        "         2  100.0%       1.0us       3.0us  udp_rcv",
        "         2  100.0%       0.5us       0.5us  consume_skb  (end)",
    ]


def test_branches_are_in_the_order_of_their_counts() -> None:
    text = lines(
        node(-1, "a", 9), node(0, "rare", 2, 1), node(1, "more", 1), node(0, "often", 7), node(3, "x", 5, 5),
        node(3, "kfree_skb", 2, 2, drop=(3, 0x20)), node(-1, "z", 1, 1), packets=10,
    )  # fmt: skip
    assert [line[44:] for line in text[1:]] == [
        "|- a",
        "|  |- often",
        "|  |  |- x  (end)",
        "|  |  `- kfree_skb  dropped: 3 at 0x20",
        "|  `- rare  (1 end here)",
        "|     more",
        "`- z  (end)",
    ]
    assert [line.split()[1] for line in text[1:4]] == ["90.0%", "70.0%", "50.0%"]


def test_rare_branches_are_folded_but_not_on_the_way_to_a_drop() -> None:
    nodes = [
        node(-1, "a", 1000), node(0, "b", 985), node(0, "c", 9), node(2, "d", 9), node(0, "e", 4), node(0, "f", 2),
        node(5, "kfree_skb", 1, 1, drop=(None, 0x30)), node(5, "g", 1),
    ]  # fmt: skip
    folded = lines(*nodes, packets=1000)
    assert [line.split()[0] + " " + line[44:] for line in folded[2:]] == [
        "985 |- b",
        "2 |- f",
        "1 |  |- kfree_skb  dropped: None at 0x30",
        "1 |  `- (1 rare branch, below 1% of the packets each: -v shows them)",
        "13 `- (2 rare branches, below 1% of the packets each: -v shows them)",
    ]
    whole = lines(*nodes, packets=1000, whole=True)
    assert len(whole) == 1 + len(nodes) and not any("rare" in line for line in whole)


def test_rare_paths_from_the_beginning_are_folded_too() -> None:
    nodes = [node(-1, "a", 999), *(node(-1, f"b{number}", 1) for number in range(3))]
    assert [line[44:] for line in lines(*nodes, packets=1002)[1:]] == [
        "|- a",
        "`- (3 rare branches, below 1% of the packets each: -v shows them)",
    ]


def test_no_path_is_no_line() -> None:
    assert len(lines(packets=0)) == 1


def test_a_path_of_any_length() -> None:
    chain = [node(number - 1, "x", 1) for number in range(5000)]
    assert len(lines(*chain, packets=1)) == 5001


KNOWN = Lookups(symbol=lambda address: Symbol("tcp_v4_rcv", address, 0, ""), reason=lambda reason: "NO_SOCKET")
SOME = Paths(
    [
        node(-1, "ip_rcv", 1000),
        node(0, "kfree_skb", 1, 1, drop=(3, 0x81)),
        node(0, "kfree_skb", 1, 1, drop=(None, 0x82)),
        node(0, "udp_rcv", 998),
        node(0, "rare", 2),
    ], 1000, 0,
)  # fmt: skip


def test_only_the_last_tree_is_shown() -> None:
    out = io.StringIO()
    sink = PathTable(out, Display(), KNOWN)
    sink.table(SOME._replace(packets=1))
    sink.table(SOME)
    assert out.getvalue() == ""
    sink.end(None)
    lines = out.getvalue().splitlines()
    assert lines[0] == "paths of 1000 packets:"
    assert [line[44:] for line in lines[4:6]] == [
        "|- kfree_skb  dropped: NO_SOCKET at tcp_v4_rcv+0x81",
        "|- kfree_skb  dropped at tcp_v4_rcv+0x82",
    ]
    assert "1 rare branch" in lines[6]
    whole = io.StringIO()
    sink = PathTable(whole, Display(rare_paths=True), KNOWN)
    sink.table(SOME)
    sink.end(None)
    assert "- rare" in whole.getvalue() and "1 rare branch" not in whole.getvalue()


def test_on_a_terminal_each_tree_takes_the_place_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "50")
    out = Terminal()
    sink = PathTable(out, Display(), KNOWN)
    sink.table(SOME)
    first = out.getvalue()
    assert first.endswith("... and 4 more\n") and first.count("\n") == 4
    # A line that wraps would be two.
    assert max(map(len, first.splitlines())) == 50
    sink.end(None)
    last = out.getvalue()[len(first) :]
    assert last.startswith("\033[4A\033[Jpaths of 1000 packets:\n") and last.count("\n") == 7
