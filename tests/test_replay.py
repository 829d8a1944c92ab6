"""What a run showed, shown again from its recording: the same, by whatever it is shown."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Union

import pytest

import nettrace
from nettrace import cli, commands, host, live, options, pcap, rules, tree, view
from nettrace import player as players
from nettrace.cost import Cost
from nettrace.errors import StreamError
from nettrace.event import Context, Detail, Device, Drop, Event, Record, Return, Socket
from nettrace.evidence import Evidence
from nettrace.header import Header
from nettrace.host import Traced
from nettrace.kernel import Symbol
from nettrace.lifecycle import Lifecycle
from nettrace.player import Player
from nettrace.recorder import Recorder
from nettrace.recording import Writer
from nettrace.rules import Rules
from nettrace.sinks import Summary
from nettrace.tables import DropCounts, FunctionStats, LatencySummary, PathNode, Paths, RoundTrips, Table
from nettrace.tree import Tree
from tests import record_pcap

from .headers import IP, PING, TCP, packet, tcp
from .test_tables import TABLES, histogram

HOME, ELSEWHERE = 4026531840, 4026532999
T = 5_000_000_000_000
SKB, CLONE = 0xFFFF888100000100, 0xFFFF888100000200
CODE = 0xFFFFFFFF81000000

FUNCTIONS = {
    "ip_rcv": "int", "nf_hook_slow": "int", "tcp_v4_rcv": "int", "skb_clone": "struct sk_buff *", "__kfree_skb": "void",
    "tcp_v4_send_reset": "void", "sk_filter_trim_cap": "enum skb_drop_reason",
}  # fmt: skip
TRACES = (
    *(Traced(name, "tcp-in", {"skb_clone": "clone", "__kfree_skb": "free"}.get(name), "?", name) for name in FUNCTIONS),
    Traced("kfree_skb", "life", "drop", "packets that are dropped", None),
    Traced("consume_skb", "life", "free", "packets that are freed", None),
)


class Changing:
    """A host on which things have names for a while only."""

    own_netns = HOME
    tick_ns = 4_000_000

    def __init__(self) -> None:
        self.asked = 0

    def symbol(self, address: int) -> Optional[Symbol]:
        return None if address % 3 == 0 else Symbol("tcp_v4_rcv", address - CODE, None, "" if address % 2 else "nf")

    def drop_reason(self, number: int) -> str:
        return {3: "NO_SOCKET", 2: "NOT_SPECIFIED"}.get(number, str(number))

    def enum_names(self, enum: str) -> dict[int, str]:
        return {3: "SKB_DROP_REASON_NO_SOCKET"} if enum == "skb_drop_reason" else {}

    def return_type(self, function: str) -> Optional[str]:
        return FUNCTIONS[function]

    def netns(self, inode: int) -> Optional[str]:
        self.asked += 1
        return None if inode == HOME else f"blue{self.asked // 4}"

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        self.asked += 1
        return ("curl", self.asked // 3) if inode != 99 else None

    def evidence(self, finding: Any, context: Context) -> list[Evidence]:
        self.asked += 1
        return [Evidence("/proc/net/tcp", f"asked {self.asked} times")]


class Nobody:
    """A host that must not be asked."""

    own_netns = HOME

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"the host was asked for {name}")


LO, ETH0 = Device(1, "lo", HOME), Device(2, "eth0", ELSEWHERE)
REQUEST = packet(IP, TCP, tcp(2), source="10.0.0.1", target="10.0.0.2")
TRANSLATED = packet(IP, TCP, tcp(2), source="10.0.0.1", target="192.168.0.2")


def detail(socket: int = 7, cpu: int = 1) -> Detail:
    return Detail(cpu, 12, 12, "curl\\n", 0x10, 98, socket)


def steps(start: int, skb: int, *rows: tuple[str, Any, Optional[Device], dict[str, Any]]) -> tuple[Event, ...]:
    return tuple(
        Event(start + 1500 * number, trace, skb, headers, number, device, **{"detail": detail(), **more})
        for number, (trace, headers, device, more) in enumerate(rows)
    )


def packet_of(number: int) -> list[Record]:
    """A request that is translated, cloned and dropped; what functions return comes first, as it may."""
    own, start, base = 8 * number, T + 10_000_000 * number, SKB + number
    facts = (("family", 2), ("hook", 1), ("functions", 1), ("function0", CODE + 4))
    first = steps(
        start, base,
        ("ip_rcv", REQUEST, LO, {}),
        ("nf_hook_slow", REQUEST, LO, {"facts": facts}),
        ("skb_clone", TRANSLATED, ETH0, {"detail": detail(99)}),
        ("tcp_v4_rcv", TRANSLATED, ETH0, {"stack": (CODE + 1, CODE + 3, CODE + 5)}),
        ("kfree_skb", TRANSLATED, ETH0, {"drop": Drop(CODE + 0x13 + number, 3)}),
    )  # fmt: skip
    clone = steps(
        start + 3100, CLONE + number, ("tcp_v4_rcv", TRANSLATED, None, {}), ("consume_skb", TRANSLATED, LO, {})
    )
    back = Return(start + 9000, (1 << 64) - 1)
    return [
        Record(own, own, 0, base, 0, False, False, 0, 2, (), 0, ((1, back),)),
        Record(own, own, 0, base, 1, True, False, 0, 20, first, 1),
        Record(own, own + 1, own, CLONE + number, 0, True, False, 0, 9, clone),
    ]


PACKETS = [record for number in range(1, 9) for record in packet_of(number)]
# Whose ends were not seen: one without its beginning, one that goes on.
OPEN = [
    Record(800, 800, 0, SKB, 0, False, False, 4, 6, steps(T + 10**9, SKB, ("ip_rcv", PING, LO, {}))),
    Record(900, 900, 0, SKB, 0, False, False, 0, 6, steps(T + 10**9, SKB, ("ip_rcv", PING, LO, {"detail": None}))),
]
SINGLE = [
    Record(n, n, 0, SKB, 0, False, True, 0, 5, steps(T + n, SKB, ("ip_rcv", PING, LO, {})))._replace(single=True)
    for n in range(1, 6)
]
SOCKETS = [
    Record(1, 1, 0, SKB, 0, False, True, 0, 5, steps(T, SKB, ("tcp_v4_rcv", REQUEST, LO, {"socket": state})))
    for state in (
        Socket(1, True, timer=1, timer_ns=-5), Socket(6, False), Socket(2, True, rtt_us=1, srtt_us=2, rtt_min_us=3),
    )
]  # fmt: skip
LATENCY = [
    Record(n, n, 0, SKB, 0, True, True, 0, 5, tuple(
        Event(T + n * at, trace, SKB, PING) for at, trace in ((9, "consume_skb"), (1, "ip_rcv"), (8, "tcp_v4_rcv"))
    ))
    for n in range(1, 4)
]  # fmt: skip

Item = Union[Record, Table, tuple[str, int]]
RUNS: dict[str, list[Item]] = {
    "packets": [*PACKETS[:9], ("clock", 10**18), *PACKETS[9:], ("expire", T + 10**8), *OPEN, ("expire", T + 10**11)],
    "events": [*SINGLE[:2], ("gap", 3), *SINGLE[2:], ("clock", 10**18 + 7 * 10**9), *SINGLE],
    "drops": [record._replace(events=record.events[-1:]) for record in PACKETS if len(record.events) == 5],
    "sockets": list(SOCKETS),
    "trouble": [record for record in PACKETS if record.events and not record.parent_id],
    "latency": list(LATENCY),
    "function-stats": [FunctionStats({"ip_rcv": 1}), FunctionStats({"ip_rcv": 2, "tcp_v4_rcv": 0})],
    "latency-summary": [table for table in TABLES if isinstance(table, LatencySummary)],
    "rtt": [RoundTrips(histogram(3), histogram(4), histogram(5)), *(t for t in TABLES if isinstance(t, RoundTrips))],
    "drop-stat": [DropCounts({(3, CODE + 1): 4, (None, CODE): 1}, 1.5, last) for last in (False, True)],
    "paths": [
        Paths(
            [
                PathNode(-1, "ip_rcv", None, count, 0, histogram()),
                PathNode(0, "kfree_skb", (3, CODE + 1), count - 1, count - 1, histogram(5)),
                PathNode(0, "kfree_skb", (None, CODE), 1, 1, histogram(7)),
            ], count, 0,
        )
        for count in (2, 3)
    ],
}  # fmt: skip
SUMMARY = Summary(
    unit="packets", shown=0, events=0, lost_messages=(0, 3), lost_packets=1, unread_messages=0, missed_hits=2,
    untracked=0, evicted=0, unfinished=0, incomplete=0, skipped=1,
    cost=Cost(2_000_000_000, 4, 700, 90_000, 800_000_000, {"ip_rcv": 60_000, "kfree_skb": 30_000}, ("ip_output",)),
)  # fmt: skip


@pytest.fixture
def meanings(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> Rules:
    """What is shipped, read once for all tests."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)
    return shipped


def asked_for(*arguments: str) -> Any:
    asked = options.parse(arguments)
    asked.command = arguments
    return asked


MODES = {
    "packets": [], "events": ["--basic"], "drops": ["--drop"], "sockets": ["--sock"], "trouble": ["--monitor"],
    "latency": ["--latency"],
    "function-stats": ["--func-stats"], "latency-summary": ["--latency-summary"], "rtt": ["--rtt"],
    "drop-stat": ["--drop-stat"], "paths": ["--paths"],
}  # fmt: skip


def play(mode: str, taker: Any) -> None:
    for item in RUNS[mode]:
        if isinstance(item, Record):
            taker.push(item)
        elif isinstance(item, tuple) and isinstance(item[0], str):
            getattr(taker, item[0])(item[1])
        else:
            taker.table(item)
    taker.close(T + 10**12)
    taker.flush()


def header_of(mode: str) -> Header:
    return Header(
        mode=mode, unit="packets", command=("-p", "tcp"), kernel="6.12.1", clock_offset_ns=1_700_000_000_123_456_789,
        utc_offset_s=7200, own_netns=HOME, tick_ns=4_000_000, traces=TRACES,
        skipped=(("tcp_ack", "not there"),), attached=7, detail=True,
    )  # fmt: skip


def live_run(
    mode: str, path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch, *arguments: str, flush_each: int = 0
) -> tuple[str, Player]:
    """A run that is shown and recorded; what it showed."""
    header = header_of(mode)
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    asked = asked_for(*MODES[mode], *arguments)
    with Writer(str(path)) as writer:
        recorder = Recorder(writer, Changing())
        display = replace(view.display_of(asked, header), utc_offset_s=header.utc_offset_s)
        sink = view.sink_of(asked, header, recorder.host, meanings, display, out)
        player = Player(sink, follow=mode == "packets", count=asked.count)
        recorder.begin(header, meanings)
        sink.begin(header)
        play(mode, Both(recorder, player, flush_each))
        summary = replace(
            SUMMARY,
            shown=player.shown,
            events=player.events,
            unfinished=player.unfinished,
            incomplete=player.incomplete,
        )
        recorder.end(summary)
        sink.end(summary)
    assert recorder.error is None
    return out.getvalue(), player


class Both:
    """The recorder, then the player, as in a run."""

    def __init__(self, recorder: Recorder, shower: Player, flush_each: int) -> None:
        self._takers = (recorder, shower)
        self._flush_each = flush_each
        self._taken = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        def take(*values: Any) -> None:
            for taker in self._takers:
                getattr(taker, name)(*values)
            self._taken += 1
            if self._flush_each and name != "flush" and self._taken % self._flush_each == 0:
                self._takers[0].flush()

        return take


def replayed(path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, status: int = 0) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(commands, "Kernel", Nobody)
    monkeypatch.setattr(live, "Running", Nobody)
    assert cli.main(["-r", str(path), *arguments]) == status
    return out.getvalue()


DISPLAYS = {
    "packets": [
        [], ["--detail"], ["--ret"], ["-o", "id,cpu,if,netns,pid,group,mark,len"], ["--date"], ["--latency-show"],
        ["--tiny-show"], ["--latency-free"], ["--diag-keep"], ["--diag-quiet", "--diag-keep"], ["--diag"], ["-c", "3"],
        ["--json"], ["--json", "--diag-keep"], ["--json", "--diag-quiet"], ["--json", "--latency-free", "-c", "3"],
    ],
    "events": [[], ["--detail"], ["--date"], ["-c", "4"], ["--json"]],
    "drops": [[], ["-v"], ["--detail"], ["--json"]],
    "sockets": [[], ["--detail"], ["--json"]],
    "latency": [[], ["--date"], ["--json"]],
    "trouble": [[], ["--detail"], ["--json"]],
    **{mode: [[], ["--json"]] for mode in ("function-stats", "latency-summary", "rtt", "drop-stat", "paths")},
}  # fmt: skip


@pytest.mark.parametrize("flush_each", [0, 1, 5])
@pytest.mark.parametrize(
    ("mode", "arguments"), [(mode, arguments) for mode, each in DISPLAYS.items() for arguments in each], ids=str
)
def test_what_was_shown_is_shown_again(
    mode: str, arguments: list[str], flush_each: int, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    shown, _ = live_run(mode, path, meanings, monkeypatch, *arguments, flush_each=flush_each)
    assert "--diag-quiet" in arguments or len(shown) > 100
    assert replayed(path, monkeypatch, *MODES[mode], *arguments) == shown
    assert replayed(path, monkeypatch, *arguments) == shown


@pytest.mark.parametrize("arguments", DISPLAYS["packets"], ids=str)
def test_what_was_recorded_can_be_shown_in_another_way(
    arguments: list[str], tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What may be another thing the next time it is asked for is asked for at other times then.
    monkeypatch.setattr(Changing, "netns", lambda self, inode: "blue")
    monkeypatch.setattr(Changing, "owner", lambda self, inode: ("curl", 5))
    monkeypatch.setattr(Changing, "evidence", lambda self, finding, context: [])
    shown, _ = live_run("packets", tmp_path / "x", meanings, monkeypatch, *arguments)
    live_run("packets", tmp_path / "y", meanings, monkeypatch)
    assert replayed(tmp_path / "y", monkeypatch, *arguments) == shown


def test_the_summary_is_that_of_the_run(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    replayed(tmp_path / "x", monkeypatch, "-v")
    (summary,) = [line for line in capsys.readouterr().err.splitlines() if "packets" in line]
    assert summary == (
        "10 packets, 58 events, 3 messages lost (cpu1: 3), 1 packet lost whole, 2 hits missed, 2 unfinished, "
        "1 incomplete, 1 trace skipped"
    )


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["-p", "tcp"], 8), (["-p", "icmp"], 2), (["-d", "192.168.0.0/16"], 8), (["-s", "192.168.0.2"], 0),
        (["--addr", "10.0.0.2", "-P", "443"], 8), (["-S", "443"], 0), (["--tcp-flags", "S!"], 8),
        (["--tcp-flags", "FR"], 0), (["--pkt-len", "84"], 10), (["--iface", "eth0"], 8), (["--iface", "eth"], 0),
        (["--netns", str(ELSEWHERE)], 8), (["--netns-current", "-p", "icmp"], 2), (["--mark", "0x10/0xf0"], 9),
        (["--pid", "12"], 9), (["--comm", "curl\n"], 9), (["--min-latency", "5000s"], 0),
        (["--min-latency", "1us"], 10),
        (["-p", "ipv6"], 0), (["-c", "2"], 2), (["--iface", "lo", "-d", "192.168.0.2"], 8),
    ],
    ids=str,
)  # fmt: skip
def test_packets_can_be_chosen_again(
    arguments: list[str], number: int, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    shown = replayed(tmp_path / "x", monkeypatch, *arguments)
    assert shown.count("***************** ") == number


@pytest.mark.parametrize(
    ("arguments", "number", "shown"),
    [
        (["-t", "ip_rcv"], 10, {"ip_rcv"}),
        (["-t", "life"], 8, {"skb_clone", "kfree_skb", "consume_skb"}),
        (["-t", "tcp_v4_rcv,skb:kfree_skb"], 8, {"tcp_v4_rcv", "kfree_skb"}),
        (["-t", "all", "--trace-exclude", "*_skb,skb_*"], 10, {"ip_rcv", "nf_hook_slow", "tcp_v4_rcv"}),
        # Where it is asked for: at ip_rcv no packet has the new address yet.
        (["-t", "ip_rcv", "-d", "192.168.0.2"], 0, set()),
        (["-t", "tcp_v4_rcv", "-d", "192.168.0.2"], 8, {"tcp_v4_rcv"}),
    ],
    ids=str,
)
def test_traces_can_be_chosen_again(
    arguments: list[str], number: int, shown: set[str], tmp_path: Path, meanings: Rules,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    blocks = [block for block in replayed(tmp_path / "x", monkeypatch, *arguments).split("\n\n") if "*****" in block]
    assert len(blocks) == number
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("[")]
    assert {line.split("[")[2].split()[0].rstrip("]") for line in lines} == shown
    assert f"{number} packets, {len(lines)} events, " in capsys.readouterr().err


def test_the_clone_of_which_nothing_is_left_is_not_named(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    assert f",{CLONE + 1 & 0xFFFFFFFF:08x} *" in replayed(tmp_path / "x", monkeypatch)
    shown = replayed(tmp_path / "x", monkeypatch, "-t", "kfree_skb")
    assert f"* {SKB + 1 & 0xFFFFFFFF:08x} *" in shown and "clone" not in shown


def test_hits_by_themselves_can_be_chosen_again(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("events", tmp_path / "x", meanings, monkeypatch)
    assert replayed(tmp_path / "x", monkeypatch, "-t", "ip_rcv") == replayed(tmp_path / "x", monkeypatch)
    assert "ip_rcv" not in replayed(tmp_path / "x", monkeypatch, "--trace-exclude", "ip_rcv")


@pytest.mark.parametrize(
    ("expression", "number"), [("tcp[tcpflags] & tcp-syn != 0", 8), ("host 10.0.0.1 and icmp", 2), ("arp", 0)]
)
def test_packets_can_be_chosen_by_an_expression(
    expression: str, number: int, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcap, "compile_expression", record_pcap.load().__getitem__)
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    assert replayed(tmp_path / "x", monkeypatch, expression).count("***************** ") == number


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ([], 3), (["--filter-srtt", "1us"], 1), (["--filter-srtt", "2us"], 1), (["--filter-srtt", "3us"], 0),
        (["--filter-minrtt", "3us"], 1), (["--filter-srtt", "2us", "--filter-minrtt", "4us"], 0),
    ],
    ids=str,
)  # fmt: skip
def test_sockets_can_be_chosen_by_their_round_trips(
    arguments: list[str], number: int, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("sockets", tmp_path / "x", meanings, monkeypatch)
    assert len(replayed(tmp_path / "x", monkeypatch, *arguments).splitlines()) == 2 + number


def test_trouble_other_than_round_trips_is_not_chosen_by_them(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNS, "trouble", [*RUNS["trouble"], *SOCKETS])
    live_run("trouble", tmp_path / "x", meanings, monkeypatch)
    lines = replayed(tmp_path / "x", monkeypatch).splitlines()
    chosen = replayed(tmp_path / "x", monkeypatch, "--filter-srtt", "1s").splitlines()
    assert [line for line in lines if " srtt:" not in line] == chosen and len(chosen) == len(lines) - 1


def test_namespaces_can_be_chosen_by_name(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Changing, "netns", lambda self, inode: "blue" if inode == ELSEWHERE else None)
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    assert replayed(tmp_path / "x", monkeypatch, "--netns", "blue").count("***************** ") == 8
    assert replayed(tmp_path / "x", monkeypatch, "--netns", "green").count("***************** ") == 0


@pytest.mark.parametrize(
    ("mode", "arguments", "words"),
    [
        ("packets", ["--basic"], "is a recording of packets, not of events: leave out the mode"),
        ("packets", ["--metrics", "x"], "--metrics says nothing with -r"),
        ("drops", ["--diag"], "--diag needs whole packets"),
        ("packets", ["-t", "ip_rvc"], "-t: nothing of 'ip_rvc' is in the recording; did you mean 'ip_rcv'?"),
        ("packets", ["--filter-srtt", "5"], "--filter-srtt is about sockets, and this is a recording of packets"),
        ("packets", ["ip[8] % 10 = 9"], "expression 'ip[8] % 10 = 9' asks for what is not recorded of packets"),
        ("latency", ["--trace-exclude", "ip_rcv"], "tells the ends of packets' ways only: leave out -t"),
        ("function-stats", ["-t", "ip_rcv"], "a recording of function-stats is one of numbers, not of packets"),
        ("drop-stat", ["-p", "tcp"], "a recording of drop-stat is one of numbers, not of packets"),
        ("packets", ["-w", "y"], "-w says nothing with -r"),
        ("packets", ["--rate-limit", "5"], "--rate-limit says nothing with -r"),
    ],
    ids=str,
)
def test_what_a_recording_cannot_say(
    mode: str, arguments: list[str], words: str, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(pcap, "compile_expression", record_pcap.load().__getitem__)
    live_run(mode, tmp_path / "x", meanings, monkeypatch)
    # What is not recorded is noticed when the first packet comes that it would decide about.
    assert "10.0.0" not in replayed(tmp_path / "x", monkeypatch, *arguments, status=2)
    err = capsys.readouterr().err.splitlines()
    assert words in err[-1] and len(err) == 1 + ("expression" in words)


def test_how_long_packets_took(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    lines = replayed(tmp_path / "x", monkeypatch, "--latency").splitlines()[1:-1]
    # Each of the eight packets that ended went from ip_rcv to tcp_v4_rcv in 4.5 us, and was freed later.
    assert len(lines) == 8
    assert all("[kfree_skb           ][ip_rcv -> tcp_v4_rcv" in line for line in lines)
    assert all(line.endswith(" latency: 0.004ms") for line in lines)
    freed = replayed(tmp_path / "x", monkeypatch, "--latency", "--latency-free").splitlines()[1:-1]
    assert all(line.endswith(" latency: 0.006ms") for line in freed)
    summed = replayed(tmp_path / "x", monkeypatch, "--latency-summary")
    assert "latency distribution: 8 packets" in summed
    assert re.search(r"  ip_rcv +nf_hook_slow +8 +1.5us +1.5us +33.3%", summed)
    plain = [json.loads(line) for line in replayed(tmp_path / "x", monkeypatch, "--latency", "--json").splitlines()]
    assert [each["type"] for each in plain] == ["header", *["latency"] * 8, "summary"]
    assert {each["latency_ns"] for each in plain[1:-1]} == {"4500"}


def test_which_paths_packets_took(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    text = replayed(tmp_path / "x", monkeypatch, "--paths")
    # Of ten packets one has a gap.
    assert re.search(r"^paths of 9 packets:\n.*\n +9 +100.0% +- +-  ip_rcv$", text, re.MULTILINE)
    assert "  1 packet left out, as a part of the path was lost" in text and "dropped: NO_SOCKET at" in text
    plain = [json.loads(line) for line in replayed(tmp_path / "x", monkeypatch, "--paths", "--json").splitlines()]
    assert [each["type"] for each in plain] == ["header", "paths", "summary"]
    assert plain[0]["mode"] == "paths" and plain[-1]["shown"] == plain[1]["packets"] + plain[1]["incomplete"]
    some = replayed(tmp_path / "x", monkeypatch, "--paths", "-c", "3")
    assert "paths of 3 packets:" in some


def test_of_paths_json_has_the_last_table_only(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("paths", tmp_path / "x", meanings, monkeypatch)
    plain = [json.loads(line) for line in replayed(tmp_path / "x", monkeypatch, "--json").splitlines()]
    assert [each["type"] for each in plain] == ["header", "paths", "summary"]
    assert [(node["parent"], node["count"]) for node in plain[1]["nodes"]] == [(None, 3), (0, 2), (0, 1)]
    assert plain[1]["nodes"][1]["drop"]["reason_name"] == "NO_SOCKET" and plain[1]["nodes"][0]["drop"] is None


def test_a_run_that_was_killed(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    shown, _ = live_run("packets", path, meanings, monkeypatch, flush_each=1)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    cut = replayed(path, monkeypatch, status=1)
    # Its end is lost, which tells of nothing that was shown.
    assert cut == shown
    assert f"{path} is cut off at byte " in capsys.readouterr().err
    path.write_bytes(data[: len(data) // 2])
    blocks = replayed(path, monkeypatch, status=1).split("\n\n")
    # The last one may lack its end.
    assert len(blocks) > 2 and shown.startswith("\n\n".join(blocks[:-2]))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", RUNS)
def test_a_recording_of_which_any_part_is_missing_or_wrong(
    mode: str, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    live_run(mode, path, meanings, monkeypatch, flush_each=3)
    data = path.read_bytes()
    for at in range(15, len(data), max(1, len(data) // 40)):
        for spoilt in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            path.write_bytes(spoilt)
            replayed(path, monkeypatch, status=1)
            err = capsys.readouterr().err.splitlines()
            assert err[-1].startswith(f"nettrace: {path} ") and "Traceback" not in err


def rotated(folder: Path, meanings: Rules) -> list[Path]:
    """Eight packets, each but for its last record in a file of its own."""
    with Writer(str(folder / "x"), rotate_bytes=1) as writer:
        recorder = Recorder(writer, Changing())
        recorder.begin(header_of("packets"), meanings)
        for at, record in enumerate(PACKETS):
            recorder.push(record)
            if at % 3 == 1:
                recorder.flush()
        recorder.close(T)
        recorder.end(SUMMARY)
    return [folder / name for name in ("x", *(f"x.{number}" for number in range(1, 9)))]


def test_several_files_are_read_as_one(tmp_path: Path, meanings: Rules) -> None:
    first, *_, last = rotated(tmp_path, meanings)
    with nettrace.open(str(first)) as recording:
        packets = list(recording)
        assert [(each.unfinished, each.missing) for each in packets] == [(False, False)] * 8
        assert recording.summary == SUMMARY and recording.next is None
        assert all("NO_SOCKET" in recording.text(each) and "blue" in recording.text(each) for each in packets)
    with nettrace.open(str(last)) as recording:
        assert len(list(recording)) == 1


def test_each_of_several_files_can_be_read_by_itself(
    tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = rotated(tmp_path, meanings)
    for number, file in enumerate(files[:-1]):
        (alone := tmp_path / f"alone{number}").mkdir()
        file = file.rename(alone / file.name)
        with nettrace.open(str(file)) as recording:
            packets = list(recording)
            assert recording.summary is None and recording.next == f"x.{number + 1}"
            # Of the packet before there is the clone.
            assert len(packets) == (1 if number == 0 else 2)
            assert all(each.unfinished or each.missing for each in packets)
            assert "NO_SOCKET" in recording.text(packets[-1]) and "blue" in recording.text(packets[-1])
        replayed(file, monkeypatch)
        assert f"{file} goes on in x.{number + 1}, which is not there" in caplog.text


def test_a_file_of_another_run_is_not_gone_on_with(tmp_path: Path, meanings: Rules) -> None:
    first, second, *_ = rotated(tmp_path, meanings)
    second.unlink()
    with Writer(str(second)) as writer:
        Recorder(writer, Changing()).begin(replace(header_of("packets"), clock_offset_ns=7), meanings)
    with nettrace.open(str(first)) as recording, pytest.raises(StreamError, match=r"x\.1 is of another run than"):
        list(recording)


def test_as_a_library(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    live_run("packets", tmp_path / "x", meanings, monkeypatch, "--diag-keep")
    with nettrace.open(str(tmp_path / "x")) as recording:
        assert recording.header.kernel == "6.12.1"
        packets = list(recording)
        assert recording.summary is not None and recording.summary.missed_hits == 2
        lifecycle = Lifecycle()
        expected = [context for record in PACKETS for context in lifecycle.push(record)]
        assert packets[:8] == expected
        findings = [finding for one in packets for finding in recording.findings(one)]
        assert [finding.name for finding in findings if finding.root] == ["NO_SOCKET"] * 8
        assert all(finding.evidence for finding in findings if finding.root)
    with nettrace.open(str(tmp_path / "x")) as recording:
        assert sum(1 for _ in recording.events()) == 58


def test_a_damaged_recording_as_a_library(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    live_run("packets", path, meanings, monkeypatch, flush_each=1)
    path.write_bytes(path.read_bytes()[:-1])
    seen = []
    with nettrace.open(str(path)) as recording, pytest.raises(StreamError, match="is cut off at byte"):
        for one in recording:
            seen.append(one)
    assert len(seen) == 10


def test_tables_as_a_library(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    live_run("rtt", tmp_path / "x", meanings, monkeypatch)
    with nettrace.open(str(tmp_path / "x")) as recording:
        assert list(recording) == []
        assert recording.table == TABLES[3]


def test_the_package_imports_next_to_nothing() -> None:
    program = "import sys, nettrace; print([name for name in sys.modules if name.startswith('nettrace')])"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert done.stdout.decode().strip() == "['nettrace.version', 'nettrace']"


def test_memory_follows_open_packets(tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ANSWERS_MAX", 64)
    monkeypatch.setattr(players, "Lifecycle", partial(Lifecycle, max_contexts=64))

    def most(packets: int) -> int:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        with Writer(str(path)) as writer:
            recorder = Recorder(writer, Changing())
            recorder.begin(header_of("packets"), meanings)
            for number in range(packets):
                for record in packet_of(number + 1):
                    recorder.push(record)
                recorder.flush()
            recorder.end(SUMMARY)
        with nettrace.open(str(path)) as recording:
            tracemalloc.start()
            count = sum(1 for _ in recording)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert count == packets
        return peak

    most(900)  # Python keeps some of the tuples that nobody needs any more
    # The events of these packets take several megabytes.
    assert most(900) < 500_000
