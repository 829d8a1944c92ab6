"""Which packets of two recordings are of one kind: for each its headers, without what differs from run to run."""

import functools
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from .event import FROM_SOCKET, Context, Packet
from .packets import packet_text

# From here on, Linux gives ports to clients, others with each connection.
CLIENT_PORTS = 32768
# What no two packets have in common: sequence numbers, the ids of pings, lengths, hardware addresses.
_OWN = re.compile(r",? (?:seq: |id: |seq:0x|spi:0x|gso:)[0-9a-fx]+| seq:\d+, ack:\d+,")
_HARDWARE = re.compile(r"(?<= is at )\S+")
_PORT = re.compile(r":(\d{5})\b")


class Scope(NamedTuple):
    """How alike packets are that are compared."""

    text: str
    flow: Callable[[Packet], str]


@functools.lru_cache(maxsize=4096)
def _with_addresses(packet: Packet) -> str:
    return without_client_ports(_HARDWARE.sub("*", _OWN.sub("", packet_text(packet))))


@functools.lru_cache(maxsize=4096)
def _without_addresses(packet: Packet) -> str:
    text = _with_addresses(packet)
    addresses = set()
    layer = packet
    while layer is not None:
        addresses |= {str(ip_address(raw)) for raw in (layer.saddr, layer.daddr) if raw}
        layer = layer.inner  # type: ignore[assignment]
    for address in sorted(addresses, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.:]){re.escape(address)}(?![\w.])", "*", text)
    return text


# The finest first.
SCOPES = (
    Scope("of the same protocol, addresses, ports below 32768, TCP flags or type", _with_addresses),
    Scope("of the same protocol, ports below 32768, TCP flags or type, whatever their addresses", _without_addresses),
    Scope("whatever they are", lambda _: "all packets"),
)


def without_client_ports(text: str) -> str:
    """The text with * for ports that are a client's."""
    return _PORT.sub(lambda match: ":*" if int(match[1]) >= CLIENT_PORTS else match[0], text)


def headers_of(context: Context) -> Packet:
    """What a packet was when its headers were there for the first time."""
    packets = [item.packet for item in context.events]
    return next((packet for packet in packets if not packet.flags & FROM_SOCKET), packets[0])


def scope_of(first: Mapping[Scope, Mapping[str, int]], second: Mapping[Scope, Mapping[str, int]]) -> Scope:
    """The finest scope in which half of the packets of the smaller recording have their like in the other one.

    first, second: how many packets of each flow the recordings have.
    """
    for scope in SCOPES:
        mine, theirs = first[scope], second[scope]
        common = sum(min(count, theirs.get(flow, 0)) for flow, count in mine.items())
        if 2 * common >= min(sum(mine.values()), sum(theirs.values())):
            return scope
    return SCOPES[-1]
