"""Two copies at once: however probes are attached and messages read, the blocks are the same, and each has its own."""

from contextlib import ExitStack

from .net import Host, ping
from .tool import Block, Nettrace

PINGS = 5


def content(blocks: list[Block]) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """All but the times: each copy reads the clock for itself."""
    return sorted((block.skbs, [(line.trace, line.packet) for line in block.lines]) for block in blocks)


def test_two_copies_with_different_filters_and_ways(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with ExitStack() as stack:
        usual, other = (
            stack.enter_context(Nettrace("-p", "icmp", *options))
            for options in (["--addr", right.ip], ["-d", right.ip, "--perf-buffer", "--backend", "kprobe"])
        )
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        usual.wait_blocks(2 * PINGS)
        other.wait_blocks(PINGS)
        for trace in (usual, other):
            assert trace.stop() == 0
    assert len(usual.blocks) == 2 * PINGS
    requests = [block for block in usual.blocks if block.has(f"{left.ip} -> {right.ip} ping request")]
    assert len(requests) == PINGS
    assert content(other.blocks) == content(requests)
