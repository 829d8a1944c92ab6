"""What earlier runs found out and compiled, in files that nobody else can have written."""

import hashlib
import logging
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Optional

from .kept import folder_of

log = logging.getLogger("nettrace")

# Of each kind; the oldest go.
FILES_MAX = 64

_FORMAT = b"nettrace cache 2\n"
_BYTES_MAX = 1 << 24


def folder() -> Optional[Path]:
    """Where the files are; None: there is no place for them.

    NETTRACE_PROGRAM_CACHE in the environment names another folder or, empty, none.
    """
    chosen = os.environ.get("NETTRACE_PROGRAM_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    # What sudo leaves of the environment may name the folder of somebody else.
    if os.geteuid() == 0:
        return Path("/var/cache/nettrace")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "nettrace" / "programs" if os.path.isabs(base) else None


def key(*parts: bytes) -> str:
    """A file's name by all that went into it."""
    digest = hashlib.sha256(_FORMAT)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class Cache:
    """The files of one kind in one folder.

    That a file cannot be read or written is no error: what would be in it is found out anew.
    """

    def __init__(self, folder: Optional[Path], kind: str) -> None:
        self._folder = folder
        self._kind = kind

    def load(self, name: str) -> Optional[bytes]:
        """What was stored by this name; None if there is nothing, or nothing that can be trusted."""
        try:
            with _Folder(self._folder, self._kind) as opened:
                data = opened.read(name)
        except FileNotFoundError:
            return None
        except (OSError, _Distrusted) as error:
            log.info("the cache is not used: %s", error)
            return None
        header, content = data[: len(_FORMAT) + 32], data[len(_FORMAT) + 32 :]
        if header != _header(name, content):
            log.info("the cache is not used: %s is damaged", name)
            return None
        return content

    def store(self, name: str, content: bytes) -> None:
        """Keeps it for later runs."""
        try:
            with _Folder(self._folder, self._kind, make=True) as opened:
                opened.write(name, _header(name, content) + content)
                opened.limit()
        except (OSError, _Distrusted) as error:
            log.info("nothing is kept for the next start: %s", error)


def _header(name: str, content: bytes) -> bytes:
    return _FORMAT + hashlib.sha256(_FORMAT + name.encode() + content).digest()


class _Distrusted(Exception):
    """Somebody else could have written here."""


def _check(path: object, told: os.stat_result, *, folder: bool) -> None:
    if folder != stat.S_ISDIR(told.st_mode) or not (folder or stat.S_ISREG(told.st_mode)):
        raise _Distrusted(f"{path} is not a {'folder' if folder else 'file'}")
    if told.st_uid != os.geteuid():
        raise _Distrusted(f"{path} belongs to another user")
    if told.st_mode & 0o022:
        raise _Distrusted(f"{path} can be written by other users")


class _Folder:
    """The folder while it is open: what is checked is what is used, whoever moves it meanwhile."""

    def __init__(self, path: Optional[Path], kind: str, *, make: bool = False) -> None:
        if path is None:
            raise FileNotFoundError("there is no folder for it")
        self._path = path
        self._suffix = f".{kind}"
        self._ours = re.compile(rf"[0-9a-f]{{64}}\.({kind}|\d+)")
        if make:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __enter__(self) -> "_Folder":
        with folder_of(str(self._path)) as above:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path.name, flags, dir_fd=above)
        try:
            _check(self._path, os.fstat(self._fd), folder=True)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, name: str) -> bytes:
        """A whole file."""
        # O_NONBLOCK: a pipe would keep us waiting.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name + self._suffix, flags, dir_fd=self._fd), "rb") as file:
            _check(self._path / (name + self._suffix), os.fstat(file.fileno()), folder=False)
            return file.read(_BYTES_MAX)

    def write(self, name: str, data: bytes) -> None:
        """A file that is there as a whole or not at all."""
        temporary = f"{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._fd), "wb") as file:
                file.write(data)
            os.replace(temporary, name + self._suffix, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self._remove(temporary)
            raise

    def limit(self) -> None:
        """Removes the oldest files that are too many, and what an interrupted run left."""
        ages = {}
        for name in filter(self._ours.fullmatch, os.listdir(self._fd)):
            with suppress(FileNotFoundError):
                ages[name] = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime_ns
        for name in sorted(ages, key=ages.__getitem__)[:-FILES_MAX]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._fd)
