"""The wire layout: what C makes of the structs must be what Python reads, byte for byte."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from nettrace import event
from nettrace.event import Layout

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}

# Where each member must be: part of the format of what is sent, and so written down again.
PLACES = {
    "record": {
        "packet_id": 0, "record_id": 8, "parent_id": 16, "skb": 24, "sequence": 32, "cpu": 36, "slots": 38,
        "slots_before": 40, "children": 44, "flags": 46, "place": 47, "calls": 48, "unused": 50, "": 56,
    },
    "step": {"time_ns": 0, "where": 8, "number": 12, "kind": 14, "slots": 15, "": 16},
    "packet": {
        "length": 0, "vlan_tci": 4, "l3_protocol": 6, "l4_protocol": 8, "flags": 9, "fragment_offset": 10,
        "l3_length": 12, "kind": 14, "slots": 15, "saddr": 16, "daddr": 32, "l4": 48, "tunnel_id": 64,
        "vlan_tci2": 68, "gso_size": 70, "gso_segs": 72, "tunnel": 74, "unused": 75, "": 80,
    },
    "device": {"ifindex": 0, "netns": 4, "unused": 8, "unused2": 12, "kind": 14, "slots": 15, "name": 16, "": 32},
    "detail": {
        "pid": 0, "tgid": 4, "mark": 8, "cpu": 12, "kind": 14, "slots": 15, "comm": 16, "socket": 32, "length": 40,
        "unused": 44, "": 48,
    },
    "drop": {"location": 0, "reason": 8, "unused": 12, "kind": 14, "slots": 15, "": 16},
    "return_": {
        "value": 0, "unused": 8, "number": 12, "kind": 14, "slots": 15, "time_ns": 16, "unused2": 24, "": 32,
    },
    "stack": {"unused": 0, "bytes": 8, "unused2": 12, "kind": 14, "slots": 15, "frames": 16, "": 272},
    "facts": {"unused": 0, "unused2": 8, "set": 12, "kind": 14, "slots": 15, "words": 16, "": 112},
    "socket_state": {
        "packets_out": 0, "retrans_out": 4, "unacked": 8, "unused": 12, "kind": 14, "slots": 15, "timer_ns": 16,
        "wmem": 24, "rmem": 28, "rtt_us": 32, "srtt_us": 36, "rtt_min_us": 40, "state": 44, "ca_state": 45,
        "timer": 46, "flags": 47, "": 48,
    },
    "bytes": {
        "length": 0, "taken": 4, "header": 6, "vlan_proto": 8, "vlan_tci": 10, "unused": 12, "kind": 14, "slots": 15,
        "": 16,
    },
}  # fmt: skip

# Likewise the numbers that C and Python must agree on.
CONSTANTS = {
    "SLOT_BYTES": 16, "PLACES": 3, "STACK_FRAMES": 32, "NO_REASON": 0xFFFFFFFF,
    "NO_RTT": 0xFFFFFFFF, "SOCKET_WHOLE": 1, "SOCKET_HAS_TIMER": 2, "KIND_SOCKET": 11, "KIND_BYTES": 12,
    "KIND_STEP": 1, "KIND_STEP_TRACEPOINT": 2, "KIND_PACKET": 3, "KIND_DETAIL": 4, "KIND_DROP": 5, "KIND_INNER": 6,
    "KIND_DEVICE": 7, "KIND_RETURN": 8, "KIND_STACK": 9, "KIND_FACTS": 10, "FACT_WORDS": 12,
    "RECORD_FREED": 1, "RECORD_SINGLE": 2, "RECORD_DELIVERED": 4, "RECORD_RETURNED": 8,
    "PACKET_HAS_L4": 1, "PACKET_FRAGMENT": 2, "PACKET_FROM_SOCKET": 4, "PACKET_UNREAD": 8,
    "TUNNEL_IP": 1, "TUNNEL_GRE": 2, "TUNNEL_VXLAN": 3, "TUNNEL_GENEVE": 4, "TUNNEL_ICMP": 5,
}  # fmt: skip
COUNTERS = [
    "LOST_MESSAGES", "LOST_PACKETS", "MISSED", "UNTRACKED", "MATCHED", "CLONED", "FREED", "REUSED",
    "IDS_0", "IDS_1", "IDS_2", "IDS_3", "MESSAGES_0", "MESSAGES_1", "MESSAGES_2", "MESSAGES_3",
    "SHORT", "OVER_RATE", "CALLS_LOST", "NORMAL_FREES", "UNCOUNTED", "CROWDED_OUT", "MEASURED", "ONE_POINT",
    "FAMILIES_LOST", "STEPS_LOST",
]  # fmt: skip
LAYOUTS = {layout.name: layout for layout in event.LAYOUTS}
ITEMS = [name for name in PLACES if name != "record"]


def c_members(layout: Layout) -> list[tuple[str, str, int]]:
    """Type, name and count of each member, read from the C text."""
    found = re.fullmatch(r"struct (\w+) \{\n((?:\t[^\n]+;\n)+)\};\n", layout.c_text())
    assert found is not None and found[1] == layout.name
    members = re.findall(r"\t(u\d+) (\w+)(?:\[(\d+)\])?;\n", found[2])
    assert len(members) == found[2].count("\n")
    return [(kind, name, int(count or 1)) for kind, name, count in members]


def natural_places(layout: Layout) -> dict[str, int]:
    """Where a C compiler puts the members of an unpacked struct; its size under the empty name."""
    places, at, strictest = {}, 0, 1
    for kind, name, count in c_members(layout):
        size = SIZES[kind]
        at = (at + size - 1) // size * size
        places[name] = at
        at += size * count
        strictest = max(strictest, size)
    return {**places, "": (at + strictest - 1) // strictest * strictest}


@pytest.mark.parametrize("name", PLACES)
def test_a_c_compiler_puts_the_members_where_they_must_be(name: str) -> None:
    assert natural_places(LAYOUTS[name]) == PLACES[name]


@pytest.mark.parametrize("name", PLACES)
def test_python_reads_each_member_from_its_place(name: str) -> None:
    layout = LAYOUTS[name]
    raw = bytes(at % 251 for at in range(layout.size))
    values = layout.struct.unpack(raw)
    assert len(values) == len(layout.fields)
    for (kind, member, count), value in zip(c_members(layout), values):
        found = raw[PLACES[name][member] :][: SIZES[kind] * count]
        assert value == (found if count > 1 else int.from_bytes(found, "little")), member


def test_every_layout_is_written_down_here() -> None:
    assert list(LAYOUTS) == list(PLACES)
    assert {name: layout.size for name, layout in LAYOUTS.items()} == {name: PLACES[name][""] for name in PLACES}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_real_c_compiler_agrees(tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    asserts = [
        f"_Static_assert({f'offsetof(struct {name}, {member})' if member else f'sizeof(struct {name})'} == {place}"
        f', "{name}.{member}");\n'
        for name, places in PLACES.items()
        for member, place in places.items()
    ]
    types = "".join(f"typedef __UINT{8 * size}_TYPE__ {kind};\n" for kind, size in SIZES.items())
    source.write_text("#include <stddef.h>\n" + types + event.c_text() + "".join(asserts))
    done = subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", source], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_whole_slots_and_their_first_one_ends_alike(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.size % 16 == 0
    places = natural_places(layout)
    assert (places["kind"], places["slots"]) == (14, 15)
    members = {member: (kind, count) for kind, member, count in c_members(layout)}
    assert members["kind"] == members["slots"] == ("u8", 1)
    # The C side copies and compares addresses, names and stacks as words of eight bytes.
    for member, (kind, count) in members.items():
        assert count == 1 or member == "unused" or (SIZES[kind] * count % 16, places[member] % 8) == (0, 0)


@pytest.mark.parametrize("name", ITEMS)
def test_a_slot_count_fits_its_byte(name: str) -> None:
    assert LAYOUTS[name].size // 16 < 256


def test_the_log_begins_aligned_behind_the_record() -> None:
    # As the items have members of eight bytes, and the log is an array of the items' smallest in C.
    assert natural_places(event.RECORD)[""] % 8 == 0


def defined() -> list[tuple[str, int]]:
    """The numbers of the C text, in their order."""
    lines = re.findall(r"^#define (\w+) (\w+)$", event.c_text(), re.MULTILINE)
    return [(name, int(value, 0)) for name, value in lines]


def test_constants_of_the_c_text() -> None:
    assert len(dict(defined())) == len(defined())
    assert {name: value for name, value in defined() if not name.startswith("COUNTER")} == CONSTANTS


def test_counters_are_numbered_in_their_order() -> None:
    counters = [(name, value) for name, value in defined() if name.startswith("COUNTER")]
    assert counters == [
        *((f"COUNTER_{name}", index) for index, name in enumerate(COUNTERS)),
        ("COUNTERS", len(COUNTERS)),
    ]  # fmt: skip
    assert list(event.COUNTERS) == [name.lower() for name in COUNTERS]


def test_each_place_and_what_has_none_number_for_themselves() -> None:
    # In C: COUNTER_IDS_0 + place, where clones have the place behind the last one; likewise messages, for returns.
    for first in ("IDS_0", "MESSAGES_0"):
        at = COUNTERS.index(first)
        names = COUNTERS[at : at + CONSTANTS["PLACES"] + 1]
        assert names == [f"{first[:-1]}{place}" for place in range(CONSTANTS["PLACES"] + 1)]
    # new_id() has two bits for the place.
    assert CONSTANTS["PLACES"] < 4


def test_tunnels_are_told_by_their_index() -> None:
    assert event.TUNNELS == ("", "ip", "gre", "vxlan", "geneve", "icmp")
    assert [CONSTANTS[f"TUNNEL_{name.upper()}"] for name in event.TUNNELS[1:]] == [1, 2, 3, 4, 5]


def test_every_counter_is_counted_in_c_and_no_other() -> None:
    bpf = Path(__file__).resolve().parent.parent / "bpf"
    used = set(re.findall(r"\bCOUNTER_(\w+)", "".join(path.read_text() for path in bpf.glob("*.h"))))
    # C goes from the first of a row of numbered ones to the others by adding.
    assert {name.lower() for name in used} == {re.sub(r"_[1-9]$", "_0", name) for name in event.COUNTERS}


def test_transport_headers() -> None:
    # Of RFC 793: ports, sequence, acknowledgement, header length with the flags.
    tcp = bytes.fromhex("d431 01bb 11223344 55667788 5012") + b"\0\0"
    assert event.TCP_L4.unpack(tcp)[:4] == (54321, 443, 0x11223344, 0x55667788)
    assert event.TCP_L4.unpack(tcp)[4] & 0xFF == 0x12
    assert event.PORTS_L4.unpack(tcp) == (54321, 443)
    # Of RFC 792: type, code, checksum (which the kernel side clears), identifier, sequence number.
    assert event.ICMP_L4.unpack(bytes.fromhex("0800 0000 1234 0007").ljust(16, b"\0")) == (8, 0, 0x1234, 7)
    assert event.SPI_L4.unpack(bytes.fromhex("000000c9 00000002").ljust(16, b"\0")) == (0xC9, 2)
    sender, target = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    assert event.ARP_L4.unpack(struct.pack(">H", 2) + sender + target + b"\0\0") == (2, sender, target)
