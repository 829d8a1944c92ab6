"""The examples of CONTRIBUTING: what it says to write is written into a copy, and what it runs prints what it says."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"# (?P<file>\S+), (?:behind (?P<name>\w+)|at the end)\n")


def write(folder: Path, text: str) -> None:
    """Puts the lines of a block where its first line says."""
    place = PLACE.match(text)
    assert place, text
    file = folder / place["file"]
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    at = len(lines)
    if place["name"]:
        (at,) = (number for number, line in enumerate(lines, 1) if line.strip().startswith(f"{place['name']}:"))
    file.write_text("".join([*lines[:at], text[place.end() :], *lines[at:]]), encoding="utf-8")


def test_the_examples_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "tracer.yaml", tmp_path)
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for at, (language, text) in enumerate(BLOCKS):
        if language == "yaml":
            write(tmp_path, text)
        elif language == "python":
            exec(compile(text, f"CONTRIBUTING.md, block {at}", "exec"), {"__name__": "example"})
            assert (BLOCKS[at + 1][0], capsys.readouterr().out) == ("text", BLOCKS[at + 1][1])
            ran += 1
    assert ran == len(re.findall(r"^## A new (?:trace|rule|analyzer|sink)$", TEXT, re.MULTILINE)) == 4
