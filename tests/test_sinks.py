"""Every form of line, against the text that a user reads."""

import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Optional

import pytest

from nettrace.diagnosis import Finding
from nettrace.event import Context, Detail, Device, Drop, Event, Packet, Return
from nettrace.kernel import Symbol
from nettrace.names import COLUMNS
from nettrace.packets import packet_text
from nettrace.sinks import Diagnosed, Display, Held, LatencyText, Lookups, Summary, Text, wants_colour

from .headers import FROM_SOCKET, IP, PING, PING_TEXT, TCP, UDP, packet, ports, tcp

NETNS = {11: "left", 12: "right"}
OWN = 4026531840

KNOWN = Lookups(
    symbol=lambda address: Symbol(f"at_{address:x}", 0x12, None, ""),
    reason=lambda value: f"REASON_{value}",
    returned=lambda trace, value: "" if trace == "void" else f"{trace}-{value}",
    netns=NETNS.get,
    own_netns=OWN,
    owner={777: ("curl", 4242)}.get,
    groups={"ip_rcv": "ip-in"},
    roles={"skb_clone": "clone", "__skb_gso_segment": "segments", "consume_skb": "free", "kfree_skb": "drop"},
)


def shown(*events: Event, context: Optional[Context] = None, **display: Any) -> str:
    out = io.StringIO()
    sink = Text(out, Display(**display), KNOWN)
    if context is None:
        sink.events(events)
    else:
        sink.context(context)
    return out.getvalue()


SKB = 0xFFFF88810A0B0C00
RECEIVED = Event(12_000_345_678, "ip_rcv", SKB, PING)


def test_a_line() -> None:
    assert shown(RECEIVED) == f"[12.000345] [ip_rcv              ] {PING_TEXT}\n"


def test_several_lines() -> None:
    later = RECEIVED._replace(time_ns=13_999_999_999, trace="ip_local_deliver_finish")
    assert shown(RECEIVED, later) == (
        f"[12.000345] [ip_rcv              ] {PING_TEXT}\n[13.999999] [ip_local_deliver_finish] {PING_TEXT}\n"
    )
    assert shown() == ""


def test_times_below_a_second() -> None:
    assert shown(RECEIVED._replace(time_ns=1_999)).startswith("[0.000001] ")


ETH0 = Device(2, "eth0", OWN)
DETAIL = Detail(cpu=3, pid=4243, tgid=4242, comm="curl", mark=0x1F, length=1514, socket=0)


@pytest.mark.parametrize(
    ("detail", "device", "columns"),
    [
        (DETAIL._replace(pid=4242), ETH0, "[cpu:3  ][2:eth0][task:curl-4242][ns:4026531840]"),
        (DETAIL, ETH0._replace(netns=11), "[cpu:3  ][2:eth0][task:curl-4242/4243][ns:left]"),
        (
            Detail(cpu=127, pid=0, tgid=0, comm="swapper/127", mark=0, length=0, socket=0), Device(0, "", 12),
            "[cpu:127][      ][task:swapper/127-0][ns:right]",
        ),
        (DETAIL._replace(socket=777, comm="ksoftirqd/3"), None, "[cpu:3  ][      ][sk:curl-4242][ns:?]"),
        # Nobody has the socket open (any more).
        (DETAIL._replace(socket=778), Device(0, "", 0), "[cpu:3  ][      ][task:curl-4242/4243][ns:?]"),
        (None, Device(1, "lo", 13), "[cpu:?  ][1:lo  ][task:?][ns:13]"),
        (
            Detail(cpu=0, pid=1, tgid=1, comm="Web Cönt", mark=0, length=0, socket=0),
            Device(12, "wlp0s20f3", 11), "[cpu:0  ][12:wlp0s20f3][task:Web Cönt-1][ns:left]",
        ),
    ],
)  # fmt: skip
def test_detail(detail: Optional[Detail], device: Optional[Device], columns: str) -> None:
    line = RECEIVED._replace(detail=detail, device=device)
    assert shown(line, detail=True) == f"[12.000345] [0a0b0c00][ip_rcv              ]{columns} {PING_TEXT}\n"
    assert shown(line) == shown(RECEIVED)


FULL = RECEIVED._replace(detail=DETAIL, device=ETH0)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("id", "[0a0b0c00]"), ("cpu", "[cpu:3  ]"), ("if", "[2:eth0]"), ("netns", "[ns:4026531840]"),
        ("pid", "[task:curl-4242/4243]"), ("group", "[ip-in   ]"), ("mark", "[mark:0x1f]"), ("len", "[len:1514]"),
    ],
)  # fmt: skip
def test_a_column(column: str, text: str) -> None:
    assert column in COLUMNS
    assert shown(FULL, columns=(column,)) == f"[12.000345] [ip_rcv              ]{text} {PING_TEXT}\n"


def test_columns_are_in_the_users_order() -> None:
    line = "[12.000345] [ip_rcv              ][len:1514][2:eth0][0a0b0c00]"
    assert shown(FULL, columns=("len", "if", "id")) == f"{line} {PING_TEXT}\n"


def test_columns_beside_those_of_detail() -> None:
    line = "[12.000345] [0a0b0c00][ip_rcv              ][cpu:3  ][2:eth0][task:curl-4242/4243][ns:4026531840][len:1514]"
    assert shown(FULL, detail=True, columns=("len", "if", "id")) == f"{line} {PING_TEXT}\n"


def test_columns_of_what_is_not_known() -> None:
    unknown = RECEIVED._replace(trace="other", packet=PING._replace(length=98))
    line = "[12.000345] [other               ][mark:?][len:98][        ][ns:?]"
    assert shown(unknown, columns=("mark", "len", "group", "netns")) == f"{line} {PING_TEXT}\n"


@pytest.fixture
def kolkata() -> Iterator[None]:
    """A time zone with half an hour in it."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "IST-5:30"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_dates(kolkata: None) -> None:
    # 1,000,000,000 s after 1970 it was 01:46:40 in Greenwich, on September 9th, 2001.
    offset_ns = 1_000_000_000 * 10**9 - 12 * 10**9
    assert shown(RECEIVED, wall_offset_ns=offset_ns) == (
        f"[2001-09-09 07:16:40.000345] [ip_rcv              ] {PING_TEXT}\n"
    )
    later = RECEIVED._replace(time_ns=RECEIVED.time_ns + 10**9)
    assert [line[:21] for line in shown(RECEIVED, later, wall_offset_ns=offset_ns).splitlines()] == [
        "[2001-09-09 07:16:40.", "[2001-09-09 07:16:41.",
    ]  # fmt: skip
    # The sum's microseconds, not those of either.
    assert shown(RECEIVED, wall_offset_ns=offset_ns + 999_654_322).startswith("[2001-09-09 07:16:41.000000] ")


def test_a_clock_that_is_set(kolkata: None) -> None:
    out = io.StringIO()
    sink = Text(out, Display(wall_offset_ns=0), KNOWN)
    for offset_ns in (1_000_000, 1_000_001, 0):
        sink.keep_time(offset_ns)
        sink.events([RECEIVED])
    # Less than a millisecond is the measurement's own doing.
    assert [line[21:28] for line in out.getvalue().splitlines()] == ["000345]", "001345]", "000345]"]
    sink = Text(out, Display(), KNOWN)
    sink.keep_time(10**18)
    sink.events([RECEIVED])
    assert out.getvalue().endswith(shown(RECEIVED))


@pytest.mark.parametrize(
    ("drop", "note"),
    [
        (Drop(0xABCD, None), "*at_abcd+0x12*"),
        (Drop(0xABCD, 2), "*reason: REASON_2, at_abcd+0x12*"),
        (Drop(0xABCD, 0), "*reason: REASON_0, at_abcd+0x12*"),
    ],
)
def test_drops(drop: Drop, note: str) -> None:
    line = RECEIVED._replace(trace="kfree_skb", drop=drop)
    assert shown(line) == f"[12.000345] [kfree_skb           ] {PING_TEXT} {note}\n"


def test_a_drop_at_an_unknown_place() -> None:
    out = io.StringIO()
    Text(out, Display(), Lookups()).events([RECEIVED._replace(drop=Drop(0xFFFFFFFFC0ABCDEF, 2))])
    assert out.getvalue().endswith(f"{PING_TEXT} *reason: 2, 0xffffffffc0abcdef*\n")


@pytest.mark.parametrize(
    ("trace", "latency", "note"),
    [
        ("ip_rcv", False, "*return: ip_rcv-1*"),
        ("ip_rcv", True, "*return: ip_rcv-1 after 1.002ms*"),
        ("void", False, "*return*"),
        ("void", True, "*return after 1.002ms*"),
    ],
)
def test_returns(trace: str, latency: bool, note: str) -> None:
    line = RECEIVED._replace(trace=trace, returned=Return(RECEIVED.time_ns + 1_002_999, 1))
    assert shown(line, latency=latency) == f"[12.000345] [{trace:<20}] {PING_TEXT} {note}\n"


def test_the_return_comes_before_the_drop() -> None:
    line = RECEIVED._replace(returned=Return(RECEIVED.time_ns, 1), drop=Drop(0xABCD, 2))
    assert shown(line).endswith(f"{PING_TEXT} *return: ip_rcv-1* *reason: REASON_2, at_abcd+0x12*\n")


def test_stacks() -> None:
    first = RECEIVED._replace(stack=(0xFFFFFFFF81234567, 0xABC))
    stack = "Call Stack:\n    -> [ffffffff81234567]at_ffffffff81234567+0x12\n    -> [abc]at_abc+0x12\n"
    none = "Call Stack:\n    -> (no stack: the kernel could not walk it)\n"
    line = shown(RECEIVED)
    assert shown(first, RECEIVED) == f"{line}{stack}{line}"
    # Those that were asked for and did not come are told.
    assert shown(RECEIVED, first, stacks=frozenset({"ip_rcv"})) == f"{line}{none}{line}{stack}"
    assert shown(RECEIVED, stacks=frozenset({"ip_output"})) == line
    assert block(RECEIVED, first, stacks=frozenset({"ip_rcv"})) == f"{HEADER}{line}{none}{line}{stack}\n"


def block(
    *events: Event, skbs: tuple[int, ...] = (), unfinished: bool = False, missing: bool = False, **display: Any
) -> str:
    """A packet's block; its skbs are those of the events unless they are given."""
    skbs = skbs or tuple(dict.fromkeys(event.skb for event in events)) or (SKB,)
    return shown(context=Context(7, skbs, numbered(events), unfinished, missing), **display)


def numbered(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events with their numbers among those of their skb."""
    counts: dict[int, Iterator[int]] = {}
    return tuple(event._replace(number=next(counts.setdefault(event.skb, count()))) for event in events)


HEADER = "***************** 0a0b0c00 ***************\n"


def steps(*events: Event) -> list[Event]:
    """The events 1.0005 ms apart."""
    return [event._replace(time_ns=event.time_ns + at * 1_000_500) for at, event in enumerate(events)]


def body(*events: Event, **display: Any) -> list[str]:
    """The lines of a block, those of events without their time."""
    lines = block(*steps(*events), **display).splitlines()[1:-1]
    return [line.partition("] ")[2] if line.startswith("[12.") else line for line in lines]


def at(trace: str, skb: int = SKB, packet: Packet = PING, device: Optional[Device] = None, **more: Any) -> Event:
    return Event(RECEIVED.time_ns, trace, skb, packet, device=device, **more)


def test_a_packets_block() -> None:
    later = RECEIVED._replace(time_ns=12_000_400_000, trace="consume_skb")
    assert block(RECEIVED, later) == (
        f"{HEADER}[12.000345] [ip_rcv              ] {PING_TEXT}\n[12.000400] [consume_skb         ] {PING_TEXT}\n\n"
    )


CLONE = SKB + 0x100


def test_a_packet_with_clones() -> None:
    events = [at("skb_clone"), at("tpacket_rcv", CLONE), at("ip_rcv"), at("consume_skb", CLONE)]
    assert block(*steps(*events)).startswith("***************** 0a0b0c00,0a0b0d00 ***************\n")
    assert body(*events) == [
        f"[skb_clone           ][a] {PING_TEXT}",
        f"[tpacket_rcv         ][b] {PING_TEXT} *clone 0a0b0d00*",
        f"[ip_rcv              ][a] {PING_TEXT}",
        f"[consume_skb         ][b] {PING_TEXT}",
    ]
    # Where the columns tell the skb, no letter has to.
    assert body(*events, columns=("id",))[1] == f"[tpacket_rcv         ][0a0b0d00] {PING_TEXT} *clone 0a0b0d00*"
    assert "[b]" not in block(*events, detail=True)


def test_the_letter_comes_before_the_columns() -> None:
    events = [at("skb_clone", detail=DETAIL), at("tpacket_rcv", CLONE, detail=DETAIL)]
    assert body(*events, columns=("cpu",))[0] == f"[skb_clone           ][a][cpu:3  ] {PING_TEXT}"


def test_segments() -> None:
    events = [at("skb_clone"), at("__skb_gso_segment"), at("ip_output"), at("ip_output", CLONE), at("x", CLONE + 256)]
    notes = [line.partition(" *")[2] for line in body(*events)]
    assert notes == ["", "", "", "segment 0a0b0d00*", "segment 0a0b0e00*"]


def test_many_skbs() -> None:
    events = [at("skb_clone", SKB + at_ * 256) for at_ in range(28)]
    letters = [line.partition("][")[2].partition("]")[0] for line in body(*events)]
    assert letters == [*"abcdefghijklmnopqrstuvwxyz", "aa", "ab"]


L0, R0 = Device(5, "l0", 11), Device(7, "r0", 12)


def test_where_a_packet_goes() -> None:
    events = [
        at("ip_output", device=L0), at("veth_xmit", device=L0), at("ip_rcv", device=R0._replace()), at("x", device=R0),
        at("x", device=None), at("x", device=ETH0), at("x", device=Device(9, "vlan7", OWN)), at("x", device=L0),
        at("x", device=Device(7, "x0", 13)),
    ]  # fmt: skip
    assert [line for line in body(*events) if line.startswith(" ")] == [
        "    ~ l0@left",
        "    ~ l0@left -> r0@right",
        "    ~ r0@right -> eth0",
        "    ~ eth0 -> vlan7",
        "    ~ vlan7 -> l0@left",
        "    ~ l0@left -> x0@13",
    ]
    assert [number for number, line in enumerate(body(*events)) if line.startswith(" ")] == [0, 3, 7, 9, 11, 13]
    assert not [line for line in body(*events, detail=True) if line.startswith(" ")]
    assert [line for line in body(*events, columns=("if",)) if line.startswith(" ")]
    # Single hits are not part of a way.
    assert "~" not in shown(*events)


@pytest.mark.parametrize(
    ("devices", "moves"),
    [
        # A local packet gets its device on the way down: that is told, its beginning is not.
        ([Device(0, "", 11), L0], ["~ l0@left"]),
        ([Device(0, "", 11), Device(0, "", 11)], ["~ @left"]),
        ([Device(0, "", OWN)], []),
        ([Device(0, "", 0)], []),
        # In the socket's queue it has none any more: it is still there.
        ([L0, Device(0, "", 11), L0], ["~ l0@left"]),
        ([L0, Device(0, "", 12)], ["~ l0@left", "~ l0@left -> @right"]),
        ([L0, Device(0, "", OWN)], ["~ l0@left", f"~ l0@left -> @{OWN}"]),
        ([Device(0, "", 11), R0], ["~ @left", "~ @left -> r0@right"]),
        ([Device(0, "", OWN), R0], [f"~ @{OWN} -> r0@right"]),
    ],
)
def test_places_without_a_device(devices: list[Device], moves: list[str]) -> None:
    lines = body(*(at("x", device=device) for device in devices))
    assert [line.strip() for line in lines if line.startswith(" ")] == moves


def test_clones_go_their_own_ways() -> None:
    other = Device(8, "l1", 11)
    events = [
        at("br_forward", device=L0), at("skb_clone", device=L0), at("x", CLONE, device=L0), at("y", device=R0),
        at("x", CLONE, device=other), at("y", device=R0), at("z", CLONE + 256, device=L0),
    ]  # fmt: skip
    assert [line for line in body(*events) if line.startswith(" ")] == [
        "    ~ [a] l0@left",
        "    ~ [a] l0@left -> r0@right",
        "    ~ [b] l0@left -> l1@left",
        "    ~ [c] l0@left",
    ]


def test_a_clone_at_the_address_of_another() -> None:
    before, after = packet(IP, UDP, ports(4444, 53)), packet(IP, UDP, ports(4444, 53), source="10.9.9.9")
    events = [
        at("skb_clone", packet=before, device=L0, number=0), at("x", CLONE, before, L0, number=0),
        at("consume_skb", CLONE, before, L0, number=1), at("x", packet=before, device=R0, number=1),
        at("skb_clone", packet=after, device=R0, number=2), at("x", CLONE, after, R0, number=0),
        at("consume_skb", CLONE, after, R0, number=1), at("x", CLONE, after, L0, number=0),
        at("consume_skb", packet=after, device=R0, number=3),
    ]  # fmt: skip
    text = shown(context=Context(7, (SKB, CLONE), tuple(events), False, False))
    lines = [line.replace(packet_text(before), "B").replace(packet_text(after), "A") for line in text.splitlines()]
    assert [line.partition("] ")[2] if line.startswith("[12.") else line for line in lines] == [
        "***************** 0a0b0c00,0a0b0d00 ***************",
        "    ~ [a] l0@left",
        "[skb_clone           ][a] B",
        "[x                   ][b] B *clone 0a0b0d00*",
        "[consume_skb         ][b] B",
        "    ~ [a] l0@left -> r0@right",
        "[x                   ][a] B",
        "[skb_clone           ][a] A *NAT: source 10.0.0.1:4444 -> 10.9.9.9:4444*",
        "[x                   ][c] A *clone 0a0b0d00*",
        "[consume_skb         ][c] A",
        "    ~ [d] l0@left",
        "[x                   ][d] A *clone 0a0b0d00*",
        "[consume_skb         ][a] A",
        "",
    ]


def test_changes_of_the_headers() -> None:
    before, after = packet(IP, UDP, ports(4444, 53)), packet(IP, UDP, ports(4444, 53), source="10.9.9.9")
    wrapped = packet(IP, 4, inner=after._replace(tunnel=1), l3_length=104)
    events = [
        at("ip_rcv", packet=before), at("ip_output", packet=after), at("x", packet=after), at("x", CLONE, before),
        at("x", packet=wrapped), at("x", CLONE, after, drop=Drop(0xABCD, 2)),
    ]  # fmt: skip
    assert [line.partition(" *")[2] for line in body(*events)] == [
        "", "NAT: source 10.0.0.1:4444 -> 10.9.9.9:4444*", "", "clone 0a0b0d00*", "encapsulated*",
        "reason: REASON_2, at_abcd+0x12* *NAT: source 10.0.0.1:4444 -> 10.9.9.9:4444*",
    ]  # fmt: skip
    assert "*" not in shown(*events[:3])


def test_headers_that_were_built_meanwhile_did_not_change() -> None:
    before = packet(IP, TCP, tcp(2), flags=FROM_SOCKET, source="0.0.0.0")
    assert not [line for line in body(at("x", packet=before), at("y", packet=packet(IP, TCP, tcp(2)))) if "*" in line]


def test_tiny() -> None:
    before, after = packet(IP, UDP, ports(4444, 53)), packet(IP, UDP, ports(4444, 53), source="10.9.9.9")
    events = [
        at("ip_rcv", packet=before, device=L0),
        at("x", packet=after),
        at("y", CLONE, after),
        at("z", CLONE, after),
    ]
    assert body(*events, tiny=True) == [
        "    ~ [a] l0@left",
        "[ip_rcv              ][a] UDP: 10.0.0.1:4444 -> 10.0.0.2:53",
        "[x                   ][a] *NAT: source 10.0.0.1:4444 -> 10.9.9.9:4444*",
        "[y                   ][b] *clone 0a0b0d00*",
        "[z                   ][b]",
    ]
    assert body(at("x"), at("y"), tiny=True, latency=True)[1] == "[y                   ] latency: 1.000ms"


WAY = (at("ip_rcv"), at("ip_local_deliver"), at("kfree_skb", drop=Drop(0xABCD, None)), at("consume_skb", CLONE))


@pytest.mark.parametrize(
    ("way", "display", "total"),
    [
        (WAY[:2], {}, "1.000ms"),
        # A packet's end is not part of its way, nor are those of its clones.
        (WAY, {}, "1.000ms"),
        (WAY[:3], {}, "1.000ms"),
        (WAY, {"latency_free": True}, "3.001ms"),
        (WAY, {"end_traces": frozenset({"kfree_skb"})}, "2.001ms"),
        (WAY, {"end_traces": frozenset({"ip_rcv"})}, "1.000ms"),
        (WAY[2:3], {}, "0.000ms"),
        # Only the last ones are left out.
        ((WAY[0], WAY[3], WAY[1]), {}, "2.001ms"),
    ],
)
def test_the_time_in_all(way: tuple[Event, ...], display: dict[str, Any], total: str) -> None:
    assert body(*way, latency=True, **display)[-1] == f"total latency: {total}"


def test_the_time_of_a_packet_that_is_not_shown() -> None:
    sink = Text(io.StringIO(), Display(), KNOWN)
    assert sink.duration_ns(steps(*WAY)) == 1_000_500
    assert sink.duration_ns(()) == 0


def test_the_time_between_lines() -> None:
    later = WAY[2]._replace(time_ns=RECEIVED.time_ns + 12_345_678_912)
    assert block(WAY[0], later, latency=True, missing=True) == (
        f"{HEADER}[12.000345] [ip_rcv              ] {PING_TEXT}\n"
        f"[24.346024] [kfree_skb           ] {PING_TEXT} latency: 12345.678ms *at_abcd+0x12*\n"
        "total latency: 0.000ms\n(incomplete: part of this packet's path was lost)\n\n"
    )
    assert "latency" not in block(latency=True)


BOLD, RED, YELLOW, CYAN, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[0m"


def test_colours() -> None:
    events = steps(at("ip_rcv", device=L0), at("kfree_skb", CLONE, device=L0, drop=Drop(0xABCD, 2)))
    text = block(*events, colour=True)
    assert text.splitlines() == [
        f"{BOLD}***************** 0a0b0c00,0a0b0d00 ***************{PLAIN}",
        f"{CYAN}    ~ [a] l0@left{PLAIN}",
        f"[12.000345] [ip_rcv              ][a] {PING_TEXT}",
        f"[12.001346] {RED}[kfree_skb           ]{PLAIN}[b] {PING_TEXT}{RED} *reason: REASON_2, at_abcd+0x12*{PLAIN}"
        f"{YELLOW} *clone 0a0b0d00*{PLAIN}",
        "",
    ]
    # Nothing else but the colours is another.
    for code in (BOLD, RED, YELLOW, CYAN, PLAIN):
        text = text.replace(code, "")
    assert text == block(*events)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "terminal", "file"),
    [
        ({}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "", "CLICOLOR_FORCE": "0"}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False, False),
        ({"CLICOLOR": "0"}, False, False),
        ({"CLICOLOR": "1"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"CLICOLOR_FORCE": "1", "TERM": "dumb"}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_who_gets_colours(environ: Mapping[str, str], terminal: bool, file: bool) -> None:
    assert wants_colour(Terminal(), environ) is terminal
    assert wants_colour(io.StringIO(), environ) is file


@pytest.mark.parametrize(
    ("unfinished", "missing", "marks"),
    [
        (False, True, "(incomplete: part of this packet's path was lost)\n"),
        (True, False, "(unfinished: this packet was not seen to be freed)\n"),
        (
            True, True,
            "(incomplete: part of this packet's path was lost)\n(unfinished: this packet was not seen to be freed)\n",
        ),
    ],
)  # fmt: skip
def test_marks_of_a_block(unfinished: bool, missing: bool, marks: str) -> None:
    assert block(RECEIVED, unfinished=unfinished, missing=missing) == (
        f"***************** 0a0b0c00 ***************\n[12.000345] [ip_rcv              ] {PING_TEXT}\n{marks}\n"
    )


def test_a_block_without_events() -> None:
    assert block(missing=True) == (
        "***************** 0a0b0c00 ***************\n(incomplete: part of this packet's path was lost)\n\n"
    )
    assert block() == "***************** 0a0b0c00 ***************\n\n"


class Counting(io.StringIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_what_is_written_is_seen_when_the_batch_is_done() -> None:
    out = Counting()
    sink = Text(out, Display(), Lookups())
    sink.events([RECEIVED])
    sink.context(Context(7, (SKB,), (RECEIVED,), False, False))
    sink.note("(3 events lost)")
    assert out.flushes == 0
    sink.flush()
    assert out.flushes == 1
    sink.end(None)
    assert out.getvalue().endswith("end trace...\n") and out.flushes == 2


def test_what_is_held_back_is_not_written_before() -> None:
    out = Counting()
    held = Held(out)
    sink = Text(held, Display(), Lookups())
    sink.events([RECEIVED])
    assert out.getvalue() == ""
    sink.flush()
    first = out.getvalue()
    assert first.count("\n") == 1 and out.flushes == 1
    sink.events([RECEIVED])
    sink.flush()
    assert out.getvalue() == 2 * first


REMARKS = {"nf_hook_slow": [("info", "ipv4 in chain: INPUT"), ("error", "it was dropped")], "ip_rcv": [("warn", "hm")]}


def remarked(item: Event) -> Iterable[tuple[str, str]]:
    return REMARKS.get(item.trace, [])


def lines_with(remarked_traces: frozenset[str], *events: Event, **display: Any) -> list[str]:
    """What follows the packet's text in the lines of a block."""
    out = io.StringIO()
    know = replace(KNOWN, remarks=remarked, remarked=remarked_traces)
    Text(out, Display(**display), know).context(Context(7, (SKB,), numbered(steps(*events)), False, False))
    return [line.partition(PING_TEXT)[2] for line in out.getvalue().splitlines() if PING_TEXT in line]


def test_remarks() -> None:
    events = [at("ip_rcv"), at("nf_hook_slow"), at("ip_output")]
    said = [" *hm*", " *ipv4 in chain: INPUT* *it was dropped*", ""]
    assert lines_with(frozenset(REMARKS), *events) == said
    # Of the others it is asked only where an event tells more than the packet.
    assert lines_with(frozenset({"ip_rcv"}), *events) == [" *hm*", "", ""]
    assert lines_with(frozenset(), at("nf_hook_slow", facts=(("hook", 1),))) == said[1:2]
    assert lines_with(frozenset(REMARKS), *events, colour=True) == [
        f"{YELLOW} *hm*{PLAIN}", f"\x1b[2m *ipv4 in chain: INPUT*{PLAIN}{RED} *it was dropped*{PLAIN}", "",
    ]  # fmt: skip


def test_remarks_come_between_what_was_told_and_what_changed() -> None:
    after = packet(IP, UDP, ports(4444, 53))
    hook = at("nf_hook_slow", packet=after, returned=Return(RECEIVED.time_ns, 0), drop=Drop(0xABCD, 2))
    out = io.StringIO()
    sink = Text(out, Display(), replace(KNOWN, remarks=remarked))
    before = packet(IP, UDP, ports(4444, 53), source="10.9.9.9")
    events = steps(at("x", packet=before), hook)
    sink.context(Context(7, (SKB,), numbered(events), False, False))
    assert out.getvalue().splitlines()[2].partition(" *")[2] == (
        "return: nf_hook_slow-0* *reason: REASON_2, at_abcd+0x12* *ipv4 in chain: INPUT* *it was dropped*"
        " *NAT: source 10.9.9.9:4444 -> 10.0.0.1:4444*"
    )


def test_remarks_on_single_hits() -> None:
    out = io.StringIO()
    Text(out, Display(), replace(KNOWN, remarks=remarked)).events([at("ip_rcv"), at("ip_output")])
    assert [line.partition(PING_TEXT)[2] for line in out.getvalue().splitlines()] == [" *hm*", ""]


ANALYSIS = "---------------- ANALYSIS RESULT ---------------------\n"


class Diagnosing:
    """A sink that finds what it is told to."""

    def __init__(self, **options: bool) -> None:
        self.out = Counting()
        self.levels: Sequence[str] = ()
        wanted = {"quiet": False, "keep": False, **options}
        self.sink = Diagnosed(self.out, Display(), KNOWN, self.findings, **wanted)

    def findings(self, context: Context) -> Sequence[Finding]:
        return [Finding(context.events[0], level, "a", f"it is {level}") for level in self.levels]

    def show(self, *levels: str) -> str:
        """What is written of a packet with such findings."""
        self.levels = levels
        before = len(self.out.getvalue())
        self.sink.context(Context(7, (SKB,), (at("ip_rcv", device=L0),), False, False))
        return self.out.getvalue()[before:]


PATH = f"{HEADER}    ~ l0@left\n[12.000345] [ip_rcv              ] {PING_TEXT}\n\n"


def happens(number: int, level: str) -> str:
    return f"[{number}] {level} happens in ip_rcv(ip-in):\n"


def test_a_diagnosed_packet() -> None:
    diagnosing = Diagnosing()
    good = f"{PATH}{ANALYSIS}this is a good packet!\n\n"
    assert diagnosing.show() == good
    assert diagnosing.show("info") == good
    warned = f"{PATH}{ANALYSIS}{happens(1, 'WARNING')}\tIt is warn\n    at:\n\tl0@left\n\n"
    assert diagnosing.show("warn") == warned
    assert not diagnosing.sink.done
    assert diagnosing.show("error") == (
        f"{PATH}{ANALYSIS}{happens(1, 'ERROR')}\tIt is error\n    at:\n\tl0@left\n\nanalysis finished!\n"
    )
    assert diagnosing.sink.done


def test_packets_with_errors_do_not_end_a_run_that_is_to_go_on() -> None:
    diagnosing = Diagnosing(keep=True)
    for _ in range(2):
        assert diagnosing.show("warn", "error").endswith("\tIt is error\n    at:\n\tl0@left\n\n")
        assert not diagnosing.sink.done


def test_good_packets_are_not_shown_to_who_wants_none() -> None:
    diagnosing = Diagnosing(quiet=True)
    assert [diagnosing.show(*levels) for levels in ((), ("info",), ("info", "info"))] == ["", "", ""]
    assert diagnosing.show("info", "warn").startswith(PATH + ANALYSIS)
    assert not diagnosing.sink.done
    assert diagnosing.show("error").endswith("analysis finished!\n")
    assert diagnosing.sink.done


def test_a_diagnosed_packet_is_asked_about_once() -> None:
    asked: list[int] = []

    def findings(context: Context) -> Sequence[Finding]:
        asked.append(context.packet_id)
        return ()

    sink = Diagnosed(io.StringIO(), Display(), KNOWN, findings, quiet=False, keep=False)
    sink.context(Context(7, (SKB,), (RECEIVED,), False, False))
    assert asked == [7]


def test_a_text_in_the_colour_of_its_level() -> None:
    sink = Text(io.StringIO(), Display(colour=True), KNOWN)
    codes = ["\x1b[2m", YELLOW, RED]
    assert [sink.paint(level, "x") for level in ("info", "warn", "error")] == [f"{code}x{PLAIN}" for code in codes]
    assert Text(io.StringIO(), Display(), KNOWN).paint("error", "x") == "x"


QUIET = Summary(
    unit="packets", shown=3, events=40, lost_messages=(0, 0), lost_packets=0, unread_messages=0, missed_hits=0,
    untracked=0, evicted=0, unfinished=0, incomplete=0, skipped=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "3 packets, 40 events, 0 messages lost, 0 unfinished, 0 traces skipped"),
        ({"unit": "events", "shown": 40}, "40 events, 0 messages lost, 0 unfinished, 0 traces skipped"),
        (
            {"lost_messages": (0, 2, 0, 5)},
            "3 packets, 40 events, 7 messages lost (cpu1: 2, cpu3: 5), 0 unfinished, 0 traces skipped",
        ),
        (
            {"skipped": 2, "incomplete": 1, "unfinished": 4},
            "3 packets, 40 events, 0 messages lost, 4 unfinished, 1 incomplete, 2 traces skipped (-v tells why)",
        ),
        (
            {"lost_packets": 1, "unread_messages": 5, "missed_hits": 2, "untracked": 3, "evicted": 4},
            "3 packets, 40 events, 0 messages lost, 1 packet lost whole, 5 messages left unread, "
            "2 hits missed, "
            "3 packets not followed for want of room, 4 skbs pushed out of the tracking map, "
            "0 unfinished, 0 traces skipped",
        ),
        (
            {"shown": 1, "events": 1, "lost_messages": (0, 1), "short": 1, "normal_frees": 1, "skipped": 1},
            "1 packet, 1 event, 1 message lost (cpu1: 1), 1 packet below the least latency, 1 normal free left out, "
            "0 unfinished, 1 trace skipped (-v tells why)",
        ),
        ({"unit": "drops", "shown": 1}, "1 drop, 0 messages lost, 0 traces skipped"),
        (
            {"events": None, "steps_lost": 1, "families_lost": 1, "untracked": 1},
            "3 packets, 0 messages lost, 1 packet not followed for want of room, 1 step not counted for want of room, "
            "1 skb of packets with clones not measured for want of room, 0 unfinished, 0 traces skipped",
        ),
        (
            {"short": 7, "over_rate": 8, "calls_lost": 9},
            "3 packets, 40 events, 0 messages lost, 9 returns missed, 8 packets beyond the rate limit, "
            "7 packets below the least latency, 0 unfinished, 0 traces skipped",
        ),
        (
            {"events": None, "one_point": 4, "steps_lost": 5, "families_lost": 6},
            "3 packets, 0 messages lost, 4 packets seen at one point only, 5 steps not counted for want of room, "
            "6 skbs of packets with clones not measured for want of room, 0 unfinished, 0 traces skipped",
        ),
    ],
)
def test_the_closing_line(changes: dict[str, Any], text: str) -> None:
    values = {**QUIET.__dict__, **changes}
    assert Summary(**values).text(verbose=False) == text
    assert Summary(**values).text(verbose=True) == text.replace(" (-v tells why)", "")


def test_how_long_a_packet_took() -> None:
    out = io.StringIO()
    sink = LatencyText(out, Display(), KNOWN)
    first = RECEIVED
    last = RECEIVED._replace(time_ns=RECEIVED.time_ns + 1_234_567, trace="ip_local_deliver_finish")
    end = last._replace(time_ns=last.time_ns + 9_000_000, trace="consume_skb")
    sink.events((end, first, last))
    sink.events((first, first, first))
    assert out.getvalue() == (
        f"[12.010580] [consume_skb         ][ip_rcv -> ip_local_deliver_finish   ] {PING_TEXT} latency: 1.234ms\n"
        f"[12.000345] [ip_rcv              ][ip_rcv -> ip_rcv                    ] {PING_TEXT} latency: 0.000ms\n"
    )
