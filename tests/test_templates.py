"""What templates write is what all of the way through decoder, lifecycle and sink would have been."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace.decode import Decoder
from nettrace.event import Event
from nettrace.facts import Fact, Hop
from nettrace.player import Player
from nettrace.sinks import Display, Lookups, Text
from nettrace.templates import Templates

from .test_decode import (
    ADDRESSES,
    CLIENT,
    DELIVERED,
    FREED,
    IP_OUTPUT,
    IP_RCV,
    NAT,
    SERVER,
    TRACEPOINTS,
    device,
    drop,
    facts,
    packet,
    record,
    step,
    step_tracepoint,
)

SECOND = 1_000_000_000
FACTS = ((Fact("memory", 0, (Hop(0, False),), 0, 8),),)


def remarks(item: Event) -> Sequence[tuple[str, str]]:
    memory, segment = item.fact("memory"), item.packet.gso_size
    said = f"{memory} bytes (100% of it){f' for {segment}' if segment else ''}"
    return [("info", said)] if isinstance(memory, int) and memory % 3 == 0 else []


class Shown:
    """Messages as they are shown with templates, and how many of them were."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.by_template = 0
        self._sink = Text(self.out, Display(), Lookups(remarks=remarks))
        self._decoder = Decoder(ADDRESSES, TRACEPOINTS, FACTS)
        self._player = Player(self._sink, follow=True)
        self.templates = Templates(self._decoder, self._sink)

    def take(self, raw: bytes) -> None:
        steps = self.templates.show(raw)
        if steps:
            self.by_template += 1
            self._player.shown_already(steps)
            return
        told = self._decoder.decode(raw)
        self._player.push(told)
        self.templates.learn(raw, told)

    @property
    def counts(self) -> tuple[int, ...]:
        return self._decoder.messages, self._decoder.gaps, self._player.shown, self._player.events

    @property
    def text(self) -> str:
        self._player.close(0)
        return self.out.getvalue()


class Never(Templates):
    """Has no template."""

    def learn(self, raw: bytes, record: Any) -> None:
        pass


def both(messages: Sequence[bytes]) -> tuple[Shown, Shown]:
    """With templates, and without."""
    with_them, without = Shown(), Shown()
    without.templates = Never(without._decoder, without._sink)
    for raw in messages:
        with_them.take(raw)
        without.take(raw)
    assert with_them.text == without.text
    assert with_them.counts == without.counts
    assert without.by_template == 0
    return with_them, without


def usual(number: int, at_ns: int, *, memory: int = 1, to: bytes = SERVER, skb_port: int = 40000) -> bytes:
    """A packet that is sent, moves, and is received."""
    ports = struct.pack(">HH12x", skb_port, 53)
    return record(
        packet(CLIENT, to, l4=ports, l4_protocol=17), device(2, b"eth0", 4026531840),
        step(at_ns, IP_OUTPUT), step(at_ns + 1_500, IP_RCV, 1), facts(1, memory),
        packet(CLIENT, to, l4=ports, l4_protocol=17), device(3, b"eth1", 4026531999),
        step_tracepoint(at_ns + 9_999, 0, 2),
        packet_id=number, record_id=number, sequence=number,
    )  # fmt: skip


def test_a_packet_like_one_before_is_written_by_a_template() -> None:
    with_them, _ = both([usual(number, 5 * SECOND + number * 1000) for number in range(5)])
    assert with_them.by_template == 4
    assert with_them.counts == (5, 0, 5, 15)


def test_what_differs_is_put_in() -> None:
    messages = [
        usual(0, 5 * SECOND),
        usual(1, 7 * SECOND + 1, memory=3),
        usual(2, 70 * SECOND, memory=4, to=NAT),
        usual(3, 70 * SECOND + 5, skb_port=53),
        usual(5, 700 * SECOND),
    ]
    with_them, _ = both(messages)
    assert with_them.by_template == 4
    assert "3 bytes (100% of it)" in with_them.text and "10.0.0.1:53 -> 10.0.0.2:53" in with_them.text
    assert with_them.counts[1] == 1  # the message with number 4 was lost


def test_what_facts_say_may_depend_on_headers() -> None:
    messages = [
        record(
            packet(CLIENT, SERVER, gso_size=size), step(SECOND, IP_RCV), facts(1, 3),
            packet_id=number, record_id=number, sequence=number,
        )
        for number, size in enumerate((0, 1448, 1000))
    ]  # fmt: skip
    with_them, _ = both(messages)
    assert with_them.by_template == 2
    assert "3 bytes (100% of it) for 1000*" in with_them.text


def changed(number: int, to: bytes, then: bytes) -> bytes:
    return record(
        packet(CLIENT, to), step(SECOND, IP_OUTPUT), packet(CLIENT, then), step(SECOND + 1000, IP_RCV, 1),
        packet_id=number, record_id=number, sequence=number,
    )  # fmt: skip


def test_headers_that_change_in_another_way_are_none_of_it() -> None:
    with_them, _ = both([changed(0, SERVER, SERVER), changed(1, SERVER, NAT), changed(2, NAT, SERVER)])
    assert with_them.by_template == 0
    assert "*DNAT" in with_them.text or "192.0.2.1" in with_them.text


@pytest.mark.parametrize(
    "other",
    [
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), sequence=1, children=1),
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), sequence=1, calls=1),
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), sequence=1, slots_before=4, flags=FREED | DELIVERED),
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), sequence=1, flags=0),
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), sequence=1, parent_id=3, record_id=9),
        record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), drop(IP_RCV, 3), sequence=1),
        record(packet(CLIENT, SERVER), step(SECOND, IP_OUTPUT), sequence=1),
        record(packet(CLIENT, SERVER, l4_protocol=6), step(SECOND, IP_RCV), sequence=1),
    ],
    ids=["clones", "calls", "second part", "not freed", "a clone", "dropped", "elsewhere", "another protocol"],
)
def test_other_messages_are_not_taken_for_it(other: bytes) -> None:
    first = record(packet(CLIENT, SERVER), step(SECOND, IP_RCV), packet_id=1, record_id=1)
    assert both([first, other])[0].by_template == 0


def test_steps_out_of_order_or_across_seconds_go_the_way_of_all_others() -> None:
    def two(number: int, first_ns: int, second_ns: int) -> bytes:
        return record(
            packet(CLIENT, SERVER), step(first_ns, IP_OUTPUT), step(second_ns, IP_RCV, 1),
            packet_id=number, record_id=number, sequence=number,
        )  # fmt: skip

    with_them, _ = both([two(0, SECOND, SECOND + 1), two(1, SECOND + 9000, SECOND), two(2, SECOND - 1, SECOND)])
    assert with_them.by_template == 0


@pytest.mark.parametrize(
    ("display", "plain"),
    [(Display(), True), (Display(tiny=True), False), (Display(latency=True), False), (Display(detail=True), False),
     (Display(colour=True), False), (Display(wall_offset_ns=5), False), (Display(stacks=frozenset(["x"])), False)],
)  # fmt: skip
def test_only_plain_text_has_templates(display: Display, plain: bool) -> None:
    assert Text(io.StringIO(), display, Lookups()).is_plain is plain


PACKETS = st.tuples(
    st.sampled_from((CLIENT, SERVER, NAT)), st.sampled_from((CLIENT, SERVER)), st.sampled_from((6, 17)),
    st.binary(min_size=16, max_size=16),
)  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(PACKETS, PACKETS, st.integers(0, 9), st.integers(0, 3 * SECOND), st.integers(0, 10**6)), max_size=12
    )
)
def test_any_packets_of_two_ways(told: list[Any]) -> None:
    messages = []
    for number, (first, then, memory, at_ns, took_ns) in enumerate(told):
        items = [
            packet(first[0], first[1], l4_protocol=first[2], l4=first[3]),
            step(at_ns, IP_OUTPUT),
            facts(1, memory),
        ]
        if number % 2:
            items.append(packet(then[0], then[1], l4_protocol=then[2], l4=then[3]))
        items.append(step(at_ns + took_ns, IP_RCV, 1))
        messages.append(record(*items, packet_id=number, record_id=number, sequence=number))
    both(messages)
