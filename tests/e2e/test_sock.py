"""Sockets line by line, against what ss and the kernel's counters say of them."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .net import Host
from .tool import Line, Nettrace
from .traffic import Connection, Peer, tcp, udp

Pair = tuple[Host, Host]

PORT = 9076
STALLED_PORT = 9077
SIZE = 5000
RETRANSMISSIONS = 4
TRACES = "tcp-state,udp-state,tcp-retrans,tcp_rcv_state_process,__ip_local_out,tcp_write_timer_handler"
TEXT = re.compile(
    r"^(?P<protocol>TCP|UDP): (?P<source>\S+):(?P<sport>\d+) -> (?P<target>\S+):(?P<dport>\d+)"
    r"(?: (?P<state>[A-Z_0-9]+))?(?: (?P<ca>CA_\w+) out:\(p(?P<out>\d+) r(?P<again>\d+)\) unack:(?P<unacked>\d+))?"
    r"(?: mem:\(w(?P<wmem>\d+) r(?P<rmem>\d+)\))?(?: timer:\((?P<timer>\w+), (?P<left>-?[\d.]+)s\))?$"
)


@dataclass(frozen=True)
class Seen:
    """What nettrace printed, and what happened."""

    trace: Nettrace
    again: Nettrace  # the segments that were sent again
    v4: Connection
    v6: Connection
    stalled: Peer
    ss: str  # of the stalled socket
    resent: tuple[int, int]  # segments, by the kernel's own counter: before nettrace was to end, and after it had

    def of(self, source: str, sport: int) -> list[tuple[Line, dict[str, str]]]:
        """The lines about the socket with this own end, and their parts."""
        found = []
        for line in self.trace.lines:
            match = TEXT.match(line.packet)
            assert match, line.packet
            if (match["source"], int(match["sport"])) == (source, sport):
                found.append((line, {name: text for name, text in match.groupdict().items() if text is not None}))
        return found

    @property
    def stalled_port(self) -> int:
        match = re.search(rf"10\.0\.42\.1:(\d+) +10\.0\.42\.2:{STALLED_PORT}", self.ss)
        assert match, self.ss
        return int(match[1])

    def ss_number(self, name: str) -> int:
        match = re.search(rf"\b{name}:(\d+)", self.ss)
        return int(match[1]) if match else 0


@pytest.fixture(scope="module")
def seen(pair: Pair) -> Iterator[Seen]:
    left, right = pair
    try:
        with (
            Nettrace("--sock", "--detail", "-P", f"{PORT}-{STALLED_PORT}", "-t", TRACES) as trace,
            Nettrace("--basic", "-P", str(STALLED_PORT), "-t", "tcp_retransmit_skb") as again,
        ):
            before = left.snmp("Tcp", "RetransSegs")
            server = Peer(right, "tcp-serve", right.ip, str(STALLED_PORT))
            stalled = Peer(left, "tcp-stall", right.ip, str(STALLED_PORT), str(SIZE))
            v4 = tcp(left, right, right.ip, PORT, 2000)
            v6 = tcp(left, right, right.ip6, PORT, 2000)
            assert udp(left, right, right.ip6, PORT, source_port=PORT) == 1
            left.sh("tc qdisc add dev l0 root netem loss 100%")
            stalled.go_on()
            trace.wait_lines_with("[tcp_retransmit_skb", RETRANSMISSIONS)
            again.wait_lines_with("retransmission: ", RETRANSMISSIONS)
            # Who holds it is found by reading all of /proc, which is not done all the time.
            trace.wait_line(f"[sk:python3-{stalled.process.pid}]")  # ip has become the program
            ss = left.sh(f"ss -tinoH dport = :{STALLED_PORT}")
            at_least = left.snmp("Tcp", "RetransSegs") - before
            assert trace.stop() == 0
            assert again.stop() == 0
        yield Seen(trace, again, v4, v6, stalled, ss, (at_least, left.snmp("Tcp", "RetransSegs") - before))
        stalled.kill()
        server.kill()
    finally:
        left.sh("tc qdisc del dev l0 root", check=False)


def states(seen: Seen, source: str, sport: int) -> list[str]:
    """In the order in which they first show."""
    # UDP, which uses the same port, has none.
    return list(dict.fromkeys(parts["state"] for _, parts in seen.of(source, sport) if parts["protocol"] == "TCP"))


def test_a_connection_goes_through_its_states(seen: Seen, pair: Pair) -> None:
    left, right = pair
    for ends, connection in (((left.ip, right.ip), seen.v4), ((left.ip6, right.ip6), seen.v6)):
        client = [state for state in states(seen, ends[0], connection.client_port) if state != "CLOSE"]
        assert client[:3] == ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1"]
        server = [state for state in states(seen, ends[1], PORT) if state not in ("CLOSE", "LISTEN", "NEW_SYN_RECV")]
        assert server[:2] == ["SYN_RECV", "ESTABLISHED"] and {"CLOSE_WAIT", "LAST_ACK"} <= set(server)
        for line, parts in seen.of(*ends[:1], connection.client_port):
            assert (parts["protocol"], parts["target"], parts["dport"]) == ("TCP", ends[1], str(PORT))
            assert left.is_netns(line.netns)


def test_a_listening_socket_and_a_request(seen: Seen, pair: Pair) -> None:
    _, right = pair
    listening = [parts for _, parts in seen.of(right.ip, PORT) if parts["state"] == "LISTEN"]
    assert listening
    assert all((parts["target"], parts["dport"], parts["out"]) == ("0.0.0.0", "0", "0") for parts in listening)
    # A request is a smaller struct: nothing but its state is known.
    requests = [parts for _, parts in seen.of(right.ip, PORT) if parts["state"] == "NEW_SYN_RECV"]
    assert {parts["dport"] for parts in requests} == {str(seen.v4.client_port)}
    assert not any({"ca", "out", "wmem", "timer"} & parts.keys() for parts in requests)


def test_udp(seen: Seen, pair: Pair) -> None:
    _, right = pair
    sent = [(line.trace, parts) for line, parts in seen.of("::", PORT) if parts["protocol"] == "UDP"]
    assert "udpv6_sendmsg" in [name for name, _ in sent]
    received = [(line.trace, parts) for line, parts in seen.of(right.ip6, PORT) if parts["protocol"] == "UDP"]
    assert "udpv6_recvmsg" in [name for name, _ in received]
    for _, parts in sent + received:
        assert "wmem" in parts and not {"state", "ca", "timer"} & parts.keys()


def test_what_is_not_acknowledged_is_what_ss_says(seen: Seen, pair: Pair) -> None:
    left, _ = pair
    lines = seen.of(left.ip, seen.stalled_port)
    _, last = lines[-1]
    assert last["state"] == "ESTABLISHED" and seen.ss.startswith("ESTAB")
    send_queue = int(seen.ss.split()[2])
    assert int(last["unacked"]) == send_queue - seen.ss_number("notsent") >= SIZE
    assert int(last["out"]) == seen.ss_number("unacked")
    assert last["ca"] == "CA_Loss"


def test_each_retransmission_is_seen(seen: Seen, pair: Pair) -> None:
    left, _ = pair
    resent = [line for line in seen.trace.lines if line.trace == "tcp_retransmit_skb" and left.is_netns(line.netns)]
    assert seen.resent[0] >= RETRANSMISSIONS
    # A tail loss probe goes by __tcp_retransmit_skb alone, which some compilers put into its other caller.
    assert seen.resent[0] - 1 <= len(resent) <= seen.resent[1]


def test_what_is_told_of_a_retransmission(seen: Seen) -> None:
    pattern = (
        r"retransmission: seq (\d+):(\d+), timeouts in a row: (\d+), RTO (\d+) ms, "
        r"sent again on this connection before: (\d+)"
    )
    found = [(line.seconds, re.search(pattern, line.note)) for line in seen.again.lines]
    rows = [(seconds, *map(int, match.groups())) for seconds, match in found if match]
    assert RETRANSMISSIONS <= len(rows) == len(found)
    # Nothing is acknowledged any more: it is always the first segment, and each time is twice the one before.
    starts, timeouts, before = ([row[at] for row in rows] for at in (1, 3, 5))
    assert len(set(starts)) == 1
    assert all(0 < (end - start) % (1 << 32) <= SIZE for _, start, end, *_ in rows)
    assert timeouts == list(range(1, len(rows) + 1))
    assert before == sorted(before) and before[-1] < seen.resent[1]
    for (earlier, _, _, _, short_ms, _), (later, _, _, _, long_ms, _) in zip(rows, rows[1:]):
        assert abs(long_ms - 2 * short_ms) <= 8  # a jiffy for each
        assert later - earlier > long_ms / 1000 - 0.1
    (rto,) = re.findall(r"\brto:(\d+)", seen.ss)
    assert any(abs(int(rto) - 2 * row[4]) <= 8 for row in rows)


def test_timers_are_in_seconds_and_expire_when_they_say(seen: Seen, pair: Pair) -> None:
    left, _ = pair
    late_s = []
    due = None
    for line, parts in seen.of(left.ip, seen.stalled_port):
        if line.trace == "tcp_write_timer_handler" and due is not None:
            late_s.append(line.seconds - due)
            due = None
        elif parts.get("timer") == "retrans" and float(parts["left"]) > 0.3:
            due = line.seconds + float(parts["left"])
    # An emulated CPU may be late with its ticks and softirqs, but no timer is early. In wrong units all would be, or
    # late by a multiple of what was left.
    assert late_s and -0.05 < min(late_s) < 0.2
