"""A run that shows how many packets are dropped, by reason and place, as the kernel counts them."""

import time
from collections.abc import Sequence
from typing import Optional, Union

from . import event
from .bpf import Session
from .player import Player
from .recorder import Recorder
from .run import POLL_MS, SECOND_NS, Every, totals
from .sinks import Summary, Text
from .tables import DropCounts

_SECOND = 1e9


class DropStat:
    """Reads the counts of a session's programs every second, shows and records them.

    count: how many drops to wait for; None: until the user ends it.
    """

    def __init__(self, session: Session, sink: Text, *, count: Optional[int], recorder: Optional[Recorder]) -> None:
        self.done = False
        self._session = session
        self._recorder = recorder
        player = Player(sink, follow=False)
        self._takers: Sequence[Union[Player, Recorder]] = [player] if recorder is None else [recorder, player]
        self._count = count
        self._started_ns = self._shown_ns = time.monotonic_ns()
        self._seconds = Every(SECOND_NS)

    def step(self) -> None:
        """Waits a moment, and shows the table if a second has passed."""
        self._session.poll(POLL_MS)
        now_ns = time.monotonic_ns()
        if not self._seconds.due(now_ns):
            return
        self._tell(since_ns=self._shown_ns, now_ns=now_ns, last=False)
        self._shown_ns = now_ns
        self.done = self._count is not None and totals(self._session.counters())["matched"] >= self._count
        self.done |= self._recorder is not None and self._recorder.error is not None

    def finish(self) -> None:
        """Shows the last table."""
        self._session.stop_matching()
        self._tell(since_ns=self._started_ns, now_ns=time.monotonic_ns(), last=True)

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

    def _tell(self, *, since_ns: int, now_ns: int, last: bool) -> None:
        drops = {
            (None if reason == event.NO_REASON else reason, location): count
            for (reason, location), count in self._session.drops().items()
        }
        for taker in self._takers:
            taker.table(DropCounts(drops, (now_ns - since_ns) / _SECOND, last))
            taker.flush()
