"""JSON lines: as the schema has them, and with all that text shows."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from nettrace import coverage, files, jsonlines, tree, view
from nettrace.diagnosis import Finding
from nettrace.event import Context, Event
from nettrace.jsonlines import JsonLines
from nettrace.kernel import Kernel
from nettrace.player import Player
from nettrace.rules import Rules
from nettrace.sinks import Display, Text

from . import schema
from .test_replay import RUNS, SUMMARY, Changing, asked_for, header_of, meanings, play
from .test_sinks import KNOWN

__all__ = ["meanings"]  # a fixture


def shown(mode: str, meanings: Rules, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(Changing, "netns", lambda self, inode: "blue")
    monkeypatch.setattr(Changing, "owner", lambda self, inode: ("curl", 5))
    header = header_of(mode)
    asked = asked_for(*arguments)
    display = replace(view.display_of(asked, header), utc_offset_s=0)
    sink = view.sink_of(asked, header, Changing(), meanings, display, out)
    sink.begin(header)
    play(mode, Player(sink, follow=mode == "packets"))
    sink.end(SUMMARY)
    return out.getvalue()


def objects(text: str) -> list[dict[str, Any]]:
    return [schema.check_line(line) for line in text.splitlines()]


@pytest.mark.parametrize("mode", RUNS)
def test_each_line_is_as_the_schema_has_it(mode: str, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = objects(shown(mode, meanings, monkeypatch, "--json"))
    assert (lines[0]["type"], lines[-1]["type"]) == ("header", "summary")
    assert len(lines) > 3 or mode in ("latency-summary", "paths")


def test_the_coverage_is_as_the_schema_has_it(kernels: dict[str, Kernel]) -> None:
    for kernel in kernels.values():
        known = tree.load(files.TREE)
        plain = schema.check_line(jsonlines.coverage_line(coverage.of(known, kernel, multi=False)))
        assert len(plain["traces"]) == len(known.traces())
        assert any(trace["missing"] for trace in plain["traces"])


def words(value: Any) -> list[str]:
    """All that an object says."""
    if isinstance(value, dict):
        return [word for each in value.values() for word in words(each)]
    if isinstance(value, list):
        return [word for each in value for word in words(each)]
    return [str(value)]


# What text says of its own accord, and numbers that it writes in another way.
OF_TEXT = re.compile(
    r"[*\[\]():,~>-]+|0x[0-9a-f]+|-?[\d.]+m?s|latency|total|reason|return|after|clone|unfinished|incomplete|this|packet"
    r"|was|not|seen|to|be|freed|part|of|s|path|lost|task|ns|sk|cpu|mark|len|Call|Stack|no symbol|no|symbol|begin|end"
    r"|trace|ANALYSIS|RESULT|happens|in|most|likely|the|root|cause|WARNING|ERROR|at|evidence|fix|advice|inferred|good"
    r"|is|a|nothing|wrong|but|known|known|events|function|statistics|drop|location|[a-z]"
)


def test_all_that_text_shows_is_there(meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--diag-keep", "--detail", "--ret", "--latency-show", "-o", "group,mark,len"]
    text = shown("packets", meanings, monkeypatch, *options).replace("end trace...\n", "")
    blocks = text.split("***************** ")[1:]
    packets = [one for one in objects(shown("packets", meanings, monkeypatch, "--json", *options[:1]))
               if one["type"] == "packet"]  # fmt: skip
    assert len(blocks) == len(packets)
    for block, one in zip(blocks, packets):
        told = " ".join(words(one))
        told += " ".join(f"{int(skb, 16) & 0xFFFFFFFF:08x}" for skb in one["skbs"])
        told += " ".join(hex(int(number)) for number in re.findall(r"\b\d+\b", told))
        for line in block.splitlines():
            # The time of day and since boot: microseconds in text.
            line = re.sub(r"^\[(\d+)\.(\d{6})\]", "", line)
            for word in re.findall(r"[\w.+]+(?:->[\w.]+)?", line):
                if not OF_TEXT.fullmatch(word):
                    assert word.lower() in told.lower() or word.split("+")[0] in told, (word, line)
        for step, line in zip(one["steps"], [line for line in block.splitlines() if line.startswith("[5")]):
            ns = int(step["time_ns"])
            assert line.startswith(f"[{ns // 10**9}.{ns // 1000 % 10**6:06d}]")


def test_what_text_hides_is_there_all_the_same(meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = objects(shown("packets", meanings, monkeypatch, "--json"))
    steps = [step for line in lines if line["type"] == "packet" for step in line["steps"]]
    # None of --detail, --ret and --diag was given.
    assert {step["returned"]["text"] for step in steps if step["returned"]} == {"-EPERM (dropped)"}
    assert any(step["detail"]["owner"] == {"name": "curl", "pid": 5} for step in steps if step["detail"])
    assert {step["drop"]["reason_name"] for step in steps if step["drop"]} == {"NO_SOCKET"}
    assert all(line["findings"] is None for line in lines if line["type"] == "packet")
    assert {step["change"] for step in steps} == {None, "NAT: destination 10.0.0.2:443 -> 192.168.0.2:443"}
    assert {step["made"] for step in steps} == {None, "clone"}


def test_times_are_those_of_the_clock(meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = [
        line for line in objects(shown("events", meanings, monkeypatch, "--json")) if line["type"] == "event"
    ][4:6]
    assert before["steps"][0]["time"] == "2023-11-14T23:36:40.123456794Z"
    # The clock was set in between.
    assert after["steps"][0]["time"].startswith("2001-09-09T03:10:07.")


def test_an_error_ends_a_run_if_that_was_waited_for() -> None:
    item = Event(1, "kfree_skb", 7, RUNS["packets"][1].events[0].packet)  # type: ignore[union-attr]
    bad = Finding(item, "error", "x", "y")
    sink = JsonLines(io.StringIO(), Display(), KNOWN, lambda context: [bad], quiet=True, keep=False)
    assert not sink.done
    sink.context(Context(1, (7,), (item,), False, False))
    assert sink.done


def test_names_cannot_break_a_line() -> None:
    out = io.StringIO()
    step = RUNS["packets"][1].events[0]  # type: ignore[union-attr]
    nasty = step._replace(device=step.device._replace(name="a\n\x1b\udc80"))
    JsonLines(out, Display(), KNOWN).events([nasty])
    (line,) = out.getvalue().splitlines()
    assert line.isascii() and json.loads(line)["steps"][0]["device"]["name"] == "a\n\x1b\udc80"


def test_text_and_json_take_the_same_time(meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    sink, text = JsonLines(out, Display(), KNOWN), Text(io.StringIO(), Display(), KNOWN)
    events = RUNS["packets"][1].events  # type: ignore[union-attr]
    assert sink.duration_ns(events) == text.duration_ns(events)
