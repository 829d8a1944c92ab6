"""Which evidence is read for a finding: its wishes, and the packet's own values, become questions to the host."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Optional, Union

from . import evidence
from . import evidence_devices as devices
from . import evidence_routes as routes
from . import evidence_sockets as sockets
from .diagnosis import Finding
from .event import HAS_L4, PORTS_L4, Context, Device, Event, Packet
from .evidence import Evidence
from .evidence_firewall import Firewalls

_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
_IPV4, _IPV6 = 0x0800, 0x86DD

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class _Case(NamedTuple):
    """A finding's packet, in the values that questions need."""

    finding: Finding
    context: Context
    packet: Packet
    device: Device
    saddr: Address
    daddr: Address
    protocol: str  # "tcp", "udp" or empty
    sport: int
    dport: int
    mark: int


class Prover:
    """Reads evidence on the host, in the namespace where the packet was.

    own_netns: the inode of this process's one. time_s: how long a finding may wait for it; 0: there is none.
    """

    def __init__(self, own_netns: int, time_s: float) -> None:
        self._own_netns = own_netns
        self._time_s = time_s
        self._firewalls = Firewalls(own_netns, time_s)

    def evidence(self, finding: Finding, context: Context) -> list[Evidence]:
        """What the host says of a finding, as far as the time goes."""
        if not self._time_s:
            return []
        device = _device(finding.event, context) or Device(0, "", self._own_netns)
        case = _case(finding, context, device)
        if case is None:
            return []
        evidence.prepare()  # a child must not inherit half of an import
        found: list[Evidence] = []
        if "firewall" in finding.wanted:
            found += self._firewalls.evidence(finding.event, context.events, device.netns)
        questions = [question for name in finding.wanted for question in _QUESTIONS.get(name, _nothing)(case)]
        if questions:
            found += evidence.read(device.netns or self._own_netns, *questions, timeout_s=self._time_s)
        return list(dict.fromkeys(found))  # as several questions may be answered by the same


def _steps(item: Event, context: Context) -> Iterator[Event]:
    """The way of the event's skb up to it."""
    for each in context.events:
        if each.skb == item.skb:
            yield each
        if each is item:
            return


def _device(item: Event, context: Context) -> Optional[Device]:
    """Where the packet was at the event; where it was last seen before, if the event does not tell."""
    return next((each.device for each in reversed(list(_steps(item, context))) if each.device is not None), None)


def _case(finding: Finding, context: Context, device: Device) -> Optional[_Case]:
    packet = finding.event.packet
    if packet.l3_protocol not in (_IPV4, _IPV6):
        return None
    # Of fragments only the first has ports.
    protocol = _PROTOCOLS.get(packet.l4_protocol, "") if packet.flags & HAS_L4 else ""
    sport, dport = PORTS_L4.unpack(packet.l4) if protocol else (0, 0)
    detail = finding.event.detail
    return _Case(
        finding, context, packet, device, ipaddress.ip_address(packet.saddr), ipaddress.ip_address(packet.daddr),
        protocol, sport, dport, 0 if detail is None else detail.mark,
    )  # fmt: skip


def _came_in_by(case: _Case) -> int:
    """The index of the device by which the packet came in here; 0: it is one of this host's own."""
    found = 0
    for item in _steps(case.finding.event, case.context):
        if item.device is not None and item.device.netns != case.device.netns:
            found = 0
        elif item.device is not None and item.trace in _INPUT:
            found = item.device.ifindex
    return found


_INPUT = ("ip_rcv", "ip_rcv_core", "ipv6_rcv", "ip6_rcv_core", "netif_receive_skb", "ip_rcv_finish", "ip_local_deliver")
_Questions = Callable[[_Case], Iterator[evidence.Fact]]


def _nothing(case: _Case) -> Iterator[evidence.Fact]:
    return iter(())


def _listeners(case: _Case) -> Iterator[evidence.Fact]:
    if case.protocol:
        yield partial(sockets.listeners, case.protocol, case.daddr, case.dport)


def _accept_queue(case: _Case) -> Iterator[evidence.Fact]:
    if case.protocol == "tcp":
        yield partial(sockets.accept_queue, case.daddr, case.dport)


def _sockets(case: _Case) -> Iterator[evidence.Fact]:
    if case.protocol:
        yield partial(sockets.flow_sockets, case.protocol, case.daddr, case.dport, case.saddr, case.sport)


def _rp_filter(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.name:
        yield partial(routes.rp_filter, case.device.name, case.saddr, case.daddr, mark=case.mark)


def _forwarding(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.name:
        family = socket.AF_INET if case.daddr.version == 4 else socket.AF_INET6
        yield partial(routes.forwarding, case.device.name, family)


def _route(case: _Case) -> Iterator[evidence.Fact]:
    yield partial(routes.route, case.daddr, case.saddr, iif=_came_in_by(case), mark=case.mark)


def _neighbour(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.ifindex:
        yield partial(routes.neighbour, case.device.ifindex, _next_hop(case))


def _next_hop(case: _Case) -> Address:
    """The router that the packet goes to next, as its route said; else its destination."""
    hop: Address = case.daddr
    for item in _steps(case.finding.event, case.context):
        gateway = item.fact("gateway")
        if isinstance(gateway, int):
            hop = ipaddress.IPv4Address(gateway.to_bytes(4, "little")) if gateway else case.daddr
    return hop


def _mtu(case: _Case) -> Iterator[evidence.Fact]:
    """Of the device that the packet is to leave by, if its route said which."""
    yield partial(_mtu_of, case.device.ifindex, _way_out(case), case.daddr, case.saddr)


def _way_out(case: _Case) -> str:
    names = [item.fact("device") for item in _steps(case.finding.event, case.context)]
    return next((name for name in reversed(names) if isinstance(name, str) and name), "")


def _mtu_of(ifindex: int, name: str, daddr: Address, saddr: Address) -> Iterator[Evidence]:
    with contextlib.suppress(OSError):  # gone meanwhile
        ifindex = socket.if_nametoindex(name) if name else ifindex
    return routes.mtu(ifindex, daddr, saddr)


def _link(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.ifindex:
        yield partial(routes.device, case.device.ifindex)


def _qdisc(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.ifindex:
        yield partial(devices.qdisc, case.device.ifindex)


def _xdp(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.ifindex:
        yield partial(devices.xdp, case.device.ifindex)


def _tc(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.ifindex:
        yield partial(devices.tc_filters, case.device.ifindex)


def _conntrack(case: _Case) -> Iterator[evidence.Fact]:
    yield devices.conntrack
    if case.protocol:
        yield partial(devices.conntrack_entry, case.protocol, case.saddr, case.sport, case.daddr, case.dport)


def _backlog(case: _Case) -> Iterator[evidence.Fact]:
    yield devices.backlog


def _checksum(case: _Case) -> Iterator[evidence.Fact]:
    if case.device.name:
        yield partial(devices.checksum, case.device.name)


_QUESTIONS: dict[str, _Questions] = {
    "listeners": _listeners, "accept_queue": _accept_queue, "sockets": _sockets, "rp_filter": _rp_filter,
    "forwarding": _forwarding, "route": _route, "neighbour": _neighbour, "mtu": _mtu, "device": _link,
    "qdisc": _qdisc, "xdp": _xdp, "tc": _tc, "conntrack": _conntrack, "backlog": _backlog, "checksum": _checksum,
}  # fmt: skip
