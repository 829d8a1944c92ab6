"""Completion for bash, zsh and fish, with the names of traces and reasons in it: no Python starts when Tab is pressed.

`python3 -m package.completion FOLDER` writes the three files there, and `make install` puts them where shells look.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nettrace import files, filters, names, options, reasons, rules, tree

# Kinds of values. Of the first three several can be given, with commas; the shells ask the host for the last three.
KINDS = (
    TRACE, REASON, COLUMN,
    OPTION, EXPLAINED, PROTOCOL, BACKEND,
    DEVICE, NAMESPACE, FILE,
) = (
    "trace", "reason", "column",
    "option", "explained", "protocol", "backend",
    "device", "namespace", "file",
)  # fmt: skip
LISTS = KINDS[:3]
NO_KIND = "none"

_BY_OPTION = {
    "reason": REASON, "output": COLUMN, "explain": EXPLAINED, "proto": PROTOCOL, "backend": BACKEND, "iface": DEVICE,
    "netns": NAMESPACE,
}  # fmt: skip
_BY_VALUE = {"NAMES": TRACE, "FILE": FILE, "PORT|FILE": FILE, "A": FILE, "B": FILE, "YAML": FILE, "XML": FILE}

SHELLS = Path(__file__).with_name("shells")
# The names by which the shells look for them.
NAMES = {"bash": "nettrace", "zsh": "_nettrace", "fish": "nettrace.fish"}


class Option(NamedTuple):
    """What completion must know of one."""

    names: tuple[str, ...]  # with their dashes
    values: tuple[str, ...]  # what stands for each of its values in the help
    kind: str  # of its values: one of KINDS or NO_KIND
    told: str  # what the help says of it


def _options() -> Iterator[Option]:
    for action in options.parser()._actions:
        values = options.placeholders(action)
        kind = _BY_OPTION.get(action.dest) or (_BY_VALUE.get(values[0]) if values else None) or NO_KIND
        yield Option(tuple(action.option_strings), values, kind, options.told(action))


def _words() -> Mapping[str, Mapping[str, str]]:
    """What there is of each kind, with what it means, but for what only the host knows."""
    known = tree.load(files.TREE)
    told = reasons.load(files.RULES)
    traces = {group.name: group.desc for group in known.root.all_groups()}
    traces.update((trace.name, trace.desc) for trace in known.traces())
    drops = {name: reason.meaning for name, reason in told.drops.items()}
    resets = {name: reason.meaning for name, reason in told.resets.items()}
    ruled = {rule.name: rule.message for rule in rules.load(files.RULES, known).all}
    backends = (choice for action in options.parser()._actions for choice in action.choices or ())
    return {
        TRACE: traces,
        REASON: drops,
        COLUMN: dict.fromkeys(names.COLUMNS, ""),
        EXPLAINED: {**ruled, **resets, **drops, **traces},
        PROTOCOL: dict.fromkeys((*filters.L3_PROTOCOLS, *filters.L4_PROTOCOLS, *filters.ALIASES), ""),
        BACKEND: dict.fromkeys(backends, ""),
    }


def bash() -> str:
    """The file for bash."""
    words = {**_words(), OPTION: [name for option in _options() for name in option.names]}
    return _filled(
        "bash",
        (f"    {kind}) words=({shlex.join(found)}) ;;" for kind, found in words.items()),
        (f"    {' | '.join(option.names)}) kind='{option.kind}' ;;" for option in _options() if option.values),
    )


def zsh() -> str:
    """The file for zsh."""

    def words() -> Iterator[str]:
        for kind, found in _words().items():
            yield f"  ({kind}) words=("
            for word, meaning in found.items():
                yield f"    {shlex.quote(_escaped(word, ':') + (f':{meaning}' if meaning else ''))}"
            yield "  ) ;;"

    def specs() -> Iterator[str]:
        for option in _options():
            # Behind the name: the value is a word of its own, or follows in the same one.
            forms = [name + ("=" if name.startswith("--") else "+") * bool(option.values) for name in option.names]
            action = {NO_KIND: " ", FILE: "_files"}.get(option.kind, f" _nettrace_words {option.kind}")
            rest = f"[{_escaped(option.told, ']')}]" + "".join(f":{value}:{action}" for value in option.values)
            once = f"({' '.join(option.names)})"
            yield from (f"  {shlex.quote(once + form + rest)} \\" for form in forms)

    return _filled("zsh", words(), specs())


def fish() -> str:
    """The file for fish."""

    def words() -> Iterator[str]:
        for kind, found in _words().items():
            yield f"        case {kind}"
            yield "            printf '%s\\t%s\\n' \\"
            lines = [f"                {_for_fish(word)} {_for_fish(meaning)}" for word, meaning in found.items()]
            yield " \\\n".join(lines)

    def completions() -> Iterator[str]:
        for option in _options():
            spelt = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
            function = "__nettrace_list" if option.kind in LISTS else "__nettrace_words"
            values = {NO_KIND: " -x", FILE: " -r -F"}.get(option.kind, f" -x -a '({function} {option.kind})'")
            what = f"{' '.join(spelt)}{values if option.values else ''} -d {_for_fish(option.told)}"
            yield f"complete -c nettrace {what}"

    return _filled("fish", words(), completions())


def _filled(shell: str, words: Iterator[str], specs: Iterator[str]) -> str:
    text = (SHELLS / f"nettrace.{shell}").read_text(encoding="utf-8")
    return text.replace("@WORDS@", "\n".join(words)).replace("@OPTIONS@", "\n".join(specs))


def _escaped(text: str, special: str) -> str:
    return text.replace("\\", "\\\\").replace(special, f"\\{special}")


def _for_fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shell, text in (("bash", bash()), ("zsh", zsh()), ("fish", fish())):
        (folder / NAMES[shell]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
