"""Which traces a run has, and what is wanted of each: the names that -t and its like take.

A name is that of a group or trace of the tree, a tracepoint, any kernel function that takes
a packet, a pattern of these (`tcp_*`), or `all`.
"""

import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

from .btf import Prototype
from .errors import UsageError
from .host import Traced
from .kernel import ABSENT, Kernel
from .plan import SKB_HOLDERS, SKB_TYPE, SOCK_TYPE, Wishes
from .suggest import did_you_mean
from .tree import REGISTER_ARGUMENTS, ROOT, Trace, Tree

# The group of traces that are not of the tree.
GROUP = "kernel"
# A pattern that stands for more functions than this would slow the host down, not tell more.
PATTERN_MAX = 1000

_SUGGESTIONS = 3
_SIGNATURE_CHARS = 88
_WILD = re.compile(r"[*?[]")
_ENDS = ("free", "drop")


@dataclass(frozen=True)
class Selection:
    """The traces of a run, those of the tree first and in its order, and what is wanted of them."""

    traces: tuple[Trace, ...]
    wishes: Wishes


def choose(
    tree: Tree,
    kernel: Kernel,
    *,
    trace: Optional[str] = None,
    exclude: Optional[str] = None,
    matcher: Optional[str] = None,
    free: Optional[str] = None,
    stack: Optional[str] = None,
    ret: bool = False,
    basic: bool = False,
    hooks: bool = False,
    also: Collection[str] = (),
    return_at: Collection[str] = (),
    latency: bool = False,
    latency_free: bool = False,
    packets: Optional[str] = None,
) -> Selection:
    """Selects the traces for the options, each a list of names with commas between them.

    trace: these and no others, and packets are matched there. exclude: none of these. matcher: packets
    are matched here and nowhere else. free: after these a packet is not followed any more. stack: with
    the way there, of traces that are in the run. ret: with what functions return; the plan leaves out
    those that return nothing. basic: packets are not followed, each hit stands for itself.
    hooks: with the functions at netfilter hooks. also: traces that are on where none were asked for, beside
    those of the tree. return_at: traces that are to tell what their functions return, if they are in the run.
    latency: it is measured how long packets took, up to the last of what was asked for; latency_free: or to
    the freeing. packets: with the packet itself, of traces that are in the run.
    `all` is the whole tree for trace, and all that is in the run for the others.
    """
    if basic:
        for option, names in (("--trace-matcher", matcher), ("--trace-free", free)):
            if names is not None:
                raise UsageError(f"{option} says nothing with --basic, which follows no packet: leave one of them out")
    known = _Names(tree, kernel)
    of_tree = {trace.name: trace for trace in tree.traces()}
    default = {trace.name: trace for trace in tree.traces() if trace.default or trace.name in also}
    asked = default if trace is None else known.find("-t", trace, of_tree)
    narrowed = trace is not None and not of_tree.keys() <= asked.keys()
    # A followed packet's record is sent when it is freed, so the traces that tell so are always there.
    always = {} if basic else {name: trace for name, trace in default.items() if trace.role}
    wanted = {**asked, **always}
    matching = {} if matcher is None else known.find("--trace-matcher", matcher, wanted)
    ending = {} if free is None else known.find("--trace-free", free, wanted)
    wanted.update({**matching, **ending})
    excluded = {} if exclude is None else known.find("--trace-exclude", exclude, wanted, bounded=False)
    needed = [name for name in excluded if name in always and always[name].role in _ENDS]
    if needed:
        raise UsageError(
            f"--trace-exclude: {_listed(needed)} tell when a followed packet ends and must stay: "
            "leave them out of it, or use --basic"
        )
    traces = {name: wanted[name] for name in [*of_tree, *wanted] if name in wanted and name not in excluded}

    if basic:
        match_at = set(traces)
    elif matching:
        match_at = set(matching)
    elif narrowed:
        match_at = set(asked)
    else:
        match_at = {name for name, trace in asked.items() if trace.match or name not in of_tree}
    if not match_at & traces.keys():
        raise UsageError("--trace-exclude leaves no trace where packets would be matched: exclude less")
    if ending and not ending.keys() & traces.keys():
        raise UsageError("--trace-exclude takes away all that --trace-free names: leave one of them out")
    wishes = Wishes(
        match_at=frozenset(match_at & traces.keys()),
        end_at=frozenset(ending.keys() & traces.keys()),
        stack_at=frozenset() if stack is None else known.among("--trace-stack", stack, traces),
        return_at=frozenset(name for name, trace in traces.items() if trace.functions and (ret or name in return_at)),
        hook_functions=hooks,
        facts=not latency,
        point_at=frozenset(
            name
            for name, trace in traces.items()
            if name in ending or (latency_free if trace.role in _ENDS else name in asked or name in matching)
        )
        if latency
        else frozenset(),
        bytes_at=frozenset() if packets is None else known.among("--pcap-at", packets, traces),
    )
    return Selection(tuple(traces.values()), wishes)


def choose_sockets(
    tree: Tree,
    kernel: Kernel,
    *,
    trace: Optional[str] = None,
    exclude: Optional[str] = None,
    stack: Optional[str] = None,
) -> Selection:
    """Selects the traces for runs that look at sockets: those of the tree that name one, or what `trace` does."""
    known = _Names(tree, kernel, sockets=True)
    default = {trace.name: trace for trace in tree.traces() if trace.sk is not None}
    wanted = default
    if trace is not None:
        wanted = {}
        for word in _split("-t", trace):
            found = known.find("-t", word, default)
            with_socket = {name: one for name, one in found.items() if _has_socket(one, kernel)}
            if not with_socket:
                raise UsageError(f"-t: {word} has no socket among its arguments: --sock is for functions that take one")
            wanted.update(with_socket)
    excluded = {} if exclude is None else known.find("--trace-exclude", exclude, wanted, bounded=False)
    traces = {name: one for name, one in wanted.items() if name not in excluded}
    if not traces:
        raise UsageError("--trace-exclude leaves no trace: exclude less")
    return Selection(
        tuple(traces.values()),
        Wishes(stack_at=frozenset() if stack is None else known.among("--trace-stack", stack, traces)),
    )


def choose_monitored(tree: Tree, kernel: Kernel, *, trace: Optional[str], exclude: Optional[str]) -> tuple[Trace, ...]:
    """The traces that --monitor watches, or those of them that the user names; raises UsageError."""
    watched = {each.name: each for each in tree.traces() if each.monitor}
    names = _Names(tree, kernel)

    def among(option: str, words: str) -> set[str]:
        found: set[str] = set()
        for word in _split(option, words):
            there = names.find(option, word, watched, bounded=False).keys() & watched.keys()
            if not there:
                raise UsageError(
                    f"{option}: {word} is nothing that --monitor watches: 'nettrace --monitor -t ?' lists it"
                )
            found |= there
        return found

    chosen = set(watched) if trace is None else among("-t", trace)
    if exclude is not None:
        chosen -= among("--trace-exclude", exclude)
    if not chosen:
        raise UsageError("--trace-exclude leaves nothing to watch: name less")
    return tuple(each for name, each in watched.items() if name in chosen)


def choose_recorded(
    tree: Tree, recorded: Iterable[Traced], *, trace: Optional[str], exclude: Optional[str], option: str = "-t"
) -> Optional[frozenset[str]]:
    """The names of the traces of a recording that are asked for; None: all of them."""
    groups: dict[str, set[str]] = {}
    for each in recorded:
        groups.setdefault(each.group, set()).add(each.name)
    everything = set().union(*groups.values())
    words = tree.words()

    def find(option: str, names: str) -> set[str]:
        found: set[str] = set()
        for word in _split(option, names):
            there = everything & (everything if word == ROOT else {word, *(one.name for one in tree.find(word))})
            there |= groups.get(word, set())
            if _WILD.search(word):
                matches = re.compile(fnmatch.translate(word)).match
                there = {name for name in everything if matches(name)}
                there |= everything & {one.name for known, one in words.items() if matches(known)}
            if not there:
                similar = did_you_mean(word, sorted(everything | groups.keys()), _SUGGESTIONS)
                raise UsageError(f"{option}: nothing of '{word}' is in the recording{similar}")
            found |= there
        return found

    if trace is None and exclude is None:
        return None
    chosen = everything if trace is None else find(option, trace)
    if exclude is not None:
        chosen = chosen - find("--trace-exclude", exclude)
    if not chosen:
        raise UsageError("--trace-exclude leaves nothing to show: name less")
    return frozenset(chosen)


def _has_socket(trace: Trace, kernel: Kernel) -> bool:
    if trace.sk is not None:
        return True
    prototypes = [kernel.prototype(function) for function in trace.functions]
    places = [prototype.index(SOCK_TYPE) for prototype in prototypes if prototype is not None]
    return any(place is not None and place < REGISTER_ARGUMENTS for place in places)


class _Names:
    """What names stand for, in the tree and on this kernel.

    Of functions that are not in the tree they may name those that take a packet, or those that take a socket.
    """

    def __init__(self, tree: Tree, kernel: Kernel, *, sockets: bool = False) -> None:
        self._tree = tree
        self._kernel = kernel
        self._words = tree.words()
        self._type = SOCK_TYPE if sockets else SKB_TYPE
        self._what = "socket" if sockets else "packet"

    def find(
        self, option: str, names: str, everything: Mapping[str, Trace], *, bounded: bool = True
    ) -> dict[str, Trace]:
        """The traces that an option's names stand for, by their own names; `all` stands for everything."""
        found: dict[str, Trace] = {}
        for word in _split(option, names):
            traces = everything.values() if word == ROOT else self._find(option, word, bounded)
            found.update({trace.name: trace for trace in traces})
        return found

    def among(self, option: str, names: str, traces: Mapping[str, Trace]) -> frozenset[str]:
        """Which of the traces the names stand for, at least one each."""
        found: set[str] = set()
        for word in _split(option, names):
            there = self.find(option, word, traces, bounded=False).keys() & traces.keys()
            if not there:
                raise UsageError(f"{option}: {word} is not traced in this run: name it with -t too")
            found |= there
        return frozenset(found)

    def _find(self, option: str, word: str, bounded: bool) -> Iterable[Trace]:
        if _WILD.search(word):
            return self._matching(option, word, bounded)
        return self._exact(word) or [self._tracepoint(option, word) if ":" in word else self._function(option, word)]

    def _exact(self, word: str) -> tuple[Trace, ...]:
        """What the word is in the tree."""
        trace = self._words.get(word)
        if trace is None:
            return self._tree.find(word)
        if word == trace.name or word not in trace.functions:
            return (trace,)
        # It is one of the trace's alternatives: on this kernel another may have its place, and this be a
        # function of its own.
        first = next((function for function in trace.functions if self._kernel.obstacle(function) is None), word)
        own = None if first == word or self._kernel.obstacle(word) else self._trace(word)
        return (trace if own is None else own,)

    def _matching(self, option: str, pattern: str, bounded: bool) -> list[Trace]:
        matches = re.compile(fnmatch.translate(pattern)).match
        found = [trace for word in self._words if matches(word) for trace in self._exact(word)]
        others = [name for name in self._functions if name not in self._words and matches(name)]
        obstacles = {name: self._kernel.obstacle(name) for name in sorted(others)}
        functions = [name for name, obstacle in obstacles.items() if obstacle is None]
        if bounded and len(functions) > PATTERN_MAX:
            raise UsageError(
                f"{option}: '{pattern}' stands for {len(functions)} functions of this kernel, more than "
                f"the {PATTERN_MAX} that a pattern may: make it narrower"
            )
        if not found and not functions:
            for name, obstacle in obstacles.items():
                raise UsageError(f"{option}: nothing that matches '{pattern}' can be traced: {name}: {obstacle}")
            raise UsageError(
                f"{option}: no trace, and no function of this kernel that takes a {self._what}, matches '{pattern}'"
                f"{self._similar_pattern(pattern)}"
            )
        made = (self._trace(name) for name in functions)
        return [*found, *(trace for trace in made if trace is not None)]

    def _function(self, option: str, name: str) -> Trace:
        prototype = self._kernel.prototype(name)
        obstacle = self._kernel.obstacle(name)
        if prototype is None and obstacle == ABSENT:
            similar = did_you_mean(name, [*self._tree.names(), *self._functions], _SUGGESTIONS)
            raise UsageError(f"{option}: no trace, group or function of this kernel is called '{name}'{similar}")
        trace = self._trace(name)
        if prototype is not None and trace is None:
            raise UsageError(f"{option}: {name} takes no {self._what}: it is {_signature(name, prototype)}")
        if obstacle is not None:
            raise UsageError(f"{option}: {name} cannot be traced: {obstacle}")
        if trace is None:
            raise UsageError(
                f"{option}: {name} cannot be traced: which of its arguments is the {self._what} is not known, "
                "the kernel's BTF lacks this function"
            )
        return trace

    def _trace(self, name: str) -> Optional[Trace]:
        """A trace of a function that the tree lacks."""
        prototype = self._kernel.prototype(name)
        return _trace(name, prototype) if self._type == SKB_TYPE else _socket_trace(name, prototype)

    def _tracepoint(self, option: str, name: str) -> Trace:
        if self._type == SOCK_TYPE:
            raise UsageError(f"{option}: {name} is a tracepoint: sockets are looked at where functions take them")
        prototype = self._kernel.btf.tracepoint(name.partition(":")[2])
        if prototype is None or (self._kernel.tracefs is not None and self._kernel.tracepoint(name) is None):
            similar = did_you_mean(name, [word for word in self._words if ":" in word], _SUGGESTIONS)
            raise UsageError(f"{option}: this kernel has no tracepoint {name}{similar}")
        trace = _trace(name, prototype, tracepoint=True)
        if trace is None:
            raise UsageError(f"{option}: tracepoint {name} has no packet among its arguments")
        return trace

    @functools.cached_property
    def _functions(self) -> list[str]:
        """Those that take a packet, or a socket, in a register."""
        places = self._kernel.functions_with(self._type)
        return [name for name, place in places.items() if place < REGISTER_ARGUMENTS]

    def _similar_pattern(self, pattern: str) -> str:
        """A suggestion for `tpc_*`: the first words of the names there are."""
        names = [*self._words, *self._functions]
        stems = {name[: found.end()] for name in names for found in re.finditer("_", name)}
        return did_you_mean(pattern, [f"{stem}*" for stem in sorted(stems)], _SUGGESTIONS)


def _split(option: str, names: str) -> list[str]:
    words = [word.strip() for word in names.split(",") if word.strip()]
    for word in words:
        if not word.isascii():
            raise UsageError(f"{option}: '{word}' is no name of a trace or function, which are of letters and digits")
    if not words:
        raise UsageError(f"{option} needs the name of a trace or group; '-t ?' lists them")
    return words


def _trace(name: str, prototype: Optional[Prototype], *, tracepoint: bool = False) -> Optional[Trace]:
    """A trace of what the tree lacks; None if the prototype has no packet that can be got at."""
    if prototype is None:
        return None
    skb = prototype.index(SKB_TYPE)
    holder = None
    if skb is None and not tracepoint:
        holder = skb = next((place for place in map(prototype.index, SKB_HOLDERS) if place is not None), None)
    if skb is None or skb >= REGISTER_ARGUMENTS:
        return None
    sk = prototype.index(SOCK_TYPE)
    return Trace(
        name=name,
        desc=_signature(name, prototype),
        group=GROUP,
        functions=() if tracepoint else (name,),
        tracepoint=name if tracepoint else None,
        skb=skb,
        sk=sk if sk is not None and sk < REGISTER_ARGUMENTS and not tracepoint else None,
        deref=holder is not None,
        match=False,
        role=None,
        default=False,
    )


def _socket_trace(name: str, prototype: Optional[Prototype]) -> Optional[Trace]:
    """Likewise of a function that takes a socket."""
    sk = None if prototype is None else prototype.index(SOCK_TYPE)
    if prototype is None or sk is None or sk >= REGISTER_ARGUMENTS:
        return None
    return Trace(
        name=name, desc=_signature(name, prototype), group=GROUP, functions=(name,), tracepoint=None, skb=None, sk=sk,
        deref=False, match=False, role=None, default=False,
    )  # fmt: skip


def _signature(name: str, prototype: Prototype) -> str:
    """The function as C has it, without the names of its parameters, and shortened."""
    space = "" if prototype.returns.endswith("*") else " "
    types = [param.type for param in prototype.params] or ["void"]
    text = f"{prototype.returns}{space}{name}({', '.join(types)})"
    while len(text) > _SIGNATURE_CHARS and len(types) > 1:
        types.pop()
        text = f"{prototype.returns}{space}{name}({', '.join(types)}, ...)"
    return text


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
