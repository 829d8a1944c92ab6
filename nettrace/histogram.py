"""Histograms that the programs count: their buckets, percentiles, and a table with bars.

The buckets are log-linear: each power of two is divided into equal parts, so that a bucket is at
most a 16th as wide as its values are large, and its middle at most a 32nd (3.2 %) away from any of them.
"""

import functools
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

_BITS = 4  # of the 2^4 parts that a power of two is divided into
_VALUE_BITS = 40  # larger values count as the largest one
_PARTS = 1 << _BITS
BUCKETS = (_VALUE_BITS - _BITS + 1) << _BITS
BYTES = (BUCKETS + 1) * 8  # behind the buckets comes the sum of the values

# Where there are many histograms: buckets a quarter as wide as their values are large, up to a minute of nanoseconds.
COARSE_BITS = 2
COARSE_VALUE_BITS = 36
COARSE_BUCKETS = (COARSE_VALUE_BITS - COARSE_BITS + 1) << COARSE_BITS

_BAR = 40


def constants() -> dict[str, int]:
    """The names and numbers for bpf/histogram.h."""
    return {
        "HISTOGRAM_BITS": _BITS, "HISTOGRAM_VALUE_BITS": _VALUE_BITS, "HISTOGRAM_BUCKETS": BUCKETS,
        "COARSE_BITS": COARSE_BITS, "COARSE_VALUE_BITS": COARSE_VALUE_BITS, "COARSE_BUCKETS": COARSE_BUCKETS,
    }  # fmt: skip


def bucket(value: int) -> int:
    """The bucket that a value is counted in, as histogram_bucket() in bpf/histogram.h finds it."""
    if value >> _VALUE_BITS:
        return BUCKETS - 1
    shift = max(0, value.bit_length() - 1 - _BITS)
    return (shift << _BITS) + (value >> shift)


def first_of(number: int, bits: int = _BITS) -> int:
    """The least value of a bucket; that of the bucket behind the last one is the end of them all."""
    shift = max(0, (number >> bits) - 1)
    return (number - (shift << bits)) << shift


@functools.cache
def of_coarse(number: int) -> int:
    """The bucket that stands for a coarse one: that of its middle."""
    return bucket((first_of(number, COARSE_BITS) + first_of(number + 1, COARSE_BITS) - 1) // 2)


class Row(NamedTuple):
    """A power of two, and how many values it has."""

    first: int
    last: int
    values: int


@dataclass(frozen=True)
class Histogram:
    """How often values were counted, by bucket."""

    counts: tuple[int, ...]
    sum: int = 0  # of the values

    @classmethod
    def from_bytes(cls, *raw: bytes) -> "Histogram":
        """The sum of what maps hold: for each CPU, or each map, one histogram after the other."""
        numbers = array("Q", b"".join(raw))
        sums = [sum(numbers[number :: BUCKETS + 1]) for number in range(BUCKETS + 1)]
        return cls(tuple(sums[:-1]), sums[-1])

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def percentile(self, percent: float) -> int:
        """The value that so many of all are at most: the middle of its bucket; 0 if there are none."""
        wanted, seen = self.total * percent / 100, 0
        for number, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return (first_of(number) + first_of(number + 1) - 1) // 2
        return 0

    def rows(self) -> list[Row]:
        """The powers of two from the least to the largest value that was counted."""
        counts: dict[int, int] = {}
        for number, count in enumerate(self.counts):
            if count:
                power = first_of(number).bit_length()
                counts[power] = counts.get(power, 0) + count
        if not counts:
            return []
        return [
            Row(1 << power >> 1, max(0, (1 << power) - 1), counts.get(power, 0))
            for power in range(min(counts), max(counts) + 1)
        ]


def table(histogram: Histogram, text: Callable[[int], str]) -> list[str]:
    """A line for each power of two: its values as `text` writes them, how many, the part of all, and a bar."""
    rows = histogram.rows()
    most, total = max((row.values for row in rows), default=0), histogram.total
    width = max((len(text(row.last)) for row in rows), default=0)
    digits = len(str(most))
    return [
        f"  {text(row.first):>{width}} - {text(row.last):>{width}}: {row.values:>{digits}} {row.values / total:6.1%}"
        f" |{'@' * _bar(row.values, most):<{_BAR}}|"
        for row in rows
    ]


def percentiles(histogram: Histogram, text: Callable[[int], str], percents: Iterable[int] = (50, 90, 99)) -> str:
    """The percentiles on one line: `p50 0.1ms  p90 0.2ms`."""
    return "  ".join(f"p{percent} {text(histogram.percentile(percent))}" for percent in percents)


def _bar(count: int, most: int) -> int:
    """How long a bar is; what was counted at all can be seen."""
    return -(-count * _BAR // most) if count else 0
