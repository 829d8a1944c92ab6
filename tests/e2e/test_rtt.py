"""Round trips over a cable that delays by a known time, against the clocks of the programs and what ss says."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator

import pytest

from .net import Host
from .tool import Nettrace
from .traffic import Peer

Pair = tuple[Host, Host]

DELAY_MS = 100
ASKED = 12
PORT = 9078
# A percentile is the middle of a bucket.
WITHIN = 1 / 32
NOTE = re.compile(r"^\*rtt:(?P<rtt>[\d.]+)ms, srtt:(?P<srtt>[\d.]+)ms, rtt_min:(?P<least>[\d.]+)ms\*$")


@pytest.fixture(scope="module")
def slow(pair: Pair) -> Iterator[Pair]:
    """What the right one sends takes its time."""
    _, right = pair
    right.sh(f"tc qdisc add dev r0 root netem delay {DELAY_MS}ms")
    yield pair
    right.sh("tc qdisc del dev r0 root")


def ask(client: Host, server: Host, address: str) -> tuple[str, dict[str, int]]:
    """Exchanges bytes; returns what ss says of the client's socket then, and what the client says."""
    answering = Peer(server, "tcp-answer", address, str(PORT))
    asking = Peer(client, "tcp-ask", address, str(PORT), str(ASKED))
    ss = client.sh(f"ss -tinH dport = :{PORT}")
    asking.go_on()
    told = asking.result()
    assert answering.result()["answered"] == ASKED
    return ss, told


def test_the_distribution_is_that_of_the_cable(slow: Pair) -> None:
    left, right = slow
    with Nettrace("--rtt-by-peer", "-s", left.ip, "-D", str(PORT)) as trace:
        _, told = ask(left, right, right.ip)
        assert trace.stop() == 0
    tables = "\n".join(trace.body).split("rtt distribution: ")
    last = tables[-1].splitlines()
    samples = int(last[0].split()[0])
    # One of the SYN, one of each byte, and if it was waited for, one of the FIN.
    assert ASKED + 1 <= samples <= ASKED + 2
    assert samples == trace.summary("events")
    assert sum(int(row[1]) for row in re.findall(r"^ +([\d.]+)ms - +[\d.]+ms: +(\d+) ", tables[-1], re.M)) == samples
    (peer,) = [line for line in last if line.split()[0:1] == [right.ip]]
    assert int(peer.split()[1]) == samples
    # No faster than the cable, no slower than it seemed to the program.
    lowest, highest = DELAY_MS * (1 - WITHIN), told["median_us"] / 1000 * (1 + WITHIN)
    for line in (peer, *(line for line in last if line.split()[0:1] in (["sample"], ["least"]))):
        (median,) = re.findall(r"p50 ([\d.]+)ms", line)
        assert lowest <= float(median) <= highest, line


def test_each_sample_is_told_as_the_socket_then_knows_it(slow: Pair) -> None:
    left, right = slow
    with Nettrace("--rtt-detail", "-D", str(PORT), "--filter-srtt", str(DELAY_MS // 2)) as trace:
        ss, told = ask(left, right, right.ip)
        ask(left, left, "127.0.0.1")
        assert trace.stop() == 0
    # What never left the host was faster than asked for.
    assert {line.packet.split(" ")[1] for line in trace.lines} == {f"{left.ip}:{told['port']}"}
    notes = []
    for line in trace.lines:
        assert line.trace == "tcp_ack_update_rtt"
        match = NOTE.match(line.note)
        assert match, line.note
        notes.append({name: float(text) for name, text in match.groupdict().items()})
    assert ASKED + 1 <= len(notes) <= ASKED + 2
    assert all(note["rtt"] >= DELAY_MS for note in notes)
    assert [note["least"] for note in notes] == sorted((note["least"] for note in notes), reverse=True)
    # ss was asked before the FIN.
    (smoothed,), (least,) = re.findall(r"\brtt:([\d.]+)/", ss), re.findall(r"\bminrtt:([\d.]+)", ss)
    assert notes[ASKED]["srtt"] == pytest.approx(float(smoothed), abs=0.001)
    assert notes[ASKED]["least"] == pytest.approx(float(least), abs=0.001)
