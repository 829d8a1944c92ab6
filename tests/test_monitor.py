"""Modules that are loaded while --monitor runs: that their functions are not watched is said once."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import shutil
import time
from pathlib import Path
from typing import Callable

import pytest

from nettrace import monitor, plan
from nettrace.kernel import Kernel
from nettrace.monitor import Latecomers
from nettrace.plan import Skipped
from nettrace.rules import Rules
from nettrace.tree import Tree

OTHERS = "usbcore 425984 2 usbhid,ehci_hcd, Live 0x0000000000000000\n"
LOADED = "nf_tables 380928 0 - Live 0x0000000000000000\n"


class Changing:
    """A host where nf_tables is not loaded yet."""

    def __init__(self, recorded: Path, root: Path) -> None:
        shutil.copytree(recorded, root)
        self._modules, self._symbols = root / "proc/modules", root / "proc/kallsyms"
        self._all = self._symbols.read_text()
        self._symbols.write_text("".join(line for line in self._all.splitlines(True) if "[nf_tables]" not in line))
        self._modules.write_text("")
        self.kernel = Kernel(root)

    def load(self, name: str) -> None:
        """Loads a module, which need not be one with symbols."""
        self._modules.write_text(self._modules.read_text() + name)
        if name == LOADED:
            self._symbols.write_text(self._all)


@pytest.fixture
def host(recorded: Callable[[str], Path], tmp_path: Path) -> Changing:
    return Changing(recorded("6.12"), tmp_path / "host")


@pytest.fixture
def skipped(host: Changing, leaves: Tree, shipped: Rules) -> tuple[Skipped, ...]:
    watched = [trace for trace in leaves.traces() if trace.monitor]
    return plan.make_monitor(watched, host.kernel, shipped.need_return, shipped.ask_verdict, tracing=True).skipped


def test_what_comes_with_a_module_is_found_once(host: Changing, skipped: tuple[Skipped, ...]) -> None:
    assert "nft_do_chain" in {skip.trace.name for skip in skipped}
    latecomers = Latecomers(host.kernel, skipped)
    assert latecomers.found() == []
    host.load(OTHERS)
    assert latecomers.found() == []
    host.load(LOADED)
    found = latecomers.found()
    assert "nft_do_chain" in found and all(name.startswith("nft_") for name in found)
    assert latecomers.found() == []


def test_it_is_said_in_one_sentence(
    host: Changing, skipped: tuple[Skipped, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    coming = iter([OTHERS, LOADED, "", ""])

    def sleep(seconds: float) -> None:
        assert seconds == monitor.LOOK_S
        host.load(next(coming))

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(StopIteration):
        Latecomers(host.kernel, skipped).tell()
    (said,) = caplog.messages
    assert said.startswith("nettrace: modules loaded after the start have functions that are not watched (nft_")
    assert "nft_do_chain" in said and "\n" not in said
