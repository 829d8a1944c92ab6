"""Packets grouped by the paths they took: by the kernel, and from a recording of the same packets, at the same time."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .. import schema
from .net import Host, ping
from .tool import Nettrace, run
from .traffic import UdpServer, send_udp

OPEN, CLOSED = 6051, 6052
PINGS, TAKEN, REFUSED = 5, 7, 3


@dataclass(frozen=True)
class Runs:
    """What the hosts and two runs told of the same traffic."""

    table: dict[str, Any]  # the last one that the kernel's counts were
    counted: Nettrace
    followed: Nettrace
    recording: Path  # of the packets
    table_recording: Path
    icmp: int  # ICMP messages that the hosts have received

    @property
    def paths(self) -> dict[str, tuple[int, int]]:
        return by_path(self.table["nodes"])


def by_path(nodes: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """By the names of the whole path: how many skbs came there, and how many went no further."""
    names: list[str] = []
    for node in nodes:
        drop = f" {node['drop']['address']} {node['drop']['reason_name']}" if node["drop"] else ""
        names.append((f"{names[node['parent']]} " if node["parent"] is not None else "") + node["trace"] + drop)
    assert len(set(names)) == len(names)
    return {name: (node["count"], node["ended"]) for name, node in zip(names, nodes)}


def tables(text: str) -> list[dict[str, Any]]:
    lines = [schema.check_line(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["type"] == "paths"]


def passing(nodes: list[dict[str, Any]], trace: str) -> list[dict[str, Any]]:
    """The nodes that come after a step of this trace."""
    after: list[bool] = []
    for node in nodes:
        parent = node["parent"]
        after.append(parent is not None and (after[parent] or nodes[parent]["trace"] == trace))
    return [node for node, is_after in zip(nodes, after) if is_after]


@pytest.fixture(scope="module")
def runs(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Pings, and datagrams to an open port and to a closed one, while one run counts paths and another records."""
    left, right = pair
    folder = tmp_path_factory.mktemp("paths")
    recording, table_recording = folder / "packets.ntr", folder / "paths.ntr"
    ping(left, right.ip)  # they know each other
    which = "-p", "ip", "--addr", right.ip
    following = Nettrace(*which, "-w", str(recording))
    with following as followed, Nettrace("--paths", *which, "--json", "-w", str(table_recording)) as counted:
        before = sum(host.snmp("Icmp", "InMsgs") for host in pair)
        refused = right.snmp("Udp", "NoPorts")
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        server = UdpServer(right, right.ip, OPEN, TAKEN)
        send_udp(left, right.ip, OPEN, TAKEN)
        assert server.datagrams() == TAKEN
        send_udp(left, right.ip, CLOSED, REFUSED)
        assert right.snmp("Udp", "NoPorts") - refused == REFUSED
        icmp = sum(host.snmp("Icmp", "InMsgs") for host in pair) - before
        # What one run has seen to its end, the other one has, too.
        followed.wait_blocks(icmp + TAKEN + REFUSED)
        assert counted.stop() == 0
        assert followed.stop() == 0
    (table,) = tables("\n".join(counted.output))
    yield Runs(table, counted, followed, recording, table_recording, icmp)


def test_as_many_as_the_hosts_have_seen(runs: Runs, kernel_has_reasons: bool) -> None:
    nodes = runs.table["nodes"]
    assert sum(node["count"] for node in nodes if node["trace"] == "icmp_rcv") == runs.icmp >= 2 * PINGS
    received = sum(node["count"] for node in nodes if node["trace"] == "udp_rcv")
    assert received == TAKEN + REFUSED
    ends = [node for node in passing(nodes, "udp_rcv") if node["ended"]]
    dropped = [node for node in ends if node["drop"] is not None]
    assert sum(node["ended"] for node in dropped) == REFUSED
    assert {node["drop"]["reason_name"] for node in dropped} == {"NO_SOCKET" if kernel_has_reasons else None}
    assert sum(node["ended"] for node in ends) == TAKEN + REFUSED
    # Nothing is lost, and all has ended.
    assert runs.table["packets"] == runs.counted.summary("packets") == runs.followed.summary("packets")
    assert runs.table["unfinished"] == runs.table["incomplete"] == runs.table["unplaced"] == 0
    assert runs.counted.summary("unfinished") == runs.counted.summary("messages lost") == 0


def test_of_each_step_but_the_first_there_are_times(runs: Runs) -> None:
    for node in runs.table["nodes"]:
        assert node["times"]["count"] == (0 if node["parent"] is None else node["count"])
        assert 0 <= int(node["times"]["p50"]) <= int(node["times"]["p99"]) < 60_000_000_000


def test_a_recording_of_the_packets_makes_the_same_tree(runs: Runs) -> None:
    again = run("-r", str(runs.recording), "--paths", "--json")
    assert again.returncode == 0, again.stderr
    (table,) = tables(again.stdout)
    assert by_path(table["nodes"]) == runs.paths
    assert {name: table[name] for name in ("packets", "unfinished", "incomplete", "unplaced")} == {
        "packets": runs.table["packets"], "unfinished": 0, "incomplete": 0, "unplaced": 0,
    }  # fmt: skip
    some = tables(run("-r", str(runs.recording), "--paths", "--json", "-p", "udp", "-D", str(CLOSED)).stdout)[0]
    # The ICMP errors carry what they are about, and are no UDP.
    assert some["packets"] == REFUSED


def test_the_tree_as_text_is_in_its_recording(runs: Runs) -> None:
    again = run("-r", str(runs.table_recording), "--paths", "--json")
    assert again.stdout.splitlines() == [runs.counted.first, *runs.counted.output]
    text = run("-r", str(runs.table_recording), "-v").stdout.splitlines()
    assert f"paths of {runs.table['packets']} packets:" in text
    lines = [line for line in text if re.match(r" +\d+ +\d+\.\d%", line)]
    assert len(lines) == len(runs.table["nodes"])
    drops = [line for line in lines if re.search(r"kfree_skb  dropped(: \w+)? at \w+\+0x", line)]
    assert sum(int(line.split()[0]) for line in drops) == sum(
        node["count"] for node in runs.table["nodes"] if node["drop"]
    )
