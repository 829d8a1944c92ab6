"""--check: what this host offers to nettrace, and what to do about each gap."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from . import compiler, coverage, files, netlink, pcap, requirements, tree, yamlfile
from .btf import libbpf
from .errors import KernelError
from .kernel import Kernel
from .requirements import Requirement

# Of a row: as it should be; nettrace does without, but not in all of its modes, or not as well; it does not.
OK, NOTE, MISSING = "ok", "note", "missing"

_MARKS = {OK: "+", NOTE: "!", MISSING: "-"}
_NAME_COLUMN = 24

_PACKAGES = (
    Requirement("PyYAML", lambda _: yamlfile.require()),
    Requirement("BCC", lambda _: str(compiler.package())),
    Requirement("libbpf", lambda _: str(libbpf()._name)),
)

# What is done with capabilities beyond those that are needed.
_CAPABILITIES = {
    "CAP_SYSLOG": "the addresses of functions, without which only --drop works",
    "CAP_DAC_READ_SEARCH": "the tracing file system, without which only --drop works",
    "CAP_SYS_ADMIN": "--stats, --max-cpu, functions of modules with --monitor, evidence from other network namespaces",
    "CAP_NET_ADMIN": "evidence: firewall rules and connection tracking",
    "CAP_SYS_PTRACE": "the names of the processes that hold sockets, and of the namespaces of processes",
}


class Row(NamedTuple):
    """One line of the table."""

    part: str
    name: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Checkup:
    """What a host offers."""

    release: str
    rows: tuple[Row, ...]
    tracing: bool  # the default mode works
    drops: bool  # --drop does


def of(kernel: Kernel) -> Checkup:
    """Looks at this host."""
    needed = [_row("what tracing needs", requirement, kernel) for requirement in requirements.OF_TRACING]
    packages = [_row("packages", requirement, kernel) for requirement in _PACKAGES]
    installed = all(row.state == OK for row in packages)
    met = {row.name for row in needed if row.state == OK}
    rows = (
        *needed,
        *packages,
        *_optional_packages(kernel),
        *_capabilities(kernel),
        *_kernel(kernel),
        *_troubles(kernel),
    )
    return Checkup(
        kernel.release,
        tuple(_in_order(rows)),
        tracing=installed and len(met) == len(needed),
        drops=installed and {requirement.name for requirement in requirements.OF_DROPS} <= met,
    )


def text(found: Checkup) -> str:
    """The table."""
    lines = [f"Linux {found.release}"]
    part = ""
    for row in found.rows:
        if row.part != part:
            part = row.part
            lines += ["", f"{part}:"]
        lines.append(f"  {_MARKS[row.state]} {row.name:<{_NAME_COLUMN}} {row.found}")
        if row.remedy:
            lines.append(f"    {'':<{_NAME_COLUMN}} -> {row.remedy}")
    lines += ["", _verdict(found)]
    return "\n".join(lines) + "\n"


def _verdict(found: Checkup) -> str:
    if found.tracing:
        return "nettrace works here"
    if found.drops:
        return "of nettrace, only --drop works here: see what is marked - above"
    return "nettrace does not work here: see what is marked - above"


def _in_order(rows: tuple[Row, ...]) -> list[Row]:
    """Part by part, each where its first row is."""
    parts = list(dict.fromkeys(row.part for row in rows))
    return sorted(rows, key=lambda row: parts.index(row.part))


def _row(part: str, requirement: Requirement, kernel: Kernel, unmet: str = MISSING) -> Row:
    try:
        return Row(part, requirement.name, OK, requirement.met(kernel))
    except KernelError as error:
        return Row(part, requirement.name, unmet, error.missing, error.remedy)


def _optional_packages(kernel: Kernel) -> Iterator[Row]:
    part = "packages"
    yield _row(part, Requirement("libpcap", lambda _: str(pcap.libpcap()._name)), kernel, NOTE)
    try:
        netlink.prepare()
        yield Row(part, "pyroute2", OK, "reads evidence for --diag")
    except netlink.NotInstalled as error:
        found, _, remedy = str(error).rpartition(": ")
        yield Row(part, "pyroute2", NOTE, f"{found}; --diag has less evidence", remedy)
    for program, package in (("nft", "nftables"), ("iptables-save", "iptables")):
        path = shutil.which(program)
        if path is None:
            remedy = f"'apt install {package}' or 'dnf install {package}'"
            yield Row(part, program, NOTE, "not installed; --diag does not quote the firewall's rules", remedy)
        else:
            yield Row(part, program, OK, path)


def _capabilities(kernel: Kernel) -> Iterator[Row]:
    for name, use in _CAPABILITIES.items():
        has = name in kernel.capabilities
        remedy = "" if has else "run nettrace with sudo, or give it this capability too"
        yield Row(
            "further capabilities", name, OK if has else NOTE, f"{'' if has else 'lacking; it is '}for {use}", remedy
        )


def _kernel(kernel: Kernel) -> Iterator[Row]:
    part = "kernel"
    try:
        features = kernel.features
    except KernelError:  # without BTF there is no telling
        return

    def feature(name: str, has: bool, without: str, remedy: str) -> Row:
        return Row(part, name, OK, "yes") if has else Row(part, name, NOTE, without, remedy)

    yield feature(
        "kprobe-multi", features.kprobe_multi, "no: functions are probed one by one, which takes long to end",
        "a kernel from 5.18 on, with CONFIG_FPROBE",
    )  # fmt: skip
    yield feature(
        "fentry and fexit", features.tracing, "no: --monitor uses kprobes, which cost more",
        "a kernel from 5.5 on, with CONFIG_DEBUG_INFO_BTF",
    )  # fmt: skip
    yield feature("ring buffer", features.ringbuf, "no: perf buffers are used", "a kernel from 5.8 on")
    yield feature("drop reasons", features.drop_reasons, "no: --drop tells only where", "a kernel from 5.17 on")
    yield feature(
        "types of modules", features.module_btf, "no: arguments of functions in modules are not checked",
        "a kernel from 5.11 on, with CONFIG_DEBUG_INFO_BTF_MODULES",
    )  # fmt: skip
    try:
        traces = tree.load(files.TREE)
    except KernelError:  # PyYAML, as the packages tell
        return
    found = coverage.of(traces, kernel, multi=features.kprobe_multi)
    default = traces.default()
    told = f"{found.attached(default)} of {len(default)} traces that are on by default can be attached"
    yield Row(part, "coverage", OK if found.attached(default) else NOTE, told, "nettrace -t '?' tells each of them")


def _troubles(kernel: Kernel) -> Iterator[Row]:
    """Settings and known troubles; what is as it should be is told of settings only."""
    part = "settings and troubles"
    for name, is_good, trouble, remedy in _SETTINGS:
        value = kernel.sysctl(name)
        if value is not None:
            good = is_good(value)
            yield Row(
                part, name, OK if good else NOTE, value if good else f"{value}: {trouble}", "" if good else remedy
            )
    if not kernel.debugfs_readable:
        yield Row(
            part, "debugfs", NOTE, "which functions kprobes refuse cannot be read: some may be tried in vain",
            "mount -t debugfs debugfs /sys/kernel/debug",
        )  # fmt: skip
    if kernel.is_realtime:
        yield Row(
            part, "PREEMPT_RT", NOTE, "a real-time kernel: each hit delays whatever waits for its CPU",
            "trace few functions (-t) with a narrow filter, and look at the latencies that matter",
        )  # fmt: skip
    if kernel.selinux_judges_lockdown and _audits_reads(kernel.release):
        # Linux commits 59438b46471a (5.6) and ff40e51043af (5.13).
        yield Row(
            part, "SELinux", NOTE, "kernels 5.6 to 5.12 may write an audit message for each read of their memory",
            "update the kernel (5.13, 5.12.10 and 5.10.43 are mended), and look into the audit log while tracing",
        )  # fmt: skip


def _audits_reads(release: str) -> bool:
    """Whether SELinux may be asked about each read; the only thing that no file tells."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (5, 6) <= (int(found[1]), int(found[2])) < (5, 13)


_SETTINGS: tuple[tuple[str, Callable[[str], bool], str, str], ...] = (
    (
        "net.core.bpf_jit_enable", lambda value: value != "0", "programs are interpreted, which costs far more",
        "sysctl net.core.bpf_jit_enable=1",
    ),
    (
        "kernel.kptr_restrict", lambda value: value in ("0", "1"), "addresses are hidden from root too",
        "sysctl kernel.kptr_restrict=1",
    ),
    ("kernel.perf_event_paranoid", lambda _: True, "", ""),
    ("kernel.unprivileged_bpf_disabled", lambda _: True, "", ""),
    (
        "kernel.bpf_stats_enabled", lambda value: value == "0", "all BPF programs are measured, at a cost",
        "sysctl kernel.bpf_stats_enabled=0",
    ),
)  # fmt: skip
