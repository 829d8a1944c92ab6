"""Random packets with random clones, told in random parts and orders: the contexts must be those packets again.

Some of their functions' returns are told too, each in a message of its own, before or after the record.
"""

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.event import Context, Event, Packet, Record, Return
from nettrace.lifecycle import Lifecycle

PACKET = Packet(84, 0, 0x0800, 1, 0, 0, 84, bytes(4), bytes(4), bytes(16))


class Skb(NamedTuple):
    """The truth about one skb."""

    record_id: int
    parent_id: int
    address: int
    events: tuple[Event, ...]  # with what their functions returned
    messages: tuple[Record, ...]
    returns: tuple[Record, ...]  # messages too


class Model(NamedTuple):
    """The truth: packets, and all their messages in an order in which they may have been sent."""

    packets: dict[int, list[Skb]]
    sent: list[Record]


def return_of(record: Record, number: int, returned: Return) -> Record:
    """The message of a return: what its record tells of the skb is not repeated."""
    return record._replace(
        children=0, freed=False, slots_before=0, slots=2, events=(), calls=0, returned=((number, returned),)
    )


def draw_messages(
    draw: st.DrawFn, packet_id: int, record_id: int, parent_id: int, address: int, children: int, times: list[int]
) -> Skb:
    slots = [draw(st.integers(1, 3)) for _ in times]
    calls = [draw(st.booleans()) for _ in times]
    events = [Event(time_ns, f"{record_id}.{n}", address, PACKET, n) for n, time_ns in enumerate(times)]
    returned = [
        Return(event.time_ns + draw(st.integers(0, 30)), draw(st.integers(0, 9))) if call else None
        for event, call in zip(events, calls)
    ]
    cuts = sorted(draw(st.sets(st.integers(1, len(times)), max_size=3))) if times else []
    told = [*sorted(draw(st.integers(0, children)) for _ in cuts), children]
    bounds = [0, *cuts, len(times)]  # the last part is empty when there is a cut at the end
    messages = tuple(
        Record(
            packet_id=packet_id,
            record_id=record_id,
            parent_id=parent_id,
            skb=address,
            children=told[n],
            freed=n == len(cuts),
            single=False,
            slots_before=sum(slots[:start]),
            slots=sum(slots[start:end]),
            events=tuple(events[start:end]),
            calls=sum(calls[:end]),
        )
        for n, (start, end) in enumerate(zip(bounds, bounds[1:]))
    )
    return Skb(
        record_id=record_id,
        parent_id=parent_id,
        address=address,
        events=tuple(event._replace(returned=back) for event, back in zip(events, returned)),
        messages=messages,
        returns=tuple(return_of(messages[0], n, back) for n, back in enumerate(returned) if back is not None),
    )


@st.composite
def models(draw: st.DrawFn) -> Model:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    ids = draw(st.permutations(range(1, sum(sizes) + 1)))  # a clone's id may be less than its parent's
    addresses = st.sampled_from([0xA0, 0xB0, 0xC0])  # few, so that packets and clones reuse them
    packets: dict[int, list[Skb]] = {}
    queues = []
    for size in sizes:
        tree, ids = ids[:size], ids[size:]
        parents = [0] + [draw(st.sampled_from(tree[:n])) for n in range(1, size)]
        children = Counter(parents)
        skbs = []
        for record_id, parent_id in zip(tree, parents):
            times = sorted(draw(st.lists(st.integers(0, 30), max_size=4)))
            address = draw(addresses)
            skb = draw_messages(draw, tree[0], record_id, parent_id, address, children[record_id], times)
            skbs.append(skb)
            # A function may return long before its record is full, or on another CPU long after it was sent.
            queues += [list(skb.messages), *([message] for message in skb.returns)]
        packets[tree[0]] = skbs
    sent = []
    while queues:
        queue = draw(st.sampled_from(queues))
        sent.append(queue.pop(0))
        if not queue:
            queues = [queue for queue in queues if queue]
    return Model(packets, sent)


@st.composite
def arrivals(draw: st.DrawFn, model: Model) -> list[Record]:
    """The messages in the order of a ring buffer, of per-CPU buffers, or in none at all."""
    how = draw(st.sampled_from(["ring", "per-CPU", "shuffled"]))
    if how == "ring":
        return model.sent
    if how == "shuffled":
        return draw(st.permutations(model.sent))
    buffers: list[list[Record]] = [[], [], []]
    for message in model.sent:
        draw(st.sampled_from(buffers)).append(message)
    arrived = []
    while any(buffers):
        buffer = draw(st.sampled_from([buffer for buffer in buffers if buffer]))
        count = draw(st.integers(1, len(buffer)))
        arrived += buffer[:count]
        del buffer[:count]
    return arrived


@st.composite
def models_with_arrivals(draw: st.DrawFn) -> tuple[Model, list[Record]]:
    model = draw(models())
    return model, draw(arrivals(model))


def traces(contexts: list[Context]) -> Counter[str]:
    return Counter(event.trace for context in contexts for event in context.events)


def owners(model: Model) -> dict[str, int]:
    return {event.trace: packet_id for packet_id, skbs in model.packets.items() for skb in skbs for event in skb.events}


def assert_equals_truth(context: Context, skbs: list[Skb]) -> None:
    """The context has exactly the events of these skbs, in order, and nothing is wrong with it."""
    assert not context.unfinished
    assert not context.missing
    assert sorted(event.trace for event in context.events) == sorted(e.trace for skb in skbs for e in skb.events)
    assert_in_order(context)
    for skb in skbs:
        assert tuple(e for e in context.events if e.trace.startswith(f"{skb.record_id}.")) == skb.events
    silent = {skb.address for skb in skbs} - {event.skb for event in context.events}
    seen = list(dict.fromkeys(event.skb for event in context.events))
    assert list(context.skbs[: len(seen)]) == seen
    assert sorted(context.skbs[len(seen) :]) == sorted(silent)


def assert_in_order(context: Context) -> None:
    times = [event.time_ns for event in context.events]
    assert times == sorted(times)
    assert len(set(context.skbs)) == len(context.skbs)


def assert_counted(lifecycle: Lifecycle, contexts: list[Context]) -> None:
    assert lifecycle.unfinished == sum(context.unfinished for context in contexts)
    assert lifecycle.finished == len(contexts) - lifecycle.unfinished
    assert lifecycle.missing == sum(context.missing for context in contexts)
    assert lifecycle.events == sum(len(context.events) for context in contexts)


@settings(deadline=None)
@given(models_with_arrivals())
def test_all_told_is_all_complete(case: tuple[Model, list[Record]]) -> None:
    model, arrived = case
    lifecycle = Lifecycle()
    awaited = Counter(record.packet_id for record in arrived)
    contexts = []
    for record in arrived:
        awaited[record.packet_id] -= 1
        done = lifecycle.push(record)
        # Complete with its very last message, and no sooner.
        assert [context.packet_id for context in done] == [record.packet_id] * (awaited[record.packet_id] == 0)
        contexts += done
    assert lifecycle.close() == []
    assert lifecycle.open_contexts == 0
    assert sorted(context.packet_id for context in contexts) == sorted(model.packets)
    for context in contexts:
        assert_equals_truth(context, model.packets[context.packet_id])
    assert_counted(lifecycle, contexts)
    assert lifecycle.finished == len(model.packets)


@settings(deadline=None)
@given(st.data())
def test_the_order_of_arrival_does_not_show(data: st.DataObject) -> None:
    model = data.draw(models())
    results = []
    for _ in range(2):
        lifecycle = Lifecycle()
        results.append({c for record in data.draw(arrivals(model)) for c in lifecycle.push(record)})
    assert results[0] == results[1]


@settings(deadline=None)
@given(models_with_arrivals(), st.data())
def test_loss_is_marked(case: tuple[Model, list[Record]], data: st.DataObject) -> None:
    model, arrived = case
    lost = data.draw(st.sets(st.integers(0, len(arrived) - 1)))
    kept = [record for n, record in enumerate(arrived) if n not in lost]
    broken = {arrived[n].packet_id for n in lost}
    lifecycle = Lifecycle(idle_ns=100)
    at_once = [context for record in kept for context in lifecycle.push(record)]
    # Times are at most 60, so all that is open is idle at 160.
    rest = lifecycle.expire(160) if data.draw(st.booleans()) else lifecycle.close()
    assert lifecycle.open_contexts == 0
    contexts = at_once + rest
    # Of the others nothing came, or nothing but returns.
    assert sorted(context.packet_id for context in contexts) == sorted({r.packet_id for r in kept if not r.returned})
    assert traces(contexts) == Counter(event.trace for record in kept for event in record.events)
    assert {context.packet_id for context in at_once} == set(model.packets) - broken
    for context in at_once:
        assert_equals_truth(context, model.packets[context.packet_id])
    returns = {(record.record_id, *returned) for record in kept for returned in record.returned}
    found = [event for context in contexts for event in context.events if event.returned is not None]
    assert {(int(event.trace.partition(".")[0]), event.number, event.returned) for event in found} <= returns
    events = {event.trace for record in kept for event in record.events}
    assert len(found) == sum(f"{record_id}.{number}" in events for record_id, number, _ in returns)
    assert lifecycle.late == 0
    for context in rest:
        assert context.unfinished or context.missing
        assert {owners(model)[event.trace] for event in context.events} <= {context.packet_id}
        assert_in_order(context)
        freed = {record.record_id for record in kept if record.freed}
        if all(skb.record_id in freed for skb in model.packets[context.packet_id]):
            assert context.missing
        else:
            # Even where every trace of a clone was lost: then its parent has more clones than were told of.
            assert context.unfinished
    assert_counted(lifecycle, contexts)


@settings(deadline=None)
@given(models_with_arrivals(), st.integers(1, 3), st.integers(2, 4), st.data())
def test_bounds_hold_and_nothing_is_mixed(
    case: tuple[Model, list[Record]], max_contexts: int, max_messages: int, data: st.DataObject
) -> None:
    model, arrived = case
    lifecycle = Lifecycle(max_contexts=max_contexts, idle_ns=10, max_messages=max_messages)
    contexts = []
    for record in arrived:
        contexts += lifecycle.push(record)
        assert lifecycle.open_contexts <= max_contexts
        assert len(lifecycle._closed) <= max_contexts
        if data.draw(st.integers(0, 9)) == 0:
            contexts += lifecycle.expire(data.draw(st.integers(0, 60)))
    contexts += lifecycle.close()
    assert traces(contexts) == Counter(owners(model).keys())
    for context in contexts:
        assert {owners(model)[event.trace] for event in context.events} <= {context.packet_id}
        assert_in_order(context)
        if not context.unfinished and not context.missing:
            assert_equals_truth(context, model.packets[context.packet_id])
    assert_counted(lifecycle, contexts)


@settings(deadline=None)
@given(models_with_arrivals())
def test_repeated_messages_change_nothing(case: tuple[Model, list[Record]]) -> None:
    model, arrived = case
    last = {record.packet_id: n for n, record in enumerate(arrived)}
    lifecycle = Lifecycle()
    contexts = []
    repeated = 0
    for n, record in enumerate(arrived):
        contexts += lifecycle.push(record)
        if n != last[record.packet_id]:
            assert lifecycle.push(record) == []
            repeated += record.slots > 0
    assert lifecycle.duplicates == repeated
    assert sorted(context.packet_id for context in contexts) == sorted(model.packets)
    for context in contexts:
        assert_equals_truth(context, model.packets[context.packet_id])


@settings(deadline=None)
@given(models_with_arrivals())
def test_without_joining_each_skb_is_a_packet(case: tuple[Model, list[Record]]) -> None:
    model, arrived = case
    lifecycle = Lifecycle(join_clones=False)
    contexts = [context for record in arrived for context in lifecycle.push(record)]
    assert lifecycle.close() == []
    skbs = {skb.record_id: skb for tree in model.packets.values() for skb in tree}
    assert sorted(context.packet_id for context in contexts) == sorted(skbs)
    for context in contexts:
        assert_equals_truth(context, [skbs[context.packet_id]])


# Examples. Each event takes one slot.

A, B, C = 10, 11, 12
NAMES = {A: "a", B: "b", C: "c"}


def record(
    record_id: int, *times: int, parent: int = 0, children: int = 0, freed: bool = True, before: int = 0, calls: int = 0
) -> Record:
    """A record of packet A; its skb's address is its id in hundreds."""
    skb = record_id * 100
    events = tuple(
        Event(time_ns, f"{NAMES[record_id]}{time_ns}", skb, PACKET, before + n) for n, time_ns in enumerate(times)
    )
    return Record(A, record_id, parent, skb, children, freed, False, before, len(times), events, calls)


def returned(record_id: int, number: int, value: int, time_ns: int = 50, parent: int = 0) -> Record:
    """The message of a return, of the step with that number."""
    return return_of(record(record_id, parent=parent), number, Return(time_ns, value))


def values(context: Context) -> str:
    """What returned what."""
    return " ".join(f"{event.trace}={event.returned.value}" for event in context.events if event.returned is not None)


def path(context: Context) -> str:
    return " ".join(event.trace for event in context.events)


def test_one_message_is_a_context_at_once() -> None:
    lifecycle = Lifecycle()
    (context,) = lifecycle.push(record(A, 1, 2))
    assert context == Context(A, (1000,), record(A, 1, 2).events, unfinished=False, missing=False)
    assert lifecycle.open_contexts == 0


def test_a_step_recorded_late_by_another_cpu_is_put_in_order() -> None:
    (context,) = Lifecycle().push(record(A, 2, 1))
    assert path(context) == "a1 a2"


def test_clone_is_joined() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(B, 3, 6, parent=A)) == []
    (context,) = lifecycle.push(record(A, 1, 4, 7, children=1))
    assert path(context) == "a1 b3 a4 b6 a7"
    assert context.skbs == (1000, 1100)


def test_clone_of_a_clone_is_waited_for() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(C, 3, parent=B)) == []
    # One clone is known and A has one: but they are not the same.
    assert lifecycle.push(record(A, 1, children=1)) == []
    (context,) = lifecycle.push(record(B, 2, parent=A, children=1))
    assert path(context) == "a1 b2 c3"
    assert not context.unfinished
    assert not context.missing


def test_clone_of_a_clone_that_is_not_freed() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(C, 3, parent=B))
    lifecycle.push(record(A, 1, children=1))
    assert lifecycle.push(record(B, 2, parent=A, children=1, freed=False)) == []
    (context,) = lifecycle.close()
    assert context.unfinished
    assert not context.missing


def test_parts_out_of_order() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(A, 3, 4, before=2)) == []
    (context,) = lifecycle.push(record(A, 1, 2, freed=False))
    assert path(context) == "a1 a2 a3 a4"
    assert not context.missing


def test_lost_part_of_a_freed_packet_is_missing_not_unfinished() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 3, 4, before=2))
    assert lifecycle.expire(103) == []
    (context,) = lifecycle.expire(104)
    assert not context.unfinished
    assert context.missing


@pytest.mark.parametrize("expired", [True, False])
def test_first_skb_never_told_of(expired: bool) -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(B, 2, parent=A)) == []
    (context,) = lifecycle.expire(10**12) if expired else lifecycle.close()
    assert context == Context(A, (1100,), record(B, 2).events, unfinished=True, missing=True)


def test_clone_never_told_of() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(A, 2, children=1))
    (context,) = lifecycle.expire(10**12)
    assert context.unfinished
    assert context.missing


def test_record_that_names_no_parent_is_not_taken_for_the_first() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(B, 2)) == []
    (context,) = lifecycle.expire(10**12)
    assert context.unfinished
    assert context.missing


def test_clone_made_after_what_its_parent_told() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(A, 1, freed=False))
    lifecycle.push(record(B, 3, parent=A))
    (context,) = lifecycle.close()
    assert context.unfinished
    assert context.missing


def test_what_close_cuts_short_is_unfinished() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(A, 3, 4, before=2))
    (context,) = lifecycle.close()
    assert context.unfinished
    assert context.missing


def test_end_without_a_step() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(A, 1, 2, freed=False))
    (context,) = lifecycle.push(record(A, before=2))
    assert path(context) == "a1 a2"
    assert not context.missing


def test_skb_without_a_step_is_listed_last() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(B, parent=A))
    (context,) = lifecycle.push(record(A, 1, children=1))
    assert path(context) == "a1"
    assert context.skbs == (1000, 1100)


def test_a_followed_skb_is_not_idle() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 1, freed=False))
    lifecycle.push(record(A, 90, freed=False, before=1))
    assert lifecycle.expire(150) == []
    assert len(lifecycle.expire(190)) == 1


def test_a_record_of_old_events_counts_from_when_it_came() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 100, freed=False))
    lifecycle.push(record(A, 1, freed=False)._replace(packet_id=B, record_id=B))
    lifecycle.push(record(A, 101, freed=False, before=1))
    assert lifecycle.expire(199) == []
    assert [context.packet_id for context in lifecycle.expire(200)] == [B]


def test_late_record_stays_alone() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 1, children=2))
    lifecycle.expire(200)
    (first,) = lifecycle.push(record(B, 2, parent=A))
    (second,) = lifecycle.push(record(C, 3, parent=A, freed=False))
    assert [path(first), path(second)] == ["b2", "c3"]
    assert first.missing
    assert second.missing
    assert [first.unfinished, second.unfinished] == [False, True]
    assert lifecycle.late == 2
    assert lifecycle.open_contexts == 0


def test_the_longest_idle_makes_room() -> None:
    lifecycle = Lifecycle(max_contexts=2)
    one, two, three = (
        record(A, time_ns, freed=False)._replace(packet_id=i, record_id=i) for i, time_ns in ((1, 1), (2, 2), (3, 3))
    )
    assert lifecycle.push(one) == []
    assert lifecycle.push(two) == []
    assert lifecycle.push(one._replace(slots_before=1)) == []
    (context,) = lifecycle.push(three)
    assert context.packet_id == 2
    assert context.unfinished
    assert lifecycle.evicted == 1


def test_a_storm_of_clones_is_cut() -> None:
    lifecycle = Lifecycle(max_messages=100)
    contexts = []
    for n in range(1000):
        contexts += lifecycle.push(record(B, n, parent=A)._replace(record_id=100 + n))
        assert lifecycle.open_contexts <= 1
    assert sum(len(context.events) for context in contexts) == 1000
    assert len(contexts[0].events) == 100
    assert lifecycle.evicted == 1
    assert lifecycle.late == 900


def test_a_return_is_waited_for() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(A, 1, 2, 3, calls=1)) == []
    (context,) = lifecycle.push(returned(A, 1, 7, time_ns=9))
    assert path(context) == "a1 a2 a3"
    assert [event.returned for event in context.events] == [None, Return(9, 7), None]
    assert (context.unfinished, context.missing) == (False, False)
    assert lifecycle.events == 3


def test_a_return_may_come_before_the_record() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(returned(A, 0, 7)) == []
    assert lifecycle.push(returned(A, 2, 8)) == []
    (context,) = lifecycle.push(record(A, 1, 2, 3, calls=2))
    assert values(context) == "a1=7 a3=8"
    assert (context.unfinished, context.missing) == (False, False)


def test_a_return_is_of_a_step_in_any_part_of_the_record() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(record(A, 3, 4, before=2, calls=2)) == []
    assert lifecycle.push(returned(A, 1, 7)) == []
    assert lifecycle.push(record(A, 1, 2, freed=False, calls=1)) == []
    (context,) = lifecycle.push(returned(A, 3, 8))
    assert values(context) == "a2=7 a4=8"
    assert not context.missing


def test_steps_of_a_clone_have_numbers_of_their_own() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(returned(B, 0, 8, parent=A))
    lifecycle.push(returned(A, 0, 7))
    lifecycle.push(record(A, 1, 5, children=1, calls=1))
    (context,) = lifecycle.push(record(B, 3, parent=A, calls=1))
    assert path(context) == "a1 b3 a5"
    assert values(context) == "a1=7 b3=8"
    assert (context.unfinished, context.missing) == (False, False)


def test_the_last_return_of_a_clone_completes_the_packet() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(record(A, 1, children=1))
    assert lifecycle.push(record(B, 3, parent=A, calls=1)) == []
    (context,) = lifecycle.push(returned(B, 0, 8, parent=A))
    assert values(context) == "b3=8"
    assert not context.missing


def test_a_return_that_never_comes_is_missing_not_unfinished() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 1, 2, calls=2))
    lifecycle.push(returned(A, 0, 7, time_ns=3))
    assert lifecycle.expire(102) == []
    (context,) = lifecycle.expire(103)
    assert values(context) == "a1=7"
    assert (context.unfinished, context.missing) == (False, True)


def test_a_return_more_than_was_told_of_is_a_sign_of_loss() -> None:
    lifecycle = Lifecycle()
    lifecycle.push(returned(A, 1, 8))
    assert lifecycle.push(record(A, 1)._replace(slots_before=0, freed=False)) == []
    (context,) = lifecycle.expire(10**12)
    assert context.missing


def test_a_packet_whose_function_returns_is_not_idle() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 1, calls=2))
    lifecycle.push(returned(A, 0, 7, time_ns=90))
    assert lifecycle.expire(189) == []
    assert len(lifecycle.expire(190)) == 1


def test_a_late_return_is_counted_and_no_more() -> None:
    lifecycle = Lifecycle(idle_ns=100)
    lifecycle.push(record(A, 1, calls=1))
    assert len(lifecycle.expire(200)) == 1
    before = (lifecycle.finished, lifecycle.unfinished, lifecycle.missing, lifecycle.events)
    assert lifecycle.push(returned(A, 0, 7)) == []
    assert lifecycle.push(returned(B, 0, 7, parent=A)) == []
    assert lifecycle.late == 2
    assert lifecycle.open_contexts == 0
    assert lifecycle.close() == []
    assert (lifecycle.finished, lifecycle.unfinished, lifecycle.missing, lifecycle.events) == before == (1, 0, 1, 1)


@pytest.mark.parametrize("expired", [True, False])
@pytest.mark.parametrize("of", [A, B])
def test_of_a_packet_that_only_returned_nothing_is_shown(of: int, expired: bool) -> None:
    lifecycle = Lifecycle()
    assert lifecycle.push(returned(of, 0, 7)) == []
    assert lifecycle.open_contexts == 1
    assert (lifecycle.expire(10**12) if expired else lifecycle.close()) == []
    assert lifecycle.open_contexts == 0
    assert (lifecycle.finished, lifecycle.unfinished, lifecycle.missing, lifecycle.events) == (0, 0, 0, 0)


def test_what_only_returned_makes_room_without_being_shown() -> None:
    lifecycle = Lifecycle(max_contexts=1)
    lifecycle.push(returned(A, 0, 7))
    assert lifecycle.push(record(B, 2, freed=False)._replace(packet_id=B)) == []
    assert (lifecycle.evicted, lifecycle.unfinished) == (1, 0)
    # What it was of comes late: it has lost its return.
    (context,) = lifecycle.push(record(A, 1, calls=1))
    assert (context.unfinished, context.missing, values(context)) == (False, True, "")


def test_a_repeated_return_is_ignored() -> None:
    lifecycle = Lifecycle(max_messages=2)
    lifecycle.push(returned(A, 0, 7))
    for _ in range(5):
        assert lifecycle.push(returned(A, 0, 9)) == []
    assert lifecycle.duplicates == 5
    (context,) = lifecycle.push(record(A, 1, calls=1))
    assert values(context) == "a1=7"


def test_returns_count_as_messages_for_the_bound() -> None:
    lifecycle = Lifecycle(max_messages=3)
    lifecycle.push(record(A, 1, freed=False, calls=2))
    lifecycle.push(returned(A, 0, 7))
    (context,) = lifecycle.push(returned(A, 1, 8))
    assert context.unfinished
    assert lifecycle.evicted == 1


def test_without_joining_returns_are_of_their_skb() -> None:
    lifecycle = Lifecycle(join_clones=False)
    assert lifecycle.push(returned(B, 0, 8, parent=A)) == []
    assert lifecycle.push(record(A, 1, children=1, calls=1)) == []
    (clone,) = lifecycle.push(record(B, 3, parent=A, calls=1))
    (first,) = lifecycle.push(returned(A, 0, 7))
    assert [(context.packet_id, values(context)) for context in (clone, first)] == [(B, "b3=8"), (A, "a1=7")]
