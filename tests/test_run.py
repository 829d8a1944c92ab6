"""When a reader is shown what a run saw: at once, also where more waits to be handled."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Callable, Optional, TextIO

import pytest

from nettrace import run
from nettrace.anonymous import Anonymiser
from nettrace.diagnosis import Finding
from nettrace.event import COUNTERS, Context
from nettrace.jsonlines import JsonLines
from nettrace.run import Run
from nettrace.settings import Settings
from nettrace.sinks import Display, Lookups, Text

from .test_decode import CLIENT, IP_RCV, SERVER, packet, record, step


def message(number: int) -> bytes:
    """A packet of its own, which is freed."""
    return record(
        packet(CLIENT, SERVER), step(1000 * number, IP_RCV), packet_id=number, record_id=number, sequence=number
    )


class Given:
    """A session that is given its messages; before each poll after the first, something is looked at."""

    def __init__(self, batches: Sequence[Sequence[bytes]], look: Callable[[int], None] = lambda _: None) -> None:
        self._batches = batches
        self._look = look
        self.polls = 0

    def poll(self, timeout_ms: int) -> Sequence[bytes]:
        if self.polls:
            self._look(self.polls)
        self.polls += 1
        return self._batches[self.polls - 1]

    def counters(self) -> list[dict[str, int]]:
        return [dict.fromkeys(COUNTERS, 0)]


@contextmanager
def piped() -> Iterator[tuple[TextIO, Callable[[], list[str]]]]:
    """A pipe: its one end to write to, and what gives the ids of the packets that can be read at the other one."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    with open(ends[1], "w", encoding="utf-8") as out, open(ends[0], "rb") as reader:
        yield out, lambda: [json.loads(line)["id"] for line in (reader.read() or b"").splitlines()]


def running(session: Any, out: TextIO, findings: Callable[[Context], Sequence[Finding]]) -> Run:
    return run_of(session, JsonLines(out, Display(), Lookups(), findings))


def run_of(session: Any, sink: Text, anonymiser: Optional[Anonymiser] = None) -> Run:
    what: Any = SimpleNamespace(tracepoints=[], facts=())
    return Run(session, what, {IP_RCV: "ip_rcv"}, Settings(), sink, count=None, join_clones=True, anonymiser=anonymiser)


def test_a_reader_has_the_line_of_a_packet_before_the_next_one_is_sent() -> None:
    seen: list[list[str]] = []
    with piped() as (out, read):
        session = Given([[message(0)], [message(1)], []], lambda _: seen.append(read()))
        shown = running(session, out, lambda _: ())
        for _ in range(3):
            shown.step()
    assert seen == [["0"], ["1"]]


def test_no_line_waits_for_the_evidence_of_all_packets_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    now_ns = time.monotonic_ns()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic_ns=lambda: now_ns, time_ns=time.time_ns))

    def take_long(_: Context) -> Sequence[Finding]:
        nonlocal now_ns
        seen.append(read())
        now_ns += 500_000_000
        return ()

    with piped() as (out, read):
        running(Given([[message(number) for number in range(4)]]), out, take_long).step()
        seen.append(read())
    assert seen == [[], ["0"], ["1"], ["2"], ["3"]]


def test_no_address_is_shown_where_others_are_asked_for() -> None:
    """Nor of the usual packets, which have a way of their own to the terminal."""
    for anonymiser in (None, Anonymiser(bytes(32))):
        out = io.StringIO()
        sink = Text(out, Display(), Lookups())
        assert sink.is_plain
        run_of(Given([[message(number) for number in range(4)]]), sink, anonymiser).step()
        assert out.getvalue().count("10.0.0.2") == (4 if anonymiser is None else 0)
        assert out.getvalue().count("ICMP: 10.") == 4
