"""Recordings of many packets, made of one of few: `python -m tests.many RECORDING NEW PACKETS`."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nettrace
from nettrace import files, rules, tree
from nettrace.event import Event, Packet, Record
from nettrace.player import Player
from nettrace.recorder import Recorder
from nettrace.recording import Writer
from nettrace.rules import Rules
from nettrace.sinks import Display, Lookups, Text

PERIOD_NS = 1_000_000


class Records(Player):
    """Collects records."""

    def __init__(self) -> None:
        super().__init__(Text(None, Display(), Lookups()), follow=False)  # type: ignore[arg-type]
        self.records: list[Record] = []

    def push(self, record: Record) -> None:
        self.records.append(record)


def multiply(source: Path, target: Path, packets: int, meanings: Rules) -> int:
    """Writes its packets again and again, each round later and from other ports; how many there are then."""
    taken = Records()
    with nettrace.open(str(source)) as recording:
        recording.feed(taken)
    ids = {record.packet_id for record in taken.records}
    rounds = -(-packets // len(ids))
    step = 1 + max(record.record_id for record in taken.records)
    assert recording.summary is not None and recording.summary.events is not None
    with Writer(str(target)) as writer:
        recorder = Recorder(writer, recording.host)
        recorder.begin(recording.header, meanings)
        for number in range(rounds):
            known: dict[Any, Packet] = {}
            for record in taken.records:
                recorder.push(_later(record, number, step * number, known))
        recorder.close(0)
        recorder.end(replace(recording.summary, shown=rounds * len(ids), events=rounds * recording.summary.events))
    assert recorder.error is None
    return rounds * len(ids)


def _later(record: Record, number: int, ids: int, known: dict[Any, Packet]) -> Record:
    return record._replace(
        packet_id=record.packet_id + ids, record_id=record.record_id + ids,
        parent_id=record.parent_id and record.parent_id + ids,
        events=tuple(_event(item, number, known) for item in record.events),
        returned=tuple(
            (step, back._replace(time_ns=back.time_ns + PERIOD_NS * number)) for step, back in record.returned
        ),
    )  # fmt: skip


def _event(item: Event, number: int, known: dict[Any, Packet]) -> Event:
    headers = known.get(item.packet)
    if headers is None:
        port = int.from_bytes(item.packet.l4[:2], "big") + number
        l4 = item.packet.l4 if item.packet.l4_protocol != 6 else port.to_bytes(4, "big")[2:] + item.packet.l4[2:]
        headers = known[item.packet] = item.packet._replace(l4=l4)
    back = item.returned
    return item._replace(
        time_ns=item.time_ns + PERIOD_NS * number, packet=headers,
        returned=None if back is None else back._replace(time_ns=back.time_ns + PERIOD_NS * number),
    )  # fmt: skip


if __name__ == "__main__":
    shipped = rules.load(files.RULES, tree.load(files.TREE))
    print(multiply(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), shipped), "packets")
