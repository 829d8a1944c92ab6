"""Records of several CPUs, each in time order, must come out in one order of time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.event import Event, Packet, Record
from nettrace.stream import TimeOrder

PACKET = Packet(84, 0, 0x0800, 1, 0, 0, 84, bytes(4), bytes(4), bytes(16))


def record(record_id: int, *times: int) -> Record:
    events = tuple(Event(time_ns, "ip_rcv", 0xA0, PACKET) for time_ns in times)
    return Record(record_id, record_id, 0, 0xA0, 0, True, False, 0, len(times), events)


def ids(records: list[Record]) -> list[int]:
    return [record.record_id for record in records]


def start(record: Record) -> int:
    return record.events[0].time_ns


def test_two_cpus() -> None:
    order = TimeOrder()
    for one in (record(1, 10, 11), record(2, 30), record(3, 20, 90), record(4, 30)):
        assert order.push(one) == []
    assert order.held == 4
    assert ids(order.ready(30)) == [1, 3]
    assert ids(order.ready(31)) == [2, 4]
    assert order.ready(10**9) == []
    assert order.overflowed == 0


def test_record_without_events_stays_behind_the_one_before_it() -> None:
    order = TimeOrder()
    for one in (record(1, 10), record(2), record(3, 5)):
        order.push(one)
    assert ids(order.ready(10)) == [3]
    assert ids(order.flush()) == [1, 2]


def test_over_the_limit_the_oldest_goes() -> None:
    order = TimeOrder(max_records=2)
    assert order.push(record(1, 20)) == []
    assert order.push(record(2, 10)) == []
    assert ids(order.push(record(3, 30))) == [2]
    assert ids(order.push(record(4, 5))) == [4]
    assert order.overflowed == 2
    assert ids(order.flush()) == [1, 3]
    assert order.held == 0


def test_after_a_flush_it_goes_on() -> None:
    order = TimeOrder()
    order.push(record(1, 20))
    assert ids(order.flush()) == [1]
    assert order.flush() == []
    order.push(record(2, 10))
    assert ids(order.ready(11)) == [2]


# What each CPU sent, in time order, in rounds: each round ends at its time, and is then drained CPU by CPU.
@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6).map(sorted), min_size=1, max_size=4), st.integers(1, 5))
def test_drained_cpu_by_cpu_comes_out_in_time_order(cpus: list[list[int]], round_ns: int) -> None:
    sent = [record(999 - cpu * 100 - n, time_ns) for cpu, times in enumerate(cpus) for n, time_ns in enumerate(times)]
    order = TimeOrder()
    out: list[Record] = []
    pushed: list[Record] = []
    for end in range(round_ns, 10 + round_ns, round_ns):
        drained = [one for one in sent if end - round_ns <= start(one) < end]
        for one in drained:
            assert order.push(one) == []
        pushed += drained
        assert order.held == len(pushed) - len(out)
        now = order.ready(end - 1)
        assert all(start(one) < end - 1 for one in now)
        out += now
    out += order.flush()
    # Drained in this order, so a stable sort by time is the truth.
    assert out == sorted(sent, key=start)


@settings(deadline=None)
@given(st.lists(st.integers(0, 20)), st.integers(0, 5), st.data())
def test_each_record_comes_out_once_and_the_bound_holds(times: list[int], limit: int, data: st.DataObject) -> None:
    order = TimeOrder(max_records=limit)
    out: list[Record] = []
    early = 0
    for n, time_ns in enumerate(times):
        # What is held is known from outside: what went in and did not come out.
        inside = [one for one in range(n + 1) if one not in ids(out)]
        pushed_out = order.push(record(n, time_ns))
        if pushed_out:
            assert ids(pushed_out) == [min(inside, key=lambda one: (times[one], one))]
            assert len(inside) == limit + 1
        early += len(pushed_out)
        out += pushed_out
        assert order.held == n + 1 - len(out) <= limit
        if data.draw(st.booleans()):
            before_ns = data.draw(st.integers(0, 25))
            ready = order.ready(before_ns)
            expected = [one for one in inside if one not in ids(pushed_out) and times[one] < before_ns]
            assert ids(ready) == sorted(expected, key=lambda one: times[one])
            out += ready
    out += order.flush()
    assert sorted(ids(out)) == list(range(len(times)))
    assert order.overflowed == early
