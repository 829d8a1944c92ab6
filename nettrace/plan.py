"""Which probes a run attaches: the tree, the options and the kernel's facts brought together."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

from . import facts, layouts
from .btf import Param, Prototype
from .facts import Fact
from .kernel import ABSENT, FunctionType, Kernel
from .layouts import Types
from .names import RTT_FUNCTION
from .tree import REGISTER_ARGUMENTS, Trace

SKB_TYPE = "struct sk_buff *"
SOCK_TYPE = "struct sock *"
# Types whose first member is the skb pointer, for traces marked `deref`.
SKB_HOLDERS = ("struct nft_pktinfo *", "struct sk_buff **")

# What bpf/nft.h finds out about the verdict of an nftables expression, behind the arguments of its function.
NFT_PARAMS = (
    Param("chain", "struct nft_chain *"),
    Param("rule", "void *"),
    Param("verdict", "struct nft_verdict *"),
)

NFT_FACTS = (
    ("chain", "nft_chain@3->name"),
    ("handle", "nft_rule_dp@4->handle|nft_rule@4->handle"),
    ("verdict", "nft_verdict@5->code"),
    ("target", "nft_verdict@5->chain->name"),  # of a jump or goto; else it means nothing
)

# Why a trace without `skb` is not attached where packets are followed.
ONLY_SOCKET = "has no packet, only a socket: it is for --sock"

# The arguments of RTT_FUNCTION by their places that bpf/sock.h reads.
_RTT_ARGUMENTS = {2: "seq_rtt_us", 3: "sack_rtt_us", 5: "rs"}

# Where --metrics begins and ends to measure how long packets are in the stack: on their way in from the driver to
# the transport protocol, out from the queueing discipline to the driver.
IN, OUT = 1, 2
DIRECTIONS = {IN: "in", OUT: "out"}
_TRANSIT_BEGINS = {"netif_rx": IN, "napi_gro_receive_entry": IN, "net_dev_queue": OUT}
_TRANSIT_ENDS = {"tcp_v4_rcv": IN, "tcp_v6_rcv": IN, "udp_rcv": IN, "udpv6_rcv": IN, "net_dev_start_xmit": OUT}

# The traces that measure time for --metrics.
TIMED = (RTT_FUNCTION, *_TRANSIT_BEGINS, *_TRANSIT_ENDS)

# The last of the arguments that may_go_on() of bpf/probes.h tries.
LAST_TRIED = 2

# In place of an argument's index, as bpf/watch.h has it.
NO_ARGUMENT = 15

# How many of the skbs that a segmentation returns are followed: 64 KiB in 1,000-byte pieces.
SEGMENTS_MAX = 64

# What a probe is for, as the C side has it: the names there and their bits.
MARKS = {
    name: 1 << bit
    for bit, name in enumerate(("MAY_MATCH", "FREES", "CLONES", "ENDS", "RETURNS", "STACK", "POINT", "BYTES"))
}


# What they take of a cookie; see bpf/probes.h.
_MARKS_OF_COOKIE = 0xFFFF

# The facts of nf_hook_slow that tell the addresses of the functions there.
HOOK_FUNCTIONS = tuple(f"function{number}" for number in range(8))


# Kinds of programs whose C function is not called after them.
_SAME_CODE = {
    "fentry": "watch", "fexit": "watch", "watch_tracepoint": "watch",
    "watch_call": "watch_function", "watch_return": "watch_function",
}  # fmt: skip


class Program(NamedTuple):
    """A BPF program, shared by all functions that differ in nothing it needs to know."""

    # "kprobe", "kprobe_by_cookie", "function_return", "tracepoint", "drop", "drop_record", "drop_arguments", those
    # of bpf/nft.h, and of bpf/watch.h: "fentry", "fexit", "watch_tracepoint", "watch_call", "watch_entry",
    # "watch_return"
    kind: str
    skb: int = 0  # index of the argument
    sk: Optional[int] = None
    deref: bool = False
    match: bool = False
    frees: bool = False
    clones: bool = False  # the function makes new skbs
    ends: bool = False  # the user wants to see no more of the skb
    returns: bool = False  # the function's return is told
    stack: bool = False
    point: bool = False  # it counts for how long a packet took
    bytes: bool = False  # the packet itself is told
    most: int = 1  # function_return: how many new skbs
    facts: int = 0  # the number of the set that its hits tell, from 1; 0: they tell no more than the packet
    arguments: int = 0  # tracepoint: how many of them the facts need
    tracepoint: int = 0  # the trace's number in the plan
    location: int = 0  # drop: index of the argument; drop_record: offset in the tracepoint's record, as for skb
    reason: int = 0  # likewise; 0: the kernel has none
    protocol: int = 0  # drop_record: likewise

    @property
    def name(self) -> str:
        """A C identifier, other for every program but those that are the same code."""
        if self.kind in _SAME_CODE:
            return _SAME_CODE[self.kind]
        words = [self.kind]
        for field, value in zip(self._fields[1:], self[1:]):
            if value is not None and value is not False and value != Program._field_defaults[field]:
                words.append(field if value is True else f"{field}{value}")
        return "_".join(words)

    @property
    def marks(self) -> tuple[bool, ...]:
        """Which of MARKS hold, in their order."""
        return (self.match, self.frees, self.clones, self.ends, self.returns, self.stack, self.point, self.bytes)

    @property
    def by_cookie(self) -> bool:
        """What its functions differ in comes with the cookie."""
        return self.kind == "kprobe_by_cookie"

    @property
    def is_tracepoint(self) -> bool:
        """Attached to a tracepoint, not to a function."""
        return self.kind in ("tracepoint", "drop", "watch_tracepoint") or self.is_alone

    @property
    def is_alone(self) -> bool:
        """It leaves no work to another program, and reads no memory of the kernel."""
        return self.kind in ("drop_record", "drop_arguments")

    @property
    def is_tracing(self) -> bool:
        """Called by the kernel with a function's arguments, from the function itself."""
        return self.kind in ("fentry", "fexit")

    @property
    def is_watch(self) -> bool:
        """Of bpf/watch.h, loaded for each function by itself."""
        return self.is_tracing or self.kind.startswith("watch_")

    @property
    def is_return(self) -> bool:
        """Attached to the return of a function."""
        return self.kind in ("function_return", "nft_eval_return", "watch_return")

    @property
    def ends_packets(self) -> bool:
        """A packet is gone after its hit."""
        return self.frees or self.ends


class Watched(NamedTuple):
    """What a program of bpf/watch.h is told of its function: PROBE_* there."""

    where: int = 0  # the low half of its address; of a tracepoint its number in the plan
    skb: int = NO_ARGUMENT  # index of the argument
    sk: int = NO_ARGUMENT
    deref: bool = False
    arguments: int = 0  # how many there are
    returns: bool = False  # what it returned is asked for
    facts: int = 0  # as for Program
    rules: int = 0  # which case of is_trouble()
    is_rtt: bool = False  # it is the one that learns of round trips
    is_tracepoint: bool = False
    verdict: bool = False  # it returns one of netfilter's
    location: int = NO_ARGUMENT  # index of the argument that tells where a packet was dropped
    reason: int = NO_ARGUMENT  # likewise why
    begins: int = 0  # IN or OUT: here it begins to be measured how long that takes
    ends: int = 0  # likewise


class Probe(NamedTuple):
    """A trace attached at one place: a kernel function's symbol, or a tracepoint's event."""

    trace: Trace
    target: str
    program: Program
    cookie: int = 0  # by_cookie: what the program must know of this function; drop_record: perf's number of it
    numbers: Optional[Watched] = None  # of programs of bpf/watch.h
    btf: Optional[FunctionType] = None  # fentry, fexit: by which the kernel knows the function

    @property
    def marks(self) -> int:
        """Those of MARKS that hold, as bits."""
        if self.program.kind == "kprobe_by_cookie":
            return self.cookie & _MARKS_OF_COOKIE
        return sum(mark for mark, on in zip(MARKS.values(), self.program.marks) if on)


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
    facts: tuple[tuple[Fact, ...], ...] = ()  # a set for each trace that tells some

    @property
    def dispensable(self) -> frozenset[str]:
        """The traces that can be taken away while packets are followed, and all others go on as before.

        Where each trace looks for packets by itself, so can they be.
        """
        names = {probe.trace.name for probe in self.probes}
        vital = {
            probe.trace.name
            for probe in self.probes
            if probe.trace.role or probe.marks & (MARKS["FREES"] | MARKS["ENDS"])
        }
        matching = {probe.trace.name for probe in self.probes if probe.marks & MARKS["MAY_MATCH"]}
        return frozenset(names - vital - matching or names - vital)

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that the probes need, each once."""
        return tuple(dict.fromkeys(probe.program for probe in self.probes))


class _Missing(Exception):
    """Why a trace cannot be attached."""


@dataclass(frozen=True)
class Wishes:
    """What the user wants of traces, by their names, beyond being told of each hit.

    match_at: where packets are matched, for runs whose traces were chosen by hand and may leave
    out those that packets enter by; None: as the tree says. end_at: after these a packet is not
    followed any more. stack_at: with the way there. return_at: with what the function returned.
    facts: whether traces tell their facts; hook_functions: also which functions are at a netfilter hook.
    point_at: what counts for how long a packet took, for runs that measure it. bytes_at: with the packet itself.
    """

    match_at: Optional[Collection[str]] = None
    end_at: Collection[str] = ()
    stack_at: Collection[str] = ()
    return_at: Collection[str] = ()
    facts: bool = True
    hook_functions: bool = False
    point_at: Collection[str] = ()
    bytes_at: Collection[str] = ()


def make(
    traces: Iterable[Trace],
    kernel: Kernel,
    wishes: Wishes = Wishes(),
    *,
    clones: bool = True,
    cookies: bool = False,
) -> Plan:
    """Plans the probes for the traces on this kernel.

    clones: whether new skbs made of followed ones are followed too.
    cookies: whether each function can be attached with a cookie; then few programs serve them all.
    """
    probes: list[Probe] = []
    skipped: list[Skipped] = []
    tracepoints: list[Trace] = []
    sets: dict[tuple[Fact, ...], int] = {}
    traces = tuple(traces)
    kernel.btf.expect(function for trace in traces for function in trace.functions)
    for trace in traces:
        try:
            if trace.tracepoint is not None:
                probes.append(Probe(trace, *_tracepoint(trace, kernel, wishes, len(tracepoints), sets)))
                tracepoints.append(trace)
            else:
                pairs = _function(trace, kernel, wishes, clones, sets)
                probes.extend(_by_cookie(Probe(trace, *pair)) if cookies else Probe(trace, *pair) for pair in pairs)
        except _Missing as why:
            skipped.append(Skipped(trace, str(why)))
    return Plan(tuple(probes), tuple(skipped), tuple(tracepoints), tuple(sets))


def of_drops(trace: Trace, kernel: Kernel, *, stack: bool, unread: bool, snaplen: int = 0) -> Plan:
    """Plans the one probe that tells of drops; unread: by what the tracepoint says itself, for memory is closed."""
    name = frozenset([trace.name])
    wishes = Wishes(match_at=name, stack_at=name if stack else (), bytes_at=name if snaplen else ())
    made = make([trace], kernel, wishes)
    if not unread or not made.probes:
        return made
    (probe,) = made.probes
    record = kernel.tracepoint(trace.tracepoint or "")
    if record is None:
        return replace(made, probes=(probe._replace(program=probe.program._replace(kind="drop_arguments")),))
    at = {name: field.offset for name, field in record.fields.items()}
    program = probe.program._replace(
        kind="drop_record", skb=at["skbaddr"], location=at["location"], reason=at.get("reason", 0),
        protocol=at["protocol"],
    )  # fmt: skip
    return replace(made, probes=(probe._replace(target=trace.tracepoint or "", program=program, cookie=record.number),))


def make_sockets(traces: Iterable[Trace], kernel: Kernel, wishes: Wishes = Wishes(), *, cookies: bool = False) -> Plan:
    """Plans probes that look at a socket among a function's arguments; `cookies` as for make().

    The programs take that argument for both packet and socket: the same stubs serve them.
    """
    probes: list[Probe] = []
    skipped: list[Skipped] = []
    traces = tuple(traces)
    kernel.btf.expect(function for trace in traces for function in trace.functions)
    for trace in traces:
        try:
            pairs = _socket_function(trace, kernel, wishes)
            probes.extend(_by_cookie(Probe(trace, *pair)) if cookies else Probe(trace, *pair) for pair in pairs)
        except _Missing as why:
            skipped.append(Skipped(trace, str(why)))
    return Plan(tuple(probes), tuple(skipped), ())


def make_monitor(
    traces: Iterable[Trace], kernel: Kernel, need_return: Collection[str], verdicts: Collection[str], *,
    tracing: bool, timed: Iterable[Trace] = (),
) -> Plan:  # fmt: skip
    """Plans probes that tell only of trouble.

    need_return: the traces whose rules ask what the function returned; verdicts: those that take it for one of
    netfilter's. tracing: whether functions may be probed by
    fentry and fexit. timed: traces that measure time, of TIMED.
    """
    probes: list[Probe] = []
    skipped: list[Skipped] = []
    tracepoints: list[Trace] = []
    sets: dict[tuple[Fact, ...], int] = {}
    watched = [*traces, *timed]
    kernel.btf.expect(function for trace in watched for function in trace.functions)
    for number, trace in enumerate(watched, 1):
        begins, ends = (_TRANSIT_BEGINS.get(trace.name, 0), _TRANSIT_ENDS.get(trace.name, 0))
        try:
            if trace.tracepoint is not None:
                found = [_watched_tracepoint(trace, kernel, number, len(tracepoints), sets)]
                tracepoints.append(trace)
            else:
                returns = (trace.name in need_return and not ends) or trace.name == RTT_FUNCTION
                found = _watched(trace, kernel, number, returns, tracing, sets)
        except _Missing as why:
            skipped.append(Skipped(trace, str(why)))
            continue
        for probe in found:
            assert probe.numbers is not None
            numbers = probe.numbers._replace(begins=begins, ends=ends, verdict=trace.name in verdicts)
            probes.append(probe._replace(numbers=numbers))
    return Plan(tuple(probes), tuple(skipped), tuple(tracepoints), tuple(sets))


def _watched_tracepoint(
    trace: Trace, kernel: Kernel, number: int, index: int, sets: dict[tuple[Fact, ...], int]
) -> Probe:
    event, program = _tracepoint(trace, kernel, Wishes(), index, sets)
    prototype = kernel.btf.tracepoint(event)
    assert prototype is not None
    numbers = Watched(
        where=index, skb=program.skb, sk=NO_ARGUMENT if trace.sk is None else trace.sk,
        arguments=min(len(prototype.params), REGISTER_ARGUMENTS), facts=program.facts, rules=number,
        is_tracepoint=True,
    )  # fmt: skip
    if program.kind == "drop":
        numbers = numbers._replace(location=program.location, reason=program.reason or NO_ARGUMENT)
    return Probe(trace, event, Program("watch_tracepoint"), numbers=numbers)


def _watched(
    trace: Trace, kernel: Kernel, number: int, returns: bool, tracing: bool, sets: dict[tuple[Fact, ...], int]
) -> list[Probe]:
    symbol, function = _symbol(trace, kernel)
    prototype = kernel.prototype(function)
    is_rtt = trace.name == RTT_FUNCTION
    if is_rtt and not _takes_samples(prototype):
        raise _Missing("its arguments are not those that nettrace knows")
    if returns and prototype is not None and prototype.returns == "void":
        raise _Missing("on this kernel it returns nothing")
    skb, deref, sk = _watched_arguments(trace, prototype)
    types = kernel.types_of(function) if trace.nft is None else kernel.types_of(layouts.NFT_CORE)
    told = _facts(trace, prototype, types, Wishes(), sets)[0]
    numbers = Watched(
        where=(kernel.symbols.address(symbol) or 0) & 0xFFFFFFFF, skb=skb, sk=sk,
        deref=deref, arguments=0 if prototype is None else len(prototype.params), returns=returns, facts=told,
        rules=number, is_rtt=is_rtt,
    )  # fmt: skip
    known = kernel.function_type(function) if tracing and symbol == function else None
    # fentry wants to know every argument.
    variadic = prototype is not None and any(param.type == "..." for param in prototype.params)
    if known is not None and numbers.arguments <= REGISTER_ARGUMENTS and not variadic:
        return [Probe(trace, symbol, Program("fexit" if returns else "fentry"), numbers=numbers, btf=known)]
    kinds = ("watch_entry", "watch_return") if returns else ("watch_call",)
    return [Probe(trace, symbol, Program(kind), numbers=numbers) for kind in kinds]


def _watched_arguments(trace: Trace, prototype: Optional[Prototype]) -> tuple[int, bool, int]:
    """Which arguments are the packet and the socket, and whether the first only leads there."""
    sk = None if prototype is None and trace.sk is None else _sock_argument(trace, prototype)
    sk = NO_ARGUMENT if sk is None or sk >= REGISTER_ARGUMENTS else sk
    try:
        skb, deref = _skb_argument(trace, prototype)
    except _Missing:
        # Of several functions older kernels know the socket only, as of tcp_reset().
        if sk == NO_ARGUMENT:
            raise
        return NO_ARGUMENT, False, sk
    return skb, deref, sk


def _socket_function(trace: Trace, kernel: Kernel, wishes: Wishes) -> list[tuple[str, Program]]:
    symbol, function = _symbol(trace, kernel)
    prototype = kernel.prototype(function)
    sk = _sock_argument(trace, prototype)
    if sk is None or sk >= REGISTER_ARGUMENTS:
        raise _Missing("on this kernel it has no socket among its arguments")
    entry = Program("kprobe", skb=sk, sk=sk, stack=trace.name in wishes.stack_at)
    # The way to a function can be told where it is entered, a sample where it returns.
    if function != RTT_FUNCTION or entry.stack or not _takes_samples(prototype):
        return [(symbol, entry)]
    return [(symbol, entry._replace(returns=True)), (symbol, Program("function_return"))]


def _takes_samples(prototype: Optional[Prototype]) -> bool:
    """Whether the round trips can be read from the function's arguments."""
    return prototype is not None and all(
        place < len(prototype.params) and prototype.params[place].name == name for place, name in _RTT_ARGUMENTS.items()
    )


def _by_cookie(probe: Probe) -> Probe:
    """The same probe through a program that others share; the cookie is read in bpf/probes.h."""
    program = probe.program
    if program.kind != "kprobe":
        return probe
    sk = 0 if program.sk is None else program.sk + 1
    marks = sum(mark for mark, on in zip(MARKS.values(), program.marks) if on)
    cookie = marks | program.skb << 16 | sk << 20 | program.deref << 24 | program.facts << 28
    # What most hits are done with before the cookie is known; each program more has to be detached, which takes time.
    shared = Program("kprobe_by_cookie")
    if program.deref or (program.skb > LAST_TRIED and not program.match):
        shared = shared._replace(deref=True)
    elif program.match:
        shared = shared._replace(skb=program.skb, match=True)
    return probe._replace(program=shared, cookie=cookie)


def _facts(
    trace: Trace, prototype: Optional[Prototype], types: Types, wishes: Wishes, sets: dict[tuple[Fact, ...], int]
) -> tuple[int, int]:
    """The number of the trace's set of facts, and how many arguments they need; 0: this kernel has none of them."""
    if not wishes.facts:
        return 0, 0
    asked = [(name, path) for name, path in trace.facts if wishes.hook_functions or name not in HOOK_FUNCTIONS]
    found = (facts.find(name, path, prototype, types) for name, path in asked)
    wanted = tuple(fact for fact in found if fact is not None)
    if not wanted:
        return 0, 0
    return sets.setdefault(wanted, len(sets) + 1), 1 + max(fact.argument for fact in wanted)


def _tracepoint(
    trace: Trace, kernel: Kernel, wishes: Wishes, index: int, sets: dict[tuple[Fact, ...], int]
) -> tuple[str, Program]:
    assert trace.tracepoint is not None
    event = trace.tracepoint.partition(":")[2]
    prototype = kernel.btf.tracepoint(event)
    if prototype is None:
        raise _Missing(f"this kernel has no tracepoint {trace.tracepoint}")
    skb = prototype.index(SKB_TYPE)
    if skb is None:
        raise _Missing(f"tracepoint {trace.tracepoint} has no packet among its arguments")
    told, arguments = _facts(trace, prototype, kernel.btf, wishes, sets)
    program = Program(
        "tracepoint", skb=skb, facts=told, arguments=arguments, tracepoint=index, match=_matches(trace, wishes),
        frees=trace.role in ("free", "drop"), ends=trace.name in wishes.end_at, stack=trace.name in wishes.stack_at,
        point=trace.name in wishes.point_at, bytes=trace.name in wishes.bytes_at,
    )  # fmt: skip
    if trace.role != "drop":
        return event, program
    location = prototype.index("void *")
    if location is None:
        raise _Missing(f"tracepoint {trace.tracepoint} does not tell where the drop was")
    # Linux commit c504e5c2f964 (5.17) added the reason.
    reason = prototype.index("enum skb_drop_reason")
    return event, program._replace(kind="drop", location=location, reason=reason or 0)


def _function(
    trace: Trace, kernel: Kernel, wishes: Wishes, clones: bool, sets: dict[tuple[Fact, ...], int]
) -> list[tuple[str, Program]]:
    if not kernel.features.kprobes:
        raise _Missing("this kernel has no kprobes (CONFIG_KPROBES)")
    symbol, function = _symbol(trace, kernel)
    prototype = kernel.prototype(function)
    clones = clones and trace.role in ("clone", "segments")
    returns = trace.name in wishes.return_at and (prototype is None or prototype.returns != "void")
    skb, deref = _skb_argument(trace, prototype)
    entry = Program(
        "kprobe",
        skb=skb,
        sk=None if trace.sk is None else _sock_argument(trace, prototype),
        deref=deref,
        match=_matches(trace, wishes),
        frees=trace.role == "free",
        clones=clones,
        ends=trace.name in wishes.end_at,
        returns=returns,
        stack=trace.name in wishes.stack_at,
        point=trace.name in wishes.point_at,
        bytes=trace.name in wishes.bytes_at,
    )
    nft_types = kernel.types_of(layouts.NFT_CORE)
    nft = trace.nft
    if nft is not None and wishes.facts and layouts.nft_offsets(nft_types) is not None:
        if nft != "chain":
            trace = replace(trace, facts=NFT_FACTS)
            if prototype is not None:
                prototype = Prototype((*prototype.params[:3], *NFT_PARAMS), prototype.returns)
        entry = entry._replace(facts=_facts(trace, prototype, nft_types, wishes, sets)[0])
        return _nft(nft, symbol, entry)
    entry = entry._replace(facts=_facts(trace, prototype, kernel.types_of(function), wishes, sets)[0])
    if not clones and not returns:
        return [(symbol, entry)]
    most = SEGMENTS_MAX if clones and trace.role == "segments" else 1
    return [(symbol, entry), (symbol, Program("function_return", most=most))]


def _nft(kind: str, symbol: str, entry: Program) -> list[tuple[str, Program]]:
    """The programs of bpf/nft.h for a function of nftables."""
    if kind == "eval":
        told = entry._replace(kind="nft_eval_return", returns=False)
        return [(symbol, Program("nft_eval", match=entry.match)), (symbol, told)]
    programs = [(symbol, entry._replace(kind=f"nft_{kind}"))]
    return programs + ([(symbol, Program("function_return"))] if entry.returns else [])


def _matches(trace: Trace, wishes: Wishes) -> bool:
    return trace.match if wishes.match_at is None else trace.name in wishes.match_at


def _symbol(trace: Trace, kernel: Kernel) -> tuple[str, str]:
    """The symbol to probe and the function it is of: the first alternative that can be probed."""
    obstacles = []
    for function in trace.functions:
        obstacle = kernel.obstacle(function)
        symbol = kernel.symbols.resolve(function)
        if obstacle is None and symbol is not None:
            return symbol, function
        obstacles.append(obstacle)
    # What stands against a function that is there says more than that others are not there.
    raise _Missing(next((why for why in obstacles if why and why != ABSENT), ABSENT))


def _skb_argument(trace: Trace, prototype: Optional[Prototype]) -> tuple[int, bool]:
    """Which argument is the packet, and whether it only leads there."""
    if trace.skb is None:
        raise _Missing(ONLY_SOCKET)
    if prototype is None:
        return trace.skb, trace.deref
    # do_xdp_generic() and others were given a pointer to the pointer when they began to replace the packet.
    for wanted in (SKB_TYPE, *SKB_HOLDERS):
        index = prototype.index(wanted)
        if index is not None:
            return index, wanted != SKB_TYPE
    raise _Missing("on this kernel it has no packet among its arguments")


def _sock_argument(trace: Trace, prototype: Optional[Prototype]) -> Optional[int]:
    return trace.sk if prototype is None else prototype.index(SOCK_TYPE)
