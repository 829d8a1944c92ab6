"""Filter expressions: classic BPF translated to C must decide as classic BPF, and as the packets' contents say."""

import ctypes
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from nettrace import pcap
from nettrace.errors import KernelError, UsageError
from nettrace.filters import PacketFilter
from nettrace.pcap import Instruction
from nettrace.rebuilt import Frame
from tests import record_pcap
from tests.native import BASE, UNSET, Native, needs_compiler

try:
    pcap.libpcap()
    HAVE_LIBPCAP = True
except KernelError:
    HAVE_LIBPCAP = False
needs_libpcap = pytest.mark.skipif(not HAVE_LIBPCAP, reason="no libpcap on this machine")

# Packets, made by hand.


def ether(protocol: int, payload: bytes, *tags: tuple[int, int]) -> bytes:
    tagged = b"".join(struct.pack(">HH", *tag) for tag in tags)
    return bytes.fromhex("020000000002 020000000001") + tagged + struct.pack(">H", protocol) + payload


def ipv4(
    protocol: int, payload: bytes, src: str = "10.0.0.1", dst: str = "10.0.0.2", *, options: bytes = b"",
    fragment: int = 0, ttl: int = 64,
) -> bytes:  # fmt: skip
    length = 20 + len(options)
    first = 0x40 | length // 4
    header = struct.pack(">BBHHHBBH", first, 0, length + len(payload), 1, fragment, ttl, protocol, 0)
    return header + socket.inet_aton(src) + socket.inet_aton(dst) + options + payload


def ipv6(next_header: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")
    return struct.pack(">IHBB", 6 << 28, len(payload), next_header, 64) + addresses + payload


def tcp(sport: int, dport: int, flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 2, 0x50, flags, 1000, 0, 0)


def udp(sport: int, dport: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


PING = ipv4(1, bytes((8, 0, 0, 0, 0, 1, 0, 1)) + bytes(24))
IP_PACKETS = {
    "syn": ipv4(6, tcp(1234, 80, 0x02)),
    "ack": ipv4(6, tcp(80, 1234, 0x10), "10.0.0.2", "10.0.0.1"),
    "options": ipv4(6, tcp(1234, 80, 0x12), options=bytes(8)),
    "ssh": ipv4(6, tcp(5000, 22, 0x18), "10.0.0.1", "192.168.0.1"),
    "dns": ipv4(17, udp(999, 53, b"\1\2\3\4"), "192.168.0.1", "192.168.0.2"),
    "fragment": ipv4(6, tcp(1234, 80, 0x02), fragment=0x0010),
    "ping": PING,
    "other ping": ipv4(1, bytes((8, 0, 0, 0, 0, 1, 0, 1)), "172.16.0.1", "172.16.0.2"),
    "last hop": ipv4(17, udp(33434, 33435), ttl=69),
    "expired": ipv4(17, udp(1, 2), "192.168.0.1", "192.168.0.2", ttl=0),
    "udp6": ipv6(17, udp(1000, 2000)),
    "web6": ipv6(6, tcp(3000, 80, 0x10)),
    "long": ipv4(17, udp(7, 7, bytes(100)), "192.168.0.1", "192.168.0.2"),
}
FRAMES = {
    **{name: ether(0x86DD if data[0] >> 4 == 6 else 0x0800, data) for name, data in IP_PACKETS.items()},
    "arp": ether(0x0806, struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20)),
    "vlan5": ether(0x0800, PING, (0x8100, 0x2005)),
    "vlan6": ether(0x0800, PING, (0x8100, 6)),
    "qinq": ether(0x0800, PING, (0x88A8, 6), (0x8100, 7)),
    "cut": ether(0x0800, IP_PACKETS["syn"])[:36],
}

V4 = {name for name, data in IP_PACKETS.items() if data[0] >> 4 == 4}
V4_FRAMES = V4 | {"cut"}

# Which of the frames match, and which of the IP packets; none: the expression has no such form.
EXPECTED: dict[str, tuple[set[str], Optional[set[str]]]] = {
    "tcp port 80": ({"syn", "ack", "options", "web6"}, {"syn", "ack", "options", "web6"}),
    "host 10.0.0.1 and icmp": ({"ping"}, {"ping"}),
    "ip6 and udp": ({"udp6"}, {"udp6"}),
    "vlan 5": ({"vlan5"}, None),
    "vlan and icmp": ({"vlan5", "vlan6"}, None),
    "vlan and vlan 7 and icmp": ({"qinq"}, None),
    "tcp[tcpflags] & tcp-syn != 0": ({"syn", "options"}, {"syn", "options"}),
    "net 10.0.0.0/8 and not port 22": (
        {"syn", "ack", "options", "fragment", "ping", "last hop"},
        {"syn", "ack", "options", "fragment", "ping", "last hop"},
    ),
    "greater 100": ({"long"}, {"long"}),
    "arp": ({"arp"}, None),
    "ether src 02:00:00:00:00:01": (set(FRAMES), None),
    "ether[6] = 2 and udp": ({"dns", "udp6", "last hop", "long", "expired"}, None),
    "not ip and not ip6": ({"arp", "vlan5", "vlan6", "qinq"}, set()),
    "ip[0] / ip[8] = 1": (V4_FRAMES - {"expired"}, V4 - {"expired"}),
    "ip[2:2] - (ip[0] & 0xf) * 4 > 90": ({"long"}, {"long"}),
    "ip[8] << 2 | 3 = 259": (V4_FRAMES - {"last hop", "expired"}, V4 - {"last hop", "expired"}),
    "ip[8] % 10 = 9": ({"last hop"}, {"last hop"}),
    "ip[9] ^ 0x10 = 1": ({"dns", "last hop", "long", "expired"}, {"dns", "last hop", "long", "expired"}),
    "ip[8] >> ip[1] = 69": ({"last hop"}, {"last hop"}),
    "ip[2:2] + 14 = len": (V4_FRAMES - {"cut"}, set()),
    "udp[8:4] = 0x01020304": ({"dns"}, {"dns"}),
    "udp[100] = 1": (set(), set()),
}


def test_all_that_is_recorded_is_expected() -> None:
    assert set(record_pcap.load()) == set(EXPECTED) == set(record_pcap.EXPRESSIONS)


# Classic BPF as its manual page describes it.


def interpret(program: Sequence[Instruction], data: bytes) -> bool:
    a = x = at = 0
    scratch = [0] * 16

    def load(offset: int, size: int) -> int:
        if offset + size > len(data):
            raise IndexError
        return int.from_bytes(data[offset : offset + size], "big")

    try:
        while True:
            code, jt, jf, k = program[at]
            at += 1
            kind, operand = code & 7, x if code & 8 else k
            if kind in (0, 1):
                size = {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
                mode = code & 0xE0
                value = (
                    k if mode == 0x00
                    else load(k, size) if mode == 0x20
                    else load(x + k, size) if mode == 0x40
                    else scratch[k] if mode == 0x60
                    else len(data) if mode == 0x80
                    else 4 * (load(k, 1) & 0xF)
                )  # fmt: skip
                if kind == 0:
                    a = value
                else:
                    x = value
            elif kind in (2, 3):
                scratch[k] = a if kind == 2 else x
            elif kind == 4:
                a = ALU[code & 0xF0](a, operand) % 2**32
            elif kind == 5:
                if code & 0xF0 == 0:
                    at += k
                else:
                    at += jt if {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: a & operand}[
                        code & 0xF0
                    ] else jf  # fmt: skip
            elif kind == 6:
                return bool(a if code & 0x18 == 0x10 else k)
            elif code & 0xF8 == 0x80:
                a = x
            else:
                x = a
    except (IndexError, ZeroDivisionError):
        return False


ALU: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: lambda a, b: a >> b if b < 32 else 0,
    0x80: lambda a, b: -a,
    0x90: lambda a, b: a % b,
    0xA0: lambda a, b: a ^ b,
}


def random_program(source: random.Random) -> tuple[Instruction, ...]:
    """Any instructions, and jumps to anywhere behind them."""
    length = source.randint(3, 30)
    program = []
    for at in range(length - 1):
        code = source.choice(CODES)
        left = length - at - 2
        k = source.choice((0, 1, source.randint(0, 15), source.randint(0, 60), source.choice(BYTES)))
        if code in (0x60, 0x61, 0x02, 0x03):
            k %= 16
        elif code == 0x05:
            k = source.randint(0, left)
        elif code in (0x64, 0x74, 0x24, 0x04):
            k = source.choice((k, 2**31, 2**32 - 1, 31, 32))
        elif code in (0x20, 0x28, 0x30):
            k %= 2**31  # from 0xfffff000 on it is not the packet's bytes that are meant
        elif code in (0x40, 0x48, 0x50):
            k = source.choice((k, k, 2**32 - 4, 2**31))
        jumps = (min(255, source.randint(0, left)), min(255, source.randint(0, left)))
        program.append(Instruction(code, *(jumps if code & 7 == 5 and code != 0x05 else (0, 0)), k))
    # What was computed shows in the result.
    program.append(Instruction(*source.choice(((0x16, 0, 0, 0), (0x06, 0, 0, 1), (0x06, 0, 0, 0)))))
    return tuple(program)


BYTES = (0x02, 0x06, 0x08, 0x11, 0x40, 0x45, 0x50, 0x81, 0x0800, 0x0A000001, 0xFFFFFFFF)
CODES = (
    *(0x20, 0x28, 0x30) * 4,  # ld, ldh, ldb [k]
    *(0x40, 0x48, 0x50) * 3,  # [x + k]
    *(0x00, 0x60, 0x80, 0x01, 0x61, 0x81, 0xB1, 0xB1),  # ld #k, M[k], len; ldx #k, M[k], len, 4*([k]&0xf)
    *(0x02, 0x03, 0x07, 0x07, 0x87),  # st, stx, tax, txa
    *(code | x for code in range(0x04, 0xA5, 0x10) if code != 0x84 for x in (0, 8)),
    *(0x84, 0x05),  # neg, ja
    *(0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D) * 2,
    *(0x06, 0x16),
)

SOURCE = random.Random(20261122)
RANDOM_PROGRAMS = [random_program(SOURCE) for _ in range(150)]
RANDOM_PACKETS = [
    *FRAMES.values(),
    *(
        bytes(SOURCE.choice((0, 1, 5, 0x45, SOURCE.randint(0, 255))) for _ in range(SOURCE.randint(0, 70)))
        for _ in range(60)
    ),
]

SKB, HEAD = 0x100, 0x1000
HEADROOM = 64


class Programs(Native):
    """Functions translated from classic BPF, tried one by one."""

    def __init__(self, directory: Path, programs: Sequence[Sequence[Instruction]]) -> None:
        never = pcap.translate((), "pcap_l2") + pcap.translate((), "pcap_l3")
        functions = "".join(pcap.translate(program, f"program_{index}") for index, program in enumerate(programs))
        cases = "".join(f"case {index}: return program_{index}(&bytes);" for index in range(len(programs)))
        ask = (
            "int ask(u32 program, u64 skb, u64 head, u32 start, u32 tail, u32 tag)"
            "{ struct place place = { .head = head, .tail = tail };"
            "struct pcap_bytes bytes = { &place, (void *)skb, start, tag };"
            f"switch (program) {{ {cases} }} return -1; }}"
        )
        super().__init__(directory, PacketFilter(expression="arp"), never + functions + ask)
        self.library.ask.argtypes = [ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64] + [ctypes.c_uint32] * 3

    def run(self, program: int, data: bytes, tag: int = 0) -> bool:
        head = put_skb(self, data)
        result = self.library.ask(program, BASE + SKB, head, HEADROOM, HEADROOM + len(data), tag)
        assert result in (0, 1)
        return bool(result)


def put_skb(native: Native, data: bytes, *, pulled: int = 0) -> int:
    """An skb with these bytes, the first of them already pulled; returns its head."""
    # What is around the packet is not to be read.
    head = native.put(HEAD, b"\xa5" * HEADROOM + data + b"\xa5" * 8)
    native.put(SKB, bytes(512))
    native.put_number(BASE + SKB, "OFF_sk_buff__len", "<I", len(data) - pulled)
    native.put_number(BASE + SKB, "OFF_sk_buff__data", "<Q", head + HEADROOM + pulled)
    return head


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Those recorded, L2 and L3 in turn, and then the random ones."""
    recorded = [form.instructions for forms in record_pcap.load().values() for form in forms]
    return Programs(tmp_path_factory.mktemp("pcap"), [*recorded, *RANDOM_PROGRAMS])


@pytest.mark.parametrize("expression", EXPECTED)
def test_the_interpreter_knows_classic_bpf(expression: str) -> None:
    l2, l3 = record_pcap.load()[expression]
    frames, packets = EXPECTED[expression]
    assert {name for name, data in FRAMES.items() if interpret(l2.instructions, data)} == frames
    assert bool(l3.instructions) == (packets is not None)
    if packets is not None:
        assert {name for name, data in IP_PACKETS.items() if interpret(l3.instructions, data)} == packets


@needs_compiler
@pytest.mark.parametrize("expression", EXPECTED)
def test_the_c_decides_as_the_packets_say(programs: Programs, expression: str) -> None:
    index = 2 * list(record_pcap.load()).index(expression)
    frames, packets = EXPECTED[expression]
    assert {name for name, data in FRAMES.items() if programs.run(index, data)} == frames
    assert {name for name, data in IP_PACKETS.items() if programs.run(index + 1, data)} == (packets or set())


@needs_compiler
def test_the_c_decides_as_classic_bpf(programs: Programs) -> None:
    first = 2 * len(EXPECTED)
    matching = 0
    for index, program in enumerate(RANDOM_PROGRAMS):
        for data in RANDOM_PACKETS:
            expected = interpret(program, data)
            matching += expected
            assert programs.run(first + index, data) == expected, (program, data.hex())
    total = len(RANDOM_PROGRAMS) * len(RANDOM_PACKETS)
    assert total / 5 < matching < total * 4 / 5


def test_what_is_recorded_is_judged_as_classic_bpf_does() -> None:
    matching = 0
    for program in RANDOM_PROGRAMS:
        for data in RANDOM_PACKETS:
            # The length of all is never known.
            if not any(code in (0x80, 0x81) for code, *_ in program):
                found = pcap.decide(program, Frame(data, bytes(len(data)), len(data)))
                assert found == interpret(program, data), (program, data.hex())
                matching += bool(found)
    assert matching > 1000


def test_nothing_is_said_that_depends_on_what_is_not_known() -> None:
    source = random.Random(7)
    answers = Counter[Optional[bool]]()
    for program in RANDOM_PROGRAMS:
        # What it was is taken for the length of the IPv4 header.
        if any(code in (0x80, 0x81, 0xB1) for code, *_ in program):
            continue
        for data in RANDOM_PACKETS[:30]:
            unknown = bytes(source.choice((0, 0, 0, 0xFF, 0x0F, 1 << source.randint(0, 7))) for _ in data)
            known = len(data) * source.randint(1, 4) // 4
            found = pcap.decide(program, Frame(data[:known], unknown[:known], len(data)))
            answers[found] += 1
            for _ in range(5):
                other = bytes(
                    byte ^ (source.randint(0, 255) & (hidden if at < known else 0xFF))
                    for at, (byte, hidden) in enumerate(zip(data, unknown))
                )
                assert found in (None, interpret(program, other)), (program, data.hex(), unknown.hex(), other.hex())
    assert min(answers[None], answers[True], answers[False]) > 100, answers


@needs_compiler
def test_a_tag_beside_the_frame_is_seen_in_it(programs: Programs) -> None:
    first = 2 * len(EXPECTED)
    for index, program in enumerate(RANDOM_PROGRAMS):
        for data in RANDOM_PACKETS:
            # What lies beside a frame of at least an Ethernet header and a few bytes more.
            if len(data) >= 20:
                without = data[:12] + data[16:]
                tag = int.from_bytes(data[12:16], "big")
                assert not tag or programs.run(first + index, without, tag) == interpret(program, data), (program, data)


@needs_compiler
@pytest.mark.parametrize("size", [1, 2, 4])
def test_loads_around_the_tag(tmp_path: Path, size: int) -> None:
    data = bytes(range(0x10, 0x30))
    without, tag = data[:12] + data[16:], int.from_bytes(data[12:16], "big")
    code = {1: 0x30, 2: 0x28, 4: 0x20}[size]
    values = [int.from_bytes(data[at : at + size], "big") for at in range(24)]
    loads = [
        (Instruction(code, 0, 0, at), Instruction(0x15, 0, 1, value), Instruction(6, 0, 0, 1), Instruction(6, 0, 0, 0))
        for at, value in enumerate(values)
    ]
    tried = Programs(tmp_path, loads)
    for at in range(len(loads)):
        assert tried.run(at, data), at
        assert tried.run(at, without, tag), at


class Expression(Native):
    """An expression as skb_matches() uses it, from what was recorded."""

    def __init__(self, directory: Path, expression: str) -> None:
        l2, l3 = record_pcap.load()[expression]
        more = pcap.translate(l2.instructions, "pcap_l2") + pcap.translate(l3.instructions, "pcap_l3")
        super().__init__(directory, PacketFilter(expression="arp"), more)

    def matches(
        self, data: bytes, *, mac: Optional[int] = None, l3: Optional[int] = None, pulled: int = 0, tci: int = 0,
        tpid: int = 0,
    ) -> bool:  # fmt: skip
        """mac and l3 are offsets within the data; None: that header is not there."""
        head = put_skb(self, data, pulled=pulled)
        return self.skb_matches(
            BASE + SKB,
            head=head,
            l3=0 if l3 is None else HEADROOM + l3,
            tail=HEADROOM + len(data),
            mac=UNSET if mac is None else HEADROOM + mac,
            vlan_tci=tci,
            vlan_proto=tpid,
        )


@needs_compiler
def test_the_form_is_chosen_by_the_headers(tmp_path: Path) -> None:
    native = Expression(tmp_path, "tcp port 80")
    syn, ssh = FRAMES["syn"], FRAMES["ssh"]
    assert native.matches(syn, mac=0, l3=14)
    assert native.matches(syn, mac=0, l3=14, pulled=14)
    assert native.matches(syn, l3=14)
    assert native.matches(syn, mac=14, l3=14)  # a tun device: the MAC header is there but empty
    assert not native.matches(syn, mac=0)  # no headers yet
    assert not native.matches(syn)
    assert not native.matches(ssh, mac=0, l3=14)
    assert not native.matches(ssh, l3=14)
    # The Ethernet header in front of a tunnel's outer packet is not that of the inner one.
    tunnelled = ether(0x0800, ipv4(4, IP_PACKETS["syn"]))
    assert native.matches(tunnelled, mac=0, l3=34)
    assert not native.matches(tunnelled, mac=0, l3=14)


@needs_compiler
def test_an_skb_without_headers_matches_nothing(tmp_path: Path) -> None:
    native = Expression(tmp_path, "not ip and not ip6")
    assert native.matches(FRAMES["arp"], mac=0, l3=14)
    assert native.matches(FRAMES["arp"], l3=14)
    assert not native.matches(FRAMES["arp"], mac=0)
    assert not native.matches(FRAMES["arp"])


@needs_compiler
def test_tags_in_the_frame_and_beside_it(tmp_path: Path) -> None:
    native = Expression(tmp_path, "vlan 5")
    assert native.matches(FRAMES["vlan5"], mac=0, l3=18)
    assert native.matches(FRAMES["ping"], mac=0, l3=14, tpid=0x8100, tci=0x2005)
    assert not native.matches(FRAMES["ping"], mac=0, l3=14, tpid=0x8100, tci=6)
    assert not native.matches(FRAMES["ping"], mac=0, l3=14)
    assert not native.matches(FRAMES["vlan5"], l3=18)


@needs_compiler
def test_inner_tag_in_the_frame_outer_one_beside_it(tmp_path: Path) -> None:
    native = Expression(tmp_path, "vlan and vlan 7 and icmp")
    assert native.matches(FRAMES["qinq"], mac=0, l3=22)
    inner = ether(0x0800, PING, (0x8100, 7))
    assert native.matches(inner, mac=0, l3=18, tpid=0x88A8, tci=6)
    assert not native.matches(inner, mac=0, l3=18)


@needs_compiler
def test_length_is_that_of_all_from_the_header_on(tmp_path: Path) -> None:
    native = Expression(tmp_path, "greater 100")
    for frame_bytes in (95, 96, 99, 100, 113, 114):
        data = ether(0x0800, ipv4(17, udp(7, 7, bytes(frame_bytes - 42))))
        assert len(data) == frame_bytes
        for pulled in (0, 14, 34):
            assert native.matches(data, mac=0, l3=14, pulled=pulled) == (frame_bytes >= 100)
            assert native.matches(data, mac=0, l3=14, pulled=pulled, tpid=0x8100, tci=1) == (frame_bytes >= 96)
            assert native.matches(data, l3=14, pulled=pulled) == (frame_bytes - 14 >= 100)


# The text itself.


@pytest.mark.parametrize("program", [*RANDOM_PROGRAMS, ()])
def test_labels_are_jumped_to_and_variables_used(program: Sequence[Instruction]) -> None:
    text = pcap.translate(program, "f")
    assert set(re.findall(r"^(l\d+):", text, re.MULTILINE)) == set(re.findall(r"goto (l\d+);", text))
    head, _, body = text.partition(";\n\n") if "u32" in text else ("", "", text)
    for variable in re.findall(r"(\w+) = 0", head):
        assert re.search(rf"\b{variable}\b", body)


def test_a_program_without_instructions_matches_nothing() -> None:
    assert (
        pcap.translate((), "f")
        == "static __always_inline bool f(const struct pcap_bytes *bytes)\n{\n\treturn false;\n}\n"
    )


def test_what_cannot_be_reached_is_left_out() -> None:
    text = pcap.translate([Instruction(0x05, 0, 0, 1), Instruction(0x30, 0, 0, 99), Instruction(0x06, 0, 0, 1)], "f")
    assert "pcap_load" not in text
    assert "return true;" in text


def test_shifts_by_all_bits_leave_nothing() -> None:
    for code in (0x64, 0x74):
        assert "\ta = 0;\n" in pcap.translate([Instruction(code, 0, 0, 32), Instruction(0x16, 0, 0, 0)], "f")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([(0x30, 0, 0, 0), (0x05, 0, 0, 2**32 - 2), (0x06, 0, 0, 1)], "needs a loop"),
        ([(0x30, 0, 0, 0xFFFFF004), (0x06, 0, 0, 1)], "asks for what is not in a packet"),
        ([(0x60, 0, 0, 16), (0x06, 0, 0, 1)], "needs an instruction"),
        ([(0xE0, 0, 0, 0), (0x06, 0, 0, 1)], "needs an instruction"),
        ([(0xF4, 0, 0, 0), (0x06, 0, 0, 1)], "needs an instruction"),
        ([(0x55, 0, 1, 0), (0x06, 0, 0, 1), (0x06, 0, 0, 0)], "needs an instruction"),
    ],
)
def test_what_cannot_be_translated_is_refused(program: list[tuple[int, int, int, int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pcap.translate([Instruction(*one) for one in program], "f")


# libpcap itself.


@needs_libpcap
@pytest.mark.parametrize("expression", EXPECTED)
def test_this_machines_libpcap_decides_the_same(expression: str) -> None:
    l2, l3 = pcap.compile_expression(expression)
    frames, packets = EXPECTED[expression]
    assert {name for name, data in FRAMES.items() if interpret(l2.instructions, data)} == frames
    assert bool(l3.instructions) == (packets is not None)
    if packets is not None:
        assert {name for name, data in IP_PACKETS.items() if interpret(l3.instructions, data)} == packets


@needs_libpcap
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("foo bar", "expression 'foo bar': can't parse filter expression: syntax error; see pcap-filter(7)"),
        ("ip and ip6", "expression 'ip and ip6': expression rejects all packets; see pcap-filter(7)"),
        ("tcp[0] / 0 = 1", "expression 'tcp[0] / 0 = 1': division by zero; see pcap-filter(7)"),
        ("ip6 protochain 6", "the filter expression needs a loop, which BPF has not: leave out 'protochain'"),
    ],
)
def test_what_libpcap_refuses_is_told_in_its_words(expression: str, message: str) -> None:
    for function in (pcap.c_text, pcap.disassemble):
        if function is pcap.c_text or "loop" not in message:
            with pytest.raises(UsageError) as raised:
                function(expression)
            assert str(raised.value) == message


@needs_libpcap
def test_c_text_has_both_forms_and_none_of_the_users_words() -> None:
    text = pcap.c_text("vlan 5")
    assert text.count("static __always_inline bool pcap_l2(") == text.count("static __always_inline bool pcap_l3(") == 1
    assert "vlan" not in text
    assert text.index("pcap_l2") < text.index("pcap_l3")


@needs_libpcap
def test_disassembly() -> None:
    l2, _, l3 = pcap.disassemble("arp").partition("\n\n")
    assert [line.split() for line in l2.splitlines()] == [
        ["packets", "with", "an", "Ethernet", "header:"],
        ["(000)", "ldh", "[12]"],
        ["(001)", "jeq", "#0x806", "jt", "2", "jf", "3"],
        ["(002)", "ret", "#262144"],
        ["(003)", "ret", "#0"],
    ]
    assert l3 == "packets without:\nnone match: expression rejects all packets\n"


def test_without_libpcap_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_: Any, **__: Any) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    pcap.libpcap.cache_clear()
    with pytest.raises(KernelError, match=r"libpcap0\.8 \(apt\) or libpcap \(dnf\)"):
        pcap.compile_expression("tcp")
    pcap.libpcap.cache_clear()
