"""From the options to what a run attaches: a function for each mode."""

import argparse
import functools

from . import counted, drops, live, options, plan, selection, trouble
from .errors import KernelError, UsageError
from .filters import PacketFilter
from .kernel import Kernel
from .names import RTT_FUNCTION
from .plan import Plan
from .requirements import require_drops, require_tracing
from .rules import Rules
from .selection import Selection
from .settings import Settings
from .starts import Setup
from .tree import Tree

# How many peers --rtt-by-peer tells apart; what there are more is counted.
PEERS_MAX = 1024
# The ring of --monitor, which sends little.
MONITOR_PAGES = 256
# Where a table is all that is printed, nothing is said of single events.
_NO_RULES = Rules(())


def choose(
    asked: argparse.Namespace, traces: Tree, meanings: Rules, kernel: Kernel, packet_filter: PacketFilter
) -> Setup:
    """What was asked for, on this kernel; raises UsageError and KernelError where that cannot be."""
    if asked.drop:
        return _drop(asked, traces, meanings, kernel, packet_filter)
    if asked.rtt:
        return _rtt(asked, traces, kernel)
    if asked.monitor:
        return _monitor(asked, traces, meanings, kernel, packet_filter)
    if not asked.sock and (packet_filter.srtt_us or packet_filter.min_rtt_us):
        raise UsageError("--filter-srtt and --filter-minrtt are about sockets: give --sock, --rtt or --rtt-detail too")
    narrowed = asked.trace is not None and "all" not in [word.strip() for word in asked.trace.split(",")]
    if packet_filter.is_empty and not narrowed and asked.count is None and not asked.force:
        raise UsageError(
            "tracing every packet of the host would slow it down: give a filter (-p, --addr, --port, ...), "
            "traces (-t), a count (-c), or --force"
        )
    return _sock(asked, traces, meanings, kernel) if asked.sock else _packets(asked, traces, meanings, kernel)


def multi_of(backend: str, kernel: Kernel) -> bool:
    """Whether functions are attached all at once; raises KernelError if that was asked for and cannot be."""
    if backend == "kprobe-multi" and not kernel.features.kprobe_multi:
        raise KernelError(
            "this kernel cannot attach many functions at once (CONFIG_FPROBE is off or it is older than 5.18): "
            "leave --backend out"
        )
    return kernel.features.kprobe_multi and backend != "kprobe"


def _packets(asked: argparse.Namespace, traces: Tree, meanings: Rules, kernel: Kernel) -> Setup:
    """Packets, followed or (--basic) not, and how long they took."""
    if not asked.print_bpf:
        require_tracing(kernel)
    if asked.latency_summary or asked.paths:
        meanings = _NO_RULES
    also = {*meanings.tell_trouble, *(trace.name for trace in traces.traces() if trace.nft)}
    selected = selection.choose(
        traces, kernel, trace=asked.trace, exclude=asked.trace_exclude, matcher=asked.trace_matcher,
        free=asked.trace_free, stack=asked.trace_stack, ret=asked.ret, basic=asked.basic,
        hooks=asked.hooks, also=also if asked.diag else (),
        return_at=meanings.need_return if asked.diag else (), latency=asked.latency or asked.paths,
        latency_free=asked.latency_free, packets=(asked.pcap_at or "all") if asked.snaplen else None,
    )  # fmt: skip
    settings = Settings(
        follow=not asked.basic,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=options.with_detail(asked),
        count_hits=asked.func_stats,
        latency=asked.latency or asked.paths,
        latency_summary=asked.latency_summary,
        paths=asked.paths,
    ).with_packets(asked.snaplen)
    multi = multi_of(asked.backend, kernel)
    clones = settings.follow and not asked.trace_noclone
    what = plan.make(selected.traces, kernel, selected.wishes, clones=clones, cookies=multi)
    _check_matching(what, selected)
    return Setup(
        what, settings, meanings, multi, selected.wishes.stack_at, selected.wishes.end_at,
        counted.latencies if asked.latency_summary else counted.paths if asked.paths else None,
    )  # fmt: skip


def _sock(asked: argparse.Namespace, traces: Tree, meanings: Rules, kernel: Kernel) -> Setup:
    """--sock and --rtt-detail: hits of functions that take a socket."""
    if not asked.print_bpf:
        require_tracing(kernel)
    selected = selection.choose_sockets(
        traces, kernel, trace=asked.trace, exclude=asked.trace_exclude, stack=asked.trace_stack
    )
    multi = multi_of(asked.backend, kernel)
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
    return Setup(what, settings, meanings, multi, selected.wishes.stack_at)


def _rtt(asked: argparse.Namespace, traces: Tree, kernel: Kernel) -> Setup:
    """--rtt: round trips, counted in the kernel."""
    if not asked.print_bpf:
        require_tracing(kernel)
    selected = selection.choose_sockets(traces, kernel, trace=RTT_FUNCTION)
    multi = multi_of(asked.backend, kernel)
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
    return Setup(
        what, settings, _NO_RULES, multi, table=functools.partial(counted.round_trips, by_peer=asked.rtt_by_peer)
    )


def _monitor(
    asked: argparse.Namespace, traces: Tree, meanings: Rules, kernel: Kernel, packet_filter: PacketFilter
) -> Setup:
    """--monitor: what tells of trouble, and only when it does."""
    if not asked.print_bpf:
        require_tracing(kernel)
    watched = selection.choose_monitored(traces, kernel, trace=asked.trace, exclude=asked.trace_exclude)
    has_rtt_limit = bool(packet_filter.srtt_us or packet_filter.min_rtt_us)
    timed = plan.TIMED if asked.metrics is not None else (RTT_FUNCTION,) if has_rtt_limit else ()
    multi = multi_of(asked.backend, kernel)
    what = plan.make_monitor(
        watched, kernel, meanings.need_return, meanings.ask_verdict,
        tracing=kernel.features.tracing and asked.backend == "auto",
        timed=[trace for trace in traces.traces() if trace.name in timed],
    )  # fmt: skip
    host, traced = live.Running(kernel, asked.evidence_time), live.traced(what)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=options.with_detail(asked),
        count_hits=asked.func_stats,
        trouble=trouble.c_text(what, live.judge(host, traced, meanings), live.return_types(host, traced)),
        drops=drops.choose(kernel, count=True, harmless=live.harmless_reasons()),
        count_rtt=bool(timed),
        tracked_max=1,
        ringbuf_pages=MONITOR_PAGES,
    )
    return Setup(what, settings, meanings, multi)


def _drop(
    asked: argparse.Namespace, traces: Tree, meanings: Rules, kernel: Kernel, packet_filter: PacketFilter
) -> Setup:
    """--drop: one tracepoint, and what it tells."""
    if not asked.print_bpf:
        require_drops(kernel)
    unread = kernel.lockdown == "confidentiality"
    (trace,) = [trace for trace in traces.traces() if trace.role == "drop"]
    what = plan.of_drops(trace, kernel, stack=asked.drop_stack, unread=unread, snaplen=asked.snaplen)
    if not what.probes:
        raise KernelError(f"this kernel does not tell of drops: {what.skipped[0].reason}")
    if unread:
        if asked.snaplen:
            raise KernelError("this kernel lets nobody read packets (lockdown): leave out --pcap and --snaplen")
        protocol_known = what.probes[0].program.kind == "drop_record"
        drops.refuse_contents(packet_filter, asked.columns, protocol_known=protocol_known)
    settings = Settings(
        follow=False,
        ringbuf=kernel.features.ringbuf and not asked.perf_buffer,
        detail=options.with_detail(asked),
        drops=drops.choose(kernel, reasons=asked.reason, count=asked.drop_stat, unread=unread),
        ringbuf_pages=1 if asked.drop_stat else Settings.ringbuf_pages,
    ).with_packets(asked.snaplen)
    return Setup(
        what, settings, meanings,
        stack_at=[probe.trace.name for probe in what.probes] if asked.drop_stack else (),
        shortages=drops.shortages(kernel, unread=unread),
    )  # fmt: skip


def _check_rtt(what: Plan) -> None:
    """Raises KernelError if round trips cannot be read."""
    if any(probe.program.kind == "function_return" for probe in what.probes):
        return
    reason = what.skipped[0].reason if what.skipped else "its arguments are not those that nettrace knows"
    raise KernelError(f"this kernel does not tell of round trips: {RTT_FUNCTION}: {reason}")


def _check_matching(what: Plan, selected: Selection) -> None:
    """Raises KernelError if no packet could ever be seen."""
    matching = selected.wishes.match_at or ()
    if not any(probe.trace.name in matching for probe in what.probes):
        reasons = "; ".join(f"{skip.trace.name}: {skip.reason}" for skip in what.skipped if skip.trace.name in matching)
        raise KernelError(f"none of the traces where packets would be matched exists on this kernel: {reasons}")
