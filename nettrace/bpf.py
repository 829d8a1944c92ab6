"""The BPF programs of a run, from loading to closing."""

import os
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from . import event, syscalls
from .buffers import Buffer
from .cost import Used
from .errors import BpfError, KernelError
from .objects import MapSpec, Object
from .plan import Plan, Probe, Program, Skipped
from .settings import Settings
from .syscalls import Map, Refused

_DROP_KEY = struct.Struct("=QI4x")  # struct drop_place of bpf/drops.h
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")


class _Attached(NamedTuple):
    """A link to one probe, or to many of one program."""

    link: int
    loaded: int
    probes: Sequence[Probe]


class Session:
    """Loaded programs, their maps, their probes and their buffer, for the time of a run.

    Open it with `with`: whatever happens, nothing stays attached.
    optional: the traces that may be shed.
    """

    def __init__(
        self, programs: Object, values: Sequence[int], plan: Plan, settings: Settings, multi: bool,
        optional: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.skipped: list[Skipped] = []
        self.attached = 0
        self._programs = programs
        self._values = values
        self._plan = plan
        self._multi = multi
        self._optional = optional
        self._links: list[_Attached] = []
        self._loaded: list[int] = []
        self._maps: dict[str, Map] = {}
        self._buffer: Optional[Buffer] = None
        syscalls.raise_memlock_limit()
        try:
            for spec in programs.maps:
                self._maps[spec.name] = _made(spec)
            self._buffer = Buffer(self._maps["messages"].fd, ringbuf=settings.ringbuf)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self, timeout_ms: int) -> list[bytes]:
        """The messages that are in the buffer, waiting for some at most so long; returns early on a signal."""
        assert self._buffer is not None
        return self._buffer.poll(timeout_ms)

    def attach(self) -> None:
        """Attaches the plan's probes.

        A function that cannot be probed after all goes to `skipped`; KernelError if none can.
        """
        by_program: dict[Program, list[Probe]] = {}
        for probe in self._plan.probes:
            if not probe.program.is_watch:
                by_program.setdefault(probe.program, []).append(probe)
        # The same code, loaded as each of the types that hand over to it.
        for kind, is_tracepoint in (("kprobe", False), ("tracepoint", True)):
            if any(program.is_tracepoint == is_tracepoint and not program.is_alone for program in by_program):
                worker = self._load("work", syscalls.RAW_TRACEPOINT if is_tracepoint else syscalls.KPROBE)
                self._maps[f"{kind}_work"].update(_U32.pack(0), _U32.pack(worker))
        # Those that end a packet go first: a packet followed before its end can be seen
        # would stay in the tracking map, and its address soon be another packet's.
        for program, probes in sorted(by_program.items(), key=lambda item: (not item[0].ends_packets, item[0].match)):
            loaded = self._load(program.name, _kind(program))
            if self._multi and not program.is_tracepoint:
                # What may be shed has a link of its own: while it is made anew, the others stay.
                may_go = [probe for probe in probes if probe.trace.name in self._optional]
                for group in ([probe for probe in probes if probe not in may_go], may_go):
                    self._attach_at_once(loaded, program, group)
            else:
                for probe in probes:
                    self._attach(loaded, probe)
        self._watch([probe for probe in self._plan.probes if probe.program.is_watch])
        if not self.attached:
            reasons = "; ".join(sorted({skip.reason for skip in self.skipped})) or "no trace exists on this kernel"
            raise KernelError(f"nothing could be attached: {reasons}")

    def counters(self) -> list[dict[str, int]]:
        """The programs' counters, one dict a CPU."""
        columns = [_numbers(self._maps["counters"].lookup(_U32.pack(at)) or b"") for at in range(len(event.COUNTERS))]
        return [dict(zip(event.COUNTERS, values)) for values in zip(*columns)]

    def hits(self) -> dict[tuple[int, int], int]:
        """How often each probe was hit, by the kind and the place that its steps would tell."""
        return self._by_place("hits")

    def sampled(self) -> dict[tuple[int, int], int]:
        """Likewise of one hit in some; nothing where that is not counted."""
        return self._by_place("sampled") if "sampled" in self._maps else {}

    def _by_place(self, name: str) -> dict[tuple[int, int], int]:
        items = ((_U64.unpack(key)[0], value) for key, value in self._maps[name].items())
        return {(key >> 32, key & 0xFFFFFFFF): sum(_numbers(value)) for key, value in items}

    def drops(self) -> dict[tuple[int, int], int]:
        """How many drops there were, by reason and place."""
        items = ((_DROP_KEY.unpack(key), value) for key, value in self._maps["drops"].items())
        return {(reason, location): sum(_numbers(value)) for (location, reason), value in items}

    def value(self, name: str, index: int) -> bytes:
        """An array's value; of a per-CPU array, those of all CPUs one after the other."""
        return self._maps[name].lookup(_U32.pack(index)) or b""

    def entries(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """The keys and values of a hash."""
        return self._maps[name].items()

    def measure_run_times(self) -> Callable[[], None]:
        """Has the kernel measure how long programs run, until what it returns is called.

        Who may not ask for it can only rely on the setting that has it measured all the time.
        """
        try:
            measuring = syscalls.measure_run_times()
        except PermissionError:
            return lambda: None
        return lambda: os.close(measuring)

    def run_time_ns(self) -> int:
        """How long the programs ran while that was measured."""
        return sum(used.run_time_ns for used in self.used())

    def used(self) -> tuple[Used, ...]:
        """What each of the programs took while that was measured."""
        traces: dict[int, list[str]] = {}
        for attached in self._links:
            traces.setdefault(attached.loaded, []).extend(probe.trace.name for probe in attached.probes)
        return tuple(
            Used(tuple(dict.fromkeys(traces.get(loaded, ()))), *syscalls.run_time(loaded)) for loaded in self._loaded
        )

    def shed(self, traces: Collection[str]) -> None:
        """Takes the probes of these traces away; those that share a link with them are away for a moment, too."""
        links, self._links = self._links, []
        gone, again = [], []
        for attached in links:
            kept = [probe for probe in attached.probes if probe.trace.name not in traces]
            if len(kept) == len(attached.probes):
                self._links.append(attached)
                continue
            gone.append(attached)
            again.append((attached.loaded, attached.probes[0].program, kept))
            self.attached -= len(attached.probes)
        _close(gone)
        for loaded, program, kept in again:
            self._attach_at_once(loaded, program, kept)

    def stop_matching(self) -> None:
        """No packet is taken up any more; those followed already still are."""
        self._maps["ending"].update(_U32.pack(0), _U32.pack(1))

    def take_tracked(self, older_than_ns: Optional[int] = None) -> Iterator[bytes]:
        """Removes packets from the tracking map whose last step is older than that (all by default).

        Yields what they hold: messages that were not sent.
        """
        tracked = self._maps["tracked"]
        for key, _ in tracked.items():
            value = tracked.lookup(key)  # as more may have come meanwhile
            if value is None or (older_than_ns is not None and _last_step_ns(value) > older_than_ns):
                continue
            if tracked.delete(key) and not _is_told(value):  # else freed meanwhile: its record is in the buffer
                yield value

    def detach(self) -> None:
        """Takes the probes away; what is in the buffer can still be read."""
        links, self._links = self._links, []
        _close(links)

    def close(self) -> None:
        """Detaches and frees everything."""
        self.detach()
        if self._buffer is not None:
            self._buffer.close()
        for loaded in self._loaded:
            os.close(loaded)
        for table in self._maps.values():
            table.close()
        self._loaded, self._maps, self._buffer = [], {}, None

    def _watch(self, probes: Sequence[Probe]) -> None:
        """Loads and attaches a program for each of these probes."""
        modules = {probe.btf.module for probe in probes if probe.btf is not None and probe.btf.module}
        types = syscalls.types_of_modules(modules)
        try:
            for probe in probes:
                if probe.btf is not None and probe.btf.module and probe.btf.module not in types:
                    self.skipped.append(Skipped(probe.trace, f"the kernel has no types of {probe.btf.module} any more"))
                    continue
                try:
                    loaded = self._load_watch(probe, types)
                    if probe.program.is_tracing:
                        self._add(syscalls.attach_tracing(loaded), loaded, [probe])
                    elif self._multi and not probe.program.is_tracepoint:
                        self._attach_at_once(loaded, probe.program, [probe])
                    else:
                        self._attach(loaded, probe)
                except OSError as error:
                    self._skip(probe, error)
                except BpfError as error:
                    # There are functions that fentry does not serve, such as those with structs for arguments.
                    self.skipped.append(Skipped(probe.trace, str(error)))
        finally:
            for handle in types.values():
                os.close(handle)

    def _load_watch(self, probe: Probe, types: Mapping[str, int]) -> int:
        assert probe.numbers is not None
        numbers = [int(number) for number in probe.numbers]
        if probe.btf is None:
            return self._load(probe.program.name, _kind(probe.program), numbers)
        attach_type = syscalls.FEXIT if probe.program.kind == "fexit" else syscalls.FENTRY
        described = types.get(probe.btf.module, 0)
        return self._load(
            probe.program.name, syscalls.TRACING, numbers, attach_type, probe.btf.number, described
        )  # fmt: skip

    def _load(
        self, name: str, kind: int, numbers: Sequence[int] = (), attach_type: int = 0, function: int = 0, types: int = 0
    ) -> int:
        """Loads a program; numbers: behind those of the filter."""
        fds = [self._maps[spec.name].fd for spec in self._programs.maps]
        instructions = self._programs.programs[name].completed(fds, [*self._values, *numbers])
        if self._multi and kind == syscalls.KPROBE:
            attach_type = syscalls.KPROBE_MULTI
        try:
            loaded = syscalls.load_program(kind, name, instructions, attach_type, function, types)
        except Refused as error:
            raise BpfError("load", f"the kernel refused the program {name}: {error}", error.log) from error
        self._loaded.append(loaded)
        return loaded

    def _attach(self, loaded: int, probe: Probe) -> None:
        try:
            if probe.program.kind == "drop_record":
                link = syscalls.attach_record(loaded, probe.cookie)
            elif probe.program.is_tracepoint:
                link = syscalls.attach_tracepoint(loaded, probe.target)
            else:
                link = syscalls.attach_function(loaded, probe.target, returns=probe.program.is_return)
        except OSError as error:
            self._skip(probe, error)
        else:
            self._add(link, loaded, [probe])

    def _attach_at_once(self, loaded: int, program: Program, probes: Sequence[Probe]) -> None:
        if not probes:
            return
        try:
            self._attach_functions(loaded, program, probes)
        except OSError as error:
            if len(probes) == 1:
                self._skip(probes[0], error)
                return
            # One that cannot be probed spoils the link for all: find out which.
            for probe in probes:
                self._attach_at_once(loaded, program, [probe])

    def _attach_functions(self, loaded: int, program: Program, probes: Sequence[Probe]) -> None:
        names, cookies = [probe.target for probe in probes], [probe.cookie for probe in probes]
        self._add(syscalls.attach_functions(loaded, names, cookies, returns=program.is_return), loaded, probes)

    def _add(self, link: int, loaded: int, probes: Sequence[Probe]) -> None:
        self._links.append(_Attached(link, loaded, probes))
        self.attached += len(probes)

    def _skip(self, probe: Probe, error: OSError) -> None:
        self.skipped.append(Skipped(probe.trace, f"{probe.target} cannot be probed: {error.strerror}"))


def _close(links: Sequence[_Attached]) -> None:
    # For each the kernel waits until nobody runs in it any more: let it wait for all at once.
    closing = [threading.Thread(target=os.close, args=(attached.link,)) for attached in links]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()


def _kind(program: Program) -> int:
    """Which type of BPF program it is loaded as."""
    if program.kind == "drop_record":
        return syscalls.TRACEPOINT
    return syscalls.RAW_TRACEPOINT if program.is_tracepoint else syscalls.KPROBE


def _made(spec: MapSpec) -> Map:
    try:
        return Map(*spec)
    except OSError as error:
        raise BpfError("load", f"the kernel refused the map {spec.name}: {error.strerror}") from error


def _numbers(value: bytes) -> tuple[int, ...]:
    """Those of a per-CPU map, one a CPU."""
    return struct.unpack(f"={len(value) // _U64.size}Q", value)


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
