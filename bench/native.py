"""Replaying without a kernel: events a second of each way to show a recording, memory, and where the time goes.

make bench-native; recordings of EVENTS events are made of the tests' recordings, over and over. A second is one of the
CPU, and the best of several rounds counts: what else the machine does is none of the program's.
"""

import contextlib
import cProfile
import os
import pstats
import subprocess
import sys
import time
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
CHUNK = 1000  # events that a run with much to do shows, and writes, at a time
ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "tests" / "data" / "recordings" / "6.12"
WAYS = {
    "text": ("good", []),
    "text with dates and latencies": ("good", ["--date", "--latency-show"]),
    "text with --detail": ("good", ["--detail"]),
    "diagnosis": ("good", ["--diag"]),
    "json": ("good", ["--json"]),
    "latency": ("good", ["--latency"]),
    "latency-summary": ("good", ["--latency-summary"]),
    "paths": ("good", ["--paths"]),
    "drops with their stacks": ("drop", []),
}
Recorded = Callable[[str, int], Path]

PEAK = """
import sys
from nettrace import cli
cli.main(sys.argv[1:])
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


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
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Makes a large recording of a small one, once."""
    folder = tmp_path_factory.mktemp("bench")

    def of(model: str, events: int) -> Path:
        path = folder / f"{model}-{events}.ntr"
        if not path.exists():
            multiply(MODELS / f"{model}.ntr", events, path)
        return path

    return of


def multiply(model: Path, events: int, path: Path) -> None:
    copier = Copier()
    with Recording(str(model)) as source:
        source.feed(copier)
        times = [event.time_ns for record in copier.records for event in record.events]
        period_ns = max(times) - min(times) + 1000
        with Writer(str(path)) as writer:
            recorder = Recorder(writer, source.host)
            recorder.begin(source.header, source.meanings)
            for turn in range(-(-events // len(times))):
                for record in copier.records:
                    recorder.push(later(record, turn, period_ns))
                if (turn + 1) * len(times) // CHUNK != turn * len(times) // CHUNK:
                    recorder.flush()
            assert source.summary is not None
            recorder.end(source.summary)


def replay(recording: Path, options: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        assert cli.main(["-r", str(recording), *options]) == 0


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("way", WAYS)
def test_replay(way: str, recorded: Recorded, benchmark: Callable[..., None]) -> None:
    model, options = WAYS[way]
    benchmark.pedantic(replay, (recorded(model, EVENTS), options), rounds=5)  # type: ignore[attr-defined]
    took_s = benchmark.stats.stats.min  # type: ignore[attr-defined]
    print(f"\n{way}: {EVENTS / took_s:,.0f} events/s", file=sys.__stdout__)


@pytest.mark.parametrize("events", [119, EVENTS // 10, EVENTS])
@pytest.mark.parametrize("way", ["text", "json", "paths"])
def test_memory(way: str, events: int, recorded: Recorded) -> None:
    """As long as no more packets are open, it does not matter how many there were."""
    model, options = WAYS[way]
    command = [sys.executable, "-c", PEAK, "-r", str(recorded(model, events)), *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    print(f"\n{way}, {events:,} events: {int(done.stderr.split()[-1]) / 1024:.1f} MB", file=sys.__stdout__)


def test_profile(recorded: Recorded) -> None:
    profile = cProfile.Profile()
    profile.runcall(replay, recorded("good", EVENTS), [])
    print("\ntext, the functions that take most:", file=sys.__stdout__)
    pstats.Stats(profile, stream=sys.__stdout__).sort_stats("tottime").print_stats(8)
