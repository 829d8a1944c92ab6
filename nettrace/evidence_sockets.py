"""Evidence from sockets: who listens, and how full the queues are. Called inside a namespace, see evidence."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, Union

from . import netlink
from .evidence import NAMESPACES, Evidence, counters, from_proc, told_setting
from .inside import elsewhere
from .owners import owners_of

Address = Union[str, object]  # an address as text, or one of ipaddress

_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_STATES = ("", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
           "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")  # fmt: skip
_ANY_STATE = (1 << len(_STATES)) - 2
# A UDP socket that takes packets from anybody is in the state that TCP calls CLOSE.
_LISTENING = {"tcp": _STATES.index("LISTEN"), "udp": _STATES.index("CLOSE")}
_SOURCE = "sock_diag"
# How long it is looked for the process of a socket: on a host with many, the rest of the evidence is worth more.
SEARCH_S = 0.3
_SHOWN = 8


class Socket(NamedTuple):
    """A socket as the kernel describes it."""

    family: int
    state: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    device: int
    v6only: bool
    inode: int
    uid: int
    received: int  # bytes not read yet; of one of TCP that listens, connections not accepted yet
    limit: int  # of one that listens, how many of these there may be
    receive_memory: int
    receive_memory_limit: int
    backlog: int
    drops: int

    def takes(self, address: str) -> bool:
        """Whether it is bound to this address or to all."""
        if self.local == address:
            return True
        if self.local == "0.0.0.0":
            return ":" not in address
        return self.local == "::" and (":" in address or not self.v6only)


def listeners(protocol: str, address: Address, port: int) -> Iterator[Evidence]:
    """Who waits for packets to a port, of all addresses; if nobody does, whether somebody does in other namespaces."""
    found = _listening(protocol, port)
    taking = [one for one in found if one.takes(str(address))]
    name = f"{protocol.upper()} port {port}"
    if found and not taking:
        yield Evidence(_SOURCE, f"nothing here listens on {_end(str(address), port)}, only on other addresses:")
    if found:
        yield from _described(protocol, taking or found)
        return
    yield Evidence(_SOURCE, f"nothing listens on {name} in this namespace")
    others = [place for place, there in elsewhere(lambda: _listening(protocol, port), NAMESPACES) if there]
    if others:
        yield Evidence(_SOURCE, f"{name} has a listener in another namespace: {', '.join(others[:_SHOWN])}")


def accept_queue(address: Address, port: int) -> Iterator[Evidence]:
    """How full the queues are in which connections wait for a program to accept them, and what limits them."""
    for one in _listening("tcp", port):
        if one.takes(str(address)):
            full = ", full" if one.received > one.limit else ""
            text = f"{_end(one.local, port)}: connections that wait to be accepted: {one.received}, limit {one.limit}"
            yield Evidence(_SOURCE, text + full)
    yield from told_setting("net/core/somaxconn", "the most that a program may set as limit of its accept queue")
    yield from told_setting("net/ipv4/tcp_max_syn_backlog", "the most half-open connections of a listener")
    yield from told_setting("net/ipv4/tcp_syncookies", "SYN cookies when there are more (0 never, 1 then, 2 always)")
    tcp = counters("netstat").get("TcpExt", {})
    if "ListenOverflows" in tcp:
        text = f"accept queues found full: {tcp['ListenOverflows']}, SYNs dropped at listeners: {tcp['ListenDrops']}"
        yield from_proc("net/netstat", f"{text}, since the namespace began")


def flow_sockets(
    protocol: str, local: Address, local_port: int, remote: Address, remote_port: int
) -> Iterator[Evidence]:
    """The sockets that a packet from remote to local may be for: state, queues, limits, process."""
    found = [
        one
        for one in _sockets(protocol, local_port, _ANY_STATE)
        if one.takes(str(local)) and one.remote_port in (0, remote_port)
        and (one.remote == str(remote) or one.remote_port == 0)
    ]  # fmt: skip
    # The connection itself, if there is one, is better than who listens.
    connected = [one for one in found if one.remote_port]
    ends = f"{_end(str(local), local_port)} and {_end(str(remote), remote_port)}"
    if not found:
        yield Evidence(_SOURCE, f"there is no {protocol.upper()} socket between {ends}")
    yield from _described(protocol, connected or found, with_memory=True)
    yield from told_setting(
        "net/core/rmem_max", "the most bytes that a program may set as receive buffer", of_the_host=True
    )
    if protocol == "tcp":
        yield from told_setting("net/ipv4/tcp_rmem", "TCP's receive buffer in bytes, least, at first and most")
    else:
        yield from told_setting(
            "net/core/rmem_default", "the receive buffer in bytes where a program sets none", of_the_host=True
        )
        yield from told_setting("net/ipv4/udp_mem", "UDP's memory for all sockets in pages, low, pressure and most")


def _described(protocol: str, found: list[Socket], *, with_memory: bool = False) -> Iterator[Evidence]:
    owners = owners_of({one.inode for one in found if one.inode}, SEARCH_S)
    for one in found[:_SHOWN]:
        name, pid = owners.get(one.inode, ("", 0))
        who = (
            f"{name} (pid {pid})" if pid else f"a program of user {one.uid}" if one.inode else "no program has it open"
        )
        words = [_what(protocol, one)]
        if one.device:
            words.append(f"bound to the device {netlink.device_name(one.device)}")
        if with_memory and one.state != _STATES.index("LISTEN"):
            if protocol == "tcp":  # of UDP it is the memory once more
                words.append(f"{one.received} bytes not read yet")
            words.append(f"receive buffer {one.receive_memory} of {one.receive_memory_limit} bytes")
            if one.backlog:
                words.append(f"{one.backlog} bytes in its backlog")
            words.append(f"{one.drops} packets dropped at it so far")
        yield Evidence(_SOURCE, f"{who}: {', '.join(words)}")
    if len(found) > _SHOWN:
        yield Evidence(_SOURCE, f"and {len(found) - _SHOWN} more sockets")


def _what(protocol: str, one: Socket) -> str:
    if one.state == _LISTENING[protocol]:
        everywhere = {"0.0.0.0": " (every IPv4 address)", "::": " (every IPv6 address)"}.get(one.local, "")
        if one.local == "::" and not one.v6only:
            everywhere = " (every address, IPv4 too)"
        return f"listens on {protocol.upper()} {_end(one.local, one.local_port)}{everywhere}"
    ends = f"{_end(one.local, one.local_port)} with {_end(one.remote, one.remote_port)}"
    return f"{protocol.upper()} {ends}, {_STATES[one.state]}"


def _listening(protocol: str, port: int) -> list[Socket]:
    return _sockets(protocol, port, 1 << _LISTENING[protocol])


def _sockets(protocol: str, port: int, states: int) -> list[Socket]:
    """The sockets of a port: those of IPv6 may take packets of IPv4 too."""
    return [
        _socket(message)
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in netlink.sockets(family, _PROTOCOLS[protocol], states, sport=port)
    ]


def _socket(message: netlink.Message) -> Socket:
    # pyroute2 gives it as "01:02:..."; of one that waits for its end there is none.
    memory = bytes.fromhex((message.get_attr("INET_DIAG_SKMEMINFO") or "").replace(":", "")).ljust(36, b"\0")
    numbers = struct.unpack_from("=9I", memory)  # SK_MEMINFO_RMEM_ALLOC and so on
    return Socket(
        family=message["idiag_family"], state=message["idiag_state"],
        local=_plain(message["idiag_src"]), local_port=message["idiag_sport"],
        remote=_plain(message["idiag_dst"]), remote_port=message["idiag_dport"],
        device=message["idiag_if"], v6only=bool(message.get_attr("INET_DIAG_SKV6ONLY")),
        inode=message["idiag_inode"], uid=message["idiag_uid"],
        received=message["idiag_rqueue"], limit=message["idiag_wqueue"],
        receive_memory=numbers[0], receive_memory_limit=numbers[1], backlog=numbers[7], drops=numbers[8],
    )  # fmt: skip


def _plain(address: str) -> str:
    """An address of IPv4 that an IPv6 socket has, as everybody knows it."""
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
