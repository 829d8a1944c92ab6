"""Packets grouped by the paths that they took."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ctypes
import random
import struct
import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest

from nettrace import counted, event, histogram, paths
from nettrace.event import Context, Drop, Event
from nettrace.paths import Grouping, counted_nodes
from nettrace.plan import MARKS
from nettrace.tables import Paths

from .native import BEFORE, COMPILER, needs_compiler

ROLES = {"skb_clone": "clone", "__skb_gso_segment": "segments", "consume_skb": "free", "kfree_skb": "drop"}
A, B, C = 0xA0, 0xB0, 0xC0


def packet(*steps: tuple[int, str], drop: Optional[Drop] = None, every_ns: int = 10, **more: bool) -> Context:
    """Steps of skbs, each later than the one before; drop: the last one."""
    packet_of: Any = None
    numbers: dict[int, int] = {}
    events = []
    for at, (skb, trace) in enumerate(steps):
        number = numbers.get(skb, -1) + 1
        numbers[skb] = -1 if trace in ("consume_skb", "kfree_skb") else number
        events.append(Event(at * every_ns, trace, skb, packet_of, number))
    if drop is not None:
        events[-1] = events[-1]._replace(drop=drop)
    return Context(1, tuple(numbers), tuple(events), more.get("unfinished", False), more.get("missing", False))


def grouped(*contexts: Context, end_at: tuple[str, ...] = ()) -> Paths:
    grouping = Grouping(ROLES, end_at)
    for context in contexts:
        grouping.add(context)
    return grouping.table()


def tree(paths: Paths) -> dict[str, tuple[int, int]]:
    """By the whole path: how many came there, and of how many it was the end."""
    names: list[str] = []
    for node in paths.nodes:
        assert node.parent < len(names)
        names.append(f"{names[node.parent]} {node.trace}" if node.parent >= 0 else node.trace)
    assert len(set(names)) == len(names)
    return {name: (node.count, node.ended) for name, node in zip(names, paths.nodes)}


def test_packets_share_what_their_paths_have_in_common() -> None:
    delivered = packet((A, "ip_rcv"), (A, "udp_rcv"), (A, "consume_skb"))
    dropped = packet((B, "ip_rcv"), (B, "udp_rcv"), (B, "kfree_skb"), drop=Drop(0x20, 3), every_ns=1000)
    elsewhere = packet((B, "ip_rcv"), (B, "udp_rcv"), (B, "kfree_skb"), drop=Drop(0x21, 3))
    found = grouped(delivered, dropped, delivered, elsewhere)
    assert found.packets == 4
    assert [(node.parent, node.trace, node.drop, node.count, node.ended) for node in found.nodes] == [
        (-1, "ip_rcv", None, 4, 0),
        (0, "udp_rcv", None, 4, 0),
        (1, "consume_skb", None, 2, 2),
        (1, "kfree_skb", (3, 0x20), 1, 1),
        (1, "kfree_skb", (3, 0x21), 1, 1),
    ]
    assert [node.times.total for node in found.nodes] == [0, 4, 2, 1, 1]
    assert (found.nodes[1].times.percentile(50), found.nodes[1].times.percentile(100)) == (10, 1007)


def test_a_clone_branches_off_where_it_was_made() -> None:
    found = grouped(
        packet((A, "xmit"), (A, "skb_clone"), (B, "packet_rcv"), (A, "driver"), (A, "consume_skb"), (B, "consume_skb"))
    )
    assert tree(found) == {
        "xmit": (1, 0),
        "xmit skb_clone": (1, 0),
        "xmit skb_clone packet_rcv": (1, 0),
        "xmit skb_clone driver": (1, 0),
        "xmit skb_clone driver consume_skb": (1, 1),
        "xmit skb_clone packet_rcv consume_skb": (1, 1),
    }
    times = {node.trace: node.times.percentile(50) for node in found.nodes}
    # Each since the step before of its own skb; of the clone's first one, since it was made.
    assert (times["packet_rcv"], times["driver"]) == (10, 20)


def test_segments_branch_off_where_they_were_cut_whatever_became_of_the_others() -> None:
    found = grouped(packet(
        (A, "xmit"), (A, "__skb_gso_segment"), (A, "consume_skb"),
        (B, "skb_clone"), (C, "packet_rcv"), (C, "consume_skb"), (B, "driver"), (B, "consume_skb"),
        (C, "driver"), (C, "consume_skb"),
    ))  # fmt: skip
    cut = "xmit __skb_gso_segment"
    assert tree(found) == {
        "xmit": (1, 0),
        cut: (1, 0),
        f"{cut} consume_skb": (1, 1),
        f"{cut} skb_clone": (1, 0),
        f"{cut} skb_clone packet_rcv": (1, 0),
        f"{cut} skb_clone packet_rcv consume_skb": (1, 1),
        f"{cut} skb_clone driver": (1, 0),
        f"{cut} skb_clone driver consume_skb": (1, 1),
        # At the address of the clone that is gone.
        f"{cut} driver": (1, 0),
        f"{cut} driver consume_skb": (1, 1),
    }


def test_without_roles_it_branches_off_the_latest_step() -> None:
    grouping = Grouping()
    grouping.add(packet((A, "a"), (A, "b"), (B, "c"), (A, "d")))
    assert tree(grouping.table()) == {"a": (1, 0), "a b": (1, 0), "a b c": (1, 1), "a b d": (1, 1)}


def test_what_was_not_seen_to_its_end_did_not_end_there() -> None:
    open_one = packet((A, "xmit"), (A, "skb_clone"), (B, "driver"), (B, "consume_skb"), unfinished=True)
    found = grouped(open_one, packet((A, "xmit"), (A, "driver"), unfinished=True), end_at=("driver",))
    assert (found.packets, found.unfinished) == (2, 1)
    assert tree(found)["xmit skb_clone"] == (1, 0)
    assert tree(found)["xmit skb_clone driver consume_skb"] == (1, 1)
    assert tree(found)["xmit driver"] == (1, 1)


def test_a_path_with_a_gap_is_none() -> None:
    found = grouped(packet((A, "a"), missing=True), packet((A, "a")))
    assert (found.packets, found.incomplete, tree(found)) == (1, 1, {"a": (1, 1)})


def test_the_tree_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "NODES_MAX", 2)
    found = grouped(packet((A, "a"), (A, "b"), (A, "c"), (A, "consume_skb")), packet((A, "a"), (A, "c")))
    assert tree(found) == {"a": (2, 0), "a b": (1, 0)}
    assert found.unplaced == 3


BPF = Path(__file__).resolve().parent.parent / "bpf"

# The maps of one CPU, and as little of skbs and hits as bpf/paths.h speaks of.
PROGRAMS = """
#define BPF_TABLE(kind, key_type, leaf, name, most) \\
	key_type name##_keys[most]; leaf name##_values[most]; u32 name##_used; \\
	static leaf *name##_lookup(key_type *key) \\
	{ \\
		for (u32 i = 0; i < name##_used; i++) \\
			if (name##_keys[i] == *key) \\
				return &name##_values[i]; \\
		return NULL; \\
	} \\
	static void name##_insert(key_type *key, leaf *value) \\
	{ \\
		if (name##_used == most || name##_lookup(key)) \\
			return; \\
		name##_keys[name##_used] = *key; \\
		name##_values[name##_used++] = *value; \\
	} \\
	static const struct { leaf *(*lookup)(key_type *); void (*insert)(key_type *, leaf *); } name = { \\
		name##_lookup, name##_insert \\
	};
#define BPF_ARRAY(name, leaf, most) \\
	leaf name##_value; \\
	static leaf *name##_lookup(u32 *key) { return &name##_value; } \\
	static const struct { leaf *(*lookup)(u32 *); } name = { name##_lookup };

struct hit {
	u64 drop_location;
	u32 drop_reason, where;
	u16 flags;
	u8 kind;
};

struct tracked {
	struct record record;
	struct step last;
	u64 node;
	u32 l3;
} skbs[256];

u64 counters[COUNTERS];
u64 now_ns;
u32 is_bare;

static struct tracked *find_tracked(u64 skb)
{
	return skb ? &skbs[skb] : NULL;
}

static bool has_headers(void *skb)
{
	return !is_bare;
}

static u64 bpf_ktime_get_ns(void)
{
	return now_ns;
}

static void count(u32 counter)
{
	counters[counter]++;
}
"""
ASK = """
void take(u32 skb, u64 time_ns, u32 where, u16 flags, u64 location, u32 reason, u32 is_new)
{
	struct hit hit = { location, reason, where, flags, location ? KIND_STEP_TRACEPOINT : KIND_STEP };
	struct step step = { .time_ns = time_ns };

	now_ns = time_ns;
	if (is_new)
		begin(&skbs[skb], &hit);
	else if (passes(skb, flags, hit.kind, where))
		return;
	skbs[skb].l3 = 1;
	note(&skbs[skb], &hit, &step);
}

void make(u32 child, u32 parent)
{
	inherit(&skbs[child], &skbs[parent]);
	skbs[child].last = skbs[parent].last;
	skbs[child].l3 = 0;
}

int ask(u64 skb, u16 flags)
{
	return passes(skb, flags, KIND_STEP, 1);
}
"""

NAMES = ("ip_rcv", "skb_clone", "udp_rcv", "ip_output", "kfree_skb", "consume_skb")


class Programs:
    """What bpf/paths.h does with packets, compiled for this machine."""

    def __init__(self, directory: Path, nodes_max: int) -> None:
        numbers = {**histogram.constants(), **MARKS, "PATH_NODES_MAX": nodes_max}
        source, library = directory / "paths.c", directory / "paths.so"
        source.write_text(
            BEFORE
            + "".join(f"#define {name} {value}\n" for name, value in numbers.items())
            + event.c_text() + PROGRAMS + f'#include "{BPF}/histogram.h"\n#include "{BPF}/paths.h"\n' + ASK
        )  # fmt: skip
        assert COMPILER is not None
        subprocess.run(
            [COMPILER, "-std=gnu11", "-O1", "-w", "-fno-strict-aliasing", "-shared", "-fPIC", "-o", library, source],
            check=True,
        )
        self._library = ctypes.CDLL(str(library))
        self._library.ask.argtypes = [ctypes.c_uint64, ctypes.c_uint16]
        self._library.take.argtypes = [
            ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint16, ctypes.c_uint64, ctypes.c_uint32,
            ctypes.c_uint32,
        ]  # fmt: skip

    def play(self, context: Context) -> None:
        """Takes the steps of a packet, whose skbs are numbered from 1 in the order in which they are made and seen."""
        seen: set[int] = set()
        for item in context.events:
            location, reason = (0, 0) if item.drop is None else item.drop
            flags = MARKS["FREES"] if item.trace in ("kfree_skb", "consume_skb") else 0
            self._library.take(
                item.skb, item.time_ns, NAMES.index(item.trace), flags, location,
                event.NO_REASON if reason is None else reason, not seen,
            )  # fmt: skip
            seen.add(item.skb)
            if item.trace == "skb_clone":
                self._library.make(len(seen) + 1, item.skb)

    def entries(self, cpus: int = 1) -> list[tuple[bytes, bytes]]:
        used = ctypes.c_uint32.in_dll(self._library, "path_nodes_used").value
        size = 48 + 4 * histogram.COARSE_BUCKETS
        keys = bytes((ctypes.c_char * (8 * used)).in_dll(self._library, "path_nodes_keys"))
        values = bytes((ctypes.c_char * (size * used)).in_dll(self._library, "path_nodes_values"))
        # The other CPUs have counted nothing.
        empty = bytes(size * (cpus - 1))
        return [
            (keys[8 * at : 8 * at + 8], empty + values[size * at : size * at + size]) for at in reversed(range(used))
        ]

    def passes(self, skb: int, *marks: str) -> bool:
        """Whether a hit needs no look at the packet; skb 0 is one that nobody follows."""
        return bool(self._library.ask(skb, sum(MARKS[mark] for mark in marks)))

    def be_bare(self) -> None:
        """Packets have no headers from now on."""
        ctypes.c_uint32.in_dll(self._library, "is_bare").value = 1

    def counter(self, name: str) -> int:
        counters = (ctypes.c_uint64 * len(event.COUNTERS)).in_dll(self._library, "counters")
        return counters[event.COUNTERS.index(name)]


def walk(chance: random.Random) -> Context:
    """A packet that goes anywhere, and so do the clones that are made of it."""
    skbs, made = [1], 1
    steps: list[tuple[int, str]] = []
    while skbs:
        skb = skbs[chance.randrange(len(skbs))]
        name = NAMES[chance.randrange(len(NAMES))]
        if name == "skb_clone" and made == 4:
            continue
        steps.append((skb, name))
        if name == "skb_clone":
            made += 1
            skbs.append(made)
            # It may take a step of its own before the clone is seen.
            steps += [(skb, "udp_rcv")] * chance.randrange(2) + [(made, "ip_output")]
        elif name in ("kfree_skb", "consume_skb"):
            skbs.remove(skb)
    found = packet(*steps, every_ns=chance.randrange(1, 1_000_000))
    places = (Drop(0xFFFFFFFF81000010, None), Drop(0xFFFFFFFF81000010, 3), Drop(0xFFFFFFFF81000050, 1 << 16 | 3))
    dropped = (
        item._replace(drop=places[chance.randrange(len(places))]) if item.trace == "kfree_skb" else item
        for item in found.events
    )
    return found._replace(events=tuple(dropped))


def by_path(nodes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names: list[str] = []
    for node in nodes:
        names.append(f"{names[node.parent] if node.parent >= 0 else ''} {node.trace} {node.drop or ''}")
        assert names[-1] not in found
        found[names[-1]] = node
    return found


@needs_compiler
def test_the_programs_count_what_is_worked_out_from_whole_packets(tmp_path: Path) -> None:
    chance = random.Random(1)
    programs, grouping = Programs(tmp_path, 1 << 14), Grouping(ROLES)
    for _ in range(500):
        context = walk(chance)
        programs.play(context)
        grouping.add(context)
    expected = by_path(grouping.table().nodes)
    for cpus in (1, 3):
        found = by_path(counted_nodes(programs.entries(cpus), lambda kind, where: NAMES[where]))
        assert len(found) > 1000 and found.keys() == expected.keys()
        for name, node in found.items():
            same = expected[name]
            assert (node.count, node.ended, node.times.total) == (same.count, same.ended, same.times.total)
            for percent in (50, 99):
                assert node.times.percentile(percent) == pytest.approx(same.times.percentile(percent), rel=0.2)
    assert programs.counter("steps_lost") == 0
    assert sum(node.ended for node in found.values()) == sum(node.ended for node in expected.values()) > 500


@needs_compiler
def test_what_the_programs_have_no_room_for_is_counted_and_the_rest_is_a_tree(tmp_path: Path) -> None:
    chance = random.Random(2)
    programs, steps = Programs(tmp_path, 50), 0
    for _ in range(100):
        context = walk(chance)
        programs.play(context)
        steps += len(context.events)
    nodes = counted_nodes(programs.entries(), lambda kind, where: NAMES[where])
    assert len(nodes) == 50
    assert sum(node.count for node in nodes) + programs.counter("steps_lost") == steps


@needs_compiler
def test_what_may_begin_end_or_make_packets_is_looked_at(tmp_path: Path) -> None:
    programs = Programs(tmp_path, 50)
    programs.play(packet((1, "ip_rcv")))
    assert programs.passes(1) and programs.passes(1, "POINT") and programs.passes(1, "MAY_MATCH")
    assert not any(programs.passes(1, mark) for mark in ("FREES", "CLONES", "ENDS", "RETURNS", "STACK"))
    # Of nobody's packets, only those that may be taken up.
    assert programs.passes(0) and not programs.passes(0, "MAY_MATCH")
    assert sum(node.count for node in counted_nodes(programs.entries(), lambda kind, where: "")) == 4
    # Its headers are gone: it is another one.
    programs.be_bare()
    assert programs.passes(1) and not programs.passes(1, "MAY_MATCH")


def test_a_node_that_is_just_being_made_is_none_yet() -> None:
    raw = struct.pack("<6Q", 0, 0, 0, 0, 1, 0) + bytes(4 * histogram.COARSE_BUCKETS)
    assert counted_nodes([(bytes(8), raw * 2)], lambda kind, where: "") == []


def test_the_table_of_a_run_says_what_is_not_in_it() -> None:
    key, step = 7, event.STEP_TRACEPOINT << 32 | 5
    raw = struct.pack("<6Q", 0, step, 0, 0, 4, 1) + bytes(4 * histogram.COARSE_BUCKETS)
    numbers = {"matched": 9, "cloned": 2, "freed": 8, "steps_lost": 6}

    class Session:
        def counters(self) -> list[dict[str, int]]:
            return [{name: numbers.get(name, 0) for name in event.COUNTERS}, dict.fromkeys(event.COUNTERS, 0)]

        def entries(self, name: str) -> list[tuple[bytes, bytes]]:
            assert name == "path_nodes"
            return [(struct.pack("<Q", key), raw)]

    session: Any = Session()
    table = counted.paths(session, lambda kind, where: f"{kind} {where}")
    assert tree(table) == {f"{event.STEP_TRACEPOINT} 5": (4, 1)}
    assert table[1:] == (9, 3, 0, 6)
