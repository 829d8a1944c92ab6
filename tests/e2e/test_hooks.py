"""Netfilter hooks of each family, and packets without IP, in one run: against rules and names of the kernel's own."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .net import Host, hosts, join, sh
from .test_diag import Finding, Packet, packets
from .tool import Nettrace
from .traffic import run_peer, send_udp

NOBODY = "10.78.0.99"
EXPERIMENTAL = 0x88B5  # an EtherType for local experiments, IEEE 802


@dataclass(frozen=True)
class Case:
    """A rule at a hook, and what is to be said of the packet that it drops."""

    host: str
    table: str  # family and chain, in nft's words
    rule: str
    hook: str  # as the kernel numbers them, with the family that it gives the packet
    function: str  # that nf_tables registers for the family


# include/uapi/linux/netfilter*.h, net/netfilter/nft_chain_filter.c
CASES = {
    "ip": Case(
        "far-end", "ip t { chain c { type filter hook input priority 0; R; }; }", "udp dport 7501 drop",
        "ipv4 in chain: INPUT", "nft_do_chain_ipv4",
    ),
    "ip6": Case(
        "far-end", "ip6 t { chain c { type filter hook input priority 0; R; }; }", "udp dport 7502 drop",
        "ipv6 in chain: INPUT", "nft_do_chain_ipv6",
    ),
    "inet": Case(
        "far-end", "inet t { chain c { type filter hook input priority 10; R; }; }", "udp dport 7503 drop",
        "ipv4 in chain: INPUT", "nft_do_chain_inet",
    ),
    "arp": Case(
        "far-end", "arp t { chain c { type filter hook input priority 0; R; }; }", f"arp daddr ip {NOBODY} drop",
        "arp in chain: ARP_IN", "nft_do_chain_arp",
    ),
    "bridge": Case(
        "switch", "bridge t { chain c { type filter hook forward priority 0; R; }; }", "udp dport 7504 drop",
        "bridge in chain: FORWARD", "nft_do_chain_bridge",
    ),
    "netdev": Case(
        "far-end", "netdev t { chain c { type filter hook ingress device r1 priority 0; R; }; }", "udp dport 7505 drop",
        "netdev in chain: INGRESS", "nft_do_chain_netdev",
    ),
    # Linux commit 42df6e1d221d (5.16), and a later nft than Debian 11 has
    "netdev-egress": Case(
        "near-end", "netdev t { chain c { type filter hook egress device l1 priority 0; R; }; }", "udp dport 7506 drop",
        "netdev in chain: EGRESS", "nft_do_chain_netdev",
    ),
}  # fmt: skip
FRAME = f"ether proto {EXPERIMENTAL:#x}"


@pytest.fixture(scope="module")
def analysed() -> Iterator[tuple[list[Packet], set[str]]]:
    """The packets of a run in which each rule met one, and the cases whose rules this host knows."""
    with hosts("near-end", "switch", "far-end"):
        left, right = Host("near-end", "10.78.0.1", "fd78::1"), Host("far-end", "10.78.0.2", "fd78::2")
        join("near-end", "l1", ["10.78.0.1/24", "fd78::1/64"], "switch", "sl", [])
        join("far-end", "r1", ["10.78.0.2/24", "fd78::2/64"], "switch", "sr", [])
        Host("switch").ip_commands(
            "link add br0 type bridge", "link set sl master br0", "link set sr master br0", "link set br0 up"
        )
        known = {
            name
            for name, case in CASES.items()
            if not sh(f"ip netns exec {case.host} nft 'table {case.table.replace('R', case.rule)}'", check=False)
        }
        with Nettrace("--hooks", "--diag-keep", "--evidence-time", "20", f"udp or arp or {FRAME}") as trace:
            for number in range(7501, 7507):
                if any(f" {number} " in CASES[name].rule for name in known):
                    send_udp(left, right.ip6 if number == 7502 else right.ip, number)
                    trace.wait_line(f":{number}")
            left.sh(f"ping -c 1 -W 1 {NOBODY}", check=False)
            trace.wait_line(f"who has {NOBODY}")
            run_peer(left, "frame", "l1", str(EXPERIMENTAL))
            trace.wait_line(f"{EXPERIMENTAL:#x}")
        yield packets(trace.output), known


def dropped(analysed: tuple[list[Packet], set[str]], name: str) -> Packet:
    """The packet that a case's rule dropped."""
    found, known = analysed
    if name not in known:
        assert name == "netdev-egress"
        pytest.skip("this release's nft or kernel has no such hook")
    number = re.search(r" (\d+) ", CASES[name].rule)
    text = f":{number[1]}" if number else f"who has {NOBODY}"
    # A broadcast is for each port of a bridge, and by itself: only one copy meets the rule.
    return next(one for one in found if text in one.text and any(each.root for each in one.findings))


def at_the_hook(packet: Packet) -> Finding:
    (finding,) = [each for each in packet.findings if each.trace == "nf_hook_slow"]
    return finding


@pytest.mark.parametrize("name", CASES)
def test_the_rule_is_shown(analysed: tuple[list[Packet], set[str]], name: str) -> None:
    packet, case = dropped(analysed, name), CASES[name]
    root = packet.findings[0]
    assert (root.root, root.trace) == (True, "nft_do_chain"), packet.text
    family = case.table.split()[0]
    pattern = rf"rule \d+ of chain c \(hook \w+, priority \d+\) in table {family} t decided: {case.rule} \(nft\)"
    assert re.search(pattern, root.evidence), packet.text


@pytest.mark.parametrize("name", CASES)
def test_the_hook_its_functions_and_the_one_that_decided(analysed: tuple[list[Packet], set[str]], name: str) -> None:
    packet, case = dropped(analysed, name), CASES[name]
    parts = at_the_hook(packet).parts
    assert parts["hook"] == [case.hook], packet.text
    at_this_hook = [
        CASES[other].function
        for other in analysed[1]
        # A chain of inet is at the hooks of both versions of IP.
        if CASES[other].hook == case.hook or (other == "inet" and name == "ip6")
    ]
    assert sorted(parts["functions at this hook"][0].split(", ")) == sorted(at_this_hook), packet.text
    assert parts["decided by"] == [case.function], packet.text


def test_functions_are_in_the_order_of_their_priorities(analysed: tuple[list[Packet], set[str]]) -> None:
    parts = at_the_hook(dropped(analysed, "inet")).parts
    assert parts["functions at this hook"] == ["nft_do_chain_ipv4, nft_do_chain_inet"]


def test_a_frame_that_nobody_takes(analysed: tuple[list[Packet], set[str]], kernel_has_reasons: bool) -> None:
    of_frames = [finding for one in analysed[0] if f"{EXPERIMENTAL:#x}" in one.text for finding in one.findings]
    assert of_frames
    if kernel_has_reasons:
        told = f"who takes packets of protocol {EXPERIMENTAL:#x} that come in by r1: nobody (/proc/net/ptype)"
        assert told in [finding.evidence for finding in of_frames]
