"""Fixtures of the end-to-end tests, which run as root inside the VMs of tests/vm and nowhere else."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .net import Host, hosts, join, sh
from .tool import Nettrace

SO_TIMESTAMP = 29  # Python's socket module does not name it
KPROBES = Path("/sys/kernel/debug/kprobes/list")
TRACED_FUNCTIONS = Path("/sys/kernel/tracing/enabled_functions")


def pytest_configure() -> None:
    if os.environ.get("NETTRACE_TEST_KERNEL") != "1":
        pytest.exit("tests/e2e are for the VMs: run 'make test-vm'", returncode=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A kernel that was locked down stays so.
    items.sort(key=lambda item: "test_lockdown" in item.nodeid)


def attached() -> list[str]:
    """Every probe that anything has attached to this kernel, and every BPF program of nettrace's kinds."""
    probes = KPROBES.read_text().splitlines() + TRACED_FUNCTIONS.read_text().splitlines()
    programs = [line for line in sh("bpftool prog show").splitlines() if "kprobe" in line or "raw_tracepoint" in line]
    return probes + programs


@pytest.fixture(autouse=True)
def nothing_left_behind(looked_after: list[int]) -> Iterator[None]:
    """No test leaves a probe behind."""
    yield
    if looked_after[-1] != Nettrace.starts:
        looked_after.append(Nettrace.starts)
        # The kernel lets go of a program when no CPU can be in it any more.
        limit = time.monotonic() + 60
        while attached() and time.monotonic() < limit:
            pass
        assert attached() == []


@pytest.fixture(scope="session")
def looked_after() -> list[int]:
    """After how many starts of nettrace it was looked whether probes were left behind."""
    return [0]


@pytest.fixture(scope="session", autouse=True)
def timestamps_stay_on() -> Iterator[None]:
    """No ping switches the time stamps of received packets on and off.

    That rewrites code that other packets are just passing, which emulated CPUs are not good at:
    once in a while one of them still executes the breakpoint that had stood there for the moment.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        yield


@pytest.fixture(scope="session")
def kernel_has_reasons() -> bool:
    """Whether this kernel tells why it drops a packet, by its own description of the tracepoint."""
    return "reason" in Path("/sys/kernel/tracing/events/skb/kfree_skb/format").read_text()


@pytest.fixture(scope="session")
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts joined by a cable: 10.0.42.1, fd42::1 and 10.0.42.2, fd42::2; the second also has .3 and ::3."""
    with hosts("left", "right"):
        left_ips = ["10.0.42.1/24", "fd42::1/64"]
        right_ips = ["10.0.42.2/24", "10.0.42.3/24", "fd42::2/64", "fd42::3/64"]
        join("left", "l0", left_ips, "right", "r0", right_ips)
        yield Host("left", "10.0.42.1", "fd42::1"), Host("right", "10.0.42.2", "fd42::2")


@pytest.fixture(scope="session")
def routed() -> Iterator[tuple[Host, Host, Host]]:
    """A client 10.0.1.2 behind a router 10.0.1.1 / 10.0.2.1, and a server 10.0.2.2 that knows no way back."""
    with hosts("client", "router", "server"):
        join("client", "c0", ["10.0.1.2/24"], "router", "rc", ["10.0.1.1/24"])
        join("router", "rs", ["10.0.2.1/24"], "server", "s0", ["10.0.2.2/24"])
        client, router, server = Host("client", "10.0.1.2"), Host("router", "10.0.1.1"), Host("server", "10.0.2.2")
        sh("ip -n client route add default via 10.0.1.1")
        router.sh("sysctl -qw net.ipv4.ip_forward=1")
        yield client, router, server


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where ip and tc of a namespace, to which /sys is another, can read programs."""
    folder = tmp_path_factory.mktemp("bpf")
    sh(f"mount -t bpf bpf {folder}")
    yield folder
    sh(f"umount {folder}")
