"""What -t and its like select, in a small tree, on the recorded kernels and on one made here."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from nettrace import files, plan, tree
from nettrace.errors import UsageError
from nettrace.host import Traced
from nettrace.kernel import Kernel
from nettrace.selection import PATTERN_MAX, Selection, choose, choose_recorded, choose_sockets
from nettrace.tree import Trace, Tree
from tests.record_kernel import VERSIONS
from tests.test_btf import FUNC, FUNC_PROTO, FWD, PTR, SIGNED_INT, blob, info

# kfree_skb, consume_skb and kfree_skbmem end packets; the last is off by default. ip_rcv_core and
# ip_rcv are both there in all of the recorded kernels, nosuch_send in none.
SMALL = """\
desc: all traces
groups:
  in:
    desc: in
    traces:
      netif_receive_skb: {tracepoint: "net:netif_receive_skb", skb: 0, match: true, desc: a}
      ip_core: {functions: [ip_rcv_core, ip_rcv], skb: 0, match: true, desc: b}
      tcp_v4_rcv: {skb: 0, desc: c}
  out:
    desc: out
    traces:
      tcp_transmit: {functions: [nosuch_send, __tcp_transmit_skb], skb: 1, sk: 0, match: true, desc: d}
      ip_output: {skb: 2, desc: e}
  rare:
    desc: rarely wanted
    default: false
    traces:
      nf_hook_slow: {skb: 0, desc: f}
      kfree_skbmem: {skb: 0, role: free, desc: g}
  life:
    desc: life
    traces:
      skb_clone: {skb: 0, role: clone, desc: h}
      consume_skb: {tracepoint: "skb:consume_skb", skb: 0, role: free, desc: i}
      kfree_skb: {tracepoint: "skb:kfree_skb", skb: 0, match: true, role: drop, desc: j}
"""
IN = ["netif_receive_skb", "ip_core", "tcp_v4_rcv"]
OUT = ["tcp_transmit", "ip_output"]
RARE = ["nf_hook_slow", "kfree_skbmem"]
LIFE = ["skb_clone", "consume_skb", "kfree_skb"]
MATCHING = {"netif_receive_skb", "ip_core", "tcp_transmit", "kfree_skb"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    path = tmp_path_factory.mktemp("tree") / "t.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return tree.load(path)


@pytest.fixture
def select(small: Tree, kernels: dict[str, Kernel]) -> Callable[..., Selection]:
    def choose_on(version: str = "6.12", **options: Any) -> Selection:
        return choose(small, kernels[version], **options)

    return choose_on


def names(selection: Selection) -> list[str]:
    return [trace.name for trace in selection.traces]


def refusal(select: Callable[..., Selection], **options: Any) -> str:
    with pytest.raises(UsageError) as raised:
        select(**options)
    text = str(raised.value)
    assert "\n" not in text and ". " not in text  # one sentence
    return text


Select = Callable[..., Selection]


def test_without_options_it_is_the_trees_default(select: Select) -> None:
    chosen = select()
    assert names(chosen) == IN + OUT + LIFE
    nothing: frozenset[str] = frozenset()
    assert chosen.wishes == plan.Wishes(
        frozenset(MATCHING), nothing, nothing, nothing, facts=True, point_at=nothing, bytes_at=nothing
    )


@pytest.mark.parametrize(
    ("asked", "points"),
    [
        ({}, {*IN, *OUT, *LIFE} - {"consume_skb", "kfree_skb"}),
        # What is only there to follow packets is none, nor is the freeing.
        ({"trace": "ip_output"}, {"ip_output"}),
        ({"trace": "ip_output,life"}, {"ip_output", *LIFE} - {"consume_skb", "kfree_skb"}),
        ({"trace": "ip_output", "matcher": "tcp_v4_rcv"}, {"ip_output", "tcp_v4_rcv"}),
        # Unless the user says so.
        ({"trace": "ip_output", "free": "kfree_skb"}, {"ip_output", "kfree_skb"}),
        ({"trace": "ip_output", "latency_free": True}, {"ip_output", "consume_skb", "kfree_skb"}),
    ],
)
def test_what_counts_for_how_long_a_packet_took(select: Select, asked: dict[str, Any], points: set[str]) -> None:
    assert select(latency=True, **asked).wishes.point_at == points
    assert select(**asked).wishes.point_at == frozenset()


def test_all_is_all_and_matches_where_the_tree_says(select: Select) -> None:
    for names_of_all in ("all", "in,all", " all ,"):
        chosen = select(trace=names_of_all)
        assert names(chosen) == IN + OUT + RARE + LIFE
        assert chosen.wishes.match_at == MATCHING


def test_what_is_named_is_matched_and_the_end_is_always_seen(select: Select) -> None:
    chosen = select(trace="ip_output,tcp_v4_rcv")
    assert names(chosen) == ["tcp_v4_rcv", "ip_output", *LIFE]
    assert chosen.wishes.match_at == {"tcp_v4_rcv", "ip_output"}


def test_hits_that_stand_for_themselves_need_no_end_and_are_all_matched(select: Select) -> None:
    chosen = select(trace="ip_output,ip_rcv", basic=True)
    assert names(chosen) == ["ip_output", "ip_rcv"]
    assert chosen.wishes.match_at == {"ip_output", "ip_rcv"}
    assert select(basic=True).wishes.match_at == {*IN, *OUT, *LIFE}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("in", IN),
        ("rare", RARE),
        ("tcp_v4_rcv", ["tcp_v4_rcv"]),
        ("net:netif_receive_skb", ["netif_receive_skb"]),
        ("ip_rcv_core", ["ip_core"]),
        ("nosuch_send", ["tcp_transmit"]),  # no kernel has it: it is the trace that stands in for it
        ("__tcp_transmit_skb", ["tcp_transmit"]),
        ("ip_rcv", ["ip_rcv"]),  # another function than that of the trace that would do with it
        ("*transmit*", ["tcp_transmit"]),
        ("ip_[co]*", ["ip_core", "ip_output"]),
        ("skb:*", ["consume_skb", "kfree_skb"]),
        ("nf_hook_slo?", ["nf_hook_slow"]),
        ("*_rcv", ["tcp_v4_rcv", "ip_rcv"]),
    ],
)
def test_names_of_the_tree(select: Select, word: str, found: list[str]) -> None:
    of_tree = IN + OUT + RARE + LIFE
    chosen = select(trace=word, basic=True)
    assert [name for name in names(chosen) if name in (*of_tree, "ip_rcv")] == found
    for trace in chosen.traces:
        assert (trace.group == "kernel") == (trace.name not in of_tree)


def test_an_alternative_is_a_function_of_its_own_where_another_has_its_place(
    small: Tree, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    symbols = tmp_path / "proc/kallsyms"
    symbols.write_bytes(symbols.read_bytes().replace(b" ip_rcv_core\n", b" ip_rcv_kore\n"))
    (trace,) = choose(small, Kernel(tmp_path), trace="ip_rcv", basic=True).traces
    assert trace.name == "ip_core"


@pytest.mark.parametrize("version", VERSIONS)
def test_functions_that_the_tree_lacks(select: Select, version: str) -> None:
    chosen = select(version, trace="tcp_v4_send_reset,skb_release_head_state,ip_output")
    assert names(chosen) == ["ip_output", *LIFE, "tcp_v4_send_reset", "skb_release_head_state"]
    assert chosen.wishes.match_at == {"ip_output", "tcp_v4_send_reset", "skb_release_head_state"}
    reset, release = chosen.traces[-2:]
    # Linux commit 6be49deaa095 (6.10) gave the function a reason.
    reason = ", enum sk_rst_reason" if version in ("6.12", "7.2") else ""
    assert reset == Trace(
        name="tcp_v4_send_reset", desc=f"void tcp_v4_send_reset(struct sock *, struct sk_buff *{reason})",
        group="kernel", functions=("tcp_v4_send_reset",), tracepoint=None, skb=1, sk=0, deref=False, match=False,
        role=None, default=False,
    )  # fmt: skip
    assert (release.skb, release.sk) == (0, None)


def test_functions_of_modules(select: Select, kernels: dict[str, Kernel]) -> None:
    for version in ("6.1", "6.12", "7.2"):
        (trace,) = select(version, trace="nf_conntrack_in", basic=True).traces
        assert (trace.group, trace.skb) == ("kernel", 0)
        # Its argument is a struct that begins with the packet.
        (trace,) = select(version, trace="nft_do_chain", basic=True).traces
        assert (trace.skb, trace.deref) == (0, True)
        (probe,) = plan.make([trace], kernels[version]).probes
        assert probe.program.deref
    said = refusal(select, version="5.10", trace="nf_conntrack_in")
    assert said == (
        "-t: nf_conntrack_in cannot be traced: which of its arguments is the packet is not known, "
        "the kernel's BTF lacks this function"
    )


def test_what_is_selected_is_planned(select: Select, kernels: dict[str, Kernel]) -> None:
    chosen = select("7.2", trace="__netif_receive_skb_core,__dev_queue*,skb_release_head_state", basic=True)
    made = plan.make(chosen.traces, kernels["7.2"], chosen.wishes)
    assert made.skipped == ()
    programs = {probe.target: probe.program for probe in made.probes}
    # As the compiler calls it; its argument points to the pointer to the packet.
    assert programs["__netif_receive_skb_core.constprop.0"].deref
    assert not programs["__dev_queue_xmit"].deref
    assert programs["skb_release_head_state"].match


def test_tracepoints_that_the_tree_lacks(select: Select) -> None:
    (trace,) = select(trace="net:napi_gro_receive_entry", basic=True).traces
    assert (trace.name, trace.tracepoint, trace.functions) == ("net:napi_gro_receive_entry",) * 2 + ((),)
    assert trace.skb == 0
    assert refusal(select, trace="net:nosuch") == "-t: this kernel has no tracepoint net:nosuch"
    assert refusal(select, trace="tcp:napi_gro_receive_entry").startswith("-t: this kernel has no tracepoint tcp:napi_")
    assert refusal(select, trace="skb:kfree_skp") == (
        "-t: this kernel has no tracepoint skb:kfree_skp; did you mean 'skb:kfree_skb'?"
    )


def test_a_pattern_takes_functions_that_the_tree_lacks(select: Select, kernels: dict[str, Kernel]) -> None:
    for version in VERSIONS:
        chosen = select(version, trace="ip_r*", basic=True)
        assert names(chosen)[:2] == ["ip_core", "ip_rcv"]
        others = [trace for trace in chosen.traces if trace.group == "kernel"]
        assert [trace.name for trace in others][1:] == sorted(trace.name for trace in others[1:])
        for trace in others:
            assert trace.name.startswith("ip_r")
            prototype = kernels[version].prototype(trace.name)
            assert prototype is not None and prototype.params[trace.skb or 0].type == "struct sk_buff *"


def test_a_pattern_leaves_out_what_cannot_be_traced(
    small: Tree, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    traceable = tmp_path / "sys/kernel/tracing/available_filter_functions"
    traceable.write_text(traceable.read_text().replace("\nskb_release_head_state\n", "\n"))
    kernel = Kernel(tmp_path)
    assert "skb_release_head_state" in kernel.functions_with("struct sk_buff *")
    chosen = choose(small, kernel, trace="skb_*", basic=True)
    assert "skb_clone" in names(chosen) and "skb_release_head_state" not in names(chosen)
    with pytest.raises(UsageError) as raised:
        choose(small, kernel, trace="skb_release_head_stat?")
    assert str(raised.value) == (
        "-t: nothing that matches 'skb_release_head_stat?' can be traced: skb_release_head_state: "
        "not to be traced, says the kernel (notrace, or declared inline)"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trace": "ip_outptu"}, "-t: no trace, group or function of this kernel is called 'ip_outptu'; did you mean "),
        ({"trace": "in,IP_OUTPUT"}, "is called 'IP_OUTPUT'; did you mean 'ip_output'"),
        ({"trace": "nf_conntrak_in"}, "'nf_conntrack_in'"),
        ({"trace": "xyzzy"}, "-t: no trace, group or function of this kernel is called 'xyzzy'"),
        ({"matcher": "tpc_v4_rcv"}, "--trace-matcher: no trace, group or function"),
        ({"free": "consume_sbk"}, "--trace-free: no trace, group or function"),
        ({"exclude": "consume_sbk"}, "--trace-exclude: no trace, group or function"),
        ({"stack": "consume_sbk"}, "--trace-stack: no trace, group or function"),
        ({"trace": ","}, "-t needs the name of a trace or group; '-t ?' lists them"),
        ({"stack": ""}, "--trace-stack needs the name of a trace or group; '-t ?' lists them"),
        ({"trace": "console_show"}, "-t: console_show takes no packet: it is "),
        ({"trace": "tpc_*"}, "-t: no trace, and no function of this kernel that takes a packet, matches 'tpc_*'; did "),
        ({"trace": "tpc_*"}, "'tcp_*'"),
        ({"trace": "?"}, "-t: no trace, and no function of this kernel that takes a packet, matches '?'"),
        ({"trace": "qqq*y*"}, "-t: no trace, and no function of this kernel that takes a packet, matches 'qqq*y*'"),
        ({"matcher": "in", "basic": True}, "--trace-matcher says nothing with --basic"),
        ({"free": "in", "basic": True}, "--trace-free says nothing with --basic"),
    ],
)
def test_what_is_refused(select: Select, options: dict[str, Any], said: str) -> None:
    assert said in refusal(select, **options)


def test_of_several_functions_of_a_name_none_is_taken(
    small: Tree, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    symbols = tmp_path / "proc/kallsyms"
    symbols.write_bytes(b"ffffffff80000000 t tcp_v4_send_reset\n" + symbols.read_bytes())
    with pytest.raises(UsageError) as raised:
        choose(small, Kernel(tmp_path), trace="tcp_v4_send_reset")
    assert str(raised.value) == (
        "-t: tcp_v4_send_reset cannot be traced: several functions of this kernel are called tcp_v4_send_reset"
    )


def made_kernel(folder: Path, functions: list[str], returns: int = 0) -> Kernel:
    """A kernel with functions that take an int and a packet."""
    types = blob(
        SIGNED_INT,
        ("sk_buff", info(FWD), 0),
        ("", info(PTR), 2),
        ("", info(FUNC_PROTO, 2), returns, "number", 1, "skb", 3),
        *((name, info(FUNC), 4) for name in functions),
    )
    (folder / "sys/kernel/btf").mkdir(parents=True)
    (folder / "sys/kernel/btf/vmlinux").write_bytes(types)
    (folder / "proc").mkdir()
    lines = (f"{0xFFFFFFFF81000000 + 16 * place:x} t {name}\n" for place, name in enumerate(functions))
    (folder / "proc/kallsyms").write_text("".join(lines))
    return Kernel(folder)


def test_a_pattern_is_bounded(small: Tree, tmp_path: Path) -> None:
    kernel = made_kernel(tmp_path, [f"send_{place}" for place in range(PATTERN_MAX + 1)])
    assert len(choose(small, kernel, trace="send_?*[!0]", basic=True).traces) <= PATTERN_MAX
    with pytest.raises(UsageError) as raised:
        choose(small, kernel, trace="send_*")
    assert str(raised.value) == (
        f"-t: 'send_*' stands for {PATTERN_MAX + 1} functions of this kernel, more than "
        f"the {PATTERN_MAX} that a pattern may: make it narrower"
    )
    # What is taken away costs nothing.
    assert names(choose(small, kernel, exclude="send_*")) == IN + OUT + LIFE


def test_a_long_prototype_is_shortened(small: Tree, tmp_path: Path) -> None:
    name = "a_function_with_a_name_so_long_that_its_prototype_would_fill_a_whole_line_of_a_terminal"
    (trace,) = choose(small, made_kernel(tmp_path, [name], returns=3), trace=name, basic=True).traces
    assert trace.desc == f"struct sk_buff *{name}(int, ...)"


def test_excluded_traces_are_away(select: Select) -> None:
    chosen = select(exclude="out,tcp_v4_rcv,rare,skb_clone")
    assert names(chosen) == ["netif_receive_skb", "ip_core", "consume_skb", "kfree_skb"]
    assert chosen.wishes.match_at == MATCHING - {"tcp_transmit"}
    chosen = select(trace="in,ip_rcv,tcp_v4_send_reset", exclude="ip_*", basic=True)
    assert names(chosen) == ["netif_receive_skb", "tcp_v4_rcv", "tcp_v4_send_reset"]
    assert chosen.wishes.match_at == {"netif_receive_skb", "tcp_v4_rcv", "tcp_v4_send_reset"}
    chosen = select(trace="all", exclude="kfree_skbmem")
    assert names(chosen) == [*IN, *OUT, "nf_hook_slow", *LIFE]


@pytest.mark.parametrize("exclude", ["life", "*skb*", "kfree_skb,consume_skb"])
def test_what_ends_packets_cannot_be_excluded(select: Select, exclude: str) -> None:
    said = refusal(select, exclude=exclude)
    assert said.startswith("--trace-exclude: ") and "consume_skb" in said and "kfree_skb" in said
    assert " and " in said and "skb_clone" not in said and "--basic" in said
    assert refusal(select, trace="in", exclude=exclude) == said
    assert not set(names(select(trace="all", exclude=exclude, basic=True))) & {"consume_skb", "kfree_skb"}


def test_something_must_be_left_to_match(select: Select) -> None:
    said = "--trace-exclude leaves no trace where packets would be matched: exclude less"
    assert refusal(select, trace="in", exclude="in") == said
    assert refusal(select, trace="in", exclude="all", basic=True) == said
    assert refusal(select, matcher="ip_output", exclude="ip_output") == said
    # kfree_skb is left, and matches.
    assert names(select(exclude="in,out")) == LIFE


def test_only_matchers_match(select: Select) -> None:
    chosen = select(matcher="ip_output,nf_hook_slow")
    assert names(chosen) == [*IN, *OUT, "nf_hook_slow", *LIFE]
    assert chosen.wishes.match_at == {"ip_output", "nf_hook_slow"}
    chosen = select(trace="tcp_v4_rcv", matcher="ip_rcv")
    assert names(chosen) == ["tcp_v4_rcv", *LIFE, "ip_rcv"]
    assert chosen.wishes.match_at == {"ip_rcv"}
    assert select(matcher="all").wishes.match_at == {*IN, *OUT, *LIFE}


def test_a_function_beside_all_is_matched_too(select: Select) -> None:
    chosen = select(trace="all,tcp_v4_send_reset")
    assert chosen.wishes.match_at == MATCHING | {"tcp_v4_send_reset"}
    chosen = select(trace="all,tcp_v4_send_reset", free="skb_release_head_state")
    assert chosen.wishes.match_at == MATCHING | {"tcp_v4_send_reset"}
    assert chosen.wishes.end_at == {"skb_release_head_state"}


def test_freeing_traces_are_attached(select: Select) -> None:
    chosen = select(trace="tcp_v4_rcv", free="ip_output,skb_release_head_state")
    assert names(chosen) == ["tcp_v4_rcv", "ip_output", *LIFE, "skb_release_head_state"]
    assert chosen.wishes.end_at == {"ip_output", "skb_release_head_state"}
    assert chosen.wishes.match_at == {"tcp_v4_rcv"}
    assert select(trace="in", free="all").wishes.end_at == {*IN, *LIFE}
    assert select(free="out", exclude="ip_output").wishes.end_at == {"tcp_transmit"}
    assert "--trace-free" in refusal(select, free="ip_output", exclude="ip_output")


def test_stacks_are_of_traces_in_the_run(select: Select) -> None:
    assert select(stack="ip_output,life").wishes.stack_at == {"ip_output", *LIFE}
    assert select(trace="in,tcp_v4_send_reset", stack="all").wishes.stack_at == {*IN, *LIFE, "tcp_v4_send_reset"}
    assert select(trace="nf_hook_slow,tcp_v4_send_reset", stack="*_reset,rare").wishes.stack_at == {
        "nf_hook_slow", "tcp_v4_send_reset",
    }  # fmt: skip
    for stack in ("nf_hook_slow", "ip_output,rare", "tcp_v4_send_reset", "nf_hook*"):
        word = stack.partition(",")[2] or stack
        assert refusal(select, stack=stack) == (f"--trace-stack: {word} is not traced in this run: name it with -t too")


def test_returns_are_of_functions(select: Select) -> None:
    assert select().wishes.return_at == frozenset()
    assert select(trace="in,tcp_v4_send_reset", ret=True).wishes.return_at == {
        "ip_core", "tcp_v4_rcv", "skb_clone", "tcp_v4_send_reset",
    }  # fmt: skip


def test_more_than_the_tree_has_on(select: Select) -> None:
    chosen = select(also={"nf_hook_slow", "tcp_v4_rcv", "nosuch"})
    assert names(chosen) == [*IN, *OUT, "nf_hook_slow", *LIFE]
    # They are for packets that are followed already.
    assert chosen.wishes.match_at == MATCHING
    # What packets end by is seen whatever was asked for; all else is as it was asked.
    assert names(select(also={"nf_hook_slow", "kfree_skbmem"}, trace="in")) == [*IN, "kfree_skbmem", *LIFE]
    assert names(select(also={"nf_hook_slow"}, exclude="nf_hook_slow,out")) == [*IN, *LIFE]
    assert names(select(also={"nf_hook_slow"}, basic=True)) == [*IN, *OUT, "nf_hook_slow", *LIFE]


def test_returns_of_some_traces(select: Select) -> None:
    wanted = {"tcp_v4_rcv", "nf_hook_slow", "netif_receive_skb", "nosuch"}
    # Of those that are in the run and are functions.
    assert select(return_at=wanted).wishes.return_at == {"tcp_v4_rcv"}
    assert select(return_at=wanted, also={"nf_hook_slow"}).wishes.return_at == {"tcp_v4_rcv", "nf_hook_slow"}
    assert select(return_at=wanted, trace="out").wishes.return_at == frozenset()
    # All that --ret tells is more.
    assert select(return_at=wanted, ret=True).wishes.return_at == select(ret=True).wishes.return_at


def test_the_shipped_tree_needs_no_kernel_for_its_own_names(tmp_path: Path) -> None:
    shipped = tree.load(files.TREE)
    nothing = Kernel(tmp_path)  # whoever asks for its types gets an error
    for group in shipped.root.all_groups():
        assert set(choose(shipped, nothing, trace=group.name, basic=True).traces) == set(group.all_traces())
    for trace in shipped.traces():
        assert choose(shipped, nothing, trace=trace.name, basic=True).traces == (trace,)


@pytest.mark.parametrize("version", VERSIONS)
def test_patterns_in_the_shipped_tree(kernels: dict[str, Kernel], version: str) -> None:
    shipped = tree.load(files.TREE)
    chosen = choose(shipped, kernels[version], trace="tcp_*", basic=True)
    of_tree = {trace.name for trace in shipped.traces() if trace.name.startswith("tcp_")}
    assert of_tree <= set(names(chosen))
    functions = [function for trace in chosen.traces for function in trace.functions]
    assert len(functions) == len(set(functions))


@pytest.fixture(scope="module")
def sockets_on(kernels: dict[str, Kernel]) -> Callable[..., Selection]:
    shipped = tree.load(files.TREE)

    def choose_on(version: str = "6.12", **options: Any) -> Selection:
        return choose_sockets(shipped, kernels[version], **options)

    return choose_on


def test_sockets_are_looked_at_where_the_tree_names_one(sockets_on: Callable[..., Selection]) -> None:
    found = set(names(sockets_on()))
    assert {"tcp_ack_update_rtt", "tcp_set_state", "udp_sendmsg", "__tcp_transmit_skb", "ip6_xmit"} <= found
    assert not {"ip_rcv", "kfree_skb"} & found
    assert names(sockets_on(trace="udp-state", exclude="udpv6_*")) == ["udp_sendmsg", "udp_recvmsg", "udp_destroy_sock"]
    assert sockets_on(trace="tcp_close,tcp_set_state", stack="tcp_close").wishes.stack_at == {"tcp_close"}


def test_any_function_with_a_socket(sockets_on: Callable[..., Selection]) -> None:
    # Of a group, those that have one; one that the tree knows for its packet; one that it does not know.
    found = names(sockets_on(trace="ip-out"))
    assert "ip_output" in found and "ip_send_skb" not in found
    (trace,) = sockets_on(trace="tcp_rcv_established").traces
    assert trace.name == "tcp_rcv_established"
    (trace,) = sockets_on(trace="tcp_v4_send_reset").traces
    assert trace.functions == ("tcp_v4_send_reset",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trace": "ip_rcv"}, "-t: ip_rcv has no socket among its arguments"),
        ({"trace": "kfree_skb"}, "-t: kfree_skb has no socket among its arguments"),
        ({"trace": "tcp_closed"}, "no trace, group or function of this kernel is called 'tcp_closed'; did you mean"),
        ({"trace": "net:net_dev_xmit"}, "-t: net:net_dev_xmit is a tracepoint"),
        ({"trace": "tcp_close", "exclude": "tcp_close"}, "--trace-exclude leaves no trace"),
        ({"trace": "tcp_close", "stack": "udp_sendmsg"}, "--trace-stack: udp_sendmsg is not traced in this run"),
    ],
)
def test_what_is_no_trace_of_sockets(sockets_on: Callable[..., Selection], options: dict[str, str], words: str) -> None:
    assert words in refusal(sockets_on, **options)


RECORDED = [
    Traced(name, group, None, "", None)
    for name, group in (("skb_clone", "life"), ("consume_skb", "life"), ("ip_rcv", "g"), ("nf_own", "kernel"))
]


@pytest.mark.parametrize(
    ("asked", "exclude", "found"),
    [
        (None, None, None),
        ("all", None, {"skb_clone", "consume_skb", "ip_rcv", "nf_own"}),
        ("nf_own", None, {"nf_own"}),
        ("kernel, life", None, {"nf_own", "skb_clone", "consume_skb"}),
        ("skb:consume_skb", None, {"consume_skb"}),
        ("skb:*", None, {"consume_skb"}),
        ("*_rcv,nf_*", None, {"ip_rcv", "nf_own"}),
        (None, "life", {"ip_rcv", "nf_own"}),
        ("all", "ip_rcv, nf_?wn", {"skb_clone", "consume_skb"}),
    ],
)
def test_traces_of_a_recording(leaves: Tree, asked: str, exclude: str, found: set[str]) -> None:
    assert choose_recorded(leaves, RECORDED, trace=asked, exclude=exclude) == found


@pytest.mark.parametrize(
    ("asked", "exclude", "said"),
    [
        ("ip_rcvv", None, "-t: nothing of 'ip_rcvv' is in the recording; did you mean 'ip_rcv'?"),
        ("ip_forward", None, "-t: nothing of 'ip_forward' is in the recording"),
        ("tcp_*", None, "-t: nothing of 'tcp_*' is in the recording"),
        (None, "bridge", "--trace-exclude: nothing of 'bridge' is in the recording"),
        (",", None, "-t needs the name of a trace or group"),
        ("life", "skb_clone,consume_skb", "--trace-exclude leaves nothing to show: name less"),
    ],
)
def test_traces_that_a_recording_has_not(leaves: Tree, asked: str, exclude: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose_recorded(leaves, RECORDED, trace=asked, exclude=exclude)
    assert str(refused.value).startswith(said)
