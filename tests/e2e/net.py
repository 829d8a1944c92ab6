"""Hosts of our own: network namespaces, joined by veth, and the traffic between them."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


def sh(command: str, check: bool = True) -> str:
    """Runs a shell command and returns what it printed."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert not check or done.returncode == 0, f"{command!r} failed with {done.returncode}: {done.stdout}"
    return done.stdout


@dataclass(frozen=True)
class Host:
    """A namespace and its addresses."""

    name: str
    ip: str = ""
    ip6: str = ""

    def sh(self, command: str, check: bool = True) -> str:
        return sh(f"ip netns exec {self.name} {command}", check)

    def popen(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def netns_inode(self) -> int:
        return int(self.sh("readlink /proc/self/ns/net").strip()[len("net:[") : -1])

    def snmp(self, protocol: str, counter: str) -> int:
        """A counter of /proc/net/snmp of this host."""
        rows = [line.split() for line in self.sh("cat /proc/net/snmp").splitlines() if line.startswith(f"{protocol}:")]
        return int(dict(zip(rows[0], rows[1]))[counter])

    def snmp6(self, counter: str) -> int:
        """A counter of /proc/net/snmp6 of this host."""
        return int(dict(line.split() for line in self.sh("cat /proc/net/snmp6").splitlines())[counter])


@contextmanager
def hosts(*names: str) -> Iterator[tuple[Host, ...]]:
    """Namespaces with loopback up, gone afterwards."""
    try:
        for name in names:
            sh(f"ip netns add {name}")
            sh(f"ip netns exec {name} ip link set lo up")
            # The neighbour discovery of fresh addresses would be traffic that no test asked for.
            sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        yield tuple(Host(name) for name in names)
    finally:
        for name in names:
            sh(f"ip netns pids {name} | xargs -r kill -9; ip netns del {name}", check=False)


def join(left: str, left_device: str, left_ips: list[str], right: str, right_device: str, right_ips: list[str]) -> None:
    """A veth pair between two namespaces, with addresses, up."""
    sh(f"ip link add {left_device} netns {left} type veth peer name {right_device} netns {right}")
    for name, device, ips in ((left, left_device, left_ips), (right, right_device, right_ips)):
        for ip in ips:
            sh(f"ip -n {name} addr add {ip} dev {device}{' nodad' if ':' in ip else ''}")
        sh(f"ip -n {name} link set {device} up")


def ping(source: Host, target: str, count: int = 1, options: str = "") -> dict[str, int]:
    """Pings and returns ping's own statistics."""
    text = source.sh(f"ping -n -c {count} -i 0.2 -W 5 {options} {target}", check=False)
    match = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    assert match, text
    return {"transmitted": int(match[1]), "received": int(match[2])}
