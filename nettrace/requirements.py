"""What tracing needs of a host, each thing asked in one place: for a run, and for --check."""

import resource
from collections.abc import Callable
from typing import NamedTuple

from . import syscalls
from .errors import KernelError
from .kernel import Kernel

# Since Linux 5.8 (commits a17b53c4a4b5, 980737282232) these do where CAP_SYS_ADMIN had to; it still does.
_TO_TRACE = ("CAP_BPF", "CAP_PERFMON")

# Caches of the kernel that hold one kind of struct, and are never merged with others.
_CACHES = {"skbuff_head_cache": "sk_buff", "TCP": "tcp_sock"}


class Requirement(NamedTuple):
    """Something that a host must have."""

    name: str
    met: Callable[[Kernel], str]  # what there is, in a few words; raises KernelError where it does not do


def _privileges(kernel: Kernel) -> str:
    if "CAP_SYS_ADMIN" in kernel.capabilities:
        return "CAP_SYS_ADMIN"
    lacking = [name for name in _TO_TRACE if name not in kernel.capabilities]
    if lacking:
        raise KernelError(
            f"tracing the kernel takes {' and '.join(_TO_TRACE)}, and this process lacks {' and '.join(lacking)}",
            "run nettrace with sudo, outside of user namespaces (before Linux 5.8 it takes CAP_SYS_ADMIN)",
        )
    return ", ".join(_TO_TRACE)


def _lockdown(kernel: Kernel) -> str:
    if kernel.lockdown == "confidentiality":
        raise KernelError(
            "the kernel is locked down (confidentiality mode)",
            "it refuses kprobes and the reading of its memory, "
            "and of nettrace only --drop works without them; boot without lockdown=confidentiality on the kernel's "
            "command line, or with Secure Boot off where that is what locks it down",
        )
    return kernel.lockdown or "not told: there is none, or securityfs is not mounted"


def _memory(kernel: Kernel) -> str:
    # Linux commit 97306be45fbe (5.11) and those before it removed the limit, and the function that charged against it.
    limited = kernel.symbols.resolve("bpf_map_charge_init") is not None
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if limited and most != resource.RLIM_INFINITY and "CAP_SYS_RESOURCE" not in kernel.capabilities:
        raise KernelError(
            "this kernel limits the memory of maps, and this user may not raise the limit",
            "give nettrace CAP_SYS_RESOURCE too, run 'ulimit -l unlimited' as root first, or use sudo",
        )
    return "limited, and the limit can be raised" if limited else "not limited"


def _types(kernel: Kernel) -> str:
    # No file of types says which kernel it is of.
    for cache, struct in _CACHES.items() if kernel.given_btf is not None else ():
        told, true = kernel.btf.struct_size(struct), kernel.object_bytes(cache)
        if true is not None and told != true:
            raise KernelError(
                f"{kernel.given_btf} is of another kernel (struct {struct} has {told} bytes there, and {true} here)",
                "give --btf the types of exactly this release (uname -r)",
            )
    return f"struct sk_buff has {kernel.btf.struct_size('sk_buff')} bytes"


def _kprobes(kernel: Kernel) -> str:
    if not kernel.has_kprobes:
        raise KernelError("this kernel has no kprobes", "boot one built with CONFIG_KPROBES and CONFIG_KPROBE_EVENTS")
    if kernel.probing_off:
        raise KernelError("the probing of functions is switched off", f"run '{kernel.probing_off[0]}' first")
    return "yes"


def _events(kernel: Kernel) -> str:
    if "CAP_SYS_ADMIN" in kernel.capabilities:
        return "allowed"
    if kernel.features.kprobe_multi and kernel.features.ringbuf:
        return "not needed"
    if not syscalls.can_open_events():
        raise KernelError(
            "this kernel keeps performance events from all but CAP_SYS_ADMIN",
            "run 'sysctl kernel.perf_event_paranoid=2' as root first, or run nettrace with sudo",
        )
    return "allowed"


def _tracefs(kernel: Kernel) -> str:
    if kernel.tracefs_closed:
        raise KernelError(
            "this user may not read the tracing file system",
            "give nettrace CAP_DAC_READ_SEARCH too, or run it with sudo",
        )
    if kernel.tracefs is None:
        raise KernelError("the tracing file system is not mounted", "mount -t tracefs tracefs /sys/kernel/tracing")
    return str(kernel.tracefs)


def _addresses(kernel: Kernel) -> str:
    if kernel.symbols.hidden and "CAP_SYSLOG" not in kernel.capabilities:
        raise KernelError(
            "the kernel hides its addresses from this user", "give nettrace CAP_SYSLOG too, or run it with sudo"
        )
    if kernel.symbols.hidden:
        raise KernelError("the kernel hides its addresses from root too", "run 'sysctl kernel.kptr_restrict=1' first")
    return "shown"


PRIVILEGES = Requirement("privileges", _privileges)
MEMORY = Requirement("memory of maps", _memory)
TYPES = Requirement("types (BTF)", _types)

# Of --drop, and of all else; the first that is not met is told.
OF_DROPS = (PRIVILEGES, MEMORY, TYPES)
OF_TRACING = (
    PRIVILEGES, Requirement("lockdown", _lockdown), MEMORY, TYPES, Requirement("kprobes", _kprobes),
    Requirement("performance events", _events), Requirement("tracing file system", _tracefs),
    Requirement("addresses of functions", _addresses),
)  # fmt: skip


def can_measure(kernel: Kernel) -> bool:
    """Whether the kernel can be asked how long programs run."""
    return "CAP_SYS_ADMIN" in kernel.capabilities or kernel.sysctl("kernel.bpf_stats_enabled") == "1"


def require_measuring(kernel: Kernel) -> None:
    """Raises KernelError if it cannot."""
    if not can_measure(kernel):
        raise KernelError(
            "the kernel measures what BPF programs cost for CAP_SYS_ADMIN only",
            "run nettrace with sudo, or 'sysctl kernel.bpf_stats_enabled=1' as root first",
        )


def require_tracing(kernel: Kernel) -> None:
    """Raises KernelError, with what to do, if functions cannot be traced on this kernel or by this user."""
    for requirement in OF_TRACING:
        requirement.met(kernel)


def require_drops(kernel: Kernel) -> None:
    """Likewise if drops cannot be told."""
    for requirement in OF_DROPS:
        requirement.met(kernel)
