"""A run that shows how many packets are dropped, by reason and place, as the kernel counts them."""

import shutil
import time
from typing import Optional

from . import event
from .bpf import Session
from .run import POLL_MS, SECOND_NS, Every, totals
from .sinks import DropTable, Summary

_SECOND = 1e9


class DropStat:
    """Reads the counts of a session's programs every second and shows them.

    count: how many drops to wait for; None: until the user ends it.
    """

    def __init__(self, session: Session, table: DropTable, *, count: Optional[int]) -> None:
        self.done = False
        self._session = session
        self._table = table
        self._count = count
        self._started_ns = self._shown_ns = time.monotonic_ns()
        self._seconds = Every(SECOND_NS)

    def step(self) -> None:
        """Waits a moment, and shows the table if a second has passed."""
        self._session.poll(POLL_MS)
        now_ns = time.monotonic_ns()
        if not self._seconds.due(now_ns):
            return
        rows = shutil.get_terminal_size().lines - 1
        self._table.show(self._drops(), (now_ns - self._shown_ns) / _SECOND, rows)
        self._shown_ns = now_ns
        self.done = self._count is not None and totals(self._session.counters())["matched"] >= self._count

    def finish(self) -> None:
        """Shows the last table."""
        self._session.stop_matching()
        self._table.finish(self._drops(), (time.monotonic_ns() - self._started_ns) / _SECOND)

    def summary(self, *, skipped: int) -> Summary:
        """What was counted and what was not."""
        per_cpu = self._session.counters()
        total = totals(per_cpu)
        return Summary(
            unit="drops", shown=total["matched"], events=total["matched"], lost_messages=(), lost_packets=0,
            unread_messages=0, missed_hits=total["missed"], untracked=0, evicted=0, unfinished=0, incomplete=0,
            skipped=skipped, over_rate=total["over_rate"], normal_frees=total["normal_frees"],
            uncounted=total["uncounted"],
        )  # fmt: skip

    def _drops(self) -> dict[tuple[Optional[int], int], int]:
        return {
            (None if reason == event.NO_REASON else reason, location): count
            for (reason, location), count in self._session.drops().items()
        }
