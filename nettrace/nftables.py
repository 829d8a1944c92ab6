"""The chains and rules of nftables as netlink tells them, in the namespace of the process that asks.

Nothing here changes a ruleset: the kernel is only asked. It answers without any program of nftables.
"""

import errno
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional

# As nft calls them and as include/uapi/linux/netfilter.h numbers them.
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_INET_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_ARP_HOOKS = ("input", "output", "forward")
_NETDEV_HOOKS = ("ingress", "egress")
_POLICIES = {0: "drop", 1: "accept"}

# include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_GET_CHAIN, _GET_RULE, _GET_GENERATION = 4, 7, 16
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_EXPRESSION_NAME = 1
_GENERATION_ID = 1

_REQUEST, _DUMP = 0x01, 0x300
_ERROR, _DONE = 2, 3
_MULTI = 0x02
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct(">BBH")  # family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TYPE_MASK = 0x3FFF  # without the flags for nesting and byte order
_RECEIVE_BYTES = 1 << 17


class Chain(NamedTuple):
    """A chain, and where packets enter it."""

    family: str
    table: str
    name: str
    kind: str = ""  # filter, nat or route; empty, as is what follows: it is only jumped to
    hook: str = ""
    priority: int = 0
    policy: str = ""


class Rule(NamedTuple):
    """A rule: its number, never used twice in a table, and the names of its expressions."""

    handle: int
    attributes: bytes

    @property
    def expressions(self) -> tuple[str, ...]:
        """What the rule is made of, as the kernel calls it: payload, cmp, counter, immediate."""
        lists = dict(_attributes(self.attributes)).get(_RULE_EXPRESSIONS, b"")
        return tuple(_string(dict(_attributes(element))[_EXPRESSION_NAME]) for _, element in _attributes(lists))


def generation(timeout_s: float = 0.4) -> int:
    """The number of the ruleset's state, another one after each change."""
    (answer,) = request(_GET_GENERATION, 0, timeout_s=timeout_s)
    return _number(dict(_attributes(answer))[_GENERATION_ID])


def chain(family: str, table: str, name: str, timeout_s: float = 0.4) -> Optional[Chain]:
    """The chain; None: it is not there."""
    wanted = _attribute(_CHAIN_TABLE, table) + _attribute(_CHAIN_NAME, name)
    answers = request(_GET_CHAIN, FAMILIES[family], wanted, timeout_s=timeout_s)
    if not answers:
        return None
    found = dict(_attributes(answers[0]))
    if _CHAIN_HOOK not in found:
        return Chain(family, table, name)
    place = dict(_attributes(found[_CHAIN_HOOK]))
    policy = _number(found[_CHAIN_POLICY]) if _CHAIN_POLICY in found else 1
    return Chain(
        family, table, name,
        kind=_string(found[_CHAIN_TYPE]),
        hook=hook_name(family, _number(place[_HOOK_NUMBER])),
        priority=struct.unpack(">i", place[_HOOK_PRIORITY])[0],
        policy=_POLICIES.get(policy, str(policy)),
    )  # fmt: skip


def names(family: str, timeout_s: float = 0.4) -> list[tuple[str, str]]:
    """All chains of a family, as table and chain."""
    found = []
    for answer in request(_GET_CHAIN, FAMILIES[family], dump=True, timeout_s=timeout_s):
        known = dict(_attributes(answer))
        found.append((_string(known[_CHAIN_TABLE]), _string(known[_CHAIN_NAME])))
    return found


def rules(family: str, table: str, chain_name: str, timeout_s: float = 0.4) -> list[Rule]:
    """The rules of a chain in their order; none where it is not there."""
    wanted = _attribute(_RULE_TABLE, table) + _attribute(_RULE_CHAIN, chain_name)
    found = []
    for answer in request(_GET_RULE, FAMILIES[family], wanted, dump=True, timeout_s=timeout_s):
        for kind, value in _attributes(answer):
            if kind == _RULE_HANDLE:
                found.append(Rule(_number(value), answer))
                break
    return found


def hook_name(family: str, number: int) -> str:
    """What nft calls a hook of a family; its number where it has no name."""
    names = {"arp": _ARP_HOOKS, "netdev": _NETDEV_HOOKS}.get(family, _INET_HOOKS)
    return names[number] if number < len(names) else str(number)


def request(
    question: int, family: int, attributes: bytes = b"", *, dump: bool = False, timeout_s: float = 0.4
) -> list[bytes]:
    """The attributes of each of the kernel's answers; none where what was asked for does not exist.

    Raises TimeoutError where not all of them came in time.
    """
    deadline = time.monotonic() + timeout_s
    flags = _REQUEST | (_DUMP if dump else 0)
    body = _FAMILY.pack(family, 0, 0) + attributes
    message = _MESSAGE.pack(_MESSAGE.size + len(body), _SUBSYSTEM | question, flags, 1, 0) + body
    answers: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.send(message)
        while True:
            left_s = deadline - time.monotonic()
            try:
                netlink.settimeout(max(0.001, left_s))
                received = netlink.recv(_RECEIVE_BYTES)
            except socket.timeout:
                left_s = 0
            if left_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, f"nftables: no answer within {timeout_s:g} s")
            for kind, flags, payload in _messages(received):
                if kind == _DONE:
                    return answers
                if kind == _ERROR:
                    error = -struct.unpack_from("=i", payload)[0]
                    if error == errno.ENOENT:
                        return []
                    raise OSError(error, f"nftables: {errno.errorcode.get(error, error)}")
                answers.append(payload[_FAMILY.size :])
                if not flags & _MULTI:
                    return answers


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, flags, _, _ = _MESSAGE.unpack_from(data, at)
        yield kind, flags, data[at + _MESSAGE.size : at + length]
        at += _aligned(max(length, _MESSAGE.size))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode("utf-8", "surrogateescape") + b"\0"
    padding = bytes(_aligned(len(value)) - len(value))
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding


def _aligned(length: int) -> int:
    return (length + 3) // 4 * 4


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _string(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
