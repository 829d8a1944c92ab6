"""What a kernel has of the tree: which trace is attached how, which is missing and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from . import plan
from .kernel import Kernel
from .tree import Trace, Tree


class Place(NamedTuple):
    """Where a trace is attached, or why it is not."""

    how: str  # "kprobe", "kprobe-multi", "tracepoint"; empty: not at all
    target: str  # the function's symbol, or "category:event"
    module: str  # that has the function; empty: the kernel itself
    missing: str  # the reason


@dataclass(frozen=True)
class Coverage:
    """The tree, and the place of each of its traces on a kernel."""

    tree: Tree
    release: str
    functions: str  # how they are attached: "kprobe" or "kprobe-multi"
    traceable_known: bool  # whether the kernel told this user which functions can be traced
    places: Mapping[str, Place]  # by the trace's name

    def attached(self, traces: "tuple[Trace, ...]") -> int:
        """How many of these are."""
        return sum(not self.places[trace.name].missing for trace in traces)


def of(tree: Tree, kernel: Kernel, *, multi: bool) -> Coverage:
    """The coverage of a kernel; multi: whether all functions are attached at once."""
    made = plan.make(tree.traces(), kernel)
    functions = "kprobe-multi" if multi else "kprobe"
    places = {skip.trace.name: Place("", "", "", skip.reason) for skip in made.skipped}
    for probe in made.probes:
        if probe.trace.tracepoint is not None:
            places[probe.trace.name] = Place("tracepoint", probe.trace.tracepoint, "", "")
        else:
            module = kernel.symbols.module(probe.target)
            places[probe.trace.name] = Place(functions, probe.target, module, "")
    return Coverage(tree, kernel.release, functions, kernel.traceable_known, places)
