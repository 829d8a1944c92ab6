"""The file of a recording: what is written can be read, whatever becomes of the process, the disk or the file."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nettrace import recording
from nettrace.errors import StreamError, UsageError
from nettrace.recording import FORMAT, Chunk, Writer, chunks, opened


def read(path: Path) -> list[Chunk]:
    with opened(str(path)) as file:
        return [chunk for _, chunk in chunks(file, str(path))]


def read_until_trouble(path: Path) -> tuple[list[Chunk], str]:
    found: list[Chunk] = []
    with opened(str(path)) as file, pytest.raises(StreamError) as trouble:
        for _, chunk in chunks(file, str(path)):
            found.append(chunk)
    return found, str(trouble.value)


CHUNKS: list[Chunk] = [{"n": number, "text": "é€" * number} for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording of CHUNKS."""
    path = tmp_path / "x.ntr"
    with Writer(str(path)) as writer:
        writer.begin()
        for chunk in CHUNKS:
            writer.write(chunk)
    return path


def test_what_was_written_is_read(path: Path) -> None:
    assert read(path) == CHUNKS


@pytest.mark.parametrize(
    ("nasty", "shown"),
    [
        ("a\n\x1b[2J\x9b", "a\\n\\x1b[2J\\x9b"), ("\udc80", "\\udc80"), ("right\u202eleft", "right\\u202eleft"),
        ("back\\slash\u200b", "back\\slash\\u200b"), ("Cönt €\"", "Cönt €\""),
    ],
)  # fmt: skip
def test_nothing_in_it_can_move_the_cursor(tmp_path: Path, nasty: str, shown: str) -> None:
    path = tmp_path / "x.ntr"
    with Writer(str(path)) as writer:
        writer.begin()
        writer.write({"a": [1, {nasty: [nasty, 2]}]})
    assert read(path) == [{"a": [1, {shown: [shown, 2]}]}]


def test_it_is_for_nobody_else_to_read(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_chunk_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.ntr"
    with Writer(str(path)) as writer:
        writer.begin()
        for number, chunk in enumerate(CHUNKS):
            writer.write(chunk)
            assert read(path) == CHUNKS[: number + 1]


def test_what_is_there_is_never_overwritten(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UsageError, match=r"^-w: .*/x\.ntr is there already: remove it, or give another name$"):
        Writer(str(path))
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(UsageError, match="is there already"):
        Writer(str(link))
    assert not target.exists()
    with pytest.raises(UsageError, match=r"cannot be made: No such file or directory$"):
        Writer(str(tmp_path / "no" / "x"))


def test_a_file_that_nothing_was_recorded_in_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Writer(str(tmp_path / "x")):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_off_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for end in range(16, len(data)):
        path.write_bytes(data[:end])
        try:
            found = read(path)
        except StreamError:
            found, trouble = read_until_trouble(path)
            assert f"{path} is cut off at byte " in trouble
        assert found == CHUNKS[: len(found)]
    assert read_until_trouble(path)[0] == CHUNKS[:-1]


def test_a_file_in_which_any_byte_is_wrong(path: Path) -> None:
    data = path.read_bytes()
    for at in range(13, len(data)):
        if at == 13:
            continue  # it is not used
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        found, trouble = read_until_trouble(path)
        assert found == CHUNKS[: len(found)] and trouble.startswith(str(path)) and ". " not in trouble


@pytest.mark.parametrize("data", [b"", b"\x93nettrace", b"\x0a\x0d\x0d\x0a" * 9, b"begin trace...\n" * 9])
def test_foreign_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert read_until_trouble(path) == ([], f"{path} is no recording of nettrace: it does not begin as one")


def test_a_format_to_come(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[14] = FORMAT + 1
    path.write_bytes(data)
    assert f"has format {FORMAT + 1}, and this nettrace reads format {FORMAT}" in read_until_trouble(path)[1]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(UsageError, match="is no file: give the name of a recording"):
            opened(str(tmp_path / name))
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory$"):
        opened(str(tmp_path / "none"))


def test_a_file_that_would_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    with Writer(str(path)) as writer:
        writer.begin()
        writer.write({"noughts": "0" * 10_000})
    assert len(read(path)) == 1
    monkeypatch.setattr(recording, "_JSON_MAX", 9_000)
    assert "is damaged at byte 16" in read_until_trouble(path)[1]


ON_A_FULL_DISK = """
import os, resource, signal, sys
from nettrace.recording import Writer

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
with Writer(sys.argv[1]) as writer:
    writer.begin()
    written = 0
    while writer.error is None:
        writer.write({"n": os.urandom(300).hex()})
        written += 1
    writer.write({"n": "more"})
print(written, writer.error)
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "x"
    # A process of its own: the limit would also hold for the file that the output of these tests may go to.
    done = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, path], stdout=subprocess.PIPE, text=True, check=True)
    written, error = done.stdout.rstrip("\n").split(" ", 1)
    size = path.stat().st_size
    assert size <= 4000
    assert error == f"{path}: File too large after {size} bytes, which can be read"
    assert len(read(path)) == int(written) - 1


def rotated(path: Path, **how: Any) -> None:
    with Writer(str(path), rotate_bytes=1000, **how) as writer:
        writer.head = lambda: [{"head": 1}]
        writer.begin()
        for number in range(20):
            writer.write({"n": number, "noise": os.urandom(100).hex()})
            writer.rotate()


def test_files_of_limited_size(tmp_path: Path) -> None:
    rotated(tmp_path / "x")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["x", "x.1", "x.2", "x.3"]
    numbers = []
    for name in names:
        head, *rest = read(tmp_path / name)
        assert head == {"head": 1}
        numbers += [chunk["n"] for chunk in rest if "n" in chunk]
        assert (tmp_path / name).stat().st_size < 1500
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        if name != names[-1]:
            assert rest[-1] == {"next": names[names.index(name) + 1]}
    assert numbers == list(range(20))


def test_only_the_last_files_are_kept(tmp_path: Path) -> None:
    rotated(tmp_path / "x", rotate_count=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.2", "x.3"]


def test_a_name_that_is_taken_ends_the_recording_in_order(tmp_path: Path) -> None:
    (tmp_path / "x.1").write_text("mine")
    with Writer(str(tmp_path / "x"), rotate_bytes=1) as writer:
        writer.begin()
        writer.write({"n": 1})
        writer.rotate()
    assert "x.1 is there already" in str(writer.error)
    assert (tmp_path / "x.1").read_text() == "mine"


def test_few_bytes_are_no_reason_to_take_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.ntr"
    with Writer(str(path)) as writer:
        writer.begin()
        writer.write({"n": 1})
        writer.write({"x": [[]] * 3_000_000})  # 200 MB
    assert path.stat().st_size < 50_000
    found, trouble = read_until_trouble(path)
    assert found == [{"n": 1}] and "is damaged at byte" in trouble
