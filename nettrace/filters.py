"""The packet filter that the user asked for, checked, and as the constants that specialise the C."""

import ipaddress
import os
import re
import struct
from dataclasses import dataclass, fields
from typing import NamedTuple, Optional, Union

from .errors import UsageError
from .suggest import did_you_mean

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

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

ALIASES = {"ipv4": "ip", "ip6": "ipv6", "icmp6": "icmpv6"}
_TAGS = ("vlan", "8021q", "802.1q", "8021ad", "802.1ad", "qinq")
_TAG_NUMBERS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
_ETHERTYPE_MIN = 0x0600  # below it the field is a length
# The IP version whose addresses a protocol has; other L3 protocols have none that we read.
_VERSIONS = {"ip": (4,), "ipv6": (6,), "arp": (4,), "rarp": (4,), "icmp": (4,), "igmp": (4,), "icmpv6": (6,)}
_COUNTERPARTS = {"ip": "ipv6", "ipv6": "ip", "icmp": "icmpv6", "icmpv6": "icmp", "arp": "icmpv6"}

_TCP_FLAGS = {"S": 0x02, "A": 0x10, "P": 0x08, "R": 0x04, "F": 0x01, "U": 0x20, "E": 0x40, "C": 0x80}

_NAME_BYTES = 16  # of a device and of a task, with the zero at the end
_PID_MAX = 1 << 22
_UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_UNIT_NAMES = {"us": "microseconds", "ms": "milliseconds"}


class Range(NamedTuple):
    """Whole numbers from the first to the last, both included."""

    first: int
    last: int


class TcpFlags(NamedTuple):
    """Bits of the flags' byte: one of them must be set or, if exact, all of them and no other."""

    mask: int
    exact: bool


# The conditions there can be, as bits of FILTER_ASKED.
CONDITIONS = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            "SADDR", "DADDR", "ADDR", "IPV4", "IPV6", "SPORT", "DPORT", "PORT", "L3", "L4", "TCP_FLAGS",
            "TCP_FLAGS_EXACT", "LEN", "TGID", "COMM", "NETNS", "IFNAME", "MARK", "SRTT", "MINRTT", "MIN_LATENCY",
        )
    )
}  # fmt: skip
_WORDS = 4
# All numbers that a filter can have: programs are compiled for any of them, and get theirs when they are loaded.
NUMBERS = (
    "FILTER_ASKED",
    *(
        f"FILTER_{name}_{part}{word}"
        for name in ("SADDR", "DADDR", "ADDR", "IFNAME")
        for part in "WM"
        for word in range(_WORDS)
    ),
    *(f"FILTER_COMM_W{word}" for word in range(_WORDS)),
    *(f"FILTER_{name}_{limit}" for name in ("SPORT", "DPORT", "PORT", "LEN") for limit in ("MIN", "MAX")),
    "FILTER_L3", "FILTER_L4", "FILTER_TCP_FLAGS", "FILTER_TGID", "FILTER_NETNS", "FILTER_MARK", "FILTER_MARK_MASK",
    "FILTER_SRTT_US", "FILTER_MINRTT_US", "MIN_LATENCY_NS", "RATE_LIMIT",
)  # fmt: skip


class Mark(NamedTuple):
    """What skb->mark must be, of the bits in the mask."""

    value: int
    mask: int


@dataclass(frozen=True)
class PacketFilter:
    """What a packet must be; None asks for nothing, and all that is asked for must hold."""

    saddr: Optional[Network] = None
    daddr: Optional[Network] = None
    addr: Optional[Network] = None  # source or destination
    sport: Optional[Range] = None
    dport: Optional[Range] = None
    port: Optional[Range] = None  # source or destination
    l3: Optional[int] = None  # EtherType
    l4: Optional[int] = None
    tcp_flags: Optional[TcpFlags] = None
    pkt_len: Optional[Range] = None  # of the IP packet, with its header
    tgid: Optional[int] = None
    comm: Optional[bytes] = None  # of the thread, as long as the kernel keeps it
    netns: Optional[int] = None  # inode
    iface: Optional[bytes] = None
    mark: Optional[Mark] = None
    expression: Optional[str] = None  # pcap-filter(7), see pcap
    srtt_us: Optional[int] = None  # the least that a socket's smoothed round trip may be
    min_rtt_us: Optional[int] = None  # likewise of its least one
    # How the above is applied; by themselves these choose no packets.
    inner: bool = False  # the headers inside of a tunnel may match instead
    min_latency_ns: Optional[int] = None
    rate_limit: Optional[int] = None  # packets a second

    @property
    def is_empty(self) -> bool:
        """Whether nothing narrows the traffic."""
        others = ("inner", "min_latency_ns", "rate_limit")
        return all(getattr(self, field.name) is None for field in fields(self) if field.name not in others)

    def constants(self) -> dict[str, int]:
        """The numbers of what is asked for, by their names on the C side; FILTER_ASKED says what that is.

        Bytes are read as four little-endian words: an address in network order, IPv4 followed
        by zeros, and names followed by zeros. All other numbers are in host order.
        """
        asked: set[str] = set()
        constants: dict[str, int] = {}
        for name in ("saddr", "daddr", "addr"):
            network: Optional[Network] = getattr(self, name)
            if network is not None:
                asked |= {name.upper(), f"IPV{network.version}"}
                constants.update(_words(f"FILTER_{name.upper()}_W", network.network_address.packed))
                constants.update(_words(f"FILTER_{name.upper()}_M", network.netmask.packed))
        for name in ("sport", "dport", "port"):
            ports: Optional[Range] = getattr(self, name)
            if ports is not None:
                asked.add(name.upper())
                constants[f"FILTER_{name.upper()}_MIN"] = ports.first
                constants[f"FILTER_{name.upper()}_MAX"] = ports.last
        if self.tcp_flags is not None:
            asked |= {"TCP_FLAGS", *(["TCP_FLAGS_EXACT"] if self.tcp_flags.exact else [])}
            constants["FILTER_TCP_FLAGS"] = self.tcp_flags.mask
        if self.pkt_len is not None:
            asked.add("LEN")
            constants.update(FILTER_LEN_MIN=self.pkt_len.first, FILTER_LEN_MAX=self.pkt_len.last)
        if self.comm is not None:
            asked.add("COMM")
            constants.update(_words("FILTER_COMM_W", self.comm))
        if self.iface is not None:
            asked.add("IFNAME")
            constants.update(_words("FILTER_IFNAME_W", self.iface))
            # What follows the zero may be left of a longer name.
            constants.update(_words("FILTER_IFNAME_M", b"\xff" * (len(self.iface) + 1)))
        if self.mark is not None:
            asked.add("MARK")
            constants.update(FILTER_MARK=self.mark.value, FILTER_MARK_MASK=self.mark.mask)
        numbers = {
            ("L3", "FILTER_L3"): self.l3,
            ("L4", "FILTER_L4"): self.l4,
            ("TGID", "FILTER_TGID"): self.tgid,
            ("NETNS", "FILTER_NETNS"): self.netns,
            ("SRTT", "FILTER_SRTT_US"): self.srtt_us,
            ("MINRTT", "FILTER_MINRTT_US"): self.min_rtt_us,
            ("MIN_LATENCY", "MIN_LATENCY_NS"): self.min_latency_ns,
        }
        for (condition, name), number in numbers.items():
            if number is not None:
                asked.add(condition)
                constants[name] = number
        if self.rate_limit is not None:
            constants["RATE_LIMIT"] = self.rate_limit
        return {"FILTER_ASKED": sum(CONDITIONS[name] for name in asked), **constants} if constants else {}

    def numbers(self) -> dict[str, int]:
        """All of NUMBERS, 0 where nothing is asked."""
        return {**dict.fromkeys(NUMBERS, 0), **self.constants()}

    @property
    def shape(self) -> dict[str, bool]:
        """What of the filter the programs are compiled for."""
        return {
            "FILTER_PCAP": self.expression is not None,
            "FILTER_INNER": self.inner,
            "LIMIT_RATE": self.rate_limit is not None,
        }


def _words(prefix: str, data: bytes) -> dict[str, int]:
    return {f"{prefix}{index}": word for index, word in enumerate(struct.unpack("<4I", data.ljust(16, b"\0")))}


def parse(
    *,
    saddr: Optional[str] = None,
    daddr: Optional[str] = None,
    addr: Optional[str] = None,
    sport: Optional[str] = None,
    dport: Optional[str] = None,
    port: Optional[str] = None,
    proto: Optional[str] = None,
    tcp_flags: Optional[str] = None,
    pkt_len: Optional[str] = None,
    pid: Optional[str] = None,
    comm: Optional[str] = None,
    netns: Optional[int] = None,
    iface: Optional[str] = None,
    mark: Optional[str] = None,
    expression: Optional[str] = None,
    filter_srtt: Optional[str] = None,
    filter_minrtt: Optional[str] = None,
    inner: bool = False,
    min_latency: Optional[str] = None,
    rate_limit: Optional[str] = None,
) -> PacketFilter:
    """A filter from the words of the command line; UsageError says what cannot be or can never match.

    netns is an inode, see netns.resolve().
    """
    protocol = None if proto is None else _protocol(proto)
    packet_filter = PacketFilter(
        saddr=None if saddr is None else _network("--saddr", saddr),
        daddr=None if daddr is None else _network("--daddr", daddr),
        addr=None if addr is None else _network("--addr", addr),
        sport=None if sport is None else _range("--sport", sport, "port"),
        dport=None if dport is None else _range("--dport", dport, "port"),
        port=None if port is None else _range("--port", port, "port"),
        l3=None if protocol is None else protocol.l3,
        l4=None if protocol is None else protocol.l4,
        tcp_flags=None if tcp_flags is None else _tcp_flags(tcp_flags),
        pkt_len=None if pkt_len is None else _range("--pkt-len", pkt_len, "length"),
        tgid=None if pid is None else _whole("--pid", pid, "the number of a process", _PID_MAX),
        comm=None if comm is None else _comm(comm),
        netns=netns,
        iface=None if iface is None else _iface(iface),
        mark=None if mark is None else _mark(mark),
        expression=None if expression is None else _expression(expression),
        srtt_us=None if filter_srtt is None else _microseconds("--filter-srtt", filter_srtt),
        min_rtt_us=None if filter_minrtt is None else _microseconds("--filter-minrtt", filter_minrtt),
        inner=inner,
        min_latency_ns=None if min_latency is None else duration_ns("--min-latency", min_latency),
        rate_limit=None if rate_limit is None else _whole("--rate-limit", rate_limit, "a rate", 0xFFFFFFFF),
    )
    _check_addresses(packet_filter, protocol)
    _check_ports(packet_filter, protocol)
    if protocol is not None:
        if packet_filter.tcp_flags is not None and protocol.name not in ("tcp", "ip", "ipv6"):
            raise UsageError(f"--proto {protocol.name} has no TCP flags: leave out --proto or --tcp-flags")
        if packet_filter.pkt_len is not None and protocol.l3 is not None and protocol.name not in ("ip", "ipv6"):
            raise UsageError(f"--proto {protocol.name} has no length to match: --pkt-len is that of IPv4 and IPv6")
    return packet_filter


class _Protocol(NamedTuple):
    name: str  # its number if it has none
    l3: Optional[int]
    l4: Optional[int]


def _protocol(word: str) -> _Protocol:
    name = word.strip().lower()
    name = ALIASES.get(name, name)
    number = _number(name)
    if name in _TAGS or number in _TAG_NUMBERS:
        raise UsageError(
            "--proto: a VLAN tag is not a protocol, the packet in it is of one; give an expression such as 'vlan 5'"
        )
    if number is not None:
        if number > 0xFFFF or 0xFF < number < _ETHERTYPE_MIN:
            raise UsageError(
                f"--proto: {word} is neither a protocol inside IP (0 to 255) nor an EtherType (0x600 to 0xffff)"
            )
        known = L4_PROTOCOLS if number <= 0xFF else L3_PROTOCOLS
        name = next((name for name, value in known.items() if value == number), name)
        return _Protocol(name, None, number) if number <= 0xFF else _Protocol(name, number, None)
    if name not in L3_PROTOCOLS and name not in L4_PROTOCOLS:
        names = (*L3_PROTOCOLS, *L4_PROTOCOLS, *ALIASES)
        raise UsageError(f"--proto: no protocol '{word}'{did_you_mean(name, names)}")
    return _Protocol(name, L3_PROTOCOLS.get(name), L4_PROTOCOLS.get(name))


def _number(word: str) -> Optional[int]:
    """The whole number, decimal or hexadecimal; None: it is not one."""
    # Not int() alone: it takes 1_000, +80 and other digits than ours.
    if re.fullmatch("0[xX][0-9a-fA-F]{1,16}", word):
        return int(word, 16)
    return int(word) if re.fullmatch("[0-9]{1,20}", word) else None


def _whole(option: str, word: str, what: str, highest: int) -> int:
    number = _number(word.strip())
    if number is None or not 1 <= number <= highest:
        raise UsageError(f"{option}: '{word}' is not {what}, 1 to {highest}")
    return number


def _network(option: str, word: str) -> Network:
    text, slash, length = word.strip().partition("/")
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(f"{option}: '{word}' is not an IPv4 or IPv6 {'network' if slash else 'address'}") from error
    bits = _number(length) if slash else address.max_prefixlen
    if bits is None or bits > address.max_prefixlen or "x" in length.lower():
        raise UsageError(f"{option}: '/{length}' is not a prefix of an IPv{address.version} address")
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise UsageError(f"{option}: leave out '%{address.scope_id}', packets do not carry it")
        # On the wire these are IPv4 packets, whatever the socket calls them.
        if address.ipv4_mapped is not None and bits >= 96:
            address, bits = address.ipv4_mapped, bits - 96
    network: Network
    if isinstance(address, ipaddress.IPv4Address):
        network = ipaddress.IPv4Network((address.packed, bits), strict=False)
    else:
        network = ipaddress.IPv6Network((address.packed, bits), strict=False)
    if network.network_address != address:
        raise UsageError(f"{option}: {word.strip()} has bits set behind its prefix; did you mean {network}?")
    return network


def _range(option: str, word: str, what: str) -> Range:
    """Of ports or lengths, which both go from 1 to 65535."""
    first, dash, last = word.strip().partition("-")
    if not first or not dash:
        number = _whole(option, word, f"a {what}", 0xFFFF)
        return Range(number, number)
    ends = [_whole(option, end, f"a {what}", 0xFFFF) for end in (first, last)]
    if ends[0] > ends[1]:
        raise UsageError(f"{option}: {word.strip()} ends before it begins; did you mean {ends[1]}-{ends[0]}?")
    return Range(*ends)


def _tcp_flags(word: str) -> TcpFlags:
    letters = word.strip().upper()
    exact = letters.endswith("!")
    letters = letters[:-1] if exact else letters
    unknown = [letter for letter in letters if letter not in _TCP_FLAGS]
    if unknown or not letters:
        what = f"'{unknown[0]}' is not a TCP flag" if unknown else f"'{word}' names no TCP flag"
        raise UsageError(f"--tcp-flags: {what}; they are {', '.join(_TCP_FLAGS)}, and a ! at the end means just these")
    mask = 0
    for letter in letters:
        mask |= _TCP_FLAGS[letter]
    return TcpFlags(mask, exact)


def _comm(word: str) -> bytes:
    if not word:
        raise UsageError("--comm needs the name of a task")
    # The kernel itself keeps no more of a name; pgrep compares in the same way.
    return os.fsencode(word)[: _NAME_BYTES - 1]


def _iface(word: str) -> bytes:
    name = os.fsencode(word)
    # What the kernel's dev_valid_name() refuses.
    if not name or len(name) >= _NAME_BYTES or name in (b".", b"..") or re.search(rb"[/:\s]", name):
        raise UsageError(f"--iface: '{word}' cannot be a device: names have 1 to 15 bytes, no space, no / and no :")
    return name


def _mark(word: str) -> Mark:
    value_word, slash, mask_word = word.strip().partition("/")
    value, mask = _number(value_word), _number(mask_word) if slash else 0xFFFFFFFF
    if value is None or mask is None or max(value, mask) > 0xFFFFFFFF:
        raise UsageError(f"--mark: '{word}' is not VALUE or VALUE/MASK, each below 2^32, decimal or 0x...")
    if not mask:
        raise UsageError("--mark: a mask of 0 asks for nothing")
    if value & ~mask:
        raise UsageError(f"--mark: {word.strip()} matches nothing, as the value has bits that are not in the mask")
    return Mark(value, mask)


def duration_ns(option: str, word: str, unit: str = "us") -> int:
    """A time in nanoseconds; without a unit, this one is meant. `option` is who asks for it."""
    match = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]{1,12}))?(ns|us|ms|s|)", word.strip().lower())
    nanoseconds = 0
    if match is not None:
        whole, part, given = match[1], match[2] or "", match[3]
        nanoseconds = int(whole + part) * _UNITS_NS[given or unit] // 10 ** len(part)
    if not 0 < nanoseconds < 1 << 63:
        raise UsageError(f"{option}: '{word}' is not a time such as 200 ({_UNIT_NAMES[unit]}), 1.5ms or 2s")
    return nanoseconds


def _microseconds(option: str, word: str) -> int:
    """A round trip's time; without a unit, milliseconds are meant."""
    microseconds = duration_ns(option, word, "ms") // 1000
    if not 0 < microseconds < 1 << 32:
        raise UsageError(f"{option}: '{word}' is not the time of a round trip, 1us to {(1 << 32) // 1000000}s")
    return microseconds


def _expression(word: str) -> str:
    if not word.strip():
        raise UsageError("the filter expression is empty: leave it out or see pcap-filter(7)")
    return word


def _check_addresses(packet_filter: PacketFilter, protocol: Optional[_Protocol]) -> None:
    both = [network for network in (packet_filter.saddr, packet_filter.daddr) if network is not None]
    networks = both if packet_filter.addr is None else [*both, packet_filter.addr]
    if not networks:
        return
    version = networks[0].version
    if any(network.version != version for network in networks):
        raise UsageError("IPv4 and IPv6 addresses in one filter match no packet")
    addr = packet_filter.addr
    if addr is not None and len(both) == 2 and not any(addr.overlaps(network) for network in both):
        raise UsageError("--addr with neither that of --saddr nor that of --daddr matches no packet")
    if protocol is None:
        return
    versions = _VERSIONS.get(protocol.name, () if protocol.l4 is None else (4, 6))
    if not versions:
        raise UsageError(f"--proto {protocol.name} has no addresses to match")
    if version not in versions:
        counterpart = _COUNTERPARTS.get(protocol.name)
        hint = f"; did you mean --proto {counterpart}?" if counterpart else ""
        raise UsageError(f"--proto {protocol.name} has no IPv{version} addresses{hint}")


def _check_ports(packet_filter: PacketFilter, protocol: Optional[_Protocol]) -> None:
    both = [ports for ports in (packet_filter.sport, packet_filter.dport) if ports is not None]
    port = packet_filter.port
    if not both and port is None:
        return
    if protocol is not None and protocol.name not in (*PROTOCOLS_WITH_PORTS, "ip", "ipv6"):
        raise UsageError(f"--proto {protocol.name} has no ports, only {', '.join(PROTOCOLS_WITH_PORTS)} do")
    if port and len(both) == 2 and not any(port.first <= one.last and one.first <= port.last for one in both):
        raise UsageError("--port with neither that of --sport nor that of --dport matches no packet")
