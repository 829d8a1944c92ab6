"""The order of time for records that come through a perf buffer.

Each CPU has a buffer of its own, in time order by itself, but one is drained after the other.
"""

import heapq

from nettrace.event import Record

MAX_RECORDS = 65536


class TimeOrder:
    """Holds records back until all older ones must have come, and hands them out in time order.

    The time of a record is that of its first event. At most `max_records` are held.
    """

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self.overflowed = 0  # records handed out early for want of room
        self._max_records = max_records
        self._heap: list[tuple[int, int, Record]] = []
        self._pushed = 0  # keeps records of the same time in the order they came
        self._last_ns = 0

    @property
    def held(self) -> int:
        """How many records are held back."""
        return len(self._heap)

    def push(self, record: Record) -> list[Record]:
        """Take one record; the oldest one, if there is no room for both."""
        if record.events:
            self._last_ns = record.events[0].time_ns
        # A record without events takes the time of the one before it: most likely of the same buffer.
        item = (self._last_ns, self._pushed, record)
        self._pushed += 1
        if len(self._heap) < self._max_records:
            heapq.heappush(self._heap, item)
            return []
        self.overflowed += 1
        return [heapq.heappushpop(self._heap, item)[2]]

    def ready(self, before_ns: int) -> list[Record]:
        """The records older than `before_ns`, in time order."""
        records = []
        while self._heap and self._heap[0][0] < before_ns:
            records.append(heapq.heappop(self._heap)[2])
        return records

    def flush(self) -> list[Record]:
        """All records, in time order."""
        items = sorted(self._heap)
        self._heap.clear()
        return [record for _, _, record in items]
