"""One side of an exchange, run as a program inside a namespace; prints what it saw as JSON."""

import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

TIMEOUT_S = 30
# Nobody waits longer for a program that waits for a packet that never comes.
LIFE_S = 300
ETHERNET_BYTES = 14
SO_MARK, SO_BINDTODEVICE, CLONE_NEWNET = 36, 25, 0x40000000


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tell(**result: object) -> None:
    print(json.dumps(result), flush=True)


@contextmanager
def accepted(address: str, port: str) -> Iterator[socket.socket]:
    """The first connection to a server, which listens as long."""
    with socket.socket(family(address), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(TIMEOUT_S)
        listener.bind((address, int(port)))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            yield connection


def tcp_serve(address: str, port: str) -> None:
    with accepted(address, port) as connection:
        connection.settimeout(TIMEOUT_S)
        received = 0
        while True:
            data = connection.recv(65536)
            if not data:
                break
            received += len(data)
    tell(bytes=received)


def tcp_full(address: str, port: str) -> None:
    """Listens with a queue for one connection, which is there, and accepts none."""
    with socket.create_server((address, int(port)), backlog=0), socket.create_connection((address, int(port))):
        print("ready", flush=True)
        signal.pause()


def tcp_send(address: str, port: str, size: str, source: str = "") -> None:
    with socket.create_connection((address, int(port)), TIMEOUT_S, (source, 0)) as connection:
        own_port = connection.getsockname()[1]
        connection.sendall(b"x" * int(size))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    tell(port=own_port)


def tcp_slow_serve(address: str, port: str, hold_s: str) -> None:
    """Lets two bytes lie in the receive queue for a while, and tells when they were there and when it read them."""
    with accepted(address, port) as connection:
        assert len(connection.recv(2, socket.MSG_PEEK | socket.MSG_WAITALL)) == 2
        there_ns = time.monotonic_ns()
        time.sleep(float(hold_s))
        read_ns = time.monotonic_ns()
        assert len(connection.recv(2)) == 2
    tell(there_ns=there_ns, read_ns=read_ns)


def tcp_two_writes(address: str, port: str) -> None:
    """Two bytes by two writes: the second one has to wait until the first one was acknowledged (Nagle)."""
    siocoutq = 0x5411
    unacknowledged = ctypes.c_int(1)
    with socket.create_connection((address, int(port)), TIMEOUT_S) as connection:
        written_ns = time.monotonic_ns()
        connection.send(b"1")
        sent_ns = time.monotonic_ns()
        connection.send(b"2")
        while unacknowledged.value:
            fcntl.ioctl(connection, siocoutq, unacknowledged)
        acknowledged_ns = time.monotonic_ns()
        # The server closes first, so that it is this side whose last segment is sent by a socket.
        assert connection.recv(1) == b""
    tell(written_ns=written_ns, sent_ns=sent_ns, acknowledged_ns=acknowledged_ns)


def tcp_refused(address: str, port: str) -> None:
    try:
        socket.create_connection((address, int(port)), TIMEOUT_S)
    except ConnectionRefusedError:
        tell(refused=1)


def tcp_leave(address: str, port: str) -> None:
    """A client that closes and is gone before the server closes too: only its waiting is left to get the last FIN."""
    with socket.socket(family(address), socket.SOCK_STREAM) as listener:
        listener.bind((address, int(port)))
        listener.listen()
        with socket.create_connection((address, int(port)), TIMEOUT_S) as client:
            connection, _ = listener.accept()
            own_port = client.getsockname()[1]
        with connection:
            assert connection.recv(1) == b""
            # As the kernel writes port and state of FIN_WAIT2.
            table = "/proc/net/tcp6" if ":" in address else "/proc/net/tcp"
            waiting = re.compile(rf":{own_port:04X} \S+:{int(port):04X} 05 ")
            while True:
                with open(table) as sockets:
                    if waiting.search(sockets.read()):
                        break
    tell(port=own_port)


def broken_ip(device: str, target: str) -> None:
    """Sends an Ethernet frame with the EtherType of IPv4 and a header of version 9."""
    header = bytes([0x95, 0, 0, 28]) + bytes(4) + bytes([64, 17, 0, 0]) + bytes(8)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        sender.send(bytes.fromhex(target.replace(":", "")) + bytes(6) + b"\x08\0" + header + bytes(40))
    tell(sent=1)


def until_told() -> None:
    """Says that it is so far, and goes on when it gets the signal for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    print("ready", flush=True)
    signal.sigwait([signal.SIGUSR1])


def tcp_answer(address: str, port: str) -> None:
    """Answers each byte of a connection by a byte."""
    with accepted(address, port) as connection:
        connection.settimeout(TIMEOUT_S)
        answered = 0
        while connection.recv(1):
            connection.send(b"x")
            answered += 1
    tell(answered=answered)


def tcp_ask(address: str, port: str, count: str) -> None:
    """Sends a byte and waits for the answer, so many times; tells how long it took in the middle. Closes when told."""
    with socket.create_connection((address, int(port)), TIMEOUT_S) as connection:
        took_us = []
        for _ in range(int(count)):
            before = time.monotonic()
            connection.send(b"x")
            assert connection.recv(1) == b"x"
            took_us.append(round((time.monotonic() - before) * 1_000_000))
        own_port = connection.getsockname()[1]
        until_told()
    tell(port=own_port, median_us=sorted(took_us)[len(took_us) // 2])


def tcp_stall(address: str, port: str, size: str) -> None:
    """Connects, sends so many bytes when told, and then a byte now and then, whether it is acknowledged or not."""
    with socket.create_connection((address, int(port)), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until_told()
        connection.sendall(b"x" * int(size))
        while True:
            time.sleep(0.1)
            connection.send(b"x")


def tcp_crowd(address: str, port: str, count: str) -> None:
    """A program that accepts nothing, and so many that connect to it."""
    with socket.socket(family(address), socket.SOCK_STREAM) as listener, ExitStack() as crowd:
        listener.bind((address, int(port)))
        listener.listen(1)
        for _ in range(int(count)):
            client = crowd.enter_context(socket.socket(family(address), socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex((address, int(port)))
        print("ready", flush=True)
        signal.pause()


def sctp_serve(address: str, port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.settimeout(TIMEOUT_S)
        listener.bind((address, int(port)))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            received = len(connection.recv(65536))
            assert connection.recv(1) == b""
    tell(bytes=received)


def sctp_send(address: str, port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect((address, int(port)))
        own_port = connection.getsockname()[1]
        connection.send(b"message")
    tell(port=own_port)


def udp_refused(address: str, port: str) -> None:
    """Sends where nobody listens, until the answer comes."""
    with socket.socket(family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect((address, int(port)))
        own_port = client.getsockname()[1]
        client.send(b"datagram")
        try:
            client.recv(1)
        except ConnectionRefusedError:
            tell(port=own_port)


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


def udp_send(address: str, port: str, count: str, source_port: str, size: str = "8") -> None:
    with socket.socket(family(address), socket.SOCK_DGRAM) as client:
        client.bind(("", int(source_port)))
        for _ in range(int(count)):
            client.sendto(b"x" * int(size), (address, int(port)))
    tell(sent=int(count))


# From linux/in6.h; Python's socket module names only the newer set of them.
IPV6_HOPOPTS, IPV6_DSTOPTS, IPV6_RECVHOPOPTS, IPV6_RECVDSTOPTS = 54, 59, 53, 58


def set_comm(name: str) -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(name)


def enter_netns(path: str) -> None:
    with open(path) as namespace:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0


def sender() -> None:
    """Sends one packet for each line of its input, which says what is particular about it."""
    for line in sys.stdin:
        what = json.loads(line)
        if "comm" in what:
            set_comm(what["comm"])
        if "netns" in what:
            enter_netns(f"/run/netns/{what['netns']}")
        ends = (what["source"], what["sport"]), (what["target"], what["dport"])
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if what.get("tcp") else socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT_S)
            client.setsockopt(socket.SOL_SOCKET, SO_MARK, what["mark"])
            if "device" in what:
                client.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, what["device"].encode())
            client.bind(ends[0])
            if what.get("tcp"):
                client.connect_ex(ends[1])
            else:
                client.sendto(bytes(what["size"]), ends[1])
        if "netns" in what:
            enter_netns(f"/run/netns/{what['home']}")
        print("sent", flush=True)


def udp_serve_options(address: str, port: str) -> None:
    """Receives a datagram and tells which IPv6 extension headers it came with."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.settimeout(TIMEOUT_S)
        for option in (IPV6_RECVHOPOPTS, IPV6_RECVDSTOPTS):
            server.setsockopt(socket.IPPROTO_IPV6, option, 1)
        server.bind((address, int(port)))
        print("ready", flush=True)
        data, headers, _, _ = server.recvmsg(65536, 1024)
    tell(bytes=len(data), headers=sorted(kind for _, kind, _ in headers))


def udp_send_options(address: str, port: str, size: str, source_port: str) -> None:
    """Sends a datagram behind a hop-by-hop header of 8 and a destination options header of 16 bytes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.bind(("", int(source_port)))
        for option, length in ((IPV6_HOPOPTS, 8), (IPV6_DSTOPTS, 16)):
            # An option for experiments, whose type says that who does not know it skips it.
            header = bytes([0, length // 8 - 1, 0x1E, length - 4]).ljust(length, b"\0")
            client.setsockopt(socket.IPPROTO_IPV6, option, header)
        client.sendto(b"x" * int(size), (address, int(port)))
    tell(sent=1)


def no_tso(device: str) -> None:
    """Switches off that the device cuts TCP data into segments: the kernel has to do it before."""
    siocethtool, ethtool_stso = 0x8946, 0x1F
    value = ctypes.create_string_buffer(struct.pack("II", ethtool_stso, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, siocethtool, struct.pack("16sQ16x", device.encode(), ctypes.addressof(value)))
    tell(off=1)


def tcp_sniff(device: str, port: str) -> None:
    """Tells sequence number and data of every segment to that port that comes in, up to the ACK after the FIN."""
    segments = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as monitor:
        monitor.bind((device, 0))
        monitor.settimeout(TIMEOUT_S)
        print("ready", flush=True)
        fin = done = False
        while not done:
            frame, (_, _, kind, _, _) = monitor.recvfrom(65536)
            tcp = frame[ETHERNET_BYTES + 20 :]
            if kind == socket.PACKET_OUTGOING or frame[ETHERNET_BYTES + 9] != socket.IPPROTO_TCP:
                continue
            _, dport, seq, _, offset, flags = struct.unpack_from(">HHIIBB", tcp)
            if dport == int(port):
                total = struct.unpack_from(">H", frame, ETHERNET_BYTES + 2)[0]
                segments.append((seq, total - 20 - (offset >> 4) * 4))
                done = fin and not flags & 1
                fin = fin or bool(flags & 1)
    tell(segments=segments)


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
    """A packet socket, as a network monitor opens one; ends after so many packets of IPv4."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as monitor:
        monitor.bind((device, 0))
        monitor.settimeout(TIMEOUT_S)
        print("ready", flush=True)
        seen = 0
        while seen < int(count):
            seen += monitor.recv(65536)[12:14] == b"\x08\0"
    tell(packets=seen)


def tun_device(name: str, flags: int) -> int:
    """A tun or tap device of the namespace, as its driver in user space."""
    tunsetiff, no_packet_information = 0x400454CA, 0x1000
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, tunsetiff, struct.pack("16sH22x", name.encode(), flags | no_packet_information))
    return device


def device_up(name: str, *commands: str) -> None:
    lines = (*commands, f"link set {name} up")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


IFF_TUN, IFF_TAP, IFF_NAPI, IFF_NAPI_FRAGS = 0x0001, 0x0002, 0x0010, 0x0020
ICMP_ECHO, ICMP_ECHOREPLY = 8, 0
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3  # from linux/in.h


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_packet(source: str, target: str, kind: int, ident: int, sequence: int, data: bytes) -> bytes:
    """An ICMP echo in IPv4; the data is of even length."""
    icmp = struct.pack(">BBHHH", kind, 0, 0, ident, sequence) + data
    icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
    return ipv4(source, target, socket.IPPROTO_ICMP, icmp)


def ipv4(source: str, target: str, protocol: int, data: bytes) -> bytes:
    """An IPv4 packet."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, 64, protocol, 0) + ends
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + data


def echo_reply(packet: bytes) -> bytes:
    """The answer to an ICMP echo request; nothing to anything else."""
    if packet[0] != 0x45 or packet[9] != socket.IPPROTO_ICMP or packet[20] != ICMP_ECHO:
        return b""
    source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    ident, sequence = struct.unpack(">HH", packet[24:28])
    return echo_packet(target, source, ICMP_ECHOREPLY, ident, sequence, packet[28:])


def tun_answer(name: str, ip: str, count: str) -> None:
    """What is behind a tun device, where packets have no Ethernet header: answers pings."""
    device = tun_device(name, IFF_TUN)
    device_up(name, f"addr add {ip}/24 dev {name}")
    print("ready", flush=True)
    answered = 0
    while answered < int(count):
        answered += bool(os.write(device, reply)) if (reply := echo_reply(os.read(device, 65536))) else 0
    tell(answered=answered)


def tap_answer(name: str, ip: str, peer: str, peer_mac: str, count: str) -> None:
    """What is behind a tap device: answers pings."""
    device = tun_device(name, IFF_TAP)
    device_up(name, f"addr add {ip}/24 dev {name}", f"neigh add {peer} lladdr {peer_mac} dev {name}")
    print("ready", flush=True)
    answered = 0
    while answered < int(count):
        frame = os.read(device, 65536)
        if reply := echo_reply(frame[ETHERNET_BYTES:]):
            os.write(device, frame[6:12] + frame[:6] + frame[12:ETHERNET_BYTES] + reply)
            answered += 1
    tell(answered=answered)


def tap_ask(name: str, ip: str, peer: str, peer_mac: str) -> None:
    """Pings the host from behind a tap device, by skbs with all but the Ethernet header in a page of their own."""
    device = tun_device(name, IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS)
    device_up(name, f"addr add {ip}/24 dev {name}", f"neigh add {peer} lladdr {peer_mac} dev {name}")
    with open(f"/sys/class/net/{name}/address") as file:
        mac = file.read()
    print("ready", flush=True)
    ethernet = bytes.fromhex(mac.replace(":", "") + peer_mac.replace(":", "") + "0800")
    os.writev(device, [ethernet, echo_packet(peer, ip, ICMP_ECHO, 77, 1, bytes(56))])
    while True:
        packet = os.read(device, 65536)[ETHERNET_BYTES:]
        if packet[9] == socket.IPPROTO_ICMP and packet[20] == ICMP_ECHOREPLY:
            break
    tell(answered=1)


def udp_spoof(source: str, target: str, port: str) -> None:
    """Sends a datagram with a source address that is not this host's."""
    data = struct.pack(">HHHH", 7008, int(port), 16, 0) + bytes(8)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as client:
        client.sendto(ipv4(source, target, socket.IPPROTO_UDP, data), (target, 0))
    tell(sent=1)


def udp_send_with(address: str, port: str, size: str, ttl: str, dont_fragment: str) -> None:
    """Sends a datagram with a TTL (0: the usual one), and with DF whatever the path's MTU is known to be."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        if int(ttl):
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
        if int(dont_fragment):
            client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        client.sendto(bytes(int(size)), (address, int(port)))
    tell(sent=1)


def tcp_bad_checksum(source: str, target: str, port: str) -> None:
    """Sends a SYN whose checksum is wrong."""
    segment = struct.pack(">HHIIBBHHH", 7018, int(port), 1, 0, 0x50, 0x02, 1024, 0xDEAD, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as client:
        client.sendto(ipv4(source, target, socket.IPPROTO_TCP, segment), (target, 0))
    tell(sent=1)


def frame(device: str, protocol: str) -> None:
    """Sends a frame of an EtherType to everybody."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x" * 46, (device, int(protocol), 0, 0, b"\xff" * 6))
    tell(sent=1)


if __name__ == "__main__":
    signal.alarm(LIFE_S)
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
