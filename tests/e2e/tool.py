"""Runs nettrace as an operator would and reads its output as a person would."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..schema import check_line

CHECKOUT = Path(__file__).resolve().parents[2]
READY = "begin trace..."
JSON_READY = '{"type":"header",'
END = "end trace..."
STACK = "Call Stack:"
# Emulated kernels with single kprobes take many seconds to attach and to detach.
START_TIMEOUT_S = 240
EXIT_TIMEOUT_S = 120

# How a datagram ends that a program has read: newer kernels leave the freeing to the CPU it came by.
READ_BY_PROGRAM = ("consume_skb", "skb_attempt_defer_free")

HEADER = re.compile(r"^\*{17} ([0-9a-f,]+) \*{15}$")
LINE = re.compile(
    r"^\[(?P<time>[^\]]+)\] (?:\[(?P<skb>[0-9a-f]{8})\])?\[(?P<trace>[^\]\s]+) *\](?:\[(?P<letter>[a-z]+)\])?"
    r"(?P<detail>(?:\[[^\]]*\])*)(?: (?P<packet>[^* ].*?))?(?: latency: (?P<latency>[\d.]+)ms)?"
    r"(?P<note>(?: \*[^*]*\*)+)?$"
)
MARK = re.compile(r"^\((incomplete|unfinished): ")
# The skb is at another device or in another namespace than on the line before.
MOVE = re.compile(r"^    ~ ")
FRAME = re.compile(r"^    -> \[[0-9a-f]+\](?P<symbol>\w[\w.]*)\+0x")
TOTAL = re.compile(r"^total latency: (?P<latency>[\d.]+)ms$")


@dataclass(frozen=True)
class Line:
    """One event as printed."""

    time: str
    trace: str
    packet: str
    note: str = ""
    skb: str = ""
    detail: str = ""
    latency_ms: Optional[float] = None
    stack: list[str] = field(default_factory=list)  # functions, the innermost first

    @property
    def seconds(self) -> float:
        return float(self.time)

    @property
    def netns(self) -> str:
        """The namespace in the detail, as it is written there."""
        match = re.search(r"\[ns:([^\]]*)\]", self.detail)
        return match[1] if match else ""

    @property
    def interface(self) -> str:
        """The name of the interface in the detail."""
        match = re.search(r"\[cpu:\d+ *\]\[(?:\d+:)?([^\]]*?) *\]", self.detail)
        return match[1] if match else ""


@dataclass
class Block:
    """One packet as printed."""

    skbs: list[str]
    lines: list[Line] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    latency_ms: Optional[float] = None

    @property
    def traces(self) -> list[str]:
        return [line.trace for line in self.lines]

    @property
    def packets(self) -> list[str]:
        """The distinct packet texts, in order of appearance."""
        return list(dict.fromkeys(line.packet for line in self.lines))

    def has(self, text: str) -> bool:
        return any(text in line.packet for line in self.lines)


def parse_line(text: str) -> Line:
    match = LINE.match(text)
    assert match, f"not an event's line: {text!r}"
    return Line(
        match["time"], match["trace"], match["packet"] or "", (match["note"] or "").strip(), match["skb"] or "",
        match["detail"], None if match["latency"] is None else float(match["latency"]),
    )  # fmt: skip


def _add_frame(line: Line, text: str) -> None:
    """A line of a call stack; one without a symbol is nothing that a test could know."""
    frame = FRAME.match(text)
    if frame:
        line.stack.append(frame["symbol"])


def parse_blocks(lines: list[str]) -> list[Block]:
    """The blocks between the begin and end lines; anything that is not part of one is an error."""
    blocks: list[Block] = []
    current: Optional[Block] = None
    for text in lines:
        header = HEADER.match(text)
        mark = MARK.match(text)
        total = TOTAL.match(text)
        if header:
            assert current is None, f"a block begins inside another: {text!r}"
            current = Block(header[1].split(","))
            blocks.append(current)
        elif not text:
            current = None
        elif mark:
            assert current is not None
            current.marks.append(mark[1])
        elif MOVE.match(text):
            assert current is not None
            current.moves.append(text[len("    ~ ") :])
        elif total:
            assert current is not None
            current.latency_ms = float(total["latency"])
        elif text == STACK or text.startswith("    -> "):
            assert current is not None
            _add_frame(current.lines[-1], text)
        else:
            assert current is not None, f"a line outside of any block: {text!r}"
            current.lines.append(parse_line(text))
    return blocks


class Nettrace:
    """A running nettrace: ready once the with block is entered, ended with Ctrl-C when it is left."""

    starts = 0  # in this session
    command: tuple[str, ...] = (sys.executable, "-m", "nettrace")

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.first = ""  # the line that says that it is ready
        self.output: list[str] = []
        self.objects: list[dict[str, Any]] = []  # what the lines of --json say, when it has ended
        self.stderr = ""
        self.returncode: Optional[int] = None
        self._lines: queue.Queue[Optional[str]] = queue.Queue()

    def __enter__(self) -> "Nettrace":
        Nettrace.starts += 1
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*self.command, *self.arguments],
            cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        while True:
            line = self._next_line(START_TIMEOUT_S)
            assert line is not None, f"nettrace ended before it was ready: {self._errors()}"
            if line == READY or line.startswith(JSON_READY):
                self.first = line
                break
        self.ready_after = time.monotonic() - self.started
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_blocks(self, count: int, timeout: float = 60, containing: str = "") -> None:
        """Waits until so many whole blocks have been printed (that contain the text)."""
        limit = time.monotonic() + timeout
        whole = 0
        block: list[str] = []
        for seen in range(sys.maxsize):
            if seen == len(self.output):
                self._read_line(limit)
            line = self.output[seen]
            block.append(line)
            if not line:
                whole += any(containing in text for text in block)
                block.clear()
                if whole == count:
                    return

    def wait_lines(self, count: int, timeout: float = 60) -> None:
        """Waits until so many lines have been printed."""
        limit = time.monotonic() + timeout
        while len(self.output) < count:
            self._read_line(limit)

    def wait_line(self, containing: str, timeout: float = 60) -> None:
        """Waits until a line with this text has been printed."""
        limit = time.monotonic() + timeout
        for seen in range(sys.maxsize):
            if seen == len(self.output):
                self._read_line(limit)
            if containing in self.output[seen]:
                return

    def wait_lines_with(self, text: str, count: int, timeout: float = 60) -> None:
        """Waits until so many lines with this text have been printed."""
        limit = time.monotonic() + timeout
        while sum(text in line for line in self.output) < count:
            self._read_line(limit)

    def _read_line(self, limit: float) -> None:
        try:
            line = self._lines.get(timeout=max(0.0, limit - time.monotonic()))
        except queue.Empty:
            raise AssertionError("timed out; the output ends:\n" + "\n".join(self.output[-40:])) from None
        assert line is not None, "nettrace ended early; the output ends:\n" + "\n".join(self.output[-40:])
        self.output.append(line)

    def wait_end(self, timeout: float = EXIT_TIMEOUT_S) -> int:
        """Waits until it ends by itself."""
        return self._finish(timeout)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ends it as Ctrl-C would, unless it has ended already; returns its exit status."""
        if self.returncode is None:
            if self.process.poll() is None:
                self.process.send_signal(number)
            self._finish(EXIT_TIMEOUT_S)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self.process.kill()
        self._finish(EXIT_TIMEOUT_S)

    @property
    def body(self) -> list[str]:
        """What was printed between begin and end."""
        return self.output[: self.output.index(END)] if END in self.output else self.output

    @property
    def blocks(self) -> list[Block]:
        return parse_blocks(self.body)

    @property
    def lines(self) -> list[Line]:
        """The events of a --basic run."""
        return [parse_line(text) for text in self.body]

    def summary(self, what: str) -> int:
        """A number of the closing line, such as 'packets' or 'messages lost'."""
        # One has no s.
        match = re.search(rf"(\d+) {what.replace('s', 's?')}", self.stderr)
        return int(match[1]) if match else 0

    def _finish(self, timeout: float) -> int:
        try:
            self.returncode = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"nettrace did not end within {timeout} s") from None
        finally:
            for thread in self._threads:
                thread.join(10)
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()
        while True:
            line = self._lines.get(timeout=10)
            if line is None:
                break
            self.output.append(line)
        self.stderr = self._errors()
        self.objects = checked(self.arguments, [self.first, *self.output])
        return self.returncode

    def _next_line(self, timeout: float) -> Optional[str]:
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            self.process.kill()
            raise AssertionError(f"nettrace printed nothing for {timeout} s: {self._errors()}") from None

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read()

    def _errors(self) -> str:
        self._threads[1].join(10)
        return self.stderr


def checked(arguments: Sequence[str], lines: Sequence[str]) -> list[dict[str, Any]]:
    """What the lines say, if JSON was asked for; AssertionError where one is not as the schema has it."""
    return [check_line(line) for line in lines] if "--json" in arguments else []


def run(*arguments: str, env: Optional[dict[str, str]] = None) -> "subprocess.CompletedProcess[str]":
    """Runs nettrace to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "nettrace", *arguments],
        cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=START_TIMEOUT_S, env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
    checked(arguments, done.stdout.splitlines())
    return done
