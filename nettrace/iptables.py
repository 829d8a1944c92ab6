"""Which rules of the older iptables may be for a packet, whose kernel does not tell which one decided."""

import ipaddress
import shlex
import socket
from collections.abc import Callable
from typing import Optional

from .event import HAS_L4, PORTS_L4, Packet

# What a condition says of a packet; None: it cannot be told.
_Says = Callable[[str, Packet], Optional[bool]]

_WITH_PORTS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP)


def may_fit(line: str, packet: Packet) -> bool:
    """Whether a rule, as iptables-save writes it, may be for a packet: not if one of the common conditions is false."""
    words = iter(shlex.split(line))
    negated = False
    for word in words:
        if word in _CONDITIONS and _CONDITIONS[word](next(words, ""), packet) is negated:
            return False
        negated = word == "!"
    return True


def _within(network: str, address: bytes) -> Optional[bool]:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return None


def _is_protocol(name: str, packet: Packet) -> Optional[bool]:
    try:
        number = int(name) if name.isdigit() else socket.getprotobyname(name)
    except OSError:
        return None
    return number in (0, packet.l4_protocol)


def _port(packet: Packet, end: int) -> Optional[int]:
    """The source's or the destination's; of fragments only the first has some."""
    known = packet.flags & HAS_L4 and packet.l4_protocol in _WITH_PORTS
    return PORTS_L4.unpack(packet.l4)[end] if known else None


def _among(ranges: str, port: Optional[int]) -> Optional[bool]:
    """Whether a port is one of "53", "1000:1999" or several of them with commas."""
    if port is None:
        return None
    found = False
    for each in ranges.split(","):
        first, _, last = each.partition(":")
        if not first.isdigit() or not (last or first).isdigit():
            return None
        found |= int(first) <= port <= int(last or first)
    return found


_CONDITIONS: dict[str, _Says] = {
    "-s": lambda value, packet: _within(value, packet.saddr),
    "-d": lambda value, packet: _within(value, packet.daddr),
    "-p": _is_protocol,
    **dict.fromkeys(("--sport", "--sports"), lambda value, packet: _among(value, _port(packet, 0))),
    **dict.fromkeys(("--dport", "--dports"), lambda value, packet: _among(value, _port(packet, 1))),
}
