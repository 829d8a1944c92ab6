"""From samples to tables, ratios and targets."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Optional

from tabulate import tabulate

BASE = "no tracer"
FLOOR = "empty programs"


class Figure(NamedTuple):
    """The rounds of one measure of one tool."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Results:
    """What was measured on one kernel: figures by part, tool and measure."""

    kernel: str
    figures: Mapping[tuple[str, str, str], Figure]

    @classmethod
    def of(cls, kernel: str, lines: Iterable[str]) -> "Results":
        """From the guest's samples."""
        values: dict[tuple[str, str, str], list[float]] = {}
        for line in lines:
            sample = json.loads(line)
            values.setdefault((sample["part"], sample["tool"], sample["measure"]), []).append(sample["value"])
        return cls(kernel, {key: Figure.of(rounds) for key, rounds in values.items()})

    def get(self, part: str, tool: str, measure: str) -> Optional[float]:
        figure = self.figures.get((part, tool, measure))
        return None if figure is None else figure.median

    def slowdown(self, part: str, tool: str, measure: str, against: str = BASE) -> Optional[float]:
        """How many times as long the same traffic takes."""
        base, value = self.get(part, against, measure), self.get(part, tool, measure)
        return base / value if base and value else None

    def parts(self) -> list[str]:
        return list(dict.fromkeys(part for part, _, _ in self.figures))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        rows = [[*key, *figure] for key, figure in self.figures.items()]
        return {"kernel": self.kernel, "figures": rows}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Results":
        return cls(plain["kernel"], {tuple(row[:3]): Figure(*row[3:]) for row in plain["figures"]})


class Target(NamedTuple):
    """What is to be reached."""

    kernel: str
    what: str
    limit: float
    is_least: bool  # else it is the most that is allowed
    value: Callable[[Results], Optional[float]]


def _most(kernel: str, what: str, limit: float, value: Callable[[Results], Optional[float]]) -> Target:
    return Target(kernel, what, limit, False, value)


def _slow(part: str, tool: str, measure: str, against: str = BASE) -> Callable[[Results], Optional[float]]:
    return lambda results: results.slowdown(part, tool, measure, against)


def _get(part: str, tool: str, measure: str) -> Callable[[Results], Optional[float]]:
    return lambda results: results.get(part, tool, measure)


def _ratio(over: Callable[[Results], Optional[float]], under: Callable[[Results], Optional[float]]) -> Any:
    def value(results: Results) -> Optional[float]:
        top, bottom = over(results), under(results)
        return top / bottom if top is not None and bottom else None

    return value


_UDP, _TCP = "udp_packets_per_s", "tcp_bits_per_s"
_FULL = "matching at full speed"

TARGETS = (
    _most("6.12", "UDP that does not match, slow-down", 1.3, _slow("cost", "nettrace", _UDP)),
    _most("6.12", "the same, against empty programs", 1.15, _slow("cost", "nettrace", _UDP, FLOOR)),
    _most("6.12", "TCP that does not match, slow-down", 1.05, _slow("cost", "nettrace", _TCP)),
    _most("6.1", "UDP that does not match, against empty programs", 1.3, _slow("cost", "nettrace", _UDP, FLOOR)),
    Target("6.12", "packets followed of a full-speed flood in 3 s", 30_000, True, _get(_FULL, "nettrace", "followed")),
    Target("6.1", "packets followed of a full-speed flood in 3 s", 15_000, True, _get(_FULL, "nettrace", "followed")),
    Target("5.10", "packets followed of a full-speed flood in 3 s", 15_000, True, _get(_FULL, "nettrace", "followed")),
    _most("6.12", "reader's CPU a packet, us", 200, _get(_FULL, "nettrace", "cpu_us_per_packet")),
    _most(
        "6.12", "first start, against pwru's", 0.5,
        _ratio(_get("startup", "nettrace, first start", "start_s"), _get("startup", "pwru", "start_s")),
    ),
    _most(
        "6.12", "start from the cache, against the first", 1 / 3,
        _ratio(
            _get("startup", "nettrace, from its cache", "start_s"), _get("startup", "nettrace, first start", "start_s")
        ),
    ),
    _most("6.12", "Ctrl-C to exit, s", 0.5, _get("startup", "nettrace, from its cache", "exit_s")),
    _most("6.1", "Ctrl-C to exit, s", 6.9 / 3, _get("startup", "nettrace, from its cache", "exit_s")),
    _most("6.12", "--drop ready, s", 2, _get("startup", "nettrace --drop", "start_s")),
    _most("6.12", "nettrace -h, s", 0.3, _get("startup", "nettrace -h", "start_s")),
    _most("6.12", "memory at the first start, MiB", 120, _get("startup", "nettrace, first start", "start_mib")),
    _most("6.12", "memory from the cache, MiB", 60, _get("startup", "nettrace, from its cache", "start_mib")),
    *(
        _most("6.12", f"UDP with {mode}, slow-down", limit, _slow("modes", f"nettrace {mode}", _UDP))
        for mode, limit in (
            ("--drop", 1.1), ("--monitor", 1.1), ("--latency", 1.5), ("--latency-summary", 1.5),
            ("--func-stats", 1.5), ("--paths", 1.5),
        )
    ),
)  # fmt: skip


class Row(NamedTuple):
    """A target and what was measured."""

    target: Target
    value: float

    @property
    def met(self) -> bool:
        return self.value >= self.target.limit if self.target.is_least else self.value <= self.target.limit


def judged(results: Iterable[Results]) -> list[Row]:
    """The targets of what was measured."""
    by_kernel = {one.kernel: one for one in results}
    rows = []
    for target in TARGETS:
        value = target.value(by_kernel[target.kernel]) if target.kernel in by_kernel else None
        if value is not None:
            rows.append(Row(target, value))
    return rows


def targets_table(results: Iterable[Results], form: str) -> str:
    rows = [
        (row.target.kernel, row.target.what, f"{'>=' if row.target.is_least else '<='} {_short(row.target.limit)}",
         _short(row.value), "met" if row.met else "NOT MET")
        for row in judged(results)
    ]  # fmt: skip
    return _table(rows, ("kernel", "what", "target", "measured", ""), form)


def part_table(results: Results, part: str, form: str) -> str:
    """A row for each tool: medians, the least and the most in brackets, slow-downs of what is counted in a second."""
    tools = list(dict.fromkeys(tool for one, tool, _ in results.figures if one == part))
    measures = list(dict.fromkeys(measure for one, _, measure in results.figures if one == part))
    rows = []
    for tool in tools:
        row = [tool]
        for measure in measures:
            figure = results.figures.get((part, tool, measure))
            slowdown = results.slowdown(part, tool, measure) if measure.endswith("_per_s") else None
            text = "" if figure is None else f"{_short(figure.median)} ({_short(figure.least)}..{_short(figure.most)})"
            row.append(text if slowdown is None else f"{text} {slowdown:.2f}x")
        rows.append(row)
    return _table(rows, ("", *(_words(measure) for measure in measures)), form)


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], form: str) -> str:
    return str(tabulate(rows, heads, form, disable_numparse=True))


def _words(measure: str) -> str:
    return measure.replace("_per_", "/").replace("_", " ")


def _short(value: float) -> str:
    """With three digits, or as a whole number."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
