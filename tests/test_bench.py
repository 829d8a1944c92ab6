"""The benchmarks' arithmetic and tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import page, results
from bench.__main__ import text
from bench.results import Results


def sample(part: str, tool: str, measure: str, value: float, turn: int = 0) -> str:
    return json.dumps({"part": part, "tool": tool, "measure": measure, "value": value, "round": turn})


UDP = "udp_packets_per_s"
COST = [
    *(sample("cost", "no tracer", UDP, value, turn) for turn, value in enumerate((9_000, 12_000, 10_000))),
    *(sample("cost", "empty programs", UDP, value, turn) for turn, value in enumerate((8_000, 8_000, 8_000))),
    *(sample("cost", "nettrace", UDP, value, turn) for turn, value in enumerate((5_000, 4_000, 8_000))),
]


def test_a_figure_is_the_median_of_its_rounds() -> None:
    made = Results.of("6.12", COST)
    assert made.figures["cost", "no tracer", UDP] == (10_000, 9_000, 12_000)
    assert made.slowdown("cost", "nettrace", UDP) == 2
    assert made.slowdown("cost", "nettrace", UDP, results.FLOOR) == 1.6
    assert made.slowdown("cost", "pwru", UDP) is None


def test_targets_are_judged_by_what_was_measured_on_their_kernel() -> None:
    rows = results.judged([Results.of("6.12", COST)])
    assert [(row.target.what, row.value, row.met) for row in rows] == [
        ("UDP that does not match, slow-down", 2, False),
        ("the same, against empty programs", 1.6, False),
    ]
    flood = [sample("matching at full speed", "nettrace", "followed", 40_000)]
    assert [row.met for row in results.judged([Results.of("6.12", flood)])] == [True]
    assert results.judged([Results.of("7.2", COST)]) == []


def test_the_tables_can_be_read() -> None:
    shown = text([Results.of("6.12", COST)])
    assert "nettrace        5,000 (4,000..8,000) 2.00x" in shown
    assert "6.12      UDP that does not match, slow-down  <= 1.3    2           NOT MET" in shown


def test_the_page_keeps_what_was_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import date

    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "FIGURES", tmp_path / "performance.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    startup = [sample("startup", "nettrace -h", "start_s", 0.25)]
    page.keep([Results.of("6.12", [*COST, *startup])], "abc", date(2026, 1, 2))
    page.keep([Results.of("6.12", [sample("startup", "nettrace -h", "start_s", 0.35)])], "def", date(2026, 1, 3))
    kept: dict[str, Any] = json.loads((tmp_path / "performance.json").read_text())["6.12"]
    assert kept["cost"]["commit"] == "abc" and kept["startup"]["commit"] == "def"
    written = (tmp_path / "performance.md").read_text()
    assert "### cost, Linux 6.12 (2026-01-02, commit abc)" in written and "0.35 (0.35..0.35)" in written
    assert "@" not in written.replace("@@", "")
