"""The analysis of a packet, as a person reads it."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from collections.abc import Sequence
from typing import Any

import pytest

from nettrace.analyzers import Told
from nettrace.diagnosis import Finding
from nettrace.event import Device, Event
from nettrace.evidence import Evidence
from nettrace.report import report_text

from .headers import PING

GROUPS = {"nft_do_chain": "netfilter", "kfree_skb": "life"}
ETH0 = Device(2, "eth0", 11)


def report(*findings: Finding, colour: bool = False) -> str:
    return report_text(
        findings,
        lambda trace: GROUPS.get(trace, ""),
        lambda device: f"{device.name}@left" if device.ifindex else "",
        lambda level, text: f"<{level}>{text}</>" if colour else text,
    )


def finding(level: str, trace: str = "nft_do_chain", message: str = "it is so", **more: Any) -> Finding:
    device = more.pop("device", None)
    return Finding(Event(0, trace, 1, PING, device=device), level, "a", message, **more)


EVERYTHING = """\
---------------- ANALYSIS RESULT ---------------------
[1] ERROR happens in nft_do_chain(netfilter): most likely the root cause
	An nftables rule dropped the packet
    at:
	eth0@left
    table:
	nftables table:filter, chain:INPUT
    hook:
	ipv4 in chain: INPUT
    route:
	local dev lo
    socket state:
	TCP_LISTEN
    evidence:
	handle 4: tcp dport 22 drop (nft)
	the policy of the chain is accept (nft)
    inferred:
	the rule was not seen at work
    fix advice:
	Remove the rule
	Or accept this packet

[2] WARNING happens in kfree_skb(life):
	The packet was dropped
    location:
	nf_hook_slow+0x1

"""


def test_all_that_there_is() -> None:
    first = finding(
        "error", message="an nftables rule dropped the packet", device=ETH0, root=True,
        told=(Told("table", "nftables table:filter, chain:INPUT"), Told("hook", "ipv4 in chain: INPUT"),
              Told("route", "route: local dev lo"), Told("socket state", "state: TCP_LISTEN")),
        evidence=(
            Evidence("nft", "handle 4: tcp dport 22 drop"), Evidence("nft", "the policy of the chain is accept"),
        ),
        doubt="the rule was not seen at work", advice=("remove the rule", "or accept this packet"),
    )  # fmt: skip
    second = finding(
        "warn", "kfree_skb", "the packet was dropped", told=(Told("location", "nf_hook_slow+0x1"),),
        device=Device(0, "", 11),
    )  # fmt: skip
    assert report(first, second) == EVERYTHING
    # What is ordinary is in the lines, not here.
    assert report(finding("info"), first, finding("info"), second) == EVERYTHING


@pytest.mark.parametrize("findings", [[], [finding("info")]])
def test_a_good_packet(findings: Sequence[Finding]) -> None:
    assert report(*findings) == (
        "---------------- ANALYSIS RESULT ---------------------\nthis is a good packet!\n\n"
    )  # fmt: skip


def test_a_finding_with_nothing_more_to_say() -> None:
    assert report(finding("warn")) == (
        "---------------- ANALYSIS RESULT ---------------------\n"
        "[1] WARNING happens in nft_do_chain(netfilter):\n"
        "\tIt is so\n"
        "\n"
    )


def test_colours() -> None:
    assert report(finding("error", root=True), finding("warn"), colour=True).splitlines()[1::3] == [
        "<error>[1] ERROR happens in nft_do_chain(netfilter):</> most likely the root cause",
        "<warn>[2] WARNING happens in nft_do_chain(netfilter):</>",
    ]
