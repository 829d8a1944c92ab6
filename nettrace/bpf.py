"""The BPF programs of a run, from compiling to closing: the only module that knows BCC."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Optional

from . import event
from .btf import libbpf
from .errors import BpfError, KernelError
from .plan import Plan, Probe, Program, Skipped
from .source import Settings

_BPF_TRACE_KPROBE_MULTI = 42
_BPF_F_KPROBE_MULTI_RETURN = 1

PERF_PAGES_PER_CPU = 1024
# Messages handed over at a time, so that a reader that cannot keep up still hears of a signal.
BATCH = 1024


class _LinkOptions(ctypes.Structure):
    """struct bpf_link_create_opts as far as kprobe.multi needs it, with room for what comes after."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
        ("multi_flags", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("symbols", ctypes.c_void_p),
        ("addresses", ctypes.c_void_p),
        ("cookies", ctypes.c_void_p),
        ("reserved", ctypes.c_uint64 * 8),
    ]


class Session:
    """Compiled programs, their probes and their buffer, for the time of a run.

    Open it with `with`: whatever happens, nothing stays attached.
    """

    def __init__(self, text: str, bpf_dir: Path, plan: Plan, settings: Settings, multi: bool) -> None:
        self.skipped: list[Skipped] = []
        self.attached = 0
        self._plan = plan
        self._settings = settings
        self._multi = multi
        self._links: list[int] = []
        self._messages: list[bytes] = []
        self._bpf = _compile(text, bpf_dir)
        self._open_buffer()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self, timeout_ms: int) -> list[bytes]:
        """The messages that are in the buffer, waiting for some at most so long; returns early on a signal."""
        if self._settings.ringbuf:
            self._bpf.ring_buffer_poll(timeout_ms)
        else:
            self._bpf.perf_buffer_poll(timeout_ms)
        messages, self._messages = self._messages, []
        return messages

    def _open_buffer(self) -> None:
        # What BCC calls only takes the bytes: an error there would be printed and swallowed,
        # and while it is slow the library would go on reading, deaf to signals.
        def take(_context: Any, data: int, size: int) -> int:
            self._messages.append(ctypes.string_at(data, size))
            return -1 if len(self._messages) >= BATCH else 0  # ends the ring buffer's poll

        buffer = self._bpf["messages"]
        if self._settings.ringbuf:
            buffer.open_ring_buffer(take)
        else:
            buffer.open_perf_buffer(take, page_cnt=PERF_PAGES_PER_CPU, lost_cb=lambda _: None)

    def attach(self) -> None:
        """Attaches the plan's probes.

        A function that cannot be probed after all goes to `skipped`; KernelError if none can.
        """
        by_program: dict[Program, list[Probe]] = {}
        for probe in self._plan.probes:
            by_program.setdefault(probe.program, []).append(probe)
        for kind, is_tracepoint in (("kprobe", False), ("tracepoint", True)):
            if any(program.is_tracepoint == is_tracepoint for program in by_program):
                worker = self._load("work", is_tracepoint=is_tracepoint)
                # BCC keeps what it loaded by name, and would not load it as another type.
                self._bpf.funcs[f"work of {kind}".encode()] = self._bpf.funcs.pop(b"work")
                self._bpf[f"{kind}_work"][ctypes.c_int(0)] = ctypes.c_int(worker.fd)
        # Those that end a packet go first: a packet followed before its end can be seen
        # would stay in the tracking map, and its address soon be another packet's.
        for program, probes in sorted(by_program.items(), key=lambda item: not item[0].ends_packets):
            if program.is_tracepoint:
                self._attach_tracepoints(program, probes)
            elif self._multi:
                self._attach_multi(program, probes)
            else:
                self._attach_single(program, probes)
        if not self.attached:
            reasons = "; ".join(sorted({skip.reason for skip in self.skipped})) or "no trace exists on this kernel"
            raise KernelError(f"nothing could be attached: {reasons}")

    def counters(self) -> list[dict[str, int]]:
        """The programs' counters, one dict a CPU."""
        table = self._bpf["counters"]
        columns = [list(table[ctypes.c_int(index)]) for index in range(len(event.COUNTERS))]
        return [dict(zip(event.COUNTERS, values)) for values in zip(*columns)]

    def hits(self) -> dict[tuple[int, int], int]:
        """How often each probe was hit, by the kind and the place that its steps would tell."""
        table = self._bpf["hits"]
        return {(key.value >> 32, key.value & 0xFFFFFFFF): sum(values) for key, values in table.items()}

    def stop_matching(self) -> None:
        """No packet is taken up any more; those followed already still are."""
        self._bpf["ending"][ctypes.c_int(0)] = ctypes.c_uint32(1)

    def take_tracked(self, older_than_ns: Optional[int] = None) -> Iterator[bytes]:
        """Removes packets from the tracking map whose last step is older than that (all by default).

        Yields what they hold: messages that were not sent.
        """
        # Values of plain bytes: BCC cannot describe the type that the C side gives them.
        size = _bcc().lib.bpf_table_leaf_size(self._bpf.module, b"tracked")
        table = self._bpf.get_table(b"tracked", ctypes.c_uint64, ctypes.c_ubyte * size)
        for key in list(table.keys()):
            try:
                value = bytes(table[key])
                if older_than_ns is not None and _last_step_ns(value) > older_than_ns:
                    continue
                del table[key]
            except KeyError:
                continue  # freed meanwhile: its record is in the buffer
            if not _is_told(value):
                yield value

    def detach(self) -> None:
        """Takes the probes away; what is in the buffer can still be read."""
        # For each the kernel waits until nobody runs in it any more: let it wait for all at once.
        work: list[Callable[[], object]] = [partial(os.close, link) for link in self._links]
        work += [partial(self._bpf.detach_kprobe_event, name) for name in self._bpf.kprobe_fds]
        work += [partial(self._bpf.detach_raw_tracepoint, name) for name in self._bpf.raw_tracepoint_fds]
        self._links = []
        if work:
            with _captured_stderr(), ThreadPoolExecutor(len(work)) as pool:
                for done in [pool.submit(task) for task in work]:
                    done.result()

    def close(self) -> None:
        """Detaches and frees everything."""
        self.detach()
        self._bpf.cleanup()

    def _load(self, name: str, *, is_tracepoint: bool) -> Any:
        bcc = _bcc()
        kind = bcc.BPF.RAW_TRACEPOINT if is_tracepoint else bcc.BPF.KPROBE
        options = {"attach_type": _BPF_TRACE_KPROBE_MULTI} if self._multi and not is_tracepoint else {}
        with _captured_stderr() as log:
            try:
                return self._bpf.load_func(name.encode(), kind, **options)
            except Exception as error:
                raise BpfError("load", f"the kernel refused the program {name}", log() or str(error)) from error

    def _attach_tracepoints(self, program: Program, probes: Sequence[Probe]) -> None:
        self._load(program.name, is_tracepoint=True)
        for probe in probes:
            with _captured_stderr() as log:
                try:
                    self._bpf.attach_raw_tracepoint(tp=probe.target.encode(), fn_name=program.name.encode())
                    self.attached += 1
                except Exception as error:
                    self._skip(probe, error, log())

    def _attach_single(self, program: Program, probes: Sequence[Probe]) -> None:
        self._load(program.name, is_tracepoint=False)
        attach = self._bpf.attach_kretprobe if program.kind == "function_return" else self._bpf.attach_kprobe
        for probe in probes:
            with _captured_stderr() as log:
                try:
                    attach(event=probe.target.encode(), fn_name=program.name.encode())
                    self.attached += 1
                except Exception as error:
                    self._skip(probe, error, log())

    def _attach_multi(self, program: Program, probes: Sequence[Probe]) -> None:
        function = self._load(program.name, is_tracepoint=False)
        flags = _BPF_F_KPROBE_MULTI_RETURN if program.kind == "function_return" else 0
        if self._link(function.fd, probes, flags) is None:
            self.attached += len(probes)
            return
        # One that cannot be probed spoils the link for all: find out which.
        for probe in probes:
            problem = self._link(function.fd, [probe], flags)
            if problem is None:
                self.attached += 1
            else:
                self.skipped.append(Skipped(probe.trace, f"{probe.target} cannot be probed: {problem}"))

    def _link(self, program_fd: int, probes: Sequence[Probe], flags: int) -> Optional[str]:
        """Makes a kprobe.multi link; returns why it failed."""
        names = [probe.target.encode() for probe in probes]
        array = (ctypes.c_char_p * len(names))(*names)
        cookies = (ctypes.c_uint64 * len(names))(*(probe.cookie for probe in probes))
        options = _LinkOptions(
            multi_flags=flags, count=len(names), symbols=ctypes.addressof(array), cookies=ctypes.addressof(cookies)
        )
        options.size = ctypes.sizeof(options)
        link = libbpf().bpf_link_create(program_fd, 0, _BPF_TRACE_KPROBE_MULTI, ctypes.byref(options))
        if link < 0:
            return os.strerror(ctypes.get_errno() or -link)
        self._links.append(link)
        return None

    def _skip(self, probe: Probe, error: Exception, log: str) -> None:
        words = (log.strip().splitlines() or [str(error)])[0]
        self.skipped.append(Skipped(probe.trace, f"{probe.target} cannot be probed: {words}"))


def _is_told(raw: bytes) -> bool:
    """Whether the entry only waits for the end of an skb that is not followed any more."""
    return bool(event.RECORD.struct.unpack_from(raw)[event.RECORD.index("flags")] & event.FREED)


def _last_step_ns(raw: bytes) -> int:
    """When the last step in a tracking map's entry was; 0 if it has none."""
    slots = event.RECORD.struct.unpack_from(raw)[event.RECORD.index("slots")]
    at = event.RECORD.size
    end = at + slots * event.SLOT_BYTES
    last = 0
    while at < end:
        if raw[at + 14] in (event.STEP, event.STEP_TRACEPOINT):
            last = event.STEP_ITEM.struct.unpack_from(raw, at)[0]
        at += max(1, raw[at + 15]) * event.SLOT_BYTES
    return int(last)


def _compile(text: str, bpf_dir: Path) -> Any:
    # BCC asks this variable where the kernel's headers are; ours are enough.
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir / "include")
    bcc = _bcc()
    with _captured_stderr() as log:
        try:
            return bcc.BPF(text=text, cflags=["-w", f"-DPAGE_SIZE={os.sysconf('SC_PAGE_SIZE')}"])
        except Exception as error:
            raise BpfError("compile", f"BCC cannot compile the programs: {error}", log()) from error


def _bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        _refuse_bcc(error)
    if not hasattr(bcc, "BPF"):
        _refuse_bcc(ImportError("the module 'bcc' that Python finds is an unrelated package"))
    return bcc


def _refuse_bcc(error: ImportError) -> NoReturn:
    raise KernelError(
        f"BCC's Python module is missing ({error}): install it with 'apt install python3-bpfcc' "
        "or 'dnf install python3-bcc' (PyPI's 'bcc' is something else)"
    ) from error


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Collects what C libraries write to file descriptor 2; the function tells it."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
