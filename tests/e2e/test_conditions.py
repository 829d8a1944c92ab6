"""Conditions on packets: traffic that meets them all, and for each one traffic that fails just this one."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .net import Host, device, hosts, ping
from .tool import Nettrace
from .traffic import Sender, run_peer, tcp, tcp_refused, udp

Pair = tuple[Host, Host]

# A few traces attach in a moment, and a hit of theirs is a packet that came in.
RECEIVE = ("--basic", "-t", "udp_rcv,udpv6_rcv,tcp_v4_rcv,tcp_v6_rcv")
FLAGS = {"S": "S", "S.": "SA", ".": "A", "P.": "AP", "F.": "AF", "FP.": "APF", "R": "R", "R.": "AR"}


@pytest.fixture(scope="module")
def wide(pair: Pair) -> Iterator[Pair]:
    """The two hosts with more addresses, and the left one with a device that leads nowhere."""
    left, right = pair
    left.ip_commands(
        "addr add 10.0.42.5/24 dev l0",
        "link add d0 type dummy", "link set d0 up", "route add 10.0.42.0/24 dev d0 metric 500",
    )  # fmt: skip
    right.ip_commands("addr add 10.0.42.6/24 dev r0", "addr add fd42::4/64 dev r0 nodad")
    yield left, right
    left.ip_commands("link del d0", "addr del 10.0.42.5/24 dev l0")
    right.ip_commands("addr del 10.0.42.6/24 dev r0", "addr del fd42::4/64 dev r0")


@contextmanager
def tcpdump(host: Host, interface: str, expression: str) -> Iterator[list[str]]:
    """What tcpdump sees come in; its lines are there when the with block is left."""
    lines: list[str] = []
    process = subprocess.Popen(
        [*host.within, "tcpdump", "-n", "-t", "-l", "-Q", "in", "-i", interface, expression],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "listening on" not in process.stderr.readline():
        assert process.poll() is None
    try:
        yield lines
    finally:
        # What it has seen it still writes.
        process.terminate()
        out, _ = process.communicate(timeout=60)
        lines += out.splitlines()


def udp_arrived(host: Host) -> int:
    return host.snmp("Udp", "NoPorts") + host.snmp("Udp", "InDatagrams")


def test_each_condition_must_hold(wide: Pair) -> None:
    left, right = wide
    with hosts("elsewhere") as (elsewhere,), Sender(left) as sender, Sender(left) as other:
        # Here, devices and addresses have the same names.
        elsewhere.ip_commands("link add l0 type dummy", "addr add 10.0.42.1/24 dev l0", "link set l0 up")
        good = {
            "source": "10.0.42.1", "sport": 6000, "target": "10.0.42.3", "dport": 6025, "size": 32, "mark": 0x10,
            "comm": "sender",
        }  # fmt: skip
        with Nettrace(
            "-p", "17", "-s", "10.0.42.0/31", "-d", "10.0.42.2/31", "-S", "6000-6009", "-D", "6020-6029",
            "--pkt-len", "60-70", "--mark", "0x10/0xf0", "--iface", "l0", "--netns", "left",
            "--pid", str(sender.pid), "--comm", "sender",
        ) as trace:  # fmt: skip
            before = udp_arrived(right)
            sender.send(good)
            bad: tuple[dict[str, object], ...] = (
                {"tcp": True},
                {"device": "d0"},
                {"netns": "elsewhere"},
                {"source": "10.0.42.5"},
                {"target": "10.0.42.6"},
                {"sport": 6010},
                {"dport": 6019},
                {"size": 31},
                {"size": 43},
                {"mark": 0x20},
                {"comm": "another"},
            )
            for change in bad:
                sender.send({**good, **change})
            other.send(good)
            sender.send({**good, "sport": 6009, "target": "10.0.42.2", "dport": 6029, "size": 42, "mark": 0x1F})
            trace.wait_blocks(2)
            assert trace.stop() == 0
        # Of the bad ones, TCP is no datagram, and two went nowhere: by the dummies.
        assert udp_arrived(right) - before == len(bad) - 3 + 3
        assert left.device_packets()["d0"][1] == 1
        assert elsewhere.device_packets()["l0"][1] == 1
    first, second = trace.blocks
    assert first.packets == ["UDP: 10.0.42.1:6000 -> 10.0.42.3:6025"]
    assert second.packets == ["UDP: 10.0.42.1:6009 -> 10.0.42.2:6029"]
    for block in trace.blocks:
        assert "udp_rcv" in block.traces
        assert block.marks == []


def test_addresses_and_ports_of_either_side_and_any_of_some_flags(wide: Pair) -> None:
    left, right = wide
    expression = "ip6 and tcp and net fd42::2/127 and portrange 6050-6059 and ip6[53] & 3 != 0"
    options = ("-p", "tcp", "--addr", "fd42::2/127", "-P", "6050-6059", "--tcp-flags", "SF")
    netns = ("--netns", str(right.netns_inode()))
    with tcpdump(right, "r0", expression) as arrived, Nettrace(*RECEIVE, *options, *netns) as trace:
        tcp(left, right, "fd42::2", 6050, 5000)
        tcp(right, left, "fd42::1", 6059, 5000, source="fd42::2")
        tcp_refused(left, "fd42::3", 6060)
        tcp_refused(left, "fd42::4", 6050)
        tcp_refused(left, "fd42::3", 6055)
        trace.wait_lines(5)
        assert trace.stop() == 0
    pattern = re.compile(r"IP6 (\S+)\.(\d+) > (\S+)\.(\d+): Flags \[(\S+)\]")
    matches = [pattern.match(line) for line in arrived]
    expected = [(f"[{m[1]}]:{m[2]}", f"[{m[3]}]:{m[4]}", FLAGS[m[5]]) for m in matches if m]
    assert {flags for _, _, flags in expected} >= {"S", "SA", "AF"}
    seen = [re.match(r"TCP: (\S+) -> (\S+) seq:\d+, ack:\d+, flags:(\w+)", line.packet) for line in trace.lines]
    assert Counter((m[1], m[2], m[3]) for m in seen if m) == Counter(expected)


def test_exactly_these_flags_in_the_namespace_of_nettrace(pair: Pair) -> None:
    left, _ = pair
    own = Host("")
    with Nettrace(*RECEIVE, "-d", "127.0.0.0/8", "--tcp-flags", "SA!", "--netns-current") as trace:
        tcp(left, left, "127.0.0.1", 6061, 100)
        connection = tcp(own, own, "127.0.0.1", 6062, 100)
        trace.wait_lines(1)
        assert trace.stop() == 0
    (line,) = trace.lines
    assert line.packet.startswith(f"TCP: 127.0.0.1:6062 -> 127.0.0.1:{connection.client_port} ")
    assert line.packet.endswith(" flags:SA")


def test_an_expression_chooses_what_tcpdump_chooses(wide: Pair) -> None:
    left, right = wide
    for side, host, below in ((1, left, "l0"), (2, right, "r0")):
        device(host, "vlan7", "vlan id 7", f"10.0.43.{side}", "", below=below)
    expression = "udp dst portrange 6040-6042 and (host 10.0.42.2 or net fd42::2/127) and not src port 6045 or vlan 7"
    with tcpdump(right, "r0", expression) as arrived, Nettrace(expression) as trace:
        for address, port, source_port in (
            ("10.0.42.2", 6040, 6048),
            ("10.0.42.2", 6042, 6045),
            ("10.0.42.2", 6043, 6048),
            ("10.0.42.3", 6041, 6048),
            ("fd42::3", 6041, 6048),
            ("fd42::4", 6041, 6048),
        ):
            assert udp(left, right, address, port, source_port=source_port) == 1
        assert ping(left, "10.0.42.2")["received"] == 1
        assert ping(left, "10.0.43.2")["received"] == 1
        trace.wait_blocks(1, containing="10.0.43.2 -> 10.0.43.1 ping reply")
        assert trace.stop() == 0
    for host in wide:
        host.ip_commands("link del vlan7")
    expected = {"10.0.42.2:6040", "[fd42::3]:6041"}
    assert len([line for line in arrived if "UDP" in line]) == len(expected)
    blocks = [block for block in trace.blocks if not block.lines[0].packet.startswith("ARP")]
    datagrams = [block.packets for block in blocks if block.has("UDP")]
    assert sorted(packets[0].split(" -> ")[1] for packets in datagrams) == sorted(expected)
    # What has no tag yet does not match, and what has lost it is followed still.
    pings = [block for block in blocks if block.has("ICMP")]
    assert [block.packets[0].partition(",")[0] for block in pings] == [
        "ICMP: 10.0.43.1 -> 10.0.43.2 ping request", "ICMP: 10.0.43.2 -> 10.0.43.1 ping reply",
    ]  # fmt: skip
    for block in pings:
        assert block.packets[0].endswith(" vlan:7")
    assert len(blocks) == len(datagrams) + len(pings)


def test_the_packet_inside(wide: Pair) -> None:
    left, right = wide
    for side, host in ((1, left), (2, right)):
        kind = f"vxlan id 8 local 10.0.42.{side} remote 10.0.42.{3 - side} dstport 4789"
        device(
            host, "vx8", kind, f"10.0.44.{side}", f"10.0.44.{3 - side}",
            mac=f"02:00:00:44:00:0{side}", peer_mac=f"02:00:00:44:00:0{3 - side}",
        )  # fmt: skip
    right.ip_commands("addr add 10.0.44.3/24 dev vx8")
    left.ip_commands("neigh add 10.0.44.3 lladdr 02:00:00:44:00:02 dev vx8")
    with Nettrace("--inner", "-p", "udp", "-d", "10.0.44.2", "-D", "6063", "--netns", "right") as trace:
        run_peer(left, "udp-refused", "10.0.44.3", "6063")
        run_peer(left, "udp-refused", "10.0.44.2", "6064")
        run_peer(left, "udp-refused", "10.0.42.2", "6063")
        port = run_peer(left, "udp-refused", "10.0.44.2", "6063")["port"]
        trace.wait_blocks(2)
        assert trace.stop() == 0
    for host in wide:
        host.ip_commands("link del vx8")
    inside = f"UDP: 10.0.44.1:{port} -> 10.0.44.2:6063"
    datagram, error = trace.blocks
    # It was known by what is in it, before it was taken out.
    assert re.fullmatch(rf"UDP: 10\.0\.42\.1:\d+ -> 10\.0\.42\.2:4789 \| .*{re.escape(inside)}", datagram.packets[0])
    assert datagram.packets[-1] == inside
    assert datagram.traces[-1] == "kfree_skb"
    assert error.packets[0].startswith("ICMP: 10.0.44.2 -> 10.0.44.1 type: 3 (destination unreachable), code: 3")
    assert error.packets[0].endswith(f" | {inside}")


def test_the_rate_is_that_of_matching_packets_and_only_chosen_traces_are_shown(pair: Pair) -> None:
    left, right = pair
    options = ("--rate-limit", "3", "-t", "__ip_local_out,ip_rcv_core", "--trace-free", "udp_rcv", "--tiny-show")
    with Nettrace("-p", "udp", "-D", "6065", *options) as trace:
        assert run_peer(left, "udp-flood", right.ip, "6066", "20000", "500") == {"sent": 500}
        sent = run_peer(left, "udp-flood", right.ip, "6065", "21000", "500")
        assert sent == {"sent": 500}
        trace.wait_blocks(3)
        assert trace.stop() == 0
    blocks = trace.blocks
    assert 3 <= len(blocks) < 250
    for block in blocks:
        # No packet is half a path; it ends where that was asked for, and its headers are told once.
        assert block.traces == ["__ip_local_out", "ip_rcv_core", "udp_rcv"]
        assert block.lines[0].packet.endswith(":6065")
        assert [line.packet for line in block.lines[1:]] == ["", ""]
        assert block.marks == []
    assert len(blocks) + trace.summary("packets beyond the rate limit") == 500


def test_only_slow_packets(pair: Pair) -> None:
    left, right = pair
    # Nobody has the address, which is known after one question and a wait of two seconds: the kernel's clock is
    # what the test goes by.
    left.sh("sysctl -qw net.ipv4.neigh.l0.mcast_solicit=1 net.ipv4.neigh.l0.retrans_time_ms=2000")
    with Nettrace("-p", "icmp", "-s", left.ip, "--min-latency", "1.5s") as trace:
        assert ping(left, right.ip, 5)["received"] == 5
        assert ping(left, "10.0.42.99")["received"] == 0
        trace.wait_blocks(1)
        assert trace.stop() == 0
    (slow,) = trace.blocks
    assert slow.packets[0].startswith(f"ICMP: {left.ip} -> 10.0.42.99 ping request")
    assert slow.latency_ms is not None
    assert 1500 <= slow.latency_ms < 60000
    assert slow.lines[-1].seconds - slow.lines[0].seconds >= 1.5
