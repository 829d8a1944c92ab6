"""The command line: what is refused, in which words, and with which exit status. No kernel is touched."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import nettrace
from nettrace import cli, commands, compiler, modes, pcap
from nettrace.errors import BpfError, KernelError, StreamError
from nettrace.kernel import Kernel
from tests import record_pcap
from tests.schema import check_line

Capture = pytest.CaptureFixture


class Untouched:
    """In the place of the kernel: whoever asks it for more than whether it is still the same one fails the test."""

    boot = b""

    def __getattr__(self, name: str) -> NoReturn:
        pytest.fail(f"the kernel was asked for {name}")


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the kernel fails the test."""
    monkeypatch.setattr(commands, "Kernel", lambda **_: Untouched())
    monkeypatch.setattr(modes, "require_tracing", failing(AssertionError("the kernel was checked")))


@pytest.fixture
def kernel(kernels: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The recorded 6.12 in place of the running kernel, and everybody is root."""
    monkeypatch.setattr(commands, "Kernel", lambda **_: kernels["6.12"])
    monkeypatch.setattr(modes, "require_tracing", lambda _: None)
    monkeypatch.setattr(modes, "require_drops", lambda _: None)
    return kernels["6.12"]


@pytest.fixture
def libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the expression, it is compiled as `tcp port 80`."""
    forms = record_pcap.load()["tcp port 80"]
    monkeypatch.setattr(pcap, "compile_expression", lambda _: forms)


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


GUARD = "give a filter (-p, --addr, --port, ...), traces (-t), a count (-c), or --force"


def assert_refused(capsys: Capture[str], arguments: list[str], words: str) -> None:
    """In one sentence, and with the status of bad options."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nettrace: ") and words in err
    assert err.count("\n") == 1 and err.endswith("\n") and ". " not in err and "usage" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "there is no option --frobnicate; nettrace -h lists the options"),
        (["-p"], "argument -p/--proto: expected one argument; nettrace -h lists the options"),
        (["--tra", "all"], "ambiguous option"),
        (["--detail=yes"], "ignored explicit argument 'yes'"),
        (["--backend", "fprobe"], "invalid choice: 'fprobe'"),
        (["-p", "x"], "--proto: no protocol 'x'"),
        (["-p", "tpc"], "--proto: no protocol 'tpc'; did you mean 'tcp'?"),
        (["-s", "10.0.0.256"], "--saddr: '10.0.0.256' is not an IPv4 or IPv6 address"),
        (["-D", "0"], "--dport: '0' is not a port, 1 to 65535"),
        (["-p", "icmp", "-P", "80"], "--proto icmp has no ports"),
        (["-s", "10.0.0.1", "-d", "::1"], "IPv4 and IPv6 addresses in one filter match no packet"),
        (["-c", "0"], "-c needs a whole number above 0, not '0'"),
        (["-c", "-1"], "-c needs a whole number above 0, not '-1'"),
        (["--force", "--max-cpu", "0"], "--max-cpu needs a part of one CPU above 0 in percent, as 5 or 0.5, not '0'"),
        (["--force", "--max-cpu", "5%"], "not '5%'"),
        (["-r", "x", "--stats"], "--stats says nothing with -r"),
        (["-c", "1.5"], "-c needs a whole number above 0, not '1.5'"),
        (["-c", "\u0664"], "-c needs a whole number above 0, not '\u0664'"),
        (["-c", "1_0"], "-c needs a whole number above 0, not '1_0'"),
        (["-c", ""], "-c needs a whole number above 0, not ''"),
        (["-c", "9" * 5000], "-c needs a whole number above 0, not '999"),
        (["-p", "icmp", "--basic", "--trace-noclone"], "--trace-noclone says nothing with --basic"),
        (["-p", "icmp", "--diag-quiet", "--basic"], "--basic says nothing with --diag, which follows packets"),
        (["-p", "icmp", "--diag", "--basic"], "--basic says nothing with --diag, which follows packets"),
        (["-p", "icmp", "--diag", "--func-stats"], "--func-stats says nothing with --diag, which follows packets"),
        (["--explain", "ip_rvc_core"], "--explain: there is no trace, drop reason, reset reason or rule 'ip_rvc_core'"),
        (["-c", "1", ""], "the filter expression is empty"),
        (["--force", "  "], "the filter expression is empty"),
        ([], GUARD),
        (["--basic", "-v", "--date"], GUARD),
        (["-t", "all"], GUARD),
        (["-t", "ip-in,all"], GUARD),
        # What narrows nothing does not make it cheaper to look at all packets.
        (["--rate-limit", "10"], GUARD),
        (["--min-latency", "10ms"], GUARD),
        (["--func-stats"], GUARD),
        (["--trace-matcher", "ip_output", "--trace-exclude", "link"], GUARD),
        (["--sock"], GUARD),
        (["--sock", "--rtt"], "--sock and --rtt are two modes"),
        (["--rtt-by-peer", "--rtt-detail"], "--rtt-detail and --rtt are two modes"),
        (["--rtt-detail", "-t", "tcp_ack"], "--rtt-detail is about one function: leave out -t"),
        (["-p", "tcp", "--filter-srtt", "1"], "--filter-srtt and --filter-minrtt are about sockets"),
        (["--sock", "-p", "tcp", "--tcp-flags", "S"], "--tcp-flags says nothing with --sock, which looks at sockets"),
        (["--rtt", "--iface", "lo"], "--iface says nothing with --rtt, which looks at sockets"),
        (["--rtt", "tcp port 80"], "a filter expression says nothing with --rtt, which looks at sockets"),
        (["--rtt-detail", "--ret"], "--ret says nothing with"),
        (["--sock", "--latency"], "--latency says nothing with --sock, which looks at sockets"),
        (["--rtt", "--latency-summary"], "--latency-summary says nothing with --rtt, which looks at sockets"),
        (["--rtt", "--date"], "--date says nothing with --rtt, which prints a table"),
        (["--rtt", "-t", "tcp_ack"], "-t says nothing with --rtt, which prints a table"),
        (["--sock", "-p", "tcp", "-o", "pid,len"], "--output: len is a packet's, and --sock looks at sockets"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    no_kernel: None, capsys: Capture[str], arguments: list[str], words: str
) -> None:
    assert_refused(capsys, arguments, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "tcp", "-t", ""], "-t needs the name of a trace or group; '-t ?' lists them"),
        (["-p", "tcp", "-t", " , ,"], "-t needs the name of a trace or group; '-t ?' lists them"),
        (
            ["-t", "ip_rvc_core"],
            "no trace, group or function of this kernel is called 'ip_rvc_core'; did you mean 'ip_rcv_core'",
        ),
        (["-t", "ip-in,nosuch_at_all"], "no trace, group or function of this kernel is called 'nosuch_at_all'"),
        (["-p", "tcp", "--trace-stack", "nosuch"], "--trace-stack: no trace, group or function of this kernel"),
        (["-p", "tcp", "--basic", "--trace-matcher", "ip_output"], "--trace-matcher says nothing with --basic"),
        (["-p", "tcp", "--basic", "--trace-free", "ip_output"], "--trace-free says nothing with --basic"),
        (["-p", "tcp", "--trace-exclude", "consume_skb"], "must stay"),
    ],
)
def test_names_that_cannot_be_are_refused_in_one_sentence(
    kernel: Kernel, capsys: Capture[str], arguments: list[str], words: str
) -> None:
    assert_refused(capsys, arguments, words)


@pytest.mark.parametrize(
    "arguments",
    [["-p", "icmp"], ["-t", "ip-in"], ["-c", "1"], ["--force"], ["-t", "all", "-c", "1"], ["--comm", "ping"],
     ["--mark", "1"], ["--iface", "lo"], ["tcp port 80"], ["icmp"]],
)  # fmt: skip
def test_enough_to_run(monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], arguments: list[str]) -> None:
    monkeypatch.setattr(commands, "Kernel", lambda **_: SimpleNamespace(boot=b""))
    monkeypatch.setattr(modes, "require_tracing", failing(KernelError("as far as this test goes")))
    assert cli.main(arguments) == 1
    assert capsys.readouterr() == ("", "nettrace: as far as this test goes\n")


def test_help_shows_examples_that_are_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], kernel: Kernel, libpcap: None
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["-h"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    _, _, examples = out.partition("examples:\n")
    shown = [shlex.split(re.split(r"  +", line.strip())[0]) for line in examples.splitlines()]
    assert len(shown) == 10 and {command[0] for command in shown} == {"nettrace"}
    monkeypatch.setattr(commands, "_run", lambda *_: 0)
    for command in shown:
        assert cli.main(command[1:]) == 0, command


def test_version(no_kernel: None, capsys: Capture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["-V"])
    assert end.value.code == 0
    assert capsys.readouterr() == (f"nettrace {nettrace.__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KernelError("something is missing: install it"), 1, "nettrace: something is missing: install it\n"),
        (StreamError("the stream ends"), 1, "nettrace: the stream ends\n"),
        (BpfError("load", "refused", "a long log"), 1, "nettrace: load: refused\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_fails_later(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], error: BaseException, status: int, words: str
) -> None:
    monkeypatch.setattr(commands, "Kernel", failing(error))
    assert cli.main(["-p", "icmp"]) == status
    assert capsys.readouterr() == ("", words)


def test_debug_shows_the_compilers_log(monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]) -> None:
    monkeypatch.setattr(commands, "Kernel", failing(BpfError("load", "refused", "a long log")))
    assert cli.main(["-p", "icmp", "--debug"]) == 1
    assert capsys.readouterr().err == "a long log\nnettrace: load: refused\n"


def test_a_missing_yaml_module_is_told(no_kernel: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]) -> None:
    monkeypatch.setenv("NETTRACE_PROGRAM_CACHE", "")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert cli.main(["-p", "icmp"]) == 1
    assert capsys.readouterr().err == (
        "nettrace: PyYAML is missing: install it with 'apt install python3-yaml' or 'dnf install python3-pyyaml'\n"
    )


def test_a_wrong_tree_is_told_with_its_place(
    no_kernel: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(commands.files, "TREE", tmp_path / "tracer.yaml")
    (tmp_path / "tracer.yaml").write_text("desc: all\ntracse: {}\n")
    assert cli.main(["-p", "icmp"]) == 1
    assert capsys.readouterr().err == (
        f"nettrace: {tmp_path}/tracer.yaml:2: unknown key 'tracse'; did you mean 'traces'?\n"
    )


def test_the_list_of_traces(kernel: Kernel, capsys: Capture[str]) -> None:
    assert cli.main(["-t", " ? "]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"Linux {kernel.release}; functions are attached by kprobe-multi"
    assert any(line.split()[:2] == ["+", "netif_receive_skb"] for line in lines)
    assert re.fullmatch(r"  all: +\d+ of +\d+", lines[-1])


def test_the_list_of_traces_needs_no_root(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    monkeypatch.setattr(modes, "require_tracing", failing(AssertionError("checked")))
    assert cli.main(["-t", "?"]) == 0


def test_the_check_says_by_its_exit_status_whether_tracing_works(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    monkeypatch.setattr(compiler, "package", lambda: Path("/bcc"))
    assert cli.main(["--check"]) == 0
    assert capsys.readouterr().out.endswith("\nnettrace works here\n")
    monkeypatch.setattr(compiler, "package", failing(KernelError("BCC is missing", "install it")))
    assert cli.main(["--check", "--json"]) == 1
    told = check_line(capsys.readouterr().out)
    assert (told["kernel"], told["tracing"], told["drops"]) == (kernel.release, False, False)
    bcc = {"part": "packages", "name": "BCC", "state": "missing", "found": "BCC is missing", "remedy": "install it"}
    assert bcc in told["rows"]


def test_names_are_explained_without_asking_the_kernel(no_kernel: None, capsys: Capture[str]) -> None:
    assert cli.main(["--explain", "NO_SOCKET"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("NO_SOCKET: a reason why the kernel drops a packet, error\n") and err == ""


def printed(capsys: Capture[str], *arguments: str) -> tuple[dict[str, str], list[str]]:
    """The macros at the head of the printed program, and its stubs."""
    assert cli.main([*arguments, "--print-bpf"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, _, _ = out.partition("#line 1 ")
    macros = dict(re.findall(r"^#define (\w+) (\w+)$", head, re.MULTILINE))
    return macros, re.findall(r"^[A-Z_]+\((\w+)(?:, .*)?\)$", out.partition('"stubs"\n')[2], re.MULTILINE)


def test_options_reach_the_program(kernel: Kernel, capsys: Capture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "require_tracing", failing(AssertionError("printing needs no root")))
    macros, stubs = printed(capsys, "-p", "tcp", "-D", "443")
    assert {"FOLLOW", "USE_RINGBUF"} <= macros.keys()
    assert not {"WITH_DETAIL", "WITH_STACK", "COUNT_HITS"} & macros.keys()
    assert (macros["FILTER_L4"], macros["FILTER_DPORT_MIN"], macros["FILTER_DPORT_MAX"]) == ("0x6", "0x1bb", "0x1bb")
    assert "function_return" in stubs
    macros, stubs = printed(capsys, "-p", "tcp", "--basic", "--detail", "--perf-buffer", "--backend", "kprobe")
    assert "WITH_DETAIL" in macros and not {"FOLLOW", "USE_RINGBUF"} & macros.keys()
    assert not [name for name in stubs if name.startswith("function_return")]
    # Each hit is matched by itself.
    assert all("match" in name.split("_") for name in stubs)
    _, stubs = printed(capsys, "-p", "tcp", "--trace-noclone")
    assert not [name for name in stubs if name.startswith("function_return")]


@pytest.mark.parametrize(
    ("words", "with_detail"),
    [("id,if,netns,group", False), ("cpu", True), ("pid", True), ("mark", True), ("len", True), ("id,len", True)],
)
def test_columns_are_asked_of_the_kernel_only_where_it_must_tell(
    kernel: Kernel, capsys: Capture[str], words: str, with_detail: bool
) -> None:
    macros, _ = printed(capsys, "-p", "tcp", "-o", words)
    assert ("WITH_DETAIL" in macros) == with_detail


def test_wishes_for_traces_reach_the_program(kernel: Kernel, capsys: Capture[str]) -> None:
    kprobe = ("--backend", "kprobe", "-p", "udp")
    for options in (("--trace-stack", "udp_rcv"), ("--stack",)):
        macros, stubs = printed(capsys, *kprobe, *options)
        assert "WITH_STACK" in macros and any(name.endswith("_stack") for name in stubs)
        # With cookies the stub does not say so.
        macros, _ = printed(capsys, "-p", "udp", *options)
        assert "WITH_STACK" in macros
    for options in (("--ret",), ("--diag",)):
        _, stubs = printed(capsys, *kprobe, *options)
        assert any("returns" in name.split("_") for name in stubs) and "function_return" in stubs
    _, stubs = printed(capsys, *kprobe, "--trace-free", "udp_rcv")
    assert [name for name in stubs if "ends" in name.split("_")] == ["kprobe_ends"]
    _, stubs = printed(capsys, *kprobe, "--trace-matcher", "udp_rcv")
    assert [name for name in stubs if "match" in name.split("_")] == ["kprobe_match"]
    macros, _ = printed(capsys, "-p", "udp", "--func-stats")
    assert "COUNT_HITS" in macros


EXPECTED = {
    "FILTER_SADDR_M0": 0xFF, "FILTER_SPORT_MIN": 7, "FILTER_SPORT_MAX": 9, "FILTER_TCP_FLAGS": 0x12,
    "FILTER_LEN_MIN": 100, "FILTER_TGID": 42, "FILTER_NETNS": 0xF0000001,
    "FILTER_MARK": 2, "FILTER_MARK_MASK": 3, "FILTER_INNER": 1, "MIN_LATENCY_NS": 1_000_000, "RATE_LIMIT": 5,
    "FILTER_PCAP": 1,
}  # fmt: skip


def test_conditions_reach_the_program(
    kernel: Kernel, capsys: Capture[str], monkeypatch: pytest.MonkeyPatch, libpcap: None
) -> None:
    monkeypatch.setattr(commands.netns, "current", lambda: 0xF0000001)
    monkeypatch.setattr(commands.netns, "resolve", {"blue": 0xF0000002}.__getitem__)
    macros, _ = printed(
        capsys, "--saddr", "10.0.0.0/8", "--sport", "7-9", "--tcp-flags", "SA!", "--pkt-len", "100", "--pid", "42",
        "--comm", "curl", "--netns-current", "--iface", "eth0", "--mark", "2/3", "--inner", "--min-latency", "1ms",
        "--rate-limit", "5", "tcp", "port", "80",
    )  # fmt: skip
    found = {name: int(value, 0) for name, value in macros.items()}
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    assert all(found[f"FILTER_{name}_W0"] for name in ("SADDR", "COMM", "IFNAME"))
    assert found["FILTER_ASKED"] & found["ASK_TCP_FLAGS_EXACT"] and not found["FILTER_ASKED"] & found["ASK_DADDR"]
    macros, _ = printed(capsys, "--netns", "blue")
    assert int(macros["FILTER_NETNS"], 0) == 0xF0000002


def test_the_filter_is_printed_without_asking_the_kernel(no_kernel: None, capsys: Capture[str]) -> None:
    assert cli.main(["-p", "udp", "-D", "53", "--print-filter"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "FILTER_ASKED DPORT L4", "FILTER_DPORT_MIN 0x35", "FILTER_DPORT_MAX 0x35", "FILTER_L4 0x11",
    ]  # fmt: skip
    assert cli.main(["--print-filter"]) == 0
    assert capsys.readouterr().out == "no condition: all packets match\n"


def test_the_expression_is_printed_as_what_it_became(
    no_kernel: None, capsys: Capture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    l2 = record_pcap.load()["arp"][0]
    forms = (l2._replace(listing="(000) ldh [12]\n(001) ret #0"), pcap.Form((), "no link layer"))
    monkeypatch.setattr(pcap, "compile_expression", {"arp": forms}.__getitem__)
    assert cli.main(["--print-filter", "arp"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("packets with an Ethernet header:\n")
    assert "(000) ldh [12]" in out and "none match: no link layer" in out


def test_types_of_the_users_choice(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, Kernel]) -> None:
    asked: list[Any] = []

    def kernel(**options: Any) -> Kernel:
        asked.append(options["btf"])
        return kernels["6.12"]

    monkeypatch.setattr(commands, "Kernel", kernel)
    for options in ([], ["--btf-path", "types/vmlinux"]):
        assert cli.main(["-p", "icmp", "--print-bpf", *options]) == 0
    assert asked == [None, Path("types/vmlinux")]


def test_a_run_that_could_match_nothing_is_refused(
    kernels: dict[str, Kernel], kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    monkeypatch.setattr(commands, "_run", failing(AssertionError("it ran")))
    monkeypatch.setattr(commands, "Kernel", lambda **_: kernels["5.10"])
    # New in Linux 5.15.
    assert cli.main(["-t", "qdisc_enqueue"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "nettrace: none of the traces where packets would be matched exists on this kernel: "
        "qdisc_enqueue: this kernel has no tracepoint qdisc:qdisc_enqueue\n"
    )


def test_chosen_traces_and_what_ends_packets(kernel: Kernel, capsys: Capture[str]) -> None:
    _, stubs = printed(capsys, "-t", "udp_rcv", "--basic", "--backend", "kprobe")
    assert stubs == ["kprobe_match"]
    _, stubs = printed(capsys, "-t", " udp_rcv ,", "--backend", "kprobe")
    # What ends packets is attached too, but takes no packet up.
    assert {"kprobe_match", "kprobe_frees", "function_return"} <= set(stubs)
    assert [name for name in stubs if "match" in name] == ["kprobe_match"]
    assert any(name.startswith("drop_") for name in stubs)
    # Where functions can have cookies, few programs serve them all.
    _, stubs = printed(capsys, "-t", "udp_rcv,ip_rcv", "--basic", "--stack")
    assert [name for name in stubs if name.startswith("kprobe")] == ["kprobe_by_cookie_match"]


def test_kprobe_multi_where_there_is_none(
    kernels: dict[str, Kernel], kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    used: list[bool] = []
    monkeypatch.setattr(
        commands, "_run", lambda _asked, _kernel, _filter, setup, _compiled: used.append(setup.multi) or 0
    )
    for backend in ("auto", "kprobe", "kprobe-multi"):
        assert cli.main(["-p", "icmp", "--backend", backend]) == 0
    assert used == [True, False, True]
    monkeypatch.setattr(commands, "Kernel", lambda **_: kernels["5.10"])
    for backend in ("auto", "kprobe"):
        assert cli.main(["-p", "icmp", "--backend", backend]) == 0
    assert used[3:] == [False, False]
    assert cli.main(["-p", "icmp", "--backend", "kprobe-multi"]) == 1
    err = capsys.readouterr().err
    assert "CONFIG_FPROBE" in err and "leave --backend out" in err and err.count("\n") == 1


def test_a_reader_that_went_away(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["-t", "?"]) == 0
        # What the interpreter flushes at exit must not complain either.
        out.write("more")
        out.flush()
    assert capsys.readouterr().err == ""


def test_the_module_runs_and_ends_with_the_status() -> None:
    root = Path(nettrace.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "nettrace", "-c", "0"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == (b"", b"nettrace: -c needs a whole number above 0, not '0'\n")


HANGING_END = """
import select
from nettrace.commands import _Signals
with _Signals() as signals:
    print("ready", flush=True)
    while not signals.stop:
        select.select([], [], [], 0.05)
    print("ending", flush=True)
    while True:
        select.select([], [], [])
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_for_the_end_the_second_ends_at_once(number: signal.Signals, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING_END], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)
        assert process.wait(10) == status
