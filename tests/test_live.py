"""What recorded kernels' events mean: the shipped rules and reasons on the types and symbols of those kernels."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from typing import Callable, Optional

import pytest

from nettrace import files, live, netns, plan, rules, selection
from nettrace.analyzers import Told
from nettrace.diagnosis import Diagnosis
from nettrace.event import Context, Drop, Event, Return
from nettrace.kernel import Kernel
from nettrace.plan import Plan
from nettrace.rules import Rules
from nettrace.sinks import Lookups
from nettrace.tree import Tree
from tests.record_kernel import VERSIONS

from .headers import PING


@pytest.fixture(scope="module")
def meanings(leaves: Tree) -> Rules:
    return rules.load(files.RULES, leaves)


@pytest.fixture(scope="module")
def plans(leaves: Tree, meanings: Rules, kernels: dict[str, Kernel]) -> dict[str, Plan]:
    """What --diag attaches."""

    def planned(kernel: Kernel) -> Plan:
        chosen = selection.choose(leaves, kernel, also=meanings.tell_trouble, return_at=meanings.need_return)
        return plan.make(chosen.traces, kernel, chosen.wishes)

    return {version: planned(kernel) for version, kernel in kernels.items()}


def diagnosis(kernel: Kernel, what: Plan, meanings: Rules) -> Diagnosis:
    return live.diagnosis(live.Running(kernel, 0), live.traced(what), meanings)


Diagnose = Callable[[str], Diagnosis]
Look = Callable[[str], Lookups]


@pytest.fixture(scope="module")
def diagnose(kernels: dict[str, Kernel], plans: dict[str, Plan], meanings: Rules) -> Diagnose:
    made = {version: diagnosis(kernels[version], plans[version], meanings) for version in VERSIONS}
    return made.__getitem__


@pytest.fixture(scope="module")
def look(kernels: dict[str, Kernel], plans: dict[str, Plan]) -> Look:
    return lambda version: live.lookups(live.Running(kernels[version], 0), live.traced(plans[version]))


NEW, OLD = ("6.1", "6.12", "7.2"), ("5.10",)
POINTER = 0xFFFF888100000000

# What a function left in its register, and the rule that this is, or none.
RETURNED = [
    (VERSIONS, "nf_hook_slow", -1, "hook-drop"),
    (VERSIONS, "nf_hook_slow", -113, "hook-drop"),
    (VERSIONS, "nf_hook_slow", 0, ""),
    (VERSIONS, "nf_hook_slow", 1, ""),
    (VERSIONS, "nft_do_chain", 0, "nft-drop"),
    (VERSIONS, "nft_do_chain", 1, "nft-accept"),
    (VERSIONS, "nft_do_chain", 2, ""),
    # NF_DROP_ERR(-EPERM), and NF_DROP_REASON(..., EHOSTUNREACH)
    (VERSIONS, "nft_do_chain", 1 << 16, "nft-drop"),
    (VERSIONS, "nft_do_chain", 113 << 16 | 2, "nft-drop"),
    (VERSIONS, "ipt_do_table", 0, "iptables-drop"),
    (VERSIONS, "ip6t_do_table", 1, "iptables-accept"),
    (VERSIONS, "nf_conntrack_in", 0, "connection-refused-by-tracking"),
    (VERSIONS, "nf_conntrack_in", 1, ""),
    (VERSIONS, "nf_conntrack_tcp_packet", -1, "window-check-failed"),
    (VERSIONS, "nf_conntrack_tcp_packet", 1, ""),
    # -NF_REPEAT: a port is used again.
    (VERSIONS, "nf_conntrack_tcp_packet", -4, ""),
    (VERSIONS, "fib_validate_source", -18, "source-refused"),
    (VERSIONS, "fib_validate_source", 0, ""),
    (VERSIONS, "fib_validate_source", 1, ""),
    (("5.10", "6.1", "6.12"), "ip_route_input_slow", -113, "input-route-failed"),
    (VERSIONS, "ip_route_input_slow", 0, ""),
    (("7.2",), "ip_route_input_slow", 5, "input-route-failed-with-reason"),
    (VERSIONS, "bpf_prog_run_generic_xdp", 1, "xdp-drop"),
    (VERSIONS, "bpf_prog_run_generic_xdp", 0, "xdp-aborted"),
    (VERSIONS, "bpf_prog_run_generic_xdp", 2, ""),
    (VERSIONS, "bpf_prog_run_generic_xdp", 4, "xdp-redirected"),
    (VERSIONS, "tcf_classify", 2, "tc-drop"),
    (VERSIONS, "tcf_classify", -1, ""),
    # GRO_DROP; since it is gone, this is GRO_CONSUMED.
    (OLD, "dev_gro_receive", 4, "gro-dropped"),
    (NEW, "dev_gro_receive", 4, ""),
    (VERSIONS, "enqueue_to_backlog", 1, "backlog-full"),
    (VERSIONS, "enqueue_to_backlog", 0, ""),
    (VERSIONS, "__dev_queue_xmit", 0, ""),
    (VERSIONS, "__dev_queue_xmit", 1, "queue-refused"),
    (VERSIONS, "__dev_queue_xmit", 2, "queue-congested"),
    (VERSIONS, "__dev_queue_xmit", -100, "device-refused"),
    (VERSIONS, "__inet_lookup_listener", 0, "port-not-listened"),
    (VERSIONS, "__inet_lookup_listener", POINTER, ""),
    (VERSIONS, "skb_clone", 0, "clone-failed"),
    (VERSIONS, "skb_clone", POINTER, "cloned"),
    (VERSIONS, "__udp_enqueue_schedule_skb", -12, "receive-buffer-full"),
    (VERSIONS, "__udp_enqueue_schedule_skb", 0, ""),
    (VERSIONS, "tcp_rcv_state_process", 0, "state-handled"),
    (VERSIONS, "tcp_rcv_state_process", 1, "state-handled"),
    (VERSIONS, "tcp_v4_send_reset", 0, "reset-sent"),
    (VERSIONS, "tcp_add_backlog", 1, "backlog-refused"),
    (VERSIONS, "tcp_add_backlog", 0, ""),
]


@pytest.mark.parametrize(("versions", "trace", "value", "rule"), RETURNED)
def test_return_values(
    versions: tuple[str, ...], trace: str, value: int, rule: str, diagnose: Diagnose, meanings: Rules
) -> None:
    # A negative int leaves the upper half of the register as it was.
    register = value & (0xFFFFFFFF if value < 0 else (1 << 64) - 1)
    item = Event(0, trace, 1, PING, returned=Return(1, register))
    expected = meanings.find(rule)
    for version in versions:
        said = list(diagnose(version).remarks(item))
        assert said == ([] if expected is None else [(expected.level, expected.message)]), version


def test_a_return_that_was_not_told_means_nothing(diagnose: Diagnose) -> None:
    assert [list(diagnose(version).remarks(Event(0, "nf_hook_slow", 1, PING))) for version in VERSIONS] == [[]] * 4


def dropped(kernel: Kernel, reason: Optional[int]) -> Context:
    address = kernel.symbols.address("tcp_v4_rcv")
    assert address is not None
    item = Event(0, "kfree_skb", 1, PING, drop=Drop(address + 0x12, reason))
    return Context(7, (1,), (item,), False, False)


@pytest.mark.parametrize("version", NEW)
def test_a_drop_with_a_reason(version: str, diagnose: Diagnose, kernels: dict[str, Kernel]) -> None:
    kernel = kernels[version]
    (finding,) = diagnose(version).findings(
        dropped(kernel, kernel.btf.enum_value("skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET"))
    )
    assert (finding.name, finding.level, finding.root) == ("NO_SOCKET", "error", True)
    assert finding.told == (Told("location", "tcp_v4_rcv+0x12"), Told("drop reason", "NO_SOCKET"))
    assert "socket" in finding.message and finding.advice and not finding.doubt


def test_a_drop_on_a_kernel_without_reasons(diagnose: Diagnose, kernels: dict[str, Kernel]) -> None:
    (finding,) = diagnose("5.10").findings(dropped(kernels["5.10"], None))
    assert (finding.name, finding.level, finding.root, finding.effect) == ("drop", "warn", False, True)
    assert finding.told == (Told("location", "tcp_v4_rcv+0x12"),)


def test_that_a_segment_was_sent_again_does_not_explain_its_end(diagnose: Diagnose, kernels: dict[str, Kernel]) -> None:
    end = dropped(kernels["5.10"], None)
    for trace in ("tcp_retransmit_skb", "tcp_rcv_spurious_retrans"):
        both = end._replace(events=(Event(0, trace, 1, PING), *end.events))
        assert [(finding.level, finding.root) for finding in diagnose("5.10").findings(both)] == [("warn", False)] * 2


def test_a_drop_at_no_function(diagnose: Diagnose) -> None:
    item = Event(0, "kfree_skb", 1, PING, drop=Drop(0x1234, None))
    (finding,) = diagnose("5.10").findings(Context(7, (1,), (item,), False, False))
    assert finding.told == (Told("location", "0x1234"),)


@pytest.mark.parametrize(("version", "known"), [("6.12", True), ("6.1", False)])
def test_reset_reasons_have_names(version: str, known: bool, diagnose: Diagnose, kernels: dict[str, Kernel]) -> None:
    value = kernels[version].btf.enum_value("sk_rst_reason", "SK_RST_REASON_NO_SOCKET") or 77
    assert (value != 77) == known
    item = Event(0, "tcp_v4_send_reset", 1, PING, facts=(("reset_reason", value),))
    name = "NO_SOCKET" if known else "77"
    assert next(iter(diagnose(version).remarks(item))) == ("info", f"reason: {name}")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_host_is_asked_for_lines(version: str, look: Look, kernels: dict[str, Kernel]) -> None:
    know, kernel = look(version), kernels[version]
    assert know.own_netns == netns.current()
    assert know.groups["ip_rcv_core"] == "ip-in" and know.groups["kfree_skb"] == "life"
    assert (know.roles["kfree_skb"], know.roles["skb_clone"], know.roles["consume_skb"]) == ("drop", "clone", "free")
    assert "ip_rcv_core" not in know.roles
    address = kernel.symbols.address("tcp_v4_rcv")
    assert address is not None
    symbol = know.symbol(address + 1)
    assert symbol is not None and (symbol.name, symbol.offset) == ("tcp_v4_rcv", 1)
    assert know.returned("nf_hook_slow", 0xFFFFFFFF) == "-EPERM (dropped)"
    assert know.returned("skb_clone", 0) == "NULL"
    # By the name of the function that this kernel has of the trace's.
    assert know.returned("bpf_prog_run_generic_xdp", 1) == "XDP_DROP"


@pytest.mark.parametrize("version", VERSIONS)
def test_diag_attaches_what_its_rules_need(version: str, plans: dict[str, Plan], meanings: Rules) -> None:
    what = plans[version]
    there = {probe.trace.name for probe in what.probes} | {skip.trace.name for skip in what.skipped}
    assert meanings.tell_trouble <= there
    told = {probe.trace.name for probe in what.probes if probe.program.returns}
    absent = {skip.trace.name for skip in what.skipped}
    assert (meanings.need_return & meanings.tell_trouble) - absent <= told
