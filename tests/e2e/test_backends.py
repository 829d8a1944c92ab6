"""However probes are attached and messages are read, the same traffic gives the same blocks."""

from contextlib import ExitStack

from .net import Host, ping
from .tool import Block, Nettrace

PINGS = 5
FILTER = ("-p", "icmp", "--addr", "10.0.42.2")


def content(blocks: list[Block]) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """All but the times: each copy reads the clock for itself."""
    return sorted((block.skbs, [(line.trace, line.packet) for line in block.lines]) for block in blocks)


def test_every_way_gives_the_same_blocks(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with ExitStack() as stack:
        usual, perf, single = (
            stack.enter_context(Nettrace(*FILTER, *options))
            for options in ([], ["--perf-buffer"], ["--backend", "kprobe"])
        )
        assert ping(left, right.ip, PINGS)["received"] == PINGS
        for trace in (usual, perf, single):
            trace.wait_blocks(2 * PINGS)
            assert trace.stop() == 0
    assert len(usual.blocks) == 2 * PINGS
    assert content(perf.blocks) == content(usual.blocks)
    assert content(single.blocks) == content(usual.blocks)
