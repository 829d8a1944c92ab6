"""The command line: options, wiring, signals, exit statuses."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, Optional

from . import __version__, files, filters, plan, sinks, source, tree
from .errors import BpfError, KernelError, NettraceError, UsageError
from .kernel import Kernel, check
from .plan import Plan, Skipped
from .run import Run
from .source import Settings
from .tree import Trace

log = logging.getLogger("nettrace")

INTERRUPTED = 130

_EPILOG = """\
examples:
  nettrace -p icmp --addr 10.0.42.2        follow every ping from or to that address
  nettrace -p tcp -D 443 -c 10             the first ten packets to port 443
  nettrace -t tcp-in,life -S 8080 --basic  each hit of those traces by itself
  nettrace -t ?                            the traces, and what this kernel has of them
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the program and returns its exit status: 0, 1 for what failed, 2 for bad options."""
    debug = False
    try:
        options = _parser().parse_args(arguments)
        debug = options.debug
        level = logging.DEBUG if debug else logging.INFO if options.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        status = _main(options)
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


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, where argparse would print all of the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; nettrace -h lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nettrace",
        description="Follows network packets through the Linux kernel: each packet's path, function by function.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"nettrace {__version__}")

    packets = parser.add_argument_group("which packets (all that is given must hold)")
    packets.add_argument("-s", "--saddr", metavar="IP", help="source address, IPv4 or IPv6")
    packets.add_argument("-d", "--daddr", metavar="IP", help="destination address")
    packets.add_argument("--addr", metavar="IP", help="source or destination address")
    packets.add_argument("-S", "--sport", metavar="PORT", help="source port")
    packets.add_argument("-D", "--dport", metavar="PORT", help="destination port")
    packets.add_argument("-P", "--port", metavar="PORT", help="source or destination port")
    packets.add_argument(
        "-p", "--proto", metavar="NAME", help="protocol of layer 3 or 4: arp, ip, ipv6, tcp, icmp, ..."
    )

    traces = parser.add_argument_group("which traces")
    traces.add_argument(
        "-t", "--trace", metavar="NAMES", help="groups, traces or functions, with commas; 'all'; '?' lists them"
    )
    traces.add_argument("--trace-noclone", action="store_true", help="do not follow the clones and copies of a packet")
    traces.add_argument(
        "--backend", choices=("auto", "kprobe", "kprobe-multi"), default="auto",
        help="how functions are attached: one by one, or all at once where the kernel can (default: auto)",
    )  # fmt: skip

    output = parser.add_argument_group("what is shown")
    output.add_argument("--basic", action="store_true", help="each hit as it comes, not grouped by packet")
    output.add_argument("--detail", action="store_true", help="skb, CPU, interface, process and namespace of each hit")
    output.add_argument("--date", action="store_true", help="date and time of day, not seconds since boot")
    output.add_argument("-c", "--count", metavar="N", help="end after N packets (with --basic: N hits)")
    output.add_argument("-v", "--verbose", action="store_true", help="say more, for example why traces are skipped")

    running = parser.add_argument_group("running")
    running.add_argument("--force", action="store_true", help="run without any filter, at whatever cost")
    running.add_argument("--perf-buffer", action="store_true", help="use perf buffers even where a ring buffer exists")
    running.add_argument("--print-bpf", action="store_true", help="print the BPF program in C and exit")
    running.add_argument("--debug", action="store_true", help="show how the run is set up, and compiler logs")
    return parser


def _main(options: argparse.Namespace) -> int:
    traces = _tree()
    if options.trace is not None and options.trace.strip() == "?":
        kernel = Kernel()
        everything = plan.make(traces.traces(), kernel)
        sys.stdout.write(sinks.tree_text(traces, everything))
        return 0

    packet_filter = filters.parse(
        saddr=options.saddr, daddr=options.daddr, addr=options.addr,
        sport=options.sport, dport=options.dport, port=options.port, proto=options.proto,
    )  # fmt: skip
    count = _positive("-c", options.count)
    if options.basic and options.trace_noclone:
        raise UsageError("--trace-noclone says nothing with --basic, which follows no packet: leave one of them out")
    named = _named(options, traces)
    if (
        packet_filter.is_empty
        and named in (None, frozenset(trace.name for trace in traces.traces()))
        and count is None
        and not options.force
    ):
        raise UsageError(
            "tracing every packet of the host would slow it down: give a filter (-p, --addr, --port, ...), "
            "traces (-t), a count (-c), or --force"
        )
    kernel = Kernel()
    if not options.print_bpf:
        check(kernel)
    settings = Settings(
        follow=not options.basic,
        ringbuf=kernel.features.ringbuf and not options.perf_buffer,
        detail=options.detail,
    )
    multi = _multi(options.backend, kernel)
    what = plan.make(
        _attached(options, traces, named),
        kernel,
        clones=settings.follow and not options.trace_noclone,
        match_at=_matched(options, traces, named),
        cookies=multi,
    )
    text = source.render(what, kernel.btf, settings, packet_filter.constants(), files.BPF)
    if options.print_bpf:
        sys.stdout.write(text)
        return 0
    return _run(options, kernel, what, settings, multi, text, count)


def _run(
    options: argparse.Namespace, kernel: Kernel, what: Plan, settings: Settings, multi: bool, text: str,
    count: Optional[int],
) -> int:  # fmt: skip
    from .bpf import Session

    started = time.monotonic()
    sink = sinks.Text(
        sys.stdout,
        location=lambda address: _location(kernel, address),
        reason=kernel.drop_reason,
        detail=options.detail,
        wall_offset_ns=time.time_ns() - time.monotonic_ns() if options.date else None,
    )
    with Session(text, files.BPF, what, settings, multi) as session:
        log.debug("compiled in %.2f s", time.monotonic() - started)
        run = Run(session, kernel, what, settings, sink, count=count, join_clones=not options.trace_noclone)
        session.attach()
        skipped = [*what.skipped, *session.skipped]
        _report(skipped, session.attached, started)
        with _Signals() as signals:
            sink.note("begin trace...")
            while not run.done and not signals.stop:
                run.step()
            run.finish()
            sink.note("end trace...")
            print(run.summary(skipped=len(skipped)).text(options.verbose), file=sys.stderr, flush=True)
            session.detach()
    return 0


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


def _named(options: argparse.Namespace, traces: tree.Tree) -> Optional[frozenset[str]]:
    """The traces that -t stands for; None without it."""
    if options.trace is None:
        return None
    names = [name.strip() for name in options.trace.split(",") if name.strip()]
    if not names:
        raise UsageError("-t needs the name of a trace or group; '-t ?' lists them")
    return frozenset(trace.name for trace in traces.select(names))


def _attached(options: argparse.Namespace, traces: tree.Tree, named: Optional[frozenset[str]]) -> Sequence[Trace]:
    """The traces to attach.

    A followed packet's record is sent when it is freed, so the traces that tell so are always there.
    """
    if named is None:
        return traces.default()
    return [
        trace
        for trace in traces.traces()
        if trace.name in named or (trace.role is not None and not options.basic and trace.default)
    ]


def _matched(
    options: argparse.Namespace, traces: tree.Tree, named: Optional[frozenset[str]]
) -> Optional[frozenset[str]]:
    """The traces where packets are matched: those asked for by name, or the tree's own choice.

    Hits that stand for themselves are all matched.
    """
    everything = frozenset(trace.name for trace in traces.traces())
    if options.basic:
        return everything
    return None if named == everything else named


def _multi(backend: str, kernel: Kernel) -> bool:
    if backend == "kprobe-multi" and not kernel.features.kprobe_multi:
        raise KernelError(
            "this kernel cannot attach many functions at once (CONFIG_FPROBE is off or it is older than 5.18): "
            "leave --backend out"
        )
    return kernel.features.kprobe_multi and backend != "kprobe"


def _positive(option: str, text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UsageError(f"{option} needs a whole number above 0, not '{text}'")
    return int(text)


def _location(kernel: Kernel, address: int) -> str:
    symbol = kernel.symbols.lookup(address)
    return f"0x{address:x}" if symbol is None else f"{symbol.name}+0x{symbol.offset:x}"


def _report(skipped: Sequence[Skipped], attached: int, started: float) -> None:
    log.debug("%d probes attached %.2f s after the start", attached, time.monotonic() - started)
    for skip in skipped:
        log.info("%s is skipped: %s", skip.trace.name, skip.reason)
