"""Which rule of nftables decided about a packet, from the steps that told of verdicts."""

from collections.abc import Iterable
from typing import NamedTuple, Optional

from .event import Event

# include/uapi/linux/netfilter.h and nf_tables.h; what is above 8 bits belongs to NF_QUEUE and NF_DROP.
_FINAL = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat", 5: "stop"}
_JUMP, _GOTO, _RETURN = -3, -4, -5
_FINAL_MASK = 0xFF
_OTHERS = {-1: "continue", -2: "break", _JUMP: "jump", _GOTO: "goto", _RETURN: "return"}
# NFPROTO_*, as nft calls them.
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


class Place(NamedTuple):
    """A rule: the chain it is in, and its handle."""

    chain: str
    handle: int  # 0: no rule but the chain's policy, or a rule that could not be found


class Decision(NamedTuple):
    """What became of a packet in a base chain of nftables."""

    time_ns: int
    skb: int
    netns: int  # inode; 0: unknown
    family: str
    table: str  # its name as far as the kernel told it, as with all names here: 31 bytes
    base: str
    jumps: tuple[Place, ...]  # the rules that led to the one that decided, the first first
    rule: Optional[Place]  # None: no rule gave a verdict, the policy of the base chain decides
    verdict: str  # drop, accept, queue, ...; empty for the policy, which the ruleset tells

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The rules in the order that the packet met them, the deciding one last; ruleset.rules() takes them so."""
        return (*self.jumps, self.rule or Place(self.base, 0))


def verdict_text(verdict: int) -> str:
    """A verdict of a rule, as nft calls it."""
    code = _signed(verdict)
    return _OTHERS.get(code) or _FINAL.get(code & _FINAL_MASK, str(code))


def decisions(events: Iterable[Event]) -> list[Decision]:
    """The decisions that the steps of a packet tell of, in the order of the base chains."""
    under_way: dict[int, _Walk] = {}
    walks: list[_Walk] = []
    for event in events:
        if event.fact("table") is not None and event.fact("family") is not None:
            under_way[event.skb] = _Walk(event)
            walks.append(under_way[event.skb])
        elif event.fact("verdict") is not None and event.skb in under_way:
            under_way[event.skb].take(event)
    return [walk.decision() for walk in walks]


class _Walk:
    """A packet's way through the chains that a base chain leads to."""

    def __init__(self, entered: Event) -> None:
        self._entered = entered
        self._base = str(entered.fact("chain"))
        self._jumps: list[tuple[Place, str]] = []  # and the chains they lead to
        self._rule: Optional[Place] = None
        self._verdict = ""

    def take(self, event: Event) -> None:
        """A rule gave a verdict."""
        code = _signed(event.fact("verdict"))
        handle = event.fact("handle")
        place = Place(str(event.fact("chain")), handle if isinstance(handle, int) else 0)
        # Where it is says which chains have come to their end meanwhile.
        while self._jumps and place.chain not in ("", self._jumps[-1][1]):
            self._jumps.pop()
        if code in (_JUMP, _GOTO):
            self._jumps.append((place, str(event.fact("target"))))
        elif code != _RETURN:
            self._rule, self._verdict = place, verdict_text(code)

    def decision(self) -> Decision:
        """What came of it."""
        family = self._entered.fact("family")
        return Decision(
            time_ns=self._entered.time_ns,
            skb=self._entered.skb,
            netns=self._entered.device.netns if self._entered.device else 0,
            family=_FAMILIES.get(_signed(family), str(family)),
            table=str(self._entered.fact("table")),
            base=self._base,
            jumps=tuple(place for place, _ in self._jumps) if self._rule else (),
            rule=self._rule,
            verdict=self._verdict,
        )


def _signed(value: object) -> int:
    """A fact as a number; those of 32 bits with the highest set are negative."""
    number = value if isinstance(value, int) else 0
    return number - (1 << 32) if number >> 31 == 1 else number
