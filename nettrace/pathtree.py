"""The paths that packets took, as a tree of steps: what the programs counted of them, and the tree as text."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

from .histogram import Histogram

# Branches that fewer of the packets took are folded, unless they are asked for or lead to a drop.
RARE = 0.01

DropText = Callable[[Optional[int], int], str]


class PathNode(NamedTuple):
    """A step of packets that had the same steps before it."""

    parent: int  # index of the node before it; -1: paths begin here
    trace: str  # the step
    drop: Optional[tuple[Optional[int], int]]  # the kernel gave them up: why (None: it does not tell) and where
    count: int  # type: ignore[assignment]  # skbs that came here
    ended: int  # of these, those whose path ended here
    times: Histogram  # ns since the node before


def tree_lines(nodes: Sequence[PathNode], packets: int, drop_text: DropText, *, whole: bool) -> list[str]:
    """A line for each node, children below their parents; what has one child only is not indented further.

    packets: of which shares are told. drop_text: what is told of a drop. whole: rare branches are shown, too.
    """
    return _Tree(nodes, packets, drop_text, whole).lines()


class _Branch(NamedTuple):
    number: Optional[int]  # of its first node; None: it stands for the rare ones
    parent: int
    margin: str  # before the first line
    margin_below: str  # before the others


class _Tree:
    def __init__(self, nodes: Sequence[PathNode], packets: int, drop_text: DropText, whole: bool) -> None:
        self._nodes = nodes
        self._packets = max(1, packets)
        self._drop_text = drop_text
        self._children: dict[int, list[int]] = defaultdict(list)
        for number, node in enumerate(nodes):
            self._children[node.parent].append(number)
        leads_to_drop = [node.drop is not None for node in nodes]
        for number in range(len(nodes) - 1, -1, -1):
            if leads_to_drop[number] and nodes[number].parent >= 0:
                leads_to_drop[nodes[number].parent] = True
        self._is_shown = [
            whole or leads_to_drop[number] or node.count >= RARE * self._packets for number, node in enumerate(nodes)
        ]

    def lines(self) -> list[str]:
        lines = [_line("skbs", "share", "p50", "p99", "path")]
        below = self._below(-1, "")
        while below:
            each = below.pop()
            if each.number is None:
                lines.append(self._folded(each))
            else:
                lines.append(self._of(each.number, each.margin))
                below += self._below(each.number, each.margin_below)
        return lines

    def _below(self, parent: int, margin: str) -> list["_Branch"]:
        """What follows a node, the last one first."""
        nodes = self._nodes
        children = self._children[parent]
        shown: list[Optional[int]] = [number for number in children if self._is_shown[number]]
        shown.sort(key=lambda number: _order(nodes[number or 0]))
        if len(shown) < len(children):
            shown.append(None)
        if len(shown) == 1:
            return [_Branch(shown[0], parent, margin, margin)]
        branches = [_Branch(number, parent, f"{margin}|- ", f"{margin}|  ") for number in shown[:-1]]
        branches += [_Branch(number, parent, f"{margin}`- ", f"{margin}   ") for number in shown[-1:]]
        return branches[::-1]

    def _of(self, number: int, margin: str) -> str:
        node = self._nodes[number]
        p50 = p99 = "-"
        if node.times.total:
            p50, p99 = (_microseconds(node.times.percentile(percent)) for percent in (50, 99))
        text = f"{margin}{node.trace}"
        if node.drop is not None:
            text += f"  {self._drop_text(*node.drop)}"
        if node.ended < node.count and node.ended:
            text += f"  ({node.ended} end here)"
        elif node.ended and node.drop is None:
            text += "  (end)"
        return _line(str(node.count), self._share(node.count), p50, p99, text)

    def _folded(self, rare: "_Branch") -> str:
        children = self._children[rare.parent]
        counts = [self._nodes[number].count for number in children if not self._is_shown[number]]
        what = "1 rare branch" if len(counts) == 1 else f"{len(counts)} rare branches"
        text = f"{rare.margin}({what}, below {RARE:.0%} of the packets each: -v shows them)"
        return _line(str(sum(counts)), self._share(sum(counts)), "", "", text)

    def _share(self, count: int) -> str:
        return f"{count / self._packets:.1%}"


def _order(node: PathNode) -> tuple[int, str, int]:
    return -node.count, node.trace, 0 if node.drop is None else node.drop[1]


def _line(count: str, share: str, p50: str, p99: str, text: str) -> str:
    return f"{count:>10} {share:>7} {p50:>11} {p99:>11}  {text}"


def _microseconds(duration_ns: int) -> str:
    return f"{duration_ns / 1000:.1f}us"
