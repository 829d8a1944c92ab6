"""What --metrics tells: numbers that the programs count, in the text format of Prometheus, by HTTP or in a file.

The format is version 0.0.4 of https://prometheus.io/docs/instrumenting/exposition_formats.
"""

import ipaddress
import os
import re
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import NamedTuple, Optional, Protocol, Union

from . import __version__
from .errors import UsageError
from .histogram import Histogram

LOOPBACK = "127.0.0.1"
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_S = 5
_FILE_PERIOD_S = 5
_TICK_S = 0.5
# How long in each period the kernel is asked to measure the programs' run time, which slows them down a little.
_COST_SAMPLE_S, _COST_PERIOD_S = 1.0, 60.0
# Powers of two, in microseconds: from 16 us to 67 s.
_BOUNDS = range(4, 27)

# What the traces of --monitor are to somebody who knows TCP, not the kernel: metric, its labels, and what it counts.
_KNOWN: tuple[tuple[str, Mapping[str, str], tuple[str, ...]], ...] = (
    ("tcp_resets_total", {"direction": "sent"}, ("tcp_v4_send_reset", "tcp_v6_send_reset", "tcp_send_active_reset")),
    ("tcp_resets_total", {"direction": "received"}, ("tcp_reset",)),
    ("tcp_retransmissions_total", {}, ("tcp_retransmit",)),
    ("tcp_retransmission_timeouts_total", {}, ("tcp_retransmit_timer",)),
    ("tcp_listen_overflows_total", {}, ("tcp_conn_request",)),
    ("neighbour_failures_total", {}, ("arp_error_report", "ndisc_error_report")),
    ("receive_buffer_full_total", {}, ("__udp_enqueue_schedule_skb", "tcp_try_rmem_schedule")),
)
_HELP = {
    "tcp_resets_total": "TCP segments with RST.",
    "tcp_retransmissions_total": "TCP segments that were sent again (a large one is counted once).",
    "tcp_retransmission_timeouts_total": "Expired retransmission timers of TCP.",
    "tcp_listen_overflows_total": "SYNs that met a full queue of a listening socket.",
    "neighbour_failures_total": "Packets given up as the next hop did not answer.",
    "receive_buffer_full_total": "Packets refused as the socket had no memory left.",
}
# Counters of the programs that tell of what is missing in the numbers or lines, and what the metric calls it.
_LOST = {
    "lost_messages": "buffer full",
    "missed": "no place for the hit",
    "over_rate": "over the rate limit",
    "uncounted": "table of drops full",
}


class Family(NamedTuple):
    """A metric: what it is called, and its values by their labels."""

    name: str
    kind: str  # counter, gauge or histogram
    help: str
    samples: Sequence[tuple[str, Mapping[str, str], Union[int, float]]]  # suffix of the name, labels, value


def text(families: Sequence[Family]) -> str:
    """The metrics as they are sent."""
    lines = []
    for family in families:
        name = f"nettrace_{family.name}"
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        for suffix, labels, value in family.samples:
            inside = ",".join(f'{key}="{_escaped(word)}"' for key, word in labels.items())
            lines.append(f"{name}{suffix}{'{' + inside + '}' if inside else ''} {value}")
    return "\n".join(lines) + "\n"


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def histogram_samples(
    histogram: Histogram, labels: Mapping[str, str]
) -> list[tuple[str, Mapping[str, str], Union[int, float]]]:
    """A histogram of microseconds, with bounds in seconds."""
    rows = {row.last + 1: row.values for row in histogram.rows()}
    samples: list[tuple[str, Mapping[str, str], Union[int, float]]] = []
    for power in _BOUNDS:
        below = sum(values for end, values in rows.items() if end <= 1 << power)
        samples.append(("_bucket", {**labels, "le": repr((1 << power) / 1_000_000)}, below))
    total = histogram.total
    return [
        *samples, ("_bucket", {**labels, "le": "+Inf"}, total), ("_sum", labels, histogram.sum / 1_000_000),
        ("_count", labels, total),
    ]  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """What the programs of --monitor counted up to now."""

    drops: Mapping[tuple[str, str], int]  # by reason and place
    hits: Mapping[str, int]  # by trace
    counters: Mapping[str, int]
    round_trips: Histogram
    transits: Mapping[str, Histogram]  # by direction
    attached: int
    skipped: int


def families(counted: Counted, release: str, bpf_ratio: Optional[float]) -> list[Family]:
    """All metrics; bpf_ratio: the part of one CPU's time that the programs took lately."""
    found = [
        Family("info", "gauge", "What runs.", [("", {"version": __version__, "kernel": release}, 1)]),
        Family(
            "drops_total", "counter", "Packets that the kernel dropped, by its reason and by the place in its code.",
            [("", {"reason": why, "place": where}, number) for (why, where), number in sorted(counted.drops.items())],
        ),
        Family(
            "trouble_total", "counter", "Hits of the traces that tell of trouble.",
            [("", {"trace": trace}, number) for trace, number in sorted(counted.hits.items())],
        ),
    ]  # fmt: skip
    for name, text_of in _HELP.items():
        samples = [
            ("", labels, sum(counted.hits.get(trace, 0) for trace in traces))
            for metric, labels, traces in _KNOWN
            if metric == name
        ]
        found.append(Family(name, "counter", text_of, samples))
    found += [
        Family(
            "tcp_rtt_seconds", "histogram", "Round trips that TCP measured.", histogram_samples(counted.round_trips, {})
        ),
        Family(
            "stack_seconds", "histogram",
            "How long packets took from the driver to their transport protocol (in), and from the queueing "
            "discipline to the driver (out), of one packet in 64.",
            [
                sample
                for direction, histogram in counted.transits.items()
                for sample in histogram_samples(histogram, {"direction": direction})
            ],
        ),
        Family("events_total", "counter", "Lines that were told.", [("", {}, counted.counters["matched"])]),
        Family(
            "events_lost_total", "counter", "What is missing in the lines, or in these numbers, by why.",
            [("", {"why": why}, counted.counters[name]) for name, why in _LOST.items()],
        ),
        Family(
            "traces", "gauge", "Traces of this run.",
            [("", {"state": "attached"}, counted.attached), ("", {"state": "skipped"}, counted.skipped)],
        ),
        Family("cpu_seconds_total", "counter", "CPU time of the process.", [("", {}, round(time.process_time(), 3))]),
        Family(
            "memory_max_bytes", "gauge", "The most memory that the process had so far.",
            [("", {}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)],
        ),
    ]  # fmt: skip
    if bpf_ratio is not None:
        told = "The part of one CPU's time that the BPF programs took, measured for a second each minute."
        found.append(Family("bpf_cpu_ratio", "gauge", told, [("", {}, round(bpf_ratio, 6))]))
    return found


class Cost:
    """Measures now and then what part of a CPU's time the programs take.

    measure: has it measured until what it returns is called. run_time_ns: the sum so far.
    """

    def __init__(
        self, measure: Callable[[], Callable[[], None]], run_time_ns: Callable[[], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.ratio: Optional[float] = None
        self._measure = measure
        self._run_time_ns = run_time_ns
        self._now = now
        self._began: Optional[tuple[float, int]] = None
        self._stop: Callable[[], None] = lambda: None
        self._next = now()

    def tick(self) -> None:
        """To be called about every half second."""
        now = self._now()
        if self._began is None and now >= self._next:
            self._stop = self._measure()
            self._began = (now, self._run_time_ns())
            self._next = now + _COST_PERIOD_S
        elif self._began is not None and now - self._began[0] >= _COST_SAMPLE_S:
            self.ratio = (self._run_time_ns() - self._began[1]) / 1e9 / (now - self._began[0])
            self.stop()

    def stop(self) -> None:
        """Ends a measurement that is under way."""
        self._stop()
        self._stop, self._began = lambda: None, None


class Exporter(Protocol):
    """A way by which metrics leave."""

    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> AbstractContextManager[None]:
        """Tells what `render` returns for the time of a with block, and calls `tick` about twice a second."""


def exporter(target: str) -> Exporter:
    """What --metrics names: PORT, ADDRESS:PORT or a file; raises UsageError."""
    match = re.fullmatch(r"(?:(?P<address>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})", target)
    if match:
        address = (match["address"] or LOOPBACK).strip("[]")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise UsageError(f"--metrics: '{address}' is no address to listen on") from None
        return HttpExporter(address, int(match["port"]))
    if "/" not in target and not target.endswith(".prom"):
        raise UsageError(f"--metrics needs a port, ADDRESS:PORT or a file such as nettrace.prom, not '{target}'")
    return FileExporter(Path(target))


class HttpExporter:
    """Answers GET /metrics."""

    def __init__(self, address: str, port: int) -> None:
        try:
            self._server = _Server((address, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"--metrics: nothing can listen on {address} port {port}: {why}") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @contextmanager
    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> Iterator[None]:
        """Answers for the time of a with block."""
        self._server.render, self._server.service_actions = render, tick  # type: ignore[method-assign]
        thread = threading.Thread(target=partial(self._server.serve_forever, _TICK_S), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    render: Callable[[], str]

    def __init__(self, address: tuple[str, int], handler: "type[BaseHTTPRequestHandler]") -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is only /metrics")
            return
        body = self.server.render().encode()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told."""


class FileExporter:
    """Keeps a file up to date, as node_exporter's textfile collector reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f".{path.name}.{os.getpid()}")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--metrics: nothing can be written to {path.parent}: make that folder, or name another")

    @contextmanager
    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> Iterator[None]:
        """Writes it every few seconds for the time of a with block, and once more at its end."""
        ended = threading.Event()

        def keep() -> None:
            due = 0.0
            while not ended.wait(_TICK_S):
                tick()
                if time.monotonic() >= due:
                    due = time.monotonic() + _FILE_PERIOD_S
                    with suppress(OSError):  # a full disk may have room again
                        self._write(render())

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            try:
                self._write(render())
            except OSError as error:
                raise UsageError(f"--metrics: {self._path} cannot be written: {error.strerror}") from error

    def _write(self, words: str) -> None:
        """Whoever reads it sees all of it; no link is followed."""
        with suppress(FileNotFoundError):
            os.unlink(self._new)
        handle = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(words)
            os.replace(self._new, self._path)
        except OSError:
            os.unlink(self._new)
            raise


def totals_by_place(
    drops: Mapping[tuple[int, int], int], reason: Callable[[int], str], place: Callable[[int], str], no_reason: int
) -> dict[tuple[str, str], int]:
    """The drops by the words for their numbers; `none` where the kernel gives no reason."""
    found: Counter[tuple[str, str]] = Counter()
    for (number, location), count in drops.items():
        found["none" if number == no_reason else reason(number), place(location)] += count
    return dict(found)
