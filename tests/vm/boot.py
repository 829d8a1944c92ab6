"""Boots an image under QEMU, runs one job in it and brings back its output and exit status."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from .image import Image, cache_dir, ensure, key
from .kernels import Kernel

CHECKOUT = Path(__file__).resolve().parents[2]

MEMORY_MIB = 3072
CPUS = 2

# The kernel's console goes to the first serial port, the job's output to the second.
CONSOLE_TAIL_LINES = 40

# Exit statuses of a guest that gave none.
TIMED_OUT = 124
STOPPED_BY_ITSELF = 125

INIT = """#!/bin/sh
# Process 1 of the guest, from the job folder.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM={term} PYTHONPYCACHEPREFIX=/tmp/pycache
{exports}
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm /run/netns /run/lock
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
hostname nettrace-{version}
ip link set lo up
mkdir -p /src
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose src /src
mkdir -p /var/cache/nettrace
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 programs /var/cache/nettrace
tar xf /var/cache/nettrace/pycache.tar -C /tmp 2> /dev/null
touch /run/booted
cd /src
{run}
echo $? > /mnt/status
if [ -n "$(find /tmp/pycache -newer /run/booted -name '*.pyc' -print -quit)" ]; then
    tar cf /var/cache/nettrace/pycache.new -C /tmp pycache
    mv /var/cache/nettrace/pycache.new /var/cache/nettrace/pycache.tar
fi
sync
busybox poweroff -f
"""

RUN_COMMAND = """stty -F /dev/ttyS1 raw -echo
setsid /bin/bash /mnt/job.sh < /dev/null > /dev/ttyS1 2>&1"""

RUN_SHELL = """stty -F /dev/ttyS1 sane rows {rows} cols {columns}
setsid -c /bin/bash -i < /dev/ttyS1 > /dev/ttyS1 2>&1"""


def run(
    kernel: Kernel,
    command: Optional[str],
    *,
    timeout_s: float,
    stdout: Optional[int] = None,
    keep_in: Optional[Path] = None,
) -> int:
    """Runs a bash command in a guest (an interactive shell when None) with the checkout at /src.

    The command finds a writable folder at /mnt/out; what it leaves there is copied to
    keep_in. Returns its exit status, or 124 when the time-out struck and 125 when the
    guest ended without one; the console's last lines are then shown on stderr.
    """
    image = ensure(kernel)
    with TemporaryDirectory(prefix=f"nettrace-vm-{kernel.version}-") as scratch:
        job = Path(scratch)
        (job / "out").mkdir()
        # What BCC and Python have compiled is there in the next guest, too: in emulation that takes 20 s a program,
        # and as long for all modules together.
        programs = cache_dir() / "programs" / key(kernel)
        programs.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = shutil.get_terminal_size()
        (job / "init").write_text(
            INIT.format(
                version=kernel.version,
                term=os.environ.get("TERM", "dumb") if command is None else "dumb",
                exports="export NETTRACE_TEST_KERNEL=1",
                run=RUN_SHELL.format(rows=size.lines, columns=size.columns) if command is None else RUN_COMMAND,
            )
        )
        (job / "job.sh").write_text((command or "") + "\n")
        console = job / "console.log"
        try:
            with _raw_terminal(command is None):
                subprocess.run(
                    _qemu(image, job, programs, console, _accelerator()),
                    stdin=None if command is None else subprocess.DEVNULL,
                    stdout=stdout,
                    timeout=timeout_s,
                    check=False,
                )
            status = int((job / "status").read_text()) if (job / "status").exists() else STOPPED_BY_ITSELF
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        if keep_in is not None:
            keep_in.mkdir(parents=True, exist_ok=True)
            shutil.copytree(job / "out", keep_in, dirs_exist_ok=True)
            shutil.copy(console, keep_in / "console.log")
        if status in (TIMED_OUT, STOPPED_BY_ITSELF):
            why = f"no end within {timeout_s:.0f} s" if status == TIMED_OUT else "the guest stopped by itself"
            tail = console.read_text(errors="replace").splitlines()[-CONSOLE_TAIL_LINES:] if console.exists() else []
            print(f"vm {kernel.version}: {why}; its console ends:", *tail, sep="\n", file=sys.stderr, flush=True)
        return status


def _qemu(image: Image, job: Path, programs: Path, console: Path, accelerator: str) -> list[str]:
    # no_timer_check: on a busy host the emulated timer is late, and the kernel would take it for broken.
    cmdline = (
        "console=ttyS0 quiet panic=-1 root=/dev/vda rw init=/sbin/vminit mitigations=off rcupdate.rcu_expedited=1 "
        "no_timer_check"
    )
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max",
        "-m", str(MEMORY_MIB), "-smp", str(CPUS),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", cmdline,
        "-drive", f"file={image.disk},if=virtio,format=raw,snapshot=on",
        "-virtfs", f"local,path={job},mount_tag=job,security_model=none",
        "-virtfs", f"local,path={programs},mount_tag=programs,security_model=none",
        "-virtfs", f"local,path={CHECKOUT},mount_tag=src,security_model=none,readonly=on",
        "-serial", f"file:{console}", "-chardev", "stdio,id=job,signal=off", "-serial", "chardev:job",
    ]  # fmt: skip


@functools.cache
def _accelerator() -> str:
    """Software emulation, or KVM where it was asked for and a trial boot proves that it works."""
    emulation = "tcg,thread=multi"
    if os.environ.get("NETTRACE_VM_ACCEL") != "kvm":
        return emulation
    from .kernels import KERNELS

    image = ensure(KERNELS[-1])
    with TemporaryDirectory(prefix="nettrace-vm-trial-") as scratch:
        job = Path(scratch)
        (job / "init").write_text("#!/bin/sh\necho 0 > /mnt/status\nbusybox poweroff -f\n")
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                _qemu(image, job, job, job / "console.log", "kvm"),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=15, check=False,
            )  # fmt: skip
        if (job / "status").exists():
            return "kvm"
    print("vm: the trial boot under KVM failed, using software emulation", file=sys.stderr, flush=True)
    return emulation


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """Hands every key to the guest's shell for as long as it runs."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
