"""What is kept of a start, and when it must not be used again."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest

from nettrace import compiler, files, modes, options, source
from nettrace.kernel import Kernel
from nettrace.objects import Code, Object
from nettrace.rules import Rules
from nettrace.starts import Start, Starts
from nettrace.tree import Tree

PROGRAMS = Object((), {"work": Code(bytes(8), (), ())})
MODULE = "veth 45056 0 - Live 0xffffffffc0a00000\n"


@pytest.fixture
def booted(recorded: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that says when it was booted, and everybody is root and has BCC."""
    monkeypatch.setattr(modes, "require_tracing", lambda _: None)
    monkeypatch.setattr(modes, "require_drops", lambda _: None)
    monkeypatch.setattr(compiler, "identity", lambda: b"this BCC")
    root = tmp_path / "kernel"
    shutil.copytree(recorded("6.12"), root)
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("one\n")
    (root / "proc/modules").write_text(MODULE)
    return root


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path / "cache")


def start(starts: Starts, root: Path, *arguments: str) -> Start:
    """What a start finds out that is asked for so, and keeps."""
    asked, kernel = options.parse(arguments), Kernel(root)
    setup = modes.choose(asked, *starts.meanings(), kernel, options.packet_filter(asked, None))
    found = Start.of(setup, PROGRAMS, kernel)
    starts.store(asked, kernel, found)
    return found


def known(starts: Starts, root: Path, *arguments: str) -> Start | None:
    return starts.load(options.parse(arguments), Kernel(root))


ASKED = ("-p", "icmp", "--addr", "10.0.42.2")


MODES = pytest.mark.parametrize(
    "arguments",
    [ASKED, ("--drop",), ("--rtt", "--rtt-by-peer"), ("--latency-summary", "-p", "tcp"), ("--paths", "-p", "tcp"),
     ("--diag", "-p", "tcp"), ("--sock", "-p", "tcp"), ("--monitor", "--metrics", "9100"),
     ("-p", "tcp", "--backend", "kprobe", "--snaplen", "200", "-w", "x"), ("--monitor", "--backend", "kprobe")],
)  # fmt: skip


@MODES
def test_what_was_found_out_is_what_is_known_later(starts: Starts, booted: Path, arguments: tuple[str, ...]) -> None:
    assert known(starts, booted, *arguments) is None
    found = start(starts, booted, *arguments)
    again = known(starts, booted, *arguments)
    assert again is not None
    assert (again.programs, again.traces_at, again.returns) == (found.programs, found.traces_at, found.returns)
    assert (again.setup.what, again.setup.settings) == (found.setup.what, found.setup.settings)
    assert (again.setup.table is None) == (found.setup.table is None)


@MODES
def test_another_boot_needs_no_other_compilation(starts: Starts, booted: Path, arguments: tuple[str, ...]) -> None:
    asked = options.parse(arguments)
    packet_filter = options.packet_filter(asked, None)

    def compiled() -> tuple[str, dict[str, int]]:
        kernel = Kernel(booted)
        setup = modes.choose(asked, *starts.meanings(), kernel, packet_filter)
        text = source.render(setup.what, kernel, setup.settings, packet_filter, files.BPF).compiled
        return text, source.addresses_of(kernel, setup.settings)

    text, addresses = compiled()
    # The kernel lies elsewhere each time.
    symbols = booted / "proc/kallsyms"
    lines = symbols.read_text().splitlines()
    symbols.write_text("".join(f"{int(line[:16], 16) + 0x1E00000:016x}{line[16:]}\n" for line in lines))
    again, others = compiled()
    assert again == text
    assert others == {name: address + 0x1E00000 for name, address in addresses.items()} and others


def test_a_start_knows_its_functions(starts: Starts, booted: Path) -> None:
    found, kernel = start(starts, booted, *ASKED), Kernel(booted)
    address = kernel.symbols.address("ip_rcv_core")
    assert address is not None and found.traces_at[address] == "ip_rcv_core"
    assert found.returns["ip_rcv_core"] == "struct sk_buff *"


@pytest.mark.parametrize(
    ("arguments", "alike"),
    [
        (("-p", "tcp", "--addr", "10.0.42.3", "-v", "--date"), True),
        (("-s", "10.0.0.0/8", "--netns-current", "--pkt-len", "20-1500", "--iface", "eth0"), True),
        (("--force",), False),
        ((*ASKED, "--rate-limit", "1"), False),
        ((*ASKED, "--detail"), False),
        ((*ASKED, "-t", "ip-in"), False),
        ((*ASKED, "-c", "1"), False),  # -c lets a run begin that names no packets
        (("--drop", *ASKED), False),
    ],
)
def test_other_numbers_are_asked_for_alike(
    starts: Starts, booted: Path, arguments: tuple[str, ...], alike: bool
) -> None:
    start(starts, booted, *ASKED)
    assert (known(starts, booted, *arguments) is not None) == alike


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("proc/sys/kernel/random/boot_id", "another\n"),
        ("proc/modules", MODULE + "nf_tables 372736 0 - Live 0xffffffffc0b00000\n"),
        ("proc/modules", MODULE.replace("c0a0", "c0b0")),  # it was loaded again
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n"),
    ],
)
def test_what_holds_no_more_is_forgotten(starts: Starts, booted: Path, file: str, text: str) -> None:
    start(starts, booted, *ASKED)
    assert known(starts, booted, *ASKED) is not None
    path = booted / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert known(starts, booted, *ASKED) is None


def test_another_use_of_a_module_changes_nothing(starts: Starts, booted: Path) -> None:
    start(starts, booted, *ASKED)
    (booted / "proc/modules").write_text(MODULE.replace(" 0 - ", " 2 bridge, "))
    assert known(starts, booted, *ASKED) is not None


def test_another_compiler_is_another_start(starts: Starts, booted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(starts, booted, *ASKED)
    monkeypatch.setattr(compiler, "identity", lambda: b"another BCC")
    assert known(starts, booted, *ASKED) is None


def test_nothing_is_kept_where_no_boot_is_known(starts: Starts, booted: Path) -> None:
    (booted / "proc/sys/kernel/random/boot_id").unlink()
    start(starts, booted, *ASKED)
    assert known(starts, booted, *ASKED) is None


def test_a_folder_beside_the_files_changes_nothing(
    starts: Starts, booted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files.RULES, tmp_path / "rules")
    monkeypatch.setattr(files, "RULES", tmp_path / "rules")
    start(starts, booted, *ASKED)
    (tmp_path / "rules" / "__pycache__").mkdir()
    assert known(starts, booted, *ASKED) is not None
    (tmp_path / "rules" / "more.yaml").write_text("")
    assert known(starts, booted, *ASKED) is None


def test_the_tree_is_read_anew_when_it_changes(
    starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: Tree, shipped: Rules
) -> None:
    assert starts.meanings() == (leaves, shipped)
    monkeypatch.setattr("nettrace.tree.load", lambda _: pytest.fail("it is known"))
    assert starts.meanings() == (leaves, shipped)
    monkeypatch.undo()
    changed = tmp_path / "tracer.yaml"
    text = (Path(modes.__file__).parents[1] / "tracer.yaml").read_text()
    changed.write_text(text.replace("desc: ", "desc: really, ", 1))
    monkeypatch.setattr("nettrace.files.TREE", changed)
    assert starts.meanings()[0] != leaves
    os.utime(changed, ns=(0, 0))
    assert starts.meanings()[0] != leaves
