"""The packet filter that the user asked for, checked, and as the constants that specialise the C."""

import ipaddress
import struct
from dataclasses import dataclass, fields
from typing import Optional, Union

from .errors import UsageError
from .suggest import did_you_mean

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

# EtherTypes, see linux/if_ether.h. Those of VLAN tags are not among them: what counts is the packet in the tag.
L3_PROTOCOLS = {
    "loop": 0x0060,
    "ip": 0x0800,
    "x25": 0x0805,
    "arp": 0x0806,
    "erspan2": 0x22EB,
    "tsn": 0x22F0,
    "batman": 0x4305,
    "teb": 0x6558,
    "rarp": 0x8035,
    "atalk": 0x809B,
    "aarp": 0x80F3,
    "ipx": 0x8137,
    "ipv6": 0x86DD,
    "pause": 0x8808,
    "slow": 0x8809,
    "wccp": 0x883E,
    "pppoe-discovery": 0x8863,
    "pppoe": 0x8864,
    "eapol": 0x888E,
    "erspan": 0x88BE,
    "lldp": 0x88CC,
    "macsec": 0x88E5,
    "ptp": 0x88F7,
}
# Protocols inside IPv4 and IPv6, see linux/in.h. IPv6 in IPv4 has no name: ipv6 is an L3 protocol.
L4_PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "beetph": 94,
    "encap": 98,
    "pim": 103,
    "comp": 108,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
    "mpls": 137,
    "raw": 255,
}
PROTOCOLS_WITH_PORTS = ("tcp", "udp", "udplite", "sctp", "dccp")

_ALIASES = {"ipv4": "ip", "ip6": "ipv6", "icmp6": "icmpv6"}
# The IP version whose addresses a protocol has; other L3 protocols have none that we read.
_VERSIONS = {"ip": (4,), "ipv6": (6,), "arp": (4,), "rarp": (4,), "icmp": (4,), "igmp": (4,), "icmpv6": (6,)}
_COUNTERPARTS = {"ip": "ipv6", "ipv6": "ip", "icmp": "icmpv6", "icmpv6": "icmp", "arp": "icmpv6"}


@dataclass(frozen=True)
class PacketFilter:
    """What a packet must be; None asks for nothing, and all that is asked for must hold."""

    saddr: Optional[Address] = None
    daddr: Optional[Address] = None
    addr: Optional[Address] = None  # source or destination
    sport: Optional[int] = None
    dport: Optional[int] = None
    port: Optional[int] = None  # source or destination
    l3: Optional[int] = None  # EtherType
    l4: Optional[int] = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return all(getattr(self, field.name) is None for field in fields(self))

    def constants(self) -> dict[str, int]:
        """The names and numbers for the C side; a name exists only if its condition does.

        An address is its bytes in network order, IPv4 followed by zeros, read as four
        little-endian words. Ports are in host order.
        """
        constants: dict[str, int] = {}
        for name in ("saddr", "daddr", "addr"):
            address: Optional[Address] = getattr(self, name)
            if address is not None:
                constants["FILTER_ADDRESS_FAMILY"] = address.version
                words = struct.unpack("<4I", address.packed.ljust(16, b"\0"))
                constants.update((f"FILTER_{name.upper()}_W{index}", word) for index, word in enumerate(words))
        for name in ("sport", "dport", "port"):
            port: Optional[int] = getattr(self, name)
            if port is not None:
                constants["FILTER_PORTS"] = 1
                constants[f"FILTER_{name.upper()}"] = port
        if self.l3 is not None:
            constants["FILTER_L3"] = self.l3
        if self.l4 is not None:
            constants["FILTER_L4"] = self.l4
        return constants


def parse(
    *,
    saddr: Optional[str] = None,
    daddr: Optional[str] = None,
    addr: Optional[str] = None,
    sport: Optional[str] = None,
    dport: Optional[str] = None,
    port: Optional[str] = None,
    proto: Optional[str] = None,
) -> PacketFilter:
    """A filter from the words of the command line; UsageError says what cannot be or can never match."""
    name = None if proto is None else _protocol(proto)
    packet_filter = PacketFilter(
        saddr=_address("--saddr", saddr),
        daddr=_address("--daddr", daddr),
        addr=_address("--addr", addr),
        sport=_port("--sport", sport),
        dport=_port("--dport", dport),
        port=_port("--port", port),
        l3=None if name is None else L3_PROTOCOLS.get(name),
        l4=None if name is None else L4_PROTOCOLS.get(name),
    )
    _check_addresses(packet_filter, name)
    _check_ports(packet_filter, name)
    return packet_filter


def _protocol(word: str) -> str:
    name = word.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in L3_PROTOCOLS and name not in L4_PROTOCOLS:
        known = (*L3_PROTOCOLS, *L4_PROTOCOLS, *_ALIASES)
        raise UsageError(f"--proto: no protocol '{word}'{did_you_mean(name, known)}")
    return name


def _address(option: str, word: Optional[str]) -> Optional[Address]:
    if word is None:
        return None
    try:
        address = ipaddress.ip_address(word.strip())
    except ValueError as error:
        raise UsageError(f"{option}: '{word}' is not an IPv4 or IPv6 address") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise UsageError(f"{option}: leave out '%{address.scope_id}', packets do not carry it")
        # On the wire these are IPv4 packets, whatever the socket calls them.
        return address.ipv4_mapped or address
    return address


def _port(option: str, word: Optional[str]) -> Optional[int]:
    if word is None:
        return None
    # Not int() alone: it takes 1_000, +80 and other digits than ours.
    digits = word.strip()
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 65535):
        raise UsageError(f"{option}: '{word}' is not a port, 1 to 65535")
    return int(digits)


def _check_addresses(packet_filter: PacketFilter, name: Optional[str]) -> None:
    addresses = [a for a in (packet_filter.saddr, packet_filter.daddr, packet_filter.addr) if a is not None]
    if not addresses:
        return
    version = addresses[0].version
    if any(address.version != version for address in addresses):
        raise UsageError("IPv4 and IPv6 addresses in one filter match no packet")
    if name is None:
        return
    versions = _VERSIONS.get(name, (4, 6) if name in L4_PROTOCOLS else ())
    if not versions:
        raise UsageError(f"--proto {name} has no addresses to match")
    if version not in versions:
        counterpart = _COUNTERPARTS.get(name)
        hint = f"; did you mean --proto {counterpart}?" if counterpart else ""
        raise UsageError(f"--proto {name} has no IPv{version} addresses{hint}")


def _check_ports(packet_filter: PacketFilter, name: Optional[str]) -> None:
    if all(port is None for port in (packet_filter.sport, packet_filter.dport, packet_filter.port)):
        return
    if name is not None and name not in (*PROTOCOLS_WITH_PORTS, "ip", "ipv6"):
        raise UsageError(f"--proto {name} has no ports, only {', '.join(PROTOCOLS_WITH_PORTS)} do")
