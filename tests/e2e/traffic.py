"""Traffic between hosts, each piece with what the hosts themselves say of it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .net import Host

_SCRIPT = Path(__file__).with_name("peer.py")


@dataclass(frozen=True)
class Connection:
    """A TCP connection that was made, used and closed."""

    client_port: int
    server_port: int
    received: int  # bytes by the server


class Peer:
    """A small server in a host: see peer.py."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", host.name, sys.executable, str(_SCRIPT), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def result(self) -> dict[str, int]:
        """Waits for its end and returns what it printed."""
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(out)  # type: ignore[no-any-return]


def run_peer(host: Host, *arguments: str) -> dict[str, int]:
    """Runs one side of an exchange to its end."""
    return json.loads(host.sh(f"{sys.executable} {_SCRIPT} {' '.join(arguments)}"))  # type: ignore[no-any-return]


def tcp(client: Host, server: Host, address: str, port: int, size: int) -> Connection:
    """Connects, sends so many bytes, closes."""
    listener = Peer(server, "tcp-serve", address, str(port))
    sent = run_peer(client, "tcp-send", address, str(port), str(size))
    return Connection(sent["port"], port, listener.result()["bytes"])


def tcp_refused(client: Host, address: str, port: int) -> None:
    """Tries to connect where nobody listens."""
    assert run_peer(client, "tcp-refused", address, str(port)) == {"refused": 1}


class UdpServer:
    """Receives so many datagrams."""

    def __init__(self, host: Host, address: str, port: int, count: int = 1) -> None:
        self._peer = Peer(host, "udp-serve", address, str(port), str(count))

    def datagrams(self) -> int:
        """Waits for them all and returns their number."""
        return self._peer.result()["datagrams"]


def send_udp(client: Host, address: str, port: int, count: int = 1, source_port: int = 0) -> None:
    """Sends datagrams."""
    run_peer(client, "udp-send", address, str(port), str(count), str(source_port))


def udp(client: Host, server: Host, address: str, port: int, count: int = 1, source_port: int = 0) -> int:
    """Sends datagrams and returns how many the server's program got."""
    receiver = UdpServer(server, address, port, count)
    send_udp(client, address, port, count, source_port)
    return receiver.datagrams()
