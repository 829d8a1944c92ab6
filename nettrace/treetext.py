"""The tree of traces as text, and what a kernel has of it."""

from .coverage import Coverage, Place
from .kernel import ABSENT
from .tree import Group, Trace

# It is laid out for a terminal of this width, with a column of this width for names.
_COLUMNS = 100
_NAME_COLUMN = 24


def tree_text(coverage: Coverage) -> str:
    """The tree of traces, and what the kernel has of it."""
    tree = coverage.tree
    lines = [
        f"Linux {coverage.release}; functions are attached by {coverage.functions}",
        "  + on by default (in brackets: the symbol where it has another name, and its module)",
        "  o on only when named with -t",
        f"  - missing: {ABSENT}, or as in brackets",
        "-t takes groups, traces, any kernel function that takes a packet, and patterns: -t 'ip-in,tcp_*'",
    ]

    def add(group: Group, depth: int) -> None:
        lines.append(f"{'  ' * depth}{group.name}: {group.desc}{'' if group.default else ' (off unless named)'}")
        for trace in group.traces:
            lines.extend(_trace_lines(trace, coverage.places[trace.name]))
        for child in group.groups:
            add(child, depth + 1)

    for group in tree.root.groups:
        lines.append("")
        add(group, 0)
    rows = [(group.name, tuple(group.all_traces())) for group in tree.root.groups]
    rows += [("on by default", tree.default()), ("all", tree.traces())]
    width = max(len(name) for name, _ in rows) + 1
    digits = len(str(len(tree.traces())))
    lines += ["", "can be attached on this kernel:"]
    for name, traces in rows:
        lines.append(f"  {name + ':':<{width}} {coverage.attached(traces):>{digits}} of {len(traces):>{digits}}")
    if not coverage.traceable_known:
        lines.append("(only root is told which functions can be traced: more than those marked - may be missing)")
    return "\n".join(lines) + "\n"


def _trace_lines(trace: Trace, place: Place) -> list[str]:
    """The name, the description and the note in one line if they fit, else the latter ones below."""
    mark = "-" if place.missing else "+" if trace.default else "o"
    lines = [f"      {mark} {trace.name:<{_NAME_COLUMN}}"]
    below = len(lines[0]) + 2
    if below + len(trace.desc) <= _COLUMNS:
        lines[0] += f"  {trace.desc}"
    else:
        below = 10
        lines = [lines[0].rstrip(), f"{'':{below}}{trace.desc}"]
    note = _place_text(trace, place)
    if note and len(lines[-1]) + 1 + len(note) <= _COLUMNS:
        lines[-1] += f" {note}"
    elif note:
        lines.append(f"{'':{below}}{note}")
    return lines


def _place_text(trace: Trace, place: Place) -> str:
    if place.missing:
        return "" if place.missing == ABSENT else f"[{place.missing}]"
    if place.how == "tracepoint":
        return f"[tracepoint {place.target}]"
    words = [place.target] if place.target != trace.name else []
    words += [f"module {place.module}"] if place.module else []
    return f"[{', '.join(words)}]" if words else ""
