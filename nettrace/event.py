"""The wire layout between kernel and user space, defined once, and what it is decoded into.

A message is a `record` header followed by a log of 16-byte slots. An item of the log takes
one slot or more; the first one ends with its kind and its length in slots. A `step` is one
hit of a probe; the items after it, up to the next step, belong to it. A `packet` item comes
before the step that first saw these headers, and holds until the next one; so does a `device`
item. What a packet carries (tunnels, ICMP errors) is an `inner` item behind its `packet`.
A followed packet's function returns in a message of its own, as the packet may be gone by then, or be at
work on another CPU; where hits stand for themselves, the return is an item of the hit.
"""

import struct
from typing import NamedTuple, Optional, Union

SLOT_BYTES = 16

# Kinds of items.
STEP = 1  # a probe fired: where is the low half of the instruction pointer
STEP_TRACEPOINT = 2  # a tracepoint fired: where is the trace's index in the plan
PACKET = 3
DETAIL = 4
DROP = 5
INNER = 6  # the layout of a packet
DEVICE = 7
RETURN = 8
STACK = 9
FACTS = 10
SOCKET = 11  # the state of the socket that a hit is about
BYTES = 12  # of the packet; they follow in as many slots as they need

# Flags of a record.
FREED = 1 << 0  # the skb was freed: no more will come of it
SINGLE = 1 << 1  # not a followed packet but one hit by itself (--basic)
DELIVERED = 1 << 2  # an earlier message of it reached the buffer
RETURNED = 1 << 3  # the message is a function's return and nothing else

STACK_FRAMES = 32

FACT_WORDS = 12  # at most, of one step

NO_REASON = 0xFFFFFFFF  # the drop reason where the kernel gives none
NO_RTT = 0xFFFFFFFF  # no round trip was measured

# Flags of a socket.
WHOLE = 1 << 0  # a sock; requests and sockets in TIME_WAIT are smaller structs, and tell a state and nothing else
HAS_TIMER = 1 << 1  # it waits for a timer

# Flags of a packet.
HAS_L4 = 1 << 0  # ports, ICMP type and so on were read
FRAGMENT = 1 << 1  # a fragment; fragment_offset tells where it belongs
FROM_SOCKET = 1 << 2  # headers not built yet: the socket told
UNREAD = 1 << 3  # there are headers, but only their EtherType is known

# What carries an inner packet.
TUNNELS = ("", "ip", "gre", "vxlan", "geneve", "icmp")

# Hits on one CPU that can be at work at a time: a task's, and those of interrupts in between.
PLACES = 3

# Counters that the programs keep for each CPU, in the order of their array.
COUNTERS = (
    "lost_messages",
    "lost_packets",  # of which no message was delivered at all; or hits, if packets are not followed
    "missed",  # hits that found no place to wait for the work
    "untracked",  # matching packets that the tracking map had no room for
    "matched",  # packets
    "cloned",  # skbs made of followed ones
    "freed",  # skbs
    "reused",  # skbs whose end was not seen, known by the new packet at their address
    *(f"ids_{place}" for place in range(PLACES)),
    f"ids_{PLACES}",  # of clones
    *(f"messages_{place}" for place in range(PLACES)),  # submitted or lost
    f"messages_{PLACES}",  # of returns
    "short",  # packets that took less than the least latency asked for
    "over_rate",  # matching packets beyond the rate limit
    "calls_lost",  # calls whose return will not be told, for want of room
    "normal_frees",  # reported as drops, though the packet has served its purpose
    "uncounted",  # drops that the table of --drop-stat had no room for
    "crowded_out",  # samples of peers that the table of peers had no room for
    # Of runs that tell how long packets took:
    "measured",  # packets
    "one_point",  # packets that were seen at one point only
    "families_lost",  # skbs of packets with clones that were pushed out of the table of these
    "steps_lost",  # steps that the table of these had no room for
)

_C_FORMATS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


class Layout:
    """A little-endian C struct without padding: name and (C type, field, count) of its members."""

    def __init__(self, name: str, *fields: tuple[str, str, int]) -> None:
        self.name = name
        self.fields = fields
        formats = (f"{count * _SIZES[kind]}s" if count > 1 else _C_FORMATS[kind] for kind, _, count in fields)
        self.struct = struct.Struct("<" + "".join(formats))
        self.size = self.struct.size

    def index(self, field: str) -> int:
        """A member's place among those that `struct` unpacks."""
        return [name for _, name, _ in self.fields].index(field)

    def place(self, field: str) -> tuple[int, int]:
        """Where a member begins in the struct, and how many bytes it has."""
        at = 0
        for kind, name, count in self.fields:
            size = _SIZES[kind] * count
            if name == field:
                return at, size
            at += size
        raise KeyError(field)

    def c_text(self) -> str:
        """The struct in C."""
        members = "".join(
            f"\t{kind} {field}{f'[{count}]' if count > 1 else ''};\n" for kind, field, count in self.fields
        )
        return f"struct {self.name} {{\n{members}}};\n"


RECORD = Layout(
    "record",
    ("u64", "packet_id", 1),  # the record id of the packet's first skb, shared by its clones
    ("u64", "record_id", 1),  # never used twice in a run
    ("u64", "parent_id", 1),  # the record this skb was cloned from; 0 for a packet's first skb
    ("u64", "skb", 1),
    ("u32", "sequence", 1),  # of the messages of this CPU and place; a gap is a lost one
    ("u16", "cpu", 1),
    ("u16", "slots", 1),  # that follow in this message
    ("u32", "slots_before", 1),  # of this record in earlier messages
    ("u16", "children", 1),  # clones made of this skb so far
    ("u8", "flags", 1),
    ("u8", "place", 1),
    ("u16", "calls", 1),  # steps so far whose functions' return will be told
    ("u16", "unused", 3),
)
STEP_ITEM = Layout(
    "step",
    ("u64", "time_ns", 1),  # CLOCK_MONOTONIC
    ("u32", "where", 1),
    ("u16", "number", 1),  # of this step in its record, from 0
    ("u8", "kind", 1),
    ("u8", "slots", 1),
)
PACKET_ITEM = Layout(
    "packet",
    ("u32", "length", 1),  # skb->len
    ("u16", "vlan_tci", 1),  # of the outer tag; 0: none
    ("u16", "l3_protocol", 1),  # EtherType
    ("u8", "l4_protocol", 1),
    ("u8", "flags", 1),
    ("u16", "fragment_offset", 1),  # bytes
    ("u16", "l3_length", 1),  # IPv4 total length, IPv6 payload length + 40
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u8", "saddr", 16),  # IPv4 in the first four; ARP: sender
    ("u8", "daddr", 16),  # ARP: target
    ("u8", "l4", 16),
    ("u32", "tunnel_id", 1),  # of an inner packet: VNI or GRE key
    ("u16", "vlan_tci2", 1),  # of the inner tag; 0: none
    ("u16", "gso_size", 1),  # 0: not to be segmented
    ("u16", "gso_segs", 1),
    ("u8", "tunnel", 1),  # of an inner packet: an index of TUNNELS
    ("u8", "unused", 5),
)
# What the 16 bytes of l4 hold, all in network byte order.
TCP_L4 = struct.Struct(">HHIIH2x")  # sport, dport, seq, ack, flags
PORTS_L4 = struct.Struct(">HH12x")  # UDP, UDP-Lite, SCTP, DCCP
ICMP_L4 = struct.Struct(">BB2xHH8x")  # type, code, id, sequence
SPI_L4 = struct.Struct(">II8x")  # ESP, AH: spi, sequence
ARP_L4 = struct.Struct(">H6s6s2x")  # operation, sender's and target's hardware address

DEVICE_ITEM = Layout(
    "device",
    ("u32", "ifindex", 1),  # 0: only the namespace is known
    ("u32", "netns", 1),  # inode; 0: the skb has neither device nor socket
    ("u32", "unused", 1),
    ("u16", "unused2", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u8", "name", 16),
)
DETAIL_ITEM = Layout(
    "detail",
    ("u32", "pid", 1),  # the thread that ran
    ("u32", "tgid", 1),  # its process
    ("u32", "mark", 1),
    ("u16", "cpu", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u8", "comm", 16),
    ("u64", "socket", 1),  # inode of the packet's socket; 0: it has none, or no program holds it
    ("u32", "length", 1),  # skb->len at this step
    ("u32", "unused", 1),
)
DROP_ITEM = Layout(
    "drop",
    ("u64", "location", 1),
    ("u32", "reason", 1),
    ("u16", "unused", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
)
RETURN_ITEM = Layout(
    "return_",
    ("u64", "value", 1),
    ("u32", "unused", 1),
    ("u16", "number", 1),  # of the step that entered the function
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u64", "time_ns", 1),
    ("u64", "unused2", 1),
)
STACK_ITEM = Layout(
    "stack",
    ("u64", "unused", 1),
    ("u32", "bytes", 1),  # of frames that were read
    ("u16", "unused2", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u64", "frames", STACK_FRAMES),  # code addresses, the innermost first
)

FACTS_ITEM = Layout(
    "facts",
    ("u64", "unused", 1),
    ("u32", "unused2", 1),
    ("u16", "set", 1),  # which facts: their place in the plan, from 1
    ("u8", "kind", 1),
    ("u8", "slots", 1),  # that the words of this set need
    ("u64", "words", FACT_WORDS),
)
SOCKET_ITEM = Layout(
    "socket_state",
    ("u32", "packets_out", 1),
    ("u32", "retrans_out", 1),
    ("u32", "unacked", 1),  # bytes
    ("u16", "unused", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
    ("u64", "timer_ns", 1),  # until the timer expires, signed
    ("u32", "wmem", 1),  # bytes that wait to be sent, or to be acknowledged
    ("u32", "rmem", 1),  # and to be read
    ("u32", "rtt_us", 1),  # the sample that the hit is about
    ("u32", "srtt_us", 1),  # smoothed
    ("u32", "rtt_min_us", 1),
    ("u8", "state", 1),
    ("u8", "ca_state", 1),
    ("u8", "timer", 1),
    ("u8", "flags", 1),
)
BYTES_ITEM = Layout(
    "bytes",
    ("u32", "length", 1),  # of the packet from its first byte here to its end
    ("u16", "taken", 1),  # bytes that follow
    ("u16", "header", 1),  # how long what comes before the network header is; 0: that is what it begins with
    ("u16", "vlan_proto", 1),  # of a tag that is beside the packet; 0: none is
    ("u16", "vlan_tci", 1),
    ("u16", "unused", 1),
    ("u8", "kind", 1),
    ("u8", "slots", 1),
)

LAYOUTS = (
    RECORD, STEP_ITEM, PACKET_ITEM, DEVICE_ITEM, DETAIL_ITEM, DROP_ITEM, RETURN_ITEM, STACK_ITEM, FACTS_ITEM,
    SOCKET_ITEM, BYTES_ITEM,
)  # fmt: skip
_CONSTANTS = {
    "SLOT_BYTES": SLOT_BYTES,
    "PLACES": PLACES,
    "KIND_STEP": STEP,
    "KIND_STEP_TRACEPOINT": STEP_TRACEPOINT,
    "KIND_PACKET": PACKET,
    "KIND_DETAIL": DETAIL,
    "KIND_DROP": DROP,
    "KIND_INNER": INNER,
    "KIND_DEVICE": DEVICE,
    "KIND_RETURN": RETURN,
    "KIND_STACK": STACK,
    "KIND_FACTS": FACTS,
    "FACT_WORDS": FACT_WORDS,
    "KIND_SOCKET": SOCKET,
    "KIND_BYTES": BYTES,
    "STACK_FRAMES": STACK_FRAMES,
    "RECORD_FREED": FREED,
    "RECORD_SINGLE": SINGLE,
    "RECORD_DELIVERED": DELIVERED,
    "RECORD_RETURNED": RETURNED,
    "NO_REASON": NO_REASON,
    "NO_RTT": NO_RTT,
    "SOCKET_WHOLE": WHOLE,
    "SOCKET_HAS_TIMER": HAS_TIMER,
    "PACKET_HAS_L4": HAS_L4,
    "PACKET_FRAGMENT": FRAGMENT,
    "PACKET_FROM_SOCKET": FROM_SOCKET,
    "PACKET_UNREAD": UNREAD,
    **{f"TUNNEL_{name.upper()}": number for number, name in enumerate(TUNNELS) if name},
}


def c_text() -> str:
    """The layout as C: constants and structs."""
    constants = "".join(f"#define {name} {value}\n" for name, value in _CONSTANTS.items())
    constants += "".join(f"#define COUNTER_{name.upper()} {index}\n" for index, name in enumerate(COUNTERS))
    constants += f"#define COUNTERS {len(COUNTERS)}\n"
    return constants + "".join(layout.c_text() for layout in LAYOUTS)


class Packet(NamedTuple):
    """What the headers said; addresses and the l4 bytes in network byte order as read."""

    length: int
    vlan_tci: int
    l3_protocol: int
    l4_protocol: int
    flags: int
    fragment_offset: int
    l3_length: int
    saddr: bytes  # 4 or 16 bytes
    daddr: bytes
    l4: bytes
    vlan_tci2: int = 0  # of the inner tag
    gso_size: int = 0
    gso_segs: int = 0
    tunnel: int = 0  # of an inner packet: what it came in, an index of TUNNELS
    tunnel_id: int = 0
    inner: "Optional[Packet]" = None  # what it carries: a tunnel's packet, or the one an ICMP error is about


class Device(NamedTuple):
    """Where a packet was: an interface, or only a namespace (ifindex 0) while it had no interface."""

    ifindex: int
    name: str
    netns: int  # inode


class Detail(NamedTuple):
    """Who ran a step, and how the packet was marked."""

    cpu: int
    pid: int  # the thread
    tgid: int  # the process
    comm: str
    mark: int
    length: int  # skb->len
    socket: int  # inode of the packet's socket; 0: none known


class Drop(NamedTuple):
    """Where the kernel gave the packet up (an address) and why (None where the kernel does not tell)."""

    location: int
    reason: Optional[int]


class Return(NamedTuple):
    """What the function of a step returned, as the register held it, and when."""

    time_ns: int
    value: int  # unsigned 64 bits


class Socket(NamedTuple):
    """The state of a socket at a hit; of one that is not whole, nothing but `state` is known."""

    state: int
    whole: bool
    ca_state: int = 0  # of TCP, as are the next three
    packets_out: int = 0
    retrans_out: int = 0
    unacked: int = 0  # bytes
    wmem: int = 0
    rmem: int = 0
    timer: Optional[int] = None  # which one, as the kernel numbers them; None: it waits for none
    timer_ns: int = 0  # until it expires; below 0: it is late
    rtt_us: Optional[int] = None  # the sample that the hit is about
    srtt_us: Optional[int] = None
    rtt_min_us: Optional[int] = None


class Frame(NamedTuple):
    """A packet itself, or the beginning of it."""

    is_ethernet: bool  # else it begins with its IP header
    length: int  # of all of it
    data: bytes


class Event(NamedTuple):
    """One hit of a probe by one skb."""

    time_ns: int
    trace: str  # the name of the trace in the tree
    skb: int
    packet: Packet
    number: int = 0  # among the steps of its skb, from 0
    device: Optional[Device] = None
    detail: Optional[Detail] = None
    drop: Optional[Drop] = None
    stack: tuple[int, ...] = ()  # code addresses, the innermost first
    returned: Optional[Return] = None
    facts: tuple[tuple[str, Union[int, str]], ...] = ()  # what else the trace tells, see tracer.yaml
    socket: Optional[Socket] = None  # the hit is about a socket: `packet` holds its addresses, `skb` where it is
    frame: Optional[Frame] = None  # the packet itself, where that was asked for

    def fact(self, name: str) -> Union[int, str, None]:
        """What the fact of this name says; None if the trace does not tell it here."""
        return next((value for known, value in self.facts if known == name), None)


class Record(NamedTuple):
    """What one message told of one skb, in the order it happened."""

    packet_id: int
    record_id: int
    parent_id: int  # 0: this skb is the packet's first
    skb: int
    children: int  # clones made of this skb up to the end of this message
    freed: bool
    single: bool
    slots_before: int  # of this record in earlier messages
    slots: int  # in this message
    events: tuple[Event, ...]
    calls: int = 0  # steps up to the end of this message whose functions' return will be told
    returned: tuple[tuple[int, Return], ...] = ()  # step number and return, in a message of its own


class Context(NamedTuple):
    """A packet and its clones, from first sight to free."""

    packet_id: int
    skbs: tuple[int, ...]  # in the order of their first events
    events: tuple[Event, ...]  # in time order
    unfinished: bool  # it was not seen to be freed
    missing: bool  # part of its path was lost
