"""The kernels nettrace is tested on: the one list that images, tests, CI and README go by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """A Debian release whose stock kernel, python3 and bcc are tested together."""

    version: str
    suite: str
    packages: tuple[str, ...] = ()
    apt_options: tuple[str, ...] = ()


KERNELS = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    Kernel("6.12", "trixie", packages=("pwru",)),
    Kernel(
        "7.2",
        "forky",
        packages=("pwru",),
        # The testing suite's Release file may be past its date on a mirror.
        apt_options=('Acquire::Check-Valid-Until "false"',),
    ),
)

# What an image holds beside the base system. No linux-headers: nettrace must not need them.
PACKAGES = (
    "linux-image-amd64",
    "initramfs-tools",
    "bpftool",
    "busybox-static",
    "conntrack",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "nftables",
    "procps",
    "python3-bpfcc",
    "python3-prometheus-client",
    "python3-pyroute2",
    "python3-pytest",
    "python3-tabulate",
    "python3-yaml",
    "tcpdump",
    "tmux",
)


def find(version: str) -> Kernel:
    """The kernel of that version; raises SystemExit with the known ones otherwise."""
    for kernel in KERNELS:
        if kernel.version == version:
            return kernel
    known = ", ".join(kernel.version for kernel in KERNELS)
    raise SystemExit(f"no kernel {version!r} in tests/vm/kernels.py; known: {known}")
