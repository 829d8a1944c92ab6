"""What runs on the kernels under test recorded, by tests/e2e/test_recording.py: through all that shows it, anywhere."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import nettrace
from nettrace import cli, rules, tree
from nettrace.columns import SHAPES, Decoder, encode
from nettrace.errors import StreamError
from nettrace.lifecycle import Lifecycle
from nettrace.recording import Writer, chunks, opened
from nettrace.rules import Rules
from nettrace.tree import Tree
from tests.e2e.tool import parse_blocks

from . import schema
from .many import Records
from .test_replay import replayed

FOLDER = Path(__file__).parent / "data" / "recordings"
VERSIONS = sorted(folder.name for folder in FOLDER.iterdir())
CLOSED = 6043  # the port that nobody listened on


@pytest.fixture(autouse=True)
def read_once(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_packet_has_its_whole_path(version: str) -> None:
    with nettrace.open(str(FOLDER / version / "diag.ntr")) as recording:
        packets = list(recording)
        assert recording.summary is not None and recording.summary.shown == len(packets) > 5
        assert recording.summary.events == sum(len(each.events) for each in packets)
        known = {trace.name for trace in recording.header.traces}
    for each in packets:
        assert not each.missing and not each.unfinished
        assert {item.trace for item in each.events} <= known
        times = [item.time_ns for item in each.events]
        assert times == sorted(times)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_order_of_messages_changes_no_packet(version: str) -> None:
    taken = Records()
    with nettrace.open(str(FOLDER / version / "diag.ntr")) as recording:
        recording.feed(taken)
    forward, backward = Lifecycle(), Lifecycle()
    there = [context for record in taken.records for context in forward.push(record)]
    back = [context for record in reversed(taken.records) for context in backward.push(record)]
    assert sorted(there) == sorted(back)


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_again_it_is_the_same(version: str) -> None:
    taken = Records()
    with nettrace.open(str(FOLDER / version / "diag.ntr")) as recording:
        recording.feed(taken)
        traces = [trace.name for trace in recording.header.traces]
    chunk = encode(taken.records, {name: number for number, name in enumerate(traces)})
    assert Decoder(traces, SHAPES).records(chunk) == taken.records


@pytest.mark.parametrize("version", VERSIONS)
def test_the_packet_that_died_is_found(version: str) -> None:
    with nettrace.open(str(FOLDER / version / "diag.ntr")) as recording:
        roots = Counter(
            (finding.name, finding.event.packet.l4[2:4])
            for each in recording
            for finding in recording.findings(each)
            if finding.root
        )
    # Linux 5.10 gives no reason; that the sender is told so is one.
    assert len(roots) == 1
    ((name, port), _) = roots.popitem()
    assert name == ("icmp-port-unreachable" if version == "5.10" else "NO_SOCKET")
    assert int.from_bytes(port, "big") == CLOSED


@pytest.mark.parametrize(
    "arguments", [[], ["--detail"], ["--ret"], ["--latency-show", "--tiny-show"], ["--date"]], ids=str
)
@pytest.mark.parametrize("version", VERSIONS)
def test_text_is_as_tests_read_it(version: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = replayed(FOLDER / version / "diag.ntr", monkeypatch, *arguments)
    first, *lines = text.splitlines()
    assert first == "begin trace..." and lines[-1] == "end trace..."
    blocks = parse_blocks(lines[:-1])
    assert len(blocks) > 5 and all(block.lines for block in blocks)


@pytest.mark.parametrize("mode", ["diag", "drop", "basic"])
@pytest.mark.parametrize("version", VERSIONS)
def test_json_is_as_the_schema_has_it(version: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--diag-keep"] if mode == "diag" else []
    # The run of --basic was killed.
    status = 1 if mode == "basic" else 0
    text = replayed(FOLDER / version / f"{mode}.ntr", monkeypatch, "--json", *arguments, status=status)
    lines = [schema.check_line(line) for line in text.splitlines()]
    assert lines[0]["type"] == "header" and len(lines) > 2
    assert (lines[-1]["type"] == "summary") == (mode != "basic")


@pytest.mark.parametrize("version", VERSIONS)
def test_drops_have_their_call_stack(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = replayed(FOLDER / version / "drop.ntr", monkeypatch, "--detail")
    assert "Call Stack:" in text and text.count("    -> [") > 10 and "(no symbol)" not in text


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_killed_run_had_seen(version: str) -> None:
    seen = []
    with nettrace.open(str(FOLDER / version / "basic.ntr")) as recording, pytest.raises(StreamError, match="no end"):
        for each in recording:
            seen += each.events
    assert {"icmp_rcv", "icmp_echo"} <= {item.trace for item in seen}


def test_a_recording_that_somebody_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With right checksums, and a value that is not what it should be somewhere."""
    source = str(FOLDER / "6.12" / "diag.ntr")
    with opened(source) as file:
        text = json.dumps([chunk for _, chunk in chunks(file, source)])
    choose = random.Random(5)
    for number in range(60):
        made_up: list[Any] = json.loads(text)
        place: Any = choose.choice(made_up)
        while choose.random() < 0.8 or len(place) == 0:
            inner = [each for each in (place.values() if isinstance(place, dict) else place) if each and is_box(each)]
            if not inner:
                break
            place = choose.choice(inner)
        key = choose.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[key] = choose.choice([None, -1, 0, 1 << 70, "x", [], {}, 1.5, [[]]])
        path = tmp_path / str(number)
        with Writer(str(path)) as writer:
            writer.begin()
            for chunk in made_up:
                writer.write(chunk)
        monkeypatch.setattr("sys.stdout", io.StringIO())
        if cli.main(["-r", str(path), "--diag-keep", "--ret", *choose.choice([[], ["--json"]])]):
            assert capsys.readouterr().err.splitlines()[-1].startswith(f"nettrace: {path} ")


def is_box(value: Any) -> bool:
    return isinstance(value, (dict, list))
