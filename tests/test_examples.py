"""What is in examples/ does what it says."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from . import edited

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def check_flow(path: object, address: str, results: Path) -> tuple[int, str, ElementTree.Element]:
    done = run(EXAMPLES / "check_flow.py", path, address, results)
    assert done.stderr == ""
    return done.returncode, done.stdout, ElementTree.parse(results).getroot()


def test_all_of_them_are_known() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert names == {"check_flow.py", "flow.yaml"}
    for name in names:
        assert f"examples/{name}" in README


@pytest.mark.parametrize("version", ["5.10", "6.12", "7.2"])
def test_a_flow_as_it_should_be(version: str, tmp_path: Path) -> None:
    recording = edited.FOLDER / version / "diag.ntr"
    status, output, suite = check_flow(recording, "10.0.42.2", tmp_path / "x.xml")
    assert (status, output) == (0, "1 packets, 0 not as expected\n")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    done = run("-m", "nettrace", "-r", recording, "--assert", EXAMPLES / "flow.yaml", "--junit", tmp_path / "y.xml")
    assert done.returncode == 0, done.stdout
    assert ElementTree.parse(tmp_path / "y.xml").getroot().get("failures") == "0"


def test_a_flow_that_took_another_path(tmp_path: Path) -> None:
    packets = [
        edited.without(each, "icmp_rcv") if edited.is_ping(each) else each for each in edited.packets()
    ]  # fmt: skip
    recording = edited.write(tmp_path / "bad.ntr", packets)
    status, output, suite = check_flow(recording, "10.0.42.2", tmp_path / "x.xml")
    assert (status, output) == (1, "1 packets, 1 not as expected\n")
    failure = suite.find(".//failure")
    assert failure is not None and failure.text is not None and "ping request" in failure.text
    done = run("-m", "nettrace", "-r", recording, "--assert", EXAMPLES / "flow.yaml")
    assert done.returncode == 1
    assert "it did not pass icmp_rcv after veth_xmit" in done.stdout


def test_a_flow_that_was_not_there(tmp_path: Path) -> None:
    assert check_flow(edited.DIAG, "10.0.99.99", tmp_path / "x.xml")[:2] == (1, "0 packets, 0 not as expected\n")
