"""The file of a recording: a magic number, then chunks that each stand for themselves.

A chunk is the length of what follows and its CRC-32, and JSON, compressed by zlib. A chunk is written by one
write(2) as soon as something in it may be shown: whatever becomes of the process, what was shown is in the file.
"""

import contextlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Callable, Optional

from .errors import StreamError, UsageError
from .kept import Kept
from .printable import all_printable

FORMAT = 1
_MAGIC = b"\x93nettrace\r\n\x1a\n"  # a transfer that takes it for text spoils it
_BEGIN = struct.Struct("<13sBH")  # magic, unused, format
_LENGTH = struct.Struct("<I")
_CHUNK = struct.Struct("<II")  # length, CRC-32 of the length and of what follows
_CHUNK_MAX = 1 << 26
_JSON_MAX = 1 << 26
_VALUES_MAX = 1 << 21  # in a chunk: some bytes of a file may become many values
_ROOM = "make room, or record less with -C and -W"  # what to do where there is none
_LEVEL = 3  # of zlib: more takes longer and saves little

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode

Chunk = Mapping[str, Any]


class Writer:
    """Writes a recording, in one file or in several of limited size.

    rotate_bytes: when a file has become so large, another one is begun: FILE.1, FILE.2, ... rotate_count: of so many
    files the oldest is removed. head: the chunks that each file begins with, asked for when it begins.
    """

    def __init__(
        self, path: str, *, rotate_bytes: Optional[int] = None, rotate_count: Optional[int] = None,
    ) -> None:  # fmt: skip
        self.head: Callable[[], list[Chunk]] = list
        self.error: Optional[StreamError] = None
        self.bytes = 0  # in all files
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._rotate_count = rotate_count
        self._number = 0
        self._names = [path]
        self._file = Kept("-w", path, _ROOM)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._file.close()

    def begin(self) -> None:
        """Writes what the file begins with."""
        self._write(_BEGIN.pack(_MAGIC, 0, FORMAT))
        for chunk in self.head():
            self._write(_framed(chunk))

    def write(self, chunk: Chunk) -> None:
        """Writes a chunk, whole or not at all; after the first failure, nothing any more."""
        self._write(_framed(chunk))

    def rotate(self) -> None:
        """Begins another file if this one has become large enough; only between chunks that need each other."""
        if self._rotate_bytes is None or self._file.bytes < self._rotate_bytes or self.error is not None:
            return
        self._number += 1
        name = f"{self._path}.{self._number}"
        self._write(_framed({"next": os.path.basename(name)}))
        try:
            after = Kept("-w", name, _ROOM)
        except UsageError as error:
            self.error = StreamError(str(error))
            return
        self._file.close()
        self._file = after
        self._names.append(name)
        if self._rotate_count is not None and len(self._names) > self._rotate_count:
            _removed(self._names.pop(0))
        self.begin()

    def _write(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            self._file.write(data)
        except StreamError as error:
            self.error = error
            return
        self.bytes += len(data)


def _removed(path: str) -> None:
    with contextlib.suppress(OSError):  # it is not ours to look after any more
        os.unlink(path)


def _framed(chunk: Chunk) -> bytes:
    data = zlib.compress(_encode(chunk).encode("utf-8", "surrogatepass"), _LEVEL)
    length = _LENGTH.pack(len(data))
    return _CHUNK.pack(len(data), zlib.crc32(data, zlib.crc32(length))) + data


def opened(path: str) -> IO[bytes]:
    """A recording to be read; UsageError where there is none to open."""
    try:
        # One that is not ready to be read, such as a pipe without a writer, must not be waited for.
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UsageError(f"{path} is no file: give the name of a recording")
    return os.fdopen(number, "rb")


def chunks(file: IO[bytes], path: str) -> Iterator[tuple[int, Chunk]]:
    """The chunks and where they begin; StreamError, in the place of the first that is not whole, says what is wrong."""
    begin = file.read(_BEGIN.size)
    if len(begin) < _BEGIN.size or begin[: len(_MAGIC)] != _MAGIC:
        raise StreamError(f"{path} is no recording of nettrace: it does not begin as one")
    _, _, version = _BEGIN.unpack(begin)
    if version != FORMAT:
        raise StreamError(f"{path} has format {version}, and this nettrace reads format {FORMAT}: use another version")
    at = _BEGIN.size
    while True:
        head = file.read(_CHUNK.size)
        if not head:
            return
        if len(head) < _CHUNK.size:
            raise StreamError(f"{path} is cut off at byte {at}: what comes before it is shown")
        length, checksum = _CHUNK.unpack(head)
        if length > _CHUNK_MAX:
            raise StreamError(f"{path} is damaged at byte {at}: what comes before it is shown")
        data = file.read(length)
        if len(data) < length:
            raise StreamError(f"{path} is cut off at byte {at}: what comes before it is shown")
        if zlib.crc32(data, zlib.crc32(_LENGTH.pack(length))) != checksum:
            raise StreamError(f"{path} is damaged at byte {at}: what comes before it is shown")
        yield at, _chunk(data, path, at)
        at += _CHUNK.size + length


def _chunk(data: bytes, path: str, at: int) -> Chunk:
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(data, _JSON_MAX)
        chunk = _parsed(text.decode("utf-8", "surrogatepass"))
    except (zlib.error, ValueError, RecursionError) as error:
        raise StreamError(f"{path} is damaged at byte {at}: what comes before it is shown") from error
    if not inflate.eof or not isinstance(chunk, dict):
        raise StreamError(f"{path} is damaged at byte {at}: what comes before it is shown")
    return chunk


def _parsed(text: str) -> Any:
    """What is in it, for a terminal: whoever made the recording may have put anything there."""
    if sum(map(text.count, ",[{")) > _VALUES_MAX:
        raise ValueError("too much in a chunk")
    chunk = json.loads(text)
    # JSON writes what must not be printed as an escape, or as it is: as a rule it has neither.
    return chunk if "\\" not in text and text.isprintable() else all_printable(chunk)
