"""The rules of a packet filter as their author wrote them, in the namespace of the process that asks.

Plain functions that read and change nothing. Which rule is meant, the kernel told: by its
handle in nftables. What iptables made there is shown in iptables' words.
"""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from . import nftables
from .nftables import Chain

TOLD_BYTES = 31  # of a name the kernel tells no more
BUDGET_S = 0.4  # for all of one question; who asks waits a little longer
CACHED_S = 1.0  # how long an answer is believed without asking whether the ruleset changed
CACHED_MAX = 256

# The programs that print what iptables and its like made of nftables. They only read, unlike
# `iptables -S`, which in some versions creates the tables that it does not find.
_SAVE_NFT = {
    "ip": ("iptables", "iptables-nft-save"),
    "ip6": ("ip6tables", "ip6tables-nft-save"),
    "bridge": ("ebtables", "ebtables-nft-save"),
    "arp": ("arptables", "arptables-nft-save"),
}
_SAVE_LEGACY = {"ip": "iptables-legacy-save", "ip6": "ip6tables-legacy-save"}
# Their tables; arptables-save has but one and takes no option to say so.
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security", "broute")
_LEGACY_TABLES = {"ip": "proc/net/ip_tables_names", "ip6": "proc/net/ip6_tables_names"}

# What nft reads as a name. Anything else, and a name is whatever somebody in a container
# chose, might be read as a command.
_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9_./:\\-]*\Z")
_HANDLE = re.compile(r" # handle ([0-9]+)$")
_INDENTATION = "\t\t"
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

INSTALL_NFT = "install nftables to see the rule's text"
NOT_THERE = "it is not there any more"
CHANGED = "the ruleset changed while it was read"


class Rule(NamedTuple):
    """A rule of nftables."""

    handle: int  # 0: not a rule but the chain's policy
    chain: Optional[Chain]  # None: it is not there any more
    text: str  # empty where it cannot be shown
    tool: str = "nft"  # in whose words: nft, iptables, ip6tables, ebtables or arptables
    lacking: str = ""  # why there is no text, and what to do
    expressions: tuple[str, ...] = ()  # what the kernel tells of a rule without text


class Answer(NamedTuple):
    """What was asked of one table, and in which state the ruleset was."""

    generation: int
    rules: tuple[Rule, ...]


class LegacyChain(NamedTuple):
    """A built-in chain of the older iptables, and what in it can drop a packet."""

    policy: str  # ACCEPT, DROP; empty where it cannot be told
    suspects: tuple[str, ...]  # the lines, in this chain and those it leads to, that may have done it
    lacking: str = ""  # why that is not known, and what to do


class Unreadable(Exception):
    """Why a program did not print what it was asked for."""


def rules(
    family: str,
    table: str,
    places: Sequence[tuple[str, int]],
    known_generation: Optional[int] = None,
    budget_s: float = BUDGET_S,
) -> Optional[Answer]:
    """The rules at these places of a table, each a chain and a handle, or 0 for the chain's policy.

    known_generation: of an answer that is at hand; None is returned if it is still right.
    """
    deadline = time.monotonic() + budget_s
    generation = nftables.generation(budget_s)
    if generation == known_generation:
        return None
    if any(_is_cut(name) for name in (table, *(chain for chain, _ in places))):
        table, places = _whole_names(family, table, places, budget_s)
    reader = _Reader(family, table, deadline)
    found = tuple(reader.rule(*place) for place in places)
    if nftables.generation(budget_s) != generation:
        found = tuple(rule._replace(text="", lacking=CHANGED) if rule.text else rule for rule in found)
    return Answer(generation, found)


def _is_cut(name: str) -> bool:
    return len(name.encode("utf-8", "surrogateescape")) == TOLD_BYTES


def _whole_names(
    family: str, table: str, places: Sequence[tuple[str, int]], budget_s: float
) -> tuple[str, Sequence[tuple[str, int]]]:
    """The same table and places by names that the kernel told the beginning of, where only one is meant."""
    known = nftables.names(family, budget_s)
    tables = {name for name, _ in known if name == table or (_is_cut(table) and name.startswith(table))}
    if len(tables) == 1:
        table = tables.pop()
    chains = [chain for name, chain in known if name == table]
    found = []
    for chain, handle in places:
        meant = [name for name in chains if name.startswith(chain)] if _is_cut(chain) else [chain]
        if handle:
            # A handle is a rule of one chain only.
            meant = [
                name
                for name in meant
                if len(meant) == 1 or handle in (rule.handle for rule in nftables.rules(family, table, name, budget_s))
            ]
        found.append((meant[0] if len(meant) == 1 else chain, handle))
    return table, found


class _Reader:
    """Reads rules of one table; what a program printed serves all of them."""

    def __init__(self, family: str, table: str, deadline: float) -> None:
        self._family = family
        self._table = table
        self._deadline = deadline
        self._saved: Optional[list[str]] = None
        self._listed: dict[str, dict[int, str]] = {}

    def rule(self, chain_name: str, handle: int) -> Rule:
        chain = nftables.chain(self._family, self._table, chain_name, self._left_s())
        if chain is None or not handle:
            return Rule(handle, chain, "", lacking="" if chain else NOT_THERE)
        command = self._list_command(chain_name)
        try:
            known = nftables.rules(self._family, self._table, chain_name, self._left_s())
        except TimeoutError:
            return Rule(handle, chain, "", lacking=_too_long(command))
        position = next((index for index, rule in enumerate(known) if rule.handle == handle), None)
        if position is None:
            return Rule(handle, chain, "", lacking=NOT_THERE)
        expressions = known[position].expressions
        # Each rule that iptables makes counts its packets.
        if "counter" in expressions:
            line = self._iptables_line(chain_name, position, len(known))
            if line is not None:
                return Rule(handle, chain, line, _SAVE_NFT[self._family][0])
        try:
            text = self._list(chain_name, command).get(handle, "")
            return Rule(handle, chain, text, lacking="" if text else NOT_THERE)
        except Unreadable as why:
            return Rule(handle, chain, "", lacking=str(why), expressions=expressions)

    def _iptables_line(self, chain_name: str, position: int, rules_in_chain: int) -> Optional[str]:
        """The rule in iptables' words; None: iptables did not make it, or cannot show it."""
        if self._family not in _SAVE_NFT or self._table not in _IPTABLES_TABLES:
            return None
        if self._saved is None:
            command = [_SAVE_NFT[self._family][1], "-t", self._table]
            # It prints the whole table; nft, if that takes too long, only the chain.
            until = time.monotonic() + self._left_s() / 2
            try:
                self._saved = run(command[: 1 if self._family == "arp" else 3], until).splitlines()
            except Unreadable:
                self._saved = []
        lines = [line for line in self._saved if line.startswith(f"-A {chain_name} ")]
        # The policy of a chain of ebtables that is not built in is a last rule, which is not printed.
        hidden = 1 if self._family == "bridge" else 0
        if not rules_in_chain - hidden <= len(lines) <= rules_in_chain or position >= len(lines):
            return None
        return lines[position]

    def _list(self, chain_name: str, command: Sequence[str]) -> dict[int, str]:
        """The texts of a chain's rules by their handles."""
        if chain_name not in self._listed:
            for name in (self._table, chain_name):
                if not _NAME.match(name):
                    raise Unreadable(f"nft cannot be asked for the name '{name}'")
            self._listed[chain_name] = dict(rule_texts(run(command, self._deadline)))
        return self._listed[chain_name]

    def _list_command(self, chain_name: str) -> list[str]:
        # Without the counters: the text as it was written, and the same each time.
        return ["nft", "-a", "-s", "list", "chain", self._family, self._table, chain_name]

    def _left_s(self) -> float:
        return max(0.01, self._deadline - time.monotonic())


def rule_texts(listing: str) -> Iterator[tuple[int, str]]:
    """The handles and texts in what `nft -a list chain` prints; a long set continues on lines further in."""
    text = ""
    for line in listing.splitlines():
        further_in = line.startswith(_INDENTATION) and line[len(_INDENTATION)].isspace()
        text = f"{text} {line.strip()}" if further_in else line.strip()
        handle = _HANDLE.search(text)
        if handle and line.startswith(_INDENTATION):
            yield int(handle[1]), text[: handle.start()].rstrip()


def run(command: Sequence[str], deadline: float) -> str:
    """What a program prints; Unreadable where it is not installed, takes too long or fails."""
    path = shutil.which(command[0], path=_SEARCH_PATH)
    if path is None:
        raise Unreadable(INSTALL_NFT if command[0] == "nft" else f"install iptables to have {command[0]}")
    try:
        done = subprocess.run(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"LC_ALL": "C.UTF-8"},
            timeout=max(0.01, deadline - time.monotonic()), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unreadable(_too_long(command)) from error
    except OSError as error:
        raise Unreadable(f"{path} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise Unreadable(f"'{shlex.join(command)}' failed: {said or done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def _too_long(command: Sequence[str]) -> str:
    return f"it takes long to read; try: {shlex.join(command)}"


def legacy(family: str, table: str, chain_name: str, budget_s: float = BUDGET_S, root: Path = Path("/")) -> LegacyChain:
    """What in a built-in chain of the older iptables can drop a packet; the kernel does not tell which rule did."""
    try:
        names = (root / _LEGACY_TABLES[family]).read_text(encoding="ascii").split()
    except OSError:
        names = []
    # To ask for a table that is not in use would create it.
    if table not in names:
        return LegacyChain("", (), f"iptables-legacy has no table {table} here any more")
    try:
        text = run([_SAVE_LEGACY[family], "-t", table], time.monotonic() + budget_s)
    except Unreadable as why:
        return LegacyChain("", (), str(why))
    return _suspects(text.splitlines(), chain_name)


_DROPPING = ("DROP", "REJECT", "TARPIT", "STEAL")


def _suspects(lines: Sequence[str], chain_name: str) -> LegacyChain:
    policies = dict(line[1:].split()[:2] for line in lines if line.startswith(":"))
    by_chain: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        if line.startswith("-A "):
            words = shlex.split(line)
            target = next((after for word, after in zip(words, words[1:]) if word in ("-j", "-g")), "")
            by_chain.setdefault(words[1], []).append((target, line))
    suspects = []
    reached = [chain_name]
    for name in reached:
        for target, line in by_chain.get(name, ()):
            if target in _DROPPING:
                suspects.append(line)
            elif target in policies and target not in reached:
                reached.append(target)
    return LegacyChain(policies.get(chain_name, ""), tuple(suspects))


class Rulesets:
    """Rules of many namespaces, remembered for the run.

    ask: runs a function with arguments in a namespace, as inside.ask() does. budget_s: what these get of its time.
    """

    def __init__(
        self,
        ask: Callable[..., Optional[Answer]],
        *,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._budget_s = budget_s
        self._clock = clock
        self._answers: dict[tuple[object, ...], tuple[float, Answer]] = {}

    def rules(self, netns: int, family: str, table: str, places: Sequence[tuple[str, int]]) -> tuple[Rule, ...]:
        """As the function rules(), in the namespace of this inode."""
        key = (netns, family, table, tuple(places))
        asked, answer = self._answers.pop(key, (0.0, None))
        now = self._clock()
        if answer is None or now - asked >= CACHED_S:
            generation = None if answer is None else answer.generation
            answer = self._ask(netns, rules, family, table, tuple(places), generation, self._budget_s) or answer
            asked = now
        if answer is None:
            return ()
        self._answers[key] = (asked, answer)
        if len(self._answers) > CACHED_MAX:
            del self._answers[next(iter(self._answers))]
        return answer.rules
