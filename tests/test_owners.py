"""Who has a socket open: on this host, and in folders that look like /proc."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from nettrace.owners import Owners, Reread, socket_owners


def inode(of: socket.socket) -> int:
    return os.fstat(of.fileno()).st_ino


def test_this_process() -> None:
    owners = Owners()
    with socket.socket() as ours:
        name = Path("/proc/self/comm").read_text().strip()
        assert owners.of(inode(ours)) == (name, os.getpid())
        number = inode(ours)
    assert number not in socket_owners()


def process(root: Path, pid: int, comm: str, *links: str) -> Path:
    folder = root / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(comm + "\n")
    for number, link in enumerate(links):
        (folder / "fd" / str(number)).symlink_to(link)
    return folder


def test_all_processes(tmp_path: Path) -> None:
    process(tmp_path, 100, "server: a b", "/dev/null", "socket:[4711]", "socket:[4712]")
    process(tmp_path, 99, "master", "socket:[4711]", "pipe:[5]", "anon_inode:[eventpoll]")
    process(tmp_path, 7, "ksoftirqd/0")
    (tmp_path / "proc" / "net").mkdir()
    (tmp_path / "proc" / "self").symlink_to("99")
    assert socket_owners(tmp_path) == {4711: ("master", 99), 4712: ("server: a b", 100)}


def test_processes_that_end_meanwhile(tmp_path: Path) -> None:
    process(tmp_path, 100, "stays", "socket:[1]")
    (tmp_path / "proc" / "101").mkdir()  # its files are gone already
    nameless = process(tmp_path, 102, "gone", "socket:[2]")
    (nameless / "comm").unlink()
    (nameless / "fd" / "3").write_text("not a link")  # as good as closed
    assert socket_owners(tmp_path) == {1: ("stays", 100), 2: ("?", 102)}
    assert socket_owners(tmp_path / "nothing") == {}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Host:
    """Things that can be read, at a cost."""

    def __init__(self, clock: Clock, cost_s: float = 0) -> None:
        self.things: dict[int, str] = {1: "one"}
        self.reads = 0
        self._clock = clock
        self._cost_s = cost_s

    def read(self) -> Mapping[int, str]:
        self.reads += 1
        self._clock.now += self._cost_s
        return dict(self.things)


def test_what_is_known_is_not_read_again_at_once() -> None:
    clock = Clock()
    host = Host(clock)
    known = Reread(host.read, for_s=10, clock=clock)
    assert (known.of(1), host.reads) == ("one", 1)
    host.things = {1: "another", 2: "two"}
    clock.now += 9.9
    assert (known.of(1), host.reads) == ("one", 1)
    clock.now += 0.1
    assert (known.of(1), host.reads) == ("another", 2)


def test_what_is_missing_is_looked_for_once_a_second() -> None:
    clock = Clock()
    host = Host(clock)
    known = Reread(host.read, for_s=10, clock=clock)
    for _ in range(100):
        assert known.of(2) is None
    assert host.reads == 1
    host.things[2] = "two"
    clock.now += 0.9
    assert (known.of(2), host.reads) == (None, 1)
    clock.now += 0.1
    assert (known.of(2), host.reads) == ("two", 2)


def test_reading_takes_but_a_small_part_of_the_time() -> None:
    clock = Clock()
    host = Host(clock, cost_s=2)
    known = Reread(host.read, clock=clock)
    for _ in range(200):
        known.of(2)
        clock.now += 1
    # 200 s went by, and those of the reading.
    assert 2 * host.reads <= 0.1 * (clock.now - 100)
    assert host.reads >= 4
