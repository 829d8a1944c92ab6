"""The manual pages, as far as other files say the same.

In docs/nettrace.8 the heading of each option and the line below it are what the help says, and the examples are those
of the help; all else is the page's own. `python3 -m package.manual` brings it up to date, and
`python3 -m package.manual FOLDER` writes nettrace-traces.7 there, which is made of tracer.yaml.
"""

import re
import sys
from argparse import Action
from collections.abc import Iterator
from pathlib import Path

from nettrace import files, options, tree

PAGE = Path(__file__).resolve().parent.parent / "docs" / "nettrace.8"
TRACES = "nettrace-traces.7"

_AN_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
# Names of programs and things keep their small letters.
_AS_THEY_ARE = ("nettrace", "skb")


def nettrace(page: str) -> str:
    """The page, with options and examples as the help has them."""
    before, own, after = _cut(page, ".SH OPTIONS\n", ".SH FILTER\n")
    page = before + "".join(_options(own)) + after
    before, _, after = _cut(page, ".SH EXAMPLES\n", ".SH BUGS\n")
    return before + ".PP\n".join(_examples()) + after


def _cut(page: str, start: str, end: str) -> tuple[str, str, str]:
    """What is before, in and behind a section."""
    at = page.index(start) + len(start)
    until = page.index(end, at)
    return page[:at], page[at:until], page[until:]


def _options(own: str) -> Iterator[str]:
    """The options by their groups, and below each of both what the page says of it by itself."""
    said: dict[str, str] = {}
    _, *sections = re.split(r"^\.SS(.*)\n", f".SS\n{own}", flags=re.MULTILINE)
    for title, section in zip(sections[::2], sections[1::2]):
        said[title.strip()], *entries = re.split(r"^\.TP\n", section, flags=re.MULTILINE)
        for entry in entries:
            heading, _, rest = entry.partition("\n")
            said[_AN_OPTION.findall(heading.replace("\\-", "-"))[0]] = rest.partition("\n")[2]
    parser = options.parser()
    for group in parser._action_groups:
        title = "" if group is parser._optionals else str(group.title).partition(" (")[0].capitalize()
        if not group._group_actions:
            continue
        yield (f".SS {title}\n" if title else "") + said.get(title, "")
        for action in group._group_actions:
            yield f".TP\n{_heading(action)}\n{_sentence(options.told(action))}\n"
            yield said.get(action.option_strings[0], "")


def _heading(action: Action) -> str:
    names = [name.replace("-", "\\-") for name in action.option_strings]
    values = " ".join(options.placeholders(action))
    text = ' ", " '.join(names) + (f' " \\fI{values}\\fR"' if values else "")
    return f".B{'R' if text != names[0] else ''} {text}"


def _sentence(text: str) -> str:
    """What the help says, as a sentence, with options in bold."""
    if not text.startswith(_AS_THEY_ARE):
        text = text[0].upper() + text[1:]
    text = re.sub(r"'(\S+?)'", r"\\(aq\1\\(aq", text.replace("\\", "\\e"))
    return _AN_OPTION.sub(lambda option: f"\\fB{_dashes(option[0])}\\fR", text) + "."


def _dashes(text: str) -> str:
    """What somebody may copy must have real ones."""
    return text.replace("-", "\\-")


def _examples() -> Iterator[str]:
    for command, what in options.EXAMPLES:
        code = _dashes(command).replace("'", "\\(aq")
        yield f"{_sentence(what)[:-1]}:\n.PP\n.RS\n.EX\n{code}\n.EE\n.RE\n"


def traces(known: tree.Tree, title: str) -> str:
    """The page of all traces; title: the first line of nettrace(8), whose date and version it has."""
    date, version = title.split()[3], title.split('"')[1]
    lines = [
        f'.TH NETTRACE\\-TRACES 7 {date} "{version}" "Miscellaneous Information Manual"',
        *_TRACES_HEAD.splitlines(),
    ]
    for group in known.root.groups:
        lines += [f".SH {group.name.upper()}", _sentence(group.desc)]
        for part in group.all_groups():
            if part is not group:
                lines += [f".SS {_dashes(part.name)}", _sentence(part.desc)]
            for trace in part.traces:
                lines += [".TP", f".B {_dashes(trace.name)}", _sentence(trace.desc), *_of(trace)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR nettrace (8)", ""])


_TRACES_HEAD = """\
.SH NAME
nettrace\\-traces \\- where nettrace sees packets in the kernel
.SH DESCRIPTION
These are the traces of
.BR nettrace (8),
by groups and in the order in which a packet meets them: kernel functions and tracepoints, and what it means that a
packet is there.
.B \\-t
and other options take the names of groups and traces, and those of their functions and tracepoints.
.PP
A trace is on by default if nothing else is said.
Of several functions the first one that the kernel has is traced.
.B "nettrace \\-t \\(aq?\\(aq"
tells what the running kernel has of them;
.B "nettrace \\-\\-explain"
.I NAME
tells more about one."""


def _of(trace: tree.Trace) -> Iterator[str]:
    """How it is attached and used, where that goes without saying."""
    if trace.tracepoint is not None:
        yield f"Tracepoint {trace.tracepoint}."
    elif trace.functions != (trace.name,):
        yield f"Functions: {', '.join(trace.functions)}."
    if not trace.default:
        yield "Off by default."


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    if len(sys.argv) == 1:
        PAGE.write_text(nettrace(page), encoding="utf-8")
    else:
        title = next(line for line in page.splitlines() if line.startswith(".TH "))
        Path(sys.argv[1], TRACES).write_text(traces(tree.load(files.TREE), title), encoding="utf-8")


if __name__ == "__main__":
    main()
