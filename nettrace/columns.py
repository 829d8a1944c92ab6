"""Records as columns of numbers, as a recording has them, and back.

What is the same for all rows of a chunk stands there once; times and ids as differences. Headers, devices and the
like are in tables of the chunk, and a row has their place there. What few rows have is in lists of its own.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, islice, repeat
from operator import add, sub
from typing import Any, Callable, Optional, TypeVar, Union

from .errors import StreamError
from .event import (
    HAS_L4,
    PACKET_ITEM,
    TUNNELS,
    Detail,
    Device,
    Drop,
    Event,
    Frame,
    Packet,
    Record,
    Return,
    Socket,
)

_REMEMBERED_MAX = 1024  # of a kind
Column = Union[int, list[int]]  # a number: all rows have it
Thing = TypeVar("Thing", Packet, Device, Detail, Frame)

# More than a recorder puts into a chunk, and than a message from the kernel has room for: a column may be one number,
# and a few bytes tell of any number of rows.
_ROWS_MAX = 1 << 16
_EVENTS_MAX = 512
_NUMBER_MAX = 1 << 65  # differences of what has 64 bits
_TIME_MAX = 1 << 64

_IPV4_FAMILY = (0x0800, 0x0806, 0x8035)
_MOST_OF = {name: (1 << 8 * PACKET_ITEM.place(name)[1]) - 1 for name in Packet._fields if name != "inner"}
_MOST_OF["tunnel"] = len(TUNNELS) - 1
_BYTES = ("saddr", "daddr", "l4")  # of a packet, as hexadecimal digits
_TEXTS = ("name", "comm")
# What rows are made of; a recording tells what its own are made of, as a later version may know more.
SHAPES: dict[str, tuple[str, ...]] = {
    "packet": Packet._fields, "device": Device._fields, "detail": Detail._fields, "drop": Drop._fields,
    "socket": Socket._fields, "frame": Frame._fields,
}  # fmt: skip


def encode(records: Sequence[Record], trace_numbers: Mapping[str, int]) -> dict[str, Any]:
    """The records of a chunk; trace_numbers: the places of traces in the header."""
    (
        packet_ids, record_ids, parent_ids, skbs, children, freed, single, before, slots, events_of, calls, returned,
    ) = zip(*records)  # fmt: skip
    chunk: dict[str, Any] = {
        "record": _column(_differences(record_ids)),
        "packet": _column(list(map(sub, record_ids, packet_ids))),
        "parent": _column([0 if not parent else own - parent for own, parent in zip(record_ids, parent_ids)]),
        "skb": _column(_differences(skbs)),
        "children": _column(children),
        "freed": _column(list(map(int, freed))),
        "single": _column(list(map(int, single))),
        "before": _column(before),
        "slots": _column(slots),
        "calls": _column(calls),
        "events": _column(list(map(len, events_of))),
        "count": len(records),
    }
    if any(returned):
        rows = [(at, number, back) for at, pairs in enumerate(returned) for number, back in pairs]
        chunk["returned"] = {
            "record": [at for at, _, _ in rows],
            "number": [number for _, number, _ in rows],
            "time": _differences([back.time_ns for _, _, back in rows]),
            "value": [back.value for _, _, back in rows],
        }
    events = list(chain.from_iterable(events_of))
    if events:
        chunk["event"] = _events(events, events_of, trace_numbers)
    return {name: column for name, column in chunk.items() if column != 0}


def _events(
    events: Sequence[Event], events_of: Sequence[Sequence[Event]], trace_numbers: Mapping[str, int]
) -> dict[str, Any]:
    times, traces, _, packets, numbers, devices, details, drops, stacks, _, facts, sockets, frames = zip(*events)
    order = list(chain.from_iterable(map(range, map(len, events_of))))
    chunk: dict[str, Any] = {
        "count": len(events),
        "time": _column(_differences(times)),
        "trace": _column([trace_numbers[trace] for trace in traces]),
        # The steps of an skb are numbered one after the other.
        "number": _column(list(map(sub, numbers, order))),
    }
    for name, things in (("packet", packets), ("device", devices), ("detail", details), ("frame", frames)):
        chunk[name], table = _table(things)
        if table:
            chunk[f"{name}s"] = [_row(thing) for thing in table]
    for name, things in (("drop", drops), ("socket", sockets)):
        if things.count(None) < len(things):
            chunk[name] = [[at, *thing] for at, thing in enumerate(things) if thing is not None]
    if any(stacks):
        chunk["stack"] = [[at, *stack] for at, stack in enumerate(stacks) if stack]
    if any(facts):
        chunk["facts"] = [[at, dict(each)] for at, each in enumerate(facts) if each]
    return {name: column for name, column in chunk.items() if column != 0}


def _table(things: Sequence[Optional[Thing]]) -> tuple[Column, list[Thing]]:
    """For each its place in the table, from 1, and 0 for none; and the table."""
    # Most are the very same object as the one before, and are told apart faster by where they are in memory.
    addresses = list(map(id, things))
    places: dict[Optional[Thing], int] = {None: 0}
    at = {address: places.setdefault(thing, len(places)) for address, thing in dict(zip(addresses, things)).items()}
    del places[None]
    return _column([at[address] for address in addresses]), list(places)  # type: ignore[arg-type]


def _row(thing: Thing) -> list[Any]:
    row: list[Any] = [value.hex() if isinstance(value, bytes) else value for value in thing]
    if isinstance(thing, Frame):
        row[Frame._fields.index("is_ethernet")] = int(thing.is_ethernet)
    if not isinstance(thing, Packet):
        return row
    if thing.inner is not None:
        row[-1] = _row(thing.inner)
    while row and row[-1] in (0, None):
        del row[-1]
    return row


def _column(values: Sequence[int]) -> Column:
    first = values[0]
    return first if values.count(first) == len(values) else list(values)


def _differences(values: Sequence[int]) -> list[int]:
    return [values[0], *map(sub, values[1:], values)]


class Decoder:
    """Makes records of chunks; traces: the names, by their numbers. shapes: what rows of this recording are made of."""

    def __init__(self, traces: Sequence[str], shapes: Mapping[str, Sequence[str]]) -> None:
        self._traces = traces
        self._packet = _maker(Packet, shapes.get("packet", ()))
        self._device = _maker(Device, shapes.get("device", ()))
        self._detail = _maker(Detail, shapes.get("detail", ()))
        self._drop = _maker(Drop, shapes.get("drop", ()))
        self._socket = _maker(Socket, shapes.get("socket", ()))
        self._frame = _frame_maker(shapes.get("frame", ()))

    def records(self, chunk: Mapping[str, Any]) -> list[Record]:
        """The records of a chunk; StreamError where they make no sense."""
        try:
            return self._records(chunk)
        except (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise StreamError(f"the records make no sense ({type(error).__name__}: {error})") from error

    def _records(self, chunk: Mapping[str, Any]) -> list[Record]:
        count = _count(chunk)
        if not count:
            return []
        record_ids = list(accumulate(_rows(chunk, "record", count)))
        packet_ids = list(map(sub, record_ids, _rows(chunk, "packet", count)))
        parents = _rows(chunk, "parent", count)
        parent_ids = [own - far if far else 0 for own, far in zip(record_ids, parents)] if any(parents) else repeat(0)
        skbs = list(accumulate(_rows(chunk, "skb", count)))
        lengths = _rows(chunk, "events", count)
        if not 0 <= min(lengths) <= max(lengths) <= _EVENTS_MAX:
            raise ValueError("the events of a record")
        events = self._events(chunk.get("event", {}), skbs, lengths)
        returned: Iterable[tuple[tuple[int, Return], ...]] = repeat(())
        if "returned" in chunk:
            returned = self._returned(chunk["returned"], count)
        rows = zip(
            packet_ids, record_ids, parent_ids, skbs, _rows(chunk, "children", count),
            map(bool, _rows(chunk, "freed", count)), map(bool, _rows(chunk, "single", count)),
            _rows(chunk, "before", count), _rows(chunk, "slots", count), events, _rows(chunk, "calls", count), returned,
        )  # fmt: skip
        return list(map(tuple.__new__, repeat(Record), rows))

    def _events(
        self, chunk: Mapping[str, Any], skbs: Sequence[int], lengths: Sequence[int]
    ) -> Iterable[tuple[Event, ...]]:
        count = _count(chunk)
        if count != sum(lengths):
            raise ValueError(f"{count} events where there should be {sum(lengths)}")
        if not count:
            return repeat(())
        packets = [self._packet(row) for row in chunk["packets"]]
        places = [place - 1 for place in _rows(chunk, "packet", count)]
        if min(places) < 0:
            raise ValueError("an event without headers")
        devices = [None, *(self._device(row) for row in chunk.get("devices", ()))]
        numbers: Iterable[int] = chain.from_iterable(map(range, lengths))
        if "number" in chunk:
            numbers = map(add, numbers, _rows(chunk, "number", count))
        details: Iterable[Optional[Detail]] = repeat(None)
        if "detail" in chunk:
            table = [None, *(self._detail(row) for row in chunk["details"])]
            details = map(table.__getitem__, _rows(chunk, "detail", count))
        frames: Iterable[Optional[Frame]] = repeat(None)
        if "frame" in chunk:
            whole = [None, *(self._frame(row) for row in chunk["frames"])]
            frames = map(whole.__getitem__, _rows(chunk, "frame", count))
        rows = zip(
            _times(_rows(chunk, "time", count)),
            map(self._traces.__getitem__, _rows(chunk, "trace", count)),
            chain.from_iterable(map(repeat, skbs, lengths)),
            map(packets.__getitem__, places),
            numbers,
            map(devices.__getitem__, _rows(chunk, "device", count)),
            details,
            _spread(chunk, "drop", count, None, self._dropped),
            _spread(chunk, "stack", count, (), _stack),
            repeat(None),
            _spread(chunk, "facts", count, (), _facts),
            _spread(chunk, "socket", count, None, self._socket),
            frames,
        )
        ordered = map(tuple.__new__, repeat(Event), rows)
        return [tuple(islice(ordered, length)) for length in lengths]

    def _dropped(self, row: Sequence[Any]) -> Drop:
        drop: Drop = self._drop(row)
        operator.index(drop.location)
        return drop

    def _returned(self, chunk: Mapping[str, Any], count: int) -> list[tuple[tuple[int, Return], ...]]:
        told: list[tuple[tuple[int, Return], ...]] = [()] * count
        times = _times(chunk["time"])
        for at, number, time_ns, value in zip(chunk["record"], chunk["number"], times, chunk["value"]):
            told[at] += ((operator.index(number), Return(time_ns, operator.index(value))),)
        return told


def _count(chunk: Mapping[str, Any]) -> int:
    count = chunk.get("count", 0)
    if not isinstance(count, int) or not 0 <= count <= _ROWS_MAX:
        raise ValueError(f"{count} rows")
    return count


def _rows(chunk: Mapping[str, Any], name: str, count: int) -> list[int]:
    column = chunk.get(name, 0)
    rows = column if isinstance(column, list) else [column] * count
    # A sum is an integer only if they all are.
    if len(rows) != count or not isinstance(sum(rows), int):
        raise ValueError(f"the column {name}")
    if rows and not -_NUMBER_MAX < min(rows) <= max(rows) < _NUMBER_MAX:
        raise ValueError(f"the column {name}")
    return rows


def _spread(
    chunk: Mapping[str, Any], name: str, count: int, nothing: Any, make: Callable[[Sequence[Any]], Any]
) -> Iterable[Any]:
    """What few rows have: each begins with the place of the event that it belongs to."""
    if name not in chunk:
        return repeat(nothing)
    column = [nothing] * count
    for at, *row in chunk[name]:
        column[at] = make(row)
    return column


def _stack(row: Sequence[Any]) -> tuple[int, ...]:
    return tuple(map(operator.index, row))


def _facts(row: Sequence[Any]) -> tuple[tuple[str, Union[int, str]], ...]:
    (facts,) = row
    if not {int, str}.issuperset(map(type, facts.values())):
        raise ValueError("a fact")
    return tuple(facts.items())


def _times(differences: Sequence[int]) -> Sequence[int]:
    times = list(accumulate(differences))
    if times and not 0 <= min(times) <= max(times) < _TIME_MAX:
        raise ValueError("a time")
    return times


def _maker(kind: Any, names: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    """What makes a thing of a row: of what this version does not know nothing comes, and what is missing is empty."""
    if kind is Packet:
        return _packet_maker(names)
    known = [name in kind._fields for name in names]
    needed = {name: None for name in kind._fields if name not in kind._field_defaults}

    # Each chunk has most of those that the one before had.
    @functools.lru_cache(_REMEMBERED_MAX)
    def make(*row: Any) -> Any:
        if len(row) != len(names):
            raise ValueError(f"{len(row)} values where there should be {len(names)}")
        told = {name: value for name, value, is_known in zip(names, row, known) if is_known}
        return _checked(kind(**{**needed, **told}))

    return lambda row: make(*row)


def _checked(thing: Any) -> Any:
    """The thing, if each of its values is a number, or a text where one belongs; ValueError if not."""
    for name, value in zip(thing._fields, thing):
        if (value is not None and isinstance(value, str) != (name in _TEXTS)) or isinstance(value, (list, dict, float)):
            raise ValueError(f"{name} is {value!r}")
    return thing


def _packet_maker(names: Sequence[str]) -> Callable[[Sequence[Any]], Packet]:
    is_mine = tuple(names) == Packet._fields
    saddr_at, daddr_at, l4_at, inner_at = (Packet._fields.index(name) for name in (*_BYTES, "inner"))

    def make(row: Sequence[Any], is_inner: bool = False) -> Packet:
        if not is_mine:
            told = dict(zip(names, row))
            row = [told.get(name, "" if name in _BYTES else 0) for name in Packet._fields[:inner_at]]
            row = [*row, told.get("inner")]
        values = list(row)
        for at in (saddr_at, daddr_at, l4_at):
            values[at] = bytes.fromhex(values[at])
        inner = values[inner_at] if len(values) > inner_at else None
        if inner is not None:
            if is_inner:
                raise ValueError("a packet in a packet in a packet")
            values[inner_at] = make(inner, is_inner=True)
        for name, value in zip(Packet._fields[:inner_at], values):
            if name not in _BYTES and not (type(value) is int and 0 <= value <= _MOST_OF[name]):
                raise ValueError(f"{name} of a packet")
        packet = Packet(*values)
        if not _is_readable(packet):
            raise ValueError("a packet's headers")
        return packet

    return make


def _frame_maker(names: Sequence[str]) -> Callable[[Sequence[Any]], Frame]:
    def make(row: Sequence[Any]) -> Frame:
        told = dict(zip(names, row))
        data = bytes.fromhex(told["data"])
        length = operator.index(told["length"])
        if not 0 <= length < 1 << 32:
            raise ValueError("a packet's length")
        return Frame(bool(told["is_ethernet"]), length, data)

    return make


def _is_readable(packet: Packet) -> bool:
    size = 4 if packet.l3_protocol in _IPV4_FAMILY else 16
    has_l4 = bool(packet.flags & HAS_L4)
    return len(packet.saddr) == len(packet.daddr) == size and len(packet.l4) in ((16,) if has_l4 else (0, 16))
