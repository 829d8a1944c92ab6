"""Builds a bootable disk image of one Debian release, once, into a cache outside the checkout."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .kernels import PACKAGES, Kernel

IMAGE_MIB = 2600

# With few drivers in it the initrd is small and a boot takes seconds less.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")

# Runs in the guest as process 1: everything else comes from the job folder, so that
# a change of it needs no new image.
STAGE1 = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe 9pnet_virtio && modprobe 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 job /mnt
exec /bin/sh /mnt/init
"""


@dataclass(frozen=True)
class Image:
    """The three files that boot one kernel."""

    disk: Path
    kernel: Path
    initrd: Path


def cache_dir() -> Path:
    """Where images live: $NETTRACE_CACHE, else the user's cache folder."""
    base = os.environ.get("NETTRACE_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nettrace"


def mirror() -> str:
    """The address of the Debian mirror that this machine's apt uses."""
    release = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    codename = release.get("VERSION_CODENAME", "")
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    for line in listing.splitlines():
        site, suite, component = line.split()
        if component == "main" and suite in (codename, "stable", "testing", "sid"):
            return site
    raise SystemExit("apt has no Debian mirror configured; VM images are built from it: see /etc/apt/sources.list")


def key(kernel: Kernel) -> str:
    """A name for the image that changes with anything that goes into it."""
    inputs = json.dumps([asdict(kernel), PACKAGES, IMAGE_MIB, INITRD_MODULES, STAGE1, BUILD_STEPS])
    return f"{kernel.version}-{kernel.suite}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def ensure(kernel: Kernel) -> Image:
    """The image of a kernel, built first if the cache has none; safe against two builders."""
    home = cache_dir() / "vm" / key(kernel)
    image = Image(home / "disk.img", home / "vmlinuz", home / "initrd.img")
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{home}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            _build(kernel, home)
    return image


# Shell lines for mmdebstrap: "$1" is the new root. Part of the key.
BUILD_STEPS = {
    "essential": [
        'mkdir -p "$1/etc/initramfs-tools/conf.d"',
        'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/nettrace"',
        f'printf "%s\\n" {" ".join(INITRD_MODULES)} > "$1/etc/initramfs-tools/modules"',
        'mkdir -p "$1/etc/dpkg/dpkg.cfg.d"',
        r'printf "path-exclude=/usr/share/%s/*\n" doc man locale info > "$1/etc/dpkg/dpkg.cfg.d/small"',
    ],
    "customize": [
        'rm -rf "$1/var/lib/apt/lists" "$1/var/cache/apt"',
        # No udev in the guest: the one network interface a test may see is its own.
        'rm -f "$1/etc/resolv.conf"',
    ],
}


def _build(kernel: Kernel, home: Path) -> None:
    if os.geteuid() != 0:
        raise SystemExit("building a VM image needs root (mmdebstrap, device nodes): run this with sudo")
    for tool in ("mmdebstrap", "mke2fs"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed: run 'make setup'")
    started = time.monotonic()
    print(f"vm {kernel.version}: building the image ({kernel.suite})", file=sys.stderr, flush=True)
    with TemporaryDirectory(prefix="build-", dir=home.parent) as scratch:
        root, new = Path(scratch, "root"), Path(scratch, "new")
        new.mkdir()
        log = cache_dir() / "vm" / f"{kernel.version}.build.log"
        command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--dpkgopt=force-confold"]
        command += [f"--aptopt={option}" for option in kernel.apt_options]
        command += [f"--include={','.join(PACKAGES + kernel.packages)}"]
        for stage, lines in BUILD_STEPS.items():
            command += [f"--{stage}-hook={line}" for line in lines]
        command += [kernel.suite, str(root), mirror()]
        with open(log, "w") as out:
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode != 0:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise SystemExit(f"vm {kernel.version}: mmdebstrap failed, its log is {log}; it ends:\n{tail}")
        stage1 = root / "sbin" / "vminit"
        stage1.write_text(STAGE1)
        stage1.chmod(0o755)
        shutil.copy(next(root.glob("boot/vmlinuz-*")), new / "vmlinuz")
        shutil.copy(next(root.glob("boot/initrd.img-*")), new / "initrd.img")
        make = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root)]
        subprocess.run([*make, str(new / "disk.img"), f"{IMAGE_MIB}M"], check=True, stdout=subprocess.DEVNULL)
        new.rename(home)
    print(f"vm {kernel.version}: image built in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
