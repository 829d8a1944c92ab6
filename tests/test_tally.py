"""What is counted of all packets in bounded memory."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import random
from typing import Any

import pytest

from nettrace import tally
from nettrace.analyzers import Told
from nettrace.diagnosis import Finding
from nettrace.event import Event
from nettrace.evidence import Evidence
from nettrace.tally import Flows, Kind, Moments

from .headers import PING

S = 1_000_000_000


def test_moments_lose_nobody_however_long_it_takes() -> None:
    choose = random.Random(7)
    moments, times = Moments(), [choose.randrange(5 * S, 5000 * S) for _ in range(2000)]
    for number, time_ns in enumerate(times):
        moments.add(time_ns, dropped=number % 10 == 0)
    assert sum(count for count, _ in moments.counts.values()) == 2000
    assert sum(dropped for _, dropped in moments.counts.values()) == 200
    assert 40 < max(moments.counts) - min(moments.counts) < 120
    assert moments.start_ns is not None
    for number, (count, _) in moments.counts.items():
        first = moments.start_ns + number * moments.width_ns
        assert count == sum(first <= time_ns < first + moments.width_ns for time_ns in times)


def test_a_flow_is_one_whichever_way_its_packets_go() -> None:
    flows = Flows()
    flows.add(("TCP", "10.0.0.2:80", "10.0.0.1:4000"), dropped=True, wrong=True)
    flows.add(("TCP", "10.0.0.1:4000", "10.0.0.2:80"), dropped=False, wrong=True)
    flows.add(("UDP", "10.0.0.1:4000", "10.0.0.2:80"), dropped=False, wrong=False)
    assert flows.counts == {
        ("TCP", "10.0.0.1:4000", "10.0.0.2:80"): [2, 1, 2], ("UDP", "10.0.0.1:4000", "10.0.0.2:80"): [1, 0, 0]
    }  # fmt: skip


def test_flows_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_FLOWS_MAX", 2)
    flows = Flows()
    for number in range(5):
        flows.add(("ICMP", "10.0.0.1", f"10.0.1.{number % 4}"), dropped=False, wrong=False)
    assert [count for count, _, _ in flows.counts.values()] == [2, 1] and flows.others == 2


def finding(trace: str = "kfree_skb", **more: Any) -> Finding:
    return Finding(Event(0, trace, 1, PING), "error", "a", "it is so", **more)


def test_a_kind_of_finding_has_its_packets_counted_once() -> None:
    kind = Kind(finding())
    for packet in (1, 1, 2):
        kind.add(finding(root=packet == 2), packet, "eth0")
    assert (kind.packets, kind.roots, kind.places) == (2, 1, {("kfree_skb", "eth0"): 3})


def test_examples_differ_and_those_with_evidence_come_first() -> None:
    kind = Kind(finding())
    for number in (1, 1, 2, 3, 4):
        kind.add(finding(told=(Told("place", str(number)),)), number, "")
    proven = finding(evidence=(Evidence("ss", "nobody listens"),))
    kind.add(proven, 9, "")
    kind.add(proven, 10, "")
    assert kind.examples[0] == proven
    assert [each.told for each in kind.examples[1:]] == [(Told("place", "2"),), (Told("place", "3"),)]


def test_advice_is_that_of_a_finding_that_has_some() -> None:
    kind = Kind(finding())
    kind.add(finding(advice=("remove the rule",)), 1, "")
    kind.add(finding(), 2, "")
    assert kind.finding.advice == ("remove the rule",)
