"""Evidence from routing: routes, rules, neighbours, forwarding, MTU. Called inside a namespace, see evidence."""

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Optional, Union

from . import netlink
from .evidence import ROOT, Evidence, from_setting, setting

Address = Union[str, IPv4Address, IPv6Address]

_SOURCE = "rtnetlink"
_SHOWN = 8

# enum in linux/rtnetlink.h
_TYPES = ("unspecified", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable",
          "prohibit", "throw", "nat", "external")  # fmt: skip
_UNICAST, _THROW = 1, 9
_REFUSING = {
    6: "packets are dropped without a word",
    7: "packets are dropped, their sender is told that the host is unreachable",
    8: "packets are dropped, their sender is told that this is prohibited",
    9: "the next rule's table is asked",
}
_MAIN, _LOCAL = 254, 255
_TABLES = {253: "default", _MAIN: "main", _LOCAL: "local"}
_OF_LOCAL = (2, 3)  # local, broadcast
_DEAD, _LINKDOWN = 1, 16

# enum in linux/fib_rules.h
_TO_TABLE = 1
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_INVERT = 2
# Conditions of rules that need more of the packet than is asked about here.
_OTHER_CONDITIONS = ("FRA_TUN_ID", "FRA_L3MDEV", "FRA_UID_RANGE", "FRA_IP_PROTO", "FRA_SPORT_RANGE", "FRA_DPORT_RANGE")

# What the kernel means when it finds no route, Linux' fib_props and ip_route_input_slow().
_ERRORS = {
    errno.ENETUNREACH: "no route matches, or a rule says unreachable",
    errno.EHOSTUNREACH: "a route says unreachable, or the packet would have to be forwarded and may not be",
    errno.EACCES: "a route or rule says prohibit",
    errno.EINVAL: "a route or rule says blackhole, or such an address cannot be in a packet here",
    errno.EXDEV: "the way back to the source does not lead to where the packet came from (rp_filter)",
    errno.ENODEV: "the device is gone",
}

# linux/neighbour.h
_NEIGHBOUR_STATES = {
    0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY", 0x10: "PROBE", 0x20: "FAILED",
    0x40: "NOARP", 0x80: "PERMANENT",
}  # fmt: skip
_NEIGHBOUR_MEANS = {
    "INCOMPLETE": "it was asked for and has not answered yet",
    "FAILED": "it was asked for and did not answer",
}
_UP, _NOARP, _LOWER_UP = 0x1, 0x80, 0x10000


def route(
    daddr: Address, saddr: Optional[Address] = None, *, iif: int = 0, oif: int = 0, mark: int = 0
) -> Iterator[Evidence]:
    """The route of a packet and the rule that led to it; if there is none, what decided so and what routes there are.

    iif: the index of the device by which the packet comes in; without it, it is one of this host's own.
    """
    family = _family(daddr)
    way = f"{f'{saddr} -> ' if saddr else ''}{daddr}{f' in by {netlink.device_name(iif)}' if iif else ''}"
    try:
        found = netlink.route(
            family, str(daddr), saddr=None if saddr is None else str(saddr), iif=iif, oif=oif, mark=mark
        )  # fmt: skip
    except OSError as error:
        yield Evidence(_SOURCE, f"{way}: no route: {_meaning(error)}")
        yield from _why_not(family, daddr, saddr, iif, oif, mark)
        return
    refused = f": {_REFUSING[found['type']]}" if found["type"] in _REFUSING else ""
    yield Evidence(_SOURCE, f"{way}: {_route_text(found)}{refused}")
    for rule in netlink.rules(family):
        if _matches(rule, family, daddr, saddr, iif, oif, mark) and _rule_table(rule) == _table(found):
            yield Evidence(_SOURCE, f"the rule that led there: {_rule_text(rule)}")
            break


def rp_filter(
    ifname: str, saddr: Address, daddr: Optional[Address] = None, *, mark: int = 0, root: Path = ROOT
) -> Iterator[Evidence]:
    """How strictly the source of a packet that comes in by a device is checked, and where the way back leads."""
    if _family(saddr) == socket.AF_INET:
        values = {name: int(setting(f"net/ipv4/conf/{name}/rp_filter", root) or 0) for name in ("all", ifname)}
        by = max(values, key=lambda name: values[name])
        strict = {0: "off", 1: "strict", 2: "loose"}[values[by]]
        text = f"rp_filter of {ifname} is {values[ifname]}, of all {values['all']}; the higher one counts: {strict}"
        yield from_setting(f"net/ipv4/conf/{by}/rp_filter", text)
    try:
        back = _way_back(saddr, daddr, mark)
    except OSError as error:
        yield Evidence(_SOURCE, f"there is no way back to {saddr}: {_meaning(error)}")
        return
    devices = _devices(back)
    text = f"came in by {ifname}, the way back to {saddr} is by {' or '.join(devices) or 'no device'}"
    yield Evidence(_SOURCE, f"{text}: {_route_text(back)}")


def forwarding(ifname: str, family: int = socket.AF_INET, *, root: Path = ROOT) -> Iterator[Evidence]:
    """Whether this namespace forwards packets, and those that come in by a device."""
    version, general = ("ipv4", "ip_forward") if family == socket.AF_INET else ("ipv6", "conf/all/forwarding")
    for name, where in ((general, "this namespace"), (f"conf/{ifname}/forwarding", f"the device {ifname}")):
        value = setting(f"net/{version}/{name}", root)
        if value is not None:
            yield from_setting(
                f"net/{version}/{name}",
                f"{name.rpartition('/')[2]} of {where} is {value}: {version.replace('ip', 'IP')} packets are "
                f"{'not ' if value == '0' else ''}forwarded",
            )


def neighbour(ifindex: int, address: Address) -> Iterator[Evidence]:
    """What is known of a neighbour, and whether the device can reach it."""
    name = netlink.device_name(ifindex)
    try:
        entry = netlink.neighbour(_family(address), ifindex, str(address))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        yield Evidence(_SOURCE, f"{address} is not in the neighbour table of {name}")
    else:
        states = [word for bit, word in _NEIGHBOUR_STATES.items() if entry["state"] & bit] or ["NONE"]
        words = [f"the neighbour {address} on {name} is {'+'.join(states)}"]
        words += [_NEIGHBOUR_MEANS[state] for state in states if state in _NEIGHBOUR_MEANS]
        mac = entry.get_attr("NDA_LLADDR")
        words.append(f"its link-layer address is {mac}" if mac else "no link-layer address is known")
        probes = entry.get_attr("NDA_PROBES")
        if probes:
            words.append(f"asked {probes} times")
        yield Evidence(_SOURCE, ", ".join(words))
    yield from device(ifindex)
    nets = [ip_network((found.get_attr("IFA_ADDRESS"), found["prefixlen"]), strict=False)
            for found in netlink.addresses(ifindex)]  # fmt: skip
    on = [str(net) for net in nets if net.version == ip_address(address).version]
    near = [str(net) for net in nets if ip_address(address) in net]
    if near:
        yield Evidence(_SOURCE, f"{name} has an address in {near[0]}, where {address} is")
    else:
        yield Evidence(_SOURCE, f"{name} has no address in a network of {address}, it has {', '.join(on) or 'none'}")


def device(ifindex: int) -> Iterator[Evidence]:
    """The state of a device: up, carrier, MTU."""
    found = netlink.link(ifindex)
    flags = found["flags"]
    words = ["up" if flags & _UP else "down", "carrier" if flags & _LOWER_UP else "no carrier"]
    if flags & _NOARP:
        words.append("asks for no link-layer addresses (NOARP)")
    words.append(f"state {found.get_attr('IFLA_OPERSTATE')}")
    yield Evidence(_SOURCE, f"the device {found.get_attr('IFLA_IFNAME')}: {', '.join(words)}")


def mtu(ifindex: int, daddr: Address, saddr: Optional[Address] = None) -> Iterator[Evidence]:
    """What limits the size of packets to an address: the device, the route, what routers on the way have told."""
    found = netlink.link(ifindex)
    yield Evidence(_SOURCE, f"the MTU of the device {found.get_attr('IFLA_IFNAME')} is {found.get_attr('IFLA_MTU')}")
    try:
        fixed = _route_mtu(_way_back(daddr, saddr))
        learned = _route_mtu(_way_back(daddr, saddr, of_table=False))
    except OSError as error:
        yield Evidence(_SOURCE, f"no route to {daddr}: {_meaning(error)}")
        return
    yield Evidence(_SOURCE, f"the route to {daddr} {f'has the MTU {fixed}' if fixed else 'has no MTU of its own'}")
    if learned and learned != fixed:
        yield Evidence(_SOURCE, f"the path MTU to {daddr} that routers told is {learned}")


def _way_back(daddr: Address, saddr: Optional[Address], mark: int = 0, *, of_table: bool = True) -> netlink.Message:
    """The route of a packet of this host's own; of one from elsewhere, which it may not send, without its source."""
    ask = partial(netlink.route, _family(daddr), str(daddr), mark=mark, of_table=of_table)
    if saddr is not None:
        with suppress(OSError):
            return ask(saddr=str(saddr))
    return ask()


def _why_not(
    family: int, daddr: Address, saddr: Optional[Address], iif: int, oif: int, mark: int
) -> Iterator[Evidence]:
    """Which rule or route decides that there is no route, read as the kernel reads them."""
    asked: list[int] = []
    for rule in netlink.rules(family):
        if not _matches(rule, family, daddr, saddr, iif, oif, mark):
            continue
        if rule["action"] in _REFUSING:
            yield Evidence(_SOURCE, f"the rule that decides: {_rule_text(rule)}: {_REFUSING[rule['action']]}")
            return
        if rule["action"] != _TO_TABLE:
            continue
        table = _rule_table(rule)
        best = _longest_prefix(family, table, daddr)
        suppressed = rule.get_attr("FRA_SUPPRESS_PREFIXLEN")
        if best is None or (suppressed is not None and suppressed < 0x80000000 and best["dst_len"] <= suppressed):
            asked.append(table)
            continue
        by = f"by the rule {_rule_text(rule)}"
        if best["type"] not in _REFUSING:
            yield Evidence(_SOURCE, f"there is a route, which is not taken: {_route_text(best)}, {by}")
            if iif and best["type"] == _UNICAST:
                yield from forwarding(netlink.device_name(iif), family)
            return
        yield Evidence(_SOURCE, f"the route that decides: {_route_text(best)}, {by}: {_REFUSING[best['type']]}")
        if best["type"] != _THROW:
            return
    names = list(dict.fromkeys(_table_name(table) for table in asked))
    yield Evidence(_SOURCE, f"no route to {daddr} in the tables that the rules lead to: {', '.join(names) or 'none'}")
    there = [found for found, _ in zip(netlink.routes(family, _MAIN, lambda *_: True), range(_SHOWN + 1))]
    default = any(found["dst_len"] == 0 for found in there)
    listed = "; ".join(_route_text(found, with_table=False) for found in there[:_SHOWN]) or "no routes at all"
    more = "; and more" if len(there) > _SHOWN else ""
    no_default = "" if default or more else "no default route; "
    yield Evidence(_SOURCE, f"the table main has {no_default}{listed}{more}")


def _longest_prefix(family: int, table: int, daddr: Address) -> Optional[netlink.Message]:
    """The route of a table that is for this address; of those for the same network, the one of the lowest metric."""
    packed = int.from_bytes(ip_address(daddr).packed, "big")
    bits = 32 if family == socket.AF_INET else 128
    longest = 0

    def wanted(length: int, prefix: bytes) -> bool:
        nonlocal longest
        if length < longest or (packed ^ int.from_bytes(prefix.ljust(bits // 8, b"\0"), "big")) >> (bits - length):
            return False
        longest = length
        return True

    found = [one for one in netlink.routes(family, table, wanted) if not one["flags"] & _DEAD]
    return min(found, key=lambda one: (-one["dst_len"], one.get_attr("RTA_PRIORITY") or 0), default=None)


def _matches(
    rule: netlink.Message, family: int, daddr: Address, saddr: Optional[Address], iif: int, oif: int, mark: int
) -> bool:
    """Whether a rule is for such a packet, as far as addresses, devices and the mark tell."""
    if rule["tos"] or any(rule.get_attr(name) is not None for name in _OTHER_CONDITIONS):
        return False
    any_address = "0.0.0.0" if family == socket.AF_INET else "::"
    device = {
        "FRA_IIFNAME": netlink.device_name(iif) if iif else "lo",
        "FRA_OIFNAME": netlink.device_name(oif) if oif else "",
    }
    mask = rule.get_attr("FRA_FWMASK") or 0  # where a rule has a mark, it has a mask
    matched = (
        _within(daddr, rule.get_attr("FRA_DST"), rule["dst_len"])
        and _within(saddr or any_address, rule.get_attr("FRA_SRC"), rule["src_len"])
        and all(rule.get_attr(name) in (None, value) for name, value in device.items())
        and (mark ^ (rule.get_attr("FRA_FWMARK") or 0)) & mask == 0
    )
    return matched != bool(rule["flags"] & _INVERT)


def _within(address: Address, prefix: Optional[str], length: int) -> bool:
    return prefix is None or ip_address(address) in ip_network((prefix, length), strict=False)


def _rule_table(rule: netlink.Message) -> int:
    table = rule.get_attr("FRA_TABLE")
    return int(rule["table"] if table is None else table)


def _rule_text(rule: netlink.Message) -> str:
    words = [f"{rule.get_attr('FRA_PRIORITY') or 0}:"]
    if rule["flags"] & _INVERT:
        words.append("not")
    source = rule.get_attr("FRA_SRC")
    words.append(f"from {source}/{rule['src_len']}" if source else "from all")
    if rule.get_attr("FRA_DST"):
        words.append(f"to {rule.get_attr('FRA_DST')}/{rule['dst_len']}")
    if rule.get_attr("FRA_FWMARK") is not None:
        words.append(f"fwmark {rule.get_attr('FRA_FWMARK'):#x}/{rule.get_attr('FRA_FWMASK') or 0xFFFFFFFF:#x}")
    for attribute, word in (("FRA_IIFNAME", "iif"), ("FRA_OIFNAME", "oif")):
        if rule.get_attr(attribute):
            words.append(f"{word} {rule.get_attr(attribute)}")
    words.append(_ACTIONS.get(rule["action"], f"action {rule['action']}"))
    if rule["action"] == _TO_TABLE:
        words.append(_table_name(_rule_table(rule)))
    return " ".join(words)


def _route_text(found: netlink.Message, *, with_table: bool = True) -> str:
    """A route as ip-route(8) would write it."""
    kind = found["type"]
    destination = found.get_attr("RTA_DST")
    words = [] if kind == _UNICAST else [_TYPES[kind] if kind < len(_TYPES) else f"type {kind}"]
    words.append(f"{destination}/{found['dst_len']}" if destination else "default")
    hops = found.get_attr("RTA_MULTIPATH")
    if hops:
        words.append("by one of: " + ", ".join(" ".join(_hop(hop, hop["oif"])) for hop in hops))
    else:
        words += _hop(found, found.get_attr("RTA_OIF"))
    if with_table:
        words.append(f"table {_table_name(_table(found))}")
    if found.get_attr("RTA_PRIORITY"):
        words.append(f"metric {found.get_attr('RTA_PRIORITY')}")
    if _route_mtu(found):
        words.append(f"mtu {_route_mtu(found)}")
    words += [word for flag, word in ((_DEAD, "dead"), (_LINKDOWN, "linkdown")) if found["flags"] & flag]
    return " ".join(words)


def _hop(found: netlink.Message, oif: Optional[int]) -> list[str]:
    gateway = found.get_attr("RTA_GATEWAY")
    via = found.get_attr("RTA_VIA")
    if via and not gateway:
        gateway = via.get("addr") if isinstance(via, dict) else via
    words = ["via", str(gateway)] if gateway else []
    return words + (["dev", netlink.device_name(oif)] if oif else [])


def _devices(found: netlink.Message) -> list[str]:
    hops = found.get_attr("RTA_MULTIPATH")
    indexes = [hop["oif"] for hop in hops] if hops else [found.get_attr("RTA_OIF")]
    return [netlink.device_name(index) for index in dict.fromkeys(indexes) if index]


def _route_mtu(found: netlink.Message) -> Optional[int]:
    metrics = found.get_attr("RTA_METRICS")
    value = metrics.get_attr("RTAX_MTU") if metrics else None
    return None if value is None else int(value)


def _table(found: netlink.Message) -> int:
    table = found.get_attr("RTA_TABLE")
    table = int(found["table"] if table is None else table)
    # Without rules of the user's, IPv4 keeps the tables local and main in one: Linux commit 0ddcf43d5d4a (4.1).
    return _LOCAL if table == _MAIN and found["type"] in _OF_LOCAL else table


def _table_name(table: int) -> str:
    return _TABLES.get(table, str(table))


def _meaning(error: OSError) -> str:
    means = _ERRORS.get(error.errno or 0)
    return f"{error.strerror}{f' ({means})' if means else ''}"


def _family(address: Address) -> int:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
