"""What is kept of too much."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import random
from typing import Any

import pytest

from nettrace import choice
from nettrace.choice import Choice


def offer(kept: Choice, name: Any, took_ns: int, *kinds: tuple[Any, int]) -> None:
    kept.offer([("any", 16), *kinds], took_ns, lambda: name)


def test_all_is_kept_as_long_as_there_is_room() -> None:
    kept = Choice(6, 4)
    for number in range(6):
        offer(kept, number, 0)
    assert kept.kept() == [0, 1, 2, 3, 4, 5]


def test_a_rare_kind_that_comes_late_is_kept() -> None:
    kept = Choice(3, 1)
    for number in range(1000):
        offer(kept, number, 1000 - number, ("rare" if number == 900 else "usual", 8))
    # The slowest is the first one.
    assert kept.kept() == [0, 1, 900]


def test_what_costs_less_is_kept_before_the_first_of_what_costs_more() -> None:
    kept = Choice(5, 1)
    for number in range(100):
        offer(kept, ("path", number), 100 - number, (number, 8))
    for number in range(9):
        offer(kept, ("error", number), 0, ("error", 1))
    assert kept.kept() == [("path", 0), *(("error", number) for number in range(5))]


def test_the_slowest_are_kept_whatever_they_are() -> None:
    choose = random.Random(3)
    times = [choose.randrange(10**9) for _ in range(500)]
    kept = Choice(2, 5)
    for number, took_ns in enumerate(times):
        offer(kept, number, took_ns, ("usual", 1))
    slowest = sorted(range(500), key=lambda number: -times[number])[:5]
    assert kept.kept() == sorted({0, 1, *slowest})


def test_nothing_is_made_for_what_is_not_kept() -> None:
    kept = Choice(2, 1)
    for number in range(100):
        kept.offer([("any", 1)], 0, lambda number=number: number if number < 3 else pytest.fail("too late"))
    assert kept.kept() == [0, 1]


def test_kinds_are_told_apart_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_KINDS_MAX", 5)
    kept = Choice(3, 1)
    for number in range(100):
        kept.offer([(number, 1)], 0, lambda number=number: number)
    assert kept.kept() == [0, 1, 2] and len(kept._met) == 5
