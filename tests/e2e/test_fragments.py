"""What does not fit is cut in pieces and put together again: fragments, segments; and headers before the ports."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .net import Host, cable, hosts, ping
from .tool import Block, Line, Nettrace
from .traffic import Connection, Peer, run_peer, tcp

NEAR, MIDDLE, BEHIND, FAR = "10.76.0.1", "10.76.0.2", "10.76.1.1", "10.76.1.2"
NEAR6, MIDDLE6 = "fd76::1", "fd76::2"
SMALL_MTU = 600
TCP_PORT, TCP_BYTES = 7021, 60000
OPTIONS_PORT, LARGE_PORT, LARGE6_PORT, LAST_PORT, SOURCE_PORT = 7022, 7023, 7024, 7025, 7026
LARGE = 3000  # bytes of data: three fragments on the cable


@dataclass
class Observed:
    """What nettrace printed, and what the hosts and programs said."""

    near: Host
    middle: Host
    far: Host
    blocks: list[Block]
    pings: list[dict[str, int]]
    created: dict[str, int]  # fragments, by host
    reassembled: dict[str, int]  # packets, by host
    options: dict[str, Any]
    large_options: dict[str, Any]
    connection: Connection
    segments: list[tuple[int, int]]  # sequence number and data of each that came by

    def of(self, packet: str) -> list[Block]:
        return [block for block in self.blocks if any(line.packet.startswith(packet) for line in block.lines)]

    def lines(self, packet: str, trace: str = "", host: str = "") -> list[Line]:
        """All hits of a packet."""
        return [
            line
            for block in self.blocks
            for line in block.lines
            if line.packet.startswith(packet)
            and (not trace or line.trace == trace)
            and (not host or Host(host).is_netns(line.netns))
        ]


def counted(*hosts: Host) -> tuple[dict[str, int], dict[str, int]]:
    """Fragments made and packets put together of both IP versions, by host."""
    rows = {host.name: (host.snmp("Ip", "FragCreates") + host.snmp6("Ip6FragCreates"),
                        host.snmp("Ip", "ReasmOKs") + host.snmp6("Ip6ReasmOKs")) for host in hosts}  # fmt: skip
    return {name: row[0] for name, row in rows.items()}, {name: row[1] for name, row in rows.items()}


def less(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    with hosts("near", "middle", "far") as (near, middle, far):
        cable(near, middle, 0)
        cable(middle, far, 1)
        near.ip_commands(f"addr add {NEAR6}/64 dev eth0 nodad", f"route add {FAR} via {MIDDLE}")
        middle.ip_commands(f"addr add {MIDDLE6}/64 dev eth0 nodad", f"link set eth1 mtu {SMALL_MTU}")
        middle.sh("sysctl -qw net.ipv4.ip_forward=1")
        # Its own MTU is as small, as the other end would not take anything larger.
        far.ip_commands(f"link set eth1 mtu {SMALL_MTU}", f"route add {NEAR} via {BEHIND}")
        run_peer(near, "no-tso", "eth0")
        everybody = (near, middle, far)
        with Nettrace("--force", "--detail") as trace:
            created, reassembled = counted(*everybody)
            pings = [
                ping(near, MIDDLE, options=f"-s {LARGE}"),
                ping(near, MIDDLE6, options=f"-s {LARGE}"),
                # Without "don't fragment" a router may cut it.
                ping(near, FAR, options="-s 1400 -M dont"),
            ]
            server = Peer(middle, "udp-serve", MIDDLE, str(LARGE_PORT), "1")
            run_peer(near, "udp-send", MIDDLE, str(LARGE_PORT), "1", str(SOURCE_PORT), str(LARGE))
            assert server.result() == {"datagrams": 1}
            options = []
            for port, size in ((OPTIONS_PORT, 8), (LARGE6_PORT, LARGE)):
                server = Peer(middle, "udp-serve-options", MIDDLE6, str(port))
                run_peer(near, "udp-send-options", MIDDLE6, str(port), str(size), str(SOURCE_PORT))
                options.append(server.result())
            after = counted(*everybody)
            monitor = Peer(middle, "tcp-sniff", "eth0", str(TCP_PORT))
            connection = tcp(near, middle, MIDDLE, TCP_PORT, TCP_BYTES)
            segments = [tuple(segment) for segment in monitor.result()["segments"]]
            run_peer(near, "udp-refused", MIDDLE, str(LAST_PORT))
            trace.wait_blocks(1, containing=f" -> {MIDDLE}:{LAST_PORT}")
            assert trace.stop() == 0
        yield Observed(
            near, middle, far, trace.blocks, pings, less(after[0], created), less(after[1], reassembled),
            options[0], options[1], connection, segments,
        )  # fmt: skip


def offsets(lines: list[Line]) -> list[int]:
    """Where the fragments of these hits belong; -1: it is none."""
    found = (re.search(r" frag:(\d+)", line.packet) for line in lines)
    return sorted(int(match[1]) if match else -1 for match in found)


# What is cut: sender, what the packet's lines begin with, what the whole packet's line has, who puts it together,
# where, and at which bytes its fragments begin.
CUT = {
    "ping": ("near", f"ICMP: {NEAR} -> {MIDDLE}", " ping request, seq: 1, id: ", "middle", "icmp_rcv", (0, 1480, 2960)),
    "reply": ("middle", f"ICMP: {MIDDLE} -> {NEAR}", " ping reply, seq: 1, id: ", "near", "icmp_rcv", (0, 1480, 2960)),
    "ping6": ("near", f"ICMPv6: {NEAR6} -> {MIDDLE6}", " ping request, seq: 1, id: ", "middle", "icmpv6_rcv",
              (0, 1448, 2896)),
    "forward": ("middle", f"ICMP: {NEAR} -> {FAR}", " ping request, seq: 1, id: ", "far", "icmp_rcv", (0, 576, 1152)),
    "udp": ("near", f"UDP: {NEAR}", f":{SOURCE_PORT} -> {MIDDLE}:{LARGE_PORT}", "middle", "udp_rcv", (0, 1480, 2960)),
}  # fmt: skip


@pytest.mark.parametrize("what", CUT)
def test_every_fragment_is_seen_and_the_whole_packet(observed: Observed, what: str) -> None:
    sender, begins, whole, receiver, receives, expected = CUT[what]
    # On the cable, and with the receiver.
    for host in (sender, receiver):
        fragments = observed.lines(begins, "veth_xmit" if host == sender else "netif_receive_skb", host)
        fragments = [line for line in fragments if " frag:" in line.packet]
        assert offsets(fragments) == sorted(expected)
        for line in fragments:
            # Only the first has ports, or the type and numbers of a ping.
            assert (whole in line.packet) == line.packet.endswith(" frag:0"), line
    (received,) = [line for line in observed.lines(begins, receives, receiver) if whole in line.packet]
    assert " frag:" not in received.packet
    for block in observed.of(begins):
        assert block.marks == []


def test_a_router_that_cuts_a_packet_keeps_the_pieces_in_its_block(observed: Observed) -> None:
    begins = CUT["forward"][1]
    (block,) = [block for block in observed.of(begins) if "ip_forward" in block.traces]
    assert offsets([line for line in block.lines if line.trace == "veth_xmit"]) == [-1, 0, 576, 1152]
    assert "ip_do_fragment" in block.traces


def test_the_hosts_counted_the_same_fragments(observed: Observed) -> None:
    # ping and its reply over IPv4 and IPv6, a datagram over each; what the router cut, and the reply to it.
    assert observed.pings == [{"transmitted": 1, "received": 1}] * 3
    assert observed.created == {"near": 4 * 3, "middle": 2 * 3 + 3, "far": 3}
    assert observed.reassembled == {"near": 3, "middle": 4, "far": 1}
    for host, count in observed.created.items():
        sent = [line for line in observed.lines("", "veth_xmit", host) if " frag:" in line.packet]
        # The router passes on what another cut.
        own = [line for line in sent if host == "far" or not line.packet.startswith(f"ICMP: {FAR} -> ")]
        assert len(own) == count


def test_ports_behind_extension_headers(observed: Observed) -> None:
    # The socket was handed the headers: hop-by-hop options are 54, destination options 59.
    assert observed.options == {"bytes": 8, "headers": [54, 59]}
    (block,) = observed.of(f"UDP: [{NEAR6}]:{SOURCE_PORT} -> [{MIDDLE6}]:{OPTIONS_PORT}")
    assert len(block.packets) == 1
    assert block.traces.count("udpv6_rcv") == 1
    assert block.marks == []


def test_ports_behind_extension_headers_of_a_fragment(observed: Observed) -> None:
    assert observed.large_options == {"bytes": LARGE, "headers": [54, 59]}
    text = f"UDP: [{NEAR6}]:{SOURCE_PORT} -> [{MIDDLE6}]:{LARGE6_PORT}"
    assert len(observed.lines(f"{text} frag:0", "veth_xmit", "near")) == 1
    # What a later fragment begins with is in the middle of something, even if the first began with options.
    later = [line for line in observed.lines("", "veth_xmit", "near") if f"{NEAR6} -> {MIDDLE6} frag:" in line.packet]
    assert len([line for line in later if not line.packet.startswith("ICMPv6")]) == 2
    (received,) = observed.lines(text, "udpv6_rcv", "middle")
    assert received.packet == text


def sequences(lines: list[Line]) -> list[int]:
    found = (re.search(r" seq:(\d+), ack", line.packet) for line in lines)
    return [int(match[1]) for match in found if match]


def test_every_segment_cut_from_a_large_one_is_seen(observed: Observed) -> None:
    assert observed.connection.received == TCP_BYTES
    assert sum(data for _, data in observed.segments) >= TCP_BYTES
    begins = f"TCP: {NEAR}:{observed.connection.client_port} -> {MIDDLE}:{TCP_PORT}"
    received = sequences(observed.lines(begins, "tcp_v4_rcv", "middle"))
    assert Counter(received) == Counter(seq for seq, _ in observed.segments)


def test_the_segments_are_in_the_block_of_the_packet_they_were_cut_from(observed: Observed) -> None:
    begins = f"TCP: {NEAR}:{observed.connection.client_port} -> {MIDDLE}:{TCP_PORT}"
    data = dict(observed.segments)
    cut = [block for block in observed.of(begins) if "__skb_gso_segment" in block.traces]
    # What one skb can hold is far more than what one segment can.
    assert 1 <= len(cut) < len(data)
    for block in cut:
        assert block.marks == []
        at = sequences([line for line in block.lines if line.trace == "__skb_gso_segment"])[0]
        seen = set(sequences([line for line in block.lines if line.trace == "tcp_v4_rcv"]))
        assert len(seen) > 1
        for seq in sorted(seen, key=lambda seq, start=at: (seq - start) % 2**32):
            # One after the other, without a gap: no data of another packet, and none missing.
            assert seq == at
            at = (seq + data[seq]) % 2**32
