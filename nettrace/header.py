"""What a run was: told once, before its first packet, in recordings and in JSON."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import StreamError
from .host import Traced
from .version import __version__

FORMAT = 1  # of JSON lines

# What a run tells of: whole packets, single hits, drops, sockets, trouble, times of packets, or a table of these names.
MODES = (
    "packets",
    "events",
    "drops",
    "sockets",
    "trouble",
    "latency",
    "function-stats",
    "latency-summary",
    "rtt",
    "drop-stat",
    "paths",
)
TABLES = MODES[MODES.index("function-stats") :]


@dataclass(frozen=True)
class Header:
    """What is to be known of a run beyond what it saw."""

    mode: str  # one of MODES
    unit: str  # what its summary counts
    command: tuple[str, ...]  # the arguments
    kernel: str
    clock_offset_ns: int  # from CLOCK_MONOTONIC to wall-clock time
    utc_offset_s: int  # of local time
    own_netns: int
    traces: tuple[Traced, ...]
    skipped: tuple[tuple[str, str], ...]  # traces, and why
    attached: int  # probes
    tick_ns: int = 0  # how long a jiffy is
    detail: bool = False  # events tell all that --detail shows
    join_clones: bool = True
    stack_at: tuple[str, ...] = ()  # traces whose call stack was asked for
    end_at: tuple[str, ...] = ()  # traces after which packets were not followed any more
    snaplen: int = 0  # bytes of packets that are told; 0: none are
    version: str = __version__
    machine: str = os.uname().machine

    def plain(self) -> dict[str, Any]:
        """As JSON and recordings have it."""
        return {**asdict(self), "traces": [trace._asdict() for trace in self.traces]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Header":
        """From what plain() made, be it by another version; StreamError where that makes no sense."""
        try:
            traces = tuple(
                Traced(*(None if trace.get(name) is None else str(trace[name]) for name in Traced._fields))  # type: ignore[arg-type]
                for trace in plain["traces"]
            )
            if any(trace.name is None or trace.group is None for trace in traces):
                raise ValueError("a trace without a name")
            values: dict[str, Any] = {
                "traces": traces,
                "skipped": tuple((str(name), str(reason)) for name, reason in plain["skipped"]),
                **{name: tuple(map(str, plain.get(name, ()))) for name in ("command", "stack_at", "end_at")},
                **{name: int(plain[name]) for name in ("clock_offset_ns", "utc_offset_s", "own_netns", "attached")},
                **{name: int(plain.get(name, 0)) for name in ("tick_ns", "snaplen")},
                **{name: str(plain[name]) for name in ("mode", "unit", "kernel", "version", "machine")},
                **{name: bool(plain[name]) for name in ("detail", "join_clones")},
            }
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise StreamError(f"its header makes no sense ({type(error).__name__}: {error})") from error
        if abs(values["clock_offset_ns"]) >= 1 << 63 or abs(values["utc_offset_s"]) > 86_400:
            raise StreamError("its header makes no sense (a clock)")
        if not 0 <= values["snaplen"] < 1 << 32:
            raise StreamError(f"its header makes no sense (packets of {values['snaplen']} bytes)")
        if values["mode"] not in MODES:
            raise StreamError(f"it is of the mode '{values['mode']}', which this version does not know")
        return cls(**values)


def utc_offset_s() -> int:
    """What local time is ahead of UTC by now."""
    return time.localtime().tm_gmtoff


def skips(skipped: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """The traces that are not attached, and why."""
    return tuple((skip.trace.name, skip.reason) for skip in skipped)
