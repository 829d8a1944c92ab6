"""What is counted of all packets of a recording, however many there are, in bounded memory."""

from typing import Any, Optional

from .diagnosis import Finding

_FLOWS_MAX = 20_000  # that are told apart
_MOMENTS_MAX = 120
_EXAMPLES_MAX = 3  # of a kind of finding, those that differ
_PLACES_MAX = 100


class Moments:
    """When packets began, and how many of them were dropped: equal spans of time, few enough to be drawn."""

    def __init__(self) -> None:
        self.start_ns: Optional[int] = None
        self.width_ns = 1000
        self.counts: dict[int, list[int]] = {}  # by number of the span: packets, and those that were dropped

    def add(self, time_ns: int, dropped: bool) -> None:
        """Counts a packet."""
        if self.start_ns is None:
            self.start_ns = time_ns - time_ns % self.width_ns
        # Packets come in the order of their ends, so that one may have begun before the first one.
        number = (time_ns - self.start_ns) // self.width_ns
        count = self.counts.get(number)
        if count is None:
            count = self.counts[number] = [0, 0]
        count[0] += 1
        count[1] += dropped
        while len(self.counts) > 1 and max(self.counts) - min(self.counts) >= _MOMENTS_MAX:
            self._widen()

    def _widen(self) -> None:
        before, self.counts = self.counts, {}
        self.width_ns *= 2
        for number, count in before.items():
            wide = self.counts.setdefault(number // 2, [0, 0])
            wide[0] += count[0]
            wide[1] += count[1]


class Flows:
    """Packets by who talks to whom, whichever way they go."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], list[int]] = {}  # packets, dropped ones, those that something is wrong with
        self.others = 0  # packets of flows beyond those that are told apart

    def add(self, flow: tuple[str, str, str], dropped: bool, wrong: bool) -> None:
        """Counts a packet; flow: protocol, source and target."""
        protocol, *ends = flow
        key = (protocol, *sorted(ends))
        count = self.counts.get(key)
        if count is None:
            if len(self.counts) >= _FLOWS_MAX:
                self.others += 1
                return
            count = self.counts[key] = [0, 0, 0]
        count[0] += 1
        count[1] += dropped
        count[2] += wrong


class Kind:
    """All findings of one name."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding  # the first of them
        self.packets = self.roots = 0
        self.places: dict[tuple[str, str], int] = {}  # trace and device
        self.examples: list[Finding] = []
        self._last: Any = None

    def add(self, finding: Finding, packet: Any, place: str) -> None:
        """Counts it; packet: what tells its packet from others."""
        if packet != self._last:
            self.packets += 1
            self._last = packet
        self.roots += finding.root
        if not self.finding.advice:  # what follows from another finding has none
            self.finding = finding
        where = (finding.event.trace, place)
        if where in self.places or len(self.places) < _PLACES_MAX:
            self.places[where] = self.places.get(where, 0) + 1
        told = (finding.told, finding.evidence, finding.doubt)
        if any(told == (each.told, each.evidence, each.doubt) for each in self.examples):
            return
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(finding)
        elif finding.evidence:
            for at, each in enumerate(self.examples):
                if not each.evidence:
                    self.examples[at] = finding
                    break
