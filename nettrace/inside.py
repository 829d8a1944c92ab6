"""Questions that are asked inside a network namespace: by a child that enters it, within a time.

This process itself changes nothing: neither its namespace nor what it has open or buffered.
"""

import ctypes
import errno
import gc
import os
import pickle
import select
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from . import netns as namespaces
from .errors import NettraceError

TIMEOUT_S = 0.5

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("=I")
# What the child says is one of these and a thing.
_ANSWER, _END, _FAILURE = range(3)

Answer = TypeVar("Answer")

# Children that did not end when they were killed: one that waits for a lock of the kernel ends when it has got it.
_unreaped: set[int] = set()


class NoAnswer(NettraceError):
    """Why a question got no answer, or no more of them, in one sentence."""


def ask(netns: int, question: Callable[..., Answer], *arguments: object, timeout_s: float = TIMEOUT_S) -> Answer:
    """What a function returns when it is called in that namespace; raises NoAnswer.

    netns: the inode of the namespace. What is returned must be something that pickle knows.
    """
    for answer in answers(netns, lambda: [question(*arguments)], timeout_s=timeout_s):
        return answer
    raise NoAnswer("there was no answer")


def answers(netns: int, question: Callable[[], Iterable[Answer]], *, timeout_s: float = TIMEOUT_S) -> Iterator[Answer]:
    """What a function yields when it is called in that namespace, each thing as it comes.

    Raises NoAnswer when no more will come although the function did not end: those that came are good.
    """
    until = time.monotonic() + timeout_s
    _reap()
    reading, writing = os.pipe()
    try:
        try:
            pid = _fork(netns, question, writing)
        except OSError as error:
            raise NoAnswer(f"no process could be started to look ({error.strerror})") from error
        finally:
            os.close(writing)
        try:
            for kind, thing in _messages(reading, until, timeout_s):
                if kind == _FAILURE:
                    raise NoAnswer(thing)
                if kind == _END:
                    return
                yield thing
            raise NoAnswer("the process that looked ended too early")
        finally:
            with suppress(ProcessLookupError):  # where SIGCHLD is ignored, it is gone already
                os.kill(pid, signal.SIGKILL)
            _unreaped.add(pid)
            _reap(wait_s=0.1)
    finally:
        os.close(reading)


def enter(netns: int) -> None:
    """Puts this process into a namespace; only for a process that exists to ask there."""
    if namespaces.current() == netns:
        return
    place = namespaces.places().get(netns)
    if place is None:
        raise NoAnswer("the network namespace is gone, or no process and no name leads to it")
    try:
        _enter(netns, place)
    except OSError as error:
        raise NoAnswer(f"the network namespace cannot be entered ({error.strerror}): run nettrace as root") from error


def elsewhere(question: Callable[[], Answer], most: int) -> Iterator[tuple[str, Answer]]:
    """What a function returns in other namespaces, at most so many, with words for each; only within a question."""
    home = namespaces.current()
    places = namespaces.places()
    names = namespaces.names()
    others = [(netns, place) for netns, place in places.items() if netns != home]
    way_back = os.open(places[home], os.O_RDONLY | os.O_CLOEXEC)
    try:
        for netns, place in others[:most]:
            try:
                _enter(netns, place)
                answer = question()
            except OSError:
                continue  # gone meanwhile
            finally:
                _setns(way_back)
            yield names.get(netns) or f"{netns} (that of process {place.parent.parent.name})", answer
    finally:
        os.close(way_back)


def _enter(netns: int, place: Path) -> None:
    file = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The name or process may be another's meanwhile.
        if os.fstat(file).st_ino != netns:
            raise FileNotFoundError(errno.ENOENT, "it is gone")
        _setns(file)
    finally:
        os.close(file)


def _setns(file: int) -> None:
    # os.setns() is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fork(netns: int, question: Callable[[], Iterable[Answer]], writing: int) -> int:
    # With all signals blocked, no handler of this process ever runs in the child; only SIGKILL ends it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of threads: the child takes none of their locks, pyroute2 being imported before.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _answer(netns, question, writing)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _answer(netns: int, question: Callable[[], Iterable[Answer]], writing: int) -> NoReturn:
    """The child: nothing but _exit leaves it, so that no buffer and no finalizer of its parent runs twice."""
    try:
        gc.disable()
        pipe = open(writing, "wb")  # noqa: SIM115, it closes with the process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            enter(netns)
            for thing in question():
                _write(pipe, (_ANSWER, thing))
            _write(pipe, (_END, None))
        except NoAnswer as error:
            _write(pipe, (_FAILURE, str(error)))
        except BaseException as error:
            _write(pipe, (_FAILURE, f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _write(pipe: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _messages(reading: int, until: float, timeout_s: float) -> Iterator[tuple[int, Any]]:
    """What the child said, until it closed its end of the pipe."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    data = b""
    while True:
        while len(data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
            if len(data) < end:
                break
            message, data = data[_LENGTH.size : end], data[end:]
            yield pickle.loads(message)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise NoAnswer(f"not within {timeout_s:g} s")
        chunk = os.read(reading, 65536)
        if not chunk:
            return
        data += chunk


def _reap(wait_s: float = 0) -> None:
    """Takes leave of children that were killed; one is rarely still there after a millisecond."""
    until = time.monotonic() + wait_s
    while True:
        for pid in list(_unreaped):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                _unreaped.discard(pid)
        if not _unreaped or time.monotonic() >= until:
            return
        time.sleep(0.001)
