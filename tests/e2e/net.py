"""Hosts of our own: network namespaces, joined by veth, and the traffic between them."""

import json
import os
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
    """A namespace and its addresses; without a name, the one that everything starts in."""

    name: str
    ip: str = ""
    ip6: str = ""

    @property
    def within(self) -> list[str]:
        """The words in front of a command that is to run here."""
        return ["ip", "netns", "exec", self.name] if self.name else []

    def sh(self, command: str, check: bool = True) -> str:
        return sh(" ".join([*self.within, command]), check)

    def popen(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.within, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ip_commands(self, *lines: str) -> None:
        """Commands for ip, all by one process: each start costs a tenth of a second in emulation."""
        done = subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"],
            input="".join(f"{line}\n" for line in lines), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{lines} failed: {done.stdout}"

    def netns_inode(self) -> int:
        return os.stat(f"/run/netns/{self.name}").st_ino

    def is_netns(self, text: str) -> bool:
        """Whether nettrace means this host's namespace by that."""
        return text in (self.name, str(self.netns_inode()))

    def device_packets(self) -> dict[str, tuple[int, int]]:
        """How many packets each device has received and sent."""
        return {
            link["ifname"]: (link["stats64"]["rx"]["packets"], link["stats64"]["tx"]["packets"])
            for link in json.loads(sh(f"ip -n {self.name} -s -j link"))
        }

    def snmp(self, protocol: str, counter: str) -> int:
        """A counter of /proc/net/snmp of this host."""
        return self._counter("/proc/net/snmp", protocol, counter)

    def netstat(self, protocol: str, counter: str) -> int:
        """A counter of /proc/net/netstat of this host."""
        return self._counter("/proc/net/netstat", protocol, counter)

    def _counter(self, file: str, protocol: str, counter: str) -> int:
        rows = [line.split() for line in self.sh(f"cat {file}").splitlines() if line.startswith(f"{protocol}:")]
        return int(dict(zip(rows[0], rows[1]))[counter])

    def snmp6(self, counter: str) -> int:
        """A counter of /proc/net/snmp6 of this host."""
        return int(dict(line.split() for line in self.sh("cat /proc/net/snmp6").splitlines())[counter])


@contextmanager
def hosts(*names: str) -> Iterator[tuple[Host, ...]]:
    """Namespaces with loopback up, gone afterwards; none of these names may be taken."""
    # The neighbour discovery of fresh addresses would be traffic that no test asked for.
    settings = "net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 "
    settings += "net.ipv6.conf.default.router_solicitations=0"
    made: list[str] = []
    try:
        for name in names:
            sh(f"ip netns add {name}")
            made.append(name)
            sh(f"ip -n {name} link set lo up && ip netns exec {name} sysctl -qw {settings}")
        yield tuple(Host(name) for name in names)
    finally:
        for name in made:
            sh(f"ip netns pids {name} | xargs -r kill -9; ip netns del {name}", check=False)


def join(left: str, left_device: str, left_ips: list[str], right: str, right_device: str, right_ips: list[str]) -> None:
    """A veth pair between two namespaces, with addresses, up."""
    sh(f"ip link add {left_device} netns {left} type veth peer name {right_device} netns {right}")
    for name, device, ips in ((left, left_device, left_ips), (right, right_device, right_ips)):
        for ip in ips:
            sh(f"ip -n {name} addr add {ip} dev {device}{' nodad' if ':' in ip else ''}")
        sh(f"ip -n {name} link set {device} up")


@dataclass(frozen=True)
class End:
    """One end of a cable between two hosts."""

    host: Host
    device: str
    ip: str
    mac: str


def cable(near: Host, far: Host, number: int) -> tuple[End, End]:
    """A veth pair whose ends know each other, so that nobody has to ask: number 0 is 10.76.0.1 and 10.76.0.2."""
    ends = [
        End(host, f"eth{number}", f"10.76.{number}.{side}", f"02:00:00:76:{number:02x}:0{side}")
        for side, host in enumerate((near, far), 1)
    ]
    sh(
        f"ip link add eth{number} netns {near.name} address {ends[0].mac} type veth "
        f"peer name eth{number} netns {far.name} address {ends[1].mac}"
    )
    for end, other in (ends, reversed(ends)):
        end.host.ip_commands(
            f"addr add {end.ip}/24 dev {end.device}",
            f"link set {end.device} up",
            f"neigh add {other.ip} lladdr {other.mac} dev {end.device}",
        )
    return ends[0], ends[1]


def device(
    host: Host, name: str, kind: str, ip: str, peer: str, *, below: str = "", mac: str = "", peer_mac: str = ""
) -> None:
    """A virtual device of one kind, up, with its address and, if it is like Ethernet, its peer's."""
    host.ip_commands(
        f"link add {f'link {below}' if below else ''} name {name} {f'address {mac}' if mac else ''} type {kind}",
        f"addr add {ip}/64 dev {name} nodad" if ":" in ip else f"addr add {ip}/24 dev {name}",
        f"link set {name} up",
        *([f"neigh add {peer} lladdr {peer_mac} dev {name}"] if peer_mac else []),
    )


def forget(*everybody: Host) -> None:
    """No host knows any neighbour; were it one of them only, the other's next question would tell it."""
    for host in everybody:
        sh(f"ip -n {host.name} neigh flush all")


def ping(source: Host, target: str, count: int = 1, options: str = "") -> dict[str, int]:
    """Pings and returns ping's own statistics."""
    text = source.sh(f"ping -n -c {count} -i 0.2 -W 5 {options} {target}", check=False)
    match = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    assert match, text
    return {"transmitted": int(match[1]), "received": int(match[2])}
