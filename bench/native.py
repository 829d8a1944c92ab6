"""Replaying without a kernel: events a second of each way to show a recording, and where the time goes.

make bench-native; a recording of EVENTS events is made of one of the tests' recordings, over and over.
"""

import contextlib
import cProfile
import os
import pstats
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nettrace import cli
from nettrace.event import Record
from nettrace.recorder import Recorder
from nettrace.recording import Writer
from nettrace.replay import Recording

EVENTS = int(os.environ.get("EVENTS", "1000000"))
MODEL = Path(__file__).resolve().parents[1] / "tests" / "data" / "recordings" / "6.12" / "good.ntr"
WAYS = {
    "text": [],
    "text, in detail": ["--date", "--latency-show"],
    "json": ["--json"],
    "diagnosis": ["--diag"],
    "latency-summary": ["--latency-summary"],
    "paths": ["--paths"],
}


class Copier:
    """Takes the records of a recording."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def push(self, record: Record) -> None:
        self.records.append(record)

    def ignore(self, _: Any) -> None:
        """What comes between the records does not matter."""

    expire = close = gap = table = clock = ignore


def later(record: Record, turn: int, period_ns: int) -> Record:
    """The same packet once more, as another one."""
    ids, ns = turn << 40, turn * period_ns
    return record._replace(
        packet_id=record.packet_id + ids,
        record_id=record.record_id + ids,
        parent_id=record.parent_id and record.parent_id + ids,
        events=tuple(event._replace(time_ns=event.time_ns + ns) for event in record.events),
        returned=tuple((number, told._replace(time_ns=told.time_ns + ns)) for number, told in record.returned),
    )


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large recording of followed packets."""
    copier = Copier()
    with Recording(str(MODEL)) as source:
        source.feed(copier)
        times = [event.time_ns for record in copier.records for event in record.events]
        path = tmp_path_factory.mktemp("bench") / "large.ntr"
        with Writer(str(path)) as writer:
            recorder = Recorder(writer, source.host)
            recorder.begin(source.header, source.meanings)
            for turn in range(-(-EVENTS // len(times))):
                for record in copier.records:
                    recorder.push(later(record, turn, max(times) - min(times) + 1000))
                recorder.flush()
            assert source.summary is not None
            recorder.end(source.summary)
    return path


def replay(recording: Path, options: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        assert cli.main(["-r", str(recording), *options]) == 0


@pytest.mark.parametrize("way", WAYS)
def test_replay(way: str, recording: Path, benchmark: Callable[..., None]) -> None:
    benchmark.pedantic(replay, (recording, WAYS[way]), rounds=3)  # type: ignore[attr-defined]
    took_s = benchmark.stats.stats.median  # type: ignore[attr-defined]
    print(f"\n{way}: {EVENTS / took_s:,.0f} events/s", file=sys.__stdout__)


def test_profile(recording: Path) -> None:
    profile = cProfile.Profile()
    profile.runcall(replay, recording, [])
    print("\ntext, the functions that take most:", file=sys.__stdout__)
    pstats.Stats(profile, stream=sys.__stdout__).sort_stats("tottime").print_stats(8)
