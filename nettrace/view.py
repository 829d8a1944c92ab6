"""How a run is shown, and recorded if that was asked for."""

import argparse
import io
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Optional, TextIO

from . import live, sinks
from .diagnosis import Diagnosis
from .errors import UsageError
from .header import Header, skips, utc_offset_s
from .host import Host
from .kernel import Kernel
from .plan import Skipped
from .rules import Rules
from .run import unit_of, wall_offset_ns
from .sinks import Display, Lookups, Summary
from .starts import Start

if TYPE_CHECKING:
    from .anonymous import Anonymiser
    from .captures import Capture
    from .jsonlines import Findings
    from .recorder import Recorder
    from .recording import Writer


class View:
    """What a run is shown by, and recorded by if that was asked for."""

    def __init__(
        self, asked: argparse.Namespace, kernel: Kernel, start: Start, writer: "Optional[Writer]",
        capture: "Optional[Capture]",
    ) -> None:  # fmt: skip
        setup = start.setup
        self._meanings = setup.meanings
        mode = mode_of(asked)
        host: Host = live.Running(kernel, asked.evidence_time, start.returns)
        self.anonymiser = anonymiser_of(asked)
        command = asked.command
        if self.anonymiser is not None:
            from .anonymous import COMMAND, Stranger

            host, command = Stranger(host, self.anonymiser), COMMAND
        self.header = Header(
            mode=mode,
            unit=unit_of(setup.settings),
            command=command,
            kernel=kernel.release,
            clock_offset_ns=wall_offset_ns(),
            utc_offset_s=utc_offset_s(),
            own_netns=host.own_netns,
            tick_ns=host.tick_ns,
            traces=live.traced(setup.what),
            skipped=(),
            attached=0,
            detail=setup.settings.detail,
            join_clones=not asked.trace_noclone,
            stack_at=tuple(sorted(setup.stack_at)),
            end_at=tuple(sorted(setup.end_at)),
            snaplen=setup.settings.snaplen,
        )
        self.recorder = None if writer is None else _recorder(writer, host)
        if self.recorder is not None:
            host = self.recorder.host
        out = text_of(asked) if writer is None else sinks.Held(text_of(asked))
        self.sink = sink_of(asked, self.header, host, setup.meanings, display_of(asked, self.header), out, capture)

    def begin(self, skipped: Sequence[Skipped], attached: int) -> None:
        """From now on, packets are seen."""
        self.header = replace(self.header, skipped=skips(skipped), attached=attached)
        if self.recorder is not None:
            self.recorder.begin(self.header, self._meanings)
        self.sink.begin(self.header)

    def end(self, summary: Summary) -> None:
        """The run is over; StreamError where it could not be recorded whole."""
        if self.recorder is not None:
            self.recorder.end(summary)
        self.sink.end(summary)


def _recorder(writer: "Writer", host: Host) -> "Recorder":
    from .recorder import Recorder

    return Recorder(writer, host)


def mode_of(asked: argparse.Namespace) -> str:
    """Which of header.MODES is asked for."""
    modes = {
        "drop-stat": asked.drop_stat, "drops": asked.drop, "rtt": asked.rtt, "function-stats": asked.func_stats,
        "trouble": asked.monitor, "sockets": asked.sock, "latency-summary": asked.latency_summary,
        "paths": asked.paths, "latency": asked.latency, "events": asked.basic,
    }  # fmt: skip
    return next((mode for mode, on in modes.items() if on), "packets")


def display_of(asked: argparse.Namespace, header: Header) -> Display:
    """What the options say of how a run of this mode is shown."""
    return Display(
        detail=asked.detail,
        columns=asked.columns,
        traces=header.mode != "drops",
        meanings=asked.verbose and header.mode in ("drops", "drop-stat"),
        rare_paths=asked.verbose,
        tiny=asked.tiny_show,
        latency=asked.latency_show,
        latency_free=asked.latency_free,
        end_traces=frozenset(header.end_at),
        returns=asked.ret,
        stacks=frozenset(header.stack_at),
        wall_offset_ns=header.clock_offset_ns if asked.date else None,
        colour=sinks.wants_colour(sys.stdout, os.environ),
    )


def anonymiser_of(asked: argparse.Namespace) -> "Optional[Anonymiser]":
    """What gives other addresses and names, if that was asked for."""
    if not asked.anonymise:
        return None
    from .anonymous import Anonymiser, key_of

    return Anonymiser(key_of(asked.anonymise_key))


class _Nowhere(io.StringIO):
    """Takes text that nobody reads."""

    def write(self, text: str) -> int:
        """Forgets it."""
        return len(text)


def text_of(asked: argparse.Namespace) -> TextIO:
    """Where text goes: not among packets."""
    return _Nowhere() if asked.pcap == "-" else sys.stdout


def sink_of(
    asked: argparse.Namespace, header: Header, host: Host, meanings: Rules, display: Display, out: TextIO,
    capture: "Optional[Capture]" = None, points: Optional[Collection[str]] = None,
) -> sinks.Text:  # fmt: skip
    """What shows a run of this mode as it was asked for, and writes its packets; points: of these traces only."""
    lookups = live.lookups(host, header.traces)
    diagnosis = live.diagnosis(host, header.traces, meanings)
    if header.mode not in ("drops", "drop-stat", "paths"):
        lookups = replace(lookups, remarks=diagnosis.remarks, remarked=meanings.by_trace)
    findings: Optional[Findings] = diagnosis.findings if asked.diag or asked.report is not None else None
    if capture is None:
        return _shown_by(asked, header, host, display, lookups, diagnosis, findings, out)
    from .captures import Captured, once

    findings = None if findings is None else once(findings)
    sink = _shown_by(asked, header, host, display, lookups, diagnosis, findings, out)
    return Captured(sink, capture, lookups, points=points, findings=findings)


def _shown_by(
    asked: argparse.Namespace, header: Header, host: Host, display: Display, lookups: Lookups, diagnosis: Diagnosis,
    findings: "Optional[Findings]", out: TextIO,
) -> sinks.Text:  # fmt: skip
    # No run waits for what only these need.
    if asked.report is not None:
        from . import page

        assert findings is not None
        return page.Page(out, display, lookups, findings, name=os.path.basename(asked.read), command=asked.command)
    if asked.expect is not None:
        from . import expectations
        from .asserting import Asserted
        from .kept import Replaced

        expected = expectations.load(asked.expect, header, host)
        results = None if asked.junit is None else Replaced("--junit", asked.junit)
        return Asserted(out, display, lookups, expected, live.dropped(host, diagnosis), results)
    if asked.json:
        from .jsonlines import JsonLines

        return JsonLines(out, display, lookups, findings, quiet=asked.diag_quiet, keep=asked.diag_keep)
    if header.mode == "drop-stat":
        return sinks.DropTable(out, display, lookups)
    if header.mode == "paths":
        return sinks.PathTable(out, display, lookups)
    if findings is not None:
        return sinks.Diagnosed(out, display, lookups, findings, quiet=asked.diag_quiet, keep=asked.diag_keep)
    if header.mode == "latency":
        return sinks.LatencyText(out, display, lookups)
    return sinks.Text(out, display, lookups)


@contextmanager
def output_of(asked: argparse.Namespace) -> Iterator[TextIO]:
    """Where what is shown goes: to the terminal, or into the page that was asked for."""
    if asked.report is None:
        yield text_of(asked)
        return
    from . import pagefile

    with pagefile.file_for(asked.report) as file:
        yield file


@contextmanager
def recording_to(asked: argparse.Namespace) -> "Iterator[Optional[Writer]]":
    """The file to be written, if one was asked for; raises StreamError in the end, if not all was."""
    if asked.write is None:
        yield None
        return
    from .recording import Writer

    with Writer(asked.write, rotate_bytes=asked.rotate_size, rotate_count=asked.rotate_count) as writer:
        yield writer
    if writer.error is not None:
        raise writer.error


@contextmanager
def capture_to(asked: argparse.Namespace) -> "Iterator[Optional[Capture]]":
    """Where packets themselves are written, if that was asked for; raises StreamError in the end, if not all were."""
    if asked.pcap is None:
        yield None
        return
    from .captures import Capture
    from .kept import Kept

    if asked.pcap == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "--pcap - writes no text: let a program read it, as in nettrace --pcap - ... | tshark -r -"
            )
        yield Capture(_put)
    else:
        file = Kept("--pcap", asked.pcap)
        capture = Capture(file.write)
        try:
            yield capture
        finally:
            file.close()
        if capture.error is not None:
            raise capture.error


def _put(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
