"""What nettrace reads of a host, against what ip, ss, tc, conntrack and sysctl say of it."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from nettrace import evidence, evidence_sockets
from nettrace.evidence import Evidence
from nettrace.evidence_devices import backlog, checksum, conntrack, conntrack_entry, qdisc, tc_filters, xdp
from nettrace.evidence_routes import forwarding, mtu, neighbour, route, rp_filter
from nettrace.evidence_sockets import accept_queue, flow_sockets, listeners

from .net import Host, ping, sh
from .programs import pinned_program
from .traffic import Peer, run_peer

Pair = tuple[Host, Host]

# Emulated kernels are slow, and so is what is imported for the first time.
TIMEOUT_S = 60


@pytest.fixture(scope="module", autouse=True)
def prepared() -> Iterator[None]:
    usual_s, evidence_sockets.SEARCH_S = evidence_sockets.SEARCH_S, TIMEOUT_S
    evidence.prepare()
    yield
    evidence_sockets.SEARCH_S = usual_s


def read(host: Host, *facts: Callable[[], Iterable[Evidence]]) -> list[str]:
    """The texts of the evidence, all of which could be read."""
    found = evidence.read(host.netns_inode(), *facts, timeout_s=TIMEOUT_S)
    assert not [text for source, text in found if source in ("nettrace", "pyroute2")], found
    return [text for _, text in found]


def ask(host: Host, command: str) -> list[dict]:  # type: ignore[type-arg]
    """What a command that speaks JSON says: ip, or tc."""
    program, _, rest = command.partition(" ")
    return json.loads(sh(f"{program} -n {host.name} {rest}"))  # type: ignore[no-any-return]


def index(host: Host, device: str) -> int:
    return int(ask(host, f"ip -j link show dev {device}")[0]["ifindex"])


def words(found: dict) -> set[str]:  # type: ignore[type-arg]
    """A route of ip's as the words that ours must have."""
    told = [found["dst"].partition("/")[0], found.get("gateway"), found.get("dev"), found.get("type")]
    return {word for word in told if word and word != "unicast"}


@pytest.fixture(scope="module")
def routing(pair: Pair) -> Iterator[Host]:
    left, _ = pair
    lines = [
        "route add 10.7.0.0/16 via 10.0.42.2", "route add blackhole 10.6.0.0/16",
        "route add unreachable 10.8.0.0/16", "route add prohibit 10.9.0.0/16",
        "route add 10.10.0.0/16 via 10.0.42.3 table 77", "rule add fwmark 7 lookup 77",
        "-6 route add fd77::/64 via fd42::2", "-6 route add unreachable fd66::/64",
        "-6 route add blackhole fd67::/64",
    ]  # fmt: skip
    for line in lines:
        sh(f"ip -n {left.name} {line}")
    yield left
    for line in lines:
        sh(f"ip -n {left.name} {line.replace(' add ', ' del ')}")


@pytest.mark.parametrize("address", ["10.7.1.1", "10.0.42.2", "10.0.42.1", "fd77::1", "fd42::2", "10.10.1.1 mark 7"])
def test_routes_are_those_that_ip_gets(routing: Host, address: str) -> None:
    (theirs,) = ask(routing, f"ip -j route get fibmatch {address}")
    daddr, _, mark = address.partition(" mark ")
    ours, rule = read(routing, partial(route, daddr, mark=int(mark or 0)))
    assert words(theirs) <= set(re.split(r"[ /]", ours.partition(": ")[2])), (theirs, ours)
    table = {"local": "local"}.get(theirs.get("type", ""), "77" if mark else "main")
    assert f" table {table}" in ours
    (preference,) = re.findall(r"led there: (\d+):", rule)
    version = "-6" if ":" in daddr else "-4"
    assert re.search(rf"^{preference}:.*lookup {table}", sh(f"ip -n {routing.name} {version} rule"), re.MULTILINE)


@pytest.mark.parametrize(
    ("address", "decides"),
    [
        ("10.6.0.1", "blackhole 10.6.0.0/16"),
        ("10.8.0.1", "unreachable 10.8.0.0/16"),
        ("10.9.0.1", "prohibit 10.9.0.0/16"),
        ("10.99.0.1", "no route to 10.99.0.1 in the tables that the rules lead to: local, main, default"),
        ("fd66::1", "unreachable fd66::/64"),
        ("fd67::1", "blackhole fd67::/64"),
        ("fd99::1", "no route to fd99::1 in the tables that the rules lead to: local, main"),
    ],
)
def test_why_there_is_no_route(routing: Host, address: str, decides: str) -> None:
    error = sh(f"ip -n {routing.name} route get {address}", check=False)
    (reason,) = re.findall(r"RTNETLINK answers: (.*)", error)
    ours = read(routing, partial(route, address))
    assert f"{address}: no route: {reason}" in ours[0]
    assert decides in ours[1]
    # As an incoming packet it meets the same route.
    source = "fd42::2" if ":" in address else "10.0.42.2"
    incoming = read(routing, partial(route, address, source, iif=index(routing, "l0")))
    assert decides in incoming[1]


def test_reverse_path_and_forwarding(pair: Pair) -> None:
    _, right = pair
    for value in (2, 1, 0):
        right.sh(f"sysctl -qw net.ipv4.conf.r0.rp_filter={value}")
        first, way = read(right, partial(rp_filter, "r0", "10.0.42.1", "10.0.42.2"))
        everywhere = int(right.sh("sysctl -n net.ipv4.conf.all.rp_filter"))
        assert first.endswith(("off", "strict", "loose")[max(value, everywhere)])
        assert way.startswith("came in by r0, the way back to 10.0.42.1 is by r0: 10.0.42.0/24 dev r0 ")
    assert read(right, partial(rp_filter, "r0", "10.77.0.1", "10.88.0.1"))[1].startswith("there is no way back")
    for value, said in ((1, "packets are forwarded"), (0, "packets are not forwarded")):
        right.sh(f"sysctl -qw net.ipv4.ip_forward={value} net.ipv6.conf.all.forwarding={value}")
        for family in (2, 10):
            assert [said in text for text in read(right, partial(forwarding, "r0", family))] == [True, True]


def test_neighbours(pair: Pair) -> None:
    left, right = pair
    l0 = index(left, "l0")
    assert ping(left, right.ip)["received"] == 1
    assert ping(left, "10.0.42.99")["received"] == 0
    for address in (right.ip, "10.0.42.99", right.ip6):
        entries = ask(left, f"ip -j neigh show {address} dev l0")
        ours, device, net = read(left, partial(neighbour, l0, address))
        if entries:
            # It may have grown stale meanwhile.
            states = {*entries[0]["state"], *ask(left, f"ip -j neigh show {address} dev l0")[0]["state"]}
            assert any(f" is {state}" in ours for state in states | {"REACHABLE", "STALE"})
            assert entries[0].get("lladdr", "no link-layer address is known") in ours
        else:
            assert ours == f"{address} is not in the neighbour table of l0"
        assert device == "the device l0: up, carrier, state UP"
        assert address in net and net.startswith("l0 has an address in ")
    failed = read(left, partial(neighbour, l0, "10.0.42.99"))[0]
    assert "10.0.42.99 on l0 is FAILED, it was asked for and did not answer" in failed


def test_mtu_of_device_route_and_way(pair: Pair) -> None:
    left, right = pair
    l0 = index(left, "l0")
    assert read(left, partial(mtu, l0, right.ip)) == [
        f"the MTU of the device l0 is {ask(left, 'ip -j link show dev l0')[0]['mtu']}",
        f"the route to {right.ip} has no MTU of its own",
    ]
    sh(f"ip -n {left.name} route add 10.55.0.0/16 via {right.ip} mtu 1300")
    try:
        assert read(left, partial(mtu, l0, "10.55.0.1"))[1:] == ["the route to 10.55.0.1 has the MTU 1300"]
    finally:
        sh(f"ip -n {left.name} route del 10.55.0.0/16")


def told_by_ss(host: Host, options: str, port: int) -> list[list[str]]:
    return [line.split() for line in host.sh(f"ss -Hn {options} sport = :{port}").splitlines()]


def test_listeners(pair: Pair) -> None:
    left, right = pair
    server = Peer(right, "tcp-serve", "127.0.0.1", "4080")
    datagrams = Peer(right, "udp-hold", right.ip, "4053")
    try:
        ((_, received, limit, *_, process),) = told_by_ss(right, "-ltp", 4080)
        name, pid = re.findall(r'\("([^"]+)",pid=(\d+)', process)[0]
        who = f"{name} (pid {pid}): listens on"
        assert read(right, partial(listeners, "tcp", "127.0.0.1", 4080)) == [f"{who} TCP 127.0.0.1:4080"]
        assert read(right, partial(listeners, "tcp", right.ip, 4080)) == [
            f"nothing here listens on {right.ip}:4080, only on other addresses:",
            f"{who} TCP 127.0.0.1:4080",
        ]
        assert read(left, partial(listeners, "tcp", left.ip, 4080)) == [
            "nothing listens on TCP port 4080 in this namespace",
            "TCP port 4080 has a listener in another namespace: right",
        ]
        queue = read(right, partial(accept_queue, "127.0.0.1", 4080))
        assert queue[0] == f"127.0.0.1:4080: connections that wait to be accepted: {received}, limit {limit}"
        assert f": {right.sh('sysctl -n net.core.somaxconn').strip()}" in queue[1]
        # Nobody reads: the buffer is full in the end.
        run_peer(left, "udp-send", right.ip, "4053", "300", "5000", "1400")
        told = right.sh("ss -Hnuam sport = :4053")
        used, size, dropped = re.findall(r"skmem:\(r(\d+),rb(\d+),.*,d(\d+)\)", told)[0]
        ours = read(right, partial(flow_sockets, "udp", right.ip, 4053, left.ip, 5000))
        assert ours[0] == (
            f"{name} (pid {datagrams.process.pid}): listens on UDP {right.ip}:4053, "
            f"receive buffer {used} of {size} bytes, {dropped} packets dropped at it so far"
        )
        assert int(dropped) > 0
        most = Path("/proc/sys/net/core/rmem_max").read_text().strip()
        assert f"the most bytes that a program may set as receive buffer: {most}" in ours
    finally:
        server.kill()
        datagrams.kill()
    nobody = read(right, partial(listeners, "tcp", right.ip, 4080))
    assert nobody == ["nothing listens on TCP port 4080 in this namespace"]


@contextmanager
def root_qdisc(host: Host, device: str, kind: str) -> Iterator[None]:
    sh(f"tc -n {host.name} qdisc replace dev {device} root {kind}")
    try:
        yield
    finally:
        sh(f"tc -n {host.name} qdisc del dev {device} root")


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("tbf rate 8kbit burst 2000 limit 3000", "limit 3000 bytes"),
        ("netem delay 200s limit 5", "limit 5 packets"),
        ("pfifo limit 17", "limit 17 packets"),
        ("fq_codel limit 77", "limit 77 packets"),
    ],
)
def test_qdiscs(pair: Pair, kind: str, limit: str) -> None:
    left, right = pair
    # Its own questions for neighbours would have to wait in the queue.
    mac = ask(right, "ip -j link show dev r0")[0]["address"]
    sh(f"ip -n {left.name} neigh replace {right.ip} lladdr {mac} dev l0 nud reachable")
    with root_qdisc(left, "l0", kind):
        run_peer(left, "udp-send", right.ip, "4054", "20", "5001", "1000")
        ours, length = read(left, partial(qdisc, index(left, "l0")))
        (theirs,) = [found for found in ask(left, "tc -s -j qdisc show dev l0") if found.get("root")]
        assert f"the qdisc {theirs['kind']} {theirs['handle']} of l0 (root), {limit}, " in ours
        # Packets may leave between the two looks, but none is dropped any more.
        assert f", dropped {theirs['drops']}, over limits " in ours
        assert (theirs["drops"] > 0) == (limit in ("limit 3000 bytes", "limit 5 packets"))
        if "netem" in kind:
            assert f"waiting {theirs['qlen']} packets or {theirs['backlog']} bytes" in ours
        assert length == f"the txqueuelen of l0 is {ask(left, 'ip -j link show dev l0')[0]['txqlen']}"


def test_programs(pair: Pair, bpffs: Path) -> None:
    _, right = pair
    r0 = index(right, "r0")
    assert read(right, partial(xdp, r0), partial(tc_filters, r0)) == ["r0 has no XDP program"]
    drop_all = pinned_program(bpffs, "drop_all", 6, 1)  # BPF_PROG_TYPE_XDP, XDP_DROP
    pass_all = pinned_program(bpffs, "pass_all", 3, 0)  # BPF_PROG_TYPE_SCHED_CLS, TC_ACT_OK
    sh(f"ip -n right link set dev r0 xdpgeneric pinned {drop_all}")
    try:
        number = ask(right, "ip -d -j link show dev r0")[0]["xdp"]["prog"]["id"]
        assert read(right, partial(xdp, r0)) == [f"r0 has an XDP program, generic: drop_all (id {number})"]
    finally:
        sh("ip -n right link set dev r0 xdpgeneric off")
    sh("tc -n right qdisc add dev r0 clsact")
    try:
        sh(f"tc -n right filter add dev r0 ingress pref 7 bpf da object-pinned {pass_all}")
        sh("tc -n right filter add dev r0 egress pref 9 protocol ip u32 match ip dport 9 0xffff action drop")
        (number,) = re.findall(r" id (\d+) ", sh("tc -n right filter show dev r0 ingress"))
        found = read(right, partial(tc_filters, r0))
        assert found[1:] == ["tc filter u32 at r0 egress, preference 9: action gact drop"]
        bpf = r"tc filter bpf at r0 ingress, preference 7: program \S*pass_all\S*"
        assert re.fullmatch(rf"{bpf} \(id {number}\)", found[0])
    finally:
        sh("tc -n right qdisc del dev r0 clsact")


def test_connection_tracking(pair: Pair) -> None:
    left, right = pair
    right.sh("nft 'add table ip seen; add chain ip seen input { type filter hook input priority 0; }; "
             "add rule ip seen input ct state established accept'")  # fmt: skip
    try:
        run_peer(left, "udp-send", right.ip, "4055", "1", "5002")
        entry = partial(conntrack_entry, "udp", left.ip, 5002, right.ip, 4055)
        ours, *_ = read(right, entry)
        assert "dport=4055 " in right.sh("conntrack -L -p udp --orig-port-dst 4055")
        flow = f"UDP {left.ip} port 5002 to {right.ip} port 4055"
        assert ours.startswith(f"{flow} is known, answers go from {right.ip} port 4055 to {left.ip} port 5002")
        count, most = re.findall(r"(\d+) connections are tracked, the limit is (\d+)", read(right, conntrack)[0])[0]
        assert int(count) >= 1
        assert most == right.sh("sysctl -n net.netfilter.nf_conntrack_max").strip()
        unknown = read(right, partial(conntrack_entry, "tcp", left.ip, 1, right.ip, 2))
        assert unknown == [f"no connection is known for TCP {left.ip} port 1 to {right.ip} port 2"]
    finally:
        right.sh("nft delete table ip seen")


def test_backlog_and_checksums(pair: Pair) -> None:
    left, _ = pair
    most = Path("/proc/sys/net/core/netdev_max_backlog").read_text().strip()
    assert read(left, backlog)[0] == f"the most packets that wait for a CPU: {most}"
    ours = read(left, partial(checksum, "l0"))
    assert ours[0] == "checksum offload of l0: receive on, transmit on"  # as veth has them
    assert f"Udp {left.snmp('Udp', 'InCsumErrors')}" in ours[1]


def test_a_namespace_without_a_name(pair: Pair) -> None:
    """One that only a process is in, and that is gone with it."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; read -r _"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        inode = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
        found = evidence.read(inode, partial(route, "127.0.0.1"), timeout_s=TIMEOUT_S)
        assert found[0].text == "127.0.0.1: local 127.0.0.1/32 dev lo table local"
    (found,) = [evidence.read(inode, partial(route, "127.0.0.1"), timeout_s=TIMEOUT_S)]
    assert "the network namespace is gone" in found[0].text
