"""One side of an exchange, run as a program inside a namespace; prints what it saw as JSON."""

import json
import signal
import socket
import struct
import sys

TIMEOUT_S = 30


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tell(**result: int) -> None:
    print(json.dumps(result), flush=True)


def tcp_serve(address: str, port: str) -> None:
    with socket.socket(family(address), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(TIMEOUT_S)
        listener.bind((address, int(port)))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            received = 0
            while True:
                data = connection.recv(65536)
                if not data:
                    break
                received += len(data)
    tell(bytes=received)


def tcp_send(address: str, port: str, size: str) -> None:
    with socket.create_connection((address, int(port)), TIMEOUT_S) as connection:
        own_port = connection.getsockname()[1]
        connection.sendall(b"x" * int(size))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    tell(port=own_port)


def tcp_refused(address: str, port: str) -> None:
    try:
        socket.create_connection((address, int(port)), TIMEOUT_S)
    except ConnectionRefusedError:
        tell(refused=1)


def udp_serve(address: str, port: str, count: str) -> None:
    with socket.socket(family(address), socket.SOCK_DGRAM) as server:
        server.settimeout(TIMEOUT_S)
        server.bind((address, int(port)))
        print("ready", flush=True)
        for _ in range(int(count)):
            server.recv(65536)
    tell(datagrams=int(count))


def udp_hold(address: str, port: str) -> None:
    """A program that never reads what it gets."""
    with socket.socket(family(address), socket.SOCK_DGRAM) as server:
        server.bind((address, int(port)))
        print("ready", flush=True)
        signal.pause()


def udp_send(address: str, port: str, count: str, source_port: str) -> None:
    with socket.socket(family(address), socket.SOCK_DGRAM) as client:
        client.bind(("", int(source_port)))
        for _ in range(int(count)):
            client.sendto(b"datagram", (address, int(port)))
    tell(sent=int(count))


def udp_flood(address: str, port: str, first: str, count: str) -> None:
    """As fast as it goes, every datagram from a source port of its own, so that each can be told apart."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sender:
        sender.connect((address, 0))
        datagrams = [
            struct.pack(">HHHH", source, int(port), 8, 0) for source in range(int(first), int(first) + int(count))
        ]
        for datagram in datagrams:
            sender.send(datagram)
    tell(sent=len(datagrams))


def sniff(device: str, count: str) -> None:
    """A packet socket, as a network monitor opens one."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as monitor:
        monitor.bind((device, 0))
        monitor.settimeout(TIMEOUT_S)
        print("ready", flush=True)
        for _ in range(int(count)):
            monitor.recv(65536)
    tell(packets=int(count))


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
