"""What the running host knows of a run's events: names for numbers, and what they mean."""

import functools
from collections.abc import Callable
from typing import Optional

from . import analyzers, drops, files, meaning, netns, reasons
from .analyzers import Told
from .diagnosis import Diagnosis, Finding, of_drop
from .event import Context, Event
from .kernel import Kernel
from .owners import Owners, Reread
from .plan import Plan
from .proof import Prover
from .reasons import Reasons
from .rules import Judge, Rules
from .sinks import Lookups, place_in_code


def diagnosis(kernel: Kernel, what: Plan, meanings: Rules, evidence_s: float) -> Diagnosis:
    """What says what the events of a run mean."""

    def drop(item: Event) -> Optional[Finding]:
        assert item.drop is not None
        name = None if item.drop.reason is None else kernel.drop_reason(item.drop.reason)
        symbol = kernel.function_at(item.drop.location)
        if symbol is not None and drops.is_normal_free(symbol.name, item.packet, name):
            return None
        where = place_in_code(item.drop.location, kernel.function_at)
        return of_drop(item, name, None if name is None else _reasons().drop(name), where)

    def symbol(address: int) -> str:
        found = kernel.function_at(address)
        return hex(address) if found is None else found.name

    def told(item: Event) -> tuple[Told, ...]:
        return analyzers.tell(item, reset_reason, symbol, kernel.tick_ns)

    def deciding(context: Context, item: Event) -> Optional[Told]:
        return analyzers.deciding(context, item, symbol) if analyzers.hook_functions(item) else None

    def reset_reason(value: int) -> str:
        return kernel.enum_names("sk_rst_reason").get(value, str(value)).replace("SK_RST_REASON_", "", 1)

    judged = judge(kernel, what, meanings).rule
    return Diagnosis(judged, told, drop, Prover(netns.current(), evidence_s).evidence, deciding)


def judge(kernel: Kernel, what: Plan, meanings: Rules) -> Judge:
    """What says which rule an event meets."""
    return Judge(meanings, return_types(kernel, what), kernel.enum_names, kernel.drop_reason)


def return_types(kernel: Kernel, what: Plan) -> Callable[[str], Optional[str]]:
    """What tells the C type that the function of a trace returns."""
    functions = _functions(what)

    @functools.cache
    def returns(trace: str) -> Optional[str]:
        return kernel.return_type(functions[trace]) if trace in functions else None

    return returns


def harmless_reasons() -> frozenset[str]:
    """The reasons of drops that healthy packets meet, by all their names."""
    return frozenset(name for name, reason in _reasons().drops.items() if reason.level == "info")


def lookups(kernel: Kernel, what: Plan) -> Lookups:
    """What this host can say of what its kernel tells."""
    functions = _functions(what)

    def returned(trace: str, value: int) -> str:
        function = functions[trace]
        kind = kernel.return_type(function) or ""
        return meaning.return_text(kind, value, kernel.enum_names, function, kernel.drop_reason)

    def drop_meaning(number: int) -> Optional[str]:
        reason = _reasons().drop(kernel.drop_reason(number))
        return None if reason is None else reason.meaning

    traces = [probe.trace for probe in what.probes]
    return Lookups(
        symbol=kernel.function_at,
        reason=kernel.drop_reason,
        meaning=drop_meaning,
        returned=returned,
        netns=Reread(netns.names).of,
        own_netns=netns.current(),
        owner=Owners().of,
        groups={trace.name: trace.group for trace in traces},
        roles={trace.name: trace.role for trace in traces if trace.role is not None},
    )


@functools.cache
def _reasons() -> Reasons:
    """What drops and resets mean; read when it is first asked for, as it takes longer than most of a start."""
    return reasons.load(files.RULES)


def _functions(what: Plan) -> dict[str, str]:
    """The kernel's functions that are probed, by their traces."""
    return {probe.trace.name: probe.target for probe in what.probes if not probe.program.is_tracepoint}
