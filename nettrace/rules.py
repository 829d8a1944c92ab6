"""What the return values and facts of traces mean, from rules/: strict YAML, and which rule an event meets.

A rule belongs to traces and says when it holds: `when: {return: {lt: 0}}`. What is compared is what the
function returned (`return`; `verdict` if that is one of netfilter's), why a packet was dropped (`drop_reason`,
by its name), or one of the trace's facts, with numbers, names of numbers, or another fact of the trace.
All conditions must hold; without any, the rule always does. Of the rules of a trace the first that holds counts.
"""

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from . import yamlfile
from .event import Event
from .meaning import DEFINED, number, verdict
from .reasons import DROP_FILE, LEVELS, RESET_FILE
from .suggest import did_you_mean
from .tree import Trace, Tree
from .yamlfile import Item


class FactName(str):
    """What a rule compares with another fact of the trace."""


Value = Union[int, str]

OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "in", "between")
RETURN, VERDICT, REASON = "return", "verdict", "drop_reason"
_RETURNED = (RETURN, VERDICT)

_DEFINED = {**DEFINED, "NULL": 0, "true": 1, "false": 0}
_SYMBOL = re.compile(r"-?(?:\w+\.)?(?P<word>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Condition:
    """Something compared with what a rule's file says."""

    subject: str  # RETURN, VERDICT, REASON or the name of a fact
    operator: str  # one of OPERATORS
    values: tuple[Value, ...]  # numbers and symbols; of `in` any number of them, of `between` two, else one

    def holds(self, value: Value, values: tuple[Optional[Value], ...]) -> bool:
        """Whether it does; values: what the symbols stand for on the kernel at hand, None: it has no such."""
        if self.operator == "in":
            return value in values
        if self.operator == "eq":
            return value == values[0]
        if self.operator == "ne":
            return values[0] is not None and value != values[0]
        limits = [limit for limit in values if isinstance(limit, int)]
        if not isinstance(value, int) or len(limits) < len(values):
            return False
        if self.operator == "between":
            return limits[0] <= value <= limits[1]
        return {"lt": value < limits[0], "le": value <= limits[0], "gt": value > limits[0], "ge": value >= limits[0]}[
            self.operator
        ]


@dataclass(frozen=True)
class Rule:
    """What it means when a trace is hit, returns a value or tells a fact."""

    name: str
    traces: tuple[str, ...]
    conditions: tuple[Condition, ...]
    returns: Optional[str]  # the rule is for functions that return this C type; None: for all
    level: str  # info, warn or error
    message: str
    advice: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()  # what to look for on the host, names that nettrace/proof.py knows
    effect: bool = False  # it says that something went wrong further in, not what

    @property
    def needs_return(self) -> bool:
        """Whether it can only be decided when the function has returned."""
        return any(condition.subject in _RETURNED for condition in self.conditions)


@dataclass(frozen=True)
class Rules:
    """All rules, in the order of their files' names and of their places there."""

    all: tuple[Rule, ...]

    def find(self, name: str) -> Optional[Rule]:
        """The rule of this name."""
        return next((rule for rule in self.all if rule.name == name), None)

    def of(self, trace: str) -> tuple[Rule, ...]:
        """The rules of a trace, the first one that holds counts."""
        return tuple(rule for rule in self.all if trace in rule.traces)

    @property
    def by_trace(self) -> frozenset[str]:
        """The traces that have rules."""
        return frozenset(trace for rule in self.all for trace in rule.traces)

    @property
    def tell_trouble(self) -> frozenset[str]:
        """The traces of which a rule is a warning or an error."""
        return frozenset(trace for rule in self.all if rule.level != "info" for trace in rule.traces)

    @property
    def ask_verdict(self) -> frozenset[str]:
        """The traces whose functions return one of netfilter's verdicts."""
        return frozenset(
            trace for rule in self.all for each in rule.conditions if each.subject == VERDICT for trace in rule.traces
        )

    @property
    def enums(self) -> frozenset[str]:
        """The enums whose members something is compared with."""
        values = (value for rule in self.all for condition in rule.conditions for value in condition.values)
        return frozenset(str(value).lstrip("-").rpartition(".")[0] for value in values if "." in str(value))

    @property
    def need_return(self) -> frozenset[str]:
        """The traces whose functions' return must be told for all their rules to be decided."""
        return frozenset(trace for rule in self.all if rule.needs_return for trace in rule.traces)


def load(folder: Path, tree: Tree) -> Rules:
    """Reads the rules; a rule that is wrong or can never hold is a ConfigurationError with file and line."""
    traces = {trace.name: trace for trace in tree.traces()}
    rules: dict[str, Rule] = {}
    ended: dict[tuple[str, Optional[str]], str] = {}  # traces of which every event meets this rule
    for file in sorted(folder.glob("*.yaml")):
        if file.name in (DROP_FILE, RESET_FILE):
            continue
        for name, item in yamlfile.load(file).mapping().items():
            if name in rules:
                raise item.error(f"there are two rules '{name}'")
            rule = _rule(name, item, traces)
            for trace in rule.traces:
                if (trace, None) in ended or (trace, rule.returns) in ended:
                    before = ended.get((trace, None)) or ended[(trace, rule.returns)]
                    raise item.error(f"rule '{name}' can never hold: all of {trace} is taken by rule '{before}'")
                if not rule.conditions:
                    ended[trace, rule.returns] = name
            rules[name] = rule
    return Rules(tuple(rules.values()))


def _rule(name: str, item: Item, traces: Mapping[str, Trace]) -> Rule:
    fields = item.fields(("trace", "level", "message"), ("when", "returns", "advice", "evidence", "effect"))
    names = _texts(fields["trace"])
    for trace in names:
        if trace not in traces:
            raise fields["trace"].error(f"there is no trace '{trace}'{did_you_mean(trace, traces)}")
    if len(set(names)) < len(names):
        raise fields["trace"].error("a trace is named twice")
    conditions = tuple(_conditions(fields["when"], [traces[trace] for trace in names])) if "when" in fields else ()
    returns = fields["returns"].text() if "returns" in fields else None
    if returns is not None and any(traces[trace].tracepoint for trace in names):
        raise fields["returns"].error("a tracepoint returns nothing")
    return Rule(
        name, names, conditions, returns, fields["level"].choice(LEVELS), fields["message"].text(),
        advice=_texts(fields["advice"]) if "advice" in fields else (),
        evidence=_texts(fields["evidence"]) if "evidence" in fields else (),
        effect=fields["effect"].boolean() if "effect" in fields else False,
    )  # fmt: skip


def _texts(item: Item) -> tuple[str, ...]:
    if not isinstance(item.value, list):
        return (item.text(),)
    if not item.items():
        raise item.error("the list is empty")
    return tuple(each.text() for each in item.items())


def _conditions(item: Item, traces: list[Trace]) -> Iterable[Condition]:
    for subject, comparisons in item.mapping().items():
        _check_subject(subject, comparisons, traces)
        if not comparisons.mapping():
            raise comparisons.error(f"'{subject}' is compared with nothing: leave it out if it may be anything")
        for operator, value in comparisons.mapping().items():
            if operator not in OPERATORS:
                raise value.error(f"unknown operator '{operator}'; there are {', '.join(OPERATORS)}")
            values = value.items() if operator in ("in", "between") else [value]
            told = frozenset.intersection(*(frozenset(name for name, _ in trace.facts) for trace in traces))
            found = tuple(_value(each, subject, told) for each in values)
            if not found:
                raise value.error("the list is empty: the rule can never hold")
            if operator == "between" and len(found) != 2:
                raise value.error("'between' needs two numbers, the lowest and the highest")
            if operator not in ("eq", "ne", "in"):
                if subject == REASON:
                    raise value.error("a reason has a name: eq, ne and in compare it")
                _check_limits(value, found)
            limits = [limit for limit in found if isinstance(limit, int)]
            if operator == "between" and limits != sorted(limits):
                raise value.error(f"nothing is between {limits[0]} and {limits[1]}: the rule can never hold")
            yield Condition(subject, operator, found)


def _check_subject(subject: str, item: Item, traces: list[Trace]) -> None:
    for trace in traces:
        told = [name for name, _ in trace.facts]
        if subject in _RETURNED and trace.tracepoint is not None:
            raise item.error(f"{trace.name} is a tracepoint, which returns nothing: the rule can never hold")
        if subject == REASON and trace.role != "drop":
            raise item.error(f"{trace.name} tells no reason: the rule can never hold")
        if subject not in (*_RETURNED, REASON) and subject not in told:
            known = [*_RETURNED, *told]
            raise item.error(
                f"{trace.name} tells no '{subject}'{did_you_mean(subject, known)}; it has {', '.join(known)}"
            )


def _check_limits(item: Item, limits: tuple[Value, ...]) -> None:
    for limit in limits:
        if isinstance(limit, str) and not isinstance(limit, FactName) and not _is_symbol(limit):
            raise item.error(f"'{limit}' is no number, no name of one, and no other fact of the trace")


def _value(item: Item, subject: str, told: frozenset[str]) -> Value:
    if subject != REASON and isinstance(item.value, int):  # true and false too
        return int(item.value)
    text = item.text()
    if text in told and subject not in (*_RETURNED, REASON):
        return FactName(text)
    if subject in _RETURNED and not _is_symbol(text):
        raise item.error(f"'{text}' is no number, and no name of one{did_you_mean(text, _DEFINED)}")
    return text


def _is_symbol(text: str) -> bool:
    """Whether it stands for a number; of an enum's members only a kernel knows."""
    match = _SYMBOL.fullmatch(text)
    return match is not None and ("." in text or _named(match["word"]) is not None)


def _named(word: str) -> Optional[int]:
    """What a name stands for that means the same on all kernels."""
    number: Optional[int] = _DEFINED.get(word, getattr(errno, word, None) if word.startswith("E") else None)
    return number


class Judge:
    """Says which rule an event meets, on one kernel.

    returns: the C type that the function of a trace returns, None where that is not known.
    enum_names: the names of an enum's values. reason: the name of a drop reason.
    """

    def __init__(
        self, rules: Rules, returns: Callable[[str], Optional[str]],
        enum_names: Callable[[str], Mapping[int, str]], reason: Callable[[int], str],
    ) -> None:  # fmt: skip
        self._rules = rules
        self._returns = returns
        self._enum_names = enum_names
        self._reason = reason
        self._known: dict[str, tuple[tuple[Rule, tuple[tuple[Optional[Value], ...], ...]], ...]] = {}

    def rule(self, item: Event) -> Optional[Rule]:
        """The first rule that holds for the event; None: it means nothing in particular."""
        for rule, values in self.of(item.trace):
            if all(self._holds(item, *pair) for pair in zip(rule.conditions, values)):
                return rule
        return None

    def of(self, trace: str) -> tuple[tuple[Rule, tuple[tuple[Optional[Value], ...], ...]], ...]:
        """The rules of a trace on this kernel, and what its conditions compare with, as Condition.holds() takes it."""
        if trace not in self._known:
            kind = self._returns(trace)
            self._known[trace] = tuple(
                (rule, tuple(tuple(self._number(value) for value in each.values) for each in rule.conditions))
                for rule in self._rules.of(trace)
                if rule.returns in (None, kind)
            )
        return self._known[trace]

    def _holds(self, item: Event, condition: Condition, values: tuple[Optional[Value], ...]) -> bool:
        value: Optional[Value]
        if condition.subject in _RETURNED:
            kind = self._returns(item.trace) or "int"
            value = None if item.returned is None else number(kind, item.returned.value)
            if condition.subject == VERDICT and value is not None:
                value = verdict(value)
        elif condition.subject == REASON:
            value = None if item.drop is None or item.drop.reason is None else self._reason(item.drop.reason)
            values = condition.values
        else:
            value = item.fact(condition.subject)
            if isinstance(value, str):
                values = condition.values
            values = tuple(item.fact(each) if isinstance(each, FactName) else each for each in values)
        return value is not None and condition.holds(value, values)

    def _number(self, value: Value) -> Optional[Value]:
        """What a symbol stands for on this kernel: NF_DROP, -EXDEV, tcp_ca_state.TCP_CA_Loss."""
        if isinstance(value, (int, FactName)):
            return value
        sign, word = (-1, value[1:]) if value.startswith("-") else (1, value)
        enum, _, name = word.rpartition(".")
        if enum:
            found = next((known for known, text in self._enum_names(enum).items() if text == name), None)
        else:
            found = _named(word)
        return None if found is None else sign * found
