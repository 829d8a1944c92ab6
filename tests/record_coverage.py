"""Writes tests/data/coverage.yaml: where each trace of tracer.yaml is on each of the recorded kernels.

    python3 -m tests.record_coverage

The test in tests/test_tracer_yaml.py holds the tree against it. Read what changed before you
keep it.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from nettrace import files, plan, tree
from nettrace.kernel import Kernel
from nettrace.plan import ONLY_SOCKET, SOCK_TYPE
from nettrace.tree import Trace
from tests.record_kernel import HERE, VERSIONS, unpack

FILE = HERE / "data" / "coverage.yaml"
HEAD = f"""\
# Where each trace of tracer.yaml is on Linux {", ".join(VERSIONS)}, with all modules of interest loaded:
# one line for all, or one for each. In brackets the module; behind the symbol the argument, from 0,
# that is the packet, that leads to it (*), or, where there is no packet, the socket (sk). A dash: not
# there, and why.
# Written by `python3 -m tests.record_coverage`, and read by its author.
"""


def places(traces: tuple[Trace, ...], kernel: Kernel) -> dict[str, str]:
    """What becomes of each trace on a kernel."""
    made = plan.make(traces, kernel)
    found = {skip.trace.name: f"- {skip.reason}" for skip in made.skipped if skip.reason != ONLY_SOCKET}
    found.update({skip.trace.name: _socket(skip.trace, kernel) for skip in made.skipped if skip.reason == ONLY_SOCKET})
    for probe in made.probes:
        argument = f"({'*' if probe.program.deref else ''}{probe.program.skb})"
        module = "" if probe.trace.tracepoint is not None else kernel.symbols.module(probe.target)
        target = probe.trace.tracepoint or probe.target
        found.setdefault(probe.trace.name, f"[{module}] {target}{argument}" if module else target + argument)
    return found


def _socket(trace: Trace, kernel: Kernel) -> str:
    function = next(name for name in trace.functions if kernel.obstacle(name) is None)
    prototype = kernel.prototype(function)
    return f"{function}(sk {'?' if prototype is None else prototype.index(SOCK_TYPE)})"


def text(traces: tuple[Trace, ...], kernels: Mapping[str, Kernel]) -> str:
    """The file's text."""
    by_kernel = [places(traces, kernels[version]) for version in VERSIONS]
    lines = [HEAD]
    for trace in traces:
        found = [places[trace.name] for places in by_kernel]
        if len(set(found)) == 1:
            lines.append(f'{trace.name}: "{found[0]}"\n')
        else:
            lines.append(f"{trace.name}:\n" + "".join(f'  - "{place}"\n' for place in found))
    return "".join(lines)


def main() -> None:
    with TemporaryDirectory() as folder:
        kernels = {version: Kernel(unpack(version, Path(folder) / version)) for version in VERSIONS}
        FILE.write_text(text(tree.load(files.TREE).traces(), kernels), encoding="utf-8")


if __name__ == "__main__":
    main()
