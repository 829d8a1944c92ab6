"""Network namespaces: the inode numbers that the kernel knows them by, and the names that people gave them."""

import os
import re
from pathlib import Path
from typing import Optional

from .errors import UsageError
from .suggest import did_you_mean

# Where ip-netns(8) keeps them.
_NAMED = "run/netns"
# Inodes of namespaces begin at 0xf0000000; from 6.18 on, the initial namespaces have fixed
# numbers just below. Process numbers are much lower.
_INODE_MIN = 0xEFFFFFF0
_INODE_MAX = 0xFFFFFFFF
_KIND = re.compile(r"(\w+):\[[0-9]+\]$")  # where a link in /proc/PID/ns leads


def current(root: Path = Path("/")) -> int:
    """The inode of this process's namespace."""
    return (root / "proc/self/ns/net").stat().st_ino


def names(root: Path = Path("/")) -> dict[int, str]:
    """The namespaces that have a name, by inode; of two names of one namespace, the first in the alphabet."""
    found: dict[int, str] = {}
    try:
        files = sorted((root / _NAMED).iterdir())
    except OSError:
        return found
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        # A name whose namespace is gone is an ordinary file.
        if status.st_dev == _device(root):
            found.setdefault(status.st_ino, file.name)
    return found


def places(root: Path = Path("/")) -> dict[int, Path]:
    """A file that leads to each namespace, by inode: its name's, else that of a process which is in it."""
    found = {inode: root / _NAMED / name for inode, name in names(root).items()}
    for pid in sorted(int(file.name) for file in (root / "proc").iterdir() if file.name.isdigit()):
        file = root / f"proc/{pid}/ns/net"
        try:
            found.setdefault(file.stat().st_ino, file)
        except OSError:
            continue  # ended meanwhile, or not ours to see
    return found


def resolve(word: str, root: Path = Path("/")) -> int:
    """The inode of the namespace that a word of the command line means.

    The word is an inode number, a name, the number of a process, or a path.
    """
    number = inode(word)
    if number is not None:
        if _INODE_MIN <= number <= _INODE_MAX:
            return number
        return _inode(root / f"proc/{number}/ns/net", root, f"there is no process {number}")
    if "/" in word:
        return _inode(root / word.lstrip("/") if word.startswith("/") else Path(word), root, f"there is no {word}")
    if word in ("", ".", ".."):
        raise UsageError(f"--netns: '{word}' is no inode, name, process or path of a network namespace")
    hint = did_you_mean(word, names(root).values())
    return _inode(root / _NAMED / word, root, f"/{_NAMED} has no '{word}'{hint}")


def inode(word: str) -> Optional[int]:
    """The number that a word is, of a namespace or a process; None: it is a name."""
    return int(word) if re.fullmatch(f"[0-9]{{1,{len(str(_INODE_MAX))}}}", word) else None


def _inode(path: Path, root: Path, missing: str) -> int:
    try:
        status = path.stat()
        kind = _KIND.match(os.readlink(path)) if path.is_symlink() else None
    except PermissionError as error:
        raise UsageError(f"--netns: {path} cannot be read: run nettrace as root") from error
    except OSError as error:
        raise UsageError(f"--netns: {missing}") from error
    # All namespaces are files of one file system; those in /proc tell what kind they are, too.
    if status.st_dev != _device(root) or (kind is not None and kind[1] != "net"):
        raise UsageError(f"--netns: {path} is not a network namespace")
    return status.st_ino


def _device(root: Path) -> int:
    return (root / "proc/self/ns/net").stat().st_dev
