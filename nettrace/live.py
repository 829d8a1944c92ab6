"""What a host knows of a run's events: names for numbers, and what they mean."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

from . import analyzers, drops, files, meaning, netns
from .analyzers import Told
from .diagnosis import INFO, Diagnosis, Finding, of_drop
from .event import Context, Event
from .host import Host, Traced
from .kernel import Kernel, Symbol
from .owners import Owners, Reread
from .plan import Plan
from .printable import printable
from .rules import Judge, Rules
from .sinks import Lookups, place_in_code

if TYPE_CHECKING:
    from .evidence import Evidence
    from .proof import Prover
    from .reasons import Reasons


class Running:
    """The host that this process runs on.

    evidence_s: how long the evidence of a finding may take to read. returns: what functions return, as far as that
    is known already.
    """

    def __init__(
        self, kernel: Kernel, evidence_s: float, returns: Mapping[str, Optional[str]] = MappingProxyType({})
    ) -> None:
        self.own_netns = netns.current()
        self.drop_reason = kernel.drop_reason
        self.enum_names = kernel.enum_names
        self._returns = returns
        self._netns = Reread(netns.names).of
        self._owner = Owners().of
        self._kernel = kernel
        self._evidence_s = evidence_s

    @property
    def tick_ns(self) -> int:
        """See Host; it is measured when it is first asked for."""
        return self._kernel.tick_ns

    def return_type(self, function: str) -> Optional[str]:
        """See Host."""
        return self._returns[function] if function in self._returns else self._kernel.return_type(function)

    def symbol(self, address: int) -> Optional[Symbol]:
        """See Host; reading all symbols takes long and can wait until the first is asked for."""
        return self._kernel.function_at(address)

    def netns(self, inode: int) -> Optional[str]:
        """See Host."""
        name = self._netns(inode)
        return None if name is None else printable(name)

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        """See Host."""
        owner = self._owner(inode)
        return None if owner is None else (printable(owner[0]), owner[1])

    def evidence(self, finding: Finding, context: Context) -> "Sequence[Evidence]":
        """See Host."""
        return [each._replace(text=printable(each.text)) for each in self._prover.evidence(finding, context)]

    @functools.cached_property
    def _prover(self) -> "Prover":
        from .proof import Prover

        return Prover(self.own_netns, self._evidence_s)


def traced(what: Plan) -> tuple[Traced, ...]:
    """The traces of a plan."""
    traces: dict[str, Traced] = {}
    for probe in what.probes:
        trace = probe.trace
        function = None if probe.program.is_tracepoint else probe.target
        traces.setdefault(trace.name, Traced(trace.name, trace.group, trace.role, trace.desc, function))
    return tuple(traces.values())


def diagnosis(host: Host, traces: Iterable[Traced], meanings: Rules) -> Diagnosis:
    """What says what the events of a run mean."""

    def drop(item: Event) -> Optional[Finding]:
        assert item.drop is not None
        name = None if item.drop.reason is None else host.drop_reason(item.drop.reason)
        symbol = host.symbol(item.drop.location)
        if symbol is not None and drops.is_normal_free(symbol.name, item.packet, name):
            return None
        where = place_in_code(item.drop.location, host.symbol)
        return of_drop(item, name, None if name is None else _reasons().drop(name), where)

    def symbol(address: int) -> str:
        found = host.symbol(address)
        return hex(address) if found is None else found.name

    def told(item: Event) -> tuple[Told, ...]:
        return analyzers.tell(item, reset_reason, symbol, host.tick_ns)

    def deciding(context: Context, item: Event) -> Optional[Told]:
        return analyzers.deciding(context, item, symbol) if analyzers.hook_functions(item) else None

    def reset_reason(value: int) -> str:
        return host.enum_names("sk_rst_reason").get(value, str(value)).replace("SK_RST_REASON_", "", 1)

    return Diagnosis(judge(host, traces, meanings).rule, told, drop, host.evidence, deciding)


def dropped(host: Host, diagnosis: Diagnosis) -> Callable[[Event], Optional[tuple[str, str]]]:
    """What tells the reason and the function, where an event is a drop that healthy packets do not meet."""

    def of(item: Event) -> Optional[tuple[str, str]]:
        finding = None if item.drop is None else diagnosis.drop(item)
        if item.drop is None or finding is None or finding.level == INFO:
            return None
        symbol = host.symbol(item.drop.location)
        reason = "" if item.drop.reason is None else host.drop_reason(item.drop.reason)
        return reason, "" if symbol is None else symbol.name

    return of


def judge(host: Host, traces: Iterable[Traced], meanings: Rules) -> Judge:
    """What says which rule an event meets."""
    return Judge(meanings, return_types(host, traces), host.enum_names, host.drop_reason)


def return_types(host: Host, traces: Iterable[Traced]) -> Callable[[str], Optional[str]]:
    """What tells the C type that the function of a trace returns."""
    functions = _functions(traces)

    @functools.cache
    def returns(trace: str) -> Optional[str]:
        return host.return_type(functions[trace]) if trace in functions else None

    return returns


def harmless_reasons() -> frozenset[str]:
    """The reasons of drops that healthy packets meet, by all their names."""
    return frozenset(name for name, reason in _reasons().drops.items() if reason.level == "info")


def lookups(host: Host, traces: Sequence[Traced]) -> Lookups:
    """What a host can say of what its kernel tells."""
    functions = _functions(traces)

    def returned(trace: str, value: int) -> str:
        function = functions.get(trace, "")
        kind = host.return_type(function) or ""
        return meaning.return_text(kind, value, host.enum_names, function, host.drop_reason)

    def drop_meaning(number: int) -> Optional[str]:
        reason = _reasons().drop(host.drop_reason(number))
        return None if reason is None else reason.meaning

    return Lookups(
        symbol=host.symbol,
        reason=host.drop_reason,
        meaning=drop_meaning,
        returned=returned,
        netns=host.netns,
        own_netns=host.own_netns,
        owner=host.owner,
        groups={trace.name: trace.group for trace in traces},
        roles={trace.name: trace.role for trace in traces if trace.role is not None},
    )


@functools.cache
def _reasons() -> "Reasons":
    """What drops and resets mean; read when it is first asked for, as it takes longer than most of a start."""
    from . import reasons

    return reasons.load(files.RULES)


def _functions(traces: Iterable[Traced]) -> Mapping[str, str]:
    """The kernel's functions that are probed, by their traces."""
    return {trace.name: trace.function for trace in traces if trace.function is not None}
