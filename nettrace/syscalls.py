"""What the kernel offers for BPF: bpf(2), and perf_event_open(2) to attach programs to functions.

By system calls: of libbpf's functions for these, no version has those of all others.
"""

import ctypes
import errno
import fcntl
import functools
import os
import resource
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from .btf import libbpf
from .errors import KernelError

# Types of maps and programs (enum bpf_map_type, enum bpf_prog_type).
PROG_ARRAY, PERF_EVENT_ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, RINGBUF = 3, 4, 5, 6, 10, 27
KPROBE, TRACEPOINT, RAW_TRACEPOINT, TRACING = 2, 5, 17, 26
# Expected attach types (enum bpf_attach_type).
FENTRY, FEXIT, KPROBE_MULTI = 24, 25, 42

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_OBJECT_INFO, _RAW_TRACEPOINT_OPEN, _BTF_BY_ID, _BTF_NEXT_ID = 15, 17, 19, 23
_MAP_LOOKUP_BATCH, _LINK_CREATE, _ENABLE_STATS = 24, 28, 32

# bpf and perf_event_open: x86-64 has numbers of its own.
_BPF, _PERF_EVENT_OPEN = (321, 298) if os.uname().machine == "x86_64" else (280, 241)

_NAME_BYTES = 15
_MODULE_NAME_BYTES = 64
_PROGRAM_INFO_BYTES = 208  # of struct bpf_prog_info, as far as needed
_RUN_TIME_AT = 192
_BTF_INFO = struct.Struct("=QIIQII")  # struct bpf_btf_info
_LICENSE = b"GPL"
_LOG_BYTES = 1 << 24
# The verifier gives up when a signal comes.
_LOAD_TRIES = 5
_BATCH = 256

_F_KPROBE_MULTI_RETURN = 1

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
_PERF_TYPE_SOFTWARE, _PERF_TYPE_TRACEPOINT = 1, 2
_PERF_COUNT_SW_DUMMY = 9
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
_PERF_ATTR = struct.Struct("=IIQQQQQIIQQ")


@functools.cache
def _entry() -> "ctypes._NamedFuncPointer":
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = [ctypes.c_long] * 7
    call.restype = ctypes.c_long
    return call


def _call(number: int, *arguments: int) -> int:
    result = int(_entry()(number, *arguments, *[0] * (6 - len(arguments))))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _bpf(command: int, form: str, *values: object) -> int:
    """One bpf(2); the form is that of the union's member, in struct's words."""
    attributes = ctypes.create_string_buffer(struct.pack(form, *values), struct.calcsize(form))
    return _call(_BPF, command, ctypes.addressof(attributes), len(attributes))


def raise_memlock_limit() -> None:
    """Lets this process lock memory without limit.

    Linux commit 97306be45fbe (5.11) stopped charging maps against the limit.
    """
    with suppress(OSError, ValueError):  # not allowed: the kernel may do without
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@functools.cache
def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    count = libbpf().libbpf_num_possible_cpus()
    if count < 0:
        raise KernelError(f"the kernel does not tell its number of CPUs: {os.strerror(-count)}")
    return int(count)


class Map:
    """A map in the kernel, and what can be done with it; keys and values are bytes."""

    def __init__(self, name: str, kind: int, key_size: int, value_size: int, max_entries: int, flags: int) -> None:
        self.key_size = key_size
        per_cpu = kind in (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
        self.value_size = (value_size + 7) // 8 * 8 * possible_cpus() if per_cpu else value_size
        if kind == PERF_EVENT_ARRAY:
            max_entries = possible_cpus()
        self.fd = _bpf(
            _MAP_CREATE, "=IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0,
            name.encode()[:_NAME_BYTES],
        )  # fmt: skip

    def close(self) -> None:
        """Lets go of it; the kernel keeps it as long as programs use it."""
        os.close(self.fd)

    def lookup(self, key: bytes) -> Optional[bytes]:
        """The value; of a per-CPU map, those of all CPUs."""
        value = ctypes.create_string_buffer(self.value_size)
        return value.raw if self._element(_MAP_LOOKUP, key, value) else None

    def update(self, key: bytes, value: bytes) -> None:
        """Sets a value."""
        self._element(_MAP_UPDATE, key, ctypes.create_string_buffer(value, len(value)))

    def delete(self, key: bytes) -> bool:
        """Whether there was such an entry."""
        return self._element(_MAP_DELETE, key, None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a hash, even while others come and go."""
        # Linux commit 057996380a42 (5.6): not by keys in turn, where one that is gone leads back to the first.
        count = _BATCH
        token: Optional[ctypes.Array[ctypes.c_char]] = None
        ended = False
        while not ended:
            keys = ctypes.create_string_buffer(self.key_size * count)
            values = ctypes.create_string_buffer(self.value_size * count)
            following = ctypes.create_string_buffer(max(self.key_size, 4))
            attributes = ctypes.create_string_buffer(
                struct.pack(
                    "=QQQQIIQQ", 0 if token is None else ctypes.addressof(token), ctypes.addressof(following),
                    ctypes.addressof(keys), ctypes.addressof(values), count, self.fd, 0, 0,
                )
            )  # fmt: skip
            try:
                _call(_BPF, _MAP_LOOKUP_BATCH, ctypes.addressof(attributes), struct.calcsize("=QQQQIIQQ"))
            except OSError as error:
                if error.errno == errno.ENOSPC:  # one bucket holds more
                    count *= 2
                    continue
                if error.errno != errno.ENOENT:
                    raise
                ended = True
            (found,) = struct.unpack_from("=I", attributes, 32)
            raw_keys, raw_values = keys.raw, values.raw
            for at in range(found):
                yield (
                    raw_keys[at * self.key_size : (at + 1) * self.key_size],
                    raw_values[at * self.value_size : (at + 1) * self.value_size],
                )
            token = following

    def _element(self, command: int, key: bytes, value: "Optional[ctypes.Array[ctypes.c_char]]") -> bool:
        """False: there is no such entry."""
        key_buffer = ctypes.create_string_buffer(key, len(key))
        address = 0 if value is None else ctypes.addressof(value)
        try:
            _bpf(command, "=IIQQQ", self.fd, 0, ctypes.addressof(key_buffer), address, 0)
        except OSError as error:
            if error.errno == errno.ENOENT and command != _MAP_UPDATE:
                return False
            raise
        return True


class Refused(Exception):
    """The kernel does not load a program; `log` is the verifier's."""

    def __init__(self, error: OSError, log: str) -> None:
        super().__init__(str(error.strerror))
        self.log = log


def load_program(
    kind: int, name: str, instructions: bytes, attach_type: int = 0, function: int = 0, types: int = 0
) -> int:
    """The file descriptor of the loaded program; raises Refused.

    function: of programs for one function, the number of its type; types: the file descriptor of what describes it,
    0: the kernel's own types.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(_LICENSE)

    def load(log: "Optional[ctypes.Array[ctypes.c_char]]") -> int:
        level, size, address = (0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log))
        for attempt in range(_LOAD_TRIES):
            try:
                return _bpf(
                    _PROG_LOAD, "=IIQQIIQII16sIIIIQIIQIII", kind, len(instructions) // 8, ctypes.addressof(code),
                    ctypes.addressof(license_text), level, size, address, 0, 0, name.encode()[:_NAME_BYTES], 0,
                    attach_type, 0, 0, 0, 0, 0, 0, 0, function, types,
                )  # fmt: skip
            except OSError as error:
                if error.errno != errno.EAGAIN or attempt == _LOAD_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    try:
        return load(None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return load(log)
        except OSError:
            raise Refused(error, log.value.decode("utf-8", "replace")) from error


def measure_run_times() -> int:
    """Lets the kernel measure how long BPF programs run, all of them, until the returned file descriptor is closed."""
    return _bpf(_ENABLE_STATS, "=I", 0)


def run_time(program: int) -> tuple[int, int]:
    """How many nanoseconds a program ran while that was measured, and how often."""
    told = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    _bpf(_OBJECT_INFO, "=IIQ", program, len(told), ctypes.addressof(told))
    run_time_ns, runs = struct.unpack_from("=QQ", told, _RUN_TIME_AT)
    return run_time_ns, runs


def attach_tracepoint(program: int, name: str) -> int:
    """Attaches to a raw tracepoint, until the returned file descriptor is closed."""
    buffer = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, "=QII", ctypes.addressof(buffer), program, 0)


def attach_tracing(program: int) -> int:
    """Attaches to the function that the program was loaded for, until the returned file descriptor is closed."""
    return _bpf(_RAW_TRACEPOINT_OPEN, "=QII", 0, program, 0)


def types_of_modules(wanted: Collection[str]) -> dict[str, int]:
    """File descriptors of what the kernel has to describe these modules; those that it cannot describe are missing."""
    found: dict[str, int] = {}
    number: Optional[int] = 0
    while len(found) < len(wanted):
        number = _next_types(number or 0)
        if number is None:
            break
        try:
            types = _bpf(_BTF_BY_ID, "=III", number, 0, 0)
        except FileNotFoundError:
            continue  # they went meanwhile
        name = _name_of_types(types)
        if name in wanted and name not in found:
            found[name] = types
        else:
            os.close(types)
    return found


def _next_types(number: int) -> Optional[int]:
    """The number of the types that the kernel has behind these."""
    attributes = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0), 12)
    try:
        _call(_BPF, _BTF_NEXT_ID, ctypes.addressof(attributes), len(attributes))
    except FileNotFoundError:
        return None
    return int(struct.unpack_from("=I", attributes, 4)[0])


def _name_of_types(types: int) -> str:
    """The module that they are of, or "vmlinux"; of those that a program brought, something else."""
    name = ctypes.create_string_buffer(_MODULE_NAME_BYTES)
    told = ctypes.create_string_buffer(_BTF_INFO.pack(0, 0, 0, ctypes.addressof(name), len(name), 0), _BTF_INFO.size)
    _bpf(_OBJECT_INFO, "=IIQ", types, len(told), ctypes.addressof(told))
    return name.value.decode("utf-8", "replace")


def attach_functions(program: int, names: Sequence[str], cookies: Sequence[int], *, returns: bool) -> int:
    """Attaches to all of the functions, or their returns, or to none, until the file descriptor is closed."""
    symbols = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
    numbers = (ctypes.c_uint64 * len(names))(*cookies)
    return _bpf(
        _LINK_CREATE, "=IIIIIIQQQ", program, 0, KPROBE_MULTI, 0, _F_KPROBE_MULTI_RETURN if returns else 0,
        len(names), ctypes.addressof(symbols), 0, ctypes.addressof(numbers),
    )  # fmt: skip


def attach_function(program: int, name: str, *, returns: bool) -> int:
    """Attaches to one function, or its return, until the file descriptor is closed."""
    # Linux commit e12f03d7031a (4.17): unlike a name written to kprobe_events, nothing outlives the process.
    kind, return_bit = _kprobe_pmu()
    function = ctypes.create_string_buffer(name.encode())
    return _attach_event(program, kind, 1 << return_bit if returns else 0, ctypes.addressof(function))


def can_open_events() -> bool:
    """Whether this process may open perf events of whole CPUs.

    Distributions have settings of kernel.perf_event_paranoid that refuse them to CAP_PERFMON, too.
    """
    attributes = ctypes.create_string_buffer(
        _PERF_ATTR.pack(_PERF_TYPE_SOFTWARE, _PERF_ATTR.size, _PERF_COUNT_SW_DUMMY, 0, 0, 0, 0, 0, 0, 0, 0),
        _PERF_ATTR.size,
    )
    try:
        os.close(_call(_PERF_EVENT_OPEN, ctypes.addressof(attributes), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM)
    return True


def attach_record(program: int, event: int) -> int:
    """Attaches to a tracepoint by its number in tracefs; the program gets the tracepoint's record."""
    return _attach_event(program, _PERF_TYPE_TRACEPOINT, event, 0)


def _attach_event(program: int, kind: int, config: int, config1: int) -> int:
    attributes = ctypes.create_string_buffer(
        _PERF_ATTR.pack(kind, _PERF_ATTR.size, config, 1, 0, 0, 0, 1, 0, config1, 0), _PERF_ATTR.size
    )
    event = _call(_PERF_EVENT_OPEN, ctypes.addressof(attributes), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


@functools.cache
def _kprobe_pmu() -> tuple[int, int]:
    """The kind of perf event that is a probe of a function, and which bit says that it is of the return."""
    kind = int((_KPROBE_PMU / "type").read_text())
    return kind, int((_KPROBE_PMU / "format" / "retprobe").read_text().strip().rpartition(":")[2])
