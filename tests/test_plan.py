"""The shipped tree on the four recorded kernels, and traces made here."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections import Counter
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nettrace import files, plan, tree
from nettrace.kernel import Kernel
from nettrace.plan import Plan, Probe, Program
from nettrace.tree import Trace
from tests.record_kernel import VERSIONS

NO_FUNCTION = "this kernel has no such function (or the compiler inlined it, or its module is not loaded)"
NO_PACKET = "on this kernel it has no packet among its arguments"

# The traces that a kernel does not have. veth.ko and ip6_tables.ko are not loaded where they were recorded.
SKIPPED = {
    "5.10": {
        "qdisc_enqueue": "this kernel has no tracepoint qdisc:qdisc_enqueue",  # 5.15
        "veth_xmit": NO_FUNCTION,
        "ip6t_do_table": NO_FUNCTION,
        "tcp_reset": NO_PACKET,  # the argument is new in 5.11
        "skb_attempt_defer_free": NO_FUNCTION,  # 5.19
    },
    "6.1": {"veth_xmit": NO_FUNCTION, "ip6t_do_table": NO_FUNCTION},
    "6.12": {"veth_xmit": NO_FUNCTION, "ip6t_do_table": NO_FUNCTION},
    "7.2": {"veth_xmit": NO_FUNCTION, "ip6t_do_table": NO_FUNCTION},
}

# Which argument is the packet, by kernel in the order of VERSIONS, from the kernels' sources.
ARGUMENTS = {
    "__inet_lookup_listener": [2, 2, 2, 1],
    "inet6_lookup_listener": [2, 2, 2, 1],
    "nf_conntrack_in": [0, 0, 0, 0],
    "ipt_do_table": [0, 1, 1, 1],
    "nft_do_chain": [0, 0, 0, 0],
    "ip_rcv_core": [0, 0, 0, 0],
    "ip_local_deliver_finish": [2, 2, 2, 2],
    "__tcp_transmit_skb": [1, 1, 1, 1],
    "tcp_conn_request": [3, 3, 3, 3],
    "tcp_reset": [None, 1, 1, 1],
    "qdisc_enqueue": [None, 2, 2, 2],
    "qdisc_dequeue": [3, 3, 3, 3],
}
DEREFERENCED = {"nft_do_chain", "vlan_do_receive", "br_handle_frame"}
CLONING = {"skb_clone", "skb_copy", "__pskb_copy_fclone", "skb_copy_expand", "ip_frag_next", "ip6_frag_next"}
# What is probed where a kernel lacks the first of a trace's functions.
ALTERNATIVES = {
    "5.10": {"netif_receive_generic_xdp", "skb_entail", "ping_queue_rcv_skb", "__kfree_skb_defer"},
    "6.1": {"__kfree_skb_defer"},
    "6.12": set(),
    "7.2": set(),
}


@pytest.fixture(scope="module")
def shipped() -> tree.Tree:
    return tree.load(files.TREE)


@pytest.fixture(scope="module")
def plans(shipped: tree.Tree, kernels: dict[str, Kernel]) -> dict[str, Plan]:
    return {version: plan.make(shipped.traces(), kernel) for version, kernel in kernels.items()}


def trace(name: str = "made_here", **fields: Any) -> Trace:
    values = {
        "functions": (), "tracepoint": None, "skb": None, "sk": None, "deref": False, "match": False, "role": None,
        **fields,
    }  # fmt: skip
    return Trace(name=name, desc="made here", group="all", default=True, **values)


def one(kernel: Kernel, made: Trace, *, clones: bool = True, match_at: Optional[set[str]] = None) -> Plan:
    return plan.make([made], kernel, clones=clones, match_at=match_at)


def entries(of: Plan) -> dict[str, Probe]:
    """The probes by the trace's name, without those at a function's return."""
    return {probe.trace.name: probe for probe in of.probes if probe.program.kind != "clone_return"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_skipped_and_why(plans: dict[str, Plan], version: str) -> None:
    assert {skip.trace.name: skip.reason for skip in plans[version].skipped} == SKIPPED[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_trace_is_planned_or_skipped(plans: dict[str, Plan], shipped: tree.Tree, version: str) -> None:
    planned = set(entries(plans[version]))
    skipped = {skip.trace.name for skip in plans[version].skipped}
    assert not planned & skipped
    assert planned | skipped == {trace.name for trace in shipped.traces()}


@pytest.mark.parametrize("version", VERSIONS)
def test_no_place_is_probed_twice(plans: dict[str, Plan], version: str) -> None:
    of = plans[version]
    places = Counter((probe.program.is_tracepoint, probe.target) for probe in of.probes)
    twice = {target for (_, target), times in places.items() if times > 1}
    assert max(places.values()) == 2
    assert twice == CLONING | {"__skb_gso_segment"}
    for target in twice:
        entry, after = (probe.program for probe in of.probes if probe.target == target)
        assert (entry.kind, entry.clones) == ("kprobe", True)
        assert after == Program("clone_return", most=64 if target == "__skb_gso_segment" else 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_function_is_a_symbol_of_the_kernel(
    plans: dict[str, Plan], kernels: dict[str, Kernel], version: str
) -> None:
    of = plans[version]
    for probe in of.probes:
        if not probe.program.is_tracepoint:
            assert kernels[version].symbols.address(probe.target) is not None, probe.target
    others = {probe.target for probe in of.probes if probe.trace.functions and probe.target != probe.trace.functions[0]}
    assert others == ALTERNATIVES[version]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_which_argument_is_the_packet(plans: dict[str, Plan], version: str, name: str) -> None:
    probe = entries(plans[version]).get(name)
    expected: Optional[int] = ARGUMENTS[name][VERSIONS.index(version)]
    assert (None if probe is None else probe.program.skb) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_arguments_that_lead_to_the_packet(plans: dict[str, Plan], version: str) -> None:
    found = {name: probe.program for name, probe in entries(plans[version]).items() if probe.program.deref}
    assert set(found) == DEREFERENCED
    assert {program.skb for program in found.values()} == {0}


@pytest.mark.parametrize("version", VERSIONS)
def test_traces_with_a_socket(plans: dict[str, Plan], version: str) -> None:
    found = {name: probe.program.sk for name, probe in entries(plans[version]).items()}
    assert {name: sk for name, sk in found.items() if sk is not None} == {
        "__ip_queue_xmit": 0, "ip6_xmit": 0, "tcp_skb_entail": 0, "__tcp_transmit_skb": 0, "__tcp_retransmit_skb": 0,
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_drops_tell_where_and_since_5_17_why(plans: dict[str, Plan], version: str) -> None:
    probe = entries(plans[version])["kfree_skb"]
    # void (*)(struct sk_buff *, void *location, enum skb_drop_reason, ...)
    assert probe.target == "kfree_skb"
    assert probe.program == Program(
        "drop", skb=0, location=1, reason=0 if version == "5.10" else 2, match=True,
        tracepoint=5 if version == "5.10" else 6,
    )  # fmt: skip
    assert probe.program.ends_packets


@pytest.mark.parametrize("version", VERSIONS)
def test_what_ends_packets(plans: dict[str, Plan], shipped: tree.Tree, version: str) -> None:
    skipped = SKIPPED[version]
    ends = {trace.name for trace in shipped.traces() if trace.role in ("free", "drop") and trace.name not in skipped}
    assert {"consume_skb", "kfree_skb", "__kfree_skb"} <= ends
    assert {name for name, probe in entries(plans[version]).items() if probe.program.ends_packets} == ends


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tracepoint_carries_its_own_number(plans: dict[str, Plan], version: str) -> None:
    of = plans[version]
    numbers = {probe.trace.name: probe.program.tracepoint for probe in of.probes if probe.program.is_tracepoint}
    assert {trace.name: index for index, trace in enumerate(of.tracepoints)} == numbers
    assert len(numbers) == (6 if version == "5.10" else 7)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_names_of_programs(shipped: tree.Tree, kernels: dict[str, Kernel], version: str, everywhere: bool) -> None:
    match_at = {trace.name for trace in shipped.traces()} if everywhere else None
    made = plan.make(shipped.traces(), kernels[version], match_at=match_at)
    assert {probe.program for probe in made.probes} == set(made.programs)
    names = [program.name for program in made.programs]
    assert len(set(names)) == len(names) < 30
    for name in names:
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", name)
        # BCC attaches functions called kprobe__x or tracepoint__x by itself.
        assert "__" not in name


@settings(deadline=None)
@given(st.lists(st.builds(
    Program, kind=st.sampled_from(["kprobe", "clone_return", "tracepoint", "drop"]), skb=st.integers(0, 5),
    sk=st.none() | st.integers(0, 5), deref=st.booleans(), match=st.booleans(), frees=st.booleans(),
    clones=st.booleans(), most=st.integers(0, 64), tracepoint=st.integers(0, 99), location=st.integers(0, 5),
    reason=st.integers(0, 5),
)))  # fmt: skip
def test_programs_that_differ_have_other_names(programs: list[Program]) -> None:
    assert len({program.name for program in programs}) == len(set(programs))


@pytest.mark.parametrize("version", VERSIONS)
def test_without_clones_nothing_is_done_at_returns(
    shipped: tree.Tree, kernels: dict[str, Kernel], plans: dict[str, Plan], version: str
) -> None:
    made = plan.make(shipped.traces(), kernels[version], clones=False)
    assert all(probe.program.kind != "clone_return" and not probe.program.clones for probe in made.probes)
    # The calls themselves are still shown.
    assert {name: probe.target for name, probe in entries(made).items()} == {
        name: probe.target for name, probe in entries(plans[version]).items()
    }
    assert set(entries(made)) >= CLONING


@pytest.mark.parametrize("version", VERSIONS)
def test_packets_are_matched_where_the_tree_says_or_where_asked(
    shipped: tree.Tree, kernels: dict[str, Kernel], plans: dict[str, Plan], version: str
) -> None:
    for name, probe in entries(plans[version]).items():
        assert probe.program.match == probe.trace.match, name
    made = plan.make(shipped.traces(), kernels[version], match_at={"ip_output", "skb_clone", "kfree_skb"})
    matching = {name for name, probe in entries(made).items() if probe.program.match}
    assert matching == {"ip_output", "skb_clone", "kfree_skb"}
    assert {probe.program.match for probe in made.probes if probe.program.kind == "clone_return"} == {False}


def test_only_what_was_asked_for(shipped: tree.Tree, kernels: dict[str, Kernel]) -> None:
    made = plan.make(shipped.select(["udp_rcv"]), kernels["6.12"], match_at={"udp_rcv"})
    (probe,) = made.probes
    assert (probe.trace.name, probe.target, probe.program) == ("udp_rcv", "udp_rcv", Program("kprobe", match=True))
    assert made.skipped == made.tracepoints == ()


def test_the_kernels_types_win_over_the_trees_number(kernels: dict[str, Kernel]) -> None:
    (probe,) = one(kernels["6.12"], trace(functions=("ip_output",), skb=5)).probes
    assert probe.program.skb == 2


def test_the_socket_is_where_the_types_say(kernels: dict[str, Kernel]) -> None:
    (probe,) = one(kernels["6.12"], trace(functions=("__tcp_transmit_skb",), skb=1, sk=5)).probes
    assert (probe.program.skb, probe.program.sk) == (1, 0)
    (probe,) = one(kernels["6.12"], trace(functions=("ip_rcv",), skb=0, sk=3)).probes
    assert probe.program.sk is None


def test_the_trees_number_stands_in_for_missing_types(kernels: dict[str, Kernel]) -> None:
    # Modules of 5.10 have no BTF.
    (probe,) = one(kernels["5.10"], trace(functions=("nf_conntrack_in",), skb=3)).probes
    assert probe.program.skb == 3
    made = one(kernels["5.10"], trace(functions=("nf_conntrack_in",), sk=0))
    assert made.probes == ()
    assert made.skipped[0].reason.startswith("which argument is the packet is not known")


def test_the_first_function_that_can_be_probed_is(kernels: dict[str, Kernel]) -> None:
    (probe,) = one(kernels["6.12"], trace(functions=("nosuch", "ip_rcv", "ip_output"), skb=0)).probes
    assert probe.target == "ip_rcv"
    # Two functions of 7.2 are called console_show.
    (probe,) = one(kernels["7.2"], trace(functions=("console_show", "ip_rcv"), skb=0)).probes
    assert probe.target == "ip_rcv"
    made = one(kernels["7.2"], trace(functions=("console_show",), skb=0))
    assert made.probes == ()
    assert made.skipped[0].reason == "several functions of this kernel are called console_show"


def test_a_function_that_the_compiler_renamed(kernels: dict[str, Kernel]) -> None:
    (probe,) = one(kernels["7.2"], trace(functions=("__netif_receive_skb_core",), skb=0, deref=True)).probes
    assert probe.target == "__netif_receive_skb_core.constprop.0"
    assert probe.program == Program("kprobe", skb=0, deref=True)


@pytest.mark.parametrize(
    ("tracepoint", "role", "reason"),
    [
        ("skb:nosuch", None, "this kernel has no tracepoint skb:nosuch"),
        # It tells the place since Linux 6.3.
        ("skb:consume_skb", "drop", "tracepoint skb:consume_skb does not tell where the drop was"),
    ],
)
def test_a_tracepoint_that_cannot_be_used(
    kernels: dict[str, Kernel], tracepoint: str, role: Optional[str], reason: str
) -> None:
    made = one(kernels["6.1"], trace(tracepoint=tracepoint, skb=0, role=role))
    assert [skip.reason for skip in made.skipped] == [reason]
    assert made.probes == made.tracepoints == ()


def test_a_skipped_tracepoint_takes_no_number(kernels: dict[str, Kernel]) -> None:
    made = plan.make(
        [trace("absent", tracepoint="skb:nosuch", skb=0), trace("present", tracepoint="skb:consume_skb", skb=0)],
        kernels["6.12"],
    )  # fmt: skip
    assert [probe.program.tracepoint for probe in made.probes] == [0]
    assert [one.name for one in made.tracepoints] == ["present"]


def test_with_cookies_one_program_serves_all_functions(shipped: tree.Tree, kernels: dict[str, Kernel]) -> None:
    plain = plan.make(shipped.traces(), kernels["6.12"])
    cookies = plan.make(shipped.traces(), kernels["6.12"], cookies=True)
    assert [probe.target for probe in cookies.probes] == [probe.target for probe in plain.probes]
    shared = {probe.trace.name: probe for probe in cookies.probes if probe.program.kind == "kprobe_by_cookie"}
    assert {probe.program for probe in shared.values()} == {Program("kprobe_by_cookie")}
    # As bpf/probes.h takes it apart: flags, skb, socket plus 1, and whether the argument leads to the skb.
    assert shared["udp_rcv"].cookie == 0x00000
    assert shared["__dev_queue_xmit"].cookie == 0x00001
    assert shared["__kfree_skb"].cookie == 0x00002
    assert shared["skb_clone"].cookie == 0x00004
    assert shared["ip_output"].cookie == 0x00200
    assert shared["__tcp_transmit_skb"].cookie == 0x01101
    assert shared["nft_do_chain"].cookie == 0x10000
    rest = [probe for probe in cookies.probes if probe.program.kind != "kprobe_by_cookie"]
    assert rest == [probe for probe in plain.probes if probe.program.kind != "kprobe"]
