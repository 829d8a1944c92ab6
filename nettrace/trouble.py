"""The rules that tell of trouble as C, for programs that send nothing unless one holds."""

import functools
from collections.abc import Callable, Sequence
from typing import Optional

from . import facts
from .facts import Fact
from .meaning import SIGNED_BITS, UNSIGNED_BITS
from .plan import Plan
from .rules import REASON, RETURN, VERDICT, Condition, FactName, Judge, Rule, Value

_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_NEVER, _PERHAPS = "false", "true"
# Gives the answer in C to a condition.
_Answer = Callable[[Condition, tuple[Optional[Value], ...]], str]


def c_text(plan: Plan, judge: Judge, returns: Callable[[str], Optional[str]]) -> str:
    """The functions may_be_trouble() and is_trouble() of bpf/watch.h, with a case for each watched function.

    returns: the C type that the function of a trace returns, None where that is not known.
    """
    # Whatever measures time is no matter of rules.
    watched = {
        probe.numbers.rules: probe
        for probe in plan.probes
        if probe.numbers is not None and not (probe.numbers.is_rtt or probe.numbers.begins or probe.numbers.ends)
    }
    first, whole = [], []
    for number, probe in watched.items():
        assert probe.numbers is not None
        told = plan.facts[probe.numbers.facts - 1] if probe.numbers.facts else ()
        kind = returns(probe.trace.name) or "int"
        known = judge.of(probe.trace.name)
        first += _case(number, known, functools.partial(_answer, kind=kind, told=None))
        whole += _case(number, known, functools.partial(_answer, kind=kind, told=told))
    return _function("may_be_trouble(u32 rules, u64 value)", first) + _function(
        "is_trouble(u32 rules, u64 value, const u64 *words)", whole
    )


def _function(head: str, cases: Sequence[str]) -> str:
    return "\n".join(
        [f"static __always_inline bool {head}", "{", "\tswitch (rules) {", *cases, "\t}", "\treturn true;", "}", ""]
    )


def _case(
    number: int, known: Sequence[tuple[Rule, tuple[tuple[Optional[Value], ...], ...]]], answer: _Answer
) -> list[str]:
    """The first rule that holds counts; one of which that is not known is passed over if it tells no trouble."""
    lines = [f"\tcase {number}:"]
    for rule, values in known:
        answers = [answer(*pair) for pair in zip(rule.conditions, values)]
        if rule.level == "info" and _PERHAPS in answers:
            continue
        condition = " && ".join(f"({answer})" for answer in answers) or _PERHAPS
        lines.append(f"\t\tif ({condition}) return {'false' if rule.level == 'info' else 'true'};")
    return [*lines, "\t\treturn false;"]


def _answer(
    condition: Condition, values: tuple[Optional[Value], ...], kind: str, told: Optional[Sequence[Fact]]
) -> str:
    """Whether a condition holds; told: the facts that can be asked for, None: none yet."""
    if condition.subject in (RETURN, VERDICT):
        value = _returned(kind)
        return _compared(condition, f"verdict_of({value})" if condition.subject == VERDICT else value, values, told)
    if told is None or condition.subject == REASON:
        return _PERHAPS
    word = _word(told, condition.subject)
    return _PERHAPS if word is None else _compared(condition, word, values, told)


def _compared(
    condition: Condition, value: str, values: tuple[Optional[Value], ...], told: Optional[Sequence[Fact]]
) -> str:
    limits = []
    for each in values:
        text = _word(told or (), each) if isinstance(each, FactName) else each if each is None else f"{each}LL"
        if text is not None:
            limits.append(text)
    if condition.operator == "in":
        return " || ".join(f"{value} == {limit}" for limit in limits) or _NEVER
    if len(limits) < len(values):
        return _NEVER  # this kernel has no such thing
    if condition.operator == "between":
        return f"{value} >= {limits[0]} && {value} <= {limits[1]}"
    return f"{value} {_COMPARED[condition.operator]} {limits[0]}"


def _word(told: Sequence[Fact], name: str) -> Optional[str]:
    """A fact as a number; None for texts, and where this kernel has no such fact."""
    try:
        word, fact = facts.words_before(told, name)
    except KeyError:
        return None
    if fact.is_text:
        return None
    value = f"(words[{word}] >> {fact.shift} & {fact.mask:#x}ULL)"
    return f"(s64)(s{8 * fact.size}){value}" if fact.signed else f"(s64){value}"


def _returned(kind: str) -> str:
    """The register as a number of this type, as meaning.number() has it."""
    if kind.endswith("*"):
        return "(s64)value"
    if kind in ("bool", "_Bool"):
        return "(s64)(value & 0xff)"
    if kind in UNSIGNED_BITS:
        return f"(s64)(u{UNSIGNED_BITS[kind]})value"
    return f"(s64)(s{SIGNED_BITS.get(kind, 32)})value"
