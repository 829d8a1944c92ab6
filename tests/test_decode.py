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
from nettrace.event import Detail, Device, Drop, Frame, Packet, Record, Return, Socket
from nettrace.facts import Fact, Hop

IP_RCV = 0xFFFFFFFF81000200
IP_OUTPUT = 0xFFFFFFFF81000400
ADDRESSES = {IP_OUTPUT: "ip_output", IP_RCV: "ip_rcv"}
TRACEPOINTS = ("netif_receive_skb", "kfree_skb")
SKB = 0xFFFF888012345600

HAS_L4, FRAGMENT = 1, 2
FREED, SINGLE, DELIVERED, RETURNED = 1, 2, 4, 8
NO_TUNNEL, IP_TUNNEL, GRE, VXLAN, GENEVE, ICMP_ERROR = range(6)
STACK_FRAMES = 32

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
    place: int = 0,
    calls: int = 0,
) -> bytes:
    log = b"".join(items)
    slots = len(log) // 16
    return struct.pack(
        "<QQQQIHHIHBBH6s",
        packet_id, record_id, parent_id, SKB, sequence, cpu, slots, slots_before, children, flags, place, calls, b"",
    ) + log  # fmt: skip


def step(time_ns: int, address: int, number: int = 0) -> bytes:
    return struct.pack("<QIHBB", time_ns, address & 0xFFFFFFFF, number, 1, 1)


def step_tracepoint(time_ns: int, index: int, number: int = 0) -> bytes:
    return struct.pack("<QIHBB", time_ns, index, number, 2, 1)


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
    tunnel_id: int = 0,
    vlan_tci2: int = 0,
    gso_size: int = 0,
    gso_segs: int = 0,
    tunnel: int = NO_TUNNEL,
    kind: int = 3,
) -> bytes:
    return struct.pack(
        "<IHHBBHHBB16s16s16sIHHHB5s",
        length, vlan_tci, protocol, l4_protocol, flags, fragment_offset, l3_length, kind, 5, source, target, l4,
        tunnel_id, vlan_tci2, gso_size, gso_segs, tunnel, b"",
    )  # fmt: skip


def inner(source: bytes, target: bytes, tunnel: int, tunnel_id: int = 0) -> bytes:
    return packet(source, target, length=0, tunnel=tunnel, tunnel_id=tunnel_id, kind=6)


def device(ifindex: int, name: bytes, netns: int) -> bytes:
    return struct.pack("<IIIHBB16s", ifindex, netns, 0, 0, 7, 2, name)


def detail(pid: int, tgid: int, mark: int, cpu: int, comm: bytes, socket: int = 0, length: int = 84) -> bytes:
    return struct.pack("<IIIHBB16sQII", pid, tgid, mark, cpu, 4, 3, comm, socket, length, 0)


def drop(location: int, reason: int) -> bytes:
    return struct.pack("<QIHBB", location, reason, 0, 5, 1)


def returned(number: int, value: int, time_ns: int) -> bytes:
    return struct.pack("<QIHBBQQ", value, 0, number, 8, 2, time_ns, 0)


def stack(*frames: int, size: Optional[int] = None) -> bytes:
    """As many frames as are given; what is behind them is left from another stack."""
    behind = [0xDEAD] * (STACK_FRAMES - len(frames))
    size = 8 * len(frames) if size is None else size
    return struct.pack("<QIHBB32Q", 0, size, 0, 9, 17, *frames, *behind)


def facts(number: int, *words: int) -> bytes:
    slots = 1 + (len(words) + 1) // 2
    return struct.pack(f"<QIHBB{len(words)}Q", 0, 0, number, 10, slots, *words).ljust(16 * slots, b"\0")


FACTS = (
    (Fact("hook", 1, (), 0, 1), Fact("family", 1, (), 1, 1, shift=4, mask=15), Fact("error", 0, (), 8, 4, signed=True)),
    (Fact("chain", 1, (Hop(8, False),), 0, 32, is_text=True), Fact("rule", 1, (), 0, 8)),
)


def decode(raw: bytes) -> Record:
    return Decoder(ADDRESSES, TRACEPOINTS, FACTS).decode(raw)


def paths(found: Record) -> list[tuple[int, str]]:
    return [(one.time_ns, one.trace) for one in found.events]


PING = Packet(84, 0, 0x0800, 1, HAS_L4, 0, 84, CLIENT, SERVER, ECHO)

ETH0 = Device(ifindex=3, name="eth0", netns=4026531840)

WHOLE = record(
    packet(CLIENT, SERVER),
    inner(SERVER, CLIENT, VXLAN, 42),
    device(3, b"eth0", 4026531840),
    step_tracepoint(1_000, 0),
    step(2_000, IP_RCV, 1),
    detail(42, 40, 0x10, 5, b"ping", 77, 1500),
    stack(IP_RCV + 4, IP_OUTPUT),
    packet(NAT, SERVER),
    step(3_000, IP_OUTPUT, 2),
    device(0, b"", 4026532000),
    step_tracepoint(4_000, 1, 3),
    detail(0, 0, 0, 1, b"0123456789abcdef"),
    drop(IP_OUTPUT + 9, 2),
    calls=2,
)
CARRIED = PING._replace(length=0, saddr=SERVER, daddr=CLIENT, tunnel=VXLAN, tunnel_id=42)


def test_a_packet_with_functions_and_tracepoints() -> None:
    found = decode(record(packet(CLIENT, SERVER), step_tracepoint(10, 0), step(20, IP_RCV), step_tracepoint(30, 1)))
    assert found._replace(events=()) == Record(
        packet_id=7, record_id=7, parent_id=0, skb=SKB, children=0, freed=True, single=False, slots_before=0, slots=8,
        events=(), calls=0, returned=(),
    )  # fmt: skip
    assert paths(found) == [(10, "netif_receive_skb"), (20, "ip_rcv"), (30, "kfree_skb")]
    for one in found.events:
        assert (one.skb, one.packet, one.device, one.detail, one.drop) == (SKB, PING, None, None, None)
        assert (one.stack, one.returned) == ((), None)


def test_all_that_one_message_can_hold() -> None:
    found = decode(WHOLE)
    assert (found.calls, found.returned) == (2, ())
    received, routed, sent, dropped = found.events
    assert [one.trace for one in (received, routed, sent, dropped)] == [
        "netif_receive_skb", "ip_rcv", "ip_output", "kfree_skb",
    ]  # fmt: skip
    assert [one.number for one in found.events] == [0, 1, 2, 3]
    assert received.packet == routed.packet == PING._replace(inner=CARRIED)
    # The headers changed, and stay so until they change again. What was carried went with those before.
    assert sent.packet == dropped.packet == PING._replace(saddr=NAT)
    assert received.device == routed.device == sent.device == ETH0
    assert dropped.device == Device(ifindex=0, name="", netns=4026532000)
    assert (received.detail, sent.detail) == (None, None)
    assert routed.detail == Detail(cpu=5, pid=42, tgid=40, comm="ping", mark=0x10, length=1500, socket=77)
    # A name that fills its place has no NUL.
    assert dropped.detail == Detail(cpu=1, pid=0, tgid=0, comm="0123456789abcdef", mark=0, length=84, socket=0)
    assert [one.stack for one in found.events] == [(), (IP_RCV + 4, IP_OUTPUT), (), ()]
    assert [one.drop for one in (received, routed, sent)] == [None] * 3
    assert dropped.drop == Drop(location=IP_OUTPUT + 9, reason=2)


def test_headers_as_they_are_sent() -> None:
    found = decode(
        record(
            packet(
                CLIENT, SERVER, bytes(range(16)), length=1514, vlan_tci=0x6007, l4_protocol=17,
                flags=HAS_L4 | FRAGMENT, fragment_offset=0xFFF8, l3_length=1500, vlan_tci2=0x8009, gso_size=1448,
                gso_segs=44,
            ),
            step(1, IP_RCV),
        )
    )  # fmt: skip
    assert found.events[0].packet == Packet(
        length=1514, vlan_tci=0x6007, l3_protocol=0x0800, l4_protocol=17, flags=3, fragment_offset=0xFFF8,
        l3_length=1500, saddr=CLIENT, daddr=SERVER, l4=bytes(range(16)), vlan_tci2=0x8009, gso_size=1448, gso_segs=44,
        tunnel=0, tunnel_id=0, inner=None,
    )  # fmt: skip


@pytest.mark.parametrize("tunnel", [NO_TUNNEL, IP_TUNNEL, GRE, VXLAN, GENEVE, ICMP_ERROR])
def test_what_a_packet_carries(tunnel: int) -> None:
    (one,) = decode(record(packet(CLIENT, SERVER), inner(NAT, CLIENT, tunnel, 0xFFFFFF), step(1, IP_RCV))).events
    carried = PING._replace(length=0, saddr=NAT, daddr=CLIENT, tunnel=tunnel, tunnel_id=0xFFFFFF)
    assert one.packet == PING._replace(inner=carried)


def test_what_a_packet_carries_ends_with_its_headers() -> None:
    carrying = (packet(CLIENT, SERVER), inner(NAT, CLIENT, GRE))
    found = decode(record(*carrying, step(1, IP_RCV), packet(CLIENT, SERVER), step(2, IP_RCV), step(3, IP_RCV)))
    assert [one.packet.inner is None for one in found.events] == [False, True, True]


def test_a_device_holds_until_the_next_one() -> None:
    moved = (device(3, b"eth0", 4026531840), step(1, IP_RCV), packet(NAT, SERVER), step(2, IP_RCV))
    found = decode(record(packet(CLIENT, SERVER), step(0, IP_RCV), *moved, device(8, b"veth1", 5), step(3, IP_RCV)))
    assert [one.device for one in found.events] == [None, ETH0, ETH0, Device(ifindex=8, name="veth1", netns=5)]


@pytest.mark.parametrize("frames", [0, 1, STACK_FRAMES - 1, STACK_FRAMES])
def test_a_stack_is_as_long_as_what_was_read(frames: int) -> None:
    addresses = tuple(0xFFFFFFFF81000000 + at for at in range(frames))
    (one,) = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), stack(*addresses))).events
    assert one.stack == addresses


@pytest.mark.parametrize(("size", "frames"), [(7, 0), (12, 1), (8 * STACK_FRAMES + 8, STACK_FRAMES), (1 << 31, 32)])
def test_a_stack_is_cut_at_what_its_place_holds(size: int, frames: int) -> None:
    addresses = tuple(range(1, STACK_FRAMES + 1))
    (one,) = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), stack(*addresses, size=size))).events
    assert one.stack == addresses[:frames]


def test_facts_have_their_names() -> None:
    first, second = facts(1, 3, 0xA5, 0xFFFFFFFF), facts(2, *struct.unpack("<4Q", b"KUBE-FORWARD".ljust(32, b"\0")), 7)
    head = (packet(CLIENT, SERVER), step(1, IP_RCV))
    found = decode(record(*head, first, step(2, IP_RCV), step(3, IP_RCV), second))
    assert [one.facts for one in found.events] == [
        (("hook", 3), ("family", 10), ("error", -1)),
        (),
        (("chain", "KUBE-FORWARD"), ("rule", 7)),
    ]
    assert (found.events[0].fact("family"), found.events[0].fact("chain")) == (10, None)


def test_a_text_that_fills_its_place_needs_no_end() -> None:
    words = struct.unpack("<4Q", b"\xff" + b"x" * 31)
    (one,) = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), facts(2, *words, 7))).events
    assert one.fact("chain") == "\\xff" + "x" * 31


def test_what_belongs_to_a_step_may_come_in_any_order() -> None:
    told = [detail(1, 2, 3, 4, b"x"), drop(5, 6), stack(7), facts(1, 1, 2, 3)]
    head = (packet(CLIENT, SERVER), step(1, IP_RCV), step(2, IP_RCV))
    (_, one), (_, two) = (decode(record(*head, *items)).events for items in (told, reversed(told)))
    assert one == two
    assert (one.detail is None, one.drop, one.stack) == (False, Drop(5, 6), (7,))


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFFFFFFFFF3, 0xFFFFFFFF])
def test_a_return_is_a_message_of_its_own(value: int) -> None:
    raw = record(returned(5, value, 9_000), record_id=9, parent_id=7, flags=RETURNED | DELIVERED, place=3)
    assert decode(raw) == Record(
        packet_id=7, record_id=9, parent_id=7, skb=SKB, children=0, freed=False, single=False, slots_before=0, slots=2,
        events=(), calls=0, returned=((5, Return(time_ns=9_000, value=value)),),
    )  # fmt: skip


def test_steps_are_numbered_through_the_messages_of_a_record() -> None:
    found = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV, 300), step_tracepoint(2, 0, 0xFFFF), calls=0x1234))
    assert [one.number for one in found.events] == [300, 0xFFFF]
    assert found.calls == 0x1234


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
    assert (parent.slots_before, clone.slots_before, clone.slots) == (0, 64, 6)


def test_a_single_hit() -> None:
    found = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), flags=SINGLE))
    assert (found.single, found.freed) == (True, False)
    assert paths(found) == [(1, "ip_rcv")]


def test_an_unknown_flag_changes_nothing() -> None:
    found = decode(record(packet(CLIENT, SERVER), step(1, IP_RCV), flags=0xF0))
    assert (found.single, found.freed, found.returned) == (False, False, ())
    assert paths(found) == [(1, "ip_rcv")]


def test_a_record_without_steps() -> None:
    assert decode(record()).events == ()
    assert decode(record(packet(CLIENT, SERVER))).events == ()


def test_what_follows_the_log_is_not_read() -> None:
    # Perf buffers pad their samples, and an entry of the tracking map has room for a longer log.
    raw = record(packet(CLIENT, SERVER), step(1, IP_RCV))
    assert decode(raw + b"\xff" * 200) == decode(raw)


def test_names_that_are_no_text() -> None:
    (one,) = decode(
        record(
            packet(CLIENT, SERVER),
            device(1, b"e\xff\x1b\n", 1),
            step(1, IP_RCV),
            detail(1, 1, 0, 1, b"caf\xc3\xa9\x9b\0rest"),
        )
    ).events
    assert one.detail is not None and one.device is not None
    assert (one.detail.comm, one.device.name) == ("café\\x9b", "e\\xff\\x1b\\n")


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


def test_each_place_of_a_cpu_numbers_for_itself() -> None:
    decoder = Decoder(ADDRESSES, TRACEPOINTS)
    hit = (packet(CLIENT, SERVER), step(1, IP_RCV))
    for sequence in range(6):
        decoder.decode(record(*hit, place=0, sequence=sequence))
    for sequence in (0, 2):
        decoder.decode(record(*hit, place=1, sequence=sequence))
    assert decoder.gaps == 1
    # Returns have a place of their own.
    for sequence in (0, 1, 4):
        decoder.decode(record(returned(0, 0, 1), place=3, flags=RETURNED, sequence=sequence))
    assert (decoder.gaps, decoder.messages) == (3, 11)


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


def test_a_message_cut_off_anywhere_is_refused() -> None:
    for raw in (WHOLE, record(returned(1, 2, 3), flags=RETURNED)):
        for length in range(len(raw)):
            with pytest.raises(StreamError):
                decode(raw[:length])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([step(1, IP_RCV)], "a step comes before any packet's headers"),
        ([packet(CLIENT, SERVER), detail(1, 1, 1, 1, b"")], "comes before any step"),
        ([packet(CLIENT, SERVER), drop(1, 2)], "comes before any step"),
        ([packet(CLIENT, SERVER), step_tracepoint(1, 2)], "no tracepoint has the number 2"),
        ([packet(CLIENT, SERVER), stack(1)], "comes before any step"),
        ([packet(CLIENT, SERVER), returned(0, 0, 1)], "what a step tells comes before any step"),
        ([inner(CLIENT, SERVER, GRE), step(1, IP_RCV)], "an inner packet comes before any packet's headers"),
        ([device(1, b"eth0", 1), step(1, IP_RCV)], "a step comes before any packet's headers"),
        ([packet(CLIENT, SERVER), inner(CLIENT, SERVER, 6)], "a tunnel of unknown kind 6"),
        ([struct.pack("<QIHBB", 1, 0, 0, 11, 1)], "an item of kind 11 and 1 slots"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV), facts(1)], "an item of kind 10 and 1 slots"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV), facts(1, *range(14))], "an item of kind 10 and 8 slots"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV), facts(3, 1)], "no set of facts has the number 3"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV), facts(0, 1)], "no set of facts has the number 0"),
        ([packet(CLIENT, SERVER), facts(1, 1)], "comes before any step"),
        ([struct.pack("<QIHBB", 1, 0, 0, 255, 1)], "an item of kind 255 and 1 slots"),
        ([struct.pack("<QIHBB", 1, 0, 0, 0, 0)], "an item of kind 0 and 0 slots"),
        # Of a known kind, but not of its length.
        ([packet(CLIENT, SERVER), struct.pack("<QIHBB", 1, 0, 0, 1, 0)], "an item of kind 1 and 0 slots"),
        ([packet(CLIENT, SERVER), struct.pack("<QIHBB", 1, 0, 0, 1, 2), bytes(16)], "an item of kind 1 and 2 slots"),
        # As long as a packet of another version of this format.
        ([packet(CLIENT, SERVER)[:15] + b"\4" + bytes(48)], "an item of kind 3 and 4 slots"),
        # The last item does not fit in the log.
        ([packet(CLIENT, SERVER)[:64]], "an item of kind 3 and 5 slots"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV), stack(1)[:-16]], "an item of kind 9 and 17 slots"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(items: Sequence[bytes], words: str) -> None:
    with pytest.raises(StreamError, match=words):
        decode(record(*items) + bytes(64))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([step(1, IP_RCV), bytes(16)], "the message of a return has an item of kind 1"),
        ([packet(CLIENT, SERVER), step(1, IP_RCV)], "the message of a return has an item of kind 3"),
        ([], "cut off"),
        ([returned(0, 0, 1)[:16]], "cut off"),
    ],
)
def test_a_return_that_is_none_is_refused(items: Sequence[bytes], words: str) -> None:
    with pytest.raises(StreamError, match=words):
        decode(record(*items, flags=RETURNED))


def assert_only_a_stream_error_comes_out(raw: bytes) -> None:
    try:
        found = Decoder(ADDRESSES, TRACEPOINTS).decode(raw)
    except StreamError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert isinstance(found, Record)
        assert len(found.events) <= found.slots
        assert not (found.events and found.returned)
        assert all(len(one.stack) <= STACK_FRAMES for one in found.events)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
def test_random_bytes(raw: bytes) -> None:
    assert_only_a_stream_error_comes_out(raw)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_message_with_some_bytes_changed(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([WHOLE, record(returned(1, 2, 3), flags=RETURNED)])))
    for place in data.draw(st.sets(st.integers(0, len(raw) - 1), min_size=1, max_size=6)):
        raw[place] = data.draw(st.integers(0, 255))
    assert_only_a_stream_error_comes_out(bytes(raw))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 6), st.binary(min_size=14, max_size=14)), max_size=12))
def test_random_items(items: list[tuple[int, int, bytes]]) -> None:
    raw = record(*(body + bytes([kind, slots]) for kind, slots, body in items))
    assert_only_a_stream_error_comes_out(raw)


def socket_state(*, timer_ns: int = 0, rtt: int = 0xFFFFFFFF, srtt: int = 0xFFFFFFFF, flags: int = 3) -> bytes:
    return struct.pack("<IIIHBBqIIIIIBBBB", 2, 1, 300, 0, 11, 3, timer_ns, 64, 32, rtt, srtt, srtt, 1, 4, 5, flags)


def test_the_state_of_a_socket() -> None:
    raw = record(packet(CLIENT, SERVER), step(1000, IP_RCV), socket_state(timer_ns=-5), flags=SINGLE)
    (event,) = Decoder(ADDRESSES, TRACEPOINTS).decode(raw).events
    assert event.socket == Socket(
        state=1, whole=True, ca_state=4, packets_out=2, retrans_out=1, unacked=300, wmem=64, rmem=32, timer=5,
        timer_ns=-5, rtt_us=None, srtt_us=None, rtt_min_us=None,
    )  # fmt: skip
    raw = record(packet(CLIENT, SERVER), step(1000, IP_RCV), socket_state(rtt=7, srtt=9, flags=0), flags=SINGLE)
    (event,) = Decoder(ADDRESSES, TRACEPOINTS).decode(raw).events
    assert event.socket is not None
    assert (event.socket.whole, event.socket.timer) == (False, None)
    assert (event.socket.rtt_us, event.socket.srtt_us, event.socket.rtt_min_us) == (7, 9, 9)


ETHERNET_PING = bytes.fromhex("020000000002 020000000001 0800") + bytes(range(84))


def itself(
    data: bytes, *, length: int = 98, header: int = 14, vlan_proto: int = 0, vlan_tci: int = 0,
    taken: Optional[int] = None,
) -> bytes:  # fmt: skip
    """A packet itself; what is behind it is left from another one."""
    slots = 1 + -(-len(data) // 16)
    taken = len(data) if taken is None else taken
    head = struct.pack("<IHHHHHBB", length, taken, header, vlan_proto, vlan_tci, 0, 12, slots)
    return head + data.ljust(16 * (slots - 1), b"\xdd")


def test_a_packet_itself() -> None:
    ping = packet(CLIENT, SERVER)
    told = decode(
        record(
            ping, step(1, IP_RCV), itself(ETHERNET_PING[:50]),
            step(2, IP_RCV), drop(5, 6), itself(ETHERNET_PING[14:98], length=84, header=0),
            step(3, IP_RCV), itself(b""), step(4, IP_RCV),
        )
    )  # fmt: skip
    assert [item.frame for item in told.events] == [
        Frame(True, 98, ETHERNET_PING[:50]), Frame(False, 84, ETHERNET_PING[14:98]), Frame(True, 98, b""), None,
    ]  # fmt: skip


def test_a_tag_beside_a_packet_is_where_the_wire_has_it() -> None:
    ping = packet(CLIENT, SERVER, vlan_tci=0x6005)
    tagged = ETHERNET_PING[:12] + bytes.fromhex("81006005") + ETHERNET_PING[12:]
    for data, expected in ((ETHERNET_PING, tagged), (ETHERNET_PING[:11], ETHERNET_PING[:11])):
        beside = itself(data, vlan_proto=0x8100, vlan_tci=0x6005)
        (item,) = decode(record(ping, step(1, IP_RCV), beside)).events
        assert item.frame is not None and item.frame.data == expected
    # Without an Ethernet header there is no place for it.
    (item,) = decode(record(ping, step(1, IP_RCV), itself(b"E", header=0, vlan_proto=0x8100, vlan_tci=5))).events
    assert item.frame == Frame(False, 98, b"E")


def test_what_nobody_could_read_is_no_packet() -> None:
    arp = packet(CLIENT, SERVER, protocol=0x0806)
    (item,) = decode(record(arp, step(1, IP_RCV), itself(b"\0\1\x08\0", header=0))).events
    assert item.frame is None
    for wrong in (itself(ETHERNET_PING, taken=113), itself(b"", taken=1)):
        with pytest.raises(StreamError, match="bytes of a packet in"):
            decode(record(arp, step(1, IP_RCV), wrong))
    with pytest.raises(StreamError, match="comes before any step"):
        decode(record(itself(b"")))
