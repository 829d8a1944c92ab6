"""The command line: wiring, signals, exit statuses."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Optional, Protocol, TextIO

from . import (
    coverage,
    drops,
    event,
    evidence,
    explain,
    files,
    filters,
    live,
    matching,
    metrics,
    netns,
    options,
    pcap,
    plan,
    reasons,
    rules,
    selection,
    sinks,
    source,
    tree,
    trouble,
)
from .errors import BpfError, KernelError, NettraceError, UsageError
from .filters import PacketFilter
from .header import TABLES, Header, skips, utc_offset_s
from .histogram import Histogram
from .host import Host
from .jsonlines import JsonLines, coverage_line
from .kernel import Kernel, check, check_user
from .latency import edge_of
from .plan import Plan, Skipped, Wishes
from .player import Player
from .recorder import Recorder
from .recording import Writer
from .replay import Recording
from .rules import Rules
from .run import Run, Table, totals, unit_of, wall_offset_ns
from .selection import Selection
from .sinks import Display, Summary
from .sockets import peer_of
from .source import Settings, Source
from .tables import LatencySummary, Peer, RoundTrips
from .times import Times, TimesSummed

if TYPE_CHECKING:
    from .bpf import Session
    from .exporters import Exporter
    from .objects import Object

log = logging.getLogger("nettrace")

INTERRUPTED = 130
# How many peers --rtt-by-peer tells apart; what there are more is counted.
PEERS_MAX = 1024
# Where a table is all that is printed, nothing is said of single events.
_NO_RULES = Rules(())
# The ring of --monitor, which sends little.
MONITOR_PAGES = 256


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
    if asked.read is not None:
        return _replay(asked, rules.load(files.RULES, traces))
    if asked.explain is not None:
        known = reasons.load(files.RULES)
        sys.stdout.write(explain.text(asked.explain, traces, rules.load(files.RULES, traces), known))
        return 0
    kernel = Kernel(btf=None if asked.btf_path is None else Path(asked.btf_path))
    if asked.trace is not None and asked.trace.strip() == "?":
        covered = coverage.of(traces, kernel, multi=_multi(asked.backend, kernel))
        sys.stdout.write(coverage_line(covered) if asked.json else sinks.tree_text(covered))
        return 0
    packet_filter = _filter(asked, _namespace(asked))
    if asked.print_filter:
        sys.stdout.write(_filter_text(packet_filter))
        return 0
    if asked.drop:
        return _drop(asked, traces, kernel, packet_filter)
    if asked.rtt:
        return _rtt(asked, traces, kernel, packet_filter)
    if asked.monitor:
        return _monitor(asked, traces, kernel, packet_filter)
    if not asked.sock and not asked.monitor and (packet_filter.srtt_us or packet_filter.min_rtt_us):
        raise UsageError("--filter-srtt and --filter-minrtt are about sockets: give --sock, --rtt or --rtt-detail too")
    narrowed = asked.trace is not None and "all" not in [word.strip() for word in asked.trace.split(",")]
    if packet_filter.is_empty and not narrowed and asked.count is None and not asked.force:
        raise UsageError(
            "tracing every packet of the host would slow it down: give a filter (-p, --addr, --port, ...), "
            "traces (-t), a count (-c), or --force"
        )
    if asked.sock:
        return _sock(asked, traces, kernel, packet_filter)
    if not asked.print_bpf:
        check(kernel)
    meanings = _NO_RULES if asked.latency_summary else rules.load(files.RULES, traces)
    also = {*meanings.tell_trouble, *(trace.name for trace in traces.traces() if trace.nft)}
    selected = selection.choose(
        traces, kernel, trace=asked.trace, exclude=asked.trace_exclude, matcher=asked.trace_matcher,
        free=asked.trace_free, stack=asked.trace_stack, ret=asked.ret, basic=asked.basic,
        hooks=asked.hooks, also=also if asked.diag else (),
        return_at=meanings.need_return if asked.diag else (), latency=asked.latency, latency_free=asked.latency_free,
    )  # fmt: skip
    settings = Settings(
        follow=not asked.basic,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=_with_detail(asked),
        count_hits=asked.func_stats,
        latency=asked.latency,
        latency_summary=asked.latency_summary,
    )
    multi = _multi(asked.backend, kernel)
    clones = settings.follow and not asked.trace_noclone
    what = plan.make(selected.traces, kernel, selected.wishes, clones=clones, cookies=multi)
    _check_matching(what, selected)
    return _run(
        asked, kernel, selected, what, settings, packet_filter, multi, meanings,
        table=_latency_table if asked.latency_summary else None,
    )  # fmt: skip


def _latency_table(session: "Session", trace: Callable[[int, int], str]) -> LatencySummary:
    counted = totals(session.counters())
    latencies = Histogram.from_bytes(session.value("latencies", 0))
    edges = [edge_of(key, values, trace) for key, values in session.entries("edges")]
    return LatencySummary(latencies, edges, counted["one_point"], counted["short"])


def _sock(asked: argparse.Namespace, traces: tree.Tree, kernel: Kernel, packet_filter: PacketFilter) -> int:
    """--sock and --rtt-detail: hits of functions that take a socket."""
    if not asked.print_bpf:
        check(kernel)
    selected = selection.choose_sockets(
        traces, kernel, trace=asked.trace, exclude=asked.trace_exclude, stack=asked.trace_stack
    )
    multi = _multi(asked.backend, kernel)
    what = plan.make_sockets(selected.traces, kernel, selected.wishes, cookies=multi)
    if asked.rtt_detail:
        _check_rtt(what)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=asked.detail or not {"cpu", "pid", "mark"}.isdisjoint(asked.columns),
        count_hits=asked.func_stats,
        sockets=True,
        tracked_max=1,
    )
    meanings = rules.load(files.RULES, traces)
    return _run(asked, kernel, selected, what, settings, packet_filter, multi, meanings)


def _rtt(asked: argparse.Namespace, traces: tree.Tree, kernel: Kernel, packet_filter: PacketFilter) -> int:
    """--rtt: round trips, counted in the kernel."""
    if not asked.print_bpf:
        check(kernel)
    selected = selection.choose_sockets(traces, kernel, trace=plan.RTT_FUNCTION)
    multi = _multi(asked.backend, kernel)
    what = plan.make_sockets(selected.traces, kernel, cookies=multi)
    _check_rtt(what)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        sockets=True,
        count_rtt=True,
        peers_max=PEERS_MAX if asked.rtt_by_peer else 0,
        tracked_max=1,
        ringbuf_pages=1,
    )
    return _run(
        asked, kernel, selected, what, settings, packet_filter, multi, _NO_RULES,
        table=lambda session, _: _rtt_table(session, by_peer=asked.rtt_by_peer),
    )  # fmt: skip


def _monitor(asked: argparse.Namespace, traces: tree.Tree, kernel: Kernel, packet_filter: PacketFilter) -> int:
    """--monitor: what tells of trouble, and only when it does."""
    if not asked.print_bpf:
        check(kernel)
    meanings = rules.load(files.RULES, traces)
    watched = selection.choose_monitored(traces, kernel, trace=asked.trace, exclude=asked.trace_exclude)
    has_rtt_limit = bool(packet_filter.srtt_us or packet_filter.min_rtt_us)
    timed = plan.TIMED if asked.metrics is not None else (plan.RTT_FUNCTION,) if has_rtt_limit else ()
    multi = _multi(asked.backend, kernel)
    what = plan.make_monitor(
        watched, kernel, meanings.need_return, meanings.ask_verdict,
        tracing=kernel.features.tracing and asked.backend == "auto",
        timed=[trace for trace in traces.traces() if trace.name in timed],
    )  # fmt: skip
    host, traced = live.Running(kernel, asked.evidence_time), live.traced(what)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=_with_detail(asked),
        count_hits=asked.func_stats,
        trouble=trouble.c_text(what, live.judge(host, traced, meanings), live.return_types(host, traced)),
        drops=drops.choose(kernel, count=True, harmless=live.harmless_reasons()),
        count_rtt=bool(timed),
        tracked_max=1,
        ringbuf_pages=MONITOR_PAGES,
    )
    way = None
    if asked.metrics is not None and not asked.print_bpf:
        from . import exporters

        # Whether it can listen is to be known before anything is compiled.
        way = exporters.exporter(asked.metrics)
    return _run(asked, kernel, Selection(watched, Wishes()), what, settings, packet_filter, multi, meanings, way=way)


def _counted(session: "Session", run: Run, what: Plan, kernel: Kernel) -> metrics.Counted:
    """What --metrics tells."""
    hits: Counter[str] = Counter()
    for (kind, where), count in session.hits().items():
        hits[run.trace(kind, where)] += count
    watched = {probe.trace.name for probe in what.probes if probe.trace.monitor}
    lookups = live.lookups(live.Running(kernel, 0), live.traced(what))
    return metrics.Counted(
        drops=metrics.totals_by_place(
            session.drops(), lookups.reason, lambda place: sinks.place_in_code(place, lookups.symbol), event.NO_REASON
        ),
        hits={trace: hits[trace] for trace in watched},
        counters=totals(session.counters()),
        round_trips=Histogram.from_bytes(session.value("rtt_histograms", source.RTT_HISTOGRAMS.index("sample"))),
        transits={
            direction: Histogram.from_bytes(session.value("transit_histograms", number - 1))
            for number, direction in plan.DIRECTIONS.items()
        },
        attached=len(watched - {skip.trace.name for skip in session.skipped}),
        skipped=len(what.skipped) + len(session.skipped),
    )  # fmt: skip


@contextmanager
def _exported(way: Optional["Exporter"], session: "Session", run: Run, what: Plan, kernel: Kernel) -> Iterator[None]:
    """Metrics leave by this way, for the time of a with block."""
    if way is None:
        yield
        return
    cost = metrics.Cost(session.measure_run_times, session.run_time_ns)

    def render() -> str:
        return metrics.text(metrics.families(_counted(session, run, what, kernel), kernel.release, cost.ratio))

    with way.exported(render, cost.tick):
        yield
    cost.stop()


def _check_rtt(what: Plan) -> None:
    """Raises KernelError if round trips cannot be read."""
    if any(probe.program.kind == "function_return" for probe in what.probes):
        return
    reason = what.skipped[0].reason if what.skipped else "its arguments are not those that nettrace knows"
    raise KernelError(f"this kernel does not tell of round trips: {plan.RTT_FUNCTION}: {reason}")


def _rtt_table(session: "Session", *, by_peer: bool) -> RoundTrips:
    values = [session.value("rtt_histograms", number) for number in range(len(source.RTT_HISTOGRAMS))]
    sample, smoothed, least = [Histogram.from_bytes(value) for value in values]
    if not by_peer:
        return RoundTrips(sample, smoothed, least)
    peers = [Peer(*peer_of(key), Histogram.from_bytes(value)) for key, value in session.entries("rtt_peers")]
    return RoundTrips(sample, smoothed, least, peers, totals(session.counters())["crowded_out"])


def _check_matching(what: Plan, selected: Selection) -> None:
    """Raises KernelError if no packet could ever be seen."""
    matching = selected.wishes.match_at or ()
    if not any(probe.trace.name in matching for probe in what.probes):
        reasons = "; ".join(f"{skip.trace.name}: {skip.reason}" for skip in what.skipped if skip.trace.name in matching)
        raise KernelError(f"none of the traces where packets would be matched exists on this kernel: {reasons}")


def _run(
    asked: argparse.Namespace, kernel: Kernel, selected: Selection, what: Plan, settings: Settings,
    packet_filter: PacketFilter, multi: bool, meanings: Rules, table: Optional[Table] = None,
    way: Optional["Exporter"] = None,
) -> int:  # fmt: skip
    from .bpf import Session

    program = _rendered(asked, what, kernel, settings, packet_filter)
    if program is None:
        return 0
    with _recording(asked) as writer:
        view = _View(asked, kernel, what, writer, meanings, stack_at=selected.wishes.stack_at,
                     end_at=selected.wishes.end_at, settings=settings)  # fmt: skip
        programs = _compiled(program)
        started = time.monotonic()
        with Session(programs, program.values, what, settings, multi) as session:
            run = Run(
                session, kernel, what, settings, view.sink, count=asked.count, join_clones=not asked.trace_noclone,
                min_latency_ns=packet_filter.min_latency_ns, table=table, recorder=view.recorder,
            )  # fmt: skip
            meanwhile = evidence.prepare if asked.diag else None
            with _exported(way, session, run, what, kernel):
                return _attend(session, run, what, view, verbose=asked.verbose, started=started, meanwhile=meanwhile)


def _drop(asked: argparse.Namespace, traces: tree.Tree, kernel: Kernel, packet_filter: PacketFilter) -> int:
    """--drop: one tracepoint, and what it tells."""
    if not asked.print_bpf:
        check_user()
    unread = kernel.lockdown == "confidentiality"
    (trace,) = [trace for trace in traces.traces() if trace.role == "drop"]
    what = plan.of_drops(trace, kernel, stack=asked.drop_stack, unread=unread)
    if not what.probes:
        raise KernelError(f"this kernel does not tell of drops: {what.skipped[0].reason}")
    if unread:
        protocol_known = what.probes[0].program.kind == "drop_record"
        drops.refuse_contents(packet_filter, asked.columns, protocol_known=protocol_known)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=_with_detail(asked),
        drops=drops.choose(kernel, reasons=asked.reason, count=asked.drop_stat, unread=unread),
        ringbuf_pages=1 if asked.drop_stat else Settings.ringbuf_pages,
    )
    program = _rendered(asked, what, kernel, settings, packet_filter)
    if program is None:
        return 0
    for shortage in drops.shortages(kernel, unread=unread):
        log.warning("nettrace: %s", shortage)
    return _run_drop(asked, kernel, what, settings, program, rules.load(files.RULES, traces))


def _run_drop(
    asked: argparse.Namespace, kernel: Kernel, what: Plan, settings: Settings, program: Source, meanings: Rules
) -> int:
    from .bpf import Session
    from .dropstat import DropStat

    stacks = [probe.trace.name for probe in what.probes] if asked.drop_stack else []
    with _recording(asked) as writer:
        view = _View(asked, kernel, what, writer, meanings, stack_at=stacks, settings=settings)
        programs = _compiled(program)
        started = time.monotonic()
        with Session(programs, program.values, what, settings, False) as session:
            run: _Run
            if asked.drop_stat:
                run = DropStat(session, view.sink, count=asked.count, recorder=view.recorder)
            else:
                run = Run(
                    session, kernel, what, settings, view.sink, count=asked.count, join_clones=False,
                    recorder=view.recorder,
                )  # fmt: skip
            return _attend(session, run, what, view, verbose=asked.verbose, started=started)


class _View:
    """What a run is shown by, and recorded by if that was asked for."""

    def __init__(
        self, asked: argparse.Namespace, kernel: Kernel, what: Plan, writer: Optional[Writer], meanings: Rules, *,
        stack_at: Iterable[str], end_at: Iterable[str] = (), settings: Settings,
    ) -> None:  # fmt: skip
        self._meanings = meanings
        mode = _mode(asked)
        host: Host = live.Running(kernel, asked.evidence_time)
        self.header = Header(
            mode=mode,
            unit=unit_of(settings),
            command=asked.command,
            kernel=kernel.release,
            clock_offset_ns=wall_offset_ns(),
            utc_offset_s=utc_offset_s(),
            own_netns=host.own_netns,
            tick_ns=host.tick_ns,
            traces=live.traced(what),
            skipped=(),
            attached=0,
            detail=settings.detail,
            join_clones=not asked.trace_noclone,
            stack_at=tuple(sorted(stack_at)),
            end_at=tuple(sorted(end_at)),
        )
        self.recorder = None if writer is None else Recorder(writer, host)
        if self.recorder is not None:
            host = self.recorder.host
        out = sys.stdout if writer is None else sinks.Held(sys.stdout)
        self.sink = _sink(asked, self.header, host, meanings, _display(asked, self.header), out)

    def begin(self, skipped: Sequence[Skipped], attached: int) -> None:
        """From now on, packets are seen."""
        self.header = replace(self.header, skipped=skips(skipped), attached=attached)
        if self.recorder is not None:
            self.recorder.begin(self.header, self._meanings)
        self.sink.begin(self.header)

    def end(self, summary: Summary, *, verbose: bool) -> None:
        """The run is over; StreamError where it could not be recorded whole."""
        if self.recorder is not None:
            self.recorder.end(summary)
        self.sink.end(summary)
        print(summary.text(verbose), file=sys.stderr, flush=True)


def _rendered(
    asked: argparse.Namespace, what: Plan, kernel: Kernel, settings: Settings, packet_filter: PacketFilter
) -> Optional[Source]:
    """The program in C; None if printing it was all that was asked for."""
    program = source.render(what, kernel, settings, packet_filter, files.BPF)
    if not asked.print_bpf:
        return program
    sys.stdout.write(program.text)
    return None


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


def _mode(asked: argparse.Namespace) -> str:
    """Which of header.MODES is asked for."""
    modes = {
        "drop-stat": asked.drop_stat, "drops": asked.drop, "rtt": asked.rtt, "function-stats": asked.func_stats,
        "trouble": asked.monitor, "sockets": asked.sock, "latency-summary": asked.latency_summary,
        "latency": asked.latency, "events": asked.basic,
    }  # fmt: skip
    return next((mode for mode, on in modes.items() if on), "packets")


def _display(asked: argparse.Namespace, header: Header) -> Display:
    return Display(
        detail=asked.detail,
        columns=asked.columns,
        traces=header.mode != "drops",
        meanings=asked.verbose and header.mode in ("drops", "drop-stat"),
        tiny=asked.tiny_show,
        latency=asked.latency_show,
        latency_free=asked.latency_free,
        end_traces=frozenset(header.end_at),
        returns=asked.ret,
        stacks=frozenset(header.stack_at),
        wall_offset_ns=header.clock_offset_ns if asked.date else None,
        colour=sinks.wants_colour(sys.stdout, os.environ),
    )


def _sink(
    asked: argparse.Namespace, header: Header, host: Host, meanings: Rules, display: Display, out: TextIO
) -> sinks.Text:
    """What shows a run of this mode as it was asked for."""
    lookups = live.lookups(host, header.traces)
    diagnosis = live.diagnosis(host, header.traces, meanings)
    if header.mode not in ("drops", "drop-stat"):
        lookups = replace(lookups, remarks=diagnosis.remarks, remarked=meanings.by_trace)
    if asked.json:
        findings = diagnosis.findings if asked.diag else None
        return JsonLines(out, display, lookups, findings, quiet=asked.diag_quiet, keep=asked.diag_keep)
    if header.mode == "drop-stat":
        return sinks.DropTable(out, display, lookups)
    if asked.diag:
        return sinks.Diagnosed(out, display, lookups, diagnosis.findings, quiet=asked.diag_quiet, keep=asked.diag_keep)
    if header.mode == "latency":
        return sinks.LatencyText(out, display, lookups)
    return sinks.Text(out, display, lookups)


@contextmanager
def _recording(asked: argparse.Namespace) -> Iterator[Optional[Writer]]:
    """The file to be written, if one was asked for; raises StreamError in the end, if not all was."""
    if asked.write is None:
        yield None
        return
    with Writer(asked.write, rotate_bytes=asked.rotate_size, rotate_count=asked.rotate_count) as writer:
        yield writer
    if writer.error is not None:
        raise writer.error


def _replay(asked: argparse.Namespace, meanings: Rules) -> int:
    """-r: what was recorded, as it was shown, or as it is asked for now."""
    with Recording(asked.read) as recording:
        header = recording.header
        mode = _mode(asked)
        # Of whole packets it can be told how long they took.
        timed = {"latency": Times, "latency-summary": TimesSummed}.get(mode) if header.mode == "packets" else None
        if mode not in ("packets", header.mode) and timed is None:
            raise UsageError(f"{asked.read} is a recording of {header.mode}, not of {mode}: leave out the mode")
        if asked.diag and header.mode != "packets":
            raise UsageError(
                f"--diag needs whole packets, and {asked.read} is a recording of {header.mode}: leave it out"
            )
        if _with_detail(asked) and not header.detail:
            raise UsageError(f"{asked.read} was recorded without --detail: leave out --detail and its columns")
        named = None if asked.netns is None or asked.netns.isdigit() else asked.netns
        wanted = header.own_netns if asked.netns_current else None if named or not asked.netns else int(asked.netns)
        packet_filter = _filter(asked, wanted)
        matches = matching.matcher(packet_filter, header, recording.host, named)
        display = replace(_display(asked, header), utc_offset_s=header.utc_offset_s)
        shown = header if timed is None else replace(header, mode=mode)
        sink = _sink(asked, shown, recording.host, meanings, display, sys.stdout)
        if timed is not None:
            sink = timed(sink, display, recording.lookups)
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
            if summary is not None and isinstance(sink, Times):
                summary = replace(summary, events=None, one_point=sink.one_point)
            sink.end(summary)
            unknown = f"{player.shown} {header.unit}; what was lost is not known"
            print(unknown if summary is None else summary.text(asked.verbose), file=sys.stderr, flush=True)
        if recording.next is not None:
            log.warning("nettrace: %s goes on in %s, which is not there", asked.read, recording.next)
    return 0


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


def _with_detail(asked: argparse.Namespace) -> bool:
    """Whether the programs must tell what they otherwise need not."""
    return asked.detail or not {"cpu", "pid", "mark", "len"}.isdisjoint(asked.columns)


def _attend(
    session: "Session", run: _Run, what: Plan, view: _View, *, verbose: bool, started: float,
    meanwhile: Optional[Callable[[], None]] = None,
) -> int:  # fmt: skip
    """Runs what is set up from the attaching of the probes to the summary; meanwhile: to be done beside it."""
    session.attach()
    skipped = [*what.skipped, *session.skipped]
    _report(skipped, session.attached, started)
    with _Signals() as signals:
        view.begin(skipped, session.attached)
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        while not run.done and not signals.stop:
            run.step()
        run.finish()
        view.end(run.summary(skipped=len(skipped)), verbose=verbose)
        session.detach()
    return 0


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


def _multi(backend: str, kernel: Kernel) -> bool:
    if backend == "kprobe-multi" and not kernel.features.kprobe_multi:
        raise KernelError(
            "this kernel cannot attach many functions at once (CONFIG_FPROBE is off or it is older than 5.18): "
            "leave --backend out"
        )
    return kernel.features.kprobe_multi and backend != "kprobe"


def _report(skipped: Sequence[Skipped], attached: int, started: float) -> None:
    log.debug("%d probes attached %.2f s after the start", attached, time.monotonic() - started)
    for skip in skipped:
        log.info("%s is skipped: %s", skip.trace.name, skip.reason)
