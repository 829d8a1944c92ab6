"""Whether the packets of a run do what a file of --assert expects: as text, and as JUnit XML for CI systems."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, NamedTuple, Optional, TextIO
from xml.etree import ElementTree

from .counts import counted
from .event import Context, Event
from .expectations import Expectation, Expectations, Fault
from .header import Header
from .kept import Replaced
from .printable import printable
from .sinks import Display, Lookups, Summary, Text

# What XML 1.0 cannot hold.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WHOLE = "the run was seen whole"


class Result(NamedTuple):
    """What became of an expectation."""

    name: str
    failures: tuple[str, ...]  # empty: it holds
    note: str  # what is to be said of it in any case
    block: str = ""  # the first packet that is not as expected

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return not self.failures

    @property
    def text(self) -> str:
        """One line, and below it why it failed and with which packet."""
        lines = [f"{'ok    ' if self.ok else 'FAILED'}  {self.name}{f': {self.note}' if self.note else ''}"]
        lines += [f"        {why}" for why in self.failures]
        return "\n".join([*map(printable, lines), *([self.block] if self.block else [])])


@dataclass
class _Tested:
    """What was seen of the packets that an expectation is about."""

    packets: int = 0
    wrong: int = 0
    first: list[Fault] = field(default_factory=list)  # what is wrong with the first wrong packet
    block: str = ""


class Asserted(Text):
    """Judges packets, and tells the results at the end.

    dropped: the reason and the function, where an event is a drop. results_file: where the results are to be written,
    too, as JUnit XML.
    """

    def __init__(
        self, out: TextIO, display: Display, lookups: Lookups, expected: Expectations,
        dropped: Callable[[Event], Optional[tuple[str, str]]], results_file: Optional[Replaced] = None,
    ) -> None:  # fmt: skip
        super().__init__(out, display, lookups)
        self._expected = expected
        self._dropped = dropped
        self._results_file = results_file
        self._tested = [_Tested() for _ in expected.expectations]
        self._blocks = io.StringIO()
        self._text = Text(self._blocks, replace(display, colour=False), lookups)
        self._skipped: dict[str, str] = {}
        self.results: tuple[Result, ...] = ()

    def begin(self, header: Header) -> None:
        """The run begins."""
        self._skipped = dict(header.skipped)
        super().begin(header)

    def context(self, context: Context) -> bool:
        """Judges a packet; it is one of those that were looked at, whatever was expected of it."""
        for expectation, tested in zip(self._expected.expectations, self._tested):
            if expectation.matches(context) is not None:
                self._judge(expectation, tested, context)
        return True

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now."""
        self._text.keep_time(wall_offset_ns)

    def end(self, summary: Optional[Summary]) -> None:
        """The run is over: all results, and how many are bad."""
        lost = "the run has no end, or the recording is damaged" if summary is None else _lost(summary)
        whole = Result(_WHOLE, () if self._expected.incomplete or not lost else (lost,), lost and f"no: {lost}")
        self.results = (
            whole._replace(note="" if whole.failures else whole.note),
            *(
                self._result(expectation, tested, not lost)
                for expectation, tested in zip(self._expected.expectations, self._tested)
            ),
        )
        failed = sum(not result.ok for result in self.results)
        lines = [result.text for result in self.results]
        self.note("\n".join([*lines, f"{failed} of {len(self.results)} failed" if failed else "all hold"]))
        self.flush()
        if self._results_file is not None:
            self._results_file.write(junit(self._expected.name, self.results))

    @property
    def failed(self) -> bool:
        """Whether not all is as expected, once the run is over."""
        return not all(result.ok for result in self.results)

    def _judge(self, expectation: Expectation, tested: _Tested, context: Context) -> None:
        tested.packets += 1
        faults = expectation.faults(context, self._dropped, self.duration_ns)
        if not faults:
            return
        tested.wrong += 1
        if not tested.first:
            self._text.context(context)
            tested.first, tested.block = faults, self._blocks.getvalue().rstrip("\n") + "\n"
            self._blocks.seek(0)
            self._blocks.truncate()

    def _result(self, expectation: Expectation, tested: _Tested, seen_whole: bool) -> Result:
        failures = [fault.why for fault in expectation.amount(tested.packets, seen_whole)]
        for point in expectation.must_not_pass:
            failures += [
                f"{name} of {point.name} was not attached: {self._skipped[name]}"
                for name in sorted(point.traces & self._skipped.keys())
            ]
        failures += [fault.why for fault in tested.first]
        note = counted(tested.packets, "packets")
        if tested.wrong:
            note += f", {tested.wrong} not as expected, the first one:"
        return Result(expectation.name, tuple(failures), note, tested.block)


def _lost(summary: Summary) -> str:
    """What a run did not see, which may be just what was looked for; empty: nothing."""
    losses = (
        (sum(summary.lost_messages), "messages lost"), (summary.lost_packets, "packets lost whole"),
        (summary.unread_messages, "messages left unread"), (summary.missed_hits, "hits missed"),
        (summary.untracked, "packets not followed for want of room"),
        (summary.evicted, "skbs pushed out of the tracking map"), (summary.calls_lost, "returns missed"),
    )  # fmt: skip
    return ", ".join(counted(count, what) for count, what in losses if count)


def junit(name: str, results: Sequence[Result]) -> bytes:
    """The results as JUnit XML: a suite of this name with a test case for each."""
    failed = sum(not result.ok for result in results)
    numbers = {"tests": str(len(results)), "failures": str(failed), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": f"nettrace.{_xml(name)}", **numbers})
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"nettrace.{_xml(name)}", "name": _xml(result.name)}
        )
        if not result.ok:
            why = ElementTree.SubElement(case, "failure", {"message": _xml("; ".join(result.failures))})
            why.text = _xml(result.text)
        elif result.note:
            ElementTree.SubElement(case, "system-out").text = _xml(result.note)
    suites = ElementTree.Element("testsuites", numbers)
    suites.append(suite)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
