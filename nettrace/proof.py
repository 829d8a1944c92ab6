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
from .analyzers import gateway
from .diagnosis import Finding
from .event import HAS_L4, PORTS_L4, Context, Device, Event, Packet
from .evidence import Evidence
from .evidence_firewall import Firewalls

_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
_WITH_ADDRESSES = (0x0800, 0x0806, 0x8035, 0x86DD)  # ETH_P_IP, ETH_P_ARP, ETH_P_RARP, ETH_P_IPV6

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class _Case(NamedTuple):
    """A finding's packet, in the values that questions need."""

    finding: Finding
    context: Context
    device: Device
    mark: int


class _Flow(NamedTuple):
    """Between whom it was."""

    saddr: Address
    daddr: Address
    protocol: str  # "tcp", "udp" or empty
    sport: int
    dport: int


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
        detail = finding.event.detail
        case = _Case(finding, context, device, 0 if detail is None else detail.mark)
        evidence.prepare()  # a child must not inherit half of an import
        found: list[Evidence] = []
        if "firewall" in finding.wanted:
            found += self._firewalls.evidence(finding.event, context.events, device.netns)
        questions = [question for name in finding.wanted for question in _questions(name, case)]
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


def _flow(packet: Packet) -> Optional[_Flow]:
    """None for a packet of a protocol without IP addresses."""
    if packet.l3_protocol not in _WITH_ADDRESSES:
        return None
    # Of fragments only the first has ports.
    protocol = _PROTOCOLS.get(packet.l4_protocol, "") if packet.flags & HAS_L4 else ""
    sport, dport = PORTS_L4.unpack(packet.l4) if protocol else (0, 0)
    return _Flow(ipaddress.ip_address(packet.saddr), ipaddress.ip_address(packet.daddr), protocol, sport, dport)


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
_Questions = Iterator[evidence.Fact]


def _questions(name: str, case: _Case) -> _Questions:
    if name in _OF_DEVICES:
        yield from _OF_DEVICES[name](case)
    flow = _flow(case.finding.event.packet)
    if name in _OF_FLOWS and flow is not None:
        yield from _OF_FLOWS[name](case, flow)


def _listeners(case: _Case, flow: _Flow) -> _Questions:
    if flow.protocol:
        yield partial(sockets.listeners, flow.protocol, flow.daddr, flow.dport)


def _accept_queue(case: _Case, flow: _Flow) -> _Questions:
    if flow.protocol == "tcp":
        yield partial(sockets.accept_queue, flow.daddr, flow.dport)


def _sockets(case: _Case, flow: _Flow) -> _Questions:
    if flow.protocol:
        yield partial(sockets.flow_sockets, flow.protocol, flow.daddr, flow.dport, flow.saddr, flow.sport)


def _rp_filter(case: _Case, flow: _Flow) -> _Questions:
    if case.device.name:
        yield partial(routes.rp_filter, case.device.name, flow.saddr, flow.daddr, mark=case.mark)


def _forwarding(case: _Case, flow: _Flow) -> _Questions:
    if case.device.name:
        family = socket.AF_INET if flow.daddr.version == 4 else socket.AF_INET6
        yield partial(routes.forwarding, case.device.name, family)


def _route(case: _Case, flow: _Flow) -> _Questions:
    yield partial(routes.route, flow.daddr, flow.saddr, iif=_came_in_by(case), mark=case.mark)


def _neighbour(case: _Case, flow: _Flow) -> _Questions:
    if case.device.ifindex:
        yield partial(routes.neighbour, case.device.ifindex, _next_hop(case, flow))


def _next_hop(case: _Case, flow: _Flow) -> Address:
    """The router that the packet goes to next, as its route said; else its destination."""
    hop: Address = flow.daddr
    for item in _steps(case.finding.event, case.context):
        if item.fact("gateway") is not None:
            hop = gateway(item) or flow.daddr
    return hop


def _mtu(case: _Case, flow: _Flow) -> _Questions:
    """Of the device that the packet is to leave by, if its route said which."""
    yield partial(_mtu_of, case.device.ifindex, _way_out(case), flow.daddr, flow.saddr)


def _way_out(case: _Case) -> str:
    names = [item.fact("device") for item in _steps(case.finding.event, case.context)]
    return next((name for name in reversed(names) if isinstance(name, str) and name), "")


def _mtu_of(ifindex: int, name: str, daddr: Address, saddr: Address) -> Iterator[Evidence]:
    with contextlib.suppress(OSError):  # gone meanwhile
        ifindex = socket.if_nametoindex(name) if name else ifindex
    return routes.mtu(ifindex, daddr, saddr)


def _connection(case: _Case, flow: _Flow) -> _Questions:
    if flow.protocol:
        yield partial(devices.conntrack_entry, flow.protocol, flow.saddr, flow.sport, flow.daddr, flow.dport)


def _link(case: _Case) -> _Questions:
    if case.device.ifindex:
        yield partial(routes.device, case.device.ifindex)


def _qdisc(case: _Case) -> _Questions:
    if case.device.ifindex:
        yield partial(devices.qdisc, case.device.ifindex)


def _xdp(case: _Case) -> _Questions:
    if case.device.ifindex:
        yield partial(devices.xdp, case.device.ifindex)


def _tc(case: _Case) -> _Questions:
    if case.device.ifindex:
        yield partial(devices.tc_filters, case.device.ifindex)


def _conntrack(case: _Case) -> _Questions:
    yield devices.conntrack


def _backlog(case: _Case) -> _Questions:
    yield devices.backlog


def _checksum(case: _Case) -> _Questions:
    if case.device.name:
        yield partial(devices.checksum, case.device.name)


def _handlers(case: _Case) -> _Questions:
    yield partial(devices.handlers, case.finding.event.packet.l3_protocol, case.device.name)


_OF_DEVICES: dict[str, Callable[[_Case], _Questions]] = {
    "device": _link, "qdisc": _qdisc, "xdp": _xdp, "tc": _tc, "conntrack": _conntrack, "backlog": _backlog,
    "checksum": _checksum, "handlers": _handlers,
}  # fmt: skip
_OF_FLOWS: dict[str, Callable[[_Case, _Flow], _Questions]] = {
    "listeners": _listeners, "accept_queue": _accept_queue, "sockets": _sockets, "rp_filter": _rp_filter,
    "forwarding": _forwarding, "route": _route, "neighbour": _neighbour, "mtu": _mtu, "conntrack": _connection,
}  # fmt: skip
