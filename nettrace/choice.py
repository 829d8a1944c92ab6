"""A bounded choice of what is too much to keep: some of each kind, and those that took longest."""

from collections.abc import Callable, Hashable, Iterable
from heapq import heappush, heapreplace
from typing import Any

_KINDS_MAX = 20_000  # that are told apart


class Choice:
    """Keeps at most `first_max` for what they are, the first of each kind before its second, and the slowest ones."""

    def __init__(self, first_max: int, slowest_max: int) -> None:
        self.offered = 0
        self._first_max = first_max
        self._slowest_max = slowest_max
        self._met: dict[Hashable, int] = {}
        # What is to go next comes first: the dearest, the fastest, and of these the latest.
        self._first: list[tuple[int, int]] = []  # cost and number, both negative
        self._slowest: list[tuple[int, int]] = []  # time, and number, negative
        self._kept: dict[int, Any] = {}
        self._holds: dict[int, int] = {}  # by how many of the two lists

    def offer(self, kinds: Iterable[tuple[Hashable, int]], took_ns: int, make: Callable[[], Any]) -> None:
        """Keeps what `make` returns, or not; kinds: what it is one of, and what the first of that kind costs."""
        number = self.offered
        self.offered += 1
        cost = min(self._nth(kind) * first_cost for kind, first_cost in kinds)
        taken = self._take(self._first, (-cost, -number), self._first_max)
        taken += self._take(self._slowest, (took_ns, -number), self._slowest_max)
        if taken:
            self._holds[number] = taken
            self._kept[number] = make()

    def kept(self) -> list[Any]:
        """What was kept, in the order in which it was offered."""
        return [self._kept[number] for number in sorted(self._kept)]

    def _take(self, heap: list[tuple[int, int]], entry: tuple[int, int], room: int) -> int:
        """Whether the entry found a place, as 0 or 1."""
        if len(heap) < room:
            heappush(heap, entry)
            return 1
        if entry <= heap[0]:
            return 0
        gone = -heapreplace(heap, entry)[1]
        self._holds[gone] -= 1
        if not self._holds[gone]:
            del self._holds[gone], self._kept[gone]
        return 1

    def _nth(self, kind: Hashable) -> int:
        """How many of this kind there are by now; of kinds beyond those that are told apart, as if it were common."""
        if kind not in self._met and len(self._met) >= _KINDS_MAX:
            return self.offered
        nth = self._met[kind] = self._met.get(kind, 0) + 1
        return nth
