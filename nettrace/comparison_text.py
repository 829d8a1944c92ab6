"""What became different between two recordings, as text."""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Optional

from .alignment import Difference, Parting
from .comparison import ERRORS, LEAST_CHANGE, Comparison, Flow, Path, Share, Side, Slower
from .counts import counted
from .printable import printable

_STEPS_SHOWN = 6
_KINDS_SHOWN = 5
_DIFFERENCES_SHOWN = 8
_ROWS_SHOWN = 20
_A, _B = "A", "B"


def comparison_text(comparison: Comparison) -> str:
    """All of it: what was compared, flows that differ, paths and times."""
    first, second = comparison.first, comparison.second
    lines = [_side(_A, first), _side(_B, second), f"compared: packets {comparison.scope.text}, one after the other"]
    lines += _remarks(comparison)
    different = [flow for flow in comparison.flows if flow.differs]
    for flow in different[:_ROWS_SHOWN]:
        lines += ["", *_flow(flow)]
    if different[_ROWS_SHOWN:]:
        lines += ["", f"{len(different) - _ROWS_SHOWN} more flows differ"]
    lines += ["", *_alike(flow for flow in comparison.flows if not flow.differs)]
    lines += _slower(comparison.slower)
    return "\n".join(map(printable, lines)) + "\n"


def _side(name: str, side: Side) -> str:
    return f"{name}: {side.path}, {counted(side.packets, 'packets')}, Linux {side.header.kernel}"


def _remarks(comparison: Comparison) -> Iterable[str]:
    """What does not count, and why."""
    for name, side in ((_A, comparison.first), (_B, comparison.second)):
        if side.alone:
            yield f"left out: {counted(len(side.alone), 'traces')} that only {name} had attached: {_some(side.alone)}"
        if side.incomplete:
            yield f"left out: {counted(side.incomplete, 'packets')} of {name}, as part of the path was lost"
        if side.trouble:
            yield f"{name} is not whole: {side.trouble}"
    if comparison.unpaired:
        yield f"not compared one by one for want of room: {counted(comparison.unpaired, 'packets')}"
    if comparison.uncounted:
        yield f"not counted among the paths for want of room: {counted(comparison.uncounted, 'packets')}"


def _flow(flow: Flow) -> Iterable[str]:
    yield flow.name
    if not flow.first or not flow.second:
        name, count = (_A, flow.first) if flow.first else (_B, flow.second)
        yield f"  only in {name}: {counted(count, 'packets')}"
        return
    counts = f"{counted(flow.first, 'packets')} in {_A}, {flow.second} in {_B}"
    yield f"  {counts}; of {counted(flow.pairs, 'pairs')}, {flow.parted or 'none'} {_verb(flow.parted)}"
    # Those first that are no detours but lead elsewhere.
    kinds = sorted(flow.partings.values(), key=lambda kind: (bool(kind[1].meet), -kind[0]))
    for count, place in kinds[:_KINDS_SHOWN]:
        yield from _parting(count, place)
    rest = flow.others + sum(count for count, _ in kinds[_KINDS_SHOWN:])
    if rest:
        yield f"  and in other ways: {counted(rest, 'times')}"
    if flow.shares:
        yield f"  paths that are taken more or less often, by more than {ERRORS} standard errors:"
    usual = max(flow.shares, key=lambda share: share.first, default=None)
    for share in flow.shares[:_KINDS_SHOWN]:
        shares = f"{_A} {share.first / flow.first:6.1%}  {_B} {share.second / flow.second:6.1%}"
        yield f"    {shares}  {_path(share, usual)}"
    if flow.shares[_KINDS_SHOWN:]:
        yield f"    and {len(flow.shares) - _KINDS_SHOWN} more"


def _parting(count: int, place: Parting) -> Iterable[str]:
    skb = f" of skb {place.skb + 1} of the packet" if place.skb else ""
    times = f"{_A} {_milliseconds(place.first_ns)}, {_B} {_milliseconds(place.second_ns)}"
    yield f"  {counted(count, 'pairs')} {_verb(count)} after {counted(place.alike, 'steps')}{skb} ({times}):"
    for each in place.differences[:_DIFFERENCES_SHOWN]:
        yield from _difference(each)
    if place.differences[_DIFFERENCES_SHOWN:]:
        yield f"    and {len(place.differences) - _DIFFERENCES_SHOWN} more such"
    if place.first or place.second:
        yield f"    {f'the ways part after {place.after}' if place.after else 'the ways part at once'}"
        for name, steps in ((_A, place.first), (_B, place.second)):
            yield f"      {name}: {_some(steps, ' -> ') if steps else 'nothing'}"
        if place.meet:
            yield f"    and meet again at {place.meet}"


def _difference(each: Difference) -> Iterable[str]:
    yield f"    {each.what} at {each.trace}"
    yield f"      {_A}: {each.first}"
    yield f"      {_B}: {each.second}"


def _path(share: Share, usual: Optional[Share]) -> str:
    """A path, as far as it is another one than that which A has most often."""
    steps = sum(map(len, share.path))
    if usual is None or share is usual:
        return f"{counted(steps, 'steps')}, {_some(_ends(share.path), ' ... ')}"
    for skb, (way, other) in enumerate(zip(share.path, usual.path)):
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(way, other))))
        if way != other:
            where = f"after {way[alike - 1]}" if alike else "from the beginning"
            whose = f" of skb {skb + 1}" if skb else ""
            return f"{where}{whose}: {_some(way[alike:], ' -> ') if way[alike:] else 'nothing more'}"
    return f"{len(share.path)} skbs, not {len(usual.path)}"


def _ends(path: Path) -> list[str]:
    way = next((way for way in path if way), ())
    return list(way) if len(way) < 2 else [way[0], way[-1]]


def _alike(flows: Iterable[Flow]) -> list[str]:
    found = list(flows)
    if not found:
        return ["no flow is the same"]
    packets = sum(flow.first + flow.second for flow in found)
    lines = [f"{counted(len(found), 'flows')} of {packets} packets {'does' if len(found) == 1 else 'do'} not differ:"]
    lines += [f"  {flow.name}: {flow.first} in {_A}, {flow.second} in {_B}" for flow in found[:_ROWS_SHOWN]]
    return lines + ([f"  and {len(found) - _ROWS_SHOWN} more"] if found[_ROWS_SHOWN:] else [])


def _slower(rows: Sequence[Slower]) -> Iterable[str]:
    noise = f"less than {LEAST_CHANGE:.0%}, or ranges of {ERRORS} standard errors that overlap, are noise"
    if not rows:
        return [f"nothing became slower or faster ({noise})"]
    lines = ["", f"slower or faster ({noise}):"]
    for row in rows[:_ROWS_SHOWN]:
        values = f"{_microseconds(row.first_ns):>10} {_microseconds(row.second_ns):>10}"
        lines.append(f"  p{row.percent} {_A}, {_B}: {values} of {row.first}, {row.second}  {row.name}")
    return lines + ([f"  and {len(rows) - _ROWS_SHOWN} more"] if rows[_ROWS_SHOWN:] else [])


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = [f"({len(names) - _STEPS_SHOWN} more)"] if len(names) > _STEPS_SHOWN else []
    return between.join([*names[:_STEPS_SHOWN], *more])


def _verb(count: int) -> str:
    return "parts" if count == 1 else "part"


def _milliseconds(duration_ns: int) -> str:
    return f"{duration_ns / 1_000_000:.3f} ms"


def _microseconds(duration_ns: int) -> str:
    return f"{duration_ns / 1000:.1f}us"
