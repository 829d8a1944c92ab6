"""Records as columns: whatever they are, they come back, from a chunk that went through JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace import columns
from nettrace.errors import StreamError
from nettrace.event import Detail, Device, Drop, Event, Frame, Packet, Record, Return, Socket

TRACES = ["ip_rcv", "kfree_skb", "tcp_v4_rcv"]
U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


def possible(packet: Packet) -> Packet:
    """With addresses of the size that its protocol has."""
    size = 4 if packet.l3_protocol in (0x0800, 0x0806, 0x8035) else 16
    return packet._replace(saddr=packet.saddr[:size], daddr=packet.daddr[:size])


BYTES = st.binary(min_size=16, max_size=16)
BARE = st.builds(
    Packet, U32, U16, st.sampled_from([0x0800, 0x0806, 0x86DD]) | U16, U8, U8, U16, U16, BYTES, BYTES, BYTES, U16, U16,
    U16, st.integers(0, 5), U32, st.none(),
).map(possible)  # fmt: skip
PACKETS = st.builds(lambda outer, inner: outer._replace(inner=inner), BARE, st.none() | BARE)
DEVICES = st.builds(Device, U32, st.text(max_size=4), U32)
DETAILS = st.builds(Detail, U16, U32, U32, st.text(max_size=4), U32, U32, U64)
SOCKETS = st.builds(Socket, U8, st.booleans(), U8, timer=st.none() | U8, timer_ns=st.integers(-(1 << 63), 1 << 62))
FRAMES = st.builds(Frame, st.booleans(), U32, st.binary(max_size=8))
RETURNS = st.tuples(U16, st.builds(Return, U64, U64))
FACTS = st.dictionaries(st.text(max_size=3), st.integers(-(1 << 31), 1 << 63) | st.text(max_size=3), max_size=2)


@st.composite
def records(draw: st.DrawFn) -> Record:
    skb = draw(U64)
    # As in messages of the kernel, headers and devices are shared by steps.
    packets, devices = draw(st.lists(PACKETS, min_size=1, max_size=2)), draw(st.lists(DEVICES, min_size=1, max_size=2))
    events = draw(
        st.lists(
            st.builds(
                Event, U64, st.sampled_from(TRACES), st.just(skb), st.sampled_from(packets), U16,
                st.none() | st.sampled_from(devices), st.none() | DETAILS, st.none() | st.builds(Drop, U64, U32),
                st.lists(U64, max_size=2).map(tuple), st.none(), FACTS.map(lambda facts: tuple(facts.items())),
                st.none() | SOCKETS, st.none() | FRAMES,
            ),
            max_size=4,
        )
    )  # fmt: skip
    return Record(
        draw(U64), draw(U64), draw(U64), skb, draw(U16), draw(st.booleans()), draw(st.booleans()), draw(U32), draw(U16),
        tuple(events), draw(U16), tuple(draw(st.lists(RETURNS, max_size=2))),
    )  # fmt: skip


def through_json(told: list[Record]) -> "dict[str, object]":
    chunk = columns.encode(told, {name: number for number, name in enumerate(TRACES)})
    plain: dict[str, object] = json.loads(json.dumps(chunk))
    return plain


@settings(max_examples=50, deadline=None)
@given(st.lists(records(), min_size=1, max_size=5))
def test_records_come_back_as_they_were(told: list[Record]) -> None:
    # A clone is of another record.
    told = [record._replace(parent_id=0) if record.parent_id == record.record_id else record for record in told]
    assert columns.Decoder(TRACES, columns.SHAPES).records(through_json(told)) == told


PACKET = Packet(84, 0, 0x0800, 1, 0, 0, 84, bytes(4), bytes(4), bytes(16))
STEPS = tuple(Event(10**13 + 1000 * n, "ip_rcv", 7, PACKET, n, Device(1, "lo", 5)) for n in range(20))
RECORD = Record(8, 8, 0, 7, 0, True, False, 0, 30, STEPS)


def test_what_is_the_same_for_all_stands_there_once() -> None:
    chunk = through_json([RECORD, RECORD])
    assert len(chunk["event"]["packets"]) == len(chunk["event"]["devices"]) == 1  # type: ignore[index]
    assert "drop" not in chunk["event"] and "number" not in chunk["event"]  # type: ignore[operator]
    assert chunk["freed"] == 1 and "children" not in chunk


def test_a_later_version_may_know_more_and_an_earlier_one_less() -> None:
    chunk = through_json([RECORD])
    event = chunk["event"]
    event["devices"][0] = ["what is this", 1, "lo"]  # type: ignore[index]
    event["packets"][0] = [1, *event["packets"][0]]  # type: ignore[index]
    chunk["colour"] = [1]
    shapes = {
        **columns.SHAPES,
        "device": ("motto", "ifindex", "name"),
        "packet": ("hops", *(name for name in Packet._fields)),
    }
    (record,) = columns.Decoder(TRACES, shapes).records(chunk)
    assert record.events[3].device == (1, "lo", None)
    assert record.events[3].packet == PACKET


@pytest.mark.parametrize(
    "spoil",
    [
        {"count": -1}, {"count": 1 << 40}, {"count": "2"}, {"skb": [1]}, {"skb": "7"}, {"events": 3}, {"event": None},
        {"event": {}}, {"record": [1.5, 2]}, {"freed": None}, {"returned": {"record": [9]}},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_refused(spoil: "dict[str, object]") -> None:
    chunk = {**through_json([RECORD, RECORD]), **spoil}
    with pytest.raises(StreamError, match="make no sense"):
        columns.Decoder(TRACES, columns.SHAPES).records(chunk)


@pytest.mark.parametrize(
    "spoil",
    [
        {"trace": 99}, {"packet": 9}, {"packets": [[1]]}, {"packets": 3}, {"time": "x"}, {"device": [1]},
        {"drop": [[99, 1, 1]]}, {"facts": [[0, 3]]}, {"detail": 4}, {"devices": [[1, "lo"]]},
        {"facts": [[0, {"a": 1.5}]]}, {"devices": [[1, "lo", 5, 6]]}, {"drop": [[0, None, 1]]},
        {"stack": [[0, 1.5]]}, {"time": [1.5] * 40},
    ],
    ids=str,
)  # fmt: skip
def test_events_that_make_no_sense_are_refused(spoil: "dict[str, object]") -> None:
    chunk = through_json([RECORD, RECORD])
    chunk["event"].update(spoil)  # type: ignore[attr-defined]
    with pytest.raises(StreamError, match="make no sense"):
        columns.Decoder(TRACES, columns.SHAPES).records(chunk)


def test_few_bytes_are_no_reason_to_take_much_memory() -> None:
    """A column may be one number: it is for the reader to say for how many rows."""
    decoder = columns.Decoder(TRACES, columns.SHAPES)
    many = {"record": 1, "freed": 1, "single": 0, "count": 1 << 24}
    step = {"count": 1 << 20, "time": 1, "packet": 1, "packets": [columns._row(PACKET)]}
    for chunk in (many, {"record": 1, "count": 1, "events": 1 << 20, "event": step}):
        with pytest.raises(StreamError, match="make no sense"):
            decoder.records(chunk)


@pytest.mark.parametrize(
    "changed",
    [
        {"saddr": "0a0000"}, {"daddr": ""}, {"l3_protocol": 0x86DD}, {"l4": "00"}, {"flags": 1, "l4": ""},
        {"length": 1 << 32}, {"vlan_tci": -1}, {"tunnel": 6}, {"gso_size": 1.5}, {"inner": columns._row(PACKET)[:3]},
        {"inner": [*columns._row(PACKET), *[0] * 5, columns._row(PACKET)]},
    ],
)  # fmt: skip
def test_headers_that_cannot_be(changed: "dict[str, object]") -> None:
    row = [*columns._row(PACKET)[: Packet._fields.index("l4")], "00" * 16, 0, 0, 0, 0, 0, None]
    step = {"count": 1, "time": 1, "packet": 1, "packets": [row]}
    chunk = {"record": 1, "count": 1, "events": 1, "event": step}
    decoder = columns.Decoder(TRACES, columns.SHAPES)
    assert len(decoder.records(chunk)) == 1
    for name, value in changed.items():
        row[Packet._fields.index(name)] = value
    with pytest.raises(StreamError, match="make no sense"):
        decoder.records(chunk)


@pytest.mark.parametrize("time_ns", [-1, 1 << 64, 10**400])
def test_times_that_no_clock_has(time_ns: int) -> None:
    step = {"count": 1, "time": time_ns, "packet": 1, "packets": [columns._row(PACKET)]}
    with pytest.raises(StreamError, match="make no sense"):
        columns.Decoder(TRACES, columns.SHAPES).records({"record": 1, "count": 1, "events": 1, "event": step})
