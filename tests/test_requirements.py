"""What a run and --check say of hosts that lack something, on the recorded kernels and with things taken away."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from nettrace import checkup, compiler, netlink, syscalls
from nettrace.checkup import MISSING, NOTE, OK, Row
from nettrace.errors import KernelError
from nettrace.kernel import Kernel
from nettrace.requirements import require_drops, require_measuring, require_tracing
from nettrace.tree import Tree
from tests.record_kernel import VERSIONS

# Bits of capabilities in /proc/PID/status, by linux/capability.h.
DAC_READ_SEARCH, NET_ADMIN, SYS_ADMIN, SYS_RESOURCE, SYSLOG, PERFMON, BPF = 2, 12, 21, 24, 34, 38, 39


def _capabilities(*bits: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "proc/self/status").write_text(f"CapEff:\t{sum(1 << bit for bit in bits):016x}\n")

    return change


def _other_user_namespace(root: Path) -> None:
    (root / "proc/self/ns").mkdir()
    (root / "proc/self/ns/user").symlink_to("user:[4026532100]")


def _write(path: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return change


def _lock_down(mode: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "sys/kernel/security").mkdir(parents=True)
        (root / "sys/kernel/security/lockdown").write_text(
            "none integrity confidentiality\n".replace(mode, f"[{mode}]")
        )

    return change


def _remove(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        target = root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return change


def _hide_addresses(root: Path) -> None:
    """As kernel.kptr_restrict=2 does."""
    file = root / "proc/kallsyms"
    file.write_bytes(b"\n".join(b"0" * 16 + line[16:] for line in file.read_bytes().split(b"\n") if line) + b"\n")


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch, leaves: Tree) -> None:
    """The tree is not read again for each test."""
    monkeypatch.setattr(checkup.tree, "load", lambda _: leaves)


@pytest.fixture
def changed(recorded: Callable[[str], Path], tmp_path: Path) -> Callable[..., Kernel]:
    """A recorded kernel with changes."""

    def make(version: str, *changes: Callable[[Path], None]) -> Kernel:
        shutil.copytree(recorded(version), tmp_path, dirs_exist_ok=True)
        for change in changes:
            change(tmp_path)
        return Kernel(tmp_path)

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_our_kernels_have_all_that_is_needed(kernels: dict[str, Kernel], version: str) -> None:
    require_tracing(kernels[version])
    require_drops(kernels[version])


GAPS = [
    (_lock_down("confidentiality"), "locked down (confidentiality mode)", "boot without lockdown=confidentiality"),
    (_remove("sys/kernel/tracing"), "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"),
    (_remove("sys/bus/event_source/devices/kprobe"), "no kprobes", "CONFIG_KPROBES"),
    (_remove("sys/kernel/btf"), "no BTF", "CONFIG_DEBUG_INFO_BTF"),
    (_hide_addresses, "hides its addresses from root too", "sysctl kernel.kptr_restrict=1"),
    (_write("proc/sys/kernel/ftrace_enabled", "0\n"), "switched off", "sysctl kernel.ftrace_enabled=1"),
    (_write("sys/kernel/debug/kprobes/enabled", "0\n"), "switched off", "/sys/kernel/debug/kprobes/enabled"),
    (_capabilities(), "lacks CAP_BPF and CAP_PERFMON", "sudo"),
    (_capabilities(BPF, NET_ADMIN), "lacks CAP_PERFMON", "sudo"),
    (_other_user_namespace, "lacks CAP_BPF and CAP_PERFMON", "outside of user namespaces"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what", "remedy"), GAPS)
def test_a_gap_is_refused_in_one_sentence_and_the_check_tells_the_same(
    changed: Callable[..., Kernel], change: Callable[[Path], None], what: str, remedy: str
) -> None:
    kernel = changed("6.12", change)
    with pytest.raises(KernelError) as refusal:
        require_tracing(kernel)
    text = str(refusal.value)
    assert what in text and remedy in text
    assert "\n" not in text and ". " not in text
    found = checkup.of(kernel)
    assert not found.tracing
    (row,) = [row for row in found.rows if row.state == MISSING and row.part == "what tracing needs"]
    assert f"{row.found}: {row.remedy}" == text
    assert "does not work here" in checkup.text(found) or "only --drop" in checkup.text(found)


def test_the_least_capabilities(changed: Callable[..., Kernel]) -> None:
    require_tracing(changed("6.12", _capabilities(BPF, PERFMON)))
    require_tracing(changed("6.12", _capabilities(SYS_ADMIN)))


def test_a_tracing_file_system_for_others_only(changed: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = changed("6.12", _remove("sys/kernel/tracing"), _write("sys/kernel/tracing/README", ""))
    scandir = os.scandir

    def closed(path: Path) -> Iterator[os.DirEntry[str]]:
        if path.name == "tracing":
            raise PermissionError
        return scandir(path)

    with pytest.raises(KernelError, match="not mounted"):
        require_tracing(kernel)
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(KernelError, match="give nettrace CAP_DAC_READ_SEARCH too"):
        require_tracing(kernel)
    require_drops(kernel)


def test_addresses_that_only_others_see_are_had_by_a_capability(changed: Callable[..., Kernel]) -> None:
    with pytest.raises(KernelError, match="CAP_SYSLOG too"):
        require_tracing(changed("6.12", _hide_addresses, _capabilities(BPF, PERFMON)))
    # Of drops the addresses are not needed.
    require_drops(changed("6.12"))


@pytest.mark.parametrize("version", VERSIONS)
def test_performance_events(changed: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(syscalls, "can_open_events", lambda: False)
    require_tracing(changed(version, _capabilities(SYS_ADMIN)))
    kernel = changed(version, _capabilities(BPF, PERFMON))
    if version in ("5.10", "6.1"):  # single kprobes are such events
        with pytest.raises(KernelError, match="perf_event_paranoid=2"):
            require_tracing(kernel)
    else:
        require_tracing(kernel)


@pytest.mark.parametrize("charged", [True, False])
def test_memory_of_maps(changed: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch, charged: bool) -> None:
    def charge(root: Path) -> None:
        file = root / "proc/kallsyms"
        file.write_bytes(b"ffffffff81000f00 T bpf_map_charge_init\n" + file.read_bytes())

    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    few = _capabilities(BPF, PERFMON)
    kernel = changed("5.10", *([charge, few] if charged else [few]))
    if charged:
        with pytest.raises(KernelError, match="CAP_SYS_RESOURCE"):
            require_drops(kernel)
        require_drops(changed("5.10", _capabilities(BPF, PERFMON, SYS_RESOURCE)))
    else:
        require_drops(kernel)


def test_types_of_another_kernel_are_refused(recorded: Callable[[str], Path], changed: Callable[..., Kernel]) -> None:
    sizes = {version: Kernel(recorded(version)).btf.struct_size("sk_buff") for version in ("5.10", "6.12")}
    root = changed("6.12", _write("sys/kernel/slab/skbuff_head_cache/object_size", f"{sizes['6.12']}\n"))._root
    require_tracing(Kernel(root, btf=recorded("6.12") / "sys/kernel/btf/vmlinux"))
    other = recorded("5.10") / "sys/kernel/btf/vmlinux"
    with pytest.raises(
        KernelError, match=f"of another kernel .*has {sizes['5.10']} bytes there, and {sizes['6.12']} here"
    ):
        require_tracing(Kernel(root, btf=other))
    # Where the kernel does not say how large they are, the user must know.
    require_tracing(Kernel(recorded("6.12"), btf=recorded("6.12") / "sys/kernel/btf/vmlinux"))


def test_measuring_takes_more(changed: Callable[..., Kernel]) -> None:
    require_measuring(changed("6.12"))
    few = _capabilities(BPF, PERFMON, SYSLOG, DAC_READ_SEARCH)
    with pytest.raises(KernelError, match=r"CAP_SYS_ADMIN only: .*bpf_stats_enabled=1"):
        require_measuring(changed("6.12", few))
    require_measuring(changed("6.12", few, _write("proc/sys/kernel/bpf_stats_enabled", "1\n")))


def test_integrity_mode_may_pass(changed: Callable[..., Kernel]) -> None:
    require_tracing(changed("6.12", _lock_down("integrity")))


def test_drops_are_told_under_lockdown(changed: Callable[..., Kernel], installed: None) -> None:
    kernel = changed("6.12", _lock_down("confidentiality"))
    require_drops(kernel)
    found = checkup.of(kernel)
    assert found.drops and not found.tracing
    assert checkup.text(found).endswith("only --drop works here: see what is marked - above\n")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if BCC and pyroute2 were installed."""
    monkeypatch.setattr(compiler, "package", lambda: tmp_path)
    monkeypatch.setattr(netlink, "prepare", lambda: None)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_of_our_kernels(kernels: dict[str, Kernel], installed: None, version: str) -> None:
    found = checkup.of(kernels[version])
    assert found.tracing and found.drops
    states = {row.name: row.state for row in found.rows}
    assert MISSING not in states.values()
    # As Debian builds them: FPROBE since 6.12 only, types of modules and drop reasons not before 6.1.
    assert (states["kprobe-multi"] == OK) == (version in ("6.12", "7.2"))
    assert (states["types of modules"] == OK) == (states["drop reasons"] == OK) == (version != "5.10")
    assert states["ring buffer"] == states["fentry and fexit"] == states["coverage"] == OK
    text = checkup.text(found)
    assert text.startswith(f"Linux {kernels[version].release}\n") and text.endswith("\nnettrace works here\n")
    # Every gap comes with a remedy, and each row is there once.
    assert all(row.remedy for row in found.rows if row.state != OK)
    assert len(states) == len(found.rows)


def test_without_a_package_nothing_works(
    kernels: dict[str, Kernel], installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise KernelError("BCC's Python module is missing", "install it")

    monkeypatch.setattr(compiler, "package", missing)
    found = checkup.of(kernels["6.12"])
    assert not found.tracing and not found.drops
    assert Row("packages", "BCC", MISSING, "BCC's Python module is missing", "install it") in found.rows


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        (_write("proc/sys/net/core/bpf_jit_enable", "0\n"), "net.core.bpf_jit_enable", "bpf_jit_enable=1"),
        (_write("proc/sys/kernel/bpf_stats_enabled", "1\n"), "kernel.bpf_stats_enabled", "bpf_stats_enabled=0"),
        (_remove("sys/kernel/debug/kprobes/blacklist"), "debugfs", "mount -t debugfs"),
        (_write("sys/kernel/realtime", "1\n"), "PREEMPT_RT", "narrow filter"),
        (_write("sys/fs/selinux/class/lockdown/index", "82\n"), "SELinux", "update the kernel"),
        (_capabilities(BPF, PERFMON, SYSLOG, DAC_READ_SEARCH), "CAP_NET_ADMIN", "capability"),
    ],
)
def test_what_costs_something_is_noted_with_what_to_do(
    changed: Callable[..., Kernel], installed: None, change: Callable[[Path], None], name: str, remedy: str
) -> None:
    assert name not in [row.name for row in checkup.of(changed("5.10")).rows if row.state == NOTE]
    found = checkup.of(changed("5.10", change))
    assert found.tracing
    (row,) = [row for row in found.rows if row.name == name]
    assert row.state == NOTE and remedy in row.remedy


def test_selinux_is_no_trouble_on_later_kernels(changed: Callable[..., Kernel], installed: None) -> None:
    kernel = changed("6.1", _write("sys/fs/selinux/class/lockdown/index", "82\n"))
    assert "SELinux" not in [row.name for row in checkup.of(kernel).rows]
