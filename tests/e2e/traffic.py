"""Traffic between hosts, each piece with what the hosts themselves say of it."""

import json
import signal
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
            [*host.within, sys.executable, str(_SCRIPT), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def result(self) -> dict[str, int]:
        """Waits for its end and returns what it printed."""
        assert self.process.stdout is not None
        # communicate() would not see what readline() has already taken from the pipe.
        with self.process.stdout:
            out = self.process.stdout.read()
        assert self.process.wait() == 0
        return json.loads(out)  # type: ignore[no-any-return]

    def go_on(self) -> None:
        """Lets one that waits for it go on; ip has become the program by now."""
        self.process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Ends it."""
        assert self.process.stdout is not None
        with self.process.stdout:
            self.process.kill()
        self.process.wait()


class Sender:
    """A process in a host that sends what it is told to, one packet at a time."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._process = subprocess.Popen(
            [*host.within, sys.executable, str(_SCRIPT), "sender"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    @property
    def pid(self) -> int:
        """That of ip, whose place the program took."""
        return self._process.pid

    def send(self, what: dict[str, object]) -> None:
        """Sends a packet: see sender in peer.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**what, "home": self._host.name}) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "sent\n"


def run_peer(host: Host, *arguments: str) -> dict[str, int]:
    """Runs one side of an exchange to its end."""
    return json.loads(host.sh(f"{sys.executable} {_SCRIPT} {' '.join(arguments)}"))  # type: ignore[no-any-return]


def tcp(client: Host, server: Host, address: str, port: int, size: int, source: str = "") -> Connection:
    """Connects, sends so many bytes, closes."""
    listener = Peer(server, "tcp-serve", address, str(port))
    sent = run_peer(client, "tcp-send", address, str(port), str(size), *([source] if source else []))
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


def send_udp(client: Host, address: str, port: int, count: int = 1, source_port: int = 0, size: int = 8) -> None:
    """Sends datagrams."""
    run_peer(client, "udp-send", address, str(port), str(count), str(source_port), str(size))


def udp(client: Host, server: Host, address: str, port: int, count: int = 1, source_port: int = 0) -> int:
    """Sends datagrams and returns how many the server's program got."""
    receiver = UdpServer(server, address, port, count)
    send_udp(client, address, port, count, source_port)
    return receiver.datagrams()
