"""From records, one per skb and message, to contexts, one per packet.

The first skb of a packet and each clone have a record of their own, told in one message or
several, which may arrive in any order. A packet is over when its first skb was freed, when
as many clones of each skb were told of as it said it has, when all of those were freed too,
and when as many functions returned as were to be waited for. Until then its context is open.
"""

from collections import OrderedDict
from operator import itemgetter
from typing import Optional

from nettrace.event import Context, Event, Record, Return

MAX_CONTEXTS = 16384
MAX_MESSAGES = 4096  # of one context
IDLE_NS = 10_000_000_000

_time, _skb = (itemgetter(Event._fields.index(name)) for name in ("time_ns", "skb"))


class _Log:
    """What was told of one record; it exists from the first mention, be it by a clone of it."""

    __slots__ = ("calls", "children", "clones", "end", "freed", "parts", "received", "returned", "skb")

    def __init__(self) -> None:
        self.skb: Optional[int] = None  # None: none of its own messages came
        self.parts: dict[int, tuple[Event, ...]] = {}  # by slots_before
        self.received = 0  # slots
        self.end = 0  # slots sent up to the latest part
        self.children = 0  # clones it said it has
        self.clones = 0  # clones that told of themselves
        self.freed = False
        self.calls = 0  # of functions whose return it said would be told
        self.returned: dict[int, Return] = {}  # by the number of the step

    @property
    def has_gap(self) -> bool:
        return (
            self.skb is None
            or self.received != self.end
            or self.clones != self.children
            or len(self.returned) != self.calls
        )

    def events(self) -> list[Event]:
        """In the order of its messages, each with what its function returned."""
        events: list[Event] = []
        for start in sorted(self.parts):
            events += self.parts[start]
        if self.returned:
            events = [event._replace(returned=self.returned.get(event.number)) for event in events]
        return events

    @property
    def has_ended(self) -> bool:
        return self.freed and self.clones >= self.children

    @property
    def is_settled(self) -> bool:
        return self.freed and not self.has_gap


class _Open:
    """A context that waits for more."""

    __slots__ = ("logs", "messages", "touched_ns", "unsettled")

    def __init__(self, packet_id: int) -> None:
        self.logs = {packet_id: _Log()}  # by record_id
        self.unsettled = {packet_id}
        self.messages = 0
        self.touched_ns = 0

    def add(self, record: Record, join_clones: bool) -> bool:
        """Take one message; False if it was there already."""
        _, record_id, parent_id, skb, children, freed, _, before, slots, events, calls, returned = record
        log = self._log(record_id)
        if returned:
            if all(number in log.returned for number, _ in returned):
                return False
            log.returned.update(returned)
            self.messages += 1
            self._settle(record_id, log)
            return True
        if slots:
            if before in log.parts:
                return False
            log.parts[before] = events
            log.received += slots
        is_new = log.skb is None
        log.skb = skb
        log.freed = log.freed or freed
        if before + slots > log.end:
            log.end = before + slots
        if calls > log.calls:
            log.calls = calls
        self.messages += 1
        if join_clones:
            if children > log.children:
                log.children = children
            if is_new and parent_id:
                parent = self._log(parent_id)
                parent.clones += 1
                self._settle(parent_id, parent)
        self._settle(record_id, log)
        return True

    def _log(self, record_id: int) -> _Log:
        log = self.logs.get(record_id)
        if log is None:
            log = self.logs[record_id] = _Log()
        return log

    def _settle(self, record_id: int, log: _Log) -> None:
        if log.is_settled:
            self.unsettled.discard(record_id)
        else:
            self.unsettled.add(record_id)


def is_alone(record: Record, join_clones: bool = True) -> bool:
    """Whether a message tells all of a packet, as of most: there is no other of it, and it has no clones."""
    if not record.freed or record.slots_before or record.calls:
        return False
    return not (join_clones and (record.children or record.record_id != record.packet_id))


class Lifecycle:
    """Joins the records of each packet into one context.

    At most `max_contexts` are open at a time, of at most `max_messages` messages each, and as
    many closed ones are remembered to know a late record by. Without `join_clones` each skb
    is a packet by itself, and its record_id is the packet_id of its context.
    """

    def __init__(
        self,
        max_contexts: int = MAX_CONTEXTS,
        idle_ns: int = IDLE_NS,
        join_clones: bool = True,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        self.finished = 0  # contexts handed out, seen to the end
        self.unfinished = 0  # contexts handed out, not seen to the end
        self.missing = 0  # contexts handed out, finished or not, that lack a part
        self.evicted = 0  # contexts handed out early for want of room
        self.late = 0  # messages that came after their context was handed out
        self.duplicates = 0  # messages ignored, because the open context had them
        self.events = 0  # handed out
        self._max_contexts = max_contexts
        self._max_messages = max_messages
        self._idle_ns = idle_ns
        self._join_clones = join_clones
        # OrderedDict, because taking the first key of a dict again and again scans the holes before it.
        self._open: OrderedDict[int, _Open] = OrderedDict()  # the longest idle first
        self._closed: OrderedDict[int, None] = OrderedDict()  # the oldest first
        self._latest_ns = 0

    @property
    def open_contexts(self) -> int:
        """How many contexts wait for more."""
        return len(self._open)

    @property
    def latest_ns(self) -> int:
        """The time of the latest event of what was told in pieces."""
        return self._latest_ns

    def push(self, record: Record) -> list[Context]:
        """Take one message; the contexts that it completed or that had to make room."""
        join = self._join_clones
        packet_id = record.packet_id if join else record.record_id
        context = self._open.get(packet_id)
        if context is None:
            if is_alone(record, join):
                return [self._alone(packet_id, record, False, False)]
            if packet_id in self._closed:
                self.late += 1
                if record.returned:
                    return []
                return [self._alone(packet_id, record, not record.freed, True)]

        done: list[Context] = []
        if context is None:
            if len(self._open) >= self._max_contexts:
                self.evicted += 1
                done += self._close(next(iter(self._open)), cut_short=True)
            context = self._open[packet_id] = _Open(packet_id)
        else:
            self._open.move_to_end(packet_id)
        # The latest of all records, so that the order of the table is the order of these times.
        latest_ns = record.events[-1].time_ns if record.events else 0
        for _, back in record.returned:
            latest_ns = max(latest_ns, back.time_ns)
        if latest_ns > self._latest_ns:
            self._latest_ns = latest_ns
        context.touched_ns = self._latest_ns

        if not context.add(record, join):
            self.duplicates += 1
        elif not context.unsettled:
            done += self._close(packet_id)
        elif context.messages >= self._max_messages:
            # A packet that loops and multiplies must not fill the memory.
            self.evicted += 1
            done += self._close(packet_id, cut_short=True)
        return done

    def expire(self, now_ns: int) -> list[Context]:
        """The contexts that nothing came for in the last `idle_ns`, by the time of the events."""
        done: list[Context] = []
        while self._open:
            packet_id, context = next(iter(self._open.items()))
            if now_ns - context.touched_ns < self._idle_ns:
                break
            done += self._close(packet_id)
        return done

    def close(self) -> list[Context]:
        """All contexts that are still open, as unfinished."""
        return [done for packet_id in list(self._open) for done in self._close(packet_id, cut_short=True)]

    def _close(self, packet_id: int, cut_short: bool = False) -> list[Context]:
        """The context, unless nothing but returns was told of it: what was lost whole is counted elsewhere."""
        by_id = self._open.pop(packet_id).logs
        if len(self._closed) >= self._max_contexts:
            self._closed.popitem(last=False)
        self._closed[packet_id] = None

        # The order of arrival must not show where times are equal.
        logs = [by_id.pop(packet_id)] + [log for _, log in sorted(by_id.items(), key=itemgetter(0))]
        events: list[Event] = []
        for log in logs:
            events += log.events()
        events.sort(key=_time)
        skbs = dict.fromkeys([*map(_skb, events), *(log.skb for log in logs if log.skb is not None)])
        if not skbs:
            return []
        done = self._hand_out(
            packet_id,
            tuple(skbs),
            tuple(events),
            unfinished=cut_short or not all(log.has_ended for log in logs),
            missing=any(log.has_gap for log in logs),
        )
        return [done]

    def _alone(self, packet_id: int, record: Record, unfinished: bool, missing: bool) -> Context:
        events = record.events
        if len(events) > 1:
            events = tuple(sorted(events, key=_time))
        return self._hand_out(packet_id, (record.skb,), events, unfinished, missing)

    def _hand_out(
        self, packet_id: int, skbs: tuple[int, ...], events: tuple[Event, ...], unfinished: bool, missing: bool
    ) -> Context:
        if unfinished:
            self.unfinished += 1
        else:
            self.finished += 1
        if missing:
            self.missing += 1
        self.events += len(events)
        return Context(packet_id, skbs, events, unfinished, missing)
