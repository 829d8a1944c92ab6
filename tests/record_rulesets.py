"""Records what the kernel and the tools of a release say about rules, for the unit tests of nettrace.ruleset.

As root, inside a kernel under test: python3 -m tests.record_rulesets FOLDER. For one of ours:

    python3 -m tests.vm run 6.12 'python3 -m tests.record_rulesets /mnt/out' --out tests/data/rulesets/6.12
    rm tests/data/rulesets/6.12/console.log

Each scenario gets a network namespace of its own.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from nettrace import nftables, ruleset

DATA = Path(__file__).resolve().parent / "data" / "rulesets"
VERSIONS = ("5.10", "6.1", "6.12", "7.2")


class Wanted(NamedTuple):
    """A chain, and its rules as they were added."""

    family: str
    table: str
    chain: str
    texts: tuple[str, ...]
    tool: str = "nft"


class Scenario(NamedTuple):
    name: str
    commands: tuple[str, ...]
    chains: tuple[Wanted, ...]


_MANY_PORTS = ", ".join(str(port) for port in range(7000, 7100, 2))

NFT = Scenario(
    "nft",
    (
        "nft add table inet firewall",
        "nft add set inet firewall ports { type inet_service ; elements = { 1, 2, 3 } ; }",
        "nft add chain inet firewall deeper",
        "nft add chain inet firewall input { type filter hook input priority -5 ; policy drop ; }",
        "nft add rule inet firewall deeper ip saddr 10.0.0.1 counter drop",
        f"nft add rule inet firewall deeper tcp dport {{ {_MANY_PORTS} }} drop",
        'nft add rule inet firewall deeper udp dport 9 drop comment "why # handle 3"',
        "nft add rule inet firewall input tcp dport @ports counter jump deeper",
        "nft insert rule inet firewall input iifname lo accept",
    ),
    (
        Wanted(
            "inet",
            "firewall",
            "deeper",
            (
                "ip saddr 10.0.0.1 counter drop",
                f"tcp dport {{ {_MANY_PORTS} }} drop",
                'udp dport 9 drop comment "why # handle 3"',
            ),
        ),
        Wanted("inet", "firewall", "input", ('iifname "lo" accept', "tcp dport @ports counter jump deeper")),
    ),
)
_INPUT = (
    "-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j DROP",
    '-A INPUT -p tcp -m multiport --dports 1,2,3 -m comment --comment "some -A user words" -j user',
)
_USER = (
    '-A user -m limit --limit 5/sec -j LOG --log-prefix "hm "',
    "-A user -p tcp -j REJECT --reject-with tcp-reset",
)
IPTABLES = Scenario(
    "iptables",
    (
        "iptables-nft -N user",
        *(f"iptables-nft {line}" for line in _INPUT + _USER),
        "iptables-nft -P FORWARD DROP",
        "iptables-nft -N drop",
        "iptables-nft -A drop -j DROP",
        "iptables-nft -t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",
        "ip6tables-nft -A INPUT -s fe80::/10 -j DROP",
        "ebtables-nft -A FORWARD -p IPv4 --ip-proto tcp -j DROP",
        "ebtables-nft -N deep -P DROP",
        "ebtables-nft -A deep -p ARP -j ACCEPT",
        "arptables-nft -A INPUT -j DROP -s 10.0.0.1",
    ),
    (
        Wanted("ip", "filter", "INPUT", _INPUT, "iptables"),
        Wanted("ip", "filter", "user", _USER, "iptables"),
        Wanted("ip", "filter", "drop", ("-A drop -j DROP",), "iptables"),
        Wanted("ip", "filter", "FORWARD", ()),
        Wanted("ip", "nat", "POSTROUTING", ("-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE",), "iptables"),
        Wanted("ip6", "filter", "INPUT", ("-A INPUT -s fe80::/10 -j DROP",), "ip6tables"),
        Wanted("bridge", "filter", "FORWARD", ("-A FORWARD -p IPv4 --ip-proto tcp -j DROP",), "ebtables"),
        Wanted("bridge", "filter", "deep", ("-A deep -p ARP -j ACCEPT", "counter drop"), "ebtables"),
        Wanted("arp", "filter", "INPUT", ("-A INPUT -j DROP -s 10.0.0.1",), "arptables"),
    ),
)
# With one rule that iptables cannot show, it shows none of the table.
MIXED = Scenario(
    "mixed",
    (
        "iptables-nft -A INPUT -s 10.0.0.1 -j DROP",
        "nft add rule ip filter INPUT ct state new drop",
        "nft add rule ip filter INPUT ip daddr 10.0.0.3 drop",
    ),
    (
        Wanted(
            "ip",
            "filter",
            "INPUT",
            ("ip saddr 10.0.0.1 counter drop", "ct state new drop", "ip daddr 10.0.0.3 drop"),
        ),
    ),
)
SCENARIOS = (NFT, IPTABLES, MIXED)

LEGACY = (
    "iptables-legacy -N user",
    "iptables-legacy -A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j DROP",
    "iptables-legacy -A INPUT -p udp -j user",
    "iptables-legacy -A user -p udp -m udp --dport 9 -j REJECT --reject-with icmp-port-unreachable",
    "iptables-legacy -P FORWARD DROP",
    "ip6tables-legacy -A INPUT -s fe80::/10 -j DROP",
)


def handles(wanted: Wanted) -> list[int]:
    """The handles of a chain's rules, in nft's own listing of everything."""
    listing = sh(f"nft -a list table {wanted.family} {wanted.table}").split(f"\tchain {wanted.chain} {{")[1]
    rules = listing.split("\n\t}")[0].splitlines()[1:]
    return [int(line.rpartition(" # handle ")[2]) for line in rules if " # handle " in line]


def sh(command: str) -> str:
    done = subprocess.run(command.split(" "), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command!r}: {done.stdout}"
    return done.stdout


class Recorder:
    """Listens to what nettrace.ruleset asks, and keeps the answers."""

    def __init__(self) -> None:
        self.programs: dict[str, list[Any]] = {}
        self.netlink: dict[str, list[str]] = {}
        self._run, self._request = ruleset.run, nftables.request
        ruleset.run = self.run
        nftables.request = self.request

    def run(self, command: Sequence[str], deadline: float) -> str:
        try:
            text = self._run(command, deadline)
        except ruleset.Unreadable as why:
            self.programs[" ".join(command)] = [None, str(why)]
            raise
        self.programs[" ".join(command)] = [text, ""]
        return text

    def request(self, question: int, family: int, attributes: bytes = b"", **how: Any) -> list[bytes]:
        answers = self._request(question, family, attributes, **how)
        self.netlink[f"{question} {family} {attributes.hex()}"] = [answer.hex() for answer in answers]
        return answers


def record(scenario: Scenario) -> dict[str, Any]:
    for command in scenario.commands:
        # nft gets what follows as one word: the quotes in it are its own.
        subprocess.run(command.split(" ", 1) if command.startswith("nft ") else shlex.split(command), check=True)
    recorder = Recorder()
    found = []
    for wanted in scenario.chains:
        numbers = handles(wanted)
        places = [(wanted.chain, handle) for handle in numbers + [0, 9999]]
        answer = ruleset.rules(wanted.family, wanted.table, places, budget_s=10)
        assert answer is not None
        assert ruleset.rules(wanted.family, wanted.table, places, answer.generation) is None, "reading changed it"
        found.append({"chain": wanted.chain, "table": wanted.table, "family": wanted.family, "handles": numbers})
    return {"programs": recorder.programs, "netlink": recorder.netlink, "chains": found}


def record_legacy() -> dict[str, Any]:
    for command in LEGACY:
        subprocess.run(command.split(), check=True)
    recorder = Recorder()
    for family in ("ip", "ip6"):
        for chain in ("INPUT", "FORWARD"):
            ruleset.legacy(family, "filter", chain, budget_s=10)
    return {"programs": recorder.programs}


def main(folder: Optional[str]) -> None:
    out = Path(folder or ".")
    out.mkdir(parents=True, exist_ok=True)
    everything: dict[str, Any] = {}
    for scenario in (*SCENARIOS, None):
        name = scenario.name if scenario else "legacy"
        done = subprocess.run(
            ["unshare", "-n", sys.executable, "-m", "tests.record_rulesets", "--one", name, str(out / f"{name}.part")]
        )
        assert done.returncode == 0, name
        part = out / f"{name}.part"
        everything[name] = json.loads(part.read_text())
        part.unlink()
    (out / "rulesets.json").write_text(json.dumps(everything, indent=1) + "\n")


def one(name: str, file: str) -> None:
    scenario = next((scenario for scenario in SCENARIOS if scenario.name == name), None)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path(file).write_text(json.dumps(record(scenario) if scenario else record_legacy()))


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(*sys.argv[2:])
    else:
        assert os.getuid() == 0, "as root"
        main(sys.argv[1])
