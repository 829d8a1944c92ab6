"""--drop: each packet that the kernel gives up, against what the hosts count, and nothing that it does not."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import signal
from typing import NamedTuple

import pytest

from .net import Host, ping
from .tool import STACK, Nettrace, run
from .traffic import run_peer, send_udp, tcp, tcp_refused, udp

Pair = tuple[Host, Host]

CLOSED = 7900
OPEN = 7910
LAST = 7999
DATAGRAMS = 5
FLOOD = 50
LINE = re.compile(
    r"\[(?P<time>[^\]]+)\](?: (?P<columns>\[.*?\]))? (?P<packet>\S.*?) \*(?:reason: (?P<reason>\S+), )?"
    r"(?P<function>[\w.]+)\+0x[0-9a-f]+\*$"
)
# What the kernel says of segments that were sent twice or overtook each other: an emulated CPU is slow enough for both.
DUPLICATES = re.compile(r"TCP_(OLD_\w+|TOO_OLD_ACK|RFC7323_\w+|OFOMERGE|OVERWINDOW|INVALID_SEQUENCE)$")


class Drop(NamedTuple):
    packet: str
    reason: str
    function: str
    columns: str
    stack: list[str]


def drops(lines: list[str]) -> list[Drop]:
    found: list[Drop] = []
    for line in lines:
        frame = re.match(r"    -> \[[0-9a-f]+\](\S+?)\+0x", line)
        if frame:
            found[-1].stack.append(frame[1])
        elif line != STACK and not line.startswith("    "):
            match = LINE.match(line)
            assert match, line
            found.append(Drop(match["packet"], match["reason"] or "", match["function"], match["columns"] or "", []))
    return found


def to(found: list[Drop], address: str, port: int) -> list[Drop]:
    end = f" -> [{address}]:{port}" if ":" in address else f" -> {address}:{port}"
    return [drop for drop in found if re.search(re.escape(end) + r"(?!\d)", drop.packet)]


@pytest.fixture(scope="module")
def quiet_pair(pair: Pair) -> Pair:
    """Hosts whose pings have ping sockets, as on hosts with systemd: of raw ones the kernel says that there is none."""
    for host in pair:
        host.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'")
    return pair


def no_ports(host: Host) -> tuple[int, int]:
    return host.snmp("Udp", "NoPorts"), host.snmp6("Udp6NoPorts")


@pytest.fixture(scope="module")
def seen(quiet_pair: Pair) -> tuple[list[Drop], list[int], Nettrace]:
    """Healthy traffic and all kinds of drops, in one run without any condition; how many datagrams found no port."""
    left, right = quiet_pair
    with Nettrace("--drop-stack", "-o", "netns,pid") as trace:
        for address in (right.ip, right.ip6):
            assert ping(left, address, 2)["received"] == 2
            assert tcp(left, right, address, OPEN, 100_000).received == 100_000
            assert udp(left, right, address, OPEN, 3) == 3
        for address in ("127.0.0.1", "::1"):
            run_peer(left, "tcp-leave", address, str(OPEN + 1))
        before = no_ports(right)
        for address in (right.ip, right.ip6):
            send_udp(left, address, CLOSED, DATAGRAMS)
            tcp_refused(left, address, CLOSED)
        counted = [after - first for first, after in zip(before, no_ports(right))]
        run_peer(left, "broken-ip", "l0", right.sh("cat /sys/class/net/r0/address").strip())
        send_udp(left, right.ip, LAST)
        trace.wait_line(f":{LAST} ")
        assert trace.stop(signal.SIGTERM) == 0
    return drops(trace.body), counted, trace


def test_each_datagram_to_a_closed_port_is_a_line(
    quiet_pair: Pair, seen: tuple[list[Drop], list[int], Nettrace], kernel_has_reasons: bool
) -> None:
    _, right = quiet_pair
    found, counted, _ = seen
    assert counted == [DATAGRAMS, DATAGRAMS]
    for address, family in ((right.ip, "4"), (right.ip6, "6")):
        lines = [drop for drop in to(found, address, CLOSED) if drop.packet.startswith("UDP: ")]
        assert len(lines) == DATAGRAMS
        for drop in lines:
            assert drop.reason == ("NO_SOCKET" if kernel_has_reasons else "")
            assert re.search(rf"udp{family}_(lib_)?rcv|udpv?{family}?_rcv|udp_unicast", drop.function), drop
            assert drop.columns.startswith("[ns:right]")


def test_a_refused_connection_is_a_line(
    quiet_pair: Pair, seen: tuple[list[Drop], list[int], Nettrace], kernel_has_reasons: bool
) -> None:
    _, right = quiet_pair
    for address, function in ((right.ip, "tcp_v4_rcv"), (right.ip6, "tcp_v6_rcv")):
        (drop,) = [drop for drop in to(seen[0], address, CLOSED) if drop.packet.startswith("TCP: ")]
        assert drop.packet.endswith("flags:S")
        assert (drop.reason, drop.function) == ("NO_SOCKET" if kernel_has_reasons else "", function)


def test_the_stack_leads_to_the_drop(quiet_pair: Pair, seen: tuple[list[Drop], list[int], Nettrace]) -> None:
    _, right = quiet_pair
    for drop in to(seen[0], right.ip, CLOSED):
        assert drop.function in drop.stack, drop
        assert {"ip_local_deliver_finish", "ip_protocol_deliver_rcu", "ip_local_deliver"} & set(drop.stack), drop
        assert drop.stack.index(drop.function) <= 2


def test_a_broken_header_is_told_by_its_protocol(
    seen: tuple[list[Drop], list[int], Nettrace], kernel_has_reasons: bool
) -> None:
    (drop,) = [drop for drop in seen[0] if drop.packet == "IPv4"]
    assert drop.function.startswith("ip_rcv")
    assert drop.reason == ("IP_INHDR" if kernel_has_reasons else "")


def test_healthy_traffic_is_no_drop(seen: tuple[list[Drop], list[int], Nettrace]) -> None:
    found, _, trace = seen
    others = [drop for drop in found if not re.search(rf":({CLOSED}|{LAST})\b", drop.packet) and drop.packet != "IPv4"]
    assert [drop for drop in others if not DUPLICATES.match(drop.reason)] == []
    # The kernel does say that it drops the last FINs, for one.
    assert trace.summary("normal frees left out") >= 2
    assert trace.summary("drops") == len(found)


def test_drops_are_counted_in_a_table(pair: Pair, kernel_has_reasons: bool) -> None:
    left, right = pair
    before = no_ports(right)
    with Nettrace("--drop-stat", "-p", "udp", "-d", right.ip, "-D", str(CLOSED), "-c", str(FLOOD)) as trace:
        send_udp(left, right.ip6, CLOSED, 3)
        send_udp(left, right.ip, CLOSED + 1, 3)
        send_udp(left, right.ip, CLOSED, FLOOD)
        assert trace.wait_end() == 0
    after = no_ports(right)
    assert (after[0] - before[0], after[1] - before[1]) == (FLOOD + 3, 3)
    tables = "\n".join(trace.body).split("reason ")[1:]
    assert len(tables) >= 2
    rows = [line.split() for line in tables[-1].splitlines()[1:] if line]
    assert [(why, int(count)) for why, _, count, _ in rows] == [("NO_SOCKET" if kernel_has_reasons else "-", FLOOD)]
    assert re.match(r"\w*udp\w*\+0x", rows[0][1])
    assert trace.summary("drops") == FLOOD


def test_only_some_reasons(pair: Pair, kernel_has_reasons: bool) -> None:
    left, right = pair
    if not kernel_has_reasons:
        done = run("--reason", "NO_SOCKET")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "gives no reasons" in done.stderr
        return
    with Nettrace("--reason", "pkt_too_small,ip_inhdr", "--detail", "--date", "-v", "-c", "1") as trace:
        send_udp(left, right.ip, CLOSED, 3)
        run_peer(left, "broken-ip", "l0", right.sh("cat /sys/class/net/r0/address").strip())
        assert trace.wait_end() == 0
    line = trace.body[0]
    assert re.match(r"\[\d{4}-\d\d-\d\d [\d:.]+\] \[[0-9a-f]{8}\]\[kfree_skb +\]\[cpu:\d +\]\[\d+:r0 +\]", line), line
    assert line.partition("] IPv4 ")[2].startswith("*reason: IP_INHDR, ip_rcv")
    assert trace.body[1].startswith("    IP_INHDR: ")
    assert trace.summary("drops") == 1
