"""-r and --diff: what recordings show."""

import argparse
import logging
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import Optional

from . import comparison, matching, netns, options, selection, view
from .counts import counted
from .errors import StreamError, UsageError
from .filters import PacketFilter
from .header import TABLES
from .matching import Matches
from .paths import PathsGrouped
from .player import Player
from .replay import Recording
from .rules import Rules
from .sinks import Summary
from .times import Derived, Times, TimesSummed
from .tree import Tree

log = logging.getLogger("nettrace")

# What can be worked out from whole packets.
_DERIVED: dict[str, type[Derived]] = {"latency": Times, "latency-summary": TimesSummed, "paths": PathsGrouped}


def replay(asked: argparse.Namespace, traces: Tree, meanings: Rules) -> int:
    """-r: what was recorded, as it was shown, or as it is asked for now."""
    with Recording(asked.read) as recording:
        header = recording.header
        mode = view.mode_of(asked)
        derived = _DERIVED.get(mode) if header.mode == "packets" else None
        if mode not in ("packets", header.mode) and derived is None:
            raise UsageError(f"{asked.read} is a recording of {header.mode}, not of {mode}: leave out the mode")
        for option, given in (("--diag", asked.diag), ("--assert", asked.expect)):
            if given and header.mode != "packets":
                raise UsageError(
                    f"{option} needs whole packets, and {asked.read} is a recording of {header.mode}: leave it out"
                )
        if options.with_detail(asked) and not header.detail:
            raise UsageError(f"{asked.read} was recorded without --detail: leave out --detail and its columns")
        if asked.pcap is not None and not header.snaplen:
            raise UsageError(f"{asked.read} has no packets for --pcap: they are recorded with -w and --snaplen")
        points = selection.choose_recorded(traces, header.traces, trace=asked.pcap_at, exclude=None, option="--pcap-at")
        shown_at = selection.choose_recorded(traces, header.traces, trace=asked.trace, exclude=asked.trace_exclude)
        packet_filter, matches = _matcher(asked, recording, shown_at)
        display = replace(view.display_of(asked, header), utc_offset_s=header.utc_offset_s)
        shown = header if derived is None else replace(header, mode=mode)
        with view.output_of(asked) as out, view.capture_to(asked) as capture:
            sink = view.sink_of(asked, shown, recording.host, meanings, display, out, capture, points)
            if derived is not None:
                sink = derived(sink, display, recording.lookups)
            player = Player(
                sink, follow=header.mode == "packets", count=asked.count,
                join_clones=header.join_clones and not asked.trace_noclone,
                min_latency_ns=packet_filter.min_latency_ns, wanted=matches,
            )  # fmt: skip
            for name, reason in header.skipped:
                log.info("%s is skipped: %s", name, reason)
            sink.begin(shown)
            try:
                recording.feed(player)
            finally:
                summary = _replayed(recording, player)
                if summary is not None and isinstance(sink, Derived):
                    summary = replace(summary, events=None, one_point=sink.one_point)
                sink.end(summary)
                unknown = f"{counted(player.shown, header.unit)}; what was lost is not known"
                told = unknown if summary is None else summary.text(asked.verbose) + summary.cost_text()
                print(told, file=sys.stderr, flush=True)
        if recording.next is not None:
            log.warning("nettrace: %s goes on in %s, which is not there", asked.read, recording.next)
    return int(sink.failed)


def copy(asked: argparse.Namespace, meanings: Rules) -> int:
    """-r, -w and --anonymise: the same recording with other addresses and names."""
    from .anonymous import Anonymised, Stranger
    from .recorder import Recorder

    anonymiser = view.anonymiser_of(asked)
    assert anonymiser is not None
    with Recording(asked.read) as recording, view.recording_to(asked) as writer:
        assert writer is not None
        recorder = Recorder(writer, Stranger(recording.host, anonymiser))
        header = anonymiser.header(recording.header)
        # What the kernel calls things is told before the first packet, and must be known by then.
        taker = Anonymised(recorder, anonymiser, lambda: recorder.begin(header, meanings))
        try:
            recording.feed(taker)
        finally:
            taker.flush()
        if recording.summary is not None:
            recorder.end(recording.summary)
        if recording.next is not None:
            log.warning("nettrace: %s goes on in %s, which is not there", asked.read, recording.next)
    return 0


def diff(asked: argparse.Namespace) -> int:
    """--diff: what differs between two recordings."""
    from .comparison_text import comparison_text
    from .jsonlines import comparison_line

    found = comparison.compare(asked.diff[0], asked.diff[1], lambda recording: _matcher(asked, recording)[1])
    sys.stdout.write(comparison_line(found) if asked.json else comparison_text(found))
    for side in (found.first, found.second):
        if side.trouble:
            raise StreamError(side.trouble)
    return 0


def _matcher(
    asked: argparse.Namespace, recording: Recording, traces: Optional[Collection[str]] = None
) -> tuple[PacketFilter, Optional[Matches]]:
    """The conditions on packets, and what says which packets of a recording fit, of these traces."""
    header = recording.header
    inode = None if asked.netns is None else netns.inode(asked.netns)
    named = asked.netns if inode is None else None
    wanted = header.own_netns if asked.netns_current else inode
    packet_filter = options.packet_filter(asked, wanted)
    return packet_filter, matching.matcher(packet_filter, header, recording.host, named, traces)


def _replayed(recording: Recording, player: Player) -> Optional[Summary]:
    """The summary of the run, with the numbers of what is shown now; None where it has no end."""
    header, run = recording.header, recording.summary
    if run is None or header.mode in TABLES:
        return run
    return replace(
        run, shown=player.shown, events=None if run.events is None else player.events,
        unfinished=player.unfinished if header.mode == "packets" else run.unfinished, incomplete=player.incomplete,
        short=player.short or run.short,
    )  # fmt: skip
