"""Files that a run writes: nobody else can read them, and what was written is there whole.

None is ever reached through a link that stands where everybody can write: it may lead anywhere.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from typing import Optional

from .errors import StreamError, UsageError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # never over what is there already
_MODE = 0o600


class Kept:
    """A new file; option: what asked for it. A file that nothing was written to is removed in the end."""

    def __init__(self, option: str, path: str, room: str = "make room") -> None:
        self.path = path
        self.bytes = 0
        self._room = room  # what to do where there is none
        self._file: Optional[FileIO] = created(path, option)

    def write(self, data: bytes) -> None:
        """Writes all of it, or nothing; StreamError says why."""
        assert self._file is not None
        try:
            done = self._file.write(data)
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            with contextlib.suppress(OSError):  # it may not even take that
                self._file.truncate(self.bytes)
                self._file.seek(self.bytes)
            why = os.strerror(error.errno or 0)
            hint = f": {self._room}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise StreamError(f"{self.path}: {why} after {self.bytes} bytes, which can be read{hint}") from error
        self.bytes += len(data)

    def close(self) -> None:
        """Closes it."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if not self.bytes:
            with contextlib.suppress(OSError):  # it is not ours to look after any more
                os.unlink(self.path)


def created(path: str, option: str) -> FileIO:
    """A new file that nobody else may read; UsageError, which names the option, where there cannot be one."""
    try:
        with folder_of(path) as folder:
            return FileIO(os.open(_name(path), _NEW, _MODE, dir_fd=folder), "w")
    except FileExistsError as error:
        raise UsageError(f"{option}: {path} is there already: remove it, or give another name") from error
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be made: {error.strerror}") from error


class Replaced:
    """A file that is written again and again, each time as a whole; option: what asks for it. mode: of the file."""

    def __init__(self, option: str, path: str, mode: int = _MODE) -> None:
        self._option = option
        self._path = path
        self._mode = mode
        where = os.path.dirname(path) or "."
        try:
            with folder_of(path) as folder:
                writable = os.access(".", os.W_OK, dir_fd=folder)
                kind = _kind(folder, _name(path))
        except OSError:
            writable, kind = False, None
        if not writable:
            raise UsageError(f"{option}: nothing can be written to {where}: make that folder, or name another")
        if kind not in (None, stat.S_IFREG, stat.S_IFLNK):  # a link is replaced by the file
            raise UsageError(f"{option}: {path} is no file: name another")

    def write(self, data: bytes) -> None:
        """Writes it: whoever reads it finds all of it, or what was there before; UsageError says why not."""
        name = _name(self._path)
        new = f".{name}.{os.getpid()}"
        try:
            with folder_of(self._path) as folder:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new, dir_fd=folder)
                try:
                    with open(os.open(new, _NEW, self._mode, dir_fd=folder), "wb") as file:
                        file.write(data)
                    os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.unlink(new, dir_fd=folder)
                    raise
        except OSError as error:
            raise UsageError(f"{self._option}: {self._path} cannot be written: {error.strerror}") from error


def _name(path: str) -> str:
    return os.path.basename(path) or "."


def _kind(folder: int, name: str) -> Optional[int]:
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def folder_of(path: str) -> Iterator[int]:
    """The folder that a path leads to, while it is open: what was checked on the way is what is used."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open("/" if path.startswith("/") else ".", flags)
    try:
        for name in filter(None, os.path.dirname(path).split("/")):
            if os.fstat(folder).st_mode & stat.S_IWOTH:
                below = _no_link(folder, name, flags)
            else:
                below = os.open(name, flags, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _no_link(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        if _kind(folder, name) != stat.S_IFLNK:
            raise
        raise OSError(errno.ELOOP, f"'{name}' is a link, in a folder where everybody can write") from error
