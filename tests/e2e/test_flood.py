"""At full speed: nothing is mixed up, and what is not seen is counted."""

import re
from collections import Counter

import pytest

from .conftest import KPROBES, TRACED_FUNCTIONS
from .net import Host
from .tool import Nettrace
from .traffic import run_peer

PACKETS = 10000
FIRST_PORT = 20000
PORT = 6020


def test_every_packet_of_a_flood_is_seen_or_counted_as_lost(pair: tuple[Host, Host]) -> None:
    left, right = pair
    before = right.snmp("Udp", "NoPorts") + right.snmp("Udp", "InDatagrams")
    with Nettrace("-p", "udp", "-D", str(PORT)) as trace:
        assert run_peer(left, "udp-flood", right.ip, str(PORT), str(FIRST_PORT), str(PACKETS)) == {"sent": PACKETS}
        assert right.snmp("Udp", "NoPorts") + right.snmp("Udp", "InDatagrams") - before == PACKETS
        # One more, to know when all before it have been read.
        assert run_peer(left, "udp-flood", right.ip, str(PORT), str(FIRST_PORT + PACKETS), "1") == {"sent": 1}
        trace.wait_blocks(1, containing=f":{FIRST_PORT + PACKETS} -> ", timeout=400)
        assert trace.stop() == 0
    senders: Counter[str] = Counter()
    blocks = trace.blocks
    for block in blocks:
        assert len(block.packets) == 1, block.packets
        match = re.fullmatch(rf"UDP: {left.ip}:(\d+) -> {right.ip}:{PORT}", block.packets[0])
        assert match, block.packets
        senders[match[1]] += 1
        assert block.traces[0] == "__ip_local_out"
        # The kernel skips probes inside of interrupted ones: a path with a hole in it is marked as such.
        assert block.marks or block.traces.count("udp_rcv") == 1
    assert set(senders.values()) == {1}
    not_seen = sum(
        trace.summary(what)
        for what in ("packets lost whole", "packets not followed for want of room", "skbs pushed out")
    )
    assert trace.summary("packets") == len(blocks)
    assert len(blocks) + not_seen == PACKETS + 1
    assert sum(block.marks != [] for block in blocks) <= PACKETS // 1000


def test_traces_that_are_too_dear_are_taken_away(pair: tuple[Host, Host]) -> None:
    left, right = pair
    # No flood, as code is rewritten meanwhile: emulated CPUs that are just passing may stumble over that.
    pinger = left.popen("ping", "-n", "-q", "-i", "0.02", right.ip)
    try:
        # Emulated, a process that waits takes more than that: it goes without all that it can, then it ends.
        with Nettrace("-p", "udp", "-D", str(PORT), "--json", "--max-cpu", "0.1") as trace:
            seen = []
            while trace.process.poll() is None:
                seen.append(probed())
            assert trace.wait_end() == 1
    finally:
        pinger.terminate()
        pinger.communicate()
    cost = trace.objects[-1]["cost"]
    assert cost["over"] and 0 < cost["programs_ns"] < cost["wall_ns"] * cost["cpus"]
    assert cost["runs"] > 1000 and cost["process_ns"] > 0
    # Of the way of these pings; what packets are followed by has to stay.
    assert {"ip_rcv_core", "icmp_rcv"} <= set(cost["shed"])
    assert sum(cost["traces"].values()) == pytest.approx(cost["programs_ns"], rel=0.01)
    assert any("skb_clone" in now and not now & set(cost["shed"]) for now in seen)
    # Those that were hit less often only show up later.
    told = re.findall(r"more than 0\.1% of a CPU: goes on without (.+?);", trace.stderr)
    assert ", ".join(told).split(", ") == cost["shed"]
    assert "taken away by --max-cpu: " in trace.stderr and trace.stderr.endswith("\nended by --max-cpu\n")


def probed() -> set[str]:
    """The kernel's functions that are probed now."""
    lines = [*KPROBES.read_text().splitlines(), *TRACED_FUNCTIONS.read_text().splitlines()]
    return {word.partition("+")[0] for line in lines for word in line.split()[:3]}
