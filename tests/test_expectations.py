"""What --assert expects: a strict file, and packets that do or do not as it says."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import stat
from pathlib import Path
from typing import Callable
from xml.etree import ElementTree

import pytest

import nettrace
from nettrace import cli, expectations, rules, tree
from nettrace.errors import UsageError
from nettrace.event import Context
from nettrace.rules import Rules
from nettrace.tree import Tree

from . import edited

CODE = 0xFFFFFFFF81000010
SYMBOL = [0, "symbol", CODE, ["nf_hook_slow", 16, 100, ""]]


@pytest.fixture(autouse=True)
def read_once(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)


@pytest.fixture(scope="module")
def recorded() -> list[Context]:
    return edited.packets()


@pytest.fixture(scope="module")
def reason() -> int:
    """The number of NETFILTER_DROP on the kernel that was recorded."""
    with nettrace.open(str(edited.DIAG)) as recording:
        assert list(recording)
        names = {recording.host.drop_reason(number): number for number in range(200)}
    return names["NETFILTER_DROP"]


Judge = Callable[..., "tuple[int, str]"]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Runs --assert: the exit status, and what was printed."""

    def run(text: str, path: str = str(edited.DIAG), *arguments: str) -> tuple[int, str]:
        (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        status = cli.main(["-r", path, "--assert", str(tmp_path / "e.yaml"), *arguments])
        return status, out.getvalue()

    return run


def one(keys: str, flow: str = "{proto: icmp, daddr: 10.0.42.2}") -> str:
    """A file with one expectation, about the ping request."""
    return f"expect:\n  - {{name: pings, flow: {flow}, {keys}}}\n"


def line(output: str, name: str = "pings") -> str:
    """The line of an expectation, and why it failed."""
    lines = output.splitlines()
    (at,) = [at for at, each in enumerate(lines) if each[8:].startswith(name)]
    return "\n".join([lines[at], *(each for each in lines[at + 1 : at + 4] if each.startswith("        "))])


# The recorded request passes these in this order, takes 18 ms and has one clone.
@pytest.mark.parametrize(
    "keys",
    [
        "packets: 1", "packets: {min: 1}", "packets: {max: 3}", "must_pass: [icmp_rcv]",
        "must_pass: [__ip_local_out, ip_output, 'icmp_*', icmp_echo]", "must_pass: [ip-out, ip-in, 'icmp*']",
        "must_not_pass: [ip_forward, 'tcp_*']", "drops: none", "drops: [NO_SOCKET]", "max_latency: 1s",
        "max_latency: {from: veth_xmit, to: icmp_rcv, max: 100ms}",
        "max_latency: [{from: ip_output, to: veth_xmit, max: 100ms}, {from: veth_xmit, to: icmp_rcv, max: 100000}]",
    ],
)  # fmt: skip
def test_a_packet_does_as_expected(keys: str, judge: Judge) -> None:
    status, output = judge(one(keys))
    assert status == 0, output
    assert line(output) == "ok      pings: 1 packet"
    assert output.splitlines()[-1] == "all hold"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("packets: 2", "1 of 2 packets"),
        ("packets: {min: 5}", "1 of at least 5 packets"),
        ("packets: 0", "1 packet, not 0"),
        ("must_pass: [icmp_rcv, ip_output]", "it did not pass ip_output after icmp_rcv"),
        ("must_pass: [ip_forward]", "it did not pass ip_forward"),
        ("must_pass: [icmp_rcv, icmp_rcv]", "it did not pass icmp_rcv after icmp_rcv"),
        ("must_not_pass: [icmp_rcv]", "it passed icmp_rcv"),
        ("must_not_pass: ['*_rcv']", "it passed *_rcv"),
        ("max_latency: 1us", "more than 0.001 ms"),
        ("max_latency: {from: veth_xmit, to: icmp_rcv, max: 1us}", "from veth_xmit to icmp_rcv, more than 0.001 ms"),
        ("max_latency: {from: icmp_rcv, to: veth_xmit, max: 1s}", "it did not go from icmp_rcv to veth_xmit"),
    ],
)
def test_a_packet_does_something_else(keys: str, why: str, judge: Judge) -> None:
    status, output = judge(one(keys))
    assert status == 1
    assert line(output).startswith("FAILED  pings: 1 packet") and why in line(output)
    assert output.splitlines()[-1] == "1 of 2 failed"
    assert (" ping request, seq: 1" in output) == ("packets" not in keys)


def test_nothing_tested_is_no_success(judge: Judge) -> None:
    nowhere = "{proto: icmp, daddr: 10.0.99.99}"
    status, output = judge(one("drops: none", nowhere))
    assert status == 1
    assert "no packet fits, so nothing was tested" in line(output)
    assert judge(one("packets: 0", nowhere))[0] == 0
    assert judge(one("packets: {min: 0}, drops: none", nowhere))[0] == 0


@pytest.mark.parametrize(
    ("drops", "holds"),
    [("none", False), ("[NO_SOCKET]", False), ("[NO_SOCKET, NETFILTER_DROP]", True), ("[nf_hook_slow]", True)],
)
def test_a_drop(drops: str, holds: bool, judge: Judge, recorded: list[Context], reason: int, tmp_path: Path) -> None:
    ping = edited.dropped(next(filter(edited.is_ping, recorded)), "nf_hook_slow", reason, CODE)
    path = edited.write(tmp_path / "x", [ping], answers=[SYMBOL])
    status, output = judge(one(f"drops: {drops}"), path)
    assert status == (0 if holds else 1), output
    assert ("it was dropped in nf_hook_slow: NETFILTER_DROP" in output) != holds


def test_a_drop_without_a_reason(judge: Judge, recorded: list[Context], tmp_path: Path) -> None:
    ping = edited.dropped(next(filter(edited.is_ping, recorded)), "nf_hook_slow", None, CODE)
    path = edited.write(tmp_path / "x", [ping], answers=[SYMBOL])
    assert judge(one("drops: [nf_hook_slow]"), path)[0] == 0
    assert "it was dropped in nf_hook_slow" in line(judge(one("drops: none"), path)[1])


def test_what_healthy_packets_meet_is_no_drop(judge: Judge, recorded: list[Context]) -> None:
    """The reply to a ping with a raw socket is freed as if it were dropped."""
    reply = next(context for context in recorded if edited.is_ping(context, "reply"))
    assert any(item.drop is not None for item in reply.events)
    assert judge(one("packets: {min: 1}, drops: none", "{proto: icmp, saddr: 10.0.42.2}"))[0] == 0


@pytest.mark.parametrize("what", ["unfinished", "missing"])
@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ("must_pass: [icmp_rcv]", True), ("must_pass: [tcp_v4_rcv]", False), ("must_not_pass: [ip_forward]", False),
        ("drops: none", False), ("max_latency: 10s", False), ("packets: 1", True),
        ("max_latency: {from: veth_xmit, to: icmp_rcv, max: 100ms}", True),
    ],
)  # fmt: skip
def test_what_was_not_seen_whole_fails_where_that_matters(
    what: str, keys: str, known: bool, judge: Judge, recorded: list[Context], tmp_path: Path
) -> None:
    ping = next(filter(edited.is_ping, recorded))._replace(**{what: True})
    path = edited.write(tmp_path / "x", [ping])
    assert judge(one(keys), path)[0] == (0 if known else 1)
    assert judge(one(f"{keys}, incomplete: allow"), path)[0] == 0
    assert judge(f"incomplete: allow\n{one(keys)}", path)[0] == 0
    assert judge(f"incomplete: allow\n{one(f'{keys}, incomplete: fail')}", path)[0] == (0 if known else 1)


def test_what_is_wrong_is_not_made_right_by_losses(judge: Judge, recorded: list[Context], tmp_path: Path) -> None:
    ping = next(filter(edited.is_ping, recorded))._replace(unfinished=True)
    path = edited.write(tmp_path / "x", [ping])
    assert judge(one("must_not_pass: [icmp_rcv], incomplete: allow"), path)[0] == 1


def test_lost_messages_fail_unless_they_are_allowed(judge: Judge, recorded: list[Context], tmp_path: Path) -> None:
    path = edited.write(tmp_path / "x", recorded, lost=3)
    status, output = judge(one("packets: {min: 1}"), path)
    assert status == 1
    assert line(output, "the run was seen whole").startswith("FAILED") and "3 messages lost" in output
    assert "FAILED  pings: 1 packet" in judge(one("packets: 1"), path)[1]
    status, output = judge(f"incomplete: allow\n{one('packets: 1')}", path)
    assert status == 0
    assert "ok      the run was seen whole: no: 3 messages lost" in output


def test_a_recording_without_its_end_fails(judge: Judge, recorded: list[Context], tmp_path: Path) -> None:
    path = edited.write(tmp_path / "x", recorded, end=False)
    status, output = judge(one("must_pass: [icmp_rcv]"), path, "--junit", str(tmp_path / "j.xml"))
    assert status == 1
    assert "FAILED  the run was seen whole" in output
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "1"


def test_the_first_wrong_packet_is_shown(judge: Judge, recorded: list[Context], tmp_path: Path) -> None:
    ping = next(filter(edited.is_ping, recorded))
    packets = [edited.again(ping, number) for number in (1000, 2000)]
    packets += [edited.again(edited.without(ping, "icmp_rcv"), number) for number in (3000, 4000, 5000)]
    path = edited.write(tmp_path / "x", packets)
    status, output = judge(one("must_pass: [icmp_rcv]"), path)
    assert status == 1
    assert "FAILED  pings: 5 packets, 3 not as expected, the first one:" in output
    assert output.count("*****************") == 1
    assert "[icmp_rcv  " not in output and "[icmp_echo " in output


def test_conditions_on_packets_hold_too(judge: Judge) -> None:
    assert judge(one("packets: 1"), str(edited.DIAG), "-p", "icmp")[0] == 0
    assert judge(one("packets: 1"), str(edited.DIAG), "-p", "tcp")[0] == 1


def test_junit(judge: Judge, tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text("what was there before", encoding="utf-8")
    text = one("must_pass: [icmp_rcv]") + "  - {name: 'a <b>\\e', flow: {proto: tcp}, must_pass: [icmp_rcv]}\n".replace(
        "'a <b>\\e'", '"a <b>\\e"'
    )
    assert judge(text, str(edited.DIAG), "--junit", str(results))[0] == 1
    assert stat.S_IMODE(results.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".results*")) == []
    root = ElementTree.parse(results).getroot()
    (suite,) = root.findall("testsuite")
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures")) == ("3", "1")
    assert suite.get("name") == "nettrace.e"
    whole, pings, other = suite.findall("testcase")
    assert [each.get("name") for each in (whole, pings, other)] == ["the run was seen whole", "pings", "a <b>?"]
    (failure,) = other.findall("failure")
    assert whole.find("failure") is pings.find("failure") is None
    assert failure.get("message") == "it did not pass icmp_rcv"
    assert failure.text is not None and "*****************" in failure.text


@pytest.mark.parametrize("place", ["nowhere/x.xml", "."])
def test_junit_that_cannot_be_written_is_said_before(
    place: str, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = judge(one("packets: 1"), str(edited.DIAG), "--junit", str(tmp_path / place))
    assert (status, output) == (2, "")
    assert "--junit: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("expect: []", "e.yaml:1: the list is empty"),
        ("expekt: []", "e.yaml:1: unknown key 'expekt'; did you mean 'expect'?"),
        ("expect:\n  - name: x", "e.yaml:2: 'flow' is missing"),
        ("expect:\n  - name: x\n    flow: {dprt: 1}", "e.yaml:3: unknown key 'dprt'; did you mean 'dport'?"),
        ("expect:\n  - name: x\n    flow: {dport: 99999}", "e.yaml:3: --dport: '99999' is not a port, 1 to 65535"),
        ("expect:\n  - name: x\n    flow: {saddr: 10.0.0.1/8}", "e.yaml:3: --saddr: 10.0.0.1/8 has bits set"),
        (one("must_pas: [ip_rcv]"), "e.yaml:2: unknown key 'must_pas'; did you mean 'must_pass'?"),
        (one("must_pass: ip_rcv"), "e.yaml:2: a list is expected, not text"),
        (one("must_pass: []"), "e.yaml:2: the list is empty"),
        (one("must_pass: [icmp_rvc]"), "'icmp_rvc' was attached in this run; did you mean 'icmp_rcv'?"),
        (one("must_not_pass: [qdisc_drop]"), "no trace or group 'qdisc_drop' was attached"),
        (one("drops: some"), "e.yaml:2: 'none', or a list of the reasons that are allowed, is expected"),
        (one("max_latency: soon"), "e.yaml:2: a time: 'soon' is not a time such as 200"),
        (one("max_latency: {from: ip_output, max: 1ms}"), "e.yaml:2: 'to' is missing"),
        (one("packets: -1"), "e.yaml:2: -1 is outside 0.."),
        (one("packets: {}"), "e.yaml:2: 'min' or 'max' is missing"),
        (one("packets: {min: 5, max: 2}"), "e.yaml:2: 2 is outside 5.."),
        (one("incomplete: maybe"), "e.yaml:2: 'maybe' is not one of fail, allow"),
        (one("packets: 1") + "  - {name: pings, flow: {}}", "e.yaml:3: two expectations are called 'pings'"),
    ],
)  # fmt: skip
def test_a_wrong_file(text: str, words: str, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(text) == (2, "")
    err = capsys.readouterr().err
    assert err.startswith("nettrace: --assert: ") and words in err and err.count("\n") == 1


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-r", str(edited.DIAG), "--assert", "/nowhere.yaml"]) == 2
    assert "--assert: /nowhere.yaml: cannot be read" in capsys.readouterr().err


def test_what_was_recorded_without_detail_cannot_be_asked(tmp_path: Path, recorded: list[Context]) -> None:
    (tmp_path / "e.yaml").write_text(one("packets: 1", "{mark: 16}"), encoding="utf-8")
    with nettrace.open(str(edited.DIAG)) as recording:
        from dataclasses import replace

        header = replace(recording.header, detail=False)
        with pytest.raises(UsageError, match=r"e\.yaml:2: --mark needs what only --detail records"):
            expectations.load(str(tmp_path / "e.yaml"), header, recording.host)
        skipped = replace(recording.header, skipped=(("icmp_rcv", "the kernel refused"),))
        (tmp_path / "e.yaml").write_text(one("must_not_pass: [icmp_rcv]"), encoding="utf-8")
        with pytest.raises(UsageError, match="icmp_rcv was not attached in this run: the kernel refused"):
            expectations.load(str(tmp_path / "e.yaml"), skipped, recording.host)


@pytest.mark.parametrize("mode", ["drop", "basic"])
def test_other_recordings_are_refused(mode: str, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(one("packets: 1"), str(edited.FOLDER / "6.12" / f"{mode}.ntr"))[0] == 2
    assert "--assert needs whole packets" in capsys.readouterr().err
