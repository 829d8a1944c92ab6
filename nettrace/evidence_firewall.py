"""Evidence from packet filters: the rule that decided, in its author's words, and the rules that led to it."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Callable

from . import inside, ruleset
from .event import Event, Packet
from .evidence import Evidence
from .inside import TIMEOUT_S, NoAnswer
from .iptables import may_fit
from .nftables import Chain
from .ruleset import LegacyChain, Rule, Rulesets
from .verdicts import Decision, decisions

_LEGACY_FAMILIES = {"ipt_do_table": "ip", "ip6t_do_table": "ip6"}
# Of the time for an answer, what the programs may take that are asked; the rest is for the child itself.
_SHARE = 0.8
_SUSPECTS_MAX = 8
# NF_INET_PRE_ROUTING and so on, as iptables calls the chains there.
_LEGACY_CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


class Firewalls:
    """The packet filters of many namespaces.

    own_netns: where a packet is whose steps do not tell. time_s: how long a question may take.
    """

    def __init__(self, own_netns: int, time_s: float = TIMEOUT_S, ask: Callable[..., Any] = inside.ask) -> None:
        self._own_netns = own_netns
        self._time_s = time_s
        self._ask = partial(ask, timeout_s=time_s)
        self._rulesets = Rulesets(self._ask, budget_s=time_s * _SHARE)

    def evidence(self, item: Event, events: Iterable[Event], netns: int) -> Iterator[Evidence]:
        """Which rule brought about a step, one of a packet's; netns: where the packet was, 0 if unknown."""
        netns = netns or self._own_netns
        before = [event for event in events if event.skb == item.skb and event.time_ns <= item.time_ns]
        if item.trace in _LEGACY_FAMILIES:
            yield from self._legacy(item, netns)
            return
        # The verdicts come behind the step at which the chain is entered.
        later = [event for event in events if event.skb == item.skb]
        started = len(decisions(before))
        if started:
            yield from self._nftables(decisions(later)[started - 1], netns)

    def _nftables(self, decision: Decision, netns: int) -> Iterator[Evidence]:
        try:
            rules = self._rulesets.rules(netns, decision.family, decision.table, decision.places)
        except NoAnswer as error:
            # What the kernel told is no less true.
            rules = tuple(Rule(handle, None, "", lacking=str(error)) for _, handle in decision.places)
        *jumps, (place, rule) = zip(decision.places, rules)
        for through, jump in jumps:
            yield Evidence(jump.tool, f"rule {jump.handle} of {_chain(decision, through, jump)}: {_text(jump)}")
        where = _chain(decision, place, rule)
        if decision.rule is None:
            policy = f"policy {rule.chain.policy}" if rule.chain is not None else "the policy"
            yield Evidence("nftables", f"no rule decided: {policy} of {where}")
        elif rule.handle:
            yield Evidence(rule.tool, f"rule {rule.handle} of {where} decided: {_text(rule)}")
        else:
            yield Evidence("nftables", f"a rule of {where} decided, behind the first 1024: {decision.verdict}")

    def _legacy(self, item: Event, netns: int) -> Iterator[Evidence]:
        table, hook = item.fact("table"), item.fact("hook")
        if not isinstance(table, str) or not isinstance(hook, int) or hook >= len(_LEGACY_CHAINS):
            return
        chain = _LEGACY_CHAINS[hook]
        try:
            found = self._ask(netns, ruleset.legacy, _LEGACY_FAMILIES[item.trace], table, chain, self._time_s * _SHARE)
        except NoAnswer as error:
            found = LegacyChain("", (), str(error))
        assert isinstance(found, LegacyChain)
        yield from _legacy_rules(found, table, chain, item.packet)


def _chain(decision: Decision, place: tuple[str, int], rule: Rule) -> str:
    """A chain by its whole name where that is known, and where packets enter it."""
    chain = rule.chain or Chain(decision.family, decision.table, place[0] or "?")
    hook = f" (hook {chain.hook}, priority {chain.priority})" if chain.hook else ""
    return f"chain {chain.name}{hook} in table {chain.family} {chain.table}"


def _text(rule: Rule) -> str:
    words = f" ({' '.join(rule.expressions)})" if rule.expressions else ""
    return rule.text or f"no text, {rule.lacking}{words}"


def _legacy_rules(found: LegacyChain, table: str, chain: str, packet: Packet) -> Iterator[Evidence]:
    source, where = "iptables-legacy", f"table {table}, chain {chain}"
    suspects = [*found.suspects, *([f"-P {chain} {found.policy}"] if found.policy == "DROP" else [])]
    fitting = [line for line in suspects if may_fit(line, packet)]
    if found.lacking:
        yield Evidence(source, f"{where}: {found.lacking}")
    elif not fitting:
        yield Evidence(source, f"{where}: nothing there drops such packets any more")
    elif len(fitting) == 1:
        which = f", of {len(suspects)} that drop packets" if len(suspects) > 1 else ""
        yield Evidence(source, f"{where}: only this can drop the packet there{which}: {fitting[0]}")
    else:
        yield Evidence(source, f"{where}: the kernel does not tell which rule it was, one of {len(fitting)}")
        for line in fitting[:_SUSPECTS_MAX]:
            yield Evidence(source, line)
