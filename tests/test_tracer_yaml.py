"""The tree that is shipped: what it says, and what becomes of it on the recorded kernels."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nettrace import files, plan, tree
from nettrace.kernel import Kernel
from nettrace.plan import Plan
from nettrace.tree import Trace, Tree
from tests import record_coverage
from tests.record_kernel import VERSIONS

ANCESTORS = Path(__file__).parent / "data" / "ancestor-traces.yaml"

# What must be there without -t, for an operator to see a packet cross common devices and die.
ALWAYS = """
veth_xmit netkit_xmit tun_net_xmit tap_handle_frame vlan_do_receive vlan_dev_hard_start_xmit macvlan_handle_frame
macvlan_start_xmit ipvlan_handle_frame ipvlan_queue_xmit bond_handle_frame bond_dev_queue_xmit br_handle_frame
br_dev_xmit __br_forward br_pass_frame_up ovs_vport_receive ovs_vport_send vrf_xmit vxlan_rcv vxlan_xmit
geneve_xmit geneve_udp_encap_recv ipgre_xmit gre_tap_xmit ip_tunnel_rcv ip_tunnel_xmit ip6_tnl_rcv ip6_tnl_xmit
sit_tunnel_xmit iptunnel_xmit __iptunnel_pull_header wg_xmit wg_packet_receive xfrm_output xfrm_input
ip_vs_in_hook ip_vs_nat_xmit tc_run tcf_classify tcf_mirred_act bpf_prog_run_generic_xdp skb_do_redirect
nf_hook_slow ipt_do_table nft_do_chain nf_conntrack_in nf_nat_manip_pkt nf_flow_offload_ip_hook ip_do_fragment
ip_defrag __icmp_send icmp6_send __neigh_event_send arp_error_report qdisc_enqueue qdisc_dequeue
enqueue_to_backlog sock_rcvqueue_full __udp_enqueue_schedule_skb tcp_queue_rcv tcp_add_backlog sctp_rcv
ip_route_input_slow fib_validate_source __dev_queue_xmit net_dev_start_xmit netif_receive_skb
kfree_skb consume_skb __kfree_skb skb_attempt_defer_free skb_clone
"""
# The packet's place in these is another one in 5.10, whose modules have no types to tell it.
AS_BEFORE_TYPES = {"ipt_do_table", "ip6t_do_table", "arpt_do_table", "ebt_do_table", "br_multicast_rcv"}
# The compiler took arguments from the first two, and BTF leaves such functions out; the others are in
# modules of 5.10 only. Their numbers come from the machine code and from the kernel's source.
WITHOUT_TYPES = {
    "ipvlan_rcv_frame", "xfrm_output_gso",
    "ip_vs_remote_request6", "ip_vs_reply6", "ip_vs_local_request6", "ip_vs_local_request4", "iptable_nat_do_chain",
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> Tree:
    return tree.load(files.TREE)


@pytest.fixture(scope="module")
def plans(shipped: Tree, kernels: dict[str, Kernel]) -> dict[str, Plan]:
    return {version: plan.make(shipped.traces(), kernel) for version, kernel in kernels.items()}


def read(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorded_places() -> dict[str, list[str]]:
    """For each trace its place on each kernel, as reviewed."""
    places = read(record_coverage.FILE)
    return {name: [found] * len(VERSIONS) if isinstance(found, str) else found for name, found in places.items()}


def test_places_are_unique(shipped: Tree) -> None:
    places = [place for trace in shipped.traces() for place in trace.functions or [trace.tracepoint]]
    assert len(places) == len(set(places))
    found = [trace.name for trace in shipped.traces()]
    assert len(found) == len(set(found))


def test_roles(shipped: Tree) -> None:
    for trace in shipped.traces():
        if trace.role == "drop":
            assert trace.tracepoint == "skb:kfree_skb"
        if trace.role in ("clone", "segments"):
            assert trace.tracepoint is None and not trace.match
        # Without them packets would never end, or be lost from sight.
        assert trace.default or trace.role is None, trace.name
    assert {trace.role for trace in shipped.traces()} == {None, "free", "drop", "clone", "segments"}


def test_sockets_only_where_headers_are_missing(shipped: Tree) -> None:
    groups = ("tcp-out", "ip-out", "ip6-out", "socket")
    there = {trace.name for group in groups for trace in shipped.find(group)}
    assert {trace.name for trace in shipped.traces() if trace.sk is not None} <= there


def test_what_has_no_packet_is_off(shipped: Tree) -> None:
    without = {trace.name for trace in shipped.traces() if trace.skb is None}
    assert without <= {trace.name for trace in shipped.find("socket")}
    assert not any(trace.default for trace in shipped.find("socket"))


def test_matching(shipped: Tree) -> None:
    matching = [trace for trace in shipped.traces() if trace.match]
    # Each costs every unrelated packet that comes by a run of the filter.
    assert len(matching) <= 20
    assert all(trace.default for trace in matching)


def comments_above(text: str) -> Iterator[tuple[str, str]]:
    """Name of each trace in the file and the comment above it."""
    comment = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment += line.strip(" #") + "\n"
        else:
            found = re.match(r"\s+(\w+): \{", line)
            if found:
                yield found[1], comment
            comment = ""


def test_matching_is_explained(shipped: Tree) -> None:
    explained = dict(comments_above(files.TREE.read_text(encoding="utf-8")))
    assert set(explained) == {trace.name for trace in shipped.traces()}
    for trace in shipped.traces():
        assert trace.match == explained[trace.name].startswith("match: "), trace.name


def test_descriptions(shipped: Tree) -> None:
    def described() -> Iterator[tuple[str, str]]:
        yield from ((group.name, group.desc) for group in shipped.root.all_groups())
        yield from ((trace.name, trace.desc) for trace in shipped.traces())

    for name, desc in described():
        assert "\n" not in desc and not desc.endswith("."), name
        assert desc and len(desc) <= 110, name


@pytest.mark.parametrize("version", VERSIONS)
def test_each_trace_is_where_it_was_seen_when_recorded(
    shipped: Tree, kernels: dict[str, Kernel], recorded_places: dict[str, list[str]], version: str
) -> None:
    index = VERSIONS.index(version)
    expected = {name: places[index] for name, places in recorded_places.items()}
    assert record_coverage.places(shipped.traces(), kernels[version]) == expected


def test_no_trace_is_for_no_kernel(recorded_places: dict[str, list[str]]) -> None:
    assert all(len(places) == len(VERSIONS) for places in recorded_places.values())
    assert [name for name, places in recorded_places.items() if all(place[0] == "-" for place in places)] == []


def test_what_keeps_a_trace_from_a_kernel(plans: dict[str, Plan]) -> None:
    reasons = {skip.reason for made in plans.values() for skip in made.skipped}
    assert {re.sub(r"\w+:\w+", "X", reason) for reason in reasons} == {
        "no such function, or inlined, or in a module that is not loaded",
        "inlined or left out by the compiler",
        "this kernel has no tracepoint X",
        "on this kernel it has no packet among its arguments",
        plan.ONLY_SOCKET,
    }


def test_the_trees_numbers_are_those_of_some_kernel(shipped: Tree, kernels: dict[str, Kernel]) -> None:
    """They stand in where a kernel's types do not tell."""
    wrong: set[str] = set()
    unknown: set[str] = set()
    for trace in shipped.traces():
        if trace.skb is None:
            continue
        found: set[tuple[int, bool]] = set()
        for kernel in kernels.values():
            if trace.tracepoint is not None:
                prototype = kernel.btf.tracepoint(trace.tracepoint.partition(":")[2])
            else:
                function = next((name for name in trace.functions if kernel.obstacle(name) is None), None)
                prototype = None if function is None else kernel.prototype(function)
            for kind in () if prototype is None else (plan.SKB_TYPE, *plan.SKB_HOLDERS):
                place = prototype.index(kind)
                if place is not None:
                    found.add((place, kind != plan.SKB_TYPE))
        if not found:
            unknown.add(trace.name)
        elif (trace.skb, trace.deref) not in found:
            wrong.add(trace.name)
    assert wrong == AS_BEFORE_TYPES
    assert unknown == WITHOUT_TYPES


@pytest.mark.parametrize("program", ["c_program", "bcc_program"])
def test_the_older_nettraces_traces_are_known(shipped: Tree, program: str) -> None:
    ancestors = read(ANCESTORS)
    assert len(set(ancestors[program])) == {"c_program": 159, "bcc_program": 69}[program]
    for name in ancestors[program]:
        found = shipped.find(ancestors["words"].get(name, name))
        assert len(found) == 1, name


def test_the_older_nettraces_groups_are_known(shipped: Tree) -> None:
    groups = {group.name for group in shipped.root.all_groups()}
    assert set(read(ANCESTORS)["groups"]) <= groups


def test_words_for_older_names_are_needed(shipped: Tree) -> None:
    for name in read(ANCESTORS)["words"]:
        assert shipped.find(name) == (), name


@pytest.mark.parametrize("name", ALWAYS.split())
def test_what_is_on_by_default(shipped: Tree, name: str) -> None:
    (trace,) = shipped.find(name)
    assert trace.default


@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_is_no_burden(shipped: Tree, kernels: dict[str, Kernel], version: str) -> None:
    """Where no module of interest is loaded: single kprobes take their time to attach and to detach."""
    made = plan.make(shipped.default(), kernels[version])
    modules = kernels[version].symbols.module
    built_in = [probe for probe in made.probes if probe.program.is_tracepoint or not modules(probe.target)]
    assert len(built_in) <= 130
    assert len(made.probes) <= 205


def test_off_by_default_is_what_is_rarely_wanted(shipped: Tree) -> None:
    default: set[Trace] = set(shipped.default())
    for group in ("mac80211", "socket", "tc-actions", "tc-filters", "qdiscs", "ppp", "macsec", "esp", "multicast"):
        assert not default & set(shipped.find(group)), group
