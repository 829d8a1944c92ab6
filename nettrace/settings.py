"""What the programs of a run depend on beside its plan."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

from .event import SLOT_BYTES

if TYPE_CHECKING:
    from .drops import Drops


@dataclass(frozen=True)
class Settings:
    """What else the C depends on."""

    follow: bool = True  # packets are followed; else each hit stands for itself
    ringbuf: bool = True
    detail: bool = False
    count_hits: bool = False  # only how often each probe was hit is told
    drops: Optional["Drops"] = None  # --drop: what is asked of drops
    sockets: bool = False  # hits are about sockets, not about packets
    trouble: Optional[str] = None  # --monitor: the rules in C, see nettrace/trouble.py
    count_rtt: bool = False  # only how long the round trips were is told
    peers_max: int = 0  # for so many peers apart
    latency: bool = False  # only how long each packet took is told
    latency_summary: bool = False  # or only counted
    paths: bool = False  # or what paths they took, counted
    tracked_max: int = 16384  # skbs followed at a time
    log_slots: int = 128  # of a followed skb before they are sent; a power of two
    hops: int = 64  # of a followed skb before they are counted; a power of two
    edges_max: int = 4096  # pairs of traces
    path_nodes_max: int = 4096  # steps of the tree of paths; 608 bytes each, for each CPU
    ringbuf_pages: int = 4096
    sample_hits: bool = False  # which traces are hit most is counted
    snaplen: int = 0  # bytes of packets that are told where that was asked for

    def with_packets(self, snaplen: int) -> "Settings":
        """So many bytes of packets are told, too; as they are kept for a while, fewer skbs are followed at a time."""
        log_slots = self.log_slots
        while log_slots < self.log_slots + snaplen // SLOT_BYTES:
            log_slots *= 2
        tracked_max = self.tracked_max * self.log_slots // log_slots
        return replace(self, snaplen=snaplen, log_slots=log_slots, tracked_max=tracked_max)

    @property
    def only_drops(self) -> bool:
        """Nothing but drops is looked at."""
        return self.drops is not None and self.trouble is None

    @property
    def only_counts(self) -> bool:
        """Nothing is told but numbers, when they are asked for."""
        counts_drops = self.only_drops and self.drops is not None and self.drops.count
        return self.count_hits or counts_drops or (self.count_rtt and self.trouble is None)
