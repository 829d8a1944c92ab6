"""What is found of packets: the cause first, what is read for it, and what a drop says."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import pytest

from nettrace import files, reasons
from nettrace.analyzers import Told
from nettrace.diagnosis import _EVIDENCE, Diagnosis, Finding, of_drop
from nettrace.event import Context, Device, Drop, Event
from nettrace.evidence import Evidence
from nettrace.reasons import Reason
from nettrace.rules import Rule

from .headers import PING

# What a packet met is told by the names of its traces: the level, whether it is an effect, and a name.
INFO, WARN, ERROR = "info", "warn", "error"


def rule_of(item: Event) -> Optional[Rule]:
    level, _, rest = item.trace.partition(" ")
    if level not in (INFO, WARN, ERROR):
        return None
    effect, name = rest.startswith("effect "), rest.split()[-1]
    wanted = () if name == "unproven" else ("route", name)
    return Rule(name, (item.trace,), (), None, level, f"it is {name}", ("do it",), wanted, effect)


REASON = Reason("NO_SOCKET", (), ERROR, "No socket. None at all.", ("a",), ("b",), ("Start it.",))


def drop_of(item: Event) -> Finding:
    return of_drop(item, "NO_SOCKET", REASON, "tcp_v4_rcv+0x1")


class Host:
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def evidence(self, finding: Finding, context: Context) -> Sequence[Evidence]:
        assert context.packet_id == 7
        self.asked.append((finding.name, finding.wanted))
        return [Evidence("ip route", f"of {finding.name}")]


def context(*traces: str, drops: bool = False) -> Context:
    events = [Event(at, trace, 1, PING) for at, trace in enumerate(traces)]
    if drops:
        events.append(Event(99, "kfree_skb", 1, PING, drop=Drop(0xABCD, 3)))
    return Context(7, (1,), tuple(events), False, False)


def found(*traces: str, drops: bool = False, host: Optional[Host] = None) -> tuple[Finding, ...]:
    host = host or Host()
    diagnosis = Diagnosis(rule_of, lambda item: (Told("hook", item.trace),), drop_of, host.evidence)
    return diagnosis.findings(context(*traces, drops=drops))


def names(findings: Sequence[Finding]) -> list[str]:
    """With a star at the root."""
    return [f"{finding.name}{'*' if finding.root else ''}" for finding in findings]


def test_a_finding() -> None:
    (finding,) = found("ip_rcv", "error effect a", "ip_output")
    assert finding == Finding(
        Event(1, "error effect a", 1, PING), ERROR, "a", "it is a", effect=True, told=(Told("hook", "error effect a"),),
        advice=("do it",), wanted=("route", "a"), evidence=(Evidence("ip route", "of a"),), root=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("traces", "ordered"),
    [
        ([], []),
        (["ip_rcv"], []),
        (["info a"], ["a"]),
        (["error a"], ["a*"]),
        # The earliest, and the others as they happened.
        (["error a", "error b", "error c"], ["a*", "b", "c"]),
        # A cause goes before an effect, whenever it was seen.
        (["error effect a", "error b"], ["b*", "a"]),
        (["info a", "error effect b", "warn c", "error d", "info e"], ["d*", "a", "b", "c", "e"]),
        # An error before a warning.
        (["warn a", "error b", "error c"], ["b*", "a", "c"]),
        (["warn effect a", "error effect b"], ["b*", "a"]),
        # But a cause that is a warning explains an effect that is an error.
        (["error effect a", "warn b"], ["b*", "a"]),
        (["error effect a", "error effect b"], ["a*", "b"]),
        # Without an error nothing failed.
        (["warn a", "warn b"], ["a", "b"]),
        (["warn effect a", "info b"], ["a", "b"]),
    ],
)
def test_the_root_is_the_first_and_the_others_as_they_happened(traces: list[str], ordered: list[str]) -> None:
    assert names(found(*traces)) == ordered


LISTENERS = ("listeners",)


@pytest.mark.parametrize(
    ("traces", "drops", "asked"),
    [
        (["info a", "info b"], False, {}),
        (["error a"], False, {"a": ("route", "a")}),
        (["warn a"], False, {"a": ("route", "a")}),
        (["info a", "error b", "info c"], False, {"b": ("route", "b")}),
        # What one was told, the next is not asked again; the root is told first.
        (["warn a", "error b", "error c"], False, {"b": ("route", "b"), "a": ("a",), "c": ("c",)}),
        (["warn a", "warn b"], False, {"a": ("route", "a"), "b": ("b",)}),
        (["error a", "error a"], False, {"a": ("route", "a")}),
        # What follows from the root needs no proof; where nothing failed, there is no root.
        (["error effect a", "error effect b", "error d"], False, {"d": ("route", "d")}),
        (["error effect a", "error effect b"], False, {"a": ("route", "a")}),
        (["warn effect a", "warn b"], False, {"a": ("route", "a"), "b": ("b",)}),
        # Nor is it asked what nobody wants to know.
        (["error unproven", "warn a"], False, {"a": ("route", "a")}),
        (["info a"], True, {"NO_SOCKET": LISTENERS}),
        (["error a"], True, {"a": ("route", "a"), "NO_SOCKET": LISTENERS}),
    ],
)
def test_evidence_is_read_once(traces: list[str], drops: bool, asked: dict[str, tuple[str, ...]]) -> None:
    host = Host()
    findings = found(*traces, drops=drops, host=host)
    assert host.asked == list(asked.items())
    proven = {finding.name: finding.evidence for finding in findings if finding.evidence}
    assert proven == {name: (Evidence("ip route", f"of {name}"),) for name in asked}


def test_evidence_is_read_for_each_device() -> None:
    # As when copies of a broadcast end at several.
    host = Host()
    diagnosis = Diagnosis(rule_of, lambda item: (), drop_of, host.evidence)
    events = tuple(Event(at, "warn a", at, PING, device=Device(at, f"eth{at}", 7)) for at in (1, 2))
    diagnosis.findings(Context(7, (1, 2), events, False, False))
    assert host.asked == [("a", ("route", "a"))] * 2


def test_what_follows_from_a_cause_gives_no_advice() -> None:
    findings = found("error effect a", "error b", "warn c")
    assert [(finding.name, finding.advice) for finding in findings] == [
        ("b", ("do it",)), ("a", ()), ("c", ("do it",)),
    ]  # fmt: skip
    # In the end it is dropped; by itself, a drop is the cause.
    assert [finding.advice for finding in found("error a", drops=True)] == [("do it",), ()]
    assert [finding.advice for finding in found(drops=True)] == [("Start it",)]
    silent = Diagnosis(rule_of, lambda item: (), lambda item: of_drop(item, None, None, "x"), Host().evidence)
    assert [bool(finding.doubt) for finding in silent.findings(context("error a", drops=True))] == [False, False]
    assert [bool(finding.doubt) for finding in silent.findings(context(drops=True))] == [True]
    # A copy that ends elsewhere has another fate.
    diagnosis = Diagnosis(rule_of, lambda item: (), drop_of, Host().evidence)
    copy = Event(9, "kfree_skb", 2, PING, drop=Drop(0xABCD, 3))
    _, drop = diagnosis.findings(Context(7, (1, 2), (Event(1, "error a", 1, PING), copy), False, False))
    assert drop.advice == ("Start it",)


def test_a_finding_still_says_what_it_wanted() -> None:
    assert [finding.wanted for finding in found("error a", "error b")] == [("route", "a"), ("route", "b")]


def test_who_decided_at_a_hook_is_told() -> None:
    diagnosis = Diagnosis(
        rule_of, lambda item: (Told("hook", "x"),), drop_of, Host().evidence,
        lambda context, item: Told("decided by", f"{context.packet_id} {item.trace}") if "hook" in item.trace else None,
    )  # fmt: skip
    said = [finding.told[1:] for finding in diagnosis.findings(context("info hook", "error hook", "error a"))]
    assert said == [(Told("decided by", "7 error hook"),), (), ()]


def test_a_drop_is_a_finding() -> None:
    assert names(found("ip_rcv", drops=True)) == ["NO_SOCKET*"]
    assert names(found("warn a", drops=True)) == ["NO_SOCKET*", "a"]
    assert names(found("error a", drops=True)) == ["a*", "NO_SOCKET"]


def test_a_free_that_is_no_drop_is_no_finding() -> None:
    diagnosis = Diagnosis(rule_of, lambda item: (), lambda item: None, Host().evidence)
    assert diagnosis.findings(context("ip_rcv", drops=True)) == ()


def test_a_trace_that_drops_may_meet_a_rule_too() -> None:
    diagnosis = Diagnosis(rule_of, lambda item: (), drop_of, Host().evidence)
    item = Event(1, "error effect a", 1, PING, drop=Drop(0xABCD, 3))
    assert names(diagnosis.findings(Context(7, (1,), (item,), False, False))) == ["NO_SOCKET*", "a"]


DROPPED = Event(1, "kfree_skb", 1, PING, drop=Drop(0xABCD, 3))
PLACE = Told("location", "tcp_v4_rcv+0x1")


def test_a_drop_with_a_reason_that_is_known() -> None:
    assert of_drop(DROPPED, "NO_SOCKET", REASON, "tcp_v4_rcv+0x1") == Finding(
        DROPPED, ERROR, "NO_SOCKET", "No socket. None at all", False, (PLACE, Told("drop reason", "NO_SOCKET")),
        ("Start it",), ("listeners",),
    )  # fmt: skip


def test_a_drop_with_a_reason_that_nobody_described() -> None:
    assert of_drop(DROPPED, "BRAND_NEW", None, "tcp_v4_rcv+0x1") == Finding(
        DROPPED, ERROR, "BRAND_NEW", "the kernel dropped the packet", False, (PLACE, Told("drop reason", "BRAND_NEW"))
    )
    assert of_drop(DROPPED, "QDISC_NEW", None, "x").wanted == ("qdisc",)


def test_a_drop_without_a_reason_is_an_inference_and_no_cause() -> None:
    finding = of_drop(DROPPED, None, None, "tcp_v4_rcv+0x1")
    assert (finding.level, finding.effect, finding.told) == (WARN, True, (PLACE,))
    assert finding.doubt and finding.advice


@pytest.mark.parametrize(
    ("name", "where", "wanted"),
    [
        (None, "tcp_v4_rcv+0x1", ("listeners",)),
        ("NOT_SPECIFIED", "veth_xdp_rcv_skb+0x12", ("xdp",)),
        ("NOT_SPECIFIED", "__netif_receive_skb_core.constprop.0+0x12", ("handlers", "tc")),
        (None, "somewhere+0x1", ()),
        (None, "0xffffffff81000000", ()),
        # The reason says more.
        ("TCP_CSUM", "tcp_v4_rcv+0x1", ("checksum",)),
        ("TCP_FLAGS", "tcp_v4_rcv+0x1", ()),
    ],
)
def test_without_a_reason_the_place_tells_what_to_look_for(
    name: Optional[str], where: str, wanted: tuple[str, ...]
) -> None:
    assert of_drop(DROPPED, name, None, where).wanted == wanted


@pytest.mark.parametrize("name", ["NOT_SPECIFIED", "NETFILTER_DROP"])
def test_reasons_that_name_no_cause(name: str) -> None:
    assert of_drop(DROPPED, name, reasons.load(files.RULES).drop(name), "x").effect


@pytest.mark.parametrize("level", [INFO, WARN])
def test_drops_that_happen_to_healthy_packets(level: str) -> None:
    finding = of_drop(DROPPED, "NO_SOCKET", replace(REASON, level=level), "x")
    assert (finding.level, finding.effect) == (level, False)


def test_reasons_that_evidence_is_for_exist() -> None:
    known = reasons.load(files.RULES)
    assert [name for name in _EVIDENCE if known.drop(name) is None] == []
    # What evidence is wanted for is not harmless.
    assert [name for name in _EVIDENCE if getattr(known.drop(name), "level", INFO) == INFO] == []


def test_remarks() -> None:
    told = (Told("hook", "ipv4 in chain: INPUT"), Told("route", "route: local"))
    diagnosis = Diagnosis(rule_of, lambda item: told, drop_of, Host().evidence)
    remarks = [(INFO, "ipv4 in chain: INPUT"), (INFO, "route: local")]
    assert list(diagnosis.remarks(Event(1, "ip_rcv", 1, PING))) == remarks
    assert list(diagnosis.remarks(Event(1, "warn a", 1, PING))) == [*remarks, (WARN, "it is a")]
    # What is only for the report.
    quiet = Diagnosis(rule_of, lambda item: (Told("functions", "a, b", in_lines=False),), drop_of, Host().evidence)
    assert list(quiet.remarks(Event(1, "warn a", 1, PING))) == [(WARN, "it is a")]
    # They are remembered, but only of events that say the same.
    said = Diagnosis(
        rule_of, lambda item: (Told("x", f"{item.facts} {item.packet.gso_size}"),), drop_of, Host().evidence
    )
    first = Event(1, "ip_rcv", 1, PING, facts=(("mtu", 1500),))
    others = [first._replace(facts=(("mtu", 1400),)), first._replace(packet=PING._replace(gso_size=9)), first]
    texts = [[text for _, text in said.remarks(item)] for item in (first, *others)]
    assert texts == [["(('mtu', 1500),) 0"], ["(('mtu', 1400),) 0"], ["(('mtu', 1500),) 9"], ["(('mtu', 1500),) 0"]]
    # The line of a drop tells its reason.
    assert list(diagnosis.remarks(DROPPED)) == remarks
