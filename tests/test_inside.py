"""Questions asked by a child: what comes back, what it leaves behind, and when there is no answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nettrace import inside, netns
from nettrace.inside import NoAnswer

CHECKOUT = Path(__file__).resolve().parent.parent
HERE = netns.current()

# However slow this machine is now.
ask, answers = partial(inside.ask, timeout_s=20), partial(inside.answers, timeout_s=20)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before
    inside._reap(wait_s=20)  # what was killed may take its time to end on a busy machine
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_an_answer_comes_from_another_process() -> None:
    assert ask(HERE, lambda word, number: (os.getpid() != os.getppid(), os.getppid(), word * number), "a", 3) == (
        True, os.getpid(), "aaa",
    )  # fmt: skip


def test_large_answers_come_whole() -> None:
    assert ask(HERE, bytes, 3_000_000) == bytes(3_000_000)
    assert list(answers(HERE, lambda: range(5000))) == list(range(5000))


def test_what_came_before_the_time_was_over_is_kept() -> None:
    def two_then_nothing() -> Iterator[int]:
        yield 1
        yield 2
        signal.pause()

    got = []
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=r"^not within 1 s$"):
        for answer in answers(HERE, two_then_nothing, timeout_s=1):
            got.append(answer)
    assert got == [1, 2]
    assert 1 <= time.monotonic() - began < 10


def test_an_answer_that_nobody_waits_for() -> None:
    stream = answers(HERE, lambda: iter(int, 1))
    assert next(stream) == 0
    stream.close()


def fail() -> None:
    raise ValueError("no good")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (fail, "ValueError: no good"),
        (lambda: os._exit(0), "the process that looked ended too early"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the process that looked ended too early"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: threading.Lock(), "cannot pickle"),
    ],
)
def test_failures(question: object, message: str) -> None:
    with pytest.raises(NoAnswer, match=message):
        ask(HERE, question)


def test_a_namespace_that_is_gone() -> None:
    with pytest.raises(NoAnswer, match="the network namespace is gone"):
        ask(0xF0000000 - 5, os.getpid)


def test_signals_of_the_parent_are_not_the_childs(capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C reaches all processes of a terminal: no handler of ours runs in the child."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda *_: seen.append(os.getpid())) for number in (2, 15)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:

        def interrupted() -> list[int]:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
                os.kill(os.getppid(), number)
            return list(seen)

        assert ask(HERE, interrupted) == []
        assert seen and set(seen) == {os.getpid()}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SCRIPT = """
import atexit, sys, threading
from nettrace import inside, netns
from nettrace.inside import NoAnswer, ask
atexit.register(print, "end")
for _ in range(8):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
sys.stdout.write("once ")
sys.stdout.write(str(ask(netns.current(), timeout_s=20, question=lambda: "answer")) + " ")
try:
    ask(netns.current(), sys.exit, timeout_s=20)
except NoAnswer:
    pass
"""


def test_buffers_and_exit_handlers_are_the_parents() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("once answer end\n", "")
