"""The texts of rules, against what was added to each kernel, with what its own tools printed there."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from nettrace import nftables, ruleset
from nettrace.nftables import Chain
from nettrace.ruleset import Answer, Rule, Rulesets, Unreadable, rule_texts

from .record_rulesets import DATA, IPTABLES, LEGACY, MIXED, NFT, SCENARIOS, VERSIONS, Scenario, Wanted


class Replayed:
    """The kernel and the tools of a release, for one scenario."""

    def __init__(self, version: str, scenario: str) -> None:
        recorded = json.loads((DATA / version / "rulesets.json").read_text())[scenario]
        self.programs: dict[str, list[Any]] = recorded["programs"]
        self.netlink: dict[str, list[str]] = recorded.get("netlink", {})
        self.chains = recorded.get("chains", [])
        self.commands: list[list[str]] = []
        self.missing: set[str] = set()

    def run(self, command: Sequence[str], deadline: float) -> str:
        self.commands.append(list(command))
        if command[0] in self.missing:
            raise Unreadable(ruleset.INSTALL_NFT if command[0] == "nft" else "install iptables")
        text, why = self.programs[" ".join(command)]
        if text is None:
            raise Unreadable(why)
        assert isinstance(text, str)
        return text

    def request(self, question: int, family: int, attributes: bytes = b"", **_: Any) -> list[bytes]:
        return [bytes.fromhex(answer) for answer in self.netlink[f"{question} {family} {attributes.hex()}"]]

    def handles(self, wanted: Wanted) -> list[int]:
        """The handles of a chain's rules, as nft listed them."""
        (found,) = [
            found["handles"]
            for found in self.chains
            if (found["family"], found["table"], found["chain"]) == (wanted.family, wanted.table, wanted.chain)
        ]
        assert isinstance(found, list)
        return found


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Replayed]:
    def make(version: str, scenario: str) -> Replayed:
        replayed = Replayed(version, scenario)
        monkeypatch.setattr(ruleset, "run", replayed.run)
        monkeypatch.setattr(nftables, "request", replayed.request)
        return replayed

    return make


def read(wanted: Wanted, handles: Sequence[int]) -> tuple[Rule, ...]:
    answer = ruleset.rules(wanted.family, wanted.table, [(wanted.chain, handle) for handle in handles])
    assert answer is not None
    return answer.rules


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_rule_is_shown_as_it_was_added(
    replay: Callable[[str, str], Replayed], version: str, scenario: Scenario
) -> None:
    replayed = replay(version, scenario.name)
    for wanted in scenario.chains:
        found = read(wanted, replayed.handles(wanted))
        assert [rule.text for rule in found] == list(wanted.texts)
        tools = [wanted.tool if text.startswith("-A ") else "nft" for text in wanted.texts]
        assert [rule.tool for rule in found] == tools
        assert {rule.lacking for rule in found} <= {""}


def chain_of(scenario: Scenario, family: str, name: str) -> Wanted:
    return next(wanted for wanted in scenario.chains if (wanted.family, wanted.chain) == (family, name))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_and_the_hook_of_a_chain_are_told(replay: Callable[[str, str], Replayed], version: str) -> None:
    replay(version, "nft")
    wanted = chain_of(NFT, "inet", "input")
    (rule,) = read(wanted, [0])
    assert rule.chain == Chain("inet", "firewall", "input", kind="filter", hook="input", priority=-5, policy="drop")
    (rule,) = read(chain_of(NFT, "inet", "deeper"), [0])
    assert rule.chain == Chain("inet", "firewall", "deeper")
    replay(version, "iptables")
    (rule,) = read(chain_of(IPTABLES, "ip", "FORWARD"), [0])
    assert rule.chain is not None
    assert (rule.chain.hook, rule.chain.policy) == ("forward", "drop")
    (rule,) = read(chain_of(IPTABLES, "ip", "POSTROUTING"), [0])
    assert rule.chain is not None
    assert (rule.chain.kind, rule.chain.hook, rule.chain.priority) == ("nat", "postrouting", 100)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_rule_that_is_gone_is_said_to_be(replay: Callable[[str, str], Replayed], version: str) -> None:
    replay(version, "nft")
    (rule,) = read(chain_of(NFT, "inet", "input"), [9999])
    assert (rule.text, rule.lacking) == ("", ruleset.NOT_THERE)


def test_without_nft_the_rule_of_iptables_is_shown_all_the_same(replay: Callable[[str, str], Replayed]) -> None:
    replayed = replay("6.12", "iptables")
    replayed.missing.add("nft")
    wanted = chain_of(IPTABLES, "ip", "INPUT")
    assert [rule.text for rule in read(wanted, replayed.handles(wanted))] == list(wanted.texts)


def test_without_nft_the_kernels_own_words_are_left(replay: Callable[[str, str], Replayed]) -> None:
    replayed = replay("6.12", "nft")
    replayed.missing.add("nft")
    wanted = chain_of(NFT, "inet", "deeper")
    rule = read(wanted, replayed.handles(wanted))[0]
    assert (rule.text, rule.lacking) == ("", "install nftables to see the rule's text")
    assert rule.expressions == ("meta", "cmp", "payload", "cmp", "counter", "immediate")


def test_what_a_program_printed_serves_all_rules(replay: Callable[[str, str], Replayed]) -> None:
    replayed = replay("6.12", "iptables")
    wanted = chain_of(IPTABLES, "ip", "INPUT")
    read(wanted, replayed.handles(wanted))
    assert replayed.commands == [["iptables-nft-save", "-t", "filter"]]
    replayed = replay("6.12", "mixed")
    wanted = MIXED.chains[0]
    read(wanted, replayed.handles(wanted))
    assert replayed.commands == [
        ["iptables-nft-save", "-t", "filter"],
        ["nft", "-a", "-s", "list", "chain", "ip", "filter", "INPUT"],
    ]


def test_a_rule_of_iptables_is_not_guessed_when_the_numbers_differ(replay: Callable[[str, str], Replayed]) -> None:
    replayed = replay("6.12", "iptables")
    wanted = chain_of(IPTABLES, "ip", "user")
    saved = replayed.programs["iptables-nft-save -t filter"]
    saved[0] = saved[0].replace(f"{wanted.texts[0]}\n", "")
    replayed.missing.add("nft")
    assert [rule.text for rule in read(wanted, replayed.handles(wanted))] == ["", ""]


def test_an_answer_at_hand_is_not_read_again(replay: Callable[[str, str], Replayed]) -> None:
    replayed = replay("6.12", "nft")
    wanted = chain_of(NFT, "inet", "input")
    places = [(wanted.chain, handle) for handle in replayed.handles(wanted)]
    answer = ruleset.rules(wanted.family, wanted.table, places)
    assert answer is not None
    replayed.commands.clear()
    assert ruleset.rules(wanted.family, wanted.table, places, answer.generation) is None
    assert replayed.commands == []


def test_texts_of_a_ruleset_in_motion_are_not_believed(
    replay: Callable[[str, str], Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = replay("6.12", "nft")
    generations = iter((7, 8))
    monkeypatch.setattr(nftables, "generation", lambda _: next(generations))
    wanted = chain_of(NFT, "inet", "input")
    assert {(rule.text, rule.lacking) for rule in read(wanted, replayed.handles(wanted))} == {("", ruleset.CHANGED)}


@pytest.mark.parametrize("name", ["x; flush ruleset", "-f", "a b", "x\nflush ruleset", "{", "$x", "x#", "", "drop;"])
def test_a_name_that_nft_could_take_for_a_command_is_not_given_to_it(
    replay: Callable[[str, str], Replayed], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replayed = replay("6.12", "nft")
    wanted = chain_of(NFT, "inet", "input")
    answers = [bytes.fromhex(a) for key in replayed.netlink if key.startswith("7 ") for a in replayed.netlink[key]]
    known = [nftables.Rule(8, answers[-1])]
    monkeypatch.setattr(nftables, "chain", lambda *_: Chain("inet", "firewall", name))
    monkeypatch.setattr(nftables, "rules", lambda *_: known)
    (rule,) = read(wanted._replace(chain=name), [8])
    assert replayed.commands == []
    assert rule.text == ""
    assert rule.lacking == f"nft cannot be asked for the name '{name}'"


def test_a_listing_is_taken_apart_by_its_indentation() -> None:
    listing = (
        "table inet t {\n"
        "\tcomment \"a table # handle 1\"\n"
        "\tchain c { # handle 1\n"
        '\t\tcomment "of the chain"\n'
        "\t\ttype filter hook input priority filter; policy accept;\n"
        "\t\ttcp dport { 1, 2,\n"
        "\t\t\t    3, 4 } drop # handle 6\n"
        '\t\tcomment "alone # handle 3" # handle 7\n'
        "\t}\n"
        "}\n"
    )  # fmt: skip
    assert list(rule_texts(listing)) == [(6, "tcp dport { 1, 2, 3, 4 } drop"), (7, 'comment "alone # handle 3"')]


def test_a_program_that_is_missing_slow_or_failing_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("slow", "exec sleep 60"), ("bad", "echo why >&2; exit 3"), ("good", 'echo "$1 $LC_ALL $HOME"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(ruleset, "_SEARCH_PATH", f"{tmp_path}:/usr/bin:/bin")
    soon = time.monotonic() + 0.2
    with pytest.raises(Unreadable, match="takes long to read; try: slow 'a b'"):
        ruleset.run(["slow", "a b"], soon)
    assert time.monotonic() < soon + 5
    later = time.monotonic() + 60
    with pytest.raises(Unreadable, match="'bad' failed: why"):
        ruleset.run(["bad"], later)
    with pytest.raises(Unreadable, match="install nftables"):
        ruleset.run(["nft"], later)
    assert ruleset.run(["good", "$(id)"], later) == "$(id) C.UTF-8 \n"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rules_of_legacy_iptables_that_may_have_dropped(
    replay: Callable[[str, str], Replayed], tmp_path: Path, version: str
) -> None:
    replay(version, "legacy")
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/ip_tables_names").write_text("filter\n")
    added = [line.partition(" ")[2] for line in LEGACY]
    drops = tuple(line for line in added if (line.endswith("DROP") and "-A" in line) or "REJECT" in line)
    found = ruleset.legacy("ip", "filter", "INPUT", root=tmp_path)
    assert found == ruleset.LegacyChain("ACCEPT", drops[:2])
    assert ruleset.legacy("ip", "filter", "FORWARD", root=tmp_path) == ruleset.LegacyChain("DROP", ())


def test_no_table_of_legacy_iptables_is_created_by_asking(
    replay: Callable[[str, str], Replayed], tmp_path: Path
) -> None:
    replayed = replay("6.12", "legacy")
    found = ruleset.legacy("ip", "filter", "INPUT", root=tmp_path)
    assert replayed.commands == []
    assert found.suspects == ()
    assert found.lacking


class Namespaces:
    """Answers questions as in a namespace, and counts them."""

    def __init__(self, *answers: Optional[Answer]) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.answers: Iterator[Optional[Answer]] = iter(answers)

    def ask(self, netns: int, question: Callable[..., Any], *arguments: object) -> Optional[Answer]:
        assert question is ruleset.rules
        self.asked.append((netns, *arguments))
        return next(self.answers)


def test_answers_are_remembered_until_the_ruleset_changed() -> None:
    now = [0.0]
    first, second = (Answer(number, (Rule(4, None, f"rule {number}"),)) for number in (7, 8))
    namespaces = Namespaces(first, None, second)
    rulesets = Rulesets(namespaces.ask, clock=lambda: now[0])

    def text() -> str:
        return rulesets.rules(1, "ip", "filter", [("INPUT", 4)])[0].text

    assert [text(), text()] == ["rule 7", "rule 7"]
    assert namespaces.asked == [(1, "ip", "filter", (("INPUT", 4),), None, ruleset.BUDGET_S)]
    now[0] = 2.0
    assert [text(), text()] == ["rule 7", "rule 7"]
    assert namespaces.asked[1:] == [(1, "ip", "filter", (("INPUT", 4),), 7, ruleset.BUDGET_S)]
    now[0] = 4.0
    assert text() == "rule 8"


def test_what_is_remembered_is_bounded() -> None:
    answer = Answer(7, (Rule(4, None, "text"),))
    namespaces = Namespaces(*[answer] * (ruleset.CACHED_MAX + 2))
    rulesets = Rulesets(namespaces.ask, clock=lambda: 0.0)
    for netns in range(ruleset.CACHED_MAX + 1):
        rulesets.rules(netns, "ip", "filter", [("INPUT", 4)])
    rulesets.rules(1, "ip", "filter", [("INPUT", 4)])
    assert len(namespaces.asked) == ruleset.CACHED_MAX + 1
    rulesets.rules(0, "ip", "filter", [("INPUT", 4)])
    assert len(namespaces.asked) == ruleset.CACHED_MAX + 2


def test_a_chain_too_long_for_the_time_is_left_to_the_reader(
    replay: Callable[[str, str], Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay("6.12", "nft")

    def too_long(*_: object) -> list[nftables.Rule]:
        raise TimeoutError

    monkeypatch.setattr(nftables, "rules", too_long)
    (rule,) = read(chain_of(NFT, "inet", "input"), [8])
    assert rule.lacking == "it takes long to read; try: nft -a -s list chain inet firewall input"
    assert rule.chain is not None


def test_names_that_the_kernel_cut_are_completed(
    replay: Callable[[str, str], Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay("6.12", "nft")
    told = "a" * 31
    there = {told: [], f"{told}-one": [3, 4], f"{told}-two": [5], "other": [6]}
    monkeypatch.setattr(nftables, "generation", lambda _: 7)
    monkeypatch.setattr(nftables, "names", lambda *_: [("t", name) for name in there] + [("u", f"{told}-one")])
    monkeypatch.setattr(nftables, "chain", lambda family, table, name, _: Chain(family, table, name))
    monkeypatch.setattr(nftables, "rules", lambda _, __, name, ___: [nftables.Rule(n, b"") for n in there[name]])
    monkeypatch.setattr(ruleset, "run", lambda *_: "")
    answer = ruleset.rules("inet", "t", [(told, 4), (told, 5), ("other", 6), (told, 0)])
    assert answer is not None
    assert [rule.chain.name for rule in answer.rules if rule.chain] == [f"{told}-one", f"{told}-two", "other", told]
