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
from nettrace.plan import Plan, Probe, Program, Wishes
from nettrace.tree import Trace
from tests.record_kernel import VERSIONS

NO_FUNCTION = "no such function, or inlined, or in a module that is not loaded"
NO_PACKET = "on this kernel it has no packet among its arguments"
ONLY_SOCKET = "has no packet, only a socket: it is for --sock"

# Traces that a kernel does not have, among others, from the history of the kernels; tests/data/coverage.yaml has all.
SKIPPED = {
    "5.10": {
        "qdisc_enqueue": "this kernel has no tracepoint qdisc:qdisc_enqueue",  # 5.15
        "tcp_reset": NO_PACKET,  # the argument is new in 5.11
        "skb_attempt_defer_free": NO_FUNCTION,  # 5.19
        "netkit_xmit": NO_FUNCTION,  # 6.7
        "tcp_close": ONLY_SOCKET,
    },
    "6.1": {"netkit_xmit": NO_FUNCTION, "iptable_nat_do_chain": NO_FUNCTION, "tcp_close": ONLY_SOCKET},
    "6.12": {"ipv4_confirm": NO_FUNCTION, "iptable_nat_do_chain": NO_FUNCTION, "tcp_close": ONLY_SOCKET},
    "7.2": {"ipv4_confirm": NO_FUNCTION, "__nf_ct_refresh_acct": NO_PACKET, "tcp_close": ONLY_SOCKET},
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
# What is probed where a kernel lacks the first of a trace's functions, among others.
ALTERNATIVES = {
    "5.10": {
        "bpf_prog_run_generic_xdp": "netif_receive_generic_xdp", "tcp_skb_entail": "skb_entail",
        "__napi_kfree_skb": "__kfree_skb_defer",
    },
    "6.1": {"__napi_kfree_skb": "__kfree_skb_defer"},
    "6.12": {},
    "7.2": {},
}  # fmt: skip


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


def one(kernel: Kernel, made: Trace, **wishes: set[str]) -> Plan:
    return plan.make([made], kernel, Wishes(**wishes))


def entries(of: Plan) -> dict[str, Probe]:
    """The probes by the trace's name, without those at a function's return."""
    return {probe.trace.name: probe for probe in of.probes if probe.program.kind != "function_return"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_skipped_and_why(plans: dict[str, Plan], version: str) -> None:
    skipped = {skip.trace.name: skip.reason for skip in plans[version].skipped}
    assert SKIPPED[version].items() <= skipped.items()
    assert not {"ip_rcv_core", "veth_xmit", "nf_conntrack_in", "kfree_skb"} & skipped.keys()


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
    # The verdict of an nftables expression is known at its end.
    evals = {probe.target for probe in of.probes if probe.program.kind == "nft_eval"}
    assert evals and twice == CLONING | evals | {"__skb_gso_segment"}
    for target in evals:
        assert [probe.program.kind for probe in of.probes if probe.target == target] == ["nft_eval", "nft_eval_return"]
    for target in twice - evals:
        entry, after = (probe.program for probe in of.probes if probe.target == target)
        assert (entry.kind, entry.clones) == ("kprobe", True)
        assert after == Program("function_return", most=64 if target == "__skb_gso_segment" else 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_function_is_a_symbol_of_the_kernel(
    plans: dict[str, Plan], kernels: dict[str, Kernel], version: str
) -> None:
    of = plans[version]
    for probe in of.probes:
        if not probe.program.is_tracepoint:
            assert kernels[version].symbols.address(probe.target) is not None, probe.target
    targets = {probe.trace.name: probe.target for probe in of.probes}
    assert {name: targets[name] for name in ALTERNATIVES[version]} == ALTERNATIVES[version]
    for probe in of.probes:
        if probe.trace.functions:
            # What the compiler appended comes behind a dot. None of those before it can be probed.
            place = probe.trace.functions.index(probe.target.partition(".")[0])
            assert all(kernels[version].obstacle(function) for function in probe.trace.functions[:place])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_which_argument_is_the_packet(plans: dict[str, Plan], version: str, name: str) -> None:
    probe = entries(plans[version]).get(name)
    expected: Optional[int] = ARGUMENTS[name][VERSIONS.index(version)]
    assert (None if probe is None else probe.program.skb) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_arguments_that_lead_to_the_packet(plans: dict[str, Plan], kernels: dict[str, Kernel], version: str) -> None:
    found = {name: probe for name, probe in entries(plans[version]).items() if probe.trace.functions}
    dereferenced = {name for name, probe in found.items() if probe.program.deref}
    assert dereferenced >= DEREFERENCED
    for name, probe in found.items():
        prototype = kernels[version].prototype(probe.target.partition(".")[0])
        if prototype is not None:
            type_ = prototype.params[probe.program.skb].type
            leads = type_ in ("struct sk_buff **", "struct nft_pktinfo *")
            assert type_ == "struct sk_buff *" or leads, name
            assert probe.program.deref == leads, name


@pytest.mark.parametrize("version", VERSIONS)
def test_traces_with_a_socket(plans: dict[str, Plan], kernels: dict[str, Kernel], version: str) -> None:
    found = entries(plans[version])
    sockets = {name: probe.program.sk for name, probe in found.items() if probe.program.sk is not None}
    assert {
        "__ip_queue_xmit": 0, "ip6_xmit": 0, "tcp_skb_entail": 0, "__tcp_transmit_skb": 0, "__tcp_retransmit_skb": 0,
    }.items() <= sockets.items()  # fmt: skip
    for name, place in sockets.items():
        assert place is not None and found[name].trace.sk is not None, name
        prototype = kernels[version].prototype(found[name].target.partition(".")[0])
        assert prototype is None or prototype.params[place].type == "struct sock *", name


@pytest.mark.parametrize("version", VERSIONS)
def test_drops_tell_where_and_since_5_17_why(plans: dict[str, Plan], version: str) -> None:
    probe = entries(plans[version])["kfree_skb"]
    # void (*)(struct sk_buff *, void *location, enum skb_drop_reason, ...)
    assert probe.target == "kfree_skb"
    assert probe.program == Program(
        "drop", skb=0, location=1, reason=0 if version == "5.10" else 2, match=True, frees=True,
        tracepoint=[trace.name for trace in plans[version].tracepoints].index("kfree_skb"),
    )  # fmt: skip
    assert probe.program.ends_packets


@pytest.mark.parametrize("version", VERSIONS)
def test_what_ends_packets(plans: dict[str, Plan], shipped: tree.Tree, version: str) -> None:
    skipped = {skip.trace.name for skip in plans[version].skipped}
    ends = {trace.name for trace in shipped.traces() if trace.role in ("free", "drop")} - skipped
    assert {"consume_skb", "kfree_skb", "__kfree_skb"} <= ends
    assert {name for name, probe in entries(plans[version]).items() if probe.program.ends_packets} == ends


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tracepoint_carries_its_own_number(plans: dict[str, Plan], version: str) -> None:
    of = plans[version]
    numbers = {probe.trace.name: probe.program.tracepoint for probe in of.probes if probe.program.is_tracepoint}
    assert {trace.name: index for index, trace in enumerate(of.tracepoints)} == numbers
    assert {"netif_receive_skb", "consume_skb", "kfree_skb", "qdisc_dequeue"} <= set(numbers)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_names_of_programs(shipped: tree.Tree, kernels: dict[str, Kernel], version: str, everywhere: bool) -> None:
    match_at = {trace.name for trace in shipped.traces()} if everywhere else None
    made = plan.make(shipped.traces(), kernels[version], Wishes(match_at=match_at))
    assert {probe.program for probe in made.probes} == set(made.programs)
    names = [program.name for program in made.programs]
    assert len(set(names)) == len(names) < 60
    for name in names:
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", name)
        # BCC attaches functions called kprobe__x or tracepoint__x by itself.
        assert "__" not in name


@settings(deadline=None)
@given(st.lists(st.builds(
    Program, kind=st.sampled_from(["kprobe", "kprobe_by_cookie", "function_return", "tracepoint", "drop"]),
    skb=st.integers(0, 5), sk=st.none() | st.integers(0, 5), deref=st.booleans(), match=st.booleans(),
    frees=st.booleans(), clones=st.booleans(), ends=st.booleans(), returns=st.booleans(), stack=st.booleans(),
    bytes=st.booleans(), most=st.integers(0, 64), tracepoint=st.integers(0, 99), location=st.integers(0, 5),
    reason=st.integers(0, 5),
)))  # fmt: skip
def test_programs_that_differ_have_other_names(programs: list[Program]) -> None:
    assert len({program.name for program in programs}) == len(set(programs))


@pytest.mark.parametrize("version", VERSIONS)
def test_without_clones_nothing_is_done_at_returns(
    shipped: tree.Tree, kernels: dict[str, Kernel], plans: dict[str, Plan], version: str
) -> None:
    made = plan.make(shipped.traces(), kernels[version], clones=False)
    assert all(probe.program.kind != "function_return" and not probe.program.clones for probe in made.probes)
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
    wishes = Wishes(match_at={"ip_output", "skb_clone", "kfree_skb"})
    made = plan.make(shipped.traces(), kernels[version], wishes)
    matching = {name for name, probe in entries(made).items() if probe.program.match}
    assert matching == {"ip_output", "skb_clone", "kfree_skb"}
    assert {probe.program.match for probe in made.probes if probe.program.kind == "function_return"} == {False}


def test_only_what_was_asked_for(shipped: tree.Tree, kernels: dict[str, Kernel]) -> None:
    made = plan.make(shipped.find("udp_rcv"), kernels["6.12"], Wishes(match_at={"udp_rcv"}))
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
    assert made.skipped[0].reason == "has no packet, only a socket: it is for --sock"


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


@pytest.mark.parametrize("cookies", [False, True])
def test_with_cookies_the_same_places_are_probed(
    shipped: tree.Tree, kernels: dict[str, Kernel], plans: dict[str, Plan], cookies: bool
) -> None:
    wishes = Wishes(return_at={trace.name for trace in shipped.traces()})
    made = plan.make(shipped.traces(), kernels["6.12"], wishes, cookies=cookies)
    functions = {probe.program for probe in made.probes if not probe.program.is_tracepoint}
    returns = {Program("function_return"), Program("function_return", most=64)}
    if cookies:
        shared = {program for program in functions - returns if not program.kind.startswith("nft_")}
        # What they differ in beyond that is in the cookies.
        assert shared == {
            Program("kprobe_by_cookie"), Program("kprobe_by_cookie", deref=True),
            *(Program("kprobe_by_cookie", skb=skb, match=True) for skb in range(3)),
        }  # fmt: skip
    else:
        assert functions > returns and {program.kind for program in functions - returns} == {
            "kprobe", "nft_chain", "nft_verdict", "nft_eval", "nft_eval_return"
        }  # fmt: skip
        assert {probe.cookie for probe in made.probes} == {0}
    places = {(probe.target, probe.program.kind) for probe in made.probes}
    assert len(places) == len(made.probes)
    # Returns are probed beside their functions, and tracepoints are no functions.
    assert {target for target, kind in places if kind == "function_return"} <= {
        target for target, kind in places if kind.startswith(("kprobe", "nft_"))
    }
    assert [probe for probe in made.probes if probe.program.is_tracepoint] == [
        probe for probe in plans["6.12"].probes if probe.program.is_tracepoint
    ]


ALL_WISHES = {"match_at": {"made_here"}, "end_at": {"made_here"}, "stack_at": {"made_here"}, "return_at": {"made_here"}}


@pytest.mark.parametrize(
    ("fields", "wishes", "shared", "cookie"),
    [
        # bpf/probes.h: flags in 16 bits, the skb in 4, the socket plus 1 in 4, and whether the argument leads there.
        # bpf/maps.h: MAY_MATCH, FREES, CLONES, ENDS, RETURNS, STACK, from the lowest bit on.
        ({"functions": ("ip_rcv",), "skb": 0}, {}, {}, 0x0000000),
        ({"functions": ("ip_rcv",), "skb": 0, "match": True}, {}, {"match": True}, 0x0000001),
        ({"functions": ("ip_rcv",), "skb": 0}, {"match_at": {"made_here"}}, {"match": True}, 0x0000001),
        ({"functions": ("ip_rcv",), "skb": 0, "match": True}, {"match_at": set()}, {}, 0x0000000),
        ({"functions": ("__kfree_skb",), "skb": 0, "role": "free"}, {}, {}, 0x0000002),
        ({"functions": ("skb_clone",), "skb": 0, "role": "clone"}, {}, {}, 0x0000004),
        ({"functions": ("__skb_gso_segment",), "skb": 0, "role": "segments"}, {}, {}, 0x0000004),
        ({"functions": ("ip_rcv",), "skb": 0}, {"end_at": {"made_here"}}, {}, 0x0000008),
        ({"functions": ("ip_rcv",), "skb": 0}, {"return_at": {"made_here"}}, {}, 0x0000010),
        ({"functions": ("ip_rcv",), "skb": 0}, {"stack_at": {"made_here"}}, {}, 0x0000020),
        ({"functions": ("ip_rcv",), "skb": 0}, {"point_at": {"made_here"}}, {}, 0x0000040),
        ({"functions": ("ip_rcv",), "skb": 0}, ALL_WISHES, {"match": True}, 0x0000039),
        ({"functions": ("skb_clone",), "skb": 0, "role": "clone"}, ALL_WISHES, {"match": True}, 0x000003D),
        ({"functions": ("ip_output",), "skb": 0}, {}, {}, 0x0020000),
        ({"functions": ("__tcp_transmit_skb",), "skb": 1, "sk": 0, "match": True}, {},
         {"skb": 1, "match": True}, 0x0110001),
        ({"functions": ("nft_do_chain",), "skb": 0, "deref": True}, {}, {"deref": True}, 0x1000000),
        ({"functions": ("nft_do_chain",), "skb": 0, "deref": True}, ALL_WISHES, {"deref": True}, 0x1000039),
    ],
)  # fmt: skip
def test_cookies(
    kernels: dict[str, Kernel], fields: dict[str, Any], wishes: dict[str, Any], shared: dict[str, Any], cookie: int
) -> None:
    made = plan.make([trace(**fields)], kernels["6.12"], Wishes(**wishes), cookies=True)
    entry = made.probes[0]
    assert (entry.program, f"{entry.cookie:#09x}") == (Program("kprobe_by_cookie", **shared), f"{cookie:#09x}")
    # What returns has no need of a cookie: the call was noted when it began.
    assert {probe.cookie for probe in made.probes[1:]} <= {0}


def test_marks_are_those_of_the_c_side() -> None:
    assert plan.MARKS == {
        "MAY_MATCH": 1, "FREES": 2, "CLONES": 4, "ENDS": 8, "RETURNS": 16, "STACK": 32, "POINT": 64, "BYTES": 128,
    }  # fmt: skip
    text = (files.BPF / "maps.h").read_text(encoding="utf-8")
    explained = text[text.index("A probe's flags") :].partition("*/")[0]
    assert re.findall(r"^ \*   ([A-Z_]+) ", explained, re.MULTILINE) == list(plan.MARKS)


def test_wishes_go_to_the_traces_that_they_name(shipped: tree.Tree, kernels: dict[str, Kernel]) -> None:
    wishes = Wishes(
        match_at={"ip_rcv_core"},
        end_at={"ip_output"},
        stack_at={"kfree_skb", "ip_rcv_core"},
        return_at={"udp_rcv", "skb_clone"},
    )
    found = {
        name: probe.program for name, probe in entries(plan.make(shipped.traces(), kernels["6.12"], wishes)).items()
    }
    assert {name for name, program in found.items() if program.match} == {"ip_rcv_core"}
    assert {name for name, program in found.items() if program.ends} == {"ip_output"}
    assert {name for name, program in found.items() if program.stack} == {"kfree_skb", "ip_rcv_core"}
    assert {name for name, program in found.items() if program.returns} == {"udp_rcv", "skb_clone"}
    # A hit that ends a packet for the user does not yet free it in the kernel.
    assert (found["ip_output"].frees, found["ip_output"].ends_packets) == (False, True)
    assert (found["kfree_skb"].frees, found["kfree_skb"].ends_packets) == (True, True)


def test_a_tracepoint_can_match_end_and_tell_its_stack_but_returns_nothing(kernels: dict[str, Kernel]) -> None:
    made = one(kernels["6.12"], trace(tracepoint="skb:consume_skb", skb=0), **ALL_WISHES)
    (probe,) = made.probes
    assert probe.program == Program("tracepoint", match=True, ends=True, stack=True)


def test_what_functions_return_is_told_by_one_program(kernels: dict[str, Kernel]) -> None:
    names = ("ip_rcv", "ip_output", "udp_rcv")
    made = plan.make(
        [trace(name, functions=(name,), skb=0) for name in names], kernels["6.12"], Wishes(return_at=set(names))
    )
    assert [(probe.target, probe.program.kind) for probe in made.probes] == [
        (name, kind) for name in names for kind in ("kprobe", "function_return")
    ]
    assert {probe.program for probe in made.probes if probe.program.kind != "kprobe"} == {Program("function_return")}
    assert {probe.program.returns for probe in made.probes if probe.program.kind == "kprobe"} == {True}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("function", ["__kfree_skb", "tcp_rcv_established", "kfree_skb_partial"])
def test_a_function_that_returns_nothing_is_not_probed_at_its_return(
    kernels: dict[str, Kernel], version: str, function: str
) -> None:
    (probe,) = one(kernels[version], trace(functions=(function,), skb=0), return_at={"made_here"}).probes
    assert (probe.program.kind, probe.program.returns) == ("kprobe", False)


def test_of_a_function_without_a_known_prototype_the_return_is_told(kernels: dict[str, Kernel]) -> None:
    # Modules of 5.10 have no BTF.
    entry, after = one(
        kernels["5.10"], trace(functions=("nf_conntrack_in",), skb=0), return_at={"made_here"}
    ).probes  # fmt: skip
    assert (entry.program.returns, after.program) == (True, Program("function_return"))


@pytest.mark.parametrize(
    ("clones", "returns", "expected"),
    [(False, False, None), (True, False, (True, False)), (False, True, (False, True)), (True, True, (True, True))],
)
def test_one_return_program_serves_clones_and_values(
    kernels: dict[str, Kernel], clones: bool, returns: bool, expected: Optional[tuple[bool, bool]]
) -> None:
    wishes = Wishes(return_at={"made_here"} if returns else set())
    made = plan.make([trace(functions=("skb_clone",), skb=0, role="clone")], kernels["6.12"], wishes, clones=clones)
    entry, *after = (probe.program for probe in made.probes)
    assert (entry.clones, entry.returns) == (expected or (False, False))
    assert after == ([Program("function_return")] if expected else [])


@pytest.mark.parametrize(("clones", "most"), [(True, 64), (False, 1)])
def test_segments_are_looked_for_only_where_they_are_followed(
    kernels: dict[str, Kernel], clones: bool, most: int
) -> None:
    made = plan.make(
        [trace(functions=("__skb_gso_segment",), skb=0, role="segments")], kernels["6.12"],
        Wishes(return_at={"made_here"}), clones=clones,
    )  # fmt: skip
    assert made.probes[1].program == Program("function_return", most=most)


def one_socket(kernel: Kernel, of: Trace, **options: Any) -> Plan:
    return plan.make_sockets([of], kernel, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trips_are_taken_when_the_function_returns(kernels: dict[str, Kernel], version: str) -> None:
    made = one_socket(kernels[version], trace(functions=("tcp_ack_update_rtt",), sk=0))
    assert [(probe.target, probe.program) for probe in made.probes] == [
        ("tcp_ack_update_rtt", Program("kprobe", skb=0, sk=0, returns=True)),
        ("tcp_ack_update_rtt", Program("function_return")),
    ]
    # The places that bpf/sock.h reads.
    prototype = kernels[version].prototype("tcp_ack_update_rtt")
    assert prototype is not None
    assert [(param.name, param.type) for param in prototype.params] == [
        ("sk", "struct sock *"), ("flag", "int"), ("seq_rtt_us", "long int"), ("sack_rtt_us", "long int"),
        ("ca_rtt_us", "long int"), ("rs", "struct rate_sample *"),
    ]  # fmt: skip


def test_a_socket_among_the_arguments(kernels: dict[str, Kernel]) -> None:
    # By the types, not by the number; a packet beside it does not matter.
    (probe,) = one_socket(kernels["6.12"], trace(functions=("ip_output",), skb=2, sk=5)).probes
    assert probe.program == Program("kprobe", skb=1, sk=1)
    (probe,) = one_socket(
        kernels["6.12"], trace(functions=("tcp_close",), sk=0), wishes=Wishes(stack_at={"made_here"}), cookies=True
    ).probes
    assert probe.program == Program("kprobe_by_cookie")
    assert probe.cookie == 1 << 5 | 0 << 16 | 1 << 20
    made = one_socket(kernels["6.12"], trace(functions=("ip_rcv",), skb=0, sk=0))
    assert made.probes == ()
    assert made.skipped[0].reason == "on this kernel it has no socket among its arguments"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cookies", [False, True])
def test_what_can_be_taken_away(shipped: tree.Tree, kernels: dict[str, Kernel], version: str, cookies: bool) -> None:
    made = plan.make(shipped.traces(), kernels[version], cookies=cookies)
    assert {"ip_rcv_core", "nf_hook_slow", "ip_output"} <= made.dispensable
    # Where packets are matched, cloned and freed: the rest of their way hangs on these.
    assert not made.dispensable & {"netif_receive_skb", "consume_skb", "kfree_skb", "skb_clone", "skb_segment"}
    # Where all look for packets by themselves.
    names = [trace for trace in shipped.traces() if trace.name in ("ip_rcv_core", "nf_hook_slow", "kfree_skb")]
    wishes = Wishes(match_at={trace.name for trace in names})
    alone = plan.make(names, kernels[version], wishes, cookies=cookies)
    assert alone.dispensable == {"ip_rcv_core", "nf_hook_slow"}


def test_all_of_the_traces_that_watch_for_trouble_can_go_but_drops(
    shipped: tree.Tree, kernels: dict[str, Kernel]
) -> None:
    watched = [trace for trace in shipped.traces() if trace.monitor]
    made = plan.make_monitor(watched, kernels["6.12"], (), (), tracing=True)
    names = {probe.trace.name for probe in made.probes}
    assert names - made.dispensable == {trace.name for trace in watched if trace.role} & names
