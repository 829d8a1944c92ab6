"""The tree of traces, read from tracer.yaml: groups, and in them kernel functions and tracepoints."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from . import yamlfile
from .facts import is_path
from .yamlfile import Item

ROLES = ("free", "drop", "clone", "segments")
# What a function is to nftables: a packet enters a base chain; an expression is a verdict; or may give one, told at
# its return.
NFT = ("chain", "verdict", "eval")
ROOT = "all"
# Arguments that x86-64 passes in registers; other architectures have more, but a tree holds for all.
REGISTER_ARGUMENTS = 6

_TRACE_KEYS = ("functions", "tracepoint", "skb", "sk", "deref", "match", "role", "default", "facts", "nft", "monitor")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TRACEPOINT = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Trace:
    """A leaf: one place in the kernel where packets are seen."""

    name: str
    desc: str
    group: str
    functions: tuple[str, ...]  # the first that the kernel has is probed; empty with a tracepoint
    tracepoint: Optional[str]  # "category:event"
    skb: Optional[int]  # index from 0 of the sk_buff argument where there is no BTF to tell
    sk: Optional[int]  # index from 0 of the socket argument: headers are not built yet
    deref: bool  # the skb argument points to a struct that begins with the skb pointer
    match: bool  # packets not yet followed are matched against the filter here
    role: Optional[str]  # one of ROLES
    default: bool  # on unless other traces were asked for
    nft: Optional[str] = None  # one of NFT
    monitor: bool = False  # it can tell of trouble, and --monitor watches it
    facts: tuple[tuple[str, str], ...] = ()  # what it tells beyond the packet: names, and paths as in nettrace/facts.py

    @property
    def words(self) -> tuple[str, ...]:
        """All that `-t` knows it by."""
        words = (self.name, *self.functions) if self.tracepoint is None else (self.name, self.tracepoint)
        return tuple(dict.fromkeys(words))


@dataclass(frozen=True)
class Group:
    """A node: traces and groups that belong together."""

    name: str
    desc: str
    groups: tuple["Group", ...]
    traces: tuple[Trace, ...]
    default: bool

    def all_traces(self) -> Iterator[Trace]:
        """The traces of this group and of those below it, in file order."""
        yield from self.traces
        for group in self.groups:
            yield from group.all_traces()

    def all_groups(self) -> Iterator["Group"]:
        """This group and those below it, in file order."""
        yield self
        for group in self.groups:
            yield from group.all_groups()


@dataclass(frozen=True)
class Tree:
    """All groups and traces."""

    root: Group

    def traces(self) -> tuple[Trace, ...]:
        """All traces, in file order."""
        return tuple(self.root.all_traces())

    def default(self) -> tuple[Trace, ...]:
        """The traces that are on when none were asked for."""
        return tuple(trace for trace in self.traces() if trace.default)

    def find(self, name: str) -> tuple[Trace, ...]:
        """What a group, trace, kernel function or tracepoint stands for; nothing if unknown."""
        for group in self.root.all_groups():
            if group.name == name:
                return tuple(group.all_traces())
        return tuple(trace for trace in self.traces() if name in trace.words)

    def words(self) -> dict[str, Trace]:
        """The traces by each of their words."""
        return {word: trace for trace in self.traces() for word in trace.words}

    def names(self) -> list[str]:
        """All that `find` knows: groups, and the words of traces."""
        return [*(group.name for group in self.root.all_groups()), *self.words()]


def load(path: Union[str, Path]) -> Tree:
    """Reads a tree; what is wrong with it is a ConfigurationError with file and line."""
    return Tree(_Reader().group(ROOT, yamlfile.load(path), parent_default=True))


class _Reader:
    """Builds groups and traces, and remembers which words are taken."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def group(self, name: str, item: Item, parent_default: bool) -> Group:
        fields = item.fields(["desc"], ["default", "traces", "groups"])
        self._take(name, item)
        default = parent_default and _boolean(fields, "default", True)
        traces = fields["traces"].mapping() if "traces" in fields else {}
        groups = fields["groups"].mapping() if "groups" in fields else {}
        if not traces and not groups:
            raise item.error(f"group '{name}' is empty")
        return Group(
            name=name,
            desc=fields["desc"].text(),
            # The traces first, as all_traces() has them: a duplicate is reported in file order.
            traces=tuple(self.trace(key, value, name, default) for key, value in traces.items()),
            groups=tuple(self.group(key, value, default) for key, value in groups.items()),
            default=default,
        )

    def trace(self, name: str, item: Item, group: str, default: bool) -> Trace:
        fields = item.fields(["desc"], _TRACE_KEYS)
        trace = Trace(
            name=name,
            desc=fields["desc"].text(),
            group=group,
            functions=_functions(name, item, fields),
            tracepoint=_matching(fields["tracepoint"], _TRACEPOINT) if "tracepoint" in fields else None,
            skb=_argument(fields, "skb"),
            sk=_argument(fields, "sk"),
            deref=_boolean(fields, "deref", False),
            match=_boolean(fields, "match", False),
            role=fields["role"].choice(ROLES) if "role" in fields else None,
            default=default and _boolean(fields, "default", True),
            nft=fields["nft"].choice(NFT) if "nft" in fields else None,
            monitor=_boolean(fields, "monitor", False),
            facts=_facts(fields),
        )
        if trace.skb is None and trace.sk is None and trace.functions:
            raise item.error(f"trace '{name}' needs 'skb' or 'sk', the index of that argument")
        if trace.skb is None and (trace.deref or trace.role) and trace.functions:
            raise item.error(f"trace '{name}' needs 'skb', the index of that argument")
        for word in trace.words:
            self._take(word, item)
        return trace

    def _take(self, word: str, item: Item) -> None:
        if not (_NAME.fullmatch(word) or _TRACEPOINT.fullmatch(word)):
            raise item.error(f"'{word}' cannot be a name: letters, digits and _ . - only")
        if word in self.lines:
            raise item.error(f"'{word}' is used twice, first in line {self.lines[word]}")
        self.lines[word] = item.line


def _functions(name: str, item: Item, fields: dict[str, Item]) -> tuple[str, ...]:
    if "tracepoint" in fields:
        if "functions" in fields:
            raise item.error(f"trace '{name}' has both 'functions' and 'tracepoint'")
        return ()
    if "functions" not in fields:
        if not _FUNCTION.fullmatch(name):
            raise item.error(f"'{name}' is no function's name: give 'functions'")
        return (name,)
    items = fields["functions"].items()
    functions = tuple(_matching(function, _FUNCTION) for function in items)
    if not functions:
        raise fields["functions"].error("the list is empty")
    if len(set(functions)) < len(functions):
        raise fields["functions"].error("a function is named twice")
    return functions


def _facts(fields: dict[str, Item]) -> tuple[tuple[str, str], ...]:
    if "facts" not in fields:
        return ()
    found = []
    for name, item in fields["facts"].mapping().items():
        if not _FUNCTION.fullmatch(name):
            raise item.error(f"'{name}' cannot be the name of a fact: letters, digits and _ only")
        path = item.text()
        if not is_path(path):
            raise item.error(f"'{path}' is not of the form STRUCT->member, see nettrace/facts.py")
        found.append((name, path))
    return tuple(found)


def _matching(item: Item, pattern: re.Pattern[str]) -> str:
    text = item.text()
    if not pattern.fullmatch(text):
        raise item.error(f"'{text}' is not of the form {'category:event' if pattern is _TRACEPOINT else 'function'}")
    return text


def _argument(fields: dict[str, Item], key: str) -> Optional[int]:
    return fields[key].integer(0, REGISTER_ARGUMENTS - 1) if key in fields else None


def _boolean(fields: dict[str, Item], key: str, default: bool) -> bool:
    return fields[key].boolean() if key in fields else default
