"""Other addresses and names in the place of those of a run, so that strangers may see it.

Addresses keep what they have in common: two that begin with the same bits still do, with as many as before and no more.
That is the construction of Crypto-PAn (doi:10.1109/ICNP.2002.1181415): whether a bit is flipped depends on those before
it, by a function of a secret key. The function is BLAKE2s, which Python has, in place of AES, which it has not.
Ranges that mean something by themselves stay: a private address becomes another private one, loopback and well-known
groups become nothing else.

Names of devices, namespaces, processes, tables and chains become others, always the same for the same name; those that
any host has stay. There are no packets and no evidence, which are texts of anything, and not the command.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2s
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Callable, Optional, Union

from .analyzers import gateway
from .errors import UsageError
from .event import HAS_L4, Context, Event, Packet, Record
from .evidence import Evidence
from .header import Header
from .host import Asking, Host
from .kernel import Symbol
from .tables import Peer, RoundTrips, Table

if TYPE_CHECKING:
    from .diagnosis import Finding
    from .player import Player
    from .recorder import Recorder

COMMAND = ("--anonymise",)  # all that is told of it
_KEY_LEAST, _KEY_MOST = 16, 4096  # bytes of a file

_IP, _IPV6, _ARP, _RARP = 0x0800, 0x86DD, 0x0806, 0x8035
# How many bytes of a transport header tell nothing but ports, numbers, types and flags.
_L4_BYTES = {6: 14, **dict.fromkeys((17, 33, 132, 136), 4), **dict.fromkeys((1, 58, 50, 51), 8)}
_ICMP, _REDIRECT = 1, 5  # which has the address of a router
_MAC_BYTES = 6
_NO_MACS = (bytes(_MAC_BYTES), b"\xff" * _MAC_BYTES)
_MAPPED = bytes(10) + b"\xff\xff"  # IPv4 in IPv6

# Addresses that stay, and ranges whose addresses stay in them.
_WHOLE = (
    "0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/24", "255.255.255.255/32",
    "::/127", "ff01::/112", "ff02::/112", "ff05::/112",
)  # fmt: skip
_RANGES = (
    "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4",
    "2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "ff02::1:ff00:0/104",
)  # fmt: skip

# Names that say nothing of whose host it is.
_USUAL = {
    "device": re.compile(r"lo|(eth|wlan|dummy|ifb|bond|team|tun|tap|wg|sit|gre|tunl|ip6tnl|docker|veth|br)\d{1,3}"),
    "task": re.compile(r"(swapper|ksoftirqd|kworker|migration|cpuhp|napi)/.*|rcu\w*"),
    "table": re.compile("filter|nat|mangle|raw|security|broute"),
    "chain": re.compile("(?i:input|output|forward|prerouting|postrouting|ingress|egress)"),
    "kind": re.compile(".*"),  # of a queueing discipline
}  # fmt: skip
_KINDS = {"target": "chain"}

Network = Union[IPv4Network, IPv6Network]


def _bits(network: Network) -> tuple[int, int, int]:
    """Of an address and of a network's beginning, how many there are, and what they are."""
    size, length = network.max_prefixlen, network.prefixlen
    return size, length, int(network.network_address) >> (size - length)


_STAY = tuple(map(_bits, map(ip_network, _WHOLE)))
# Bits before which no bit may be flipped: those that lead to what stays. So nothing else is led there either.
_LEADING = frozenset(
    (size, place, bits >> (length - place))
    for size, length, bits in map(_bits, map(ip_network, (*_WHOLE, *_RANGES)))
    for place in range(length)
)


def key_of(path: Optional[str]) -> bytes:
    """The secret in a file; without one a new one, which nobody ever knows."""
    if path is None:
        return os.urandom(32)
    try:
        with open(path, "rb") as file:
            secret = file.read(_KEY_MOST)
    except OSError as error:
        raise UsageError(f"--anonymise-key: {path} cannot be read: {error.strerror}") from error
    if len(secret) < _KEY_LEAST:
        raise UsageError(f"--anonymise-key: {path} has fewer than {_KEY_LEAST} bytes: take some of /dev/urandom")
    return blake2s(secret).digest()


class Anonymiser:
    """Says what stands for what; the same key says the same, on any host."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # What was asked for before is asked for again and again, and a packet is told by what it is in sinks.
        self.address: Callable[[bytes], bytes] = lru_cache(1 << 16)(self._address)
        self.packet: Callable[[Packet], Packet] = lru_cache(1 << 12)(self._packet)
        self.name: Callable[[str, str], str] = lru_cache(1 << 12)(self._name)

    def before(self, taker: "Union[Player, Recorder]") -> "Anonymised":
        """What is handed on to this one."""
        return Anonymised(taker, self)

    def header(self, header: Header) -> Header:
        """What a run was."""
        return replace(header, command=COMMAND, snaplen=0)

    def record(self, record: Record) -> Record:
        """What a message told."""
        return record._replace(events=tuple(map(self.event, record.events)))

    def event(self, item: Event) -> Event:
        """A hit."""
        device, detail = item.device, item.detail
        return item._replace(
            packet=self.packet(item.packet),
            device=None if device is None else device._replace(name=self.name("device", device.name)),
            detail=None if detail is None else detail._replace(comm=self.name("task", detail.comm)),
            facts=tuple((name, self._fact(item, name, value)) for name, value in item.facts),
            frame=None,
        )

    def table(self, table: Table) -> Table:
        """What was counted."""
        if not isinstance(table, RoundTrips) or table.peers is None:
            return table
        return table._replace(peers=[self._peer(peer) for peer in table.peers])

    def _peer(self, peer: Peer) -> Peer:
        size = 4 if peer.l3_protocol == _IP else 16
        return peer._replace(address=self.address(peer.address[:size]).ljust(16, b"\0"))

    def _fact(self, item: Event, name: str, value: Union[int, str]) -> Union[int, str]:
        if isinstance(value, str):
            return self.name(_KINDS.get(name, name), value)
        router = gateway(item) if name == "gateway" else None
        return value if router is None else int.from_bytes(self.address(router.packed), "little")

    def _packet(self, packet: Packet) -> Packet:
        addresses = [bytes(len(each)) for each in (packet.saddr, packet.daddr)]
        if packet.l3_protocol in (_IP, _IPV6, _ARP, _RARP):
            addresses = [self.address(packet.saddr), self.address(packet.daddr)]
        return packet._replace(
            saddr=addresses[0], daddr=addresses[1], l4=self._l4(packet),
            inner=None if packet.inner is None else self._packet(packet.inner),
        )  # fmt: skip

    def _l4(self, packet: Packet) -> bytes:
        l4, size = packet.l4, 0
        if packet.l3_protocol in (_ARP, _RARP) and packet.flags & HAS_L4:
            return l4[:2] + self._mac(l4[2:8]) + self._mac(l4[8:14]) + bytes(len(l4) - 14)
        if packet.l3_protocol in (_IP, _IPV6):
            size = _L4_BYTES.get(packet.l4_protocol, 0)
            if packet.l4_protocol == _ICMP and l4[:1] == bytes([_REDIRECT]):
                l4 = l4[:4] + self.address(l4[4:8]) + l4[8:]
        return l4[:size].ljust(len(l4), b"\0")

    def _mac(self, mac: bytes) -> bytes:
        """Whether it is of a group, and whether its maker gave it, stays."""
        if mac in _NO_MACS:
            return mac
        other = self._secret("mac", mac, _MAC_BYTES)
        return bytes([other[0] & 0xFC | mac[0] & 0x03]) + other[1:]

    def _address(self, raw: bytes) -> bytes:
        if raw.startswith(_MAPPED) and len(raw) == 16:
            return _MAPPED + self.address(raw[len(_MAPPED) :])
        size, number = 8 * len(raw), int.from_bytes(raw, "big")
        if any(of == size and number >> (size - length) == bits for of, length, bits in _STAY):
            return raw
        other = 0
        for place in range(size):
            before = number >> (size - place)
            flip = (size, place, before) not in _LEADING and self._flips(size, place, before)
            other = other << 1 | (number >> (size - 1 - place) & 1) ^ flip
        return other.to_bytes(len(raw), "big")

    def _flips(self, size: int, place: int, before: int) -> bool:
        return bool(self._secret("bit", bytes([size, place]) + before.to_bytes(16, "big"), 1)[0] & 1)

    def _name(self, kind: str, name: str) -> str:
        usual = _USUAL.get(kind)
        if not name or (usual is not None and usual.fullmatch(name)):
            return name
        return f"{kind}-{self._secret(kind, name.encode('utf-8', 'backslashreplace'), 3).hex()}"

    def _secret(self, kind: str, what: bytes, size: int) -> bytes:
        return blake2s(kind.encode() + b"\0" + what, key=self._key, digest_size=size).digest()


class Anonymised:
    """Hands on what it takes, in the way of a Player or a Recorder, with other addresses and names.

    begin: to be called before anything is handed on.
    """

    def __init__(
        self, taker: "Union[Player, Recorder]", anonymiser: Anonymiser, begin: Callable[[], None] = lambda: None
    ) -> None:
        self._taker = taker
        self._anonymiser = anonymiser
        self._begin: Optional[Callable[[], None]] = begin

    def begin(self) -> None:
        """Nothing will come, or the first thing now."""
        if self._begin is not None:
            self._begin()
            self._begin = None

    def push(self, record: Record) -> None:
        """See Player."""
        self.begin()
        self._taker.push(self._anonymiser.record(record))

    def expire(self, now_ns: int) -> None:
        """See Player."""
        self.begin()
        self._taker.expire(now_ns)

    def close(self, now_ns: int) -> None:
        """See Player."""
        self.begin()
        self._taker.close(now_ns)

    def gap(self, events: int) -> None:
        """See Player."""
        self.begin()
        self._taker.gap(events)

    def table(self, table: Table) -> None:
        """See Player."""
        self.begin()
        self._taker.table(self._anonymiser.table(table))

    def clock(self, wall_offset_ns: int) -> None:
        """See Player."""
        self.begin()
        self._taker.clock(wall_offset_ns)

    def flush(self) -> None:
        """See Player."""
        self.begin()
        self._taker.flush()


class Stranger(Asking):
    """A host as strangers may know it: see Host."""

    def __init__(self, host: Host, anonymiser: Anonymiser) -> None:
        super().__init__(host)
        self._anonymiser = anonymiser

    def symbol(self, address: int) -> Optional[Symbol]:
        """See Host."""
        return self._host.symbol(address)

    def drop_reason(self, number: int) -> str:
        """See Host."""
        return self._host.drop_reason(number)

    def enum_names(self, enum: str) -> Mapping[int, str]:
        """See Host."""
        return self._host.enum_names(enum)

    def return_type(self, function: str) -> Optional[str]:
        """See Host."""
        return self._host.return_type(function)

    def netns(self, inode: int) -> Optional[str]:
        """See Host."""
        name = self._host.netns(inode)
        return None if name is None else self._anonymiser.name("netns", name)

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        """See Host."""
        owner = self._host.owner(inode)
        return None if owner is None else (self._anonymiser.name("task", owner[0]), owner[1])

    def evidence(self, finding: "Finding", context: Context) -> Sequence[Evidence]:
        """None is read: it would be asked for with false addresses, and tell true ones."""
        return [Evidence("nettrace", "left out by --anonymise")]
