"""README, man page, CHANGELOG and CONTRIBUTING against the parser, the Makefile and the lists of the code."""

import dataclasses
import re
import shlex
import subprocess
import textwrap
from argparse import Action
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import nettrace
from nettrace import event, filters, names, options, run, selection, sinks, tree
from nettrace.kernel import Kernel
from nettrace.settings import Settings
from tests.e2e import tool
from tests.record_kernel import VERSIONS
from tests.vm.kernels import KERNELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
MAN = (ROOT / "docs" / "nettrace.8").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

ACTIONS: list[Action] = options.parser()._actions
OPTIONS = {name for action in ACTIONS for name in action.option_strings}
AN_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def section(text: str, start: str, end: str) -> str:
    return text[text.index(start) + len(start) :].split(end)[0]


def code(text: str) -> Iterable[str]:
    """What Markdown shows as code: the lines of blocks without their comments, and spans."""
    for number, part in enumerate(text.split("```")):
        if number % 2:
            yield from (line.split("   #")[0].strip() for line in part.splitlines()[1:])
        else:
            yield from re.findall(r"`([^`]+)`", part)


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    table = [re.split(r"(?<!\\)\|", line.strip("|")) for line in text.splitlines() if line.startswith("|")]
    return [[unescaped(cell).strip() for cell in row] for row in table[2:]]


def unescaped(text: str) -> str:
    """In a table a bar is written with a backslash."""
    return text.replace("\\|", "|")


def plain(man: str) -> str:
    """Man page source without escapes, quotes and macros."""
    text = re.sub(r"\\f[A-Z]", "", man).replace(r"\(aq", "'").replace(r"\-", "-")
    return re.sub(r"^\.[A-Z]+ ?", "", text, flags=re.MULTILINE).replace('"', "")


def flattened(text: str) -> str:
    return " ".join(text.split())


def test_the_readme_tells_all_options() -> None:
    told = [row[0] for row in rows(section(README, "## Options", "\nA run needs"))]
    expected = []
    for action in ACTIONS:
        value = " ".join(options.placeholders(action))
        names = ", ".join(action.option_strings)
        expected.append(f"`{names} {value}`" if value else f"`{names}`")
    assert [cell for cell in told if cell.startswith("`")] == expected


def test_the_readme_tells_no_other_options() -> None:
    missing = section(README, "Not there yet:", "\n## ")
    for text in code(README.replace(missing, "")):
        if text.startswith(("-", "nettrace ", "# nettrace ")):
            assert set(AN_OPTION.findall(text)) <= OPTIONS, text
    to_come = {name for text in code(missing) for name in AN_OPTION.findall(text)}
    assert not to_come & OPTIONS


def test_the_man_page_tells_all_options_and_no_others() -> None:
    assert set(AN_OPTION.findall(plain(section(MAN, ".SH OPTIONS", ".SH FILTER")))) == OPTIONS
    assert set(AN_OPTION.findall(plain(MAN))) <= OPTIONS


def test_what_is_refused_together_is_told() -> None:
    refused = section(README, "What says nothing together, or contradicts itself, is refused.", "\n\n")
    basic, stats = (set(re.findall(r"`--([\w-]+)`", part)) for part in refused.split("With `--func-stats`"))
    # What is about matching is for selection to refuse.
    assert basic == {"basic", "trace-matcher", "trace-free"} | {_spelt(name) for name in options._NOT_WITH_BASIC}
    assert stats == {_spelt(name) for name in options._NOT_WITH_STATS}
    latency = set(re.findall(r"`--([\w-]+)`", section(README, "With `--latency` and ", "\n\n")))
    assert latency == {"latency-summary", "date"} | {_spelt(name) for name in options._NOT_WITH_LATENCY}
    paths = set(re.findall(r"`--([\w-]+)`", section(README, "With `--paths`, ", "\n\n")))
    assert latency | paths == {_spelt(name) for name in options._NOT_WITH_PATHS}


def test_what_is_refused_with_drop_is_told() -> None:
    drop, stat = section(README, "With it these are refused:", "\n\n").split("with `--drop-stat`")
    names = ["t" if name == "trace" else _spelt(name) for name in options._NOT_WITH_DROP]
    assert re.findall(r"`--?([\w-]+)`", drop) == names
    assert re.findall(r"`--([\w-]+)`", stat) == [_spelt(name) for name in options._NOT_WITH_DROP_STAT]


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def test_columns_are_told() -> None:
    table = rows("| column |" + section(README, "| column |", "\n\n"))
    assert {row[0].strip("`") for row in table} == set(names.COLUMNS)
    assert set(re.findall(r"`(\w+)`", section(README, "behind it the columns ", ":"))) == set(names.DETAIL_COLUMNS)


@pytest.mark.parametrize("version", VERSIONS)
def test_commands_are_accepted(kernels: dict[str, Kernel], version: str) -> None:
    known = tree.load(ROOT / "tracer.yaml")
    recipes = [line for line in section(README, "## Recipes", "\n## ").splitlines() if line.startswith("nettrace ")]
    assert len(recipes) > 5
    for line in recipes:
        asked = options.parse(shlex.split(line)[1:])
        # There are no such processes here.
        assert not options.packet_filter(asked, None).is_empty or asked.trace or asked.count, line
        selected = selection.choose(
            known, kernels[version], trace=asked.trace, exclude=asked.trace_exclude, matcher=asked.trace_matcher,
            free=asked.trace_free, stack=asked.trace_stack, ret=asked.ret, basic=asked.basic,
        )  # fmt: skip
        assert selected.traces, line


def test_the_examples_of_traces_can_be_added(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    example = textwrap.dedent(section(README, "### Adding a trace", "\n## ").split("```yaml\n")[1].split("```")[0])
    file.write_text(f"desc: all\ntraces:\n{textwrap.indent(example, '  ')}", encoding="utf-8")
    words = tree.load(file).words()
    assert words
    assert not words.keys() & tree.load(ROOT / "tracer.yaml").words().keys()


@pytest.mark.parametrize("text", [unescaped(section(README, "## Options", "\n## ")), plain(MAN)], ids=["README", "man"])
def test_choices_and_placeholders_are_told(text: str) -> None:
    for action in ACTIONS:
        for word in (*(action.choices or ()), *options.placeholders(action)):
            assert re.search(rf"(?<![\w-]){re.escape(str(word))}(?![\w-])", text), word


def test_the_man_page_tells_all_protocols() -> None:
    told = re.findall(r"\b[a-z][\w-]*", section(plain(MAN), "PROTOCOLS\n", "OUTPUT\n"))
    known = {*filters.L3_PROTOCOLS, *filters.L4_PROTOCOLS, *filters.ALIASES}
    assert set(told) - {"or"} == known


@pytest.mark.parametrize("text", [flattened(README), flattened(plain(MAN))], ids=["README", "man"])
@pytest.mark.parametrize("unit", ["packets", "events"])
def test_each_number_of_the_summary_is_told(text: str, unit: str) -> None:
    values: dict[str, Any] = {field.name: 2 for field in dataclasses.fields(sinks.Summary)}
    values.update(unit=unit, lost_messages=(2,))
    for part in sinks.Summary(**values).text(verbose=True).split(", "):
        label = re.sub(r"^2 | \(cpu.*", "", part)
        assert label in text, label


@pytest.mark.parametrize("text", [flattened(README), flattened(plain(MAN))], ids=["README", "man"])
def test_limits_are_those_of_the_code(text: str) -> None:
    settings = Settings()
    assert f"At most {settings.tracked_max} skbs" in text
    assert f"for {run.IDLE_NS // 10**9} seconds" in text
    maps = (ROOT / "bpf" / "maps.h").read_text(encoding="utf-8")
    (hit_slots,) = (int(slots) for slots in re.findall(r"#define HIT_SLOTS \((\d+) ", maps))
    log_bytes = (settings.log_slots + hit_slots) * event.SLOT_BYTES + event.FACTS_ITEM.size
    headers_bytes = 2 * event.PACKET_ITEM.size + event.DEVICE_ITEM.size
    entry_bytes = event.RECORD.size + log_bytes + headers_bytes
    mebibytes = (settings.tracked_max * entry_bytes + settings.ringbuf_pages * 4096) >> 20
    (told,) = re.findall(r"about (\d+) MiB of kernel memory", text)
    # Entries have more, and there are other maps.
    assert mebibytes <= int(told) < 1.2 * mebibytes


def test_the_kernels_are_those_under_test(kernels: dict[str, Kernel]) -> None:
    table = rows(section(README, "## Kernels", "\n## "))
    assert [(version, suite) for version, suite, _, _ in table] == [(k.version, k.suite) for k in KERNELS]
    for version, _, attached_by, reasons in table:
        features = kernels[version].features
        assert attached_by == ("kprobe-multi" if features.kprobe_multi else "single kprobes"), version
        assert reasons == ("yes" if features.drop_reasons else "no"), version


def test_the_sample_is_what_nettrace_prints() -> None:
    lines = section(README, "```text\n# nettrace", "```").splitlines()[1:]
    assert (lines[0], lines[-2]) == (tool.READY, tool.END)
    # Cut lines, and those that tell where the packet moves.
    blocks = tool.parse_blocks([line for line in lines[1:-2] if line != "..." and not line.startswith("    ~ ")])
    request, reply = blocks
    assert (request.has("ping request"), reply.has("ping reply")) == (True, True)
    known = {trace.name for trace in tree.load(ROOT / "tracer.yaml").traces()}
    assert {name for block in blocks for name in block.traces} <= known


def test_make_targets_and_variables_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) *\??=", MAKEFILE, re.MULTILINE)) | set(re.findall(r"\$\((\w+)\)", MAKEFILE))
    commands = [text for text in (*code(README), *code(CONTRIBUTING)) if text.startswith("make ")]
    assert {"make setup", "make demo", "make test", "make install"} <= set(commands)
    for command in commands:
        assert command.split()[1] in targets, command
        assert set(re.findall(r"\b([A-Z]+)=", command)) <= variables, command


def test_make_help_tells_all_targets() -> None:
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    targets = set(section(MAKEFILE, ".PHONY: ", "\n").split())
    # One is another name, one is part of others.
    assert set(re.findall(r"^  make ([a-z-]+) +\w", told, re.MULTILINE)) == targets - {"check", "made"}


def test_the_layout_exists() -> None:
    layout = section(README, "## Where things are\n\n```text\n", "```")
    for path in re.findall(r"^([\w.]+/?)  ", layout, re.MULTILINE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_inside_the_checkout_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_messages_in_the_readme_are_those_of_the_code() -> None:
    modules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nettrace").glob("*.py"))
    for first, *_ in rows(section(README, "## Troubleshooting", "\n## ")):
        for message in re.findall(r"`([^`]+)`", first):
            assert message.split(" /")[0] in modules, message


def test_the_version_is_the_same_everywhere() -> None:
    assert re.search(r'^\.TH NETTRACE 8 \d{4}-\d\d-\d\d "nettrace (\S+)"', MAN, re.MULTILINE)[1] == nettrace.__version__  # type: ignore[index]
    # The version to come, else the last one that was released.
    versions = re.findall(r"^(?:To be released as |## \[)(\d\S*?)(?:\.$|\])", CHANGELOG, re.MULTILINE)
    assert "## [Unreleased]" in CHANGELOG
    assert versions[0] == nettrace.__version__
