"""Each hit by itself, as it comes."""

import re
import time

from .net import Host
from .tool import READ_BY_PROGRAM, Nettrace
from .traffic import udp


def test_basic_prints_each_hit_as_it_comes_and_dates_are_wall_clock_time(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with Nettrace("--basic", "-p", "udp", "-D", "6010", "--date") as trace:
        before = time.time()
        assert udp(left, right, right.ip, 6010, count=3) == 3
        after = time.time()
        trace.wait_lines(3 * 8)
        assert trace.stop() == 0
    names = [line.trace for line in trace.lines]
    for name in ("__ip_local_out", "__dev_queue_xmit", "netif_receive_skb", "udp_rcv"):
        assert names.count(name) == 3, name
    assert sum(names.count(name) for name in READ_BY_PROGRAM) == 3
    times = [line.time for line in trace.lines]
    assert times == sorted(times)
    for each in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", each)
        seconds = time.mktime(time.strptime(each[:19], "%Y-%m-%d %H:%M:%S")) + float(each[19:])
        assert before - 0.01 <= seconds <= after + 0.01
    assert trace.summary("events") == len(trace.lines)
