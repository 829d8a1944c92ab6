"""Questions to the kernel over netlink, in the words of pyroute2: nothing here ever changes anything.

pyroute2's messages have been the same from 0.5 to 0.9, its sockets have not: so the socket is a plain one.
"""

import errno
import os
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Optional, Union

Message = Any  # pyroute2 tells no types
Address = str

ROUTE, SOCK_DIAG, NETFILTER = 0, 4, 12

_MESSAGES = {
    "ifinfmsg": "rtnl.ifinfmsg",
    "ifaddrmsg": "rtnl.ifaddrmsg",
    "rtmsg": "rtnl.rtmsg",
    "fibmsg": "rtnl.fibmsg",
    "ndmsg": "rtnl.ndmsg",
    "tcmsg": "rtnl.tcmsg",
    "inet_diag_req": "diag",
    "inet_diag_msg": "diag",
    "nfct_msg": "nfnetlink.nfctsocket",
}

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE, _GETQDISC, _GETTFILTER = 18, 22, 26, 30, 34, 38, 46
_SOCK_DIAG_BY_FAMILY = 20
_CT_GET = 0x0101

_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERROR_CODE = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")

_SOL_NETLINK = 270
_STRICT = 12  # NETLINK_GET_STRICT_CHK: a dump can be asked for a part, Linux commit 89d35528d17d (4.20)

_RTA_DST, _RTA_TABLE = 1, 15
_IFLA_XDP, _IFLA_XDP_ATTACHED, _IFLA_XDP_PROG_ID = 43, 2, 4
_TCA_OPTIONS, _TCA_BPF_NAME, _TCA_BPF_ID = 2, 7, 11
# The flags RTM_F_FIB_MATCH and RTM_F_LOOKUP_TABLE; IPv6 tells the table always and refuses to be asked for it.
_MATCH: dict[int, int] = {socket.AF_INET: 0x2000 | 0x1000, socket.AF_INET6: 0x2000}


class NotInstalled(Exception):
    """pyroute2 is not there, or is not what it should be."""


def prepare() -> None:
    """Imports what is slow to import."""
    for name in _MESSAGES:
        _message_class(name)


def _message_class(name: str) -> Any:
    try:
        # What a newer Python says of an older pyroute2 is not for our users.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(import_module(f"pyroute2.netlink.{_MESSAGES[name]}"), name)
    except (ImportError, AttributeError) as error:
        raise NotInstalled(f"pyroute2 is not installed ({error}): install python3-pyroute2") from error


def link(device: Union[int, str]) -> Message:
    """A device, by index or name; raises OSError if there is none."""
    request = _message_class("ifinfmsg")()
    if isinstance(device, int):
        request["index"] = device
    else:
        request["attrs"] = [("IFLA_IFNAME", device)]
    return _one(request, _GETLINK)


def xdp(found: Message) -> tuple[int, int]:
    """How an XDP program is attached to a device, and its number; zeroes if there is none."""
    attached = _raw(found, _IFLA_XDP, _IFLA_XDP_ATTACHED)
    return (attached or b"\0")[0], _number(_raw(found, _IFLA_XDP, _IFLA_XDP_PROG_ID))


def device_name(index: int) -> str:
    """The name of a device."""
    try:
        return str(link(index).get_attr("IFLA_IFNAME"))
    except OSError:
        return f"device {index}, which is gone"


def addresses(index: int) -> list[Message]:
    """The addresses of a device."""
    request = _message_class("ifaddrmsg")()
    request["index"] = index
    return [found for found in _ask(request, _GETADDR, dump=True) if found["index"] == index]


def route(
    family: int, daddr: Address, *, saddr: Optional[Address] = None, iif: int = 0, oif: int = 0, mark: int = 0,
    of_table: bool = True,
) -> Message:  # fmt: skip
    """The route that the kernel takes for such a packet; raises OSError where it takes none.

    of_table: the entry of the table (Linux commit b61798130f1b, 4.13), else what the kernel makes of it for a packet.
    """
    bits = 32 if family == socket.AF_INET else 128
    request = _message_class("rtmsg")()
    request["family"], request["dst_len"] = family, bits
    request["flags"] = _MATCH[family] if of_table else 0
    attributes: list[tuple[str, object]] = [("RTA_DST", daddr)]
    if saddr is not None:
        request["src_len"] = bits
        attributes.append(("RTA_SRC", saddr))
    numbers = (("RTA_IIF", iif), ("RTA_OIF", oif), ("RTA_MARK", mark))
    request["attrs"] = attributes + [(name, number) for name, number in numbers if number]
    return _one(request, _GETROUTE)


def routes(family: int, table: int, where: Callable[[int, bytes], bool]) -> Iterator[Message]:
    """The routes of a table for whose prefix, as length and address, `where` is true.

    A table may be long: its routes are looked at before pyroute2 takes the time to read them.
    """
    request = _message_class("rtmsg")()
    request["family"] = family
    request["attrs"] = [("RTA_TABLE", table)]

    def wanted(data: bytes) -> bool:
        number = _attribute(data, 12, _RTA_TABLE)
        if (_number(number) or data[4]) != table or data[0] != family:
            return False
        # RTM_F_CLONED: what IPv6 has in its cache is not a route of the table.
        if _number(data[8:12]) & 0x200:
            return False
        return where(data[1], _attribute(data, 12, _RTA_DST) or b"")

    try:
        yield from _ask(request, _GETROUTE, dump=True, wanted=wanted)
    except OSError as error:
        if error.errno != errno.ENOENT:  # there is no such table
            raise


def rules(family: int) -> list[Message]:
    """The policy routing rules, in the order in which they are tried."""
    request = _message_class("fibmsg")()
    request["family"] = family
    return list(_ask(request, _GETRULE, dump=True))


def neighbour(family: int, index: int, address: Address) -> Message:
    """An entry of the neighbour table; raises OSError if there is none."""
    request = _message_class("ndmsg")()
    request["family"], request["ifindex"] = family, index
    request["attrs"] = [("NDA_DST", address)]
    return _one(request, _GETNEIGH)


def qdiscs(index: int) -> list[Message]:
    """The qdiscs of a device."""
    request = _message_class("tcmsg")()
    request["index"] = index
    return list(_ask(request, _GETQDISC, dump=True, wanted=lambda data: _tc_index(data) == index))


def filters(index: int, parent: int) -> list[Message]:
    """The tc filters of a device below one of its qdiscs or hooks."""
    request = _message_class("tcmsg")()
    request["index"], request["parent"] = index, parent
    return list(_ask(request, _GETTFILTER, dump=True, wanted=lambda data: _tc_index(data) == index))


def filter_program(found: Message) -> tuple[str, int]:
    """The name and number of the BPF program of a tc filter of the kind bpf."""
    name = _raw(found, _TCA_OPTIONS, _TCA_BPF_NAME) or b""
    return name.rstrip(b"\0").decode(errors="replace"), _number(_raw(found, _TCA_OPTIONS, _TCA_BPF_ID))


def sockets(family: int, protocol: int, states: int, *, sport: int = 0, dport: int = 0) -> list[Message]:
    """The sockets of a protocol in some of the states, as a set of bits, with their memory; ports as they see them.

    The kernel loads its module tcp_diag or udp_diag to answer, as it does for ss(8).
    """
    request = _message_class("inet_diag_req")()
    request["sdiag_family"], request["sdiag_protocol"] = family, protocol
    request["idiag_states"] = states
    request["idiag_ext"] = 1 << 6  # INET_DIAG_SKMEMINFO, counted from one
    request["idiag_sport"], request["idiag_dport"] = sport, dport
    return list(_ask(request, _SOCK_DIAG_BY_FAMILY, dump=True, protocol=SOCK_DIAG, reply="inet_diag_msg"))


def connection(family: int, protocol: int, source: tuple[Address, int], target: tuple[Address, int]) -> Message:
    """The entry of connection tracking of a flow, told by its first packet's ends; raises OSError if there is none."""
    version = "V4" if family == socket.AF_INET else "V6"
    addresses = [(f"CTA_IP_{version}_SRC", source[0]), (f"CTA_IP_{version}_DST", target[0])]
    ports = [("CTA_PROTO_NUM", protocol), ("CTA_PROTO_SRC_PORT", source[1]), ("CTA_PROTO_DST_PORT", target[1])]
    ends = [("CTA_TUPLE_IP", {"attrs": addresses}), ("CTA_TUPLE_PROTO", {"attrs": ports})]
    request = _message_class("nfct_msg")()
    request["nfgen_family"] = family
    request["attrs"] = [("CTA_TUPLE_ORIG", {"attrs": ends})]
    return _one(request, _CT_GET, protocol=NETFILTER)


def _tc_index(data: bytes) -> int:
    return int(struct.unpack_from("=i", data, 4)[0])


def _raw(message: Message, *path: int) -> Optional[bytes]:
    """The bytes of an attribute, inside of others, that not every pyroute2 can read."""
    data: Optional[bytes] = bytes(message.data)
    offset = _HEADER.size + struct.calcsize("=" + "".join(field[1] for field in message.fields))
    for kind in path:
        data = None if data is None else _attribute(data, offset, kind)
        offset = 0
    return data


def _number(data: Optional[bytes]) -> int:
    return int.from_bytes(data or b"", sys.byteorder)


def _attribute(data: bytes, offset: int, wanted: int) -> Optional[bytes]:
    """The value of an attribute, read without pyroute2."""
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if kind & 0x3FFF == wanted:
            return data[offset + _ATTRIBUTE.size : offset + length]
        offset += max(4, length + 3 & ~3)
    return None


def _one(request: Message, kind: int, protocol: int = ROUTE) -> Message:
    for answer in _ask(request, kind, protocol=protocol):
        return answer
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _ask(
    request: Message, kind: int, *, dump: bool = False, protocol: int = ROUTE, reply: str = "",
    wanted: Callable[[bytes], bool] = lambda data: True,
) -> Iterator[Message]:  # fmt: skip
    """Sends a request and yields the answers as pyroute2 reads them; raises OSError with the kernel's errno.

    wanted: whether to read an answer at all, by its bytes after the header.
    """
    answer_class = _message_class(reply) if reply else type(request)
    request["header"]["type"] = kind
    request["header"]["flags"] = _REQUEST | (_DUMP if dump else 0)
    request["header"]["sequence_number"] = 1
    request.encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        if protocol == ROUTE:
            netlink.setsockopt(_SOL_NETLINK, _STRICT, 1)
        netlink.bind((0, 0))
        netlink.send(bytes(request.data))
        while True:
            data = netlink.recv(1 << 20)
            at = 0
            while at + _HEADER.size <= len(data):
                length, answer_kind = _HEADER.unpack_from(data, at)[:2]
                body = data[at + _HEADER.size : at + length]
                if answer_kind == _DONE:
                    return
                if answer_kind == _ERROR:
                    code = -_ERROR_CODE.unpack_from(body)[0]
                    raise OSError(code, os.strerror(code))
                if wanted(body):
                    answer = answer_class(data[at : at + length])
                    answer.decode()
                    yield answer
                at += length + 3 & ~3
            if not dump:
                return
