"""Each hit by itself, as it comes."""

import re
import time

from .net import Host, forget, ping
from .tool import Nettrace

OTHER = "10.0.42.3"


def test_basic_prints_each_hit_as_it_comes_and_dates_are_wall_clock_time(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with Nettrace("--basic", "-p", "0x806", "--addr", OTHER, "--date") as trace:
        forget(left, right)
        before = time.time()
        for address in (right.ip, OTHER):
            assert ping(left, address)["received"] == 1
        after = time.time()
        trace.wait_lines(2 * 6)
        assert trace.stop() == 0
    mac = right.sh("cat /sys/class/net/r0/address").strip().upper()
    for text in (f"ARP: who has {OTHER}, tell {left.ip}", f"ARP: {OTHER} is at {mac}"):
        names = [line.trace for line in trace.lines if line.packet == text]
        for name in ("arp_xmit", "__dev_queue_xmit", "netif_receive_skb", "arp_rcv", "arp_process", "consume_skb"):
            assert names.count(name) == 1, (text, name)
    for line in trace.lines:
        assert re.match(rf"ARP: .*{re.escape(OTHER)}\b", line.packet), line
    times = [line.time for line in trace.lines]
    assert times == sorted(times)
    for each in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", each)
        seconds = time.mktime(time.strptime(each[:19], "%Y-%m-%d %H:%M:%S")) + float(each[19:])
        assert before - 0.01 <= seconds <= after + 0.01
    assert trace.summary("events") == len(trace.lines)
