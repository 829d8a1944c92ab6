"""What each call of the program does: wiring and signals."""

import argparse
import functools
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Optional, Protocol

from . import cache, compiler, files, filters, netns, options, view
from .cache import Cache
from .cost import Cost, Meter, shed_text
from .filters import PacketFilter
from .kernel import Kernel
from .printable import printable
from .requirements import require_measuring
from .run import Run
from .sinks import Summary
from .starts import Setup, Start, Starts
from .view import View

if TYPE_CHECKING:
    from .bpf import Session
    from .exporters import Exporter
    from .plan import Plan, Skipped
    from .source import Source

log = logging.getLogger("nettrace")


class _Printable(logging.Formatter):
    """What is logged may have names that anybody gave."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def run(asked: argparse.Namespace) -> int:
    """Does what was asked for and returns the exit status."""
    level = logging.DEBUG if asked.debug else logging.INFO if asked.verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable())
    logging.basicConfig(level=level, handlers=[handler])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have what the locale has not
    if asked.json_schema:
        sys.stdout.write(files.SCHEMA.read_text(encoding="utf-8"))
        return 0
    if asked.diff is not None:
        from . import reading

        return reading.diff(asked)
    if asked.check:
        return _check(asked)
    starts = Starts(cache.folder())
    if asked.read is not None:
        from . import reading

        if asked.anonymise:
            return reading.copy(asked, starts.meanings()[1])
        return reading.replay(asked, *starts.meanings())
    if asked.explain is not None:
        from . import explain, reasons

        sys.stdout.write(explain.text(asked.explain, *starts.meanings(), reasons.load(files.RULES)))
        return 0
    kernel = _kernel(asked)
    if asked.trace is not None and asked.trace.strip() == "?":
        from . import coverage, modes, treetext
        from .jsonlines import coverage_line

        traces, _ = starts.meanings()
        covered = coverage.of(traces, kernel, multi=modes.multi_of(asked.backend, kernel))
        sys.stdout.write(coverage_line(covered) if asked.json else treetext.tree_text(covered))
        return 0
    packet_filter = options.packet_filter(asked, _namespace(asked))
    if asked.print_filter:
        sys.stdout.write(_filter_text(packet_filter))
        return 0
    if asked.print_bpf:
        sys.stdout.write(_planned(asked, kernel, packet_filter, starts)[1].text)
        return 0
    return _run(asked, kernel, packet_filter, *begun(asked, kernel, packet_filter, starts))


def _check(asked: argparse.Namespace) -> int:
    """--check: whether nettrace works here, and how well."""
    from . import checkup

    found = checkup.of(_kernel(asked))
    if asked.json:
        from .jsonlines import checkup_line

        sys.stdout.write(checkup_line(found))
    else:
        sys.stdout.write(checkup.text(found))
    return int(not found.tracing)


def _kernel(asked: argparse.Namespace) -> Kernel:
    return Kernel(btf=None if asked.btf_path is None else Path(asked.btf_path))


def _run(
    asked: argparse.Namespace, kernel: Kernel, packet_filter: PacketFilter, setup: Setup,
    compiled: "Callable[[], Start]",
) -> int:  # fmt: skip
    if asked.stats:
        require_measuring(kernel)
    for shortage in setup.shortages:
        log.warning("nettrace: %s", shortage)
    way = _way_of_metrics(asked)
    what, settings = setup.what, setup.settings
    with view.recording_to(asked) as writer, view.capture_to(asked) as capture:
        start = compiled()
        from .bpf import Session

        shown = View(asked, kernel, start, writer, capture)
        began = time.monotonic()
        values = (*packet_filter.numbers().values(), *start.addresses)
        optional = what.dispensable if asked.max_cpu is not None and not settings.latency else ()
        with Session(start.programs, values, what, settings, setup.multi, optional) as session:
            if asked.drop_stat:
                from .dropstat import DropStat

                table = DropStat(session, shown.sink, count=asked.count, recorder=shown.recorder)
                metered = _Metered(asked, session, what, optional, lambda *_: "")
                return _attend(session, table, what, shown, metered, verbose=asked.verbose, began=began)
            run = Run(
                session, what, start.traces_at, settings, shown.sink, count=asked.count,
                join_clones=not asked.trace_noclone, min_latency_ns=packet_filter.min_latency_ns, table=setup.table,
                recorder=shown.recorder, anonymiser=shown.anonymiser,
            )  # fmt: skip
            attend = functools.partial(
                _attend, session, run, what, shown, _Metered(asked, session, what, optional, run.trace),
                verbose=asked.verbose, began=began, meanwhile=_meanwhile(asked, kernel, what),
            )  # fmt: skip
            if way is None:
                return attend()
            from . import monitor

            with monitor.exported(way, session, run, what, kernel):
                return attend()


def begun(
    asked: argparse.Namespace, kernel: Kernel, packet_filter: PacketFilter, starts: Starts
) -> "tuple[Setup, Callable[[], Start]]":
    """What is to be attached, and what compiles it: that takes its time, and other things may go wrong before."""
    known = starts.load(asked, kernel)
    if known is not None:
        log.debug("this start is in the cache")
        start = known
        return start.setup, lambda: start
    setup, program = _planned(asked, kernel, packet_filter, starts)

    def compiled() -> Start:
        programs = compiler.compiled(program.compiled, files.BPF / "include", Cache(cache.folder(), "programs"))
        start = Start.of(setup, programs, kernel)
        starts.store(asked, kernel, start)
        return start

    return setup, compiled


def _planned(
    asked: argparse.Namespace, kernel: Kernel, packet_filter: PacketFilter, starts: Starts
) -> "tuple[Setup, Source]":
    from . import modes, source

    setup = modes.choose(asked, *starts.meanings(), kernel, packet_filter)
    setup = replace(setup, settings=replace(setup.settings, sample_hits=asked.stats))
    return setup, source.render(setup.what, kernel, setup.settings, packet_filter, files.BPF)


def _meanwhile(asked: argparse.Namespace, kernel: Kernel, what: "Plan") -> Optional[Callable[[], None]]:
    """What is to be done beside the run."""
    if asked.diag:
        from . import evidence

        return evidence.prepare
    if asked.monitor:
        from . import monitor

        return monitor.Latecomers(kernel, what.skipped).tell
    return None


def _way_of_metrics(asked: argparse.Namespace) -> Optional["Exporter"]:
    """Whether it can listen is to be known before anything is compiled."""
    if asked.metrics is None:
        return None
    from . import exporters

    return exporters.exporter(asked.metrics)


class _Run(Protocol):
    """What a mode does between the attaching of its probes and the summary."""

    @property
    def done(self) -> bool: ...

    def step(self) -> None: ...
    def finish(self) -> None: ...
    def summary(self, *, skipped: int) -> Summary: ...


def _attend(
    session: "Session", run: _Run, what: "Plan", shown: View, metered: "_Metered", *, verbose: bool, began: float,
    meanwhile: Optional[Callable[[], None]] = None,
) -> int:  # fmt: skip
    """Runs what is set up from the attaching of the probes to the summary; meanwhile: to be done beside it."""
    session.attach()
    skipped = [*what.skipped, *session.skipped]
    _report(skipped, session.attached, began)
    with _Signals() as signals, metered:
        shown.begin(skipped, session.attached)
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        while not run.done and not signals.stop and metered.goes_on():
            run.step()
        cost = metered.cost()
        run.finish()
        summary = replace(run.summary(skipped=len(skipped)), cost=cost)
        shown.end(summary)
        print(summary.text(verbose) + summary.cost_text(), file=sys.stderr, flush=True)
        session.detach()
    return int(shown.sink.failed or (cost is not None and cost.over))


class _Metered:
    """--stats and --max-cpu: what the run costs is measured for the time of a with block, if that was asked for."""

    def __init__(
        self, asked: argparse.Namespace, session: "Session", what: "Plan", optional: Collection[str],
        trace: Callable[[int, int], str],
    ) -> None:  # fmt: skip
        self._asked = asked
        self._session = session
        self._what = what
        self._optional = optional
        self._trace = trace
        self._meter: Optional[Meter] = None
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> "_Metered":
        if self._asked.stats:
            self._stop = self._session.measure_run_times()
            limit = None if self._asked.max_cpu is None else self._asked.max_cpu / 100
            traces = {probe.trace.name for probe in self._what.probes}
            self._meter = Meter(self._session, self._trace, limit=limit, traces=traces, optional=self._optional)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def goes_on(self) -> bool:
        """Whether the run may go on; sheds what is too dear."""
        if self._meter is None:
            return True
        decision = self._meter.tick()
        if decision.shed:
            log.warning("nettrace: %s", shed_text(decision.shed, self._asked.max_cpu))
        if decision.stop:
            log.warning(
                "nettrace: still more than %.10g%% of a CPU, and nothing is left to go without: the run ends",
                self._asked.max_cpu,
            )
        return not decision.stop

    def cost(self) -> Optional[Cost]:
        """What the run cost up to now; None: it was not asked for."""
        return None if self._meter is None else self._meter.cost()


def _namespace(asked: argparse.Namespace) -> Optional[int]:
    """The inode of the namespace that packets must be in."""
    return netns.current() if asked.netns_current else None if asked.netns is None else netns.resolve(asked.netns)


def _filter_text(packet_filter: PacketFilter) -> str:
    """What becomes of the conditions: numbers for the C side, and the program of the expression."""
    numbers = packet_filter.constants()
    asked = numbers.pop("FILTER_ASKED", 0)
    text = "".join(f"{name} {number:#x}\n" for name, number in numbers.items())
    if asked:
        text = f"FILTER_ASKED {' '.join(name for name, bit in filters.CONDITIONS.items() if asked & bit)}\n" + text
    if packet_filter.expression is not None:
        from . import pcap

        text += pcap.disassemble(packet_filter.expression)
    return text or "no condition: all packets match\n"


class _Signals:
    """Ctrl-C and SIGTERM ask for an orderly end; the second one ends at once."""

    def __init__(self) -> None:
        self.stop = False
        self._saved = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "_Signals":
        for number in self._saved:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._saved.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: Optional[FrameType]) -> None:
        if self.stop:
            # The kernel detaches what the process leaves behind.
            os._exit(128 + number)
        self.stop = True


def _report(skipped: Sequence["Skipped"], attached: int, began: float) -> None:
    log.debug("%d probes attached %.2f s after the start", attached, time.monotonic() - began)
    for skip in skipped:
        log.info("%s is skipped: %s", skip.trace.name, skip.reason)
