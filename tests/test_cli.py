"""The command line: what is refused, in which words, and with which exit status. No kernel is touched."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import nettrace
from nettrace import cli
from nettrace.errors import BpfError, KernelError, StreamError
from nettrace.kernel import Kernel

OPTIONS = {
    "-h", "--help", "-V", "--version", "-s", "--saddr", "-d", "--daddr", "--addr", "-S", "--sport", "-D", "--dport",
    "-P", "--port", "-p", "--proto", "-t", "--trace", "--trace-noclone", "--backend", "--basic", "--detail", "--date",
    "-c", "--count", "-v", "--verbose", "--force", "--perf-buffer", "--print-bpf", "--debug",
}  # fmt: skip

Capture = pytest.CaptureFixture


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the kernel fails the test."""

    def refuse(*_: object) -> NoReturn:
        pytest.fail("the kernel was asked")

    monkeypatch.setattr(cli, "Kernel", refuse)
    monkeypatch.setattr(cli, "check", refuse)


@pytest.fixture
def kernel(kernels: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The recorded 6.12 in place of the running kernel, and everybody is root."""
    monkeypatch.setattr(cli, "Kernel", lambda: kernels["6.12"])
    monkeypatch.setattr(cli, "check", lambda _: None)
    return kernels["6.12"]


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "unrecognized arguments: --frobnicate; nettrace -h lists the options"),
        (["icmp"], "unrecognized arguments: icmp; nettrace -h lists the options"),
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
        (["-p", "tcp", "-t", ""], "-t needs the name of a trace or group; '-t ?' lists them"),
        (["-p", "tcp", "-t", " , ,"], "-t needs the name of a trace or group; '-t ?' lists them"),
        (["-t", "ip_rvc_core"], "no trace or group 'ip_rvc_core'; did you mean 'ip_rcv_core'?"),
        (["-t", "ip-in,nosuch_at_all"], "no trace or group 'nosuch_at_all'"),
        (["-c", "0"], "-c needs a whole number above 0, not '0'"),
        (["-c", "-1"], "-c needs a whole number above 0, not '-1'"),
        (["-c", "1.5"], "-c needs a whole number above 0, not '1.5'"),
        (["-c", "\u0664"], "-c needs a whole number above 0, not '\u0664'"),
        (["-c", "1_0"], "-c needs a whole number above 0, not '1_0'"),
        (["-c", ""], "-c needs a whole number above 0, not ''"),
        (["-p", "icmp", "--basic", "--trace-noclone"], "--trace-noclone says nothing with --basic"),
        ([], "give a filter (-p, --addr, --port, ...), traces (-t), a count (-c), or --force"),
        (["--basic", "-v", "--date"], "give a filter (-p, --addr, --port, ...), traces (-t), a count (-c), or --force"),
        (["-t", "all"], "give a filter (-p, --addr, --port, ...), traces (-t), a count (-c), or --force"),
        (["-t", "ip-in,all"], "give a filter (-p, --addr, --port, ...), traces (-t), a count (-c), or --force"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    no_kernel: None, capsys: Capture[str], arguments: list[str], words: str
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nettrace: ") and words in err
    assert err.count("\n") == 1 and err.endswith("\n") and ". " not in err and "usage" not in err


@pytest.mark.parametrize(
    "arguments", [["-p", "icmp"], ["-t", "ip-in"], ["-c", "1"], ["--force"], ["-t", "all", "-c", "1"]]
)
def test_enough_to_run(monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], arguments: list[str]) -> None:
    monkeypatch.setattr(cli, "Kernel", lambda: None)
    monkeypatch.setattr(cli, "check", failing(KernelError("as far as this test goes")))
    assert cli.main(arguments) == 1
    assert capsys.readouterr() == ("", "nettrace: as far as this test goes\n")


def help_text(capsys: Capture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["-h"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_help_names_every_option(no_kernel: None, capsys: Capture[str]) -> None:
    heads = [line.strip().split("  ")[0] for line in help_text(capsys).splitlines() if line.startswith("  -")]
    assert {word for head in heads for word in re.findall(r"(?<![\w-])--?[\w-]+", head)} == OPTIONS


def test_the_parser_knows_no_other_options(no_kernel: None) -> None:
    actions = cli._parser()._actions
    assert {option for action in actions for option in action.option_strings} == OPTIONS
    assert [action.dest for action in actions if not action.help or len(action.help) < 10] == []


def test_help_shows_examples_that_are_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], kernel: Kernel
) -> None:
    _, _, examples = help_text(capsys).partition("examples:\n")
    commands = [line.split("  ")[1].split()[1:] for line in examples.splitlines()]
    assert len(commands) == 4
    monkeypatch.setattr(cli, "_run", lambda *_: 0)
    for command in commands:
        assert cli.main(command) == 0, command


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
    monkeypatch.setattr(cli, "Kernel", failing(error))
    assert cli.main(["-p", "icmp"]) == status
    assert capsys.readouterr() == ("", words)


def test_debug_shows_the_compilers_log(monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]) -> None:
    monkeypatch.setattr(cli, "Kernel", failing(BpfError("load", "refused", "a long log")))
    assert cli.main(["-p", "icmp", "--debug"]) == 1
    assert capsys.readouterr().err == "a long log\nnettrace: load: refused\n"


def test_a_missing_yaml_module_is_told(no_kernel: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert cli.main(["-p", "icmp"]) == 1
    assert capsys.readouterr().err == (
        "nettrace: PyYAML is missing: install it with 'apt install python3-yaml' or 'dnf install python3-pyyaml'\n"
    )


def test_a_wrong_tree_is_told_with_its_place(
    no_kernel: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli.files, "TREE", tmp_path / "tracer.yaml")
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
    assert lines[0] == "all: all traces"
    assert (
        "            - netif_receive_skb: a device received the packet, before taps, tc, bridge and protocols "
        "[tracepoint netif_receive_skb]" in lines
    )
    assert re.fullmatch(r"\d+ of \d+ traces can be attached on this kernel", lines[-1])


def test_the_list_of_traces_needs_no_root(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    monkeypatch.setattr(cli, "check", failing(AssertionError("checked")))
    assert cli.main(["-t", "?"]) == 0


def printed(capsys: Capture[str], *arguments: str) -> tuple[dict[str, str], list[str]]:
    """The macros at the head of the printed program, and its stubs."""
    assert cli.main([*arguments, "--print-bpf"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, _, _ = out.partition("#line 1 ")
    macros = dict(re.findall(r"^#define (\w+) (\w+)$", head, re.MULTILINE))
    return macros, re.findall(r"^[A-Z_]+\((\w+)(?:, .*)?\)$", out.partition('"stubs"\n')[2], re.MULTILINE)


def test_options_reach_the_program(kernel: Kernel, capsys: Capture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "check", failing(AssertionError("printing needs no root")))
    macros, stubs = printed(capsys, "-p", "tcp", "-D", "443")
    assert {"FOLLOW", "USE_RINGBUF"} <= macros.keys() and "WITH_DETAIL" not in macros
    assert (macros["FILTER_L4"], macros["FILTER_DPORT"]) == ("0x6", "0x1bb")
    assert "clone_return" in stubs
    macros, stubs = printed(capsys, "-p", "tcp", "--basic", "--detail", "--perf-buffer", "--backend", "kprobe")
    assert "WITH_DETAIL" in macros and not {"FOLLOW", "USE_RINGBUF"} & macros.keys()
    assert not [name for name in stubs if name.startswith("clone_return")]
    # Each hit is matched by itself.
    assert all("match" in name.split("_") for name in stubs)
    _, stubs = printed(capsys, "-p", "tcp", "--trace-noclone")
    assert not [name for name in stubs if name.startswith("clone_return")]


def test_chosen_traces_and_what_ends_packets(kernel: Kernel, capsys: Capture[str]) -> None:
    _, stubs = printed(capsys, "-t", "udp_rcv", "--basic", "--backend", "kprobe")
    assert stubs == ["kprobe_match"]
    _, stubs = printed(capsys, "-t", " udp_rcv ,", "--backend", "kprobe")
    # What ends packets is attached too, but takes no packet up.
    assert {"kprobe_match", "kprobe_frees", "clone_return"} <= set(stubs)
    assert [name for name in stubs if "match" in name] == ["kprobe_match"]
    assert any(name.startswith("drop_") for name in stubs)
    # Where functions can have cookies, one program serves them all.
    _, stubs = printed(capsys, "-t", "udp_rcv", "--basic")
    assert stubs == ["kprobe_by_cookie"]


def test_kprobe_multi_where_there_is_none(
    kernels: dict[str, Kernel], kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture[str]
) -> None:
    used: list[bool] = []
    monkeypatch.setattr(cli, "_run", lambda *arguments: used.append(arguments[4]) or 0)
    for backend in ("auto", "kprobe", "kprobe-multi"):
        assert cli.main(["-p", "icmp", "--backend", backend]) == 0
    assert used == [True, False, True]
    monkeypatch.setattr(cli, "Kernel", lambda: kernels["5.10"])
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


def test_locations_of_drops(kernel: Kernel) -> None:
    address = kernel.symbols.address("ip_rcv")
    assert address is not None
    assert cli._location(kernel, address + 0x1C) == "ip_rcv+0x1c"
    assert cli._location(kernel, 0x1234) == "0x1234"


HANGING_END = """
import select
from nettrace.cli import _Signals
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
