"""What the host can say of numbers that the kernel gives: the process of a socket, by its inode."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Generic, Optional, TypeVar

_SOCKET = "socket:["

# Reading it all again must take but a small part of the time, on a host with many processes too.
_REST = 20

Thing = TypeVar("Thing")


class Reread(Generic[Thing]):
    """Things by their number, read all at once, and again when one is missing or was read long ago.

    read: reads them all. every_s: how long to wait before looking for one that is missing.
    for_s: how long what was found is believed, as a number may be given to another thing.
    """

    def __init__(
        self, read: Callable[[], Mapping[int, Thing]], *, every_s: float = 1, for_s: float = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._read = read
        self._every_s = every_s
        self._for_s = for_s
        self._clock = clock
        self._things: Mapping[int, Thing] = {}
        self._read_at: Optional[float] = None
        self._took_s = 0.0

    def of(self, number: int) -> Optional[Thing]:
        """The thing of this number, if there is one."""
        wait_s = self._for_s if number in self._things else self._every_s
        now = self._clock()
        if self._read_at is None or now - self._read_at >= max(wait_s, _REST * self._took_s):
            self._things = self._read()
            self._read_at = self._clock()
            self._took_s = self._read_at - now
        return self._things.get(number)


class Owners(Reread[tuple[str, int]]):
    """The process, as name and number, that has a socket open; of several the lowest number."""

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(lambda: socket_owners(root), for_s=10, clock=clock)


def socket_owners(root: Path = Path("/")) -> dict[int, tuple[str, int]]:
    """The process of each socket that a process has open, by the socket's inode."""
    owners: dict[int, tuple[str, int]] = {}
    pids = sorted((int(name) for name in _list(str(root / "proc")) if name.isdigit()), reverse=True)
    for pid in pids:
        inodes = _sockets(str(root / f"proc/{pid}/fd"))
        if inodes:
            owner = (_name(root / f"proc/{pid}/comm"), pid)
            owners.update((inode, owner) for inode in inodes)
    return owners


def owners_of(inodes: Collection[int], within_s: float, root: Path = Path("/")) -> dict[int, tuple[str, int]]:
    """The process of each of these sockets, of several the lowest number, as far as the time goes."""
    owners: dict[int, tuple[str, int]] = {}
    until = time.monotonic() + within_s
    # A child that looks has open what its parent has.
    for pid in sorted({int(name) for name in _list(str(root / "proc")) if name.isdigit()} - {os.getpid()}):
        if len(owners) == len(inodes) or time.monotonic() > until:
            break
        for inode in set(inodes).intersection(_sockets(str(root / f"proc/{pid}/fd"))):
            owners.setdefault(inode, (_name(root / f"proc/{pid}/comm"), pid))
    return owners


def _sockets(folder: str) -> list[int]:
    """The inodes of the sockets among a process's open files; none if it has ended."""
    inodes = []
    for name in _list(folder):
        try:
            link = os.readlink(os.path.join(folder, name))
        except OSError:
            continue  # closed meanwhile
        if link.startswith(_SOCKET):
            inodes.append(int(link[len(_SOCKET) : -1]))
    return inodes


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _name(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="backslashreplace").rstrip("\n")
    except OSError:
        return "?"
