"""Which rule decided, in one run for all of them: against the rules that were added, their handles and counters."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import shutil
from collections.abc import Iterator

import pytest

from .net import Host
from .test_diag import Packet, packets
from .tool import Nettrace
from .traffic import send_udp

LONG = "a_chain_whose_name_is_longer_than_the_kernel_tells"
FIRST_PORT = 7401

# To port 7401, 7402 and so on: the rules that the packet meets, the deciding one last, by chain and text.
CASES = {
    "base": [("input", "udp dport 7401 counter drop")],
    "two-jumps": [("input", "udp dport 7402 jump first"), ("first", "jump deeper"),
                  ("deeper", "udp dport 7402 counter drop")],
    "behind-a-chain-that-ended": [("input", "udp dport 7403 counter drop")],
    "goto": [("input", "udp dport 7404 goto last"), ("last", "counter drop")],
    "verdict-map": [("input", "udp dport vmap @verdicts"), ("mapped", "counter drop")],
    "reject": [("input", "udp dport 7406 counter reject")],
    "long-name": [("input", f"udp dport 7407 jump {LONG}"), (LONG, "counter drop")],
    "long-chain": [("input", "udp dport 7408 jump long"), ("long", "udp dport 7408 counter drop")],
    "iptables": [("INPUT", "-A INPUT -p udp -m udp --dport 7409 -j user"),
                 ("user", "-A user -p udp -m udp --dport 7409 -j DROP")],
    "iptables-target": [("INPUT", "-A INPUT -p udp -m udp --dport 7410 -m comment --comment \"no thanks\" -j REJECT "
                                  "--reject-with icmp-port-unreachable")],
    "policy": [],
}  # fmt: skip
PORTS = {name: FIRST_PORT + index for index, name in enumerate(CASES)}

_PASSED = "\n".join(f"  tcp dport {port} accept" for port in range(1, 1000))
RULESET = f"""
table inet fw {{
 map verdicts {{ type inet_service : verdict; }}
 chain ended {{ tcp dport 1 drop; }}
 chain deeper {{ tcp dport 2 drop; udp dport 7402 counter drop; }}
 chain first {{ tcp dport 3 drop; jump ended; jump deeper; }}
 chain last {{ counter drop; }}
 chain mapped {{ counter drop; }}
 chain {LONG} {{ counter drop; }}
 chain long {{
{_PASSED}
  udp dport 7408 counter drop
 }}
 chain input {{
  type filter hook input priority 10
  udp dport 7401 counter drop
  udp dport 7402 jump first
  udp dport 7403 jump ended
  udp dport 7403 counter drop
  udp dport 7404 goto last
  udp dport vmap @verdicts
  udp dport 7406 counter reject
  udp dport 7407 jump {LONG}
  udp dport 7408 jump long
 }}
}}
add element inet fw verdicts {{ 7405 : jump mapped }}
table ip closed {{
 chain input {{ type filter hook input priority 20; policy drop; udp dport != 7411 accept; }}
}}
"""
IPTABLES = (
    "-N user",
    "-A INPUT -p udp --dport 7409 -j user",
    "-A user -p udp --dport 7409 -j DROP",
    '-A INPUT -p udp --dport 7410 -m comment --comment "no thanks" -j REJECT',
)


@pytest.fixture(scope="module")
def listing_and_packets(
    pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, list[Packet]]]]:
    """What nft lists at the end, and the packets of each case."""
    left, right = pair
    rules = tmp_path_factory.mktemp("rules") / "rules.nft"
    rules.write_text(RULESET)
    try:
        right.sh(f"nft -f {rules}")
        for line in IPTABLES:
            right.sh(f"iptables-nft {line}")
        with Nettrace(
            "--diag-keep", "--evidence-time", "20", "-p", "udp", "--addr", left.ip, "--netns", right.name
        ) as trace:
            for port in PORTS.values():
                send_udp(left, right.ip, port)
                trace.wait_line(f":{port}")
        listing = right.sh("nft -a list ruleset")
    finally:
        right.sh("nft flush ruleset")
    found = packets(trace.output)
    yield listing, {name: [one for one in found if f":{port}" in one.text] for name, port in PORTS.items()}


def handles(listing: str, chain: str) -> set[int]:
    """Those of a chain's rules, by nft."""
    rules = listing.split(f"\tchain {chain} {{")[1].partition("\n\t}")[0]
    return {int(number) for number in re.findall(r" # handle (\d+)$", rules, re.MULTILINE)}


@pytest.mark.parametrize("name", CASES)
def test_the_rule_that_decided(listing_and_packets: tuple[str, dict[str, list[Packet]]], name: str) -> None:
    if name.startswith("iptables") and not shutil.which("iptables-nft"):
        pytest.skip("this release has no iptables-nft")
    listing, by_case = listing_and_packets
    found = [finding.evidence for packet in by_case[name] for finding in packet.findings if finding.root]
    assert found, by_case[name]
    if name == "policy":
        assert "no rule decided: policy drop of chain input (hook input, priority 20) in table ip closed" in found[0]
        return
    lines = [line for line in found[0].splitlines() if " of chain " in line]
    assert len(lines) == len(CASES[name]), lines
    for line, (chain, text) in zip(lines, CASES[name]):
        match = re.search(
            r"rule (\d+) of chain (\S+)( \(hook [^)]*\))? in table (ip filter|inet fw)( decided)?: ", line
        )
        assert match is not None, line
        assert match[2] == chain and line.endswith((f"{text} (nft)", f"{text} (iptables)")), line
        # Several tables have a chain of that name.
        assert int(match[1]) in handles(listing, chain)
    assert " decided: " in lines[-1]
