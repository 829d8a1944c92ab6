"""Bytes from the kernel become records of events."""

import bisect
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional, Union

from . import event
from .errors import StreamError
from .event import Detail, Device, Drop, Event, Frame, Packet, Record, Return, Socket
from .facts import Fact
from .printable import text_of

_IPV4_FAMILY = (0x0800, 0x0806, 0x8035)
_IP, _IPV6 = 0x0800, 0x86DD
_ADDRESSES_BYTES = 12  # before the EtherType of a frame
_LOW_HALF = 0xFFFFFFFF
# How far into a function its probe may fire: behind the landing pad and the call of the tracer.
_PROBE_DEPTH_BYTES = 64
_ITEM_SLOTS = {
    event.STEP: 1,
    event.STEP_TRACEPOINT: 1,
    event.PACKET: event.PACKET_ITEM.size // event.SLOT_BYTES,
    event.INNER: event.PACKET_ITEM.size // event.SLOT_BYTES,
    event.DEVICE: event.DEVICE_ITEM.size // event.SLOT_BYTES,
    event.DETAIL: event.DETAIL_ITEM.size // event.SLOT_BYTES,
    event.DROP: event.DROP_ITEM.size // event.SLOT_BYTES,
    event.RETURN: event.RETURN_ITEM.size // event.SLOT_BYTES,
    event.STACK: event.STACK_ITEM.size // event.SLOT_BYTES,
    event.SOCKET: event.SOCKET_ITEM.size // event.SLOT_BYTES,
}


class Decoder:
    """Turns messages into records.

    addresses: the trace at each probed function's address.
    tracepoints: the traces that are tracepoints, by their number in the plan.
    facts: the plan's sets of facts.
    """

    def __init__(
        self, addresses: Mapping[int, str], tracepoints: Sequence[str], facts: Sequence[Sequence[Fact]] = ()
    ) -> None:
        self.messages = 0  # decoded so far
        self.gaps = 0  # messages that never came, by the CPUs' sequence numbers
        self._functions = sorted((address & _LOW_HALF, name) for address, name in addresses.items())
        self._starts = [start for start, _ in self._functions]
        self._known: dict[int, str] = {}
        self._tracepoints = tracepoints
        self._facts = facts
        self._expected: dict[tuple[int, int], int] = {}

    def decode(self, raw: bytes, *, sent: bool = True) -> Record:
        """The record in a message; raises StreamError where the bytes make no sense.

        sent: false for what a tracking map's entry still holds: it has no place in the sequence.
        """
        try:
            (
                packet_id, record_id, parent_id, skb, sequence, cpu, slots, slots_before, children, flags, place,
                calls, _,
            ) = event.RECORD.struct.unpack_from(raw)  # fmt: skip
            if sent:
                self.messages += 1
                self._check_sequence((cpu, place), sequence)
            is_return = bool(flags & event.RETURNED)
            return Record(
                packet_id=packet_id,
                record_id=record_id,
                parent_id=parent_id,
                skb=skb,
                children=children,
                freed=bool(flags & event.FREED),
                single=bool(flags & event.SINGLE),
                slots_before=slots_before,
                slots=slots,
                events=() if is_return else self._events(raw, slots, skb),
                calls=calls,
                returned=(_returned(raw, event.RECORD.size),) if is_return else (),
            )
        except (struct.error, IndexError) as error:
            raise StreamError(f"a message of {len(raw)} bytes from the kernel is cut off ({error})") from error

    def pass_by(self, raw: bytes) -> None:
        """Counts a message that need not be decoded."""
        _, _, _, _, sequence, cpu, _, _, _, _, place, _, _ = event.RECORD.struct.unpack_from(raw)
        self.messages += 1
        self._check_sequence((cpu, place), sequence)

    def _check_sequence(self, source: tuple[int, int], sequence: int) -> None:
        ahead = (sequence - self._expected.get(source, 0)) & _LOW_HALF
        if ahead > _LOW_HALF // 2:
            return  # behind: an interrupt's message overtook it, or took the same number
        self.gaps += ahead
        self._expected[source] = (sequence + 1) & _LOW_HALF

    def _events(self, raw: bytes, slots: int, skb: int) -> tuple[Event, ...]:
        events: list[Event] = []
        packet: Optional[Packet] = None
        device: Optional[Device] = None
        at = event.RECORD.size
        end = at + slots * event.SLOT_BYTES
        while at < end:
            kind, length = raw[at + 14], raw[at + 15]
            if not _is_item(kind, length) or at + length * event.SLOT_BYTES > end:
                raise StreamError(f"a message from the kernel has an item of kind {kind} and {length} slots")
            if kind in (event.STEP, event.STEP_TRACEPOINT):
                if packet is None:
                    raise StreamError("a step comes before any packet's headers")
                time_ns, where, number, _, _ = event.STEP_ITEM.struct.unpack_from(raw, at)
                name = self.trace(kind, where)
                events.append(Event(time_ns, name, skb, packet, number, device))
            elif kind == event.PACKET:
                packet = _packet(raw, at)
            elif kind == event.DEVICE:
                device = _device(raw, at)
            elif kind == event.INNER:
                if packet is None:
                    raise StreamError("an inner packet comes before any packet's headers")
                packet = packet._replace(inner=_packet(raw, at))
            elif not events:
                raise StreamError("what a step tells comes before any step")
            elif kind == event.DETAIL:
                events[-1] = events[-1]._replace(detail=_detail(raw, at))
            elif kind == event.SOCKET:
                events[-1] = events[-1]._replace(socket=_socket(raw, at))
            elif kind == event.STACK:
                events[-1] = events[-1]._replace(stack=_stack(raw, at))
            elif kind == event.DROP:
                location, reason, _, _, _ = event.DROP_ITEM.struct.unpack_from(raw, at)
                events[-1] = events[-1]._replace(drop=Drop(location, None if reason == event.NO_REASON else reason))
            elif kind == event.BYTES:
                events[-1] = events[-1]._replace(frame=_frame(raw, at, events[-1].packet))
            elif kind == event.FACTS:
                events[-1] = events[-1]._replace(facts=self.facts(raw, at))
            else:
                events[-1] = events[-1]._replace(returned=_returned(raw, at)[1])
            at += length * event.SLOT_BYTES
        return tuple(events)

    def facts(self, raw: bytes, at: int) -> tuple[tuple[str, Union[int, str]], ...]:
        """What the facts that begin there say, with their names."""
        _, _, number, _, slots, words = event.FACTS_ITEM.struct.unpack_from(raw.ljust(at + event.FACTS_ITEM.size), at)
        if not 0 < number <= len(self._facts):
            raise StreamError(f"no set of facts has the number {number}")
        values = struct.unpack(f"<{event.FACT_WORDS}Q", words)[: 2 * (slots - 1)]
        facts = []
        word = 0
        for fact in self._facts[number - 1]:
            facts.append((fact.name, fact.value(values[word : word + fact.words])))
            word += fact.words
        return tuple(facts)

    def trace(self, kind: int, where: int) -> str:
        """The trace that a step of this kind at this place is of."""
        return self._tracepoint(where) if kind == event.STEP_TRACEPOINT else self._function(where)

    def _tracepoint(self, where: int) -> str:
        if where >= len(self._tracepoints):
            raise StreamError(f"no tracepoint has the number {where}")
        return self._tracepoints[where]

    def _function(self, where: int) -> str:
        name = self._known.get(where)
        if name is None:
            index = bisect.bisect_right(self._starts, where) - 1
            if index < 0 or where - self._starts[index] > _PROBE_DEPTH_BYTES:
                raise StreamError(f"no probe was set at the address ...{where:08x}")
            name = self._known[where] = self._functions[index][1]
        return name


def items(raw: bytes, slots: int) -> Iterator[tuple[int, int, int]]:
    """The items of a message that was decoded: their kinds, where they begin and where they end."""
    at = event.RECORD.size
    end = at + slots * event.SLOT_BYTES
    while at < end:
        kind, start = raw[at + 14], at
        at += raw[at + 15] * event.SLOT_BYTES
        yield kind, start, at


def headers(raw: bytes) -> Packet:
    """The headers in a packet's item, with what it carries if that item is there, too."""
    packet, size = _packet(raw, 0), event.PACKET_ITEM.size
    return packet if len(raw) == size else packet._replace(inner=_packet(raw, size))


def _is_item(kind: int, slots: int) -> bool:
    if kind == event.FACTS:
        return 1 < slots <= event.FACTS_ITEM.size // event.SLOT_BYTES
    if kind == event.BYTES:
        return slots > 0
    return slots == _ITEM_SLOTS.get(kind)


def _packet(raw: bytes, at: int) -> Packet:
    (
        length, vlan_tci, l3_protocol, l4_protocol, flags, fragment_offset, l3_length, _, _, saddr, daddr, l4,
        tunnel_id, vlan_tci2, gso_size, gso_segs, tunnel, _,
    ) = event.PACKET_ITEM.struct.unpack_from(raw, at)  # fmt: skip
    if l3_protocol in _IPV4_FAMILY:
        saddr, daddr = saddr[:4], daddr[:4]
    if tunnel >= len(event.TUNNELS):
        raise StreamError(f"a message from the kernel tells of a tunnel of unknown kind {tunnel}")
    return Packet(
        length, vlan_tci, l3_protocol, l4_protocol, flags, fragment_offset, l3_length, saddr, daddr, l4,
        vlan_tci2, gso_size, gso_segs, tunnel, tunnel_id,
    )  # fmt: skip


def _device(raw: bytes, at: int) -> Device:
    ifindex, netns, _, _, _, _, name = event.DEVICE_ITEM.struct.unpack_from(raw, at)
    return Device(ifindex, text_of(name), netns)


def _detail(raw: bytes, at: int) -> Detail:
    pid, tgid, mark, cpu, _, _, comm, socket, length, _ = event.DETAIL_ITEM.struct.unpack_from(raw, at)
    return Detail(cpu, pid, tgid, text_of(comm), mark, length, socket)


def _socket(raw: bytes, at: int) -> Socket:
    (
        packets_out, retrans_out, unacked, _, _, _, timer_ns, wmem, rmem, rtt_us, srtt_us, rtt_min_us, state, ca_state,
        timer, flags,
    ) = event.SOCKET_ITEM.struct.unpack_from(raw, at)  # fmt: skip
    return Socket(
        state=state,
        whole=bool(flags & event.WHOLE),
        ca_state=ca_state,
        packets_out=packets_out,
        retrans_out=retrans_out,
        unacked=unacked,
        wmem=wmem,
        rmem=rmem,
        timer=timer if flags & event.HAS_TIMER else None,
        timer_ns=timer_ns - (timer_ns >> 63 << 64),
        rtt_us=_measured(rtt_us),
        srtt_us=_measured(srtt_us),
        rtt_min_us=_measured(rtt_min_us),
    )


def _measured(us: int) -> Optional[int]:
    return None if us == event.NO_RTT else us


def _stack(raw: bytes, at: int) -> tuple[int, ...]:
    _, size, _, _, _, frames = event.STACK_ITEM.struct.unpack_from(raw, at)
    return struct.unpack_from(f"<{min(size // 8, event.STACK_FRAMES)}Q", frames)


def _frame(raw: bytes, at: int, packet: Packet) -> Optional[Frame]:
    """None: it is not IP and has no Ethernet header, so that nobody could tell what the bytes are."""
    length, taken, header, vlan_proto, vlan_tci, _, _, slots = event.BYTES_ITEM.struct.unpack_from(raw, at)
    if taken > (slots - 1) * event.SLOT_BYTES:
        raise StreamError(f"a message from the kernel has {taken} bytes of a packet in {slots - 1} slots")
    begin = at + event.BYTES_ITEM.size
    data = raw[begin : begin + taken]
    if not header:
        return Frame(False, length, data) if packet.l3_protocol in (_IP, _IPV6) else None
    if vlan_proto and taken >= _ADDRESSES_BYTES:
        # As on the wire: the kernel carries the tag beside the frame.
        tag = vlan_proto.to_bytes(2, "big") + vlan_tci.to_bytes(2, "big")
        return Frame(True, length + len(tag), data[:_ADDRESSES_BYTES] + tag + data[_ADDRESSES_BYTES:])
    return Frame(True, length, data)


def _returned(raw: bytes, at: int) -> tuple[int, Return]:
    value, _, number, kind, _, time_ns, _ = event.RETURN_ITEM.struct.unpack_from(raw, at)
    if kind != event.RETURN:
        raise StreamError(f"the message of a return has an item of kind {kind}")
    return number, Return(time_ns, value)
