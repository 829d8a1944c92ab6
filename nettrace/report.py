"""Findings as text: the analysis behind a packet's path."""

from collections.abc import Callable, Sequence

from .analyzers import Told
from .diagnosis import ERROR, INFO, WARN, Finding
from .event import Device

TITLE = "---------------- ANALYSIS RESULT ---------------------"
GOOD = "this is a good packet!"
UNKNOWN = "nothing wrong was seen, but part of this packet's path is not known"
FINISHED = "analysis finished!"

_LEVELS = {WARN: "WARNING", ERROR: "ERROR"}
ROOT = "most likely the root cause"


def report_text(
    findings: Sequence[Finding], group: Callable[[str], str], place: Callable[[Device], str],
    paint: Callable[[str, str], str], whole: bool = True,
) -> str:  # fmt: skip
    """The analysis of one packet.

    group: of a trace. place: a device's name as packets' lines have it. paint: puts a text in a level's colour.
    whole: whether all of the path is known.
    """
    lines = [TITLE]
    bad = [finding for finding in findings if finding.level != INFO]
    if not bad:
        lines.append(GOOD if whole else UNKNOWN)
    for number, finding in enumerate(bad, 1):
        item = finding.event
        mark = f" {ROOT}" if finding.root else ""
        head = f"[{number}] {_LEVELS[finding.level]} happens in {item.trace}({group(item.trace)}):"
        lines.append(paint(finding.level, head) + mark)
        lines.append(f"\t{_sentence(finding.message)}")
        where = place(item.device) if item.device is not None else ""
        if where:
            lines += ["    at:", f"\t{where}"]
        for told in finding.told:
            lines += [f"    {told.label}:", f"\t{told_text(told)}"]
        if finding.evidence:
            lines.append("    evidence:")
            lines += [f"\t{proof.text} ({proof.source})" for proof in finding.evidence]
        if finding.doubt:
            lines += ["    inferred:", f"\t{finding.doubt}"]
        if finding.advice:
            lines.append("    fix advice:")
            lines += [f"\t{_sentence(text)}" for text in finding.advice]
        lines.append("")
    return "\n".join(lines) + ("\n" if bad else "\n\n")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def told_text(told: Told) -> str:
    """Without the word that a packet's line needs in front and the label says already."""
    word, colon, rest = told.text.partition(": ")
    return rest if colon and told.label.endswith(word) else told.text
