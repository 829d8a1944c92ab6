"""The options of the command line: what there is, how the help tells of it, and what contradicts what."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Optional

from .errors import UsageError
from .names import COLUMNS, RTT_FUNCTION, SNAPLEN_MAX
from .suggest import did_you_mean
from .version import __version__

if TYPE_CHECKING:
    from .filters import PacketFilter

# Bytes of each packet that --pcap writes: the headers, tunnels and all.
SNAPLEN = 256
# What --output takes too, as older programs called it.
_COLUMN_ALIASES = {"module": "group"}

_USAGE = "nettrace [options] [expression]"
_DESCRIPTION = """\
Follows network packets through the Linux kernel: each packet's path, function by function.
The expression is one of pcap-filter(7), as for tcpdump, and best quoted."""
EXAMPLES = (
    ("nettrace -p icmp --addr 10.0.42.2", "follow every ping from or to that address"),
    ("nettrace -p tcp -D 443 -c 10", "the first ten packets to port 443"),
    ("nettrace 'udp port 53 or icmp'", "as tcpdump would choose them"),
    ("nettrace -t tcp-in,life -S 8080 --basic", "each hit of those traces by itself"),
    ("nettrace -p udp --trace-stack kfree_skb", "with the way to each drop"),
    ("nettrace -p tcp --ret --latency-show", "what functions return, and how long they take"),
    ("nettrace --drop -p tcp", "why and where TCP packets are dropped"),
    ("nettrace -p tcp --diag-keep", "what went wrong, why, and what to do"),
    ("nettrace -p tcp -w incident.ntr", "recorded, for nettrace -r incident.ntr"),
    ("nettrace -t '?'", "the traces, and what this kernel has of them"),
)
_EPILOG = "examples:\n" + "".join(f"  {command:<40} {what}\n" for command, what in EXAMPLES)

# Options that say nothing where packets are not followed, and where none are printed: their names in the
# namespace that the parser makes.
_NOT_WITH_BASIC = (
    "trace_noclone", "ret", "min_latency", "latency_show", "latency_free", "tiny_show", "timeline",
)  # fmt: skip
_NOT_WITH_STATS = (
    "ret", "detail", "output", "date", "latency_show", "latency_free", "tiny_show", "timeline", "min_latency",
    "trace_stack", "stack", "pcap", "pcap_at", "snaplen",
)  # fmt: skip
_NOT_WITH_DROP = (
    "trace", "trace_exclude", "trace_matcher", "trace_free", "trace_stack", "stack", "ret", "trace_noclone", "basic",
    "func_stats", "min_latency", "latency_show", "latency_free", "tiny_show", "timeline",
    "pcap_at",
)  # fmt: skip
_NOT_WITH_DROP_STAT = ("drop_stack", "detail", "output", "date", "pcap", "snaplen")
_NOT_WITH_LATENCY = (
    "diag", "drop", "basic", "func_stats", "latency_show", "tiny_show", "timeline", "ret", "hooks", "detail", "output",
    "trace_stack", "stack", "pcap", "pcap_at", "snaplen",
)  # fmt: skip
_NOT_WITH_PATHS = (
    *_NOT_WITH_LATENCY, "date", "latency", "latency_summary", "latency_free", "min_latency", "sock", "rtt",
    "rtt_by_peer", "rtt_detail", "monitor",
)  # fmt: skip
_NOT_WITH_SOCKETS = (
    *_NOT_WITH_BASIC, "basic", "diag", "drop", "latency", "latency_summary", "trace_matcher", "trace_free", "tcp_flags",
    "pkt_len", "mark", "iface", "inner", "expression",
    "pcap", "pcap_at", "snaplen",
)  # fmt: skip
_NOT_WITH_RTT = (
    "trace", "trace_exclude", "trace_stack", "stack", "func_stats", "detail", "output", "date",
)  # fmt: skip
_NOT_WITH_MONITOR = (
    *_NOT_WITH_BASIC, "basic", "diag", "drop", "latency", "latency_summary", "sock", "rtt", "rtt_detail",
    "trace_matcher", "trace_free", "trace_stack", "stack", "pcap", "pcap_at", "snaplen",
)  # fmt: skip
# What only a live run can do.
_NOT_WITH_READ = (
    "write", "trace_matcher", "trace_free", "trace_stack", "stack", "hooks", "drop_stack", "reason", "rate_limit",
    "force", "perf_buffer", "btf_path", "print_bpf", "print_filter", "metrics", "snaplen",
    "max_cpu", "stats",
)  # fmt: skip
# A page has all of it.
_NOT_WITH_REPORT = (
    "json", "diag", "ret", "detail", "output", "date", "latency", "latency_summary", "latency_show", "latency_free",
    "tiny_show", "paths",
)  # fmt: skip
# All that two recordings can be asked for.
_WITH_DIFF = (
    "diff", "json", "verbose", "debug", "saddr", "daddr", "addr", "sport", "dport", "port", "proto", "tcp_flags",
    "pkt_len", "mark", "iface", "netns", "netns_current", "pid", "comm", "inner", "expression",
)  # fmt: skip
# A copy of a recording is of all of it.
_WITH_COPY = ("read", "write", "anonymise", "anonymise_key", "verbose", "debug")
_NOT_WITH_ANONYMISE = ("pcap", "pcap_at", "snaplen", "expect", "report")
_NOT_WITH_ASSERT = (
    "basic", "func_stats", "drop", "latency", "latency_summary", "monitor", "metrics", "sock", "rtt", "rtt_by_peer",
    "rtt_detail", "paths", "report", "diag", "json", "pcap",
)  # fmt: skip
_SOCKET_COLUMNS = ("id", "cpu", "netns", "pid", "group", "mark")
# What --inner is about.
_HEADERS = ("saddr", "daddr", "addr", "sport", "dport", "port", "proto", "tcp_flags", "pkt_len")
_SPELLINGS = {
    "timeline": "--timeline (--skb-mode)", "trace": "-t", "expression": "a filter expression", "write": "-w",
    "expect": "--assert", "btf_path": "--btf",
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, where argparse would print all of the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; nettrace -h lists the options")


class _Once(argparse.Action):
    """Stores a value and refuses a second one: all that is given must hold, not what was given last."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Optional[str] = None
    ) -> None:
        before = getattr(namespace, self.dest)
        if before not in (self.default, values):
            raise UsageError(f"{option} is given twice, as '{before}' and as '{values}': leave one of them out")
        setattr(namespace, self.dest, values)


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    """The options, checked for what can be told without a kernel; raises UsageError.

    Beside what the command line names: `expression`, the words that are no options, or None;
    `columns`, what is shown of each hit beside what --detail stands for; `count`, a number.
    """
    known = parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, words = known.parse_known_args(arguments[:end])
    for word in words:
        if word.startswith("-") and word != "-":  # which is a minus
            hint = _similar(known, word) or "; nettrace -h lists the options"
            raise UsageError(f"there is no option {word}{hint}")
    words += arguments[end + 1 :]
    options.expression = " ".join(words) if words else None
    options.anonymise |= options.anonymise_key is not None
    changed = [name for name, value in vars(options).items() if value != known.get_default(name)]
    if options.diff is not None:
        _refuse(options, [name for name in changed if name not in _WITH_DIFF], "--diff, which compares two recordings")
    if options.read is not None and options.anonymise:
        if options.write is None:
            raise UsageError("-r and --anonymise make another recording: give -w FILE too, and read that one")
        _refuse(
            options, [name for name in changed if name not in _WITH_COPY], "-r and --anonymise, which copy all of it"
        )
    options.count = _positive("-c", options.count)
    megabytes = _positive("-C", options.rotate_size)
    options.rotate_size = None if megabytes is None else megabytes * 1_000_000
    options.rotate_count = _positive("-W", options.rotate_count)
    options.columns = _columns(options.output)
    options.snaplen = _bytes("--snaplen", options.snaplen, SNAPLEN_MAX)
    options.drop |= options.drop_stack or options.drop_stat or options.reason is not None
    options.diag |= options.diag_quiet or options.diag_keep or options.hooks
    options.diag |= options.evidence_time != "0.5"
    options.max_cpu = _percent("--max-cpu", options.max_cpu)
    options.stats |= options.max_cpu is not None
    options.evidence_time = _seconds("--evidence-time", options.evidence_time)
    _check(options)
    if options.pcap is not None and options.read is None:
        options.snaplen = options.snaplen or SNAPLEN
    if options.rtt_detail:
        options.trace = RTT_FUNCTION
    options.sock |= options.rtt_detail
    options.rtt |= options.rtt_by_peer
    if options.stack:
        options.trace_stack = "all"
    # Whoever asks for slow packets wants to see how slow.
    options.latency_show |= options.latency_free or options.min_latency is not None
    options.latency |= options.latency_summary
    return options


def packet_filter(asked: argparse.Namespace, namespace: Optional[int]) -> "PacketFilter":
    """The conditions on packets; namespace: the inode of the one that they must be in."""
    from . import filters

    return filters.parse(
        saddr=asked.saddr, daddr=asked.daddr, addr=asked.addr, sport=asked.sport, dport=asked.dport, port=asked.port,
        proto=asked.proto, tcp_flags=asked.tcp_flags, pkt_len=asked.pkt_len, pid=asked.pid, comm=asked.comm,
        netns=namespace, iface=asked.iface, mark=asked.mark, expression=asked.expression, inner=asked.inner,
        filter_srtt=asked.filter_srtt, filter_minrtt=asked.filter_minrtt,
        min_latency=asked.min_latency, rate_limit=asked.rate_limit,
    )  # fmt: skip


def with_detail(asked: argparse.Namespace) -> bool:
    """Whether the programs must tell what they otherwise need not."""
    return asked.detail or not {"cpu", "pid", "mark", "len"}.isdisjoint(asked.columns)


def _check(options: argparse.Namespace) -> None:
    """Refuses what contradicts itself."""
    if options.netns is not None and options.netns_current:
        raise UsageError("--netns and --netns-current name two namespaces: leave one of them out")
    if options.stack and options.trace_stack is not None:
        raise UsageError("--stack is for all traces, --trace-stack for some: leave one of them out")
    if options.print_filter and options.print_bpf:
        raise UsageError("--print-filter and --print-bpf print and exit: leave one of them out")
    if options.trace is not None and options.trace.strip() != "?" and "?" in _words(options.trace):
        raise UsageError("-t: '?' lists the traces and stands alone: leave the others out")
    if options.inner and all(getattr(options, name) is None for name in _HEADERS):
        raise UsageError(
            "--inner needs a condition on headers that may hold inside, such as -p, --addr or --port: "
            "all other conditions are about the packet as it is"
        )
    _check_recording(options)
    if options.junit is not None and options.expect is None:
        raise UsageError("--junit is about what --assert found: give --assert too")
    if options.expect is not None:
        _refuse(options, _NOT_WITH_ASSERT, "--assert, which judges whole packets")
        if options.read is not None:
            _refuse(options, ("trace", "trace_exclude"), "-r and --assert, which names traces itself")
    _check_pcap(options)
    if options.diag:
        _refuse(options, ("basic", "func_stats", "drop"), "--diag, which follows packets")
    _check_drop(options)
    _check_latency(options)
    options.monitor |= options.metrics is not None
    if options.paths:
        _refuse(options, _NOT_WITH_PATHS, "--paths, which counts packets at each step")
    _check_sockets(options)
    if options.monitor:
        _refuse(options, _NOT_WITH_MONITOR, "--monitor, which waits for trouble")
    if options.basic:
        _refuse(options, _NOT_WITH_BASIC, "--basic, which follows no packet")
    if options.func_stats:
        _refuse(options, _NOT_WITH_STATS, "--func-stats, which prints no packet")


def _check_recording(options: argparse.Namespace) -> None:
    if options.anonymise:
        _refuse(options, _NOT_WITH_ANONYMISE, "--anonymise, which tells nothing of what is in packets")
    if options.read is not None and not options.anonymise:
        _refuse(options, _NOT_WITH_READ, "-r, which replays what was recorded")
    if options.report is not None:
        if options.read is None:
            raise UsageError("--report makes a page of a recording: give -r FILE too")
        _refuse(options, _NOT_WITH_REPORT, "--report, whose page has all that was recorded")
    if options.write is None and (options.rotate_size or options.rotate_count):
        raise UsageError("-C and -W are about the files that -w writes: give -w too")
    if options.rotate_count and not options.rotate_size:
        raise UsageError("-W needs -C, the size at which another file is begun")


def _check_pcap(options: argparse.Namespace) -> None:
    if options.pcap == "-" and options.json:
        raise UsageError("--pcap - and --json both write to the standard output: give --pcap the name of a file")
    if options.pcap is None and options.snaplen and options.write is None:
        raise UsageError("--snaplen is about packets that --pcap writes or -w records: give one of them too")
    if options.pcap_at is not None and options.pcap is None and not options.snaplen:
        raise UsageError("--pcap-at is about the packets that --pcap writes: give --pcap too")


def _check_drop(options: argparse.Namespace) -> None:
    if options.drop:
        _refuse(options, _NOT_WITH_DROP, "--drop, which only looks where packets are dropped")
    if options.drop_stat:
        _refuse(options, _NOT_WITH_DROP_STAT, "--drop-stat, which only counts")


def _check_latency(options: argparse.Namespace) -> None:
    if options.latency_summary:
        _refuse(options, (*_NOT_WITH_LATENCY, "date"), "--latency-summary, which prints no packet")
    elif options.latency:
        _refuse(options, _NOT_WITH_LATENCY, "--latency, which tells one time of each packet")


def _check_sockets(options: argparse.Namespace) -> None:
    """Refuses what says nothing of sockets."""
    modes = {"--sock": options.sock, "--rtt-detail": options.rtt_detail, "--rtt": options.rtt or options.rtt_by_peer}
    asked = [mode for mode, on in modes.items() if on]
    if not asked:
        return
    if options.rtt_detail and options.trace is not None:
        raise UsageError("--rtt-detail is about one function: leave out -t, or give it with --sock")
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} are two modes: leave one of them out")
    if options.rtt_detail:
        _refuse(options, ("trace_stack", "stack"), "--rtt-detail, which looks at round trips when they are measured")
    _refuse(options, _NOT_WITH_SOCKETS, f"{asked[0]}, which looks at sockets, not at packets")
    if asked[0] == "--rtt":
        _refuse(options, _NOT_WITH_RTT, "--rtt, which prints a table")
    for column in options.columns:
        if column not in _SOCKET_COLUMNS:
            raise UsageError(f"--output: {column} is a packet's, and {asked[0]} looks at sockets: leave it out")


def _refuse(options: argparse.Namespace, names: Sequence[str], other: str) -> None:
    for name in names:
        if getattr(options, name):
            spelling = _SPELLINGS.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{spelling} says nothing with {other}: leave one of them out")


def _similar(parser: argparse.ArgumentParser, word: str) -> str:
    """A suggestion for a misspelled long option."""
    if not word.startswith("--"):
        return ""
    known = [option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")]
    return did_you_mean(word[2:].partition("=")[0], known).replace("'", "'--", 1)


def _words(names: str) -> list[str]:
    return [word.strip() for word in names.split(",") if word.strip()]


def _columns(words: Optional[str]) -> tuple[str, ...]:
    if words is None:
        return ()
    columns = [_COLUMN_ALIASES.get(word.lower(), word.lower()) for word in _words(words)]
    for name in columns:
        if name not in COLUMNS:
            raise UsageError(
                f"--output: no column '{name}'{did_you_mean(name, COLUMNS)}; there are {', '.join(COLUMNS)}"
            )
    if not columns:
        raise UsageError(f"--output needs the name of a column; there are {', '.join(COLUMNS)}")
    return tuple(dict.fromkeys(columns))


def _positive(option: str, text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    number = _number(text)
    if not number:
        raise UsageError(f"{option} needs a whole number above 0, not '{text}'")
    return number


def _bytes(option: str, text: Optional[str], most: int) -> int:
    if text is None:
        return 0
    number = _number(text)
    if not number or number > most:
        raise UsageError(f"{option} needs a number of bytes from 1 to {most}, not '{text}'")
    return number


def _number(text: str) -> Optional[int]:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _percent(option: str, text: Optional[str]) -> Optional[float]:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text, re.ASCII) or float(text) == 0:
        raise UsageError(f"{option} needs a part of one CPU above 0 in percent, as 5 or 0.5, not '{text}'")
    return float(text)


def _seconds(option: str, text: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", text, re.ASCII):
        raise UsageError(f"{option} needs a number of seconds below 1000, as 0.5, not '{text}'")
    return float(text)


def parser() -> argparse.ArgumentParser:
    """All options, by groups, with what the help says of them."""
    parser = _Parser(
        prog="nettrace",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("action", None, _Once)
    parser.add_argument("-V", "--version", action="version", version=f"nettrace {__version__}")
    _add_modes(parser.add_argument_group("modes"))
    _add_packets(parser.add_argument_group("which packets (all that is given must hold)"))
    _add_traces(parser.add_argument_group("which traces (names of traces, groups, functions, and patterns as tcp_*)"))
    _add_output(parser.add_argument_group("what is shown"))
    _add_kept(parser.add_argument_group("recordings, and output for programs"))
    _add_running(parser.add_argument_group("running"))
    return parser


def placeholders(action: argparse.Action) -> tuple[str, ...]:
    """What stands for the values of an option where it is told."""
    if action.choices:
        return ("HOW",)
    return action.metavar if isinstance(action.metavar, tuple) else (action.metavar,) if action.metavar else ()


def told(action: argparse.Action) -> str:
    """What the help says of an option."""
    assert action.help is not None
    return action.help.replace("%%", "%")


def _add_modes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--diag", action="store_true", help="say what went wrong with a packet, why, and what to do; ends at an error")
    add("--diag-quiet", action="store_true", help="--diag, and only packets with a warning or an error")
    add("--diag-keep", action="store_true", help="--diag, and go on after an error")
    add(
        "--evidence-time", metavar="SECONDS", default="0.5",
        help="--diag, and evidence for a finding may take so long to read (default: 0.5); 0: none is read",
    )  # fmt: skip
    add("--hooks", action="store_true", help="--diag, and which functions are registered at netfilter hooks")
    add("--drop", action="store_true", help="only where packets are dropped: the reason and the place of each drop")
    add("--drop-stack", action="store_true", help="--drop, and the call stack")
    add("--reason", metavar="NAMES", help="--drop, and only these of the kernel's reasons, with commas")
    add("--drop-stat", action="store_true", help="--drop, and only how many there are, in a table every second")
    add("--latency", action="store_true", help="a line a packet: how long it took from the first trace to the last")
    add("--latency-summary", action="store_true", help="how long packets took, and where: two tables, every second")
    add(
        "--paths", action="store_true", help="which paths packets took, as a tree: how many, how fast, where they ended"
    )
    add(
        "--monitor", action="store_true", help="wait for trouble, a line each: drops, resets, retransmissions, refusals"
    )
    add(
        "--metrics", metavar="PORT|FILE",
        help="--monitor, and its counters for Prometheus: at a port (of loopback, or ADDRESS:PORT) or in a file",
    )  # fmt: skip
    add("--explain", metavar="NAME", help="tell what a trace, drop reason, reset reason or rule means, and exit")
    add("--sock", action="store_true", help="what happens to sockets, and their state")
    add("--rtt", action="store_true", help="round trips of TCP: how many took how long, every second")
    add("--rtt-by-peer", action="store_true", help="likewise, and for each peer by itself")
    add("--rtt-detail", action="store_true", help="each round trip that is measured, and the socket")
    add(
        "--filter-srtt", metavar="MS", help="only sockets whose smoothed round trip takes at least so many milliseconds"
    )
    add("--filter-minrtt", metavar="MS", help="likewise of the shortest round trip")


def _add_packets(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-s", "--saddr", metavar="IP", help="source address, IPv4 or IPv6, or a network as 10.0.0.0/8")
    add("-d", "--daddr", metavar="IP", help="destination address or network")
    add("--addr", metavar="IP", help="source or destination address or network")
    add("-S", "--sport", metavar="PORT", help="source port, or a range as 7000-7010")
    add("-D", "--dport", metavar="PORT", help="destination port or range")
    add("-P", "--port", metavar="PORT", help="source or destination port or range")
    add("-p", "--proto", metavar="NAME", help="protocol of layer 3 or 4: arp, ip, ipv6, tcp, icmp, ..., or its number")
    add("--tcp-flags", metavar="FLAGS", help="TCP with any of these flags, of SAPRFUEC; SA! means exactly S and A")
    add("--pkt-len", metavar="N", help="length of the IP packet in bytes, or a range as 100-200")
    add("--mark", metavar="N", help="mark of the packet (skb->mark), or VALUE/MASK")
    add("--iface", metavar="NAME", help="name of the device that the packet is at")
    add("--netns", metavar="NS", help="network namespace: a name, the number of a process, a path or an inode")
    add("--netns-current", action="store_true", help="nettrace's own network namespace")
    add("--pid", metavar="PID", help="number of the process that ran when the packet was first seen")
    add("--comm", metavar="NAME", help="name of the thread that ran then")
    add("--inner", action="store_true", help="the packet inside of a tunnel or an ICMP error may match instead")
    add(
        "--min-latency", metavar="TIME",
        help="packets that took at least so long: microseconds, or with a unit as 1.5ms",
    )  # fmt: skip
    add("--rate-limit", metavar="N", help="at most N packets a second (with --basic: N hits)")
    add("--print-filter", action="store_true", help="print what becomes of the conditions and exit")


def _add_traces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-t",
        "--trace",
        "--tracer",
        metavar="NAMES",
        help="these and no others, with commas; 'all' is the whole tree, '?' lists it",
    )
    add("--trace-exclude", metavar="NAMES", help="all but these")
    add("--trace-matcher", metavar="NAMES", help="packets are matched at these and nowhere else")
    add("--trace-free", metavar="NAMES", help="packets are followed up to these and no further")
    add("--trace-stack", "--stack-tracer", metavar="NAMES", help="show the call stack at these")
    add("--stack", action="store_true", help="show the call stack at all traces")
    add("--ret", action="store_true", help="show what the functions return")
    add("--trace-noclone", action="store_true", help="do not follow the clones and copies of a packet")
    add(
        "--backend", choices=("auto", "kprobe", "kprobe-multi"), default="auto",
        help="how functions are attached: one by one, or all at once where the kernel can (default: auto)",
    )  # fmt: skip


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--basic", action="store_true", help="each hit as it comes, not grouped by packet")
    add("--func-stats", action="store_true", help="only how often each trace was hit, every second")
    add("--detail", action="store_true", help="skb, CPU, interface, process and namespace of each hit")
    add("-o", "--output", metavar="COLUMNS", help=f"these columns too, with commas: {', '.join(COLUMNS)}")
    add("--date", action="store_true", help="date and time of day, not seconds since boot")
    add("--latency-show", action="store_true", help="the time from hit to hit, and of the whole path")
    add("--latency-free", action="store_true", help="likewise, and the whole path includes the freeing of the packet")
    add("--tiny-show", action="store_true", help="the headers of a packet only once, in the first line")
    add("--timeline", "--skb-mode", action="store_true", help="packets are followed and shown whole: the default")
    add("-c", "--count", metavar="N", help="end after N packets (with --basic: N hits)")
    add("-v", "--verbose", action="store_true", help="say more, for example why traces are skipped")


def _add_kept(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-w", "--write", metavar="FILE", help="record what is seen in this file too, to be shown again with -r")
    add("-C", "--rotate-size", metavar="MB", help="-w, and go on in FILE.1, FILE.2, ... after so many megabytes each")
    add("-W", "--rotate-count", metavar="N", help="-C, and keep only the last N files")
    add("-r", "--read", metavar="FILE", help="show a recording instead, on any host and without root")
    add("--report", metavar="FILE", help="-r, and make a page of it: HTML, for a post-mortem")
    add("--diff", nargs=2, metavar=("A", "B"), help="where the packets of two recordings part, and what differs there")
    add(
        "--assert", metavar="YAML", dest="expect",
        help="whether packets do what this file expects, in place of them; exit status 1: they do not",
    )  # fmt: skip
    add("--junit", metavar="XML", help="--assert, and its results in this file, too, as JUnit XML")
    add(
        "--pcap", metavar="FILE",
        help="write the packets themselves, too, as they are at each trace (pcapng, for Wireshark); -: to a pipe",
    )  # fmt: skip
    add("--pcap-at", metavar="NAMES", help="--pcap, and only at these traces, with commas")
    add(
        "--snaplen", metavar="BYTES",
        help=f"so much of each packet (default: {SNAPLEN}, at most {SNAPLEN_MAX}); with -w it is recorded",
    )  # fmt: skip
    add(
        "--anonymise", action="store_true",
        help="other addresses and names, in all that is shown and recorded; with -r and -w: a recording made so",
    )  # fmt: skip
    add(
        "--anonymise-key", metavar="FILE",
        help="--anonymise, and the same names for the same ones wherever this secret is used (16 bytes or more)",
    )  # fmt: skip
    add("--json", action="store_true", help="JSON, one object a line, with more than text has room for")
    add("--json-schema", action="store_true", help="print the JSON schema of these lines and exit")


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--force", "--force-stack", action="store_true", help="run without any filter, at whatever cost")
    add("--check", action="store_true", help="tell what this host offers to nettrace, and what to do about gaps; exit")
    add("--stats", action="store_true", help="tell at the end what the run cost: by hit, packet and CPU")
    add(
        "--max-cpu", metavar="PERCENT",
        help="--stats, and rather go without traces, or end, than take more than so much of one CPU",
    )  # fmt: skip
    add("--perf-buffer", action="store_true", help="use perf buffers even where a ring buffer exists")
    add("--btf", "--btf-path", metavar="FILE", dest="btf_path", help="read the kernel's types (BTF) from this file")
    add("--print-bpf", action="store_true", help="print the BPF program in C and exit")
    add("--debug", "--bpf-debug", action="store_true", help="show how the run is set up, and compiler logs")
