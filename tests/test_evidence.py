"""Evidence: from files in a made-up /proc, and from namespaces whose state the tests have made themselves."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nettrace import netns
from nettrace.evidence import Evidence, counters, read
from nettrace.evidence_devices import backlog, conntrack, handlers
from nettrace.evidence_routes import forwarding
from tests.scene import play, refused

REFUSED = refused()
in_namespaces = pytest.mark.skipif(bool(REFUSED), reason=f"no network namespaces here: {REFUSED}")


def texts(found: list[tuple[str, str]]) -> list[str]:
    return [text for _, text in found]


def write(root: Path, name: str, text: str) -> None:
    file = root / "proc" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_counters(tmp_path: Path) -> None:
    write(tmp_path, "net/snmp", "Ip: Forwarding InReceives\nIp: 1 17\nUdp: NoPorts InCsumErrors\nUdp: 3 4\n")
    assert counters("snmp", tmp_path) == {
        "Ip": {"Forwarding": 1, "InReceives": 17},
        "Udp": {"NoPorts": 3, "InCsumErrors": 4},
    }
    assert counters("netstat", tmp_path) == {}


def test_backlog(tmp_path: Path) -> None:
    # Processed, dropped, squeezed and so on in hexadecimal; the thirteenth is the CPU.
    rows = ["00000010 00000000 " + "00000000 " * 10 + "00000000", "00000011 0000001f " + "00000000 " * 10 + "00000003"]
    write(tmp_path, "net/softnet_stat", "\n".join(rows) + "\n")
    write(tmp_path, "sys/net/core/netdev_max_backlog", "1000\n")
    assert list(backlog(root=tmp_path)) == [
        ("/proc/sys/net/core/netdev_max_backlog", "the most packets that wait for a CPU: 1000"),
        ("/proc/net/softnet_stat", "packets that all CPUs dropped with a full backlog: 31 (CPU 3: 31)"),
    ]


def test_handlers(tmp_path: Path) -> None:
    assert list(handlers(0x0806, "eth0", root=tmp_path)) == []
    # As the kernel writes it: by type, device and function, maybe with its module.
    table = "Type Device      Function\nALL  eth0     packet_rcv [af_packet]\n0806          arp_rcv\n"
    write(tmp_path, "net/ptype", table + "88cc eth1     packet_rcv\n86dd          ipv6_rcv\n")

    def of(protocol: int, device: str) -> str:
        (found,) = handlers(protocol, device, root=tmp_path)
        return found.text.rpartition(": ")[2]

    watching = "packet_rcv (a packet socket, which only watches)"
    assert of(0x0806, "eth0") == f"{watching}, arp_rcv"
    assert of(0x0806, "eth1") == "arp_rcv"
    assert of(0x88CC, "eth1") == "packet_rcv"
    assert (of(0x88CC, "eth0"), of(0x88CC, "eth2")) == (watching, "nobody")


def test_connection_tracking(tmp_path: Path) -> None:
    assert texts(list(conntrack(root=tmp_path))) == ["connections are not tracked on this host"]
    write(tmp_path, "sys/net/netfilter/nf_conntrack_count", "65536\n")
    write(tmp_path, "sys/net/netfilter/nf_conntrack_max", "65536\n")
    write(tmp_path, "net/stat/nf_conntrack", "entries insert_failed drop early_drop\n10000 1 a 0\n10000 2 1 f\n")
    assert texts(list(conntrack(root=tmp_path))) == [
        "65536 connections are tracked, the limit is 65536",
        "insert_failed 3, drop 11, early_drop 15",
    ]


def test_forwarding(tmp_path: Path) -> None:
    write(tmp_path, "sys/net/ipv4/ip_forward", "1\n")
    write(tmp_path, "sys/net/ipv4/conf/eth0.7/forwarding", "0\n")
    assert list(forwarding("eth0.7", root=tmp_path)) == [
        ("/proc/sys/net/ipv4/ip_forward", "ip_forward of this namespace is 1: IPv4 packets are forwarded"),
        (
            "/proc/sys/net/ipv4/conf/eth0.7/forwarding",
            "forwarding of the device eth0.7 is 0: IPv4 packets are not forwarded",
        ),
    ]


def one(text: str) -> Iterator[Evidence]:
    yield Evidence("here", text)


def refuse() -> Iterator[Evidence]:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    yield


def break_off() -> Iterator[Evidence]:
    yield Evidence("here", "half")
    raise KeyError("IFLA_SOMETHING")


def test_what_fails_is_a_line_and_stops_nothing_else() -> None:
    assert read(netns.current(), refuse, partial(one, "first"), break_off, partial(one, "last"), timeout_s=20) == [
        ("nettrace", "refuse could not be read: No such device"),
        ("here", "first"),
        ("here", "half"),
        ("nettrace", "break off could not be read: KeyError: 'IFLA_SOMETHING'"),
        ("here", "last"),
    ]


def test_time_is_bounded_and_what_was_read_is_kept() -> None:
    def forever() -> Iterator[Evidence]:
        while True:
            pass
        yield

    assert read(netns.current(), partial(one, "first"), forever, partial(one, "last"), timeout_s=3) == [
        ("here", "first"),
        ("nettrace", "the rest of the evidence could not be read: not within 3 s"),
    ]
    gone = "the network namespace is gone, or no process and no name leads to it"
    assert read(1, partial(one, "first"), timeout_s=20) == [("nettrace", f"the evidence could not be read: {gone}")]


def test_without_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    from nettrace.evidence_devices import qdisc, xdp

    monkeypatch.setitem(sys.modules, "pyroute2", None)
    for name in [name for name in sys.modules if name.startswith("pyroute2.")]:
        monkeypatch.delitem(sys.modules, name)
    found = read(netns.current(), partial(qdisc, 1), partial(xdp, 1), partial(one, "last"), timeout_s=20)
    assert [source for source, _ in found] == ["pyroute2", "here"]
    assert "install python3-pyroute2" in found[0].text


ROUTES = """
ip route add blackhole 10.6.0.0/16
ip route add 10.7.0.0/16 via 10.5.0.2 metric 50 mtu 1300
ip route add unreachable 10.7.7.0/24
ip route add prohibit 10.8.0.0/16
ip route add throw 10.9.0.0/16
ip route add 10.10.0.0/16 dev eth0 table 77
ip route add 10.10.3.0/24 nexthop via 10.5.0.2 nexthop via 10.5.0.3
ip rule add to 10.10.0.0/16 fwmark 5/0xf lookup 77 pref 500
ip rule add from 10.5.0.1 to 10.11.0.0/16 prohibit pref 501
ip -6 route add unreachable fd66::/64
ip -6 route add default via fd05::2
"""
MAIN_RULE = "the rule that led there: 32766: from all lookup main"


@in_namespaces
def test_routes() -> None:
    questions = {
        "10.7.1.1": "10.7.0.0/16 via 10.5.0.2 dev eth0 table main metric 50 mtu 1300",
        "10.5.0.1": "local 10.5.0.1/32 dev eth0 table local",
        "10.10.3.1": "10.10.3.0/24 by one of: via 10.5.0.2 dev eth0, via 10.5.0.3 dev eth0 table main",
        "fd77::1": "default via fd05::2 dev eth0 table main metric 1024",
        "fd05::1": "local fd05::1/128 dev eth0 table local",
    }
    refused_by = {
        "10.6.1.1": "blackhole 10.6.0.0/16 table main",
        "10.7.7.1": "unreachable 10.7.7.0/24 table main",
        "10.8.0.1": "prohibit 10.8.0.0/16 table main",
        "10.9.0.1": "throw 10.9.0.0/16 table main",
        "fd66::1": "unreachable fd66::/64 dev lo table main metric 1024",
    }
    found = play(
        ROUTES,
        f"for address in {[*questions, *refused_by]}: show(partial(route, address))\n"
        "show(partial(route, '10.10.1.1', mark=0x25))\n"
        "show(partial(route, '10.10.1.1', mark=4))\n"
        "show(partial(route, '10.11.0.1', '10.5.0.1'))\n"
        "show(partial(route, '10.5.0.1', '10.5.0.2', iif=eth0))\n"
        "show(partial(route, '10.7.1.1', '10.5.0.2', iif=eth0))\n",
    )
    for address, expected in questions.items():
        assert f"{address}: {expected}" in texts(found.pop(0))
    for address, expected in refused_by.items():
        error, decides, *rest = texts(found.pop(0))
        assert error.startswith(f"{address}: no route: ")
        assert decides.startswith(f"the route that decides: {expected}, by the rule 32766: from all lookup main: ")
        assert bool(rest) == ("throw" in expected)
    marked, unmarked, forbidden, local, forwarded = map(texts, found)
    assert marked == [
        "10.10.1.1: 10.10.0.0/16 dev eth0 table 77",
        "the rule that led there: 500: from all to 10.10.0.0/16 fwmark 0x5/0xf lookup 77",
    ]
    assert unmarked[:2] == [
        "10.10.1.1: no route: Network is unreachable (no route matches, or a rule says unreachable)",
        "no route to 10.10.1.1 in the tables that the rules lead to: local, main, default",
    ]
    assert unmarked[2].startswith("the table main has no default route; ")
    assert "; 10.7.0.0/16 via 10.5.0.2 dev eth0 metric 50 mtu 1300; " in unmarked[2]
    assert forbidden[0].startswith("10.5.0.1 -> 10.11.0.1: no route: Permission denied")
    assert "501: from 10.5.0.1/32 to 10.11.0.0/16 prohibit: " in forbidden[1]
    assert local[0] == "10.5.0.2 -> 10.5.0.1 in by eth0: local 10.5.0.1/32 dev eth0 table local"
    # Forwarding is off in a fresh namespace.
    assert forwarded[1].startswith("there is a route, which is not taken: 10.7.0.0/16 via 10.5.0.2 dev eth0")
    assert "ip_forward of this namespace is 0: IPv4 packets are not forwarded" in forwarded


@in_namespaces
def test_the_way_back() -> None:
    strict, gone = play(
        "echo 2 > /proc/sys/net/ipv4/conf/eth0/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter\n"
        "ip route add 10.7.0.0/16 dev lo",
        "show(partial(rp_filter, 'eth0', '10.7.1.1', '10.88.0.1'))\n"
        "show(partial(rp_filter, 'eth0', '10.99.0.1'))",
    )  # fmt: skip
    assert strict == [
        (
            "/proc/sys/net/ipv4/conf/eth0/rp_filter",
            "rp_filter of eth0 is 2, of all 1; the higher one counts: loose",
        ),
        ("rtnetlink", "came in by eth0, the way back to 10.7.1.1 is by lo: 10.7.0.0/16 dev lo table main"),
    ]
    assert texts(gone)[1].startswith("there is no way back to 10.99.0.1: Network is unreachable (no route matches, ")


@in_namespaces
def test_neighbours_and_mtu() -> None:
    found = play(
        "ip neigh add 10.5.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent\n"
        "ip route add 10.7.0.0/16 via 10.5.0.2 mtu 1300\n"
        "ip link set eth0 mtu 1400\n"
        "far ip link set eth1 down\n",
        "show(partial(neighbour, eth0, '10.5.0.9'))\n"
        "show(partial(neighbour, eth0, '10.5.0.77'))\n"
        "show(partial(neighbour, eth0, '10.66.0.1'))\n"
        "show(partial(neighbour, 1, 'fd05::9'))\n"
        "show(partial(mtu, eth0, '10.7.0.1'))\n"
        "show(partial(neighbour, 4711, '10.5.0.9'))",
    )  # fmt: skip
    assert texts(found[0]) == [
        "the neighbour 10.5.0.9 on eth0 is PERMANENT, its link-layer address is 02:00:00:00:00:09",
        "the device eth0: up, no carrier, state DOWN",
        "eth0 has an address in 10.5.0.0/24, where 10.5.0.9 is",
    ]
    assert texts(found[1])[0] == "10.5.0.77 is not in the neighbour table of eth0"
    assert texts(found[2])[2] == "eth0 has no address in a network of 10.66.0.1, it has 10.5.0.0/24"
    assert texts(found[3])[2] == "lo has no address in a network of fd05::9, it has ::1/128"
    assert texts(found[4]) == ["the MTU of the device eth0 is 1400", "the route to 10.7.0.1 has the MTU 1300"]
    assert found[5] == [("nettrace", "neighbour could not be read: No such device")]


SOCKETS = """
def listening(address, port, family=socket.AF_INET, kind=socket.SOCK_STREAM, backlog=1):
    made = socket.socket(family, kind)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, port == 82)
    made.bind((address, port))
    if kind == socket.SOCK_STREAM:
        made.listen(backlog)
    return made
open("/proc/self/comm", "w").write("the-server")
kept = [listening("127.0.0.1", 80), listening("::", 81, socket.AF_INET6), listening("::", 82, socket.AF_INET6)]
kept += [listening("10.5.0.1", 53, kind=socket.SOCK_DGRAM)]
kept += [socket.create_connection(("127.0.0.1", 80)) for _ in range(2)]
kept[3].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
for _ in range(9):
    kept[3].sendto(bytes(1000), ("10.5.0.1", 53))
print(json.dumps([["", str(os.getpid())], ["", str(kept[4].getsockname()[1])]]))
show(partial(listeners, "tcp", "127.0.0.1", 80))
show(partial(listeners, "tcp", "10.5.0.1", 80))
show(partial(listeners, "tcp", "10.5.0.1", 81))
show(partial(listeners, "tcp", "10.5.0.1", 82))
show(partial(listeners, "tcp", "10.5.0.1", 83))
show(partial(listeners, "tcp", "10.5.0.2", 80), where=far)
show(partial(accept_queue, "127.0.0.1", 80))
show(partial(flow_sockets, "udp", "10.5.0.1", 53, "10.5.0.2", 5353))
show(partial(flow_sockets, "tcp", "127.0.0.1", kept[4].getsockname()[1], "127.0.0.1", 80))
"""


@in_namespaces
def test_sockets() -> None:
    ((_, pid), (_, port)), *found = play("", SOCKETS)
    who = f"the-server (pid {pid}): "
    assert texts(found[0]) == [who + "listens on TCP 127.0.0.1:80"]
    assert texts(found[1]) == [
        "nothing here listens on 10.5.0.1:80, only on other addresses:",
        who + "listens on TCP 127.0.0.1:80",
    ]
    assert texts(found[2]) == [who + "listens on TCP [::]:81 (every address, IPv4 too)"]
    assert texts(found[3])[1] == who + "listens on TCP [::]:82 (every IPv6 address)"
    assert texts(found[4]) == ["nothing listens on TCP port 83 in this namespace"]
    nothing, elsewhere = texts(found[5])
    assert nothing == "nothing listens on TCP port 80 in this namespace"
    assert elsewhere.startswith("TCP port 80 has a listener in another namespace: ")
    assert texts(found[6])[0] == "127.0.0.1:80: connections that wait to be accepted: 2, limit 1, full"
    udp = texts(found[7])[0]
    assert udp.startswith(who + "listens on UDP 10.5.0.1:53, ")
    assert " of 8192 bytes, " in udp  # SO_RCVBUF is doubled
    assert int(udp.split(" packets dropped")[0].split()[-1]) > 0
    assert texts(found[8])[0].startswith(f"{who}TCP 127.0.0.1:{port} with 127.0.0.1:80, ESTABLISHED, 0 bytes not read")
