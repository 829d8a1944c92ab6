"""Files that a run writes: nobody else can read them, and what was written is there whole."""

import contextlib
import errno
import os
from io import FileIO
from typing import Optional

from .errors import StreamError, UsageError


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
    # Never through a link that somebody else made, and never over what is there already.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        return FileIO(os.open(path, flags, 0o600), "w")
    except FileExistsError as error:
        raise UsageError(f"{option}: {path} is there already: remove it, or give another name") from error
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be made: {os.strerror(error.errno or 0)}") from error
