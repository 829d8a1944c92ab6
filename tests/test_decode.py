"""Messages made here byte by byte, as the kernel side lays them out, and what must be read from them."""

import struct
from collections.abc import Sequence
from socket import AF_INET6, inet_pton
from typing import Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nettrace.decode import Decoder
from nettrace.errors import StreamError
from nettrace.event import Detail, Drop, Packet, Record

IP_RCV = 0xFFFFFFFF81000200
IP_OUTPUT = 0xFFFFFFFF81000400
ADDRESSES = {IP_OUTPUT: "ip_output", IP_RCV: "ip_rcv"}
TRACEPOINTS = ("netif_receive_skb", "kfree_skb")
SKB = 0xFFFF888012345600

HAS_L4, FRAGMENT = 1, 2
FREED, SINGLE = 1, 2

CLIENT, SERVER, NAT = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([192, 0, 2, 1])
# An echo request with id 0x1234 and sequence number 1.
ECHO = bytes.fromhex("08000000 1234 0001").ljust(16, b"\0")


def record(
    *items: bytes,
    packet_id: int = 7,
    record_id: int = 7,
    parent_id: int = 0,
    sequence: int = 0,
    cpu: int = 0,
    slots_before: int = 0,
    children: int = 0,
    flags: int = FREED,
) -> bytes:
    log = b"".join(items)
    slots = len(log) // 16
    return struct.pack(
        "<QQQQIHHIHBB",
        packet_id, record_id, parent_id, SKB, sequence, cpu, slots, slots_before, children, flags, 0,
    ) + log  # fmt: skip


def step(time_ns: int, address: int) -> bytes:
    return struct.pack("<QIHBB", time_ns, address & 0xFFFFFFFF, 0, 1, 1)


def step_tracepoint(time_ns: int, index: int) -> bytes:
    return struct.pack("<QIHBB", time_ns, index, 0, 2, 1)


def packet(
    source: bytes,
    target: bytes,
    l4: bytes = ECHO,
    *,
    length: int = 84,
    vlan_tci: int = 0,
    protocol: int = 0x0800,
    l4_protocol: int = 1,
    flags: int = HAS_L4,
    fragment_offset: int = 0,
    l3_length: int = 84,
) -> bytes:
    return struct.pack(
        "<IHHBBHHBB16s16s16s",
        length, vlan_tci, protocol, l4_protocol, flags, fragment_offset, l3_length, 3, 4, source, target, l4,
    )  # fmt: skip


def detail(pid: int, ifindex: int, netns: int, cpu: int, comm: bytes, ifname: bytes) -> bytes:
    return struct.pack("<IIIHBB16s16s", pid, ifindex, netns, cpu, 4, 3, comm, ifname)


def drop(location: int, reason: int) -> bytes:
    return struct.pack("<QIHBB", location, reason, 0, 5, 1)


def decode(raw: bytes) -> Record:
    return Decoder(ADDRESSES, TRACEPOINTS).decode(raw)


def paths(found: Record) -> list[tuple[int, str]]:
    return [(one.time_ns, one.trace) for one in found.events]


PING = Packet(84, 0, 0x0800, 1, HAS_L4, 0, 84, CLIENT, SERVER, ECHO)

WHOLE = record(
    packet(CLIENT, SERVER),
    step_tracepoint(1_000, 0),
    step(2_000, IP_RCV),
    detail(42, 3, 4026531840, 5, b"ping", b"eth0"),
    packet(NAT, SERVER),
    step(3_000, IP_OUTPUT),
    step_tracepoint(4_000, 1),
    detail(0, 0, 0, 1, b"0123456789abcdef", b""),
    drop(IP_OUTPUT + 9, 2),
)


def test_a_packet_with_functions_and_tracepoints() -> None:
    found = decode(record(packet(CLIENT, SERVER), step_tracepoint(10, 0), step(20, IP_RCV), step_tracepoint(30, 1)))
    assert found._replace(events=()) == Record(
        packet_id=7, record_id=7, parent_id=0, skb=SKB, children=0, freed=True, single=False, slots_before=0, slots=7,
        events=(),
    )  # fmt: skip
    assert paths(found) == [(10, "netif_receive_skb"), (20, "ip_rcv"), (30, "kfree_skb")]
    for one in found.events:
        assert (one.skb, one.packet, one.detail, one.drop) == (SKB, PING, None, None)


def test_all_that_one_message_can_hold() -> None:
    received, routed, sent, dropped = decode(WHOLE).events
    assert [one.trace for one in (received, routed, sent, dropped)] == [
        "netif_receive_skb", "ip_rcv", "ip_output", "kfree_skb",
    ]  # fmt: skip
    assert received.packet == routed.packet == PING
    # The headers changed, and stay so until they change again.
    assert sent.packet == dropped.packet == PING._replace(saddr=NAT)
    assert (received.detail, sent.detail) == (None, None)
    assert routed.detail == Detail(cpu=5, pid=42, comm="ping", ifindex=3, ifname="eth0", netns=4026531840)
    # A name that fills its place has no NUL.
    assert dropped.detail == Detail(cpu=1, pid=0, comm="0123456789abcdef", ifindex=0, ifname="", netns=0)
    assert [one.drop for one in (received, routed, sent)] == [None] * 3
    assert dropped.drop == Drop(location=IP_OUTPUT + 9, reason=2)


def test_headers_as_they_are_sent() -> None:
    found = decode(
        record(
            packet(
                CLIENT, SERVER, bytes(range(16)), length=1514, vlan_tci=0x6007, l4_protocol=17,
                flags=HAS_L4 | FRAGMENT, fragment_offset=0xFFF8, l3_length=1500,
            ),
            step(1, IP_RCV),
        )
    )  # fmt: skip
    assert found.events[0].packet == Packet(
        length=1514, vlan_tci=0x6007, l3_protocol=0x0800, l4_protocol=17, flags=3, fragment_offset=0xFFF8,
        l3_length=1500, saddr=CLIENT, daddr=SERVER, l4=bytes(range(16)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "size"), [(0x0800, 4), (0x0806, 4), (0x8035, 4), (0x86DD, 16), (0x88CC, 16), (0, 16)]
)
def test_addresses_are_as_long_as_the_protocol_has_them(protocol: int, size: int) -> None:
    source, target = bytes(range(1, 17)), bytes(range(101, 117))
    (one,) = decode(record(packet(source, target, protocol=protocol), step(1, IP_RCV))).events
    assert (one.packet.saddr, one.packet.daddr) == (source[:size], target[:size])


def test_ipv6() -> None:
    source, target = inet_pton(AF_INET6, "2001:db8::1"), inet_pton(AF_INET6, "fe80::2")
    (one,) = decode(record(packet(source, target, protocol=0x86DD, l4_protocol=58), step(1, IP_RCV))).events
    assert one.packet == PING._replace(l3_protocol=0x86DD, l4_protocol=58, saddr=source, daddr=target)


@pytest.mark.parametrize(("sent", "reason"), [(0, 0), (2, 2), (0x30003, 0x30003), (0xFFFFFFFF, None)])
def test_a_drop_and_its_reason(sent: int, reason: Optional[int]) -> None:
    (one,) = decode(record(packet(CLIENT, SERVER), step_tracepoint(1, 1), drop(0xFFFFFFFF81ABCDEF, sent))).events
    assert one.drop == Drop(0xFFFFFFFF81ABCDEF, reason)


def test_a_clone_and_its_parent() -> None:
    log = (packet(CLIENT, SERVER), step(1, IP_RCV))
    parent = decode(record(*log, children=3, flags=0))
    clone = decode(record(*log, record_id=9, parent_id=7, slots_before=64))
    assert (parent.packet_id, parent.record_id, parent.parent_id, parent.children, parent.freed) == (7, 7, 0, 3, False)
    assert (clone.packet_id, clone.record_id, clone.parent_id, clone.children, clone.freed) == (7, 9, 7, 0, True)
    assert (parent.slots_before, clone.slots_before, clone.slots) == (0, 64, 5)


def test_a_single_hit() -> None:
    found = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), flags=SINGLE))
    assert (found.single, found.freed) == (True, False)
    assert paths(found) == [(1, "ip_rcv")]


def test_an_unknown_flag_changes_nothing() -> None:
    found = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), flags=0xFC))
    assert (found.single, found.freed) == (False, False)


def test_a_record_without_steps() -> None:
    assert decode(record()).events == ()
    assert decode(record(packet(CLIENT, SERVER))).events == ()


def test_what_follows_the_log_is_not_read() -> None:
    # Perf buffers pad their samples, and an entry of the tracking map has room for a longer log.
    raw = record(packet(CLIENT, SERVER), step(1, IP_RCV))
    assert decode(raw + b"\xff" * 200) == decode(raw)


def test_names_that_are_no_text() -> None:
    (one,) = decode(
        record(packet(CLIENT, SERVER), step(1, IP_RCV), detail(1, 1, 1, 1, b"caf\xc3\xa9\0rest", b"e\xff"))
    ).events
    assert one.detail is not None
    assert (one.detail.comm, one.detail.ifname) == ("café", "e\\xff")


@pytest.mark.parametrize("depth", [0, 1, 4, 5, 9, 64])
def test_a_probe_fires_a_little_behind_the_beginning(depth: int) -> None:
    # endbr64 has four bytes, the call of the tracer five, int3 one.
    assert paths(decode(record(packet(CLIENT, SERVER), step(1, IP_RCV + depth)))) == [(1, "ip_rcv")]


@pytest.mark.parametrize("address", [IP_RCV - 1, IP_RCV + 65, IP_OUTPUT - 1, IP_OUTPUT + 65, 0, 0xFFFFFFFF])
def test_an_address_that_no_probe_has(address: int) -> None:
    with pytest.raises(StreamError, match=f"no probe was set at the address ...{address & 0xFFFFFFFF:08x}"):
        decode(record(packet(CLIENT, SERVER), step(1, address)))


def test_of_two_functions_close_together_the_nearer_one_fired() -> None:
    decoder = Decoder({0x1000: "first", 0x1010: "second"}, ())
    raw = record(packet(CLIENT, SERVER), *(step(at, 0x1000 + at) for at in (0, 15, 16, 31)))
    # Twice, as what was found once is remembered.
    for _ in range(2):
        assert [name for _, name in paths(decoder.decode(raw))] == ["first", "first", "second", "second"]


def test_gaps_in_the_sequence_of_each_cpu() -> None:
    decoder = Decoder(ADDRESSES, TRACEPOINTS)

    def gaps(cpu: int, sequence: int) -> int:
        decoder.decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), cpu=cpu, sequence=sequence))
        return decoder.gaps

    assert [gaps(0, 0), gaps(1, 0), gaps(0, 1), gaps(1, 1)] == [0, 0, 0, 0]
    assert gaps(0, 4) == 2  # 2 and 3 were lost
    assert gaps(1, 2) == 2
    assert gaps(1, 4) == 3
    assert gaps(0, 5) == 3
    assert gaps(300, 2) == 5  # this CPU's first two
    assert decoder.messages == 9


def test_a_sequence_number_wraps() -> None:
    decoder = Decoder(ADDRESSES, TRACEPOINTS)
    for sequence in (0, 0x7FFFFFFF, 0xFFFFFFFE):
        decoder.decode(record(sequence=sequence))
    before = decoder.gaps
    for sequence in (0xFFFFFFFF, 0, 1):
        decoder.decode(record(sequence=sequence))
    assert decoder.gaps == before
    decoder.decode(record(sequence=3))
    assert decoder.gaps == before + 1


@pytest.mark.parametrize("late", [2, 1])
def test_a_message_that_was_overtaken_is_no_gap_of_four_thousand_million(late: int) -> None:
    decoder = Decoder(ADDRESSES, TRACEPOINTS)
    for sequence in (0, 1, 2):
        decoder.decode(record(sequence=sequence))
    decoder.decode(record(sequence=late))
    decoder.decode(record(sequence=3))
    assert decoder.gaps == 0


def test_what_was_not_sent_has_no_place_in_the_sequence() -> None:
    decoder = Decoder(ADDRESSES, TRACEPOINTS)
    decoder.decode(record(sequence=0))
    found = decoder.decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), sequence=100), sent=False)
    assert paths(found) == [(1, "ip_rcv")]
    decoder.decode(record(sequence=1))
    assert (decoder.gaps, decoder.messages) == (0, 2)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_message_cut_off_anywhere_is_refused(length: int) -> None:
    with pytest.raises(StreamError):
        decode(WHOLE[:length])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([step(1, IP_RCV)], "a step comes before any packet's headers"),
        ([packet(CLIENT, SERVER), detail(1, 1, 1, 1, b"", b"")], "comes before any step"),
        ([packet(CLIENT, SERVER), drop(1, 2)], "comes before any step"),
        ([packet(CLIENT, SERVER), step_tracepoint(1, 2)], "no tracepoint has the number 2"),
        ([struct.pack("<QIHBB", 1, 0, 0, 6, 1)], "an item of kind 6 and 1 slots"),
        ([struct.pack("<QIHBB", 1, 0, 0, 0, 0)], "an item of kind 0 and 0 slots"),
        # Of a known kind, but not of its length.
        ([packet(CLIENT, SERVER), struct.pack("<QIHBB", 1, 0, 0, 1, 0)], "an item of kind 1 and 0 slots"),
        ([packet(CLIENT, SERVER), struct.pack("<QIHBB", 1, 0, 0, 1, 2), bytes(16)], "an item of kind 1 and 2 slots"),
        # The last item does not fit in the log.
        ([packet(CLIENT, SERVER)[:48]], "an item of kind 3 and 4 slots"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(items: Sequence[bytes], words: str) -> None:
    with pytest.raises(StreamError, match=words):
        decode(record(*items) + bytes(64))


def assert_only_a_stream_error_comes_out(raw: bytes) -> None:
    try:
        found = Decoder(ADDRESSES, TRACEPOINTS).decode(raw)
    except StreamError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert isinstance(found, Record)
        assert len(found.events) <= found.slots


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
def test_random_bytes(raw: bytes) -> None:
    assert_only_a_stream_error_comes_out(raw)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_message_with_some_bytes_changed(data: st.DataObject) -> None:
    raw = bytearray(WHOLE)
    for place in data.draw(st.sets(st.integers(0, len(raw) - 1), min_size=1, max_size=6)):
        raw[place] = data.draw(st.integers(0, 255))
    assert_only_a_stream_error_comes_out(bytes(raw))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.binary(min_size=14, max_size=14)), max_size=12))
def test_random_items(items: list[tuple[int, int, bytes]]) -> None:
    raw = record(*(body + bytes([kind, slots]) for kind, slots, body in items))
    assert_only_a_stream_error_comes_out(raw)
