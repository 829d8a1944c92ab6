"""The Debian package: it is installed with what a release has, runs, and goes again."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from collections.abc import Iterator

import pytest

from .net import Host, sh
from .tool import CHECKOUT, Nettrace
from .traffic import send_udp

CLOSED = 7820
DATAGRAMS = 2
PLACES = "/usr/bin/nettrace /usr/lib/nettrace"


class Installed(Nettrace):
    """The program of the package."""

    command = ("/usr/bin/nettrace",)


@pytest.fixture
def package() -> Iterator[None]:
    """Installed by apt, which has nothing but what is in the image; 'make test-vm' has made the package."""
    made = list(CHECKOUT.glob("build/nettrace_*_all.deb"))
    if not made:
        pytest.skip("there is no package: 'make deb' makes it")
    sh(f"apt-get -qq -o DPkg::Options::=--force-unsafe-io install --no-install-recommends -y {made[0]}")
    yield
    sh("dpkg --force-unsafe-io -r nettrace")
    assert sh(f"find {PLACES} 2> /dev/null", check=False) == ""


def test_the_package_runs(pair: tuple[Host, Host], package: None) -> None:
    left, right = pair
    before = right.snmp("Udp", "NoPorts")
    with Installed("--drop", "-p", "udp", "-D", str(CLOSED), "-c", str(DATAGRAMS)) as trace:
        send_udp(left, right.ip, CLOSED, DATAGRAMS)
        assert trace.wait_end() == 0
    assert right.snmp("Udp", "NoPorts") - before == DATAGRAMS
    assert len([line for line in trace.body if f" -> {right.ip}:{CLOSED} " in line]) == DATAGRAMS
