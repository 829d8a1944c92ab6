"""Network namespaces by inode, name, process and path, in a made-up file system and in this machine's own."""

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest

from nettrace import netns
from nettrace.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Process 12 in `blue`, process 13 and this one in another namespace."""
    for place in ("proc/self/ns", "proc/12/ns", "proc/13/ns", "run/netns"):
        (tmp_path / place).mkdir(parents=True)
    own, blue, red = (tmp_path / "run" / "netns" / name for name in ("own", "blue", "red"))
    for file in (own, blue, red):
        file.touch()
    os.link(own, tmp_path / "proc/self/ns/net")
    # As in /proc, a link whose text tells the kind; what it leads to has the inode.
    for process, file in ((12, blue), (13, own)):
        os.link(file, tmp_path / f"proc/{process}/ns/net:[402653{process}]")
        os.symlink(f"net:[402653{process}]", tmp_path / f"proc/{process}/ns/net")
    own.unlink()
    return tmp_path


def inode(file: Path) -> int:
    return os.stat(file).st_ino


def test_current(root: Path) -> None:
    assert netns.current(root) == inode(root / "proc/13/ns/net")


def test_names(root: Path) -> None:
    assert netns.names(root) == {inode(root / "run/netns/blue"): "blue", inode(root / "run/netns/red"): "red"}


def test_of_two_names_the_first_counts(root: Path) -> None:
    os.link(root / "run/netns/red", root / "run/netns/also-red")
    assert netns.names(root)[inode(root / "run/netns/red")] == "also-red"


def test_names_without_namespaces(root: Path) -> None:
    os.symlink("/proc/version", root / "run/netns/another-file-system")
    os.symlink("nowhere", root / "run/netns/gone")
    assert set(netns.names(root).values()) == {"blue", "red"}
    shutil.rmtree(root / "run")
    assert netns.names(root) == {}


@pytest.mark.parametrize("number", [0xF0000000, 0xF0000123, 0xFFFFFFFF, 0xEFFFFFF9])
def test_inodes_are_themselves(root: Path, number: int) -> None:
    assert netns.resolve(str(number), root) == number


@pytest.mark.parametrize(
    "word",
    ["blue", "12", "/run/netns/blue", "/proc/12/ns/net", "run/../run/netns/blue"],
)
def test_ways_to_say_blue(root: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.chdir(root)
    assert netns.resolve(word, root) == inode(root / "run/netns/blue")


def test_a_link_to_a_name(root: Path) -> None:
    os.symlink(root / "run/netns/blue", root / "link")
    assert netns.resolve("/link", root) == inode(root / "run/netns/blue")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("blu", "--netns: /run/netns has no 'blu'; did you mean 'blue'?"),
        ("x", "--netns: /run/netns has no 'x'"),
        ("14", "--netns: there is no process 14"),
        ("4294967296", "--netns: there is no process 4294967296"),
        ("/run/netns/x", "--netns: there is no /run/netns/x"),
        ("", "--netns: '' is no inode, name, process or path of a network namespace"),
        ("..", "--netns: '..' is no inode, name, process or path of a network namespace"),
    ],
)
def test_what_does_not_exist(root: Path, word: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        netns.resolve(word, root)
    assert str(raised.value) == message


def another_file_system(root: Path) -> None:
    os.symlink("/proc/version", root / "run/netns/stale")


def another_kind(root: Path) -> None:
    os.link(root / "run/netns/red", root / "proc/12/ns/mnt:[4026531841]")
    os.symlink("mnt:[4026531841]", root / "proc/12/ns/mnt")


@pytest.mark.parametrize(("prepare", "word"), [(another_file_system, "stale"), (another_kind, "/proc/12/ns/mnt")])
def test_what_is_no_network_namespace(root: Path, prepare: Callable[[Path], None], word: str) -> None:
    prepare(root)
    with pytest.raises(UsageError, match=r"--netns: .*(stale|mnt) is not a network namespace"):
        netns.resolve(word, root)


def test_the_kernels_own() -> None:
    # The text of the link holds the number, too.
    number = int(os.readlink("/proc/self/ns/net")[len("net:[") : -1])
    assert netns.current() == number
    assert {netns.resolve(word) for word in (str(number), str(os.getpid()), "/proc/self/ns/net")} == {number}
    with pytest.raises(UsageError, match="is not a network namespace"):
        netns.resolve("/proc/self/ns/pid")
