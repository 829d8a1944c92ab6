"""What a start found out, kept for the next one.

Two things: what the YAML files say, until one of them changes; and of a run all that is known when its programs are
compiled, for runs that are asked for alike, until the host boots, loads a module or has another nettrace.
"""

import argparse
import logging
import pickle
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from . import compiler, files
from .cache import Cache, key
from .errors import KernelError
from .kernel import Kernel

if TYPE_CHECKING:
    from .objects import Object
    from .plan import Plan
    from .rules import Rules
    from .run import Table
    from .settings import Settings
    from .tree import Tree

log = logging.getLogger("nettrace")

# Options that change nothing of what is attached: how it is shown, and for how long.
_SHOWN = (
    "command", "verbose", "debug", "date", "diag_quiet", "diag_keep", "write", "rotate_size", "rotate_count",
    "max_cpu", "anonymise", "anonymise_key", "json", "latency_show", "tiny_show",
)  # fmt: skip
# Conditions, whose numbers are put in when programs are loaded: only whether there are any changes something.
_CONDITIONS = (
    "saddr", "daddr", "addr", "sport", "dport", "port", "proto", "tcp_flags", "pkt_len", "pid", "comm", "netns",
    "netns_current", "iface", "mark",
)  # fmt: skip
# Options of which only whether they are given does.
_NUMBERS = ("count", "filter_srtt", "filter_minrtt", "min_latency", "rate_limit")


@dataclass(frozen=True)
class Setup:
    """What a run is made of."""

    what: "Plan"
    settings: "Settings"
    meanings: "Rules"
    multi: bool = False  # functions are attached all at once
    stack_at: Collection[str] = ()  # traces whose call stacks are shown
    end_at: Collection[str] = ()  # traces that end a packet's path
    table: "Optional[Table]" = None  # what is shown every second in place of hits
    shortages: Collection[str] = ()  # what this kernel cannot tell, a sentence each


@dataclass(frozen=True)
class Start:
    """All that a run needs of the kernel and of the compiler before its first packet."""

    setup: Setup
    programs: "Object"
    addresses: tuple[int, ...]  # what the programs are given behind the numbers of the filter
    traces_at: Mapping[int, str]  # by the addresses of the functions that are probed
    returns: Mapping[str, Optional[str]]  # of these functions, as C text

    @classmethod
    def of(cls, setup: Setup, programs: "Object", kernel: Kernel) -> "Start":
        """What the kernel says of a run's functions."""
        functions = {probe.target: probe.trace.name for probe in setup.what.probes if not probe.program.is_tracepoint}
        addresses = {kernel.symbols.address(function): trace for function, trace in functions.items()}
        from . import source

        return cls(
            setup, programs, tuple(source.addresses_of(kernel, setup.settings).values()),
            {address: trace for address, trace in addresses.items() if address is not None},
            {function: kernel.return_type(function) for function in functions},
        )  # fmt: skip


class Starts:
    """The starts of one folder."""

    def __init__(self, folder: Optional[Path]) -> None:
        self._trees, self._starts = Cache(folder, "tree"), Cache(folder, "start")

    def meanings(self) -> "tuple[Tree, Rules]":
        """The tree of traces, and the rules about them; ConfigurationError as they are loaded."""
        name = key(_nettrace())
        kept = _unpickled(self._trees.load(name))
        if kept is None:
            from . import rules, tree

            traces = tree.load(files.TREE)
            kept = traces, rules.load(files.RULES, traces)
            self._trees.store(name, pickle.dumps(kept))
        return kept  # type: ignore[no-any-return]

    def load(self, asked: argparse.Namespace, kernel: Kernel) -> Optional[Start]:
        """What the last start found out that was asked for alike; None if there was none since the host booted."""
        name = _name(asked, kernel)
        return None if name is None else _unpickled(self._starts.load(name))

    def store(self, asked: argparse.Namespace, kernel: Kernel, start: Start) -> None:
        """Keeps it for later starts."""
        name = _name(asked, kernel)
        if name is not None:
            self._starts.store(name, pickle.dumps(start))


def _name(asked: argparse.Namespace, kernel: Kernel) -> Optional[str]:
    boot = kernel.boot
    if not boot:
        return None
    options = {
        name: value is not None if name in _NUMBERS else value
        for name, value in vars(asked).items()
        if name not in (*_SHOWN, *_CONDITIONS)
    }
    options["conditions"] = any(getattr(asked, name) for name in _CONDITIONS)
    try:
        types = b"" if asked.btf_path is None else _told(Path(asked.btf_path))
        return key(_nettrace(), compiler.identity(), boot, types, repr(sorted(options.items())).encode())
    except (KernelError, OSError):  # what is missing is told where it is needed
        return None


def _nettrace() -> bytes:
    """Changes with each of the program's files."""
    package = Path(__file__).parent
    told = [sys.version.encode(), str(package).encode()]
    for folder in (package, files.RULES, files.BPF, files.BPF / "include"):
        told += [_told(path) for path in sorted(folder.iterdir()) if path.is_file()]
    return b"\0".join([*told, _told(files.TREE)])


def _told(path: Path) -> bytes:
    told = path.stat()
    return f"{path} {told.st_size} {told.st_mtime_ns}".encode()


def _unpickled(data: Optional[bytes]) -> Any:
    """What was kept; None if there is nothing.

    That nobody else can have written it, the cache has made sure of.
    """
    if data is None:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:  # whatever a file can say that another Python wrote
        log.info("the cache is not used: %r", error)
        return None
