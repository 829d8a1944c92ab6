"""A kernel that is locked down: what --drop still tells. It cannot be undone, so these tests are the last ones."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .net import Host, sh
from .tool import Nettrace, run
from .traffic import send_udp

LOCKDOWN = Path("/sys/kernel/security/lockdown")
CLOSED = 7950


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Nobody can look any more."""
    yield


@pytest.fixture(scope="module", autouse=True)
def locked_down() -> Iterator[None]:
    if not LOCKDOWN.exists():
        sh("mount -t securityfs securityfs /sys/kernel/security")
    LOCKDOWN.write_text("confidentiality")
    sh("sysctl -qw kernel.kptr_restrict=2")
    yield
    sh("sysctl -qw kernel.kptr_restrict=1")


def test_drops_are_told_by_the_tracepoint_alone(pair: tuple[Host, Host], kernel_has_reasons: bool) -> None:
    left, right = pair
    before = right.snmp("Udp", "NoPorts")
    with Nettrace("--drop", "-p", "ip", "-o", "pid", "-c", "3") as trace:
        send_udp(left, right.ip6, CLOSED, 2)
        send_udp(left, right.ip, CLOSED, 3)
        assert trace.wait_end() == 0
    assert right.snmp("Udp", "NoPorts") == before + 3
    reason = "reason: NO_SOCKET, " if kernel_has_reasons else ""
    for line in trace.body:
        assert re.match(rf"\[[\d.]+\] \[task:.+\] IPv4 \*{reason}0x[0-9a-f]{{16}}\*$", line), line
    # What is missing is said once each: headers, symbols, and reasons.
    assert trace.stderr.count("locked down") == trace.stderr.count("kptr_restrict") == 1
    assert trace.stderr.count("not why") == (not kernel_has_reasons)
    assert trace.summary("drops") == 3


@pytest.mark.parametrize("options", [["--drop", "-p", "udp"], ["--drop", "-o", "len"], ["-p", "udp"]])
def test_what_cannot_work_is_refused_in_one_sentence(options: list[str]) -> None:
    done = run(*options)
    assert done.returncode in (1, 2)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "locked down" in done.stderr
