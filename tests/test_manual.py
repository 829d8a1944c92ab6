"""The manual pages against the help and the tree, as readers see them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nettrace import options, tree
from package import manual

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "nettrace.8").read_text(encoding="utf-8")
TREE = tree.load(ROOT / "tracer.yaml")
TRACES = manual.traces(TREE, PAGE.splitlines()[1])


def shown(page: str) -> str:
    """A page as man shows it, without line ends and hyphens; no warning comes with it."""
    if not shutil.which("groff"):
        pytest.skip("there is no groff")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-K", "utf8", "-ww", "-rHY=0"],
        input=page, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    text = " ".join(re.sub(r"(\w[-\u2010])\n +", r"\1", done.stdout).split())
    return text.replace("\u2010", "-").replace("\u2212", "-").replace("\u2019", "'").replace("\u2018", "'")


def test_the_page_says_what_the_help_says() -> None:
    # Or else: make man.
    assert manual.nettrace(PAGE) == PAGE
    text = shown(PAGE)
    for action in options.parser()._actions:
        assert action.help is not None
        assert action.help[1:] in text, action.option_strings
    for command, what in options.EXAMPLES:
        assert f"{what[1:]}: {command} " in text


def test_what_the_page_says_by_itself_is_kept() -> None:
    entry = "The first ten packets"
    assert PAGE.count(entry) == 1
    own = "\nFor each packet, with evidence from this host; see\n"
    assert own in PAGE
    # The page of a time when --diag-quiet was not there, and the help had other words for --diag.
    older = re.sub(r"^\.TP\n\.B \\-\\-diag\\-quiet\n.*\n", "", PAGE, flags=re.MULTILINE)
    older = older.replace("Say what went wrong with a packet", "Tell about it").replace(entry, "Ten packets")
    assert len(older) < len(PAGE) - 100
    assert manual.nettrace(older) == PAGE


def test_all_traces_are_told_in_order() -> None:
    text = shown(TRACES)
    at = 0
    for group in TREE.root.groups:
        for part in group.all_groups():
            at = text.index(part.desc[1:], at)
            for trace in part.traces:
                at = text.index(f"{trace.name} {trace.desc[:1].upper()}"[:-1], at)
                assert trace.desc[1:] in text[at : at + 400], trace.name
                assert (trace.tracepoint or "") in text[at : at + 400]
    off = [trace for trace in TREE.traces() if not trace.default]
    assert text.count("Off by default.") == len(off) > 10
