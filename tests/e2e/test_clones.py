"""Packets that the kernel copies."""

from .net import Host, ping
from .tool import Nettrace
from .traffic import Peer


def test_a_clone_for_a_packet_socket_is_in_the_same_block(pair: tuple[Host, Host]) -> None:
    left, right = pair
    ping(left, right.ip)  # the neighbours know each other: no copies for that
    with Nettrace("-p", "icmp", "-s", left.ip, "-d", right.ip, "--detail", "-c", "1") as trace:
        monitor = Peer(right, "sniff", "r0", "1")
        assert ping(left, right.ip)["received"] == 1
        assert monitor.result() == {"packets": 1}
        assert trace.wait_end() == 0
    (block,) = trace.blocks
    original, clone = block.skbs
    (received,) = [line for line in block.lines if line.trace in ("packet_rcv", "tpacket_rcv")]
    # Who gets the clone is the kernel's choice; both are seen to the end.
    assert received.skb in (original, clone)
    assert "skb_clone" in block.traces
    assert {line.skb for line in block.lines if line.trace in ("consume_skb", "kfree_skb")} == {original, clone}
    assert block.marks == []


def test_without_clones_each_skb_is_by_itself(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with Nettrace("-p", "icmp", "-s", left.ip, "-d", right.ip, "--trace-noclone", "-c", "1") as trace:
        monitor = Peer(right, "sniff", "r0", "1")
        assert ping(left, right.ip)["received"] == 1
        assert monitor.result() == {"packets": 1}
        assert trace.wait_end() == 0
    (block,) = trace.blocks
    assert len(block.skbs) == 1
    assert block.packets[0].startswith(f"ICMP: {left.ip} -> {right.ip} ping request")
