"""Packets grouped by the paths that they took."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from typing import Any, Optional

import pytest

from nettrace import paths
from nettrace.event import Context, Drop, Event
from nettrace.paths import Grouping
from nettrace.tables import Paths

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
