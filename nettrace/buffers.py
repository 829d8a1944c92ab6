"""The buffers that messages come through, read by libbpf."""

import ctypes
import os
from typing import Any, Optional

from .btf import libbpf
from .errors import BpfError

PERF_PAGES_PER_CPU = 1024
# Messages handed over at a time, so that a reader that cannot keep up still hears of a signal.
BATCH = 1024

_TAKE_RECORD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_TAKE_SAMPLE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_TAKE_LOST = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
_MAX_ERRNO = 4095


class _PerfOptions(ctypes.Structure):
    """struct perf_buffer_opts before libbpf 0.6."""

    _fields_ = [("take_sample", _TAKE_SAMPLE), ("take_lost", _TAKE_LOST), ("context", ctypes.c_void_p)]


class Buffer:
    """The reader's end of a ring buffer, or of perf buffers, one a CPU."""

    # What libbpf calls only takes the bytes: an error there would be printed and swallowed,
    # and while it is slow the library would go on reading, deaf to signals.

    def __init__(self, map_fd: int, *, ringbuf: bool) -> None:
        self._library = libbpf()
        self._messages: list[bytes] = []
        self._name = "ring_buffer" if ringbuf else "perf_buffer"
        ctypes.set_errno(0)
        handle = self._open_ring(map_fd) if ringbuf else self._open_perf(map_fd)
        # As in btf: before libbpf 1.0 a failure is a pointer into the last page.
        code = ctypes.get_errno() if not handle else (1 << 64) - handle
        if code <= _MAX_ERRNO:
            raise BpfError("load", f"the buffer for messages cannot be read: {os.strerror(code)}")
        self._handle: Optional[int] = handle
        self._poll = self._function("poll", ctypes.c_int)

    def poll(self, timeout_ms: int) -> list[bytes]:
        """The messages that are there, waiting for some at most so long; returns early on a signal."""
        self._poll(self._handle, timeout_ms)
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        """Lets go of the memory."""
        if self._handle is not None:
            self._function("free")(self._handle)
            self._handle = None

    def _open_ring(self, map_fd: int) -> int:
        def take(_context: Any, data: int, size: int) -> int:
            self._messages.append(ctypes.string_at(data, size))
            return -1 if len(self._messages) >= BATCH else 0  # ends the poll

        self._callbacks: tuple[Any, ...] = (_TAKE_RECORD(take),)
        new = self._library.ring_buffer__new
        new.argtypes = [ctypes.c_int, _TAKE_RECORD, ctypes.c_void_p, ctypes.c_void_p]
        new.restype = ctypes.c_void_p
        return new(map_fd, *self._callbacks, None, None) or 0

    def _open_perf(self, map_fd: int) -> int:
        def take(_context: Any, _cpu: int, data: int, size: int) -> None:
            self._messages.append(ctypes.string_at(data, size))

        self._callbacks = _TAKE_SAMPLE(take), _TAKE_LOST(lambda *_: None)
        new = self._library.perf_buffer__new
        new.restype = ctypes.c_void_p
        new.argtypes = [ctypes.c_int, ctypes.c_size_t]
        # Since 0.6 the callbacks are arguments, and there is this function.
        if hasattr(self._library, "libbpf_major_version"):
            new.argtypes += [_TAKE_SAMPLE, _TAKE_LOST, ctypes.c_void_p, ctypes.c_void_p]
            return new(map_fd, PERF_PAGES_PER_CPU, *self._callbacks, None, None) or 0
        new.argtypes += [ctypes.c_void_p]
        options = _PerfOptions(*self._callbacks, None)
        return new(map_fd, PERF_PAGES_PER_CPU, ctypes.addressof(options)) or 0

    def _function(self, name: str, returned: Any = None) -> Any:
        function = getattr(self._library, f"{self._name}__{name}")
        function.restype = returned
        function.argtypes = [ctypes.c_void_p] + ([ctypes.c_int] if name == "poll" else [])
        return function
