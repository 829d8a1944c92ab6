"""BPF programs of two instructions, for what tests attach beside nettrace."""

import ctypes
import resource
from pathlib import Path

BPF_SYSCALL, PROG_LOAD, OBJ_PIN = 321, 5, 6


def pinned_program(folder: Path, name: str, kind: int, result: int) -> Path:
    """A BPF program of two instructions, r0 = result and exit, where ip and tc can take it from."""
    code = (ctypes.c_uint64 * 2)(0xB7 | result << 32, 0x95)
    licence = ctypes.c_char_p(b"GPL")
    words = [kind | 2 << 32, ctypes.addressof(code), ctypes.cast(licence, ctypes.c_void_p).value or 0, 0, 0, 0]
    attributes = ctypes.create_string_buffer(
        b"".join(word.to_bytes(8, "little") for word in words) + name.encode(), 128
    )
    libc = ctypes.CDLL(None, use_errno=True)
    # Before Linux 5.11 what a traced run takes counts against the limit of its user.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    program = libc.syscall(BPF_SYSCALL, PROG_LOAD, attributes, 72)
    assert program >= 0, ctypes.get_errno()
    (folder / name).unlink(missing_ok=True)  # of an earlier test
    path = ctypes.c_char_p(str(folder / name).encode())
    pin = (ctypes.c_uint64 * 2)(ctypes.cast(path, ctypes.c_void_p).value or 0, program)
    assert libc.syscall(BPF_SYSCALL, OBJ_PIN, pin, 16) == 0, ctypes.get_errno()
    return folder / name
