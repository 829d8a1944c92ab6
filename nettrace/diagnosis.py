"""From what happened to a packet to what it means: findings, the likely root cause first, with evidence."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from .analyzers import Told, headers_read
from .event import Context, Device, Event
from .rules import Rule

if TYPE_CHECKING:
    from .evidence import Evidence
    from .reasons import Reason

INFO, WARN, ERROR = "info", "warn", "error"
_REMARKS_MAX = 4096  # that are remembered

# Reasons that only repeat what a finding before them says, or say nothing.
_NO_CAUSES = ("NOT_SPECIFIED", "NETFILTER_DROP")
# What to look for on the host, by why the packet was dropped; names that evidence is asked by.
_EVIDENCE = {
    "NO_SOCKET": ("listeners",), "TCP_CSUM": ("checksum",), "UDP_CSUM": ("checksum",), "IP_CSUM": ("checksum",),
    "ICMP_CSUM": ("checksum",), "SOCKET_RCVBUFF": ("sockets",), "PROTO_MEM": ("sockets",),
    "SOCKET_BACKLOG": ("sockets",), "NETFILTER_DROP": ("firewall",), "IP_RPFILTER": ("rp_filter",),
    "IP_INADDRERRORS": ("forwarding", "route"), "IP_INNOROUTES": ("route",), "IP_OUTNOROUTES": ("route",),
    "NEIGH_FAILED": ("neighbour",), "NEIGH_QUEUEFULL": ("neighbour",), "NEIGH_DEAD": ("neighbour",),
    "NEIGH_CREATEFAIL": ("neighbour",), "PKT_TOO_BIG": ("mtu",), "XDP": ("xdp",), "TC_INGRESS": ("tc",),
    "TC_EGRESS": ("tc",), "QDISC_DROP": ("qdisc",), "CPU_BACKLOG": ("backlog",), "FULL_RING": ("device",),
    "DEV_READY": ("device",), "TCP_LISTEN_OVERFLOW": ("accept_queue",), "NO_TX_TARGET": ("device",),
    "UNHANDLED_PROTO": ("handlers",),
}  # fmt: skip
_QDISC_PREFIX = "QDISC_"
# Likewise by the function that dropped it, where the kernel does not say why.
_EVIDENCE_AT = {
    "__netif_receive_skb_core": ("handlers", "tc"), "veth_xdp_rcv_skb": ("xdp",), "do_xdp_generic": ("xdp",),
    "enqueue_to_backlog": ("backlog",), "__dev_queue_xmit": ("qdisc", "device"), "dev_hard_start_xmit": ("device",),
    "ip_forward": ("route", "mtu"), "ip6_forward": ("route", "mtu"), "neigh_invalidate": ("neighbour",),
    "__neigh_event_send": ("neighbour",), "tcp_v4_rcv": ("listeners",), "tcp_v6_rcv": ("listeners",),
    "__udp4_lib_rcv": ("listeners",), "__udp6_lib_rcv": ("listeners",), "tcp_add_backlog": ("sockets",),
    "udp_queue_rcv_one_skb": ("sockets",), "udpv6_queue_rcv_one_skb": ("sockets",),
}  # fmt: skip


class Finding(NamedTuple):
    """Something that happened to a packet: what, where, why, and what to do."""

    event: Event
    level: str  # info, warn or error
    name: str  # of the rule, or of the reason: what --explain knows it by
    message: str
    effect: bool = False  # it follows from something else that went wrong
    told: tuple[Told, ...] = ()  # what the kernel said at this place
    advice: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()  # evidence to look for
    evidence: "tuple[Evidence, ...]" = ()
    root: bool = False  # most likely the cause of the other findings
    doubt: str = ""  # why this is an inference, where it is one


class Diagnosis:
    """Makes findings of packets.

    rule: which rule an event meets. told: what its facts say. drop: what an event means that is a drop,
    None where it happens to healthy packets. evidence: reads what is wanted for a finding of this packet
    on the host. deciding: which of the functions at a netfilter hook decided.
    """

    def __init__(
        self,
        rule: Callable[[Event], Optional[Rule]],
        told: Callable[[Event], tuple[Told, ...]],
        drop: Callable[[Event], "Optional[Finding]"],
        evidence: "Callable[[Finding, Context], Sequence[Evidence]]",
        deciding: Callable[[Context, Event], Optional[Told]] = lambda context, item: None,
    ) -> None:
        self.told = told
        self.drop = drop
        self._rule = rule
        self._evidence = evidence
        self._deciding = deciding
        self._remarks: dict[tuple[object, ...], Sequence[tuple[str, str]]] = {}

    def remarks(self, item: Event) -> Sequence[tuple[str, str]]:
        """What is to be said of an event at once, without having seen the rest: level and text."""
        # It depends on nothing else, and most packets tell what others told before them.
        key = (
            item.trace, item.facts, item.returned and item.returned.value, item.drop and item.drop.reason,
            headers_read(item.packet),
        )  # fmt: skip
        remarks = self._remarks.get(key)
        if remarks is None:
            remarks = tuple(self._remarks_on(item))
            if len(self._remarks) >= _REMARKS_MAX:
                self._remarks.clear()
            self._remarks[key] = remarks
        return remarks

    def _remarks_on(self, item: Event) -> Iterable[tuple[str, str]]:
        for told in self.told(item):
            if told.in_lines:
                yield INFO, told.text
        rule = self._rule(item)
        if rule is not None:
            yield rule.level, rule.message

    def findings(self, context: Context) -> tuple[Finding, ...]:
        """All that is to be said of a packet, what is most likely the cause of an error first.

        The others follow in the order in which they happened.
        """
        found = [finding for item in context.events for finding in self._of(item, context)]
        root = self._root(found)
        if root is not None:
            found = [found[root]._replace(root=True), *found[:root], *found[root + 1 :]]
        return tuple(self._proven(found, context))

    def _of(self, item: Event, context: Context) -> Iterable[Finding]:
        rule = self._rule(item)
        if rule is not None:
            told = self.told(item)
            decided = self._deciding(context, item) if rule.level != INFO else None
            if decided is not None:
                told = (*told, decided)
            yield Finding(item, rule.level, rule.name, rule.message, rule.effect, told, rule.advice, rule.evidence)
        if item.drop is not None:
            drop = self.drop(item)
            if drop is not None:
                yield drop

    def _root(self, found: Sequence[Finding]) -> Optional[int]:
        """Where among the findings the cause is, if something went wrong at all."""
        if all(finding.level != ERROR for finding in found):
            return None
        ranks = {ERROR: 0, WARN: 1}
        candidates = [at for at, finding in enumerate(found) if finding.level in ranks]
        # What went wrong first is the cause, but for what only says that something further in did.
        return min(candidates, key=lambda at: (found[at].effect, ranks[found[at].level], at))

    def _proven(self, found: Sequence[Finding], context: Context) -> Iterable[Finding]:
        """The findings with their evidence, each kind of it where it is wanted first at a device."""
        read: set[tuple[str, Optional[Device]]] = set()
        root = next((finding for finding in found if finding.root), None)
        for finding in found:
            follows = finding.effect or finding.event.drop is not None
            # What follows from a cause needs no words of its own for it, and what only repeats it no proof either.
            if root is not None and not finding.root and follows and finding.event.skb == root.event.skb:
                finding = finding._replace(advice=(), doubt="")
            device = finding.event.device
            wanted = tuple(name for name in finding.wanted if (name, device) not in read)
            if wanted and finding.level != INFO and not (root is not None and finding.effect and not finding.root):
                read.update((name, device) for name in wanted)
                finding = finding._replace(evidence=tuple(self._evidence(finding._replace(wanted=wanted), context)))
            yield finding


class Analysis:
    """The findings of packets as they are asked for: only of those that something is wrong with, or up to an error.

    quiet: packets that nothing is wrong with are left out. keep: an error does not end the run.
    """

    def __init__(self, findings: Callable[[Context], Sequence[Finding]], *, quiet: bool, keep: bool) -> None:
        self._findings = findings
        self._quiet = quiet
        self._keep = keep
        self.done = False  # an error was found, and that was what the user waited for

    def of(self, context: Context) -> Optional[Sequence[Finding]]:
        """What is to be said of a packet; None: it is left out."""
        findings = self._findings(context)
        if self._quiet and all(finding.level == INFO for finding in findings):
            return None
        self.done |= not self._keep and any(finding.level == ERROR for finding in findings)
        return findings


def of_drop(item: Event, name: Optional[str], reason: "Optional[Reason]", where: str) -> Finding:
    """The finding for a dropped packet.

    name: of the reason, None where the kernel gives none. reason: what is known of it. where: the
    place in the kernel.
    """
    place = Told("location", where)
    at = _EVIDENCE_AT.get(re.split(r"[+.]", where)[0], ())
    if name is None:
        return Finding(
            item, WARN, "drop", "the kernel dropped the packet and does not say why", effect=True, told=(place,),
            advice=("the functions before this one, and what they returned, tell the cause",), wanted=at,
            doubt="this kernel gives no reasons for drops",
        )  # fmt: skip
    told = (place, Told("drop reason", name))
    effect = name in _NO_CAUSES
    wanted = _EVIDENCE.get(name, ("qdisc",) if name.startswith(_QDISC_PREFIX) else at if effect else ())
    if reason is None:
        return Finding(item, ERROR, name, "the kernel dropped the packet", effect, told, wanted=wanted)
    advice = tuple(_sentence(text) for text in reason.fix)
    return Finding(item, reason.level, name, _sentence(reason.meaning), effect, told, advice, wanted)


def _sentence(text: str) -> str:
    """Without the full stop, as messages of rules are."""
    return text[:-1] if text.endswith(".") else text
