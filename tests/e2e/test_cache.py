"""The second start: nothing is compiled, and the filter's numbers are those of that start."""

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
    (file,) = folder.iterdir()
    written_ns = file.stat().st_mtime_ns
    with Nettrace(*OPTIONS, "-s", "10.0.42.0/29", "-d", left.ip, "--netns", "left", "--pkt-len", "20-1500") as second:
        assert not {"libbcc", "libLLVM", "libclang"} & libraries(second)
        assert "libbpf" in libraries(second)
        assert ping(left, right.ip6, PINGS)["received"] == PINGS
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        second.wait_blocks(PINGS)
    assert [path.name for path in folder.iterdir()] == [file.name]
    assert file.stat().st_mtime_ns == written_ns
    for trace, source in ((first, "10.0.42.3"), (second, right.ip)):
        assert len(trace.blocks) == PINGS
        assert all(block.has(f"{source} -> {left.ip} ping reply") for block in trace.blocks)


def test_programs_that_were_tampered_with_are_not_loaded(
    pair: tuple[Host, Host], folder: Path, first: Nettrace
) -> None:
    left, right = pair
    (file,) = folder.iterdir()
    good = file.read_bytes()
    # The digit of an instruction.
    at = good.index(b'"work": ["') + 100
    file.write_bytes(good[:at] + (b"1" if good[at : at + 1] == b"0" else b"0") + good[at + 1 :])
    with Nettrace(*OPTIONS, "-s", right.ip, "-v") as trace:
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        trace.wait_blocks(PINGS)
    assert "is damaged" in trace.stderr
    assert file.read_bytes() == good
