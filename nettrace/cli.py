"""The command line: wiring, signals, exit statuses."""

import argparse
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

from . import (
    coverage,
    evidence,
    explain,
    files,
    filters,
    matching,
    modes,
    monitor,
    netns,
    options,
    pcap,
    reasons,
    rules,
    selection,
    source,
    tree,
    treetext,
    view,
)
from .counts import counted
from .errors import BpfError, KernelError, NettraceError, StreamError, UsageError
from .filters import PacketFilter
from .header import TABLES
from .jsonlines import coverage_line
from .kernel import Kernel
from .matching import Matches
from .modes import Setup
from .paths import PathsGrouped
from .plan import Plan, Skipped
from .player import Player
from .replay import Recording
from .rules import Rules
from .run import Run
from .sinks import Summary
from .source import Source
from .times import Derived, Times, TimesSummed
from .view import View

if TYPE_CHECKING:
    from .bpf import Session
    from .exporters import Exporter
    from .objects import Object

log = logging.getLogger("nettrace")

INTERRUPTED = 130

# What can be worked out from whole packets.
_DERIVED: dict[str, type[Derived]] = {"latency": Times, "latency-summary": TimesSummed, "paths": PathsGrouped}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the program and returns its exit status: 0, 1 for what failed, 2 for bad options."""
    debug = False
    try:
        asked = options.parse(arguments)
        asked.command = tuple(sys.argv[1:] if arguments is None else arguments)
        debug = asked.debug
        level = logging.DEBUG if debug else logging.INFO if asked.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        status = _main(asked)
        sys.stdout.flush()
        return status
    except NettraceError as error:
        if isinstance(error, BpfError) and debug:
            print(error.log, file=sys.stderr)
        print(f"nettrace: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(asked: argparse.Namespace) -> int:
    if asked.json_schema:
        sys.stdout.write(files.SCHEMA.read_text(encoding="utf-8"))
        return 0
    traces = _tree()
    if asked.diff is not None:
        return _diff(asked)
    if asked.read is not None:
        return _replay(asked, traces, rules.load(files.RULES, traces))
    if asked.explain is not None:
        known = reasons.load(files.RULES)
        sys.stdout.write(explain.text(asked.explain, traces, rules.load(files.RULES, traces), known))
        return 0
    kernel = Kernel(btf=None if asked.btf_path is None else Path(asked.btf_path))
    if asked.trace is not None and asked.trace.strip() == "?":
        covered = coverage.of(traces, kernel, multi=modes.multi_of(asked.backend, kernel))
        sys.stdout.write(coverage_line(covered) if asked.json else treetext.tree_text(covered))
        return 0
    packet_filter = _filter(asked, _namespace(asked))
    if asked.print_filter:
        sys.stdout.write(_filter_text(packet_filter))
        return 0
    return _run(asked, kernel, modes.choose(asked, traces, kernel, packet_filter), packet_filter)


def _run(asked: argparse.Namespace, kernel: Kernel, setup: Setup, packet_filter: PacketFilter) -> int:
    from .bpf import Session

    what, settings = setup.what, setup.settings
    program = source.render(what, kernel, settings, packet_filter, files.BPF)
    if asked.print_bpf:
        sys.stdout.write(program.text)
        return 0
    for shortage in setup.shortages:
        log.warning("nettrace: %s", shortage)
    way = _way_of_metrics(asked)
    meanwhile: Optional[Callable[[], None]] = evidence.prepare if asked.diag else None
    if asked.monitor:
        meanwhile = monitor.Latecomers(kernel, what.skipped).tell
    with view.recording_to(asked) as writer, view.capture_to(asked) as capture:
        shown = View(asked, kernel, setup, writer, capture)
        programs = _compiled(program)
        started = time.monotonic()
        with Session(programs, program.values, what, settings, setup.multi) as session:
            if asked.drop_stat:
                from .dropstat import DropStat

                table = DropStat(session, shown.sink, count=asked.count, recorder=shown.recorder)
                return _attend(session, table, what, shown, verbose=asked.verbose, started=started)
            run = Run(
                session, kernel, what, settings, shown.sink, count=asked.count, join_clones=not asked.trace_noclone,
                min_latency_ns=packet_filter.min_latency_ns, table=setup.table, recorder=shown.recorder,
            )  # fmt: skip
            with monitor.exported(way, session, run, what, kernel):
                return _attend(session, run, what, shown, verbose=asked.verbose, started=started, meanwhile=meanwhile)


def _way_of_metrics(asked: argparse.Namespace) -> Optional["Exporter"]:
    """Whether it can listen is to be known before anything is compiled."""
    if asked.metrics is None:
        return None
    from . import exporters

    return exporters.exporter(asked.metrics)


def _compiled(program: Source) -> "Object":
    from . import cache, compiler

    return compiler.compiled(program.compiled, files.BPF / "include", cache.Cache(cache.folder()))


class _Run(Protocol):
    """What a mode does between the attaching of its probes and the summary."""

    @property
    def done(self) -> bool: ...

    def step(self) -> None: ...
    def finish(self) -> None: ...
    def summary(self, *, skipped: int) -> Summary: ...


def _replay(asked: argparse.Namespace, traces: tree.Tree, meanings: Rules) -> int:
    """-r: what was recorded, as it was shown, or as it is asked for now."""
    with Recording(asked.read) as recording:
        header = recording.header
        mode = view.mode_of(asked)
        derived = _DERIVED.get(mode) if header.mode == "packets" else None
        if mode not in ("packets", header.mode) and derived is None:
            raise UsageError(f"{asked.read} is a recording of {header.mode}, not of {mode}: leave out the mode")
        for option, given in (("--diag", asked.diag), ("--assert", asked.expect)):
            if given and header.mode != "packets":
                raise UsageError(
                    f"{option} needs whole packets, and {asked.read} is a recording of {header.mode}: leave it out"
                )
        if modes.with_detail(asked) and not header.detail:
            raise UsageError(f"{asked.read} was recorded without --detail: leave out --detail and its columns")
        if asked.pcap is not None and not header.snaplen:
            raise UsageError(f"{asked.read} has no packets for --pcap: they are recorded with -w and --snaplen")
        points = selection.choose_recorded(traces, header.traces, trace=asked.pcap_at, exclude=None, option="--pcap-at")
        shown_at = selection.choose_recorded(traces, header.traces, trace=asked.trace, exclude=asked.trace_exclude)
        packet_filter, matches = _matcher(asked, recording, shown_at)
        display = replace(view.display_of(asked, header), utc_offset_s=header.utc_offset_s)
        shown = header if derived is None else replace(header, mode=mode)
        with view.output_of(asked) as out, view.capture_to(asked) as capture:
            sink = view.sink_of(asked, shown, recording.host, meanings, display, out, capture, points)
            if derived is not None:
                sink = derived(sink, display, recording.lookups)
            player = Player(
                sink, follow=header.mode == "packets", count=asked.count,
                join_clones=header.join_clones and not asked.trace_noclone,
                min_latency_ns=packet_filter.min_latency_ns, wanted=matches,
            )  # fmt: skip
            for name, reason in header.skipped:
                log.info("%s is skipped: %s", name, reason)
            sink.begin(shown)
            try:
                recording.feed(player)
            finally:
                summary = _replayed(recording, player)
                if summary is not None and isinstance(sink, Derived):
                    summary = replace(summary, events=None, one_point=sink.one_point)
                sink.end(summary)
                unknown = f"{counted(player.shown, header.unit)}; what was lost is not known"
                print(unknown if summary is None else summary.text(asked.verbose), file=sys.stderr, flush=True)
        if recording.next is not None:
            log.warning("nettrace: %s goes on in %s, which is not there", asked.read, recording.next)
    return int(sink.failed)


def _diff(asked: argparse.Namespace) -> int:
    """--diff: what differs between two recordings."""
    from . import comparison
    from .comparison_text import comparison_text
    from .jsonlines import comparison_line

    found = comparison.compare(asked.diff[0], asked.diff[1], lambda recording: _matcher(asked, recording)[1])
    sys.stdout.write(comparison_line(found) if asked.json else comparison_text(found))
    for side in (found.first, found.second):
        if side.trouble:
            raise StreamError(side.trouble)
    return 0


def _matcher(
    asked: argparse.Namespace, recording: Recording, traces: Optional[Collection[str]] = None
) -> tuple[PacketFilter, Optional[Matches]]:
    """The conditions on packets, and what says which packets of a recording fit, of these traces."""
    header = recording.header
    named = None if asked.netns is None or asked.netns.isdigit() else asked.netns
    wanted = header.own_netns if asked.netns_current else None if named or not asked.netns else int(asked.netns)
    packet_filter = _filter(asked, wanted)
    return packet_filter, matching.matcher(packet_filter, header, recording.host, named, traces)


def _replayed(recording: Recording, player: Player) -> Optional[Summary]:
    """The summary of the run, with the numbers of what is shown now; None where it has no end."""
    header, run = recording.header, recording.summary
    if run is None or header.mode in TABLES:
        return run
    return replace(
        run, shown=player.shown, events=None if run.events is None else player.events,
        unfinished=player.unfinished if header.mode == "packets" else run.unfinished, incomplete=player.incomplete,
        short=player.short or run.short,
    )  # fmt: skip


def _attend(
    session: "Session", run: _Run, what: Plan, shown: View, *, verbose: bool, started: float,
    meanwhile: Optional[Callable[[], None]] = None,
) -> int:  # fmt: skip
    """Runs what is set up from the attaching of the probes to the summary; meanwhile: to be done beside it."""
    session.attach()
    skipped = [*what.skipped, *session.skipped]
    _report(skipped, session.attached, started)
    with _Signals() as signals:
        shown.begin(skipped, session.attached)
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        while not run.done and not signals.stop:
            run.step()
        run.finish()
        summary = run.summary(skipped=len(skipped))
        shown.end(summary)
        print(summary.text(verbose), file=sys.stderr, flush=True)
        session.detach()
    return int(shown.sink.failed)


def _namespace(asked: argparse.Namespace) -> Optional[int]:
    """The inode of the namespace that packets must be in."""
    return netns.current() if asked.netns_current else None if asked.netns is None else netns.resolve(asked.netns)


def _filter(asked: argparse.Namespace, namespace: Optional[int]) -> PacketFilter:
    return filters.parse(
        saddr=asked.saddr, daddr=asked.daddr, addr=asked.addr, sport=asked.sport, dport=asked.dport, port=asked.port,
        proto=asked.proto, tcp_flags=asked.tcp_flags, pkt_len=asked.pkt_len, pid=asked.pid, comm=asked.comm,
        netns=namespace, iface=asked.iface, mark=asked.mark, expression=asked.expression, inner=asked.inner,
        filter_srtt=asked.filter_srtt, filter_minrtt=asked.filter_minrtt,
        min_latency=asked.min_latency, rate_limit=asked.rate_limit,
    )  # fmt: skip


def _filter_text(packet_filter: PacketFilter) -> str:
    """What becomes of the conditions: numbers for the C side, and the program of the expression."""
    numbers = packet_filter.constants()
    asked = numbers.pop("FILTER_ASKED", 0)
    text = "".join(f"{name} {number:#x}\n" for name, number in numbers.items())
    if asked:
        text = f"FILTER_ASKED {' '.join(name for name, bit in filters.CONDITIONS.items() if asked & bit)}\n" + text
    if packet_filter.expression is not None:
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


def _tree() -> tree.Tree:
    try:
        return tree.load(files.TREE)
    except ImportError as error:
        raise KernelError(
            "PyYAML is missing: install it with 'apt install python3-yaml' or 'dnf install python3-pyyaml'"
        ) from error


def _report(skipped: Sequence[Skipped], attached: int, started: float) -> None:
    log.debug("%d probes attached %.2f s after the start", attached, time.monotonic() - started)
    for skip in skipped:
        log.info("%s is skipped: %s", skip.trace.name, skip.reason)
