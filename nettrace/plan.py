"""Which probes a run attaches: the tree, the options and the kernel's facts brought together."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .btf import Prototype
from .kernel import Kernel
from .tree import Trace

SKB_TYPE = "struct sk_buff *"
SOCK_TYPE = "struct sock *"
# Types whose first member is the skb pointer, for traces marked `deref`.
SKB_HOLDERS = ("struct nft_pktinfo *", "struct sk_buff **")

# How many of the skbs that a segmentation returns are followed: 64 KiB in 1,000-byte pieces.
SEGMENTS_MAX = 64


class Program(NamedTuple):
    """A BPF program, shared by all functions that differ in nothing it needs to know."""

    kind: str  # "kprobe", "kprobe_by_cookie", "clone_return", "tracepoint", "drop"
    skb: int = 0  # index of the argument
    sk: Optional[int] = None
    deref: bool = False
    match: bool = False
    frees: bool = False
    clones: bool = False  # the function makes new skbs
    most: int = 1  # clone_return: how many new skbs
    tracepoint: int = 0  # the trace's number in the plan
    location: int = 0  # drop: index of the argument
    reason: int = 0  # likewise; 0: the kernel has none

    @property
    def name(self) -> str:
        """A C identifier, other for every program."""
        words = [self.kind]
        for field, value in zip(self._fields[1:], self[1:]):
            if value is not None and value is not False and value != Program._field_defaults[field]:
                words.append(field if value is True else f"{field}{value}")
        return "_".join(words)

    @property
    def is_tracepoint(self) -> bool:
        """Attached to a tracepoint, not to a function."""
        return self.kind in ("tracepoint", "drop")

    @property
    def ends_packets(self) -> bool:
        """A packet is gone after its hit."""
        return self.frees or self.kind == "drop"


class Probe(NamedTuple):
    """A trace attached at one place: a kernel function's symbol, or a tracepoint's event."""

    trace: Trace
    target: str
    program: Program
    cookie: int = 0  # kprobe_by_cookie: what the program must know of this function


class Skipped(NamedTuple):
    """A trace that is not attached, and why."""

    trace: Trace
    reason: str


@dataclass(frozen=True)
class Plan:
    """The probes of a run and what was left out."""

    probes: tuple[Probe, ...]
    skipped: tuple[Skipped, ...]
    tracepoints: tuple[Trace, ...]  # a tracepoint's step carries its index here

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that the probes need, each once."""
        return tuple(dict.fromkeys(probe.program for probe in self.probes))


class _Missing(Exception):
    """Why a trace cannot be attached."""


def make(
    traces: Iterable[Trace],
    kernel: Kernel,
    *,
    clones: bool = True,
    match_at: Optional[Collection[str]] = None,
    cookies: bool = False,
) -> Plan:
    """Plans the probes for the traces on this kernel.

    clones: whether new skbs made of followed ones are followed too.
    match_at: the names of the traces where packets are matched, for runs whose traces
    were chosen by hand and may leave out those that packets enter by; None: as the tree says.
    cookies: whether each function can be attached with a cookie; then one program serves them all.
    """
    probes: list[Probe] = []
    skipped: list[Skipped] = []
    tracepoints: list[Trace] = []
    for trace in traces:
        match = trace.match if match_at is None else trace.name in match_at
        try:
            if trace.tracepoint is not None:
                probes.append(Probe(trace, *_tracepoint(trace, kernel, len(tracepoints), match)))
                tracepoints.append(trace)
            else:
                pairs = _function(trace, kernel, clones, match)
                probes.extend(_by_cookie(Probe(trace, *pair)) if cookies else Probe(trace, *pair) for pair in pairs)
        except _Missing as why:
            skipped.append(Skipped(trace, str(why)))
    return Plan(tuple(probes), tuple(skipped), tuple(tracepoints))


def _by_cookie(probe: Probe) -> Probe:
    """The same probe through the shared program; the cookie is read in bpf/probes.h."""
    program = probe.program
    if program.kind != "kprobe":
        return probe
    sk = 0 if program.sk is None else program.sk + 1
    marks = program.match | program.frees << 1 | program.clones << 2
    cookie = marks | program.skb << 8 | sk << 12 | program.deref << 16
    return probe._replace(program=Program("kprobe_by_cookie"), cookie=cookie)


def _tracepoint(trace: Trace, kernel: Kernel, index: int, match: bool) -> tuple[str, Program]:
    assert trace.tracepoint is not None
    event = trace.tracepoint.partition(":")[2]
    prototype = kernel.btf.tracepoint(event)
    if prototype is None:
        raise _Missing(f"this kernel has no tracepoint {trace.tracepoint}")
    skb = prototype.index(SKB_TYPE)
    if skb is None:
        raise _Missing(f"tracepoint {trace.tracepoint} has no packet among its arguments")
    if trace.role != "drop":
        frees = trace.role == "free"
        return event, Program("tracepoint", skb=skb, match=match, frees=frees, tracepoint=index)
    location = prototype.index("void *")
    if location is None:
        raise _Missing(f"tracepoint {trace.tracepoint} does not tell where the drop was")
    # Linux commit c504e5c2f964 (5.17) added the reason.
    reason = prototype.index("enum skb_drop_reason")
    return event, Program("drop", skb=skb, match=match, tracepoint=index, location=location, reason=reason or 0)


def _function(trace: Trace, kernel: Kernel, clones: bool, match: bool) -> list[tuple[str, Program]]:
    if not kernel.features.kprobes:
        raise _Missing("this kernel has no kprobes (CONFIG_KPROBES)")
    symbol, function = _symbol(trace, kernel)
    prototype = kernel.prototype(function)
    skb = _skb_argument(trace, prototype)
    if trace.role in ("clone", "segments") and clones:
        entry = Program("kprobe", skb=skb, deref=trace.deref, match=match, clones=True)
        most = SEGMENTS_MAX if trace.role == "segments" else 1
        return [(symbol, entry), (symbol, Program("clone_return", most=most))]
    sk = None if trace.sk is None else _sock_argument(trace, prototype)
    frees = trace.role == "free"
    return [(symbol, Program("kprobe", skb=skb, sk=sk, deref=trace.deref, match=match, frees=frees))]


def _symbol(trace: Trace, kernel: Kernel) -> tuple[str, str]:
    """The symbol to probe and the function it is of: the first alternative that the kernel has."""
    why = "this kernel has no such function (or the compiler inlined it, or its module is not loaded)"
    for function in trace.functions:
        symbol = kernel.symbols.resolve(function)
        if symbol is None:
            continue
        if kernel.symbols.is_ambiguous(symbol):
            why = f"several functions of this kernel are called {symbol}"
        else:
            return symbol, function
    raise _Missing(why)


def _skb_argument(trace: Trace, prototype: Optional[Prototype]) -> int:
    if prototype is None:
        if trace.skb is None:
            raise _Missing("which argument is the packet is not known: the kernel's BTF lacks this function")
        return trace.skb
    types = SKB_HOLDERS if trace.deref else (SKB_TYPE,)
    for wanted in types:
        index = prototype.index(wanted)
        if index is not None:
            return index
    raise _Missing("on this kernel it has no packet among its arguments")


def _sock_argument(trace: Trace, prototype: Optional[Prototype]) -> Optional[int]:
    return trace.sk if prototype is None else prototype.index(SOCK_TYPE)
