"""Through a router that translates addresses: one packet, both addresses."""

import re

import pytest

from .net import Host, ping
from .tool import Block, Nettrace

Routed = tuple[Host, Host, Host]


@pytest.fixture(scope="module")
def translating(routed: Routed) -> Routed:
    """The three hosts; the router hides the client, and passes on what comes for itself."""
    _, router, _ = routed
    router.sh("iptables -t nat -A POSTROUTING -o rs -j MASQUERADE")
    router.sh("iptables -t nat -A PREROUTING -p icmp -d 10.0.1.1 -j DNAT --to-destination 10.0.2.2")
    return routed


def flow(router: Host, expected: str) -> None:
    """What the router itself says it did."""
    flows = router.sh("conntrack -L -p icmp")
    assert re.search(expected, flows), flows


@pytest.fixture(scope="module")
def to_the_server(translating: Routed) -> list[Block]:
    """The packets that had the server's address at some time: of a ping to it, and of one to the router."""
    client, router, server = translating
    with Nettrace("-p", "icmp", "--addr", server.ip, "-c", "4") as trace:
        assert ping(client, server.ip) == {"transmitted": 1, "received": 1}
        assert ping(client, "10.0.1.1") == {"transmitted": 1, "received": 1}
        assert trace.wait_end() == 0
    flow(router, rf"src={client.ip} dst={server.ip} .*src={server.ip} dst=10\.0\.2\.1 ")
    flow(router, rf"src={client.ip} dst=10\.0\.1\.1 .*src={server.ip} dst=10\.0\.2\.1 ")
    for block in trace.blocks:
        assert "ip_forward" in block.traces
        assert block.marks == []
    return trace.blocks


def test_snat_is_one_packet_with_both_sources(to_the_server: list[Block]) -> None:
    request, reply, _, _ = to_the_server
    assert ends(request) == ["10.0.1.2 -> 10.0.2.2 ping request", "10.0.2.1 -> 10.0.2.2 ping request"]
    assert ends(reply) == ["10.0.2.2 -> 10.0.2.1 ping reply", "10.0.2.2 -> 10.0.1.2 ping reply"]


def test_a_packet_is_matched_by_the_address_that_nat_gave_it(to_the_server: list[Block]) -> None:
    _, _, request, reply = to_the_server
    assert request.traces[0] == "ip_forward"
    assert ends(request) == ["10.0.1.2 -> 10.0.2.2 ping request", "10.0.2.1 -> 10.0.2.2 ping request"]
    assert ends(reply)[0] == "10.0.2.2 -> 10.0.2.1 ping reply"
    assert ends(reply)[-1] == "10.0.1.1 -> 10.0.1.2 ping reply"


def test_dnat_is_one_packet_with_both_destinations_and_a_count_ends_the_run(translating: Routed) -> None:
    client, _, _ = translating
    with Nettrace("-p", "icmp", "-s", client.ip, "-c", "2") as trace:
        pinger = client.popen("ping", "-n", "-i", "0.2", "-c", "500", "10.0.1.1")
        assert trace.wait_end() == 0
        # There was more to come.
        assert pinger.poll() is None
        pinger.terminate()
        pinger.communicate()
    first, second = trace.blocks
    for number, block in enumerate((first, second), 1):
        targets = ["10.0.1.2 -> 10.0.1.1", "10.0.1.2 -> 10.0.2.2", "10.0.2.1 -> 10.0.2.2"]
        assert ends(block) == [f"{target} ping request" for target in targets]
        assert all(f", seq: {number}, " in packet for packet in block.packets)
        assert block.traces.index("ip_forward") < block.traces.index("icmp_rcv")
    assert trace.summary("packets") == 2


def ends(block: Block) -> list[str]:
    """Addresses and kind of an ICMP packet on its way, without the numbers."""
    return [packet[len("ICMP: ") :].split(",")[0] for packet in block.packets]
