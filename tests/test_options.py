"""The command line: the options of the older programs, what contradicts itself, and what the words become."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
import yaml

from nettrace import options
from nettrace.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
MAN = (ROOT / "docs" / "nettrace.8").read_text(encoding="utf-8")
HELP = options.parser().format_help()
# Where the help tells of an option, each line begins with its spellings.
TOLD = {
    word
    for line in HELP.splitlines()
    if line.startswith("  -")
    for word in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", line.strip().split("  ")[0])
}


class Old(NamedTuple):
    """An option of the older programs."""

    c: tuple[str, ...]
    python: tuple[str, ...]
    value: Optional[str]

    @property
    def spellings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.c + self.python))


def load() -> list[Old]:
    entries = yaml.safe_load((ROOT / "tests" / "data" / "options.yaml").read_text(encoding="utf-8"))
    for entry in entries:
        assert set(entry) <= {"c", "python", "value"}, entry
    return [Old(tuple(entry.get("c", ())), tuple(entry.get("python", ())), entry.get("value")) for entry in entries]


OLD = load()
SPELLINGS = [(name, old) for old in OLD for name in old.spellings]


def changed(*arguments: str) -> dict[str, Any]:
    """What the words change of what there is without any."""
    without, found = vars(options.parse([])), vars(options.parse(arguments))
    assert without.keys() == found.keys()
    return {name: value for name, value in found.items() if value != without[name]}


def test_the_list_is_whole_and_in_order() -> None:
    # As many as their own help has.
    assert len([old for old in OLD if old.c]) == 49
    assert len([old for old in OLD if old.python]) == 20
    for spellings in ([name for old in OLD for name in old.c], [name for old in OLD for name in old.python]):
        assert len(set(spellings)) == len(spellings)


@pytest.mark.parametrize(("name", "old"), SPELLINGS, ids=[name for name, _ in SPELLINGS])
def test_an_option_of_old_is_accepted(name: str, old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    if name in ("-h", "--help", "-V", "--version"):
        with pytest.raises(SystemExit) as end:
            options.parse([name])
        assert end.value.code == 0
        assert "nettrace" in capsys.readouterr().out
        return
    words = [name] if old.value is None else [name, old.value]
    found = changed(*words)
    assert found
    if old.value is not None:
        # Both programs took a long option's value behind a = too, the one in C a short one's without a space.
        joined = f"{name}={old.value}" if name.startswith("--") else name + old.value
        assert changed(joined) == found
        assert old.value in map(str, found.values())


@pytest.mark.parametrize(("name", "old"), SPELLINGS, ids=[name for name, _ in SPELLINGS])
def test_an_option_of_old_is_documented(name: str, old: Old) -> None:
    assert name in TOLD
    source = MAN.partition(".SH OPTIONS")[2].partition(".SH FILTER")[0].replace("\\-", "-")
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", source)


def test_spellings_of_one_option_of_old_are_one_here() -> None:
    for old in OLD:
        if "--help" not in old.spellings and "--version" not in old.spellings:
            value = [] if old.value is None else [old.value]
            assert len({str(changed(name, *value)) for name in old.spellings}) == 1, old


def test_the_help_tells_of_every_option_once() -> None:
    actions = options.parser()._actions
    known = [name for action in actions for name in action.option_strings]
    assert set(known) == TOLD and len(set(known)) == len(known)
    assert all(action.help and len(action.help) > 10 for action in actions)


def test_the_help_is_plain_sentences() -> None:
    for action in options.parser()._actions:
        assert action.help is not None and not action.help.endswith("."), action.dest
    # What argparse does not wrap.
    assert max(map(len, [*options._DESCRIPTION.splitlines(), *options._EPILOG.splitlines()])) <= 100


def test_prefixes_of_long_options() -> None:
    assert changed("--sad", "10.0.0.1") == changed("-s", "10.0.0.1")
    assert changed("--verb") == changed("-v")
    # An option that another one begins with is itself.
    assert changed("--netns", "1") == {"netns": "1"}
    assert changed("--trace", "ip") == changed("-t", "ip") == {"trace": "ip"}
    with pytest.raises(UsageError, match="ambiguous option: --trace- could match"):
        options.parse(["--trace-", "ip"])


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ([], None),
        (["tcp port 80"], "tcp port 80"),
        (["tcp", "port", "80"], "tcp port 80"),
        (["-c", "3", "tcp", "-v", "port", "80"], "tcp port 80"),
        (["ip[0]", "-", "1", ">", "len"], "ip[0] - 1 > len"),
        (["-v", "--", "tcp", "port", "80"], "tcp port 80"),
        (["tcp", "--", "and", "-1 < len"], "tcp and -1 < len"),
        (["--"], None),
        # To be refused as empty where it is looked at, not taken for none: what a script left empty is no wish for all.
        ([""], ""),
        ([" "], " "),
    ],
)
def test_words_that_are_no_options_are_the_expression(words: list[str], expression: Optional[str]) -> None:
    assert options.parse(words).expression == expression


def test_without_arguments_those_of_the_process_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nettrace", "-p", "tcp", "port", "80"])
    found = options.parse(None)
    assert (found.proto, found.expression) == ("tcp", "port 80")


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        ("id", ("id",)),
        ("mark,len", ("mark", "len")),
        (" PID , If ,", ("pid", "if")),
        ("cpu,id,cpu", ("cpu", "id")),
        ("module,group", ("group",)),
        ("id,cpu,if,netns,pid,group,mark,len", ("id", "cpu", "if", "netns", "pid", "group", "mark", "len")),
    ],
)
def test_columns(words: str, columns: tuple[str, ...]) -> None:
    assert options.parse(["-o", words]).columns == columns


def test_what_follows_from_others() -> None:
    assert options.parse(["-c", "12"]).count == 12
    assert options.parse(["--stack"]).trace_stack == "all"
    for words in (["--min-latency", "1ms"], ["--latency-free"], ["--latency-show"]):
        assert options.parse(words).latency_show is True
    assert options.parse([]).latency_show is False
    assert options.parse([]).columns == ()
    assert [options.parse(words).snaplen for words in ([], ["--pcap", "x"], ["-w", "x", "--snaplen", "64"])] == [
        0,
        256,
        64,
    ]


FOLLOWS = "--basic, which follows no packet: leave one of them out"
PRINTS = "--func-stats, which prints no packet: leave one of them out"
DROPS = "--drop, which only looks where packets are dropped: leave one of them out"
COUNTS = "--drop-stat, which only counts: leave one of them out"
NOT_WITH_DROP = [
    ["-t", "ip"], ["--trace-exclude", "ip"], ["--trace-matcher", "ip_rcv"], ["--trace-free", "ip_rcv"],
    ["--trace-stack", "ip_rcv"], ["--stack"], ["--ret"], ["--trace-noclone"], ["--basic"], ["--func-stats"],
    ["--min-latency", "1"], ["--latency-show"], ["--latency-free"], ["--tiny-show"],
]  # fmt: skip
TELLS = "--latency, which tells one time of each packet: leave one of them out"
GROUPS = "--paths, which counts packets at each step: leave one of them out"
SUMS_UP = "--latency-summary, which prints no packet: leave one of them out"


PAGES = "--report, whose page has all that was recorded: leave one of them out"
NOT_WITH_REPORT = [
    ["--json"], ["--diag"], ["--diag-quiet"], ["--ret"], ["--detail"], ["-o", "id"], ["--date"], ["--latency"],
    ["--latency-summary"], ["--latency-show"], ["--latency-free"], ["--tiny-show"], ["--paths"],
]  # fmt: skip
SPELT = {"--diag-quiet": "--diag", "-o": "--output"}
REPLAYS = "-r, which replays what was recorded: leave one of them out"
JUDGES = "--assert, which judges whole packets: leave one of them out"
NOT_WITH_ASSERT = [
    ["--basic"], ["--func-stats"], ["--drop"], ["--latency"], ["--latency-summary"], ["--monitor"], ["--sock"],
    ["--rtt"], ["--rtt-by-peer"], ["--rtt-detail"], ["--diag"], ["--json"], ["--paths"], ["--pcap", "y"],
]  # fmt: skip
NOT_WITH_DIFF = [
    ["--basic"], ["--drop"], ["--diag"], ["--detail"], ["--ret"], ["-t", "ip"], ["--read", "z"], ["-w", "z"],
    ["--count", "5"], ["--assert", "z"], ["--min-latency", "5"], ["--rate-limit", "5"],
]  # fmt: skip
NOT_WITH_READ = [
    ["-w", "y"], ["--stack"], ["--trace-stack", "ip"], ["--hooks"], ["--drop-stack"], ["--reason", "NO_SOCKET"],
    ["--rate-limit", "5"], ["--force"], ["--perf-buffer"], ["--btf", "x"], ["--print-bpf"], ["--print-filter"],
    ["--stats"], ["--max-cpu", "5"],
    ["--snaplen", "64"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frobnicate"], "there is no option --frobnicate; nettrace -h lists the options"),
        (["-z"], "there is no option -z; nettrace -h lists the options"),
        (["--dporrt", "1"], "there is no option --dporrt; did you mean '--dport'?"),
        (["--trace-matchers=ip"], "there is no option --trace-matchers=ip; did you mean '--trace-matcher'?"),
        (["-p"], "argument -p/--proto: expected one argument; nettrace -h lists the options"),
        (["-p", "tcp", "-p", "udp"], "-p is given twice, as 'tcp' and as 'udp': leave one of them out"),
        (["--addr", "10.0.0.1", "--addr", "10.0.0.2"], "--addr is given twice, as '10.0.0.1' and as '10.0.0.2'"),
        (["-t", "ip", "--tracer", "tcp"], "--tracer is given twice, as 'ip' and as 'tcp'"),
        (["-c", "0"], "-c needs a whole number above 0, not '0'"),
        (
            ["-o", "id,cpus"],
            "--output: no column 'cpus'; did you mean 'cpu'?; there are id, cpu, if, netns, pid, group",
        ),
        (["-o", ""], "--output needs the name of a column; there are id, cpu, if, netns, pid, group, mark, len"),
        (["-o", " , "], "--output needs the name of a column"),
        (["--netns", "blue", "--netns-current"], "--netns and --netns-current name two namespaces"),
        (["--stack", "--trace-stack", "ip_rcv"], "--stack is for all traces, --trace-stack for some"),
        (["--print-filter", "--print-bpf"], "--print-filter and --print-bpf print and exit: leave one of them out"),
        (["-t", "?,ip"], "-t: '?' lists the traces and stands alone: leave the others out"),
        (["--inner"], "--inner needs a condition on headers that may hold inside"),
        (["--inner", "tcp port 80"], "--inner needs a condition on headers that may hold inside"),
        (["--inner", "--pid", "1", "--mark", "1"], "--inner needs a condition on headers that may hold inside"),
        (["--basic", "--trace-noclone"], f"--trace-noclone says nothing with {FOLLOWS}"),
        (["--basic", "--ret"], f"--ret says nothing with {FOLLOWS}"),
        (["--basic", "--min-latency", "1"], f"--min-latency says nothing with {FOLLOWS}"),
        (["--basic", "--latency-show"], f"--latency-show says nothing with {FOLLOWS}"),
        (["--basic", "--latency-free"], f"--latency-free says nothing with {FOLLOWS}"),
        (["--basic", "--tiny-show"], f"--tiny-show says nothing with {FOLLOWS}"),
        (["--basic", "--skb-mode"], f"--timeline (--skb-mode) says nothing with {FOLLOWS}"),
        (["--func-stats", "--ret"], f"--ret says nothing with {PRINTS}"),
        (["--func-stats", "--detail"], f"--detail says nothing with {PRINTS}"),
        (["--func-stats", "-o", "id"], f"--output says nothing with {PRINTS}"),
        (["--func-stats", "--date"], f"--date says nothing with {PRINTS}"),
        (["--func-stats", "--latency-show"], f"--latency-show says nothing with {PRINTS}"),
        (["--func-stats", "--tiny-show"], f"--tiny-show says nothing with {PRINTS}"),
        (["--func-stats", "--timeline"], f"--timeline (--skb-mode) says nothing with {PRINTS}"),
        (["--func-stats", "--min-latency", "1"], f"--min-latency says nothing with {PRINTS}"),
        (["--func-stats", "--trace-stack", "ip_rcv"], f"--trace-stack says nothing with {PRINTS}"),
        (["--latency", "--basic"], f"--basic says nothing with {TELLS}"),
        (["--latency", "--func-stats"], f"--func-stats says nothing with {TELLS}"),
        (["--latency", "--latency-show"], f"--latency-show says nothing with {TELLS}"),
        (["--latency", "--detail"], f"--detail says nothing with {TELLS}"),
        (["--latency", "-o", "id"], f"--output says nothing with {TELLS}"),
        (["--latency", "--ret"], f"--ret says nothing with {TELLS}"),
        (["--latency", "--stack"], f"--stack says nothing with {TELLS}"),
        (["--latency-summary", "--timeline"], f"--timeline (--skb-mode) says nothing with {SUMS_UP}"),
        (["--latency", "--latency-summary", "--date"], f"--date says nothing with {SUMS_UP}"),
        (["--paths", "--min-latency", "1ms"], f"--min-latency says nothing with {GROUPS}"),
        (["--paths", "--latency"], f"--latency says nothing with {GROUPS}"),
        (["--paths", "--func-stats"], f"--func-stats says nothing with {GROUPS}"),
        (["--paths", "--rtt-by-peer"], f"--rtt-by-peer says nothing with {GROUPS}"),
        (["--paths", "--drop-stat"], f"--drop says nothing with {GROUPS}"),
        (["--paths", "--metrics", "9000"], f"--monitor says nothing with {GROUPS}"),
        (["-r", "x", "--paths", "--diag-keep"], f"--diag says nothing with {GROUPS}"),
        (["--func-stats", "--stack"], f"--stack says nothing with {PRINTS}"),
        *((["--drop", *words], f"{words[0]} says nothing with {DROPS}") for words in NOT_WITH_DROP),
        (["--drop-stack", "--skb-mode"], f"--timeline (--skb-mode) says nothing with {DROPS}"),
        (["--reason", "NO_SOCKET", "-t", "ip"], f"-t says nothing with {DROPS}"),
        (["--drop-stat", "--drop-stack"], f"--drop-stack says nothing with {COUNTS}"),
        (["--drop-stat", "--detail"], f"--detail says nothing with {COUNTS}"),
        (["--drop-stat", "-o", "id"], f"--output says nothing with {COUNTS}"),
        (["--drop-stat", "--date"], f"--date says nothing with {COUNTS}"),
        (["--func-stats", "--pcap", "x"], f"--pcap says nothing with {PRINTS}"),
        (["--drop-stat", "--pcap", "x"], f"--pcap says nothing with {COUNTS}"),
        (["--drop", "--pcap", "x", "--pcap-at", "ip_rcv"], f"--pcap-at says nothing with {DROPS}"),
        (["--latency", "--pcap", "x"], f"--pcap says nothing with {TELLS}"),
        (["--sock", "--pcap", "x"], "--pcap says nothing with --sock, which looks at sockets, not at packets"),
        (["--monitor", "--pcap", "x"], "--pcap says nothing with --monitor, which waits for trouble"),
        (["--json", "--pcap", "-"], "--pcap - and --json both write to the standard output"),
        (["--snaplen", "64"], "--snaplen is about packets that --pcap writes or -w records: give one of them too"),
        (["--pcap-at", "ip_rcv"], "--pcap-at is about the packets that --pcap writes: give --pcap too"),
        (["--pcap", "x", "--snaplen", "0"], "--snaplen needs a number of bytes from 1 to 2048, not '0'"),
        (["--pcap", "x", "--snaplen", "2049"], "--snaplen needs a number of bytes from 1 to 2048, not '2049'"),
        (["--pcap", "x", "--snaplen", "all"], "--snaplen needs a number of bytes from 1 to 2048, not 'all'"),
        (["-C", "5"], "-C and -W are about the files that -w writes: give -w too"),
        (["-w", "x", "-W", "5"], "-W needs -C, the size at which another file is begun"),
        (["-w", "x", "-C", "1.5"], "-C needs a whole number above 0, not '1.5'"),
        *((["-r", "x", *words], f"{words[0]} says nothing with {REPLAYS}") for words in NOT_WITH_READ),
        (["--report", "x.html", "-p", "tcp"], "--report makes a page of a recording: give -r FILE too"),
        *(
            (["-r", "x", "--report", "y", *words], f"{SPELT.get(words[0], words[0])} says nothing with {PAGES}")
            for words in NOT_WITH_REPORT
        ),
        *((["--assert", "x", *words], f"{words[0]} says nothing with {JUDGES}") for words in NOT_WITH_ASSERT),
        (["--junit", "x"], "--junit is about what --assert found: give --assert too"),
        *((["--diff", "x", "y", *words], f"{words[0]} says nothing with --diff") for words in NOT_WITH_DIFF),
        (["-r", "x", "--assert", "y", "-t", "ip"], "-t says nothing with -r and --assert, which names traces itself"),
        (["--diff", "x"], "argument --diff: expected 2 arguments"),
    ],
)
def test_contradictions_are_refused_in_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        options.parse(words)
    text = str(refused.value)
    assert said in text
    assert "\n" not in text and ". " not in text and "usage" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["--basic", "--func-stats"],
        ["--basic", "--detail", "-o", "mark", "--date", "--stack", "--rate-limit", "5", "-c", "3"],
        ["--func-stats", "--trace-noclone", "--trace-free", "ip_rcv", "--rate-limit", "5", "-c", "3"],
        ["--ret", "--latency-show", "--tiny-show", "--detail", "--trace-noclone", "--timeline", "--skb-mode"],
        ["--inner", "-p", "tcp", "--tcp-flags", "S"],
        ["--inner", "--pkt-len", "100"],
        ["-w", "x", "-C", "5", "-W", "3", "--json", "--diag", "-p", "tcp"],
        ["-r", "x", "--report", "y", "-p", "tcp", "--min-latency", "1ms", "-c", "3", "-v", "--trace-noclone"],
        ["-r", "x", "--json", "--diag", "--detail", "--date", "-p", "tcp", "--min-latency", "1ms", "-c", "3"],
        ["-r", "x", "-t", "tcp-in", "--trace-exclude", "ip_rcv", "udp", "port", "53"],
        ["-r", "x", "--filter-srtt", "5", "--filter-minrtt", "5"],
        ["-p", "tcp", "-p", "tcp", "-v", "-v", "--ret", "--ret"],
        ["--drop", "--reason", "NO_SOCKET", "--drop-stack", "-o", "pid", "--date", "-p", "tcp", "-c", "3", "--inner"],
        ["--drop-stat", "--reason", "NO_SOCKET", "--rate-limit", "5", "-c", "3", "-v"],
        ["--paths", "--trace-free", "ip_rcv", "--trace-noclone", "-c", "5", "-v", "--json", "-w", "x", "-p", "tcp"],
        ["--assert", "x", "--junit", "y", "-p", "tcp", "-w", "z", "-c", "5", "--detail", "--latency-free"],
        ["-r", "x", "--assert", "y", "-p", "tcp", "--min-latency", "1ms"],
        ["--diff", "x", "y", "--json", "-p", "tcp", "--addr", "10.0.0.1", "--inner", "--netns", "blue", "-v"],
        ["--diff", "x", "y", "udp", "port", "53"],
        ["-w", "x", "--pcap", "-", "--diag", "--snaplen", "2048", "--pcap-at", "ip_rcv"],
        ["-w", "x", "--snaplen", "64", "--pcap-at", "ip_rcv", "--json"],
        ["-r", "x", "--pcap", "y", "--pcap-at", "ip_rcv", "--json", "--basic"],
        ["--drop", "--pcap", "x", "--drop-stack"],
        ["-t", "?"],
        ["-t", " ? ", "--backend", "kprobe"],
        ["-t", "tcp_*,ip?rcv"],
    ],
)
def test_what_goes_together(words: list[str]) -> None:
    options.parse(words)
