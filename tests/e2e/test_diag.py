"""Faults of all kinds, one at a time and in one run: what is the first finding, and what does it prove itself by."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .net import Host, hosts, join, ping, sh
from .programs import pinned_program
from .tool import END, HEADER, Nettrace
from .traffic import Peer, run_peer, send_udp, tcp, tcp_refused, udp

TITLE = "---------------- ANALYSIS RESULT ---------------------"
GOOD = "this is a good packet!"
FINDING = re.compile(r"^\[(\d+)\] (WARNING|ERROR) happens in (\S+)\((\S+)\):( most likely the root cause)?$")
LABEL = re.compile(r"^    (\w[\w ]*):$")


@dataclass
class Finding:
    """One finding as printed."""

    level: str
    trace: str
    root: bool
    message: str = ""
    parts: dict[str, list[str]] = field(default_factory=dict)  # what is under each label

    @property
    def evidence(self) -> str:
        return "\n".join(self.parts.get("evidence", []))


@dataclass
class Packet:
    """One packet as printed, with its analysis."""

    text: str
    findings: list[Finding]

    @property
    def good(self) -> bool:
        return GOOD in self.text


def packets(output: list[str]) -> list[Packet]:
    """The packets in a run's output; every one must have been analysed."""
    found: list[Packet] = []
    lines: list[str] = []
    for line in [*output[: output.index(END)], "***************** 0 ***************"]:
        if HEADER.match(line):
            if lines:
                assert TITLE in lines, lines
                found.append(Packet("\n".join(lines), findings(lines[lines.index(TITLE) + 1 :])))
            lines = []
        lines.append(line)
    return found


def findings(lines: list[str]) -> list[Finding]:
    found: list[Finding] = []
    label = ""
    for line in lines:
        head, part = FINDING.match(line), LABEL.match(line)
        if head:
            found.append(Finding(head[2], head[3], bool(head[5])))
            label = ""
        elif part:
            label = part[1]
        elif line.startswith("\t") and not label:
            found[-1].message = line[1:]
        elif line.startswith("\t"):
            found[-1].parts.setdefault(label, []).append(line[1:])
        else:
            assert line in ("", GOOD), line
    return found


@dataclass(frozen=True)
class Net:
    """A client behind a router, a server behind it, and what traces them."""

    client: Host
    router: Host
    server: Host
    trace: Nettrace

    def wait(self, *texts: str) -> None:
        """Until a packet with all these texts was analysed."""
        limit = time.monotonic() + 60
        seen, lines = 0, [""]
        while True:
            if seen == len(self.trace.output):
                self.trace._read_line(limit)
            line = self.trace.output[seen]
            seen += 1
            if HEADER.match(line):
                lines = []
            lines.append(line)
            if line == TITLE and all(any(text in each for each in lines) for text in texts):
                return

    def wait_line(self, text: str) -> None:
        """Until a line with this text was printed."""
        limit = time.monotonic() + 60
        while not any(text in line for line in self.trace.output):
            self.trace._read_line(limit)


# Each fault has a port, an address or a number of its own, by which its packets are found in the output.
Fault = Callable[[Net], Iterator[None]]


@contextmanager
def undone(host: Host, do: str, undo: str) -> Iterator[None]:
    host.sh(do)
    try:
        yield
    finally:
        host.sh(undo, check=False)


def drop_rule(net: Net) -> None:
    with undone(net.server, "nft add rule inet filter input udp dport 7001 drop", "nft flush chain inet filter input"):
        send_udp(net.client, net.server.ip, 7001)
        net.wait(":7001", TITLE)


def user_chain(net: Net) -> None:
    rules = "'add chain inet filter hop1; add chain inet filter hop2; "
    rules += "add rule inet filter hop2 udp dport 7002 drop; add rule inet filter hop1 jump hop2; "
    rules += "add rule inet filter input jump hop1'"
    undo = "nft 'flush chain inet filter input; flush chain inet filter hop1; delete chain inet filter hop1; "
    undo += "flush chain inet filter hop2; delete chain inet filter hop2'"
    with undone(net.server, f"nft {rules}", undo):
        send_udp(net.client, net.server.ip, 7002)
        net.wait(":7002", TITLE)


def iptables_nft(net: Net) -> None:
    rule = "FORWARD -p udp --dport 7003 -j DROP"
    with undone(net.router, f"iptables-nft -A {rule}", f"iptables-nft -D {rule}"):
        send_udp(net.client, net.server.ip, 7003)
        net.wait(":7003", TITLE)


def iptables_legacy(net: Net) -> None:
    rule, other = (f"INPUT -p udp --dport {port} -j DROP" for port in (7004, 1))
    undo = f"iptables-legacy -D {rule}; ip netns exec {net.server.name} iptables-legacy -D {other}"
    with undone(net.server, f"iptables-legacy -A {rule}", undo):
        net.server.sh(f"iptables-legacy -A {other}")
        send_udp(net.client, net.server.ip, 7004)
        net.wait(":7004", TITLE)


def tcp_closed(net: Net) -> None:
    tcp_refused(net.client, net.server.ip, 7005)
    net.wait(":7005", "flags:S")


def tcp_elsewhere(net: Net) -> None:
    listener = Peer(net.server, "tcp-serve", "127.0.0.1", "7006")
    try:
        tcp_refused(net.client, net.server.ip, 7006)
        net.wait(":7006", "flags:S")
    finally:
        listener.kill()


def udp_closed(net: Net) -> None:
    send_udp(net.client, net.server.ip, 7007)
    net.wait("UDP: 10.77.1.2", ":7007")


def rp_filter(net: Net) -> None:
    with undone(
        net.router, "sysctl -qw net.ipv4.conf.rc.rp_filter=1", "sysctl -qw net.ipv4.conf.rc.rp_filter=0"
    ):  # fmt: skip
        run_peer(net.client, "udp-spoof", "10.77.2.99", net.server.ip, "7008")
        net.wait(":7008", TITLE)


def forwarding_off(net: Net) -> None:
    with undone(net.router, "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"):
        send_udp(net.client, net.server.ip, 7009)
        net.wait("UDP: 10.77.1.2", ":7009")


def route_of_type(kind: str, address: str) -> Callable[[Net], None]:
    def fault(net: Net) -> None:
        version = "-6" if ":" in address else "-4"
        with undone(net.router, f"ip {version} route add {kind} {address}", f"ip {version} route del {kind} {address}"):
            send_udp(net.client, address, 7010)
            net.wait("UDP: ", f"{f'[{address}]' if ':' in address else address}:7010")

    return fault


def no_route(net: Net) -> None:
    send_udp(net.client, "10.77.40.1", 7011)
    net.wait("UDP: ", "10.77.40.1:7011")


def no_neighbour(net: Net) -> None:
    send_udp(net.client, "10.77.2.77", 7012)
    net.wait("UDP: ", "10.77.2.77:7012")


def too_big(net: Net) -> None:
    with undone(net.router, "ip link set rs mtu 1300", "ip link set rs mtu 1500"):
        run_peer(net.client, "udp-send-with", net.server.ip, "7013", "1372", "0", "1")
        net.wait("UDP: 10.77.1.2", ":7013")


def ttl(net: Net) -> None:
    run_peer(net.client, "udp-send-with", net.server.ip, "7014", "8", "1", "0")
    net.wait("UDP: 10.77.1.2", ":7014")


def masquerade(net: Net) -> None:
    rule = "POSTROUTING -t nat -o rs -p udp --dport 7015 -j MASQUERADE"
    with undone(net.router, f"iptables-nft -A {rule}", f"iptables-nft -D {rule}"):
        assert udp(net.client, net.server, net.server.ip, 7015) == 1
        net.wait(":7015", TITLE)


def queue_full(net: Net) -> None:
    with undone(
        net.client, "tc qdisc add dev c0 root tbf rate 8kbit burst 1600 limit 3000", "tc qdisc del dev c0 root"
    ):  # fmt: skip
        run_peer(net.client, "udp-send", net.server.ip, "7017", "8", "0", "1000")
        net.wait_line(" happens in __dev_queue_xmit(")


def bad_checksum(net: Net) -> None:
    listener = Peer(net.server, "tcp-serve", net.server.ip, "7018")
    try:
        run_peer(net.client, "tcp-bad-checksum", net.client.ip, net.server.ip, "7018")
        net.wait(":7018", TITLE)
    finally:
        listener.kill()


def drop_rule_v6(net: Net) -> None:
    with undone(net.server, "nft add rule inet filter input udp dport 7019 drop", "nft flush chain inet filter input"):
        send_udp(net.client, net.server.ip6, 7019)
        net.wait(":7019", TITLE)


def tcp_closed_v6(net: Net) -> None:
    tcp_refused(net.client, net.server.ip6, 7020)
    net.wait(":7020", "flags:S")


def udp_closed_v6(net: Net) -> None:
    send_udp(net.client, net.server.ip6, 7021)
    net.wait("UDP: [fd77:1::2]", ":7021")


def no_neighbour_v6(net: Net) -> None:
    send_udp(net.client, "fd77:2::77", 7022)
    net.wait("UDP: ", "[fd77:2::77]:7022")


def accept_queue_full(net: Net) -> None:
    listener = Peer(net.server, "tcp-full", net.server.ip, "7023")
    connecting = net.client.popen("bash", "-c", f"</dev/tcp/{net.server.ip}/7023")
    try:
        net.wait(":7023", "10.77.1.2")
    finally:
        connecting.kill()
        connecting.communicate()
        listener.kill()


def no_neighbour_via(net: Net) -> None:
    route = "10.77.50.0/24 via inet6 fd77:2::78 dev rs"
    with undone(net.router, f"ip route add {route}", f"ip route del {route}"):
        send_udp(net.client, "10.77.50.1", 7024)
        net.wait("UDP: ", "10.77.50.1:7024")


@dataclass(frozen=True)
class Expected:
    """What the first finding of a fault's packet must be."""

    traces: tuple[str, ...]  # it happens in one of these
    told: str  # in the message or what is told beside it
    evidence: str = ""


NO_SOCKET = "no socket|no program|listens"

# The texts that find the packet, how the fault is made, and what must be said of it; regular expressions.
FAULTS: dict[str, tuple[tuple[str, ...], Callable[[Net], None], Expected]] = {
    "nft-drop-rule": ((r":7001$",), drop_rule, Expected(("nft_do_chain",), "nftables rule", r"udp dport 7001 drop")),
    "nft-user-chain": (
        (r":7002$",), user_chain,
        Expected(("nft_do_chain",), "nftables rule", r"(?s)input.*hop1.*hop2.*udp dport 7002 drop"),
    ),
    "iptables-nft": (
        (r":7003$",), iptables_nft,
        Expected(("nft_do_chain",), "rule", r"-A FORWARD -p udp -m udp --dport 7003 -j DROP"),
    ),
    "iptables-legacy": ((r":7004$",), iptables_legacy, Expected(("ipt_do_table",), "filter", r"INPUT")),
    "tcp-closed-port": (
        (r":7005 .*flags:S$",), tcp_closed,
        Expected(("kfree_skb", "__inet_lookup_listener"), NO_SOCKET, "nothing listens on TCP port 7005"),
    ),
    "tcp-other-address": (
        (r":7006 .*flags:S$",), tcp_elsewhere,
        Expected(("kfree_skb", "__inet_lookup_listener"), NO_SOCKET, r"127\.0\.0\.1:7006"),
    ),
    "udp-closed-port": (
        (r"\] UDP: 10\.77\.1\.2:\d+ -> .*:7007$",), udp_closed,
        Expected(("kfree_skb", "__icmp_send"), NO_SOCKET, "nothing listens on UDP port 7007"),
    ),
    "rp-filter": ((r":7008$",), rp_filter, Expected(("fib_validate_source",), "reverse path", "rc.* strict")),
    "forwarding-off": ((r"\] UDP: .*:7009$",), forwarding_off, Expected(("ip_error",), "send it on", "forward")),
    "route-blackhole": (
        (r"\] UDP: .*10\.77\.30\.1:7010$",), route_of_type("blackhole", "10.77.30.1"),
        Expected(("ip_error",), "blackhole", "blackhole"),
    ),
    "route-unreachable": (
        (r"\] UDP: .*10\.77\.31\.1:7010$",), route_of_type("unreachable", "10.77.31.1"),
        Expected(("ip_error",), "send it on", "unreachable"),
    ),
    "route-prohibit": (
        (r"\] UDP: .*10\.77\.32\.1:7010$",), route_of_type("prohibit", "10.77.32.1"),
        Expected(("ip_error",), "prohibit", "prohibit"),
    ),
    "no-route": (
        (r"\] UDP: .*10\.77\.40\.1:7011$",), no_route,
        Expected(("ip_error",), "no route", "no default route|no route"),
    ),
    "no-neighbour": (
        (r"\] UDP: .*10\.77\.2\.77:7012$",), no_neighbour,
        Expected(("arp_error_report",), "ARP", r"10\.77\.2\.77"),
    ),
    "too-big": (
        (r"\] UDP: 10\.77\.1\.2.*:7013$",), too_big,
        Expected(("__icmp_send", "kfree_skb"), "larger than the MTU|too big", "1300"),
    ),
    "ttl-exceeded": ((r"\] UDP: 10\.77\.1\.2.*:7014$",), ttl, Expected(("ip_forward",), "TTL", r"10\.77\.2\.2")),
    "queue-full": (
        (r":7017$", r" happens in __dev_queue_xmit"), queue_full,
        Expected(("__dev_queue_xmit", "kfree_skb"), "queue", "tbf"),
    ),
    "bad-checksum": (
        (r":7018 ",), bad_checksum,
        Expected(("tcp_bad_csum", "__skb_checksum_complete", "kfree_skb"), "checksum", "heck"),
    ),
    "nft-drop-rule-v6": (
        (r":7019$",), drop_rule_v6,
        Expected(("nft_do_chain",), "nftables rule", r"udp dport 7019 drop"),
    ),
    "tcp-closed-port-v6": (
        (r":7020 .*flags:S$",), tcp_closed_v6,
        Expected(("kfree_skb", "inet6_lookup_listener"), NO_SOCKET, "nothing listens on TCP port 7020"),
    ),
    "udp-closed-port-v6": (
        (r"\] UDP: \[fd77:1::2\]:\d+ -> .*:7021$",), udp_closed_v6,
        Expected(("kfree_skb", "icmp6_send"), NO_SOCKET, "nothing listens on UDP port 7021"),
    ),
    "route-unreachable-v6": (
        (r"\] UDP: .*\[fd77:31::1\]:7010$",), route_of_type("unreachable", "fd77:31::1"),
        Expected(("ip6_pkt_discard",), "no route", "unreachable"),
    ),
    "no-neighbour-v6": (
        (r"\] UDP: .*\[fd77:2::77\]:7022$",), no_neighbour_v6,
        Expected(("ndisc_error_report",), "neighbour", r"fd77:2::77"),
    ),
    "accept-queue-full": (
        (r"10\.77\.1\.2:\d+ -> 10\.77\.2\.2:7023 .*flags:S$",), accept_queue_full,
        Expected(("tcp_conn_request",), "accept queue", r"10\.77\.2\.2:7023: .* wait to be accepted: 1, limit 0"),
    ),
    "no-neighbour-via-v6": (
        (r"\] UDP: .*10\.77\.50\.1:7024$",), no_neighbour_via,
        Expected(("ndisc_error_report",), "neighbour", r"fd77:2::78 on rs is FAILED"),
    ),
}  # fmt: skip


# Where the server is also reached: by a bridge in the router, and by VXLAN from the client.
BRIDGED, TUNNELLED = "10.77.8.2", "10.77.9.2"


def bridge_and_tunnel(client: Host, router: Host, server: Host) -> None:
    router.ip_commands("link add br0 type bridge", "link set br0 up")
    for host, device, ip in ((client, "c1", "10.77.8.1/24"), (server, "s1", f"{BRIDGED}/24")):
        sh(f"ip link add {device} netns {host.name} type veth peer name {device}b netns router")
        host.ip_commands(f"addr add {ip} dev {device}", f"link set {device} up")
        router.ip_commands(f"link set {device}b master br0 up")
    ends = (client, "10.77.9.1/24", server.ip), (server, f"{TUNNELLED}/24", client.ip)
    for host, ip, other in ends:
        host.ip_commands(
            f"link add vx0 type vxlan id 7 dstport 4789 local {host.ip} remote {other}",
            f"addr add {ip} dev vx0", "link set vx0 mtu 1450 up",
        )  # fmt: skip


def healthy(net: Net) -> None:
    """Traffic that nothing is wrong with: routed, bridged, and in a tunnel."""
    client, server = net.client, net.server
    for address in (BRIDGED, TUNNELLED):
        assert ping(client, address)["received"] == 1
        assert tcp(client, server, address, 6000, 20_000).received == 20_000
        assert udp(client, server, address, 6000) == 1
    assert ping(client, server.ip, 2)["received"] == 2
    assert ping(client, server.ip6, 2)["received"] == 2
    assert tcp(client, server, server.ip, 6001, 200_000).received == 200_000
    assert tcp(client, server, server.ip6, 6002, 20_000).received == 20_000
    assert udp(client, server, server.ip, 6003, 5) == 5
    assert udp(client, server, server.ip6, 6004, 5) == 5
    net.wait(":6004")


@pytest.fixture(scope="module")
def analysed(bpffs: Path) -> Iterator[list[Packet]]:
    """All packets of a run, healthy ones first, then those of each fault."""
    with hosts("client", "router", "server"):
        client, router = Host("client", "10.77.1.2", "fd77:1::2"), Host("router", "10.77.1.1", "fd77:1::1")
        server = Host("server", "10.77.2.2", "fd77:2::2")
        join("client", "c0", ["10.77.1.2/24", "fd77:1::2/64"], "router", "rc", ["10.77.1.1/24", "fd77:1::1/64"])
        join("router", "rs", ["10.77.2.1/24", "fd77:2::1/64"], "server", "s0", ["10.77.2.2/24", "fd77:2::2/64"])
        client.ip_commands("route add default via 10.77.1.1", "route add default via fd77:1::1")
        server.ip_commands("route add default via 10.77.2.1", "route add default via fd77:2::1")
        router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        router.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.rc.rp_filter=0")
        bridge_and_tunnel(client, router, server)
        # What the rules of later are in must be loaded when nettrace begins.
        server.sh("nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }'")
        router.sh("iptables-nft -t nat -L -n; iptables-nft -L -n")
        if shutil.which("iptables-legacy"):
            server.sh("iptables-legacy -L -n")
        with Nettrace("--diag", "--diag-keep", "--evidence-time", "20", "net 10.77.0.0/16 or net fd77::/16") as trace:
            net = Net(client, router, server, trace)
            try:
                healthy(net)
                masquerade(net)
                for name, (_, fault, _) in FAULTS.items():
                    if name != "iptables-legacy" or shutil.which("iptables-legacy"):
                        fault(net)
                drop_all = pinned_program(bpffs, "drop_all", 6, 1)  # BPF_PROG_TYPE_XDP, XDP_DROP
                with undone(server, "true", "ip link set dev s0 xdpgeneric off"):
                    sh(f"ip -n server link set dev s0 xdpgeneric pinned {drop_all}")
                    send_udp(client, server.ip, 7016)
                    net.wait(":7016", TITLE)
            finally:
                trace.stop()
                Path("/mnt/out/diag.txt").write_text("\n".join([*trace.output, trace.stderr]))
    yield packets(trace.output)


def of(analysed: list[Packet], *texts: str) -> Packet:
    """The first packet in whose lines all these are found."""
    found = [each for each in analysed if all(re.search(text, each.text, re.MULTILINE) for text in texts)]
    assert found, f"no packet with {texts}"
    return found[0]


def test_healthy_packets_have_no_errors(analysed: list[Packet]) -> None:
    # The kernel may say that it left something out which did no harm, such as a segment that came twice.
    wrong = [each.text for each in analysed if any(finding.level == "ERROR" for finding in each.findings)]
    bad = [text for text in wrong if not re.search(r":70\d\d |:70\d\d$|:70\d\d,", text, re.M)]
    of_faults = re.compile(r"who has|10\.77\.2\.77|fd77:2::77|10\.77\.4\d\.|unreachable|exceeded|too big|needed")
    assert [text for text in bad if not of_faults.search(text)] == []


def test_nat_is_no_fault_and_tells_what_became_what(analysed: list[Packet]) -> None:
    packet = of(analysed, r":7015")
    assert packet.good
    assert re.search(r"10\.77\.1\.2:\d+ .*10\.77\.2\.1:\d+", packet.text)


def test_acknowledgements_tell_round_trips(analysed: list[Packet]) -> None:
    pattern = r"\[tcp_ack .* \*srtt:(\d+\.\d{3})ms, rtt_min:(\d+\.\d{3})ms\*"
    trips = [(float(srtt), float(least)) for one in analysed for srtt, least in re.findall(pattern, one.text)]
    assert trips
    # Both in one unit, an average and the least; packets on one host, even an emulated one, take less than seconds.
    assert all(0 < least <= srtt + 0.001 < 5000 for srtt, least in trips)


def test_routes_by_routers_of_both_versions(analysed: list[Packet]) -> None:
    assert "*route: unicast via 10.77.1.1 dev c0*" in of(analysed, r"UDP: 10\.77\.1\.2:\d+ -> .*:6003").text
    assert "*route: unicast via fd77:1::1 dev c0*" in of(analysed, r"UDP: \[fd77:1::2\]:\d+ -> .*:6004").text
    assert "*route: unicast via fd77:2::78 dev rs*" in of(analysed, r"UDP: .*10\.77\.50\.1:7024").text


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_finding_is_the_cause(analysed: list[Packet], name: str) -> None:
    texts, _, expected = FAULTS[name]
    if name == "iptables-legacy" and not shutil.which("iptables-legacy"):
        pytest.skip("this release has no iptables-legacy")
    check(name, of(analysed, *texts), expected)


def test_xdp(analysed: list[Packet]) -> None:
    expected = Expected(("bpf_prog_run_generic_xdp",), "XDP program dropped", "drop_all")
    check("xdp-drop", of(analysed, r":7016$"), expected)


# What is different in each run, and what stands for it.
MASKS = (
    (r"\+0x[0-9a-f]+", "+0xN"), (r"\b80[0-9a-f]{2}: of", "N: of"),
    (r"\b(pid|id|handle|rule|metric|over limits|dropped|waiting|or) \d+", r"\1 N"),
    (r":(3[2-9]|[4-6]\d)\d{3}\b", ":PORT"), (r"asked \d+ times", "asked N times"),
    (r"\b(InCsumErrors|errors) \d+", r"\1 N"), (r"\b(found full|at listeners|of a listener): \d+", r"\1: N"),
)  # fmt: skip
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "diag"


def masked(packet: Packet) -> str:
    """The analysis of a packet, without what is different in each run."""
    text = packet.text[packet.text.index(TITLE) :].rstrip("\n") + "\n"
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return text


def check(name: str, packet: Packet, expected: Expected) -> None:
    Path("/mnt/out", f"{name}.txt").write_text(masked(packet))
    if os.uname().release.startswith("6.12."):
        assert masked(packet) == (GOLDEN / f"{name}.txt").read_text(), (
            "see the file in the results; is it as it should be?"
        )
    assert packet.findings, packet.text
    first = packet.findings[0]
    # The cause itself may be no more than a warning, where only what follows from it is certain to be wrong.
    assert first.root and "ERROR" in {finding.level for finding in packet.findings}, packet.text
    assert first.trace in expected.traces, packet.text
    told = "\n".join([first.message, *(line for lines in first.parts.values() for line in lines)])
    assert re.search(expected.told, told), packet.text
    assert re.search(expected.evidence, first.evidence), packet.text
    assert first.parts["fix advice"], packet.text
