"""The same pings twice, with and without a rule that drops them: judged while they are traced, and compared afterwards.

What is true is known from ping's own statistics, and from the rule that the test added.
"""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ..schema import check_line
from .net import Host, ping
from .tool import CHECKOUT, Nettrace, run

OUT = Path("/mnt/out")
PINGS = 3
CHAIN = "inet compare input"
EXPECTED = f"""
expect:
  - name: pings arrive
    flow: {{proto: icmp, daddr: 10.0.42.2}}
    packets: {PINGS}
    must_pass: [ip_output, veth_xmit, icmp_rcv]
    drops: none
  - name: pings are answered
    flow: {{proto: icmp, saddr: 10.0.42.2}}
    packets: {PINGS}
    must_pass: [icmp_rcv]
    drops: none
"""


@dataclass
class Run:
    """A run that judged what it saw, its recording, and its JUnit file."""

    recording: Path
    junit: Path
    trace: Nettrace
    answered: int  # as ping says

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in [self.trace.first, *self.trace.output])


@dataclass
class Runs:
    """One without the rule, one with it."""

    good: Run
    bad: Run
    expected: Path


def traced(left: Host, right: Host, folder: Path, name: str, expected: Path) -> Run:
    recording, junit = folder / f"{name}.ntr", folder / f"{name}.xml"
    with Nettrace(
        "-p", "icmp", "--addr", right.ip, "--detail", "-w", str(recording), "--assert", str(expected),
        "--junit", str(junit),
    ) as trace:  # fmt: skip
        answered = ping(left, right.ip, PINGS)["received"]
        trace.stop()
    if OUT.is_dir():
        shutil.copy(recording, OUT)
    return Run(recording, junit, trace, answered)


@pytest.fixture(scope="module")
def runs(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    left, right = pair
    folder = tmp_path_factory.mktemp("compare")
    expected = folder / "expected.yaml"
    expected.write_text(EXPECTED, encoding="utf-8")
    right.sh(f"nft 'add table inet compare; add chain {CHAIN} {{ type filter hook input priority 0; }}'")
    # Whether a neighbour is asked for again is nothing that the runs should differ in.
    neighbours = [(left, "l0", right, "r0"), (right, "r0", left, "l0")]
    try:
        for host, device, other, other_device in neighbours:
            mac = other.sh(f"cat /sys/class/net/{other_device}/address").strip()
            host.ip_commands(f"neigh replace {other.ip} lladdr {mac} nud permanent dev {device}")
        good = traced(left, right, folder, "good", expected)
        right.sh(f"nft add rule {CHAIN} icmp type echo-request drop")
        bad = traced(left, right, folder, "bad", expected)
    finally:
        right.sh("nft delete table inet compare")
        for host, device, other, _ in neighbours:
            host.ip_commands(f"neigh del {other.ip} dev {device}")
    yield Runs(good, bad, expected)


def cases(junit: Path) -> dict[str, bool]:
    """The test cases, and whether they passed."""
    assert os.stat(junit).st_mode & 0o777 == 0o600
    found = ElementTree.parse(junit).getroot().iter("testcase")
    return {str(case.get("name")): case.find("failure") is None for case in found}


def test_what_is_as_expected(runs: Runs) -> None:
    assert runs.good.answered == PINGS
    assert runs.good.trace.returncode == 0, runs.good.text
    assert runs.good.trace.output == [
        "ok      the run was seen whole",
        f"ok      pings arrive: {PINGS} packets",
        f"ok      pings are answered: {PINGS} packets",
        "all hold",
    ]
    assert set(cases(runs.good.junit).values()) == {True}


def test_what_is_not(runs: Runs) -> None:
    assert runs.bad.answered == 0
    assert runs.bad.trace.returncode == 1, runs.bad.text
    assert f"FAILED  pings arrive: {PINGS} packets, {PINGS} not as expected, the first one:" in runs.bad.text
    # Where netfilter gives the packet up is another place in some kernels.
    why = r"^        it did not pass icmp_rcv after veth_xmit\n        it was dropped in (nf_hook_slow|nft_do_chain)\b"
    assert re.search(why, runs.bad.text, re.MULTILINE), runs.bad.text
    assert "FAILED  pings are answered: 0 packets\n        no packet fits" in runs.bad.text
    assert cases(runs.bad.junit) == {"the run was seen whole": True, "pings arrive": False, "pings are answered": False}


def test_the_recording_is_judged_alike(runs: Runs) -> None:
    for each in (runs.good, runs.bad):
        again = run("-r", str(each.recording), "--detail", "--assert", str(runs.expected))
        assert (again.stdout, again.returncode) == (each.text, each.trace.returncode)


def test_where_they_part(runs: Runs) -> None:
    done = run("--diff", str(runs.good.recording), str(runs.bad.recording), "--json")
    assert done.returncode == 0, done.stderr
    plain = check_line(done.stdout.rstrip("\n"))
    request, reply = sorted(plain["flows"], key=lambda flow: str(flow["name"]))
    assert request["name"] == "ICMP: 10.0.42.1 -> 10.0.42.2 ping request"
    assert (request["first"], request["second"], request["pairs"], request["parted"]) == (PINGS,) * 4
    assert (reply["first"], reply["second"]) == (PINGS, 0)
    # Whatever small detours there are beside.
    gone = [place for place in request["partings"] if place["meet"] is None and place["after"]]
    assert sum(place["pairs"] for place in gone) == PINGS
    for place in gone:
        assert re.match(r"kfree_skb \(.*(nf_hook_slow|nft_do_chain)\)$", place["second"][-1])
        assert "icmp_rcv" in place["first"]
    text = run("--diff", str(runs.good.recording), str(runs.bad.recording)).stdout
    assert f"of {PINGS} pairs, {PINGS} part\n" in text and "only in A" in text


def test_nothing_differs_from_itself(runs: Runs) -> None:
    text = run("--diff", str(runs.bad.recording), str(runs.bad.recording)).stdout
    assert "1 flow of 6 packets does not differ:" in text and "part" not in text.split("\n\n", 1)[1]


def test_the_example_in_python_says_the_same(runs: Runs, tmp_path: Path) -> None:
    for each, status in ((runs.good, 0), (runs.bad, 1)):
        done = subprocess.run(
            [sys.executable, "examples/check_flow.py", str(each.recording), "10.0.42.2", str(tmp_path / "x.xml")],
            cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert done.stdout.startswith(f"{PINGS} packets, {0 if status == 0 else PINGS} not as expected")
