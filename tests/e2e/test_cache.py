"""The second start: nothing is compiled or read again, and the filter's numbers are those of that start."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .net import Host, ping
from .tool import Nettrace

OPTIONS = ("-p", "icmp", "-t", "icmp,ip-in")
PINGS = 3


def libraries(trace: Nettrace) -> set[str]:
    """Whose code the process has in its memory."""
    maps = Path(f"/proc/{trace.process.pid}/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in maps if "/" in line}
    return {os.path.basename(path).partition(".")[0].partition("-")[0] for path in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where programs are kept."""
    folder = tmp_path_factory.mktemp("cache") / "programs"
    os.environ["NETTRACE_PROGRAM_CACHE"] = str(folder)
    yield folder
    del os.environ["NETTRACE_PROGRAM_CACHE"]


@pytest.fixture(scope="module")
def first(pair: tuple[Host, Host], folder: Path) -> Nettrace:
    """The run that compiles the programs."""
    left, _ = pair
    with Nettrace(*OPTIONS, "-s", "10.0.42.3") as trace:
        assert ping(left, "10.0.42.3", PINGS)["received"] == PINGS
        trace.wait_blocks(PINGS)
    return trace


def test_a_start_with_other_conditions_compiles_nothing(pair: tuple[Host, Host], folder: Path, first: Nettrace) -> None:
    left, right = pair
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(path.suffix for path in files) == [".programs", ".start", ".tree"]
    with Nettrace(*OPTIONS, "-s", "10.0.42.0/29", "-d", left.ip, "--netns", "left", "--pkt-len", "20-1500") as second:
        # Neither the compiler nor what reads YAML.
        assert not {"libbcc", "libLLVM", "libclang", "libyaml"} & libraries(second)
        assert "libbpf" in libraries(second)
        assert ping(left, right.ip6, PINGS)["received"] == PINGS
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        second.wait_blocks(PINGS)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    for trace, source in ((first, "10.0.42.3"), (second, right.ip)):
        assert len(trace.blocks) == PINGS
        assert all(block.has(f"{source} -> {left.ip} ping reply") for block in trace.blocks)


def test_what_was_tampered_with_is_not_used(pair: tuple[Host, Host], folder: Path, first: Nettrace) -> None:
    left, right = pair
    good = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in good.items():
        path.write_bytes(content[:-100] + bytes(byte ^ 1 for byte in content[-100:]))
    with Nettrace(*OPTIONS, "-s", right.ip, "-v") as trace:
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        trace.wait_blocks(PINGS)
    assert trace.stderr.count("is damaged") == len(good)
    programs = next(path for path in good if path.suffix == ".programs")
    assert programs.read_bytes() == good[programs]
