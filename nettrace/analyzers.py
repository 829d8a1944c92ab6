"""What the facts of traces say in words: hooks, tables, routes, neighbours, queues, sockets, round trips."""

import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Optional, Union

from . import verdicts
from .counts import counted
from .event import Context, Event, Packet
from .plan import HOOK_FUNCTIONS

Names = Callable[[str], Mapping[int, str]]  # of an enum's values

# include/uapi/linux/netfilter.h
_FAMILIES = {0: "unspec", 1: "inet", 2: "ipv4", 3: "arp", 5: "netdev", 7: "bridge", 10: "ipv6"}
_INET_HOOKS = ("PRE_ROUTING", "INPUT", "FORWARD", "OUTPUT", "POST_ROUTING", "INGRESS")
_HOOKS = {
    "arp": ("ARP_IN", "ARP_OUT", "ARP_FORWARD"),
    "netdev": ("INGRESS", "EGRESS"),
    "bridge": ("PRE_ROUTING", "INPUT", "FORWARD", "OUTPUT", "POST_ROUTING", "BROUTING"),
}
# include/uapi/linux/rtnetlink.h
_ROUTES = (
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit",
    "throw", "nat", "xresolve",
)  # fmt: skip
# include/uapi/linux/neighbour.h
_NEIGHBOUR_STATES = {
    1: "INCOMPLETE", 2: "REACHABLE", 4: "STALE", 8: "DELAY", 16: "PROBE", 32: "FAILED", 64: "NOARP", 128: "PERMANENT",
}  # fmt: skip
# include/uapi/linux/netfilter/nf_conntrack_common.h; the low bits of skb->_nfct
_CONNECTIONS = {0: "established", 1: "related", 2: "new", 3: "established, reply", 4: "related, reply", 7: "untracked"}
_TCP_STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE",
)  # fmt: skip
_DONT_FRAGMENT = 0x0040  # in network byte order, as the register has it
_ETH_P_IPV6 = 0x86DD
_SRTT_SHIFT = 3  # the kernel keeps eight times the smoothed round trip


class Told(NamedTuple):
    """One thing that an event tells: a label for reports, and the text for both reports and lines."""

    label: str
    text: str
    in_lines: bool = True  # whether a packet's lines show it too


def tell(
    item: Event, reset_reason: Callable[[int], str] = str, symbol: Callable[[int], str] = hex, tick_ns: int = 0
) -> tuple[Told, ...]:
    """What the facts of an event say; nothing for those that only rules look at.

    tick_ns: how long a jiffy is.
    """
    facts = dict(item.facts)
    if not facts:
        return ()
    told = [
        _hook(facts), _functions(item, symbol), _table(facts), _rule(facts), _qdisc(facts), _route(item, facts),
        _size(item, facts), _neighbour(facts), _state(facts), _reset(facts, reset_reason), _memory(facts),
        _accept_queue(facts), _connection(facts), _retransmission(facts, tick_ns), _round_trip(facts),
    ]  # fmt: skip
    return tuple(each for each in told if each is not None)


def headers_read(packet: Packet) -> tuple[int, int, int]:
    """All that what facts say depends on in a packet's headers."""
    return packet.l3_protocol, packet.l3_length, packet.gso_size


_Facts = Mapping[str, Union[int, str]]


def _number(facts: _Facts, name: str) -> Optional[int]:
    value = facts.get(name)
    return value if isinstance(value, int) else None


def hook_text(family: int, hook: int) -> str:
    """A netfilter hook: "ipv4 in chain: INPUT"."""
    name = _FAMILIES.get(family, str(family))
    hooks = _HOOKS.get(name, _INET_HOOKS)
    return f"{name} in chain: {hooks[hook] if hook < len(hooks) else hook}"


def _hook(facts: _Facts) -> Optional[Told]:
    family, hook = _number(facts, "family"), _number(facts, "hook")
    return None if family is None or hook is None else Told("hook", hook_text(family, hook))


def hook_functions(item: Event) -> list[int]:
    """The addresses of the functions at a netfilter hook, in the order in which they are called."""
    count = item.fact("functions")
    found = [item.fact(name) for name in HOOK_FUNCTIONS[: count if isinstance(count, int) else 0]]
    return [address for address in found if isinstance(address, int)]


def _functions(item: Event, symbol: Callable[[int], str]) -> Optional[Told]:
    names = [symbol(address) for address in hook_functions(item)]
    count = item.fact("functions")
    if not names or not isinstance(count, int):
        return None
    more = f", and {count - len(names)} more" if count > len(names) else ""
    return Told("functions at this hook", ", ".join(names) + more, in_lines=False)


# Functions registered at hooks begin with one of these names, where this trace is what they do.
_DECIDING = {
    "nft_do_chain": ("nft_do_chain", "nft_nat_do_chain"), "ipt_do_table": ("ipt_do_table", "iptable_"),
    "ip6t_do_table": ("ip6t_do_table", "ip6table_"), "arpt_do_table": ("arpt_do_table", "arptable_"),
    "nf_conntrack_in": ("ipv4_conntrack_", "ipv6_conntrack_"),
}  # fmt: skip


def deciding(context: Context, hook: Event, symbol: Callable[[int], str]) -> Optional[Told]:
    """Which of the functions at a hook decided: the last one that is known to have been called for this packet."""
    names = [symbol(address) for address in hook_functions(hook)]
    called: list[str] = []
    at = context.events.index(hook)
    for item in context.events[at + 1 :]:
        if item.skb == hook.skb and item.trace == hook.trace:
            break
        if item.skb == hook.skb and item.trace in _DECIDING:
            called.append(item.trace)
    if not names or not called:
        return None
    like = [name for name in names if name.startswith(_DECIDING[called[-1]])]
    place = called.count(called[-1]) - 1
    return Told("decided by", like[place], in_lines=False) if place < len(like) else None


def _table(facts: _Facts) -> Optional[Told]:
    if "table" not in facts:
        return None
    if "chain" in facts:
        return Told("table", f"nftables table:{facts['table']}, chain:{facts['chain']}")
    hook = _number(facts, "hook")
    where = "" if hook is None or hook >= len(_INET_HOOKS) else f", chain:{_INET_HOOKS[hook]}"
    return Told("table", f"iptables table:{facts['table']}{where}")


def _rule(facts: _Facts) -> Optional[Told]:
    verdict, handle = _number(facts, "verdict"), _number(facts, "handle")
    if verdict is None or handle is None:
        return None
    text = verdicts.verdict_text(verdict)
    target = f" {facts['target']}" if text in ("jump", "goto") and "target" in facts else ""
    return Told("rule", f"chain:{facts.get('chain', '')}, handle:{handle}, verdict:{text}{target}")


def _qdisc(facts: _Facts) -> Optional[Told]:
    handle, packets = _number(facts, "handle"), _number(facts, "packets")
    if "kind" not in facts or packets is None:
        return None
    number = f" {handle >> 16:x}:" if handle else ""
    limit = _number(facts, "limit")
    most = f" of {limit}" if limit else ""
    return Told("queue", f"qdisc {facts['kind']}{number} holds {counted(packets, 'packets')}{most}")


def gateway(item: Event) -> Union[IPv4Address, IPv6Address, None]:
    """The router that an event's route leads to, which for IPv4 may be one of IPv6; None: there is none."""
    address, family = item.fact("gateway"), item.fact("gateway_family")
    if not isinstance(address, int) or not address or family == 0:
        return None
    if family is None:  # an IPv6 route has none, nor a kernel before Linux commit 1550c171935d (5.2)
        family = socket.AF_INET6 if item.packet.l3_protocol == _ETH_P_IPV6 else socket.AF_INET
    if family == socket.AF_INET6:
        return IPv6Address(address.to_bytes(16, "little"))
    return IPv4Address((address & 0xFFFFFFFF).to_bytes(4, "little"))


def _route(item: Event, facts: _Facts) -> Optional[Told]:
    kind, device = _number(facts, "route"), facts.get("device")
    if not kind or not device:
        return None
    name = _ROUTES[kind] if kind < len(_ROUTES) else str(kind)
    router = gateway(item)
    via = f" via {router}" if router else ""
    return Told("route", f"route: {name}{via} dev {device}")


def _neighbour(facts: _Facts) -> Optional[Told]:
    state = _number(facts, "neighbour")
    if state is None:
        return None
    return Told("neighbour", f"neighbour: {_NEIGHBOUR_STATES.get(state, state or 'NONE')}")


def _state(facts: _Facts) -> Optional[Told]:
    state = _number(facts, "state")
    if not state:
        return None
    name = _TCP_STATES[state] if state < len(_TCP_STATES) else str(state)
    return Told("socket state", f"state: TCP_{name}")


def _reset(facts: _Facts, reset_reason: Callable[[int], str]) -> Optional[Told]:
    reason = _number(facts, "reset_reason")
    return None if reason is None else Told("reset reason", f"reason: {reset_reason(reason)}")


def _memory(facts: _Facts) -> Optional[Told]:
    """Only where it is nearly full."""
    memory, limit = _number(facts, "memory"), _number(facts, "limit")
    if memory is None or not limit or memory < limit:
        return None
    return Told("receive buffer", f"receive buffer: {memory} of {limit} bytes")


def _accept_queue(facts: _Facts) -> Optional[Told]:
    queued, most = _number(facts, "queued"), _number(facts, "backlog")
    if queued is None or most is None or queued <= most:
        return None
    return Told("accept queue", f"accept queue is full: {queued} of {most}")


def _connection(facts: _Facts) -> Optional[Told]:
    reference = _number(facts, "connection")
    if not reference:
        return None
    return Told("connection", f"connection: {_CONNECTIONS.get(reference & 7, reference & 7)}")


def _retransmission(facts: _Facts, tick_ns: int) -> Optional[Told]:
    """Which segment, and how long its like are waited for."""
    sequence, end = _number(facts, "sequence"), _number(facts, "end")
    if sequence is None or end is None:
        return None
    words = [f"seq {sequence}:{end}"]
    timeouts, rto, resent = (_number(facts, name) for name in ("timeouts", "rto", "resent"))
    if timeouts:
        words.append(f"timeouts in a row: {timeouts}")
    if rto:
        words.append(f"RTO {rto * tick_ns // 1_000_000} ms")
    if resent is not None:
        words.append(f"sent again on this connection before: {resent}")
    return Told("retransmission", f"retransmission: {', '.join(words)}")


def _round_trip(facts: _Facts) -> Optional[Told]:
    """What was known of it before this acknowledgement, which may be the first."""
    smoothed, least = _number(facts, "rtt"), _number(facts, "rtt_min")
    if not smoothed or least is None:
        return None
    return Told("round trip", f"srtt:{(smoothed >> _SRTT_SHIFT) / 1000:.3f}ms, rtt_min:{least / 1000:.3f}ms")


def _size(item: Event, facts: _Facts) -> Optional[Told]:
    """Only where a packet that is to be forwarded does not fit its device."""
    mtu, fragment, packet = _number(facts, "mtu"), _number(facts, "fragment"), item.packet
    if (
        not mtu
        or packet.gso_size
        or packet.l3_length <= mtu
        or (fragment is not None and not fragment & _DONT_FRAGMENT)
    ):
        return None
    flag = "" if fragment is None else ", and DF is set"
    return Told("size", f"size: {packet.l3_length} bytes, the device takes {mtu}{flag}")
