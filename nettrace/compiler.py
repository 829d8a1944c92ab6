"""From C to BPF instructions by BCC: the only module that knows it."""

import ctypes
import importlib.util
import logging
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .cache import Cache, key
from .errors import BpfError, KernelError
from .objects import Code, MapSpec, Object
from .syscalls import PERF_EVENT_ARRAY, PROG_ARRAY, RINGBUF

log = logging.getLogger("nettrace")

_SIZES = {PERF_EVENT_ARRAY: (4, 4), PROG_ARRAY: (4, 4), RINGBUF: (0, 0)}  # whatever the C declares


def compiled(text: str, include: Path, cache: Cache) -> Object:
    """The programs, from the cache or else compiled and kept there; raises BpfError with the compiler's log."""
    started = time.monotonic()
    name = key(text.encode(), "\0".join(_flags()).encode(), _tree(include), identity())
    kept = cache.load(name)
    if kept is not None:
        log.debug("compiled programs are in the cache: %s", name)
        return Object.from_bytes(kept)
    programs = _compile_apart(text, include)
    cache.store(name, programs.to_bytes())
    log.debug("compiled in %.2f s", time.monotonic() - started)
    return programs


def _flags() -> list[str]:
    """What the compiler is told beside the text."""
    return ["-w", f"-DPAGE_SIZE={os.sysconf('SC_PAGE_SIZE')}"]


def identity() -> bytes:
    """Changes whenever the compiler could make something else of a text; raises KernelError without BCC.

    BCC itself is not loaded, as that takes longer than all else.
    """
    folder = package()
    version = folder / "version.py"
    try:
        told = version.read_bytes() + str(version.stat().st_mtime_ns).encode()
    except OSError:
        told = b""
    return b"\0".join((str(folder).encode(), told, *(word.encode() for word in os.uname())))


def _tree(folder: Path) -> bytes:
    """What is in the files of a folder."""
    contents = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return repr(sorted(contents.items())).encode()


def _compile_apart(text: str, include: Path) -> Object:
    """In a child: LLVM's memory goes with it, and what it prints is mixed with nothing."""
    # A start from the cache needs none.
    from tempfile import TemporaryFile

    with TemporaryFile() as result, TemporaryFile() as messages:
        child = os.fork()
        if not child:
            _compile_and_exit(text, include, result, messages)
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if status:
            messages.seek(0)
            raise BpfError("compile", "BCC cannot compile the programs", messages.read().decode("utf-8", "replace"))
        result.seek(0)
        return Object.from_bytes(result.read())


def _compile_and_exit(text: str, include: Path, result: BinaryIO, messages: BinaryIO) -> NoReturn:
    status = 1
    try:
        os.dup2(messages.fileno(), 2)
        result.write(_compile(text, include).to_bytes())
        result.flush()
        status = 0
    except BaseException:
        messages.write(traceback.format_exc().encode())
        messages.flush()
    finally:
        os._exit(status)


def _compile(text: str, include: Path) -> Object:
    # BCC asks this variable where the kernel's headers are; ours are enough.
    os.environ["BCC_KERNEL_SOURCE"] = str(include)
    import bcc

    compiled = bcc.BPF(text=text, cflags=_flags())
    module, library = compiled.module, bcc.lib
    _declare(library)
    maps: list[MapSpec] = []
    indexes: dict[int, int] = {}
    for table in range(library.bpf_num_tables(module)):
        kind = library.bpf_table_type_id(module, table)
        sizes = library.bpf_table_key_size_id(module, table), library.bpf_table_leaf_size_id(module, table)
        key_size, value_size = _SIZES.get(kind, sizes)
        indexes[library.bpf_table_fd_id(module, table)] = len(maps)
        maps.append(
            MapSpec(
                library.bpf_table_name(module, table).decode(), kind, key_size, value_size,
                library.bpf_table_max_entries_id(module, table), library.bpf_table_flags_id(module, table),
            )
        )  # fmt: skip
    programs = {}
    for number in range(library.bpf_num_functions(module)):
        name = library.bpf_function_name(module, number)
        start, size = library.bpf_function_start(module, name), library.bpf_function_size(module, name)
        programs[name.decode()] = Code.of(ctypes.string_at(start, size), indexes)
    return Object(tuple(maps), programs)


def _declare(library: Any) -> None:
    """What BCC's Python module leaves out, as it does not need it."""
    for name, returned in (
        ("bpf_num_tables", ctypes.c_size_t),
        ("bpf_table_name", ctypes.c_char_p),
        ("bpf_table_key_size_id", ctypes.c_size_t),
        ("bpf_table_leaf_size_id", ctypes.c_size_t),
        ("bpf_table_fd_id", ctypes.c_int),
    ):
        function = getattr(library, name)
        function.restype = returned
        function.argtypes = [ctypes.c_void_p] if name == "bpf_num_tables" else [ctypes.c_void_p, ctypes.c_size_t]


def package() -> Path:
    """Where BCC's Python module is; raises KernelError without it."""
    spec = importlib.util.find_spec("bcc")
    if spec is None:
        raise _missing("No module named 'bcc'")
    if spec.origin is None or not Path(spec.origin).with_name("libbcc.py").is_file():
        raise _missing("the module 'bcc' that Python finds is an unrelated package")
    return Path(spec.origin).parent


def _missing(why: str) -> KernelError:
    return KernelError(
        f"BCC's Python module is missing ({why})",
        "install it with 'apt install python3-bpfcc' or 'dnf install python3-bcc' (PyPI's 'bcc' is something else)",
    )
