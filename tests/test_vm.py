"""The runner of the end-to-end tests: what it makes of a guest that dies."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import shlex
import sys
from pathlib import Path

import pytest

from tests.vm import __main__ as runner
from tests.vm.boot import STOPPED_BY_ITSELF
from tests.vm.kernels import KERNELS

HEAD = "test session starts\n"
PANIC = "Kernel panic - not syncing: Fatal exception\nRIP: 0010:do_int3+0x12/0x80\n"


class Guests:
    """In the place of guests: what each of them says, and how it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *lives: tuple[str, int]) -> None:
        self.commands: list[str] = []
        real = runner.subprocess.Popen

        def booted(command: list[str], **options: object) -> object:
            self.commands.append(next(word for word in command if "pytest" in word))
            said, status = lives[len(self.commands) - 1]
            program = f"import sys; sys.stdout.write({said!r}); sys.exit({status})"
            return real([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(runner.subprocess, "Popen", booted)
        monkeypatch.setattr(runner.image, "ensure", lambda _: None)

    def run(self, tmp_path: Path) -> runner.Result:
        return runner._test(KERNELS[-1], tmp_path, "-k 'a or b'")


def ran(*tests: str, outcome: str = "PASSED") -> str:
    return "".join(f"tests/e2e/{test} {outcome} [ 10%]\n" for test in tests)


def test_the_status_is_that_of_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guests = Guests(monkeypatch, (HEAD + ran("test_a.py::one") + "FAILED tests/e2e/test_a.py::two\n", 1))
    result = guests.run(tmp_path)
    assert result.status == 1
    assert shlex.split(guests.commands[0])[-2:] == ["-k", "a or b"]
    assert list(result.lines())[1:] == ["    FAILED tests/e2e/test_a.py::two"]


def test_a_guest_that_dies_is_booted_again_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = (
        HEAD + ran("test_a.py::one", "test_b.py::two") + "tests/e2e/test_b.py::three[x y] " + PANIC,
        STOPPED_BY_ITSELF,
    )
    guests = Guests(monkeypatch, ("", STOPPED_BY_ITSELF), died, (HEAD + ran("test_b.py::two", "test_b.py::three"), 0))
    result = guests.run(tmp_path)
    assert result.status == 0
    assert ["--ignore" in command for command in guests.commands] == [False, False, True]
    assert "--ignore=tests/e2e/test_a.py" in guests.commands[2] and "test_b.py" not in guests.commands[2]
    told = "\n".join(result.lines())
    assert "the guest died at its boot" in told and "the guest died at tests/e2e/test_b.py::three[x" in told
    assert "RIP: 0010:do_int3" in told


def test_a_guest_that_dies_twice_at_a_test_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = (HEAD + ran("test_a.py::one") + "tests/e2e/test_b.py::two " + PANIC, STOPPED_BY_ITSELF)
    guests = Guests(monkeypatch, died, died)
    assert guests.run(tmp_path).status == STOPPED_BY_ITSELF
    assert len(guests.commands) == 2


def test_what_failed_before_a_guest_died_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = (HEAD + ran("test_a.py::one", outcome="FAILED") + ran("test_b.py::two"), STOPPED_BY_ITSELF)
    guests = Guests(monkeypatch, died, (HEAD + ran("test_b.py::two", "test_c.py::three"), 0))
    assert guests.run(tmp_path).status == 1
