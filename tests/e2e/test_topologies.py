"""Through tunnels, bridges and virtual devices: one block a packet, from the one host to the other."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from nettrace import files, tree

from .net import Host, cable, device, hosts, ping, sh
from .tool import Block, Nettrace
from .traffic import Peer, run_peer

# The ends of the cable that tunnels go through; the far one is a router, too, to a network with nobody in it.
NEAR, FAR = "10.76.0.1", "10.76.0.2"
NOBODY = "10.78.0.9"
CLOSED_PORT, SCTP_PORT = 7009, 7010


@dataclass(frozen=True)
class Way:
    """A way of its own for a ping between the near and the far host.

    kind: of a device on both sides. wire: what matches the packet's lines between the hosts.
    leaves: traces that see the request, of which those count that this kernel has.
    """

    name: str
    number: int
    kind: str = ""
    wire: str = ""
    leaves: tuple[str, ...] = ()

    def ip(self, side: int) -> str:
        return f"fd77::{side}" if self.name == "sit" else f"10.77.{self.number}.{side}"

    def mac(self, side: int) -> str:
        return f"02:00:00:77:{self.number:02x}:0{side}"

    @property
    def icmp(self) -> str:
        return "ICMPv6" if self.name == "sit" else "ICMP"

    @property
    def receives(self) -> str:
        return "icmpv6_rcv" if self.name == "sit" else "icmp_rcv"


TUNNELS = (
    Way("vxlan", 1, "vxlan id 7 local {own} remote {other} dstport 4789", r"UDP: {a}:\d+ -> {b}:4789",
        ("vxlan_xmit", "vxlan_rcv")),
    Way("geneve", 2, "geneve id 7 remote {other}", r"UDP: {a}:\d+ -> {b}:6081",
        ("geneve_xmit", "geneve_udp_encap_recv")),
    Way("gre", 3, "gre local {own} remote {other}", "GRE: {a} -> {b}",
        ("ipgre_xmit", "ip_tunnel_xmit", "ip_tunnel_rcv")),
    Way("ipip", 4, "ipip local {own} remote {other}", "IPIP: {a} -> {b}", ("ip_tunnel_xmit", "ip_tunnel_rcv")),
    Way("sit", 5, "sit local {own} remote {other}", "IPV6: {a} -> {b}", ("sit_tunnel_xmit", "ipip6_rcv")),
)  # fmt: skip
VLAN = Way("vlan", 6, "vlan id 7", r"ICMP: .* vlan:7\b", ("vlan_dev_hard_start_xmit", "vlan_do_receive"))
QINQ = Way("qinq", 7, "vlan id 10", r"ICMP: .* vlan:(100\.)?10\b", ("vlan_dev_hard_start_xmit", "vlan_do_receive"))
# The request leaves by a macvlan device and arrives at an ipvlan device, the reply the other way round.
MACVLAN = Way("macvlan", 8, leaves=("macvlan_start_xmit", "ipvlan_handle_frame"))
BRIDGE = Way("bridge", 9, leaves=("br_handle_frame", "__br_forward"))
ESP = Way("esp", 10, wire=r"ESP: .* spi:0x100{spi} seq:0x1\b", leaves=("xfrm_output", "xfrm_input"))
AH = Way("ah", 11, wire=r"AH: .* spi:0x100{spi} seq:0x1\b", leaves=("xfrm_output", "xfrm_input"))
WAYS = (*TUNNELS, VLAN, QINQ, MACVLAN, BRIDGE, ESP, AH)

# Behind these, there is a program in place of a host.
TUN = Way("tun", 12, leaves=("tun_net_xmit",))
TAP = Way("tap", 13, leaves=("tun_net_xmit",))
PAGES = Way("pages", 14)


def build(near: Host, far: Host, switch: Host) -> None:
    """All the ways; the Ethernet addresses are known, so that devices count nothing but the pings."""
    for host in (near, far, switch):
        host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    ends = cable(near, far, 0)
    slaves = cable(near, far, 1)
    for side, (end, other) in enumerate((ends, ends[::-1]), 1):
        for way in TUNNELS:
            if way.name == "sit":
                end.host.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=0")
            ethernet = way.name in ("vxlan", "geneve")
            device(
                end.host, way.name, way.kind.format(own=end.ip, other=other.ip), way.ip(side), way.ip(3 - side),
                mac=way.mac(side) if ethernet else "", peer_mac=way.mac(3 - side) if ethernet else "",
            )  # fmt: skip
        end.host.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
        end.host.ip_commands(
            f"link add link {end.device} name outer type vlan proto 802.1ad id 100", "link set outer up"
        )
        for way, below in ((VLAN, end.device), (QINQ, "outer")):
            device(
                end.host, way.name, way.kind, way.ip(side), way.ip(3 - side),
                below=below, mac=way.mac(side), peer_mac=way.mac(3 - side),
            )  # fmt: skip
        transport(end.host, ESP, side, "enc cbc(aes) 0x" + 16 * "11" + " auth hmac(sha1) 0x" + 20 * "22")
        transport(end.host, AH, side, "auth hmac(sha1) 0x" + 20 * "33")
    device(
        near, "macvlan", "macvlan mode bridge", MACVLAN.ip(1), MACVLAN.ip(2),
        below=slaves[0].device, mac=MACVLAN.mac(1), peer_mac=slaves[1].mac,
    )  # fmt: skip
    device(
        far, "macvlan", "ipvlan mode l2", MACVLAN.ip(2), MACVLAN.ip(1),
        below=slaves[1].device, peer_mac=MACVLAN.mac(1),
    )  # fmt: skip
    switch.ip_commands("link add br0 type bridge mcast_snooping 0", "link set br0 up")
    for side, host in enumerate((near, far), 1):
        peer = f"peer name bridge netns {host.name} address {BRIDGE.mac(side)}"
        sh(f"ip link add port{side} netns switch type veth {peer}")
        switch.ip_commands(f"link set port{side} master br0 up")
        host.ip_commands(
            f"addr add {BRIDGE.ip(side)}/24 dev bridge", "link set bridge up",
            f"neigh add {BRIDGE.ip(3 - side)} lladdr {BRIDGE.mac(3 - side)} dev bridge",
        )  # fmt: skip
    # Nobody answers for long: one question, and a tenth of a second.
    far.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.neigh.bridge.mcast_solicit=1 "
        "net.ipv4.neigh.bridge.retrans_time_ms=100"
    )
    far.ip_commands("addr add 10.78.0.1/24 dev bridge")
    near.ip_commands(f"route add 10.78.0.0/24 via {FAR}")


def transport(host: Host, way: Way, side: int, keys: str) -> None:
    """IPsec in transport mode between two further addresses of the cable."""
    own, other = way.ip(side), way.ip(3 - side)
    commands = [f"addr add {own}/24 dev eth0", f"neigh add {other} lladdr 02:00:00:76:00:0{3 - side} dev eth0"]
    for spi, (source, target) in enumerate(((way.ip(1), way.ip(2)), (way.ip(2), way.ip(1))), 0x1001):
        state = f"src {source} dst {target} proto {way.name} spi {spi:#x} reqid {way.number}"
        commands.append(f"xfrm state add {state} mode transport {keys}")
    for direction, source, target in (("out", own, other), ("in", other, own)):
        commands.append(
            f"xfrm policy add src {source} dst {target} dir {direction} "
            f"tmpl proto {way.name} mode transport reqid {way.number}"
        )
    host.ip_commands(*commands)


@dataclass
class Observed:
    """What nettrace printed, and what hosts, devices and programs said."""

    near: Host
    far: Host
    switch: Host
    blocks: list[Block]
    pings: dict[str, dict[str, int]]
    devices: dict[Host, dict[str, tuple[int, int]]]
    states: str  # of IPsec, at the near host
    closed_from_port: int
    sctp_port: int
    sctp_packets: int  # that the far host counted
    unreachable: str  # ping's words
    monitor: dict[str, int]

    def only(self, text: str) -> Block:
        """The one block that begins with this packet."""
        (block,) = [block for block in self.blocks if block.lines[0].packet.startswith(text)]
        return block

    def ping_blocks(self, way: Way) -> tuple[Block, Block]:
        """The request and the reply."""
        one, two = way.ip(1), way.ip(2)
        return (
            self.only(f"{way.icmp}: {one} -> {two} ping request, seq: 1, id: "),
            self.only(f"{way.icmp}: {two} -> {one} ping reply, seq: 1, id: "),
        )

    def places(self, block: Block) -> list[str]:
        """The hosts that the packet went through."""
        everybody = (self.near, self.far, self.switch)
        names = (host.name for line in block.lines for host in everybody if host.is_netns(line.netns))
        return [name for name, _ in groupby(names)]


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    sh("modprobe -a tun sctp")
    with hosts("near", "far", "switch") as (near, far, switch):
        build(near, far, switch)
        programs = [
            Peer(near, "tun-answer", TUN.name, TUN.ip(1), "1"),
            Peer(near, "tap-answer", TAP.name, TAP.ip(1), TAP.ip(2), TAP.mac(2), "1"),
        ]
        with Nettrace("--force", "--detail") as trace:
            pings = {way.name: ping(near, way.ip(2)) for way in (*WAYS, TUN, TAP)}
            devices = {host: host.device_packets() for host in (near, far, switch)}
            states = near.sh("ip -s xfrm state")
            assert [program.result() for program in programs] == [{"answered": 1}] * 2
            asker = Peer(near, "tap-ask", PAGES.name, PAGES.ip(1), PAGES.ip(2), PAGES.mac(2))
            assert asker.result() == {"answered": 1}
            closed_from_port = run_peer(near, "udp-refused", FAR, str(CLOSED_PORT))["port"]
            server = Peer(far, "sctp-serve", FAR, str(SCTP_PORT))
            sctp_port = run_peer(near, "sctp-send", FAR, str(SCTP_PORT))["port"]
            assert server.result() == {"bytes": len("message")}
            unreachable = near.sh(f"ping -n -c 1 -W 5 {NOBODY}", check=False)
            monitor = Peer(far, "sniff", "eth0", "1")
            pings["clone"] = ping(near, FAR)
            trace.wait_blocks(1, containing=f"ICMP: {FAR} -> {NEAR} ping reply")
            assert trace.stop() == 0
        sctp_packets = int(re.findall(r"SctpInSCTPPacks\s+(\d+)", far.sh("cat /proc/net/sctp/snmp"))[0])
        yield Observed(
            near, far, switch, trace.blocks, pings, devices, states, closed_from_port, sctp_port, sctp_packets,
            unreachable, monitor.result(),
        )  # fmt: skip


def check_path(observed: Observed, way: Way, block: Block, inner: str, sender: Host, receiver: Host) -> None:
    """The packet went from the one host to the other, and was there what it had been."""
    assert block.marks == []
    via = ["switch"] if way is BRIDGE else []
    assert observed.places(block) == [sender.name, *via, receiver.name]
    assert block.lines[0].trace in ("__ip_local_out", "__ip6_local_out")
    (received,) = [line for line in block.lines if line.trace == way.receives]
    assert received.packet.startswith(inner)
    assert receiver.is_netns(received.netns)
    for host in (sender, receiver):
        assert any(host.is_netns(line.netns) and line.interface in DEVICES[way] for line in block.lines)


DEVICES = {way: ("eth0",) if way in (ESP, AH) else (way.name,) for way in WAYS}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_ping_is_one_block_each_way(observed: Observed, way: Way) -> None:
    assert observed.pings[way.name] == {"transmitted": 1, "received": 1}
    request, reply = observed.ping_blocks(way)
    one, two = way.ip(1), way.ip(2)
    check_path(observed, way, request, f"{way.icmp}: {one} -> {two} ping request, ", observed.near, observed.far)
    check_path(observed, way, reply, f"{way.icmp}: {two} -> {one} ping reply, ", observed.far, observed.near)


@pytest.mark.parametrize("way", [way for way in WAYS if way.wire], ids=lambda way: way.name)
def test_on_the_wire_it_is_what_the_device_makes_of_it(observed: Observed, way: Way) -> None:
    for block, source, target, spi in zip(observed.ping_blocks(way), (NEAR, FAR), (FAR, NEAR), (1, 2)):
        wire = re.compile(way.wire.format(a=re.escape(source), b=re.escape(target), spi=spi))
        lines = [bool(wire.match(line.packet)) for line in block.lines]
        # Wrapped once and unwrapped once; the crossing of the cable lies between.
        assert [wrapped for wrapped, _ in groupby(lines)] == [False, True, False]
        on_wire = Block([], [line for line in block.lines if wire.match(line.packet)])
        assert observed.places(on_wire) == (["near", "far"] if source == NEAR else ["far", "near"])


@pytest.mark.parametrize("way", [*WAYS, TUN, TAP], ids=lambda way: way.name)
def test_the_functions_on_the_way_see_it(observed: Observed, way: Way) -> None:
    request, _ = observed.ping_blocks(way)
    here = set(Path("/sys/kernel/tracing/available_filter_functions").read_text().split())
    functions = {trace.name: trace.functions for trace in tree.load(files.TREE).default()}
    expected = [name for name in way.leaves if here & set(functions[name])]
    # A function that is compiled into another one is not there at all.
    assert expected or way.leaves == ()
    assert [name for name in expected if name not in request.traces] == []


@pytest.mark.parametrize("way", [way for way in WAYS if way not in (ESP, AH)], ids=lambda way: way.name)
def test_the_devices_counted_one_packet_each_way(observed: Observed, way: Way) -> None:
    assert observed.devices[observed.near][way.name] == (1, 1)
    assert observed.devices[observed.far][way.name] == (1, 1)


@pytest.mark.parametrize("way", [ESP, AH], ids=lambda way: way.name)
def test_the_states_of_ipsec_counted_one_packet_each(observed: Observed, way: Way) -> None:
    states = [state for state in observed.states.split("src 10.77.") if f"proto {way.name} " in state]
    assert len(states) == 2
    for state in states:
        assert re.search(r"\d+\(bytes\), 1\(packets\)", state), state


@pytest.mark.parametrize("way", [TUN, TAP], ids=lambda way: way.name)
def test_a_ping_of_the_program_behind_a_device(observed: Observed, way: Way) -> None:
    assert observed.pings[way.name] == {"transmitted": 1, "received": 1}
    request, reply = observed.ping_blocks(way)
    for block in (request, reply):
        assert block.marks == []
        assert observed.places(block) == ["near"]
        assert way.name in {line.interface for line in block.lines}
    assert request.traces[0] == "__ip_local_out"
    assert reply.traces[0] == "netif_receive_skb"
    assert "icmp_rcv" in reply.traces


def test_headers_that_lie_in_a_page(observed: Observed) -> None:
    request = observed.only(f"ICMP: {PAGES.ip(2)} -> {PAGES.ip(1)} ping request, seq: 1, id: 77")
    reply = observed.only(f"ICMP: {PAGES.ip(1)} -> {PAGES.ip(2)} ping reply, seq: 1, id: 77")
    assert "netif_receive_skb" in request.traces
    assert [name for name in request.traces if name.startswith("icmp_")] == ["icmp_rcv", "icmp_echo"]
    assert request.traces[-1] == "consume_skb"
    assert "tun_net_xmit" in reply.traces
    assert request.marks == reply.marks == []


def test_a_closed_port_is_answered_by_an_icmp_error(observed: Observed) -> None:
    datagram = observed.only(f"UDP: {NEAR}:{observed.closed_from_port} -> {FAR}:{CLOSED_PORT}")
    error = observed.only(f"ICMP: {FAR} -> {NEAR} type: 3 (destination unreachable), code: 3")
    assert "__icmp_send" in datagram.traces
    assert datagram.traces[-1] == "kfree_skb"
    assert observed.places(datagram) == ["near", "far"]
    assert observed.places(error) == ["far", "near"]
    assert "icmp_unreach" in error.traces
    assert datagram.marks == error.marks == []


def test_a_host_that_nobody_is_is_answered_by_an_icmp_error(observed: Observed) -> None:
    assert "Destination Host Unreachable" in observed.unreachable
    request = observed.only(f"ICMP: {NEAR} -> {NOBODY} ping request, seq: 1, id: ")
    error = observed.only(f"ICMP: {FAR} -> {NEAR} type: 3 (destination unreachable), code: 1")
    at = [request.traces.index(name) for name in ("ip_forward", "neigh_resolve_output", "arp_error_report")]
    assert at == sorted(at)
    assert request.traces[-1] == "kfree_skb"
    assert observed.only(f"ARP: who has {NOBODY}, tell 10.78.0.1").marks == []
    assert observed.places(request) == ["near", "far"]
    assert observed.places(error) == ["far", "near"]
    assert request.marks == error.marks == []


def test_sctp_has_ports(observed: Observed) -> None:
    ends = f"SCTP: {NEAR}:{observed.sctp_port} -> {FAR}:{SCTP_PORT}"
    blocks = [block for block in observed.blocks if block.has(ends)]
    assert len(blocks) == observed.sctp_packets > 0
    assert [block.marks for block in blocks] == [[]] * len(blocks)


def test_a_clone_for_a_packet_socket_is_in_the_same_block(observed: Observed) -> None:
    assert observed.monitor == {"packets": 1}
    block = observed.only(f"ICMP: {NEAR} -> {FAR} ping request, seq: 1, id: ")
    original, clone = block.skbs
    (received,) = [line for line in block.lines if line.trace in ("packet_rcv", "tpacket_rcv")]
    # Who gets the clone is the kernel's choice; both are seen to the end.
    assert received.skb in (original, clone)
    assert "skb_clone" in block.traces
    assert {line.skb for line in block.lines if line.trace in ("consume_skb", "kfree_skb")} == {original, clone}
    assert block.marks == []
