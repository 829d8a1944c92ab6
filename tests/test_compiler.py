"""Compiling, with a BCC that is played: the real one is not everywhere."""

import logging
import os
from pathlib import Path

import pytest

from nettrace.cache import Cache
from nettrace.compiler import compiled
from nettrace.errors import BpfError, KernelError
from nettrace.objects import MapSpec
from tests.test_objects import FIRST_MAP, FIRST_VALUE, MADE, SECOND_MAP, SECOND_VALUE

# As BCC's Python module: the functions' attributes can be set, and pointers are numbers.
PLAYED = f"""
import ctypes, os, sys

MADE = ctypes.create_string_buffer(bytes.fromhex({MADE.hex()!r}))
TABLES = [(b"a", 2, 4, 4, 1, 0, 6), (b"messages", 4, 4, 8, 0, 0, 5), (b"ring", 27, 4, 8, 4096, 0, 9)]

class lib:
    pass

def column(name, index):
    setattr(lib, name, lambda module, table: TABLES[table][index])

for index, name in enumerate((
    "bpf_table_name", "bpf_table_type_id", "bpf_table_key_size_id", "bpf_table_leaf_size_id",
    "bpf_table_max_entries_id", "bpf_table_flags_id", "bpf_table_fd_id",
)):
    column(name, index)
lib.bpf_num_tables = lambda module: len(TABLES)
lib.bpf_num_functions = lambda module: 1
lib.bpf_function_name = lambda module, number: b"work"
lib.bpf_function_size = lambda module, name: {len(MADE)}
lib.bpf_function_start = lambda module, name: ctypes.addressof(MADE)

class BPF:
    def __init__(self, text, cflags):
        with open(os.environ["COMPILED"], "a") as file:
            file.write(text + " " + os.environ["BCC_KERNEL_SOURCE"] + "\\n")
        os.write(2, b"told by the compiler\\n")
        if "wrong" in text:
            raise Exception("Failed to compile BPF module <text>")
        if "crash" in text:
            os.kill(os.getpid(), 9)
        self.module = 1
"""


@pytest.fixture
def include(tmp_path: Path) -> Path:
    folder = tmp_path / "include"
    (folder / "linux").mkdir(parents=True)
    (folder / "linux" / "types.h").write_text("header\n")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bcc"
    folder.mkdir()
    (folder / "__init__.py").write_text(PLAYED)
    (folder / "libbcc.py").write_text("")
    (folder / "version.py").write_text("__version__ = '0.26.0'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", "programs")


def runs(package: Path) -> list[str]:
    """What was compiled so far."""
    path = package.with_name("compiled")
    return path.read_text().splitlines() if path.exists() else []


def test_what_the_compiler_made(package: Path, include: Path, kept: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    programs = compiled("text", include, kept)
    assert runs(package) == [f"text {include}"]
    # The sizes that the kernel wants, whatever the C side declares.
    assert programs.maps == (
        MapSpec("a", 2, 4, 4, 1, 0), MapSpec("messages", 4, 4, 4, 0, 0), MapSpec("ring", 27, 0, 0, 4096, 0),
    )  # fmt: skip
    assert programs.programs.keys() == {"work"}
    assert programs.programs["work"].maps == ((FIRST_MAP, 0), (SECOND_MAP, 1))
    assert programs.programs["work"].values == ((FIRST_VALUE, 1), (SECOND_VALUE, 2))
    assert capfd.readouterr() == ("", "")


def test_it_is_not_compiled_again(package: Path, include: Path, kept: Cache) -> None:
    first = compiled("text", include, kept)
    assert compiled("text", include, kept) == first
    assert len(runs(package)) == 1


def test_without_a_cache_it_is(package: Path, include: Path) -> None:
    assert compiled("text", include, Cache(None, "programs")) == compiled("text", include, Cache(None, "programs"))
    assert len(runs(package)) == 2


def test_all_that_went_in_counts(package: Path, include: Path, kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled("text", include, kept)
    compiled("other text", include, kept)
    assert len(runs(package)) == 2
    (include / "linux" / "types.h").write_text("other header\n")
    compiled("text", include, kept)
    assert len(runs(package)) == 3
    (package / "version.py").write_text("__version__ = '0.27.0'\n")
    compiled("text", include, kept)
    assert len(runs(package)) == 4
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: (*uname[:2], "another release", *uname[3:]))
    compiled("text", include, kept)
    assert len(runs(package)) == 5


def test_a_damaged_file_is_compiled_again(
    package: Path, include: Path, kept: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = compiled("text", include, kept)
    (path,) = (tmp_path / "cache").iterdir()
    os.truncate(path, 100)
    with caplog.at_level(logging.INFO):
        assert compiled("text", include, kept) == first
    assert "damaged" in caplog.text
    assert compiled("text", include, kept) == first
    assert len(runs(package)) == 2


@pytest.mark.parametrize("text", ["wrong", "crash"])
def test_a_failure_says_why_and_is_not_kept(
    package: Path, include: Path, kept: Cache, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    for _ in range(2):
        with pytest.raises(BpfError, match="compile") as failed:
            compiled(text, include, kept)
        assert "told by the compiler" in failed.value.log
    assert len(runs(package)) == 2
    assert capfd.readouterr() == ("", "")


def test_an_unrelated_package_is_recognised(package: Path, include: Path, kept: Cache) -> None:
    (package / "libbcc.py").unlink()
    with pytest.raises(KernelError, match=r"unrelated.*python3-bpfcc"):
        compiled("text", include, kept)


def test_without_bcc_the_package_is_named(
    include: Path, kept: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(KernelError, match=r"No module named 'bcc'.*python3-bpfcc.*dnf install"):
        compiled("text", include, kept)
