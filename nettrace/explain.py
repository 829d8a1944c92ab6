"""What a name means that nettrace prints: a trace, a drop reason, a reset reason or a rule."""

from collections.abc import Iterable, Iterator, Mapping

from .errors import UsageError
from .reasons import Reason, Reasons
from .rules import Rule, Rules
from .suggest import did_you_mean
from .tree import Trace, Tree


def text(name: str, tree: Tree, rules: Rules, reasons: Reasons) -> str:
    """All that is known under this name; raises UsageError, with suggestions, if nothing is."""
    parts = [*_traces(name, tree, rules), *_reasons(name, reasons), *_rule(name, rules)]
    if not parts:
        known = [*tree.names(), *reasons.drops, *reasons.resets, *(rule.name for rule in rules.all)]
        raise UsageError(
            f"--explain: there is no trace, drop reason, reset reason or rule '{name}'{did_you_mean(name, known)}"
        )
    return "\n".join(parts)


def _traces(name: str, tree: Tree, rules: Rules) -> Iterator[str]:
    for group in tree.root.all_groups():
        if group.name == name:
            yield _lines(f"{name}: a group of traces", group.desc, {"traces": [t.name for t in group.all_traces()]})
    for trace in tree.traces():
        if name in trace.words:
            yield _trace(trace, rules)


def _trace(trace: Trace, rules: Rules) -> str:
    where = f"tracepoint {trace.tracepoint}" if trace.tracepoint else f"function {', or '.join(trace.functions)}"
    meanings = [f"{rule.level}: {rule.message} (rule {rule.name})" for rule in rules.of(trace.name)]
    facts = [f"{name}: {path}" for name, path in trace.facts]
    sections = {"what it may say": meanings, "what it tells beside the packet": facts}
    return _lines(f"{trace.name}: a trace of the group {trace.group}, {where}", trace.desc, sections)


def _reasons(name: str, reasons: Reasons) -> Iterator[str]:
    for kind, reason, prefix in (
        ("a reason why the kernel drops a packet", reasons.drop, "SKB_DROP_REASON_"),
        ("a reason why TCP resets a connection", reasons.reset, "SK_RST_REASON_"),
    ):
        found = reason(name) or reason(name.upper().replace(prefix, "", 1))
        if found is not None:
            yield _reason(kind, found)


def _reason(kind: str, reason: Reason) -> str:
    aliases = f" (also {', '.join(reason.aliases)})" if reason.aliases else ""
    sections = {"usual causes": reason.causes, "what to check": reason.check, "what to do": reason.fix}
    return _lines(f"{reason.name}{aliases}: {kind}, {reason.level}", reason.meaning, sections)


def _rule(name: str, rules: Rules) -> Iterator[str]:
    rule = rules.find(name)
    if rule is not None:
        yield _lines(f"{name}: a rule, {rule.level}", rule.message, _rule_sections(rule))


def _rule_sections(rule: Rule) -> dict[str, Iterable[str]]:
    conditions = [
        f"{condition.subject} {condition.operator} {', '.join(map(str, condition.values))}"
        for condition in rule.conditions
    ]
    return {
        "where": rule.traces,
        "when": conditions or ["always"],
        "evidence that --diag looks for": rule.evidence,
        "what to do": rule.advice,
    }


def _lines(title: str, meaning: str, sections: Mapping[str, Iterable[str]]) -> str:
    lines = [title, f"    {meaning}"]
    for heading, texts in sections.items():
        texts = list(texts)
        if texts:
            lines.append(f"  {heading}:")
            lines += [f"    {line}" for text in texts for line in text.splitlines()]
    return "\n".join(lines) + "\n"
