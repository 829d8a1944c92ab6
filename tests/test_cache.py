"""The cache against all that could be in its place."""

import logging
import os
import stat
from pathlib import Path

import pytest

from nettrace import cache
from nettrace.cache import FILES_MAX, Cache, key

NAME, OTHER = key(b"one"), key(b"other")
CONTENT = b"programs" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def file(folder: Path) -> Path:
    """Of what is stored as NAME."""
    Cache(folder, "programs").store(NAME, CONTENT)
    (path,) = folder.iterdir()
    return path


def test_what_was_stored_is_loaded(folder: Path) -> None:
    kept = Cache(folder, "programs")
    assert kept.load(NAME) is None
    kept.store(NAME, CONTENT)
    kept.store(OTHER, b"")
    assert kept.load(NAME) == CONTENT
    assert kept.load(OTHER) == b""


def test_a_new_version_replaces_the_old_one(folder: Path, file: Path) -> None:
    Cache(folder, "programs").store(NAME, b"new")
    assert Cache(folder, "programs").load(NAME) == b"new"
    assert list(folder.iterdir()) == [file]


def test_nobody_else_can_read_or_write(folder: Path, file: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_names_tell_all_parts_apart() -> None:
    names = [key(), key(b""), key(b"ab"), key(b"a", b"b"), key(b"ab", b""), key(b"b", b"a")]
    assert len(set(names)) == len(names)
    assert key(b"a", b"b") == key(b"a", b"b")


@pytest.mark.parametrize("at", [0, 10, 30, -1])
def test_a_changed_byte_is_found(folder: Path, file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert Cache(folder, "programs").load(NAME) is None


@pytest.mark.parametrize("size", [0, 1, 40, 52, 100])
def test_a_cut_file_is_found(folder: Path, file: Path, size: int) -> None:
    os.truncate(file, size)
    assert Cache(folder, "programs").load(NAME) is None


def test_a_longer_file_is_found(folder: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    assert Cache(folder, "programs").load(NAME) is None


def test_a_file_of_another_name_is_not_taken(folder: Path, file: Path) -> None:
    file.rename(file.with_name(file.name.replace(NAME, OTHER)))
    assert Cache(folder, "programs").load(OTHER) is None


def test_a_damaged_file_is_written_anew_and_told(folder: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(b"damaged")
    with caplog.at_level(logging.INFO):
        assert Cache(folder, "programs").load(NAME) is None
    assert "damaged" in caplog.text
    Cache(folder, "programs").store(NAME, CONTENT)
    assert Cache(folder, "programs").load(NAME) == CONTENT


def test_a_link_is_not_followed(folder: Path, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    file.rename(target)
    file.symlink_to(target)
    assert Cache(folder, "programs").load(NAME) is None
    Cache(folder, "programs").store(NAME, b"new")
    assert not file.is_symlink() and Cache(folder, "programs").load(NAME) == b"new"
    assert b"new" not in target.read_bytes()


def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path, file: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert Cache(folder, "programs").load(NAME) is None
    Cache(folder, "programs").store(OTHER, CONTENT)
    assert [path.name for path in folder.iterdir()] == [file.name]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_trusted(folder: Path, file: Path, mode: int) -> None:
    file.chmod(mode)
    assert Cache(folder, "programs").load(NAME) is None


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_not_trusted(folder: Path, file: Path, mode: int) -> None:
    folder.chmod(mode)
    assert Cache(folder, "programs").load(NAME) is None
    Cache(folder, "programs").store(OTHER, CONTENT)
    assert list(folder.iterdir()) == [file]


def test_the_folder_of_another_user_is_not_trusted(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert Cache(folder, "programs").load(NAME) is None
    Cache(folder, "programs").store(OTHER, CONTENT)
    assert list(folder.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_of_another_user_is_not_trusted(folder: Path, file: Path) -> None:
    os.chown(file, 12345, -1)
    assert Cache(folder, "programs").load(NAME) is None


def test_a_pipe_is_not_waited_for(folder: Path, file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)
    assert Cache(folder, "programs").load(NAME) is None


def test_a_folder_in_place_of_a_file(folder: Path, file: Path) -> None:
    file.unlink()
    file.mkdir()
    assert Cache(folder, "programs").load(NAME) is None
    Cache(folder, "programs").store(NAME, CONTENT)  # cannot, and says so


def test_a_file_in_place_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("")
    kept = Cache(tmp_path / "cache", "programs")
    with caplog.at_level(logging.INFO):
        kept.store(NAME, CONTENT)
    assert "nothing is kept" in caplog.text
    assert kept.load(NAME) is None


def test_without_a_folder_nothing_is_kept() -> None:
    Cache(None, "programs").store(NAME, CONTENT)
    assert Cache(None, "programs").load(NAME) is None


def test_the_oldest_go(folder: Path, file: Path) -> None:
    os.utime(file, (1, 1))
    stranger = folder / "stranger"
    stranger.write_text("")
    os.utime(stranger, (0, 0))
    for number in range(FILES_MAX - 1):
        Cache(folder, "programs").store(key(bytes([number])), b"")
    assert file.exists()
    Cache(folder, "programs").store(OTHER, CONTENT)
    assert not file.exists()
    assert stranger.exists()
    assert len(list(folder.iterdir())) == FILES_MAX + 1
    assert Cache(folder, "programs").load(OTHER) == CONTENT


def test_an_interrupted_write_leaves_nothing(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "replace", refuse)
    Cache(folder, "programs").store(OTHER, CONTENT)
    assert list(folder.iterdir()) == [file]


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NETTRACE_PROGRAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    # Not what sudo may have left of another user's environment.
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/somebody/.other")
    assert cache.folder() == Path("/var/cache/nettrace")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cache.folder() == Path("/home/somebody/.other/nettrace/programs")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.folder() == Path("/home/somebody/.cache/nettrace/programs")
    monkeypatch.setenv("NETTRACE_PROGRAM_CACHE", "/elsewhere")
    assert cache.folder() == Path("/elsewhere")
    monkeypatch.setenv("NETTRACE_PROGRAM_CACHE", "")
    assert cache.folder() is None


def test_no_folder_is_reached_through_a_link_of_others(tmp_path: Path) -> None:
    theirs, mine = tmp_path / "tmp", tmp_path / "mine"
    theirs.mkdir()
    theirs.chmod(0o1777)
    mine.mkdir(mode=0o700)
    (theirs / "link").symlink_to(mine)
    kept = Cache(theirs / "link" / "nettrace", "programs")
    kept.store(NAME, CONTENT)
    assert kept.load(NAME) is None and not list(mine.rglob("*.programs"))
