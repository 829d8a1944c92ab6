"""At full speed: nothing is mixed up, and what is not seen is counted."""

import re
from collections import Counter

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
