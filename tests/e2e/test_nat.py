"""Through a router that translates addresses: one packet, both addresses."""

import re

import pytest

from .net import Host, ping
from .tool import Nettrace
from .traffic import UdpServer, send_udp

Routed = tuple[Host, Host, Host]


@pytest.fixture
def clean_router(routed: Routed) -> Routed:
    """The three hosts; the router without rules and connections."""
    routed[1].sh("iptables -t nat -F")
    routed[1].sh("conntrack -F", check=False)
    return routed


def test_snat_is_one_packet_with_both_sources(clean_router: Routed) -> None:
    client, router, server = clean_router
    router.sh("iptables -t nat -A POSTROUTING -o rs -j MASQUERADE")
    with Nettrace("-p", "icmp", "--addr", server.ip, "-c", "2") as trace:
        assert ping(client, server.ip) == {"transmitted": 1, "received": 1}
        assert trace.wait_end() == 0
    # What the router itself says it did.
    flow = router.sh("conntrack -L -p icmp")
    assert re.search(rf"src={client.ip} dst={server.ip} .*src={server.ip} dst=10\.0\.2\.1 ", flow), flow
    request, reply = trace.blocks
    assert ends(request.packets) == [
        f"{client.ip} -> {server.ip} ping request",
        f"10.0.2.1 -> {server.ip} ping request",
    ]
    assert ends(reply.packets) == [f"{server.ip} -> 10.0.2.1 ping reply", f"{server.ip} -> {client.ip} ping reply"]
    for block in (request, reply):
        assert "ip_forward" in block.traces
        assert block.marks == []


def test_dnat_is_one_packet_with_both_destinations(clean_router: Routed) -> None:
    client, router, server = clean_router
    server.sh("ip route replace default via 10.0.2.1")
    router.sh("iptables -t nat -A PREROUTING -p udp --dport 53 -j DNAT --to-destination 10.0.2.2:5353")
    with Nettrace("-p", "udp", "-s", client.ip, "-c", "1") as trace:
        receiver = UdpServer(server, server.ip, 5353)
        send_udp(client, "10.0.1.1", 53)
        assert receiver.datagrams() == 1
        assert trace.wait_end() == 0
    flow = router.sh("conntrack -L -p udp")
    assert re.search(
        rf"src={client.ip} dst=10\.0\.1\.1 .*dport=53 .*src={server.ip} dst={client.ip} sport=5353", flow
    ), flow
    (block,) = trace.blocks
    targets = [packet.split(" -> ")[1] for packet in block.packets]
    assert targets == ["10.0.1.1:53", "10.0.2.2:5353"]
    assert block.traces.index("ip_forward") < block.traces.index("udp_rcv")


def test_a_packet_is_matched_by_the_address_that_nat_gave_it(clean_router: Routed) -> None:
    client, router, server = clean_router
    server.sh("ip route replace default via 10.0.2.1")
    router.sh("iptables -t nat -A PREROUTING -p udp --dport 53 -j DNAT --to-destination 10.0.2.2:5353")
    with Nettrace("-p", "udp", "-d", server.ip, "-D", "5353", "-c", "1") as trace:
        receiver = UdpServer(server, server.ip, 5353)
        send_udp(client, "10.0.1.1", 53)
        assert receiver.datagrams() == 1
        assert trace.wait_end() == 0
    (block,) = trace.blocks
    assert {packet.split(" -> ")[1] for packet in block.packets} == {"10.0.2.2:5353"}
    assert block.traces[0] == "ip_forward"


def ends(packets: list[str]) -> list[str]:
    """Addresses and kind of ICMP packets, without the numbers."""
    return [packet[len("ICMP: ") :].split(",")[0] for packet in packets]
