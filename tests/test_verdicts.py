"""Decisions of nftables, from steps as the kernel's rules of walking chains make them."""

from typing import Union

import pytest

from nettrace import analyzers
from nettrace.analyzers import Told
from nettrace.event import Device, Event, Packet
from nettrace.verdicts import Place, decisions

PACKET = Packet(84, 0, 0x0800, 1, 0, 0, 84, b"\x0a\0\0\1", b"\x0a\0\0\2", bytes(16))
DROP, ACCEPT, STOLEN = 0, 1, 2
JUMP, GOTO, RETURN = ((1 << 32) - number for number in (3, 4, 5))


def step(trace: str, skb: int = 1, **facts: Union[int, str]) -> Event:
    return Event(7, trace, skb, PACKET, device=Device(2, "eth0", 0xF0000001), facts=tuple(facts.items()))


def enters(base: str, table: str = "fw", family: int = 1, skb: int = 1) -> Event:
    return step("nft_do_chain", skb, family=family, table=table, chain=base)


def says(chain: str, handle: int, verdict: int, target: str = "", skb: int = 1) -> Event:
    return step("nft_immediate_eval", skb, chain=chain, handle=handle, verdict=verdict, target=target)


def test_a_rule_of_the_base_chain() -> None:
    (decision,) = decisions([step("ip_rcv"), enters("input"), says("input", 4, DROP, "junk"), step("kfree_skb")])
    assert (decision.netns, decision.family, decision.table, decision.base) == (0xF0000001, "inet", "fw", "input")
    assert (decision.jumps, decision.rule, decision.verdict) == ((), Place("input", 4), "drop")
    assert decision.places == (("input", 4),)


def test_a_rule_behind_two_jumps() -> None:
    steps = [enters("input"), says("input", 4, JUMP, "a"), says("a", 5, JUMP, "b"), says("b", 6, DROP)]
    (decision,) = decisions(steps)
    assert decision.places == (("input", 4), ("a", 5), ("b", 6))


def test_a_chain_that_came_to_its_end_did_not_lead_there() -> None:
    steps = [
        enters("input"), says("input", 4, JUMP, "a"), says("a", 5, JUMP, "b"), says("a", 7, JUMP, "c"),
        says("c", 8, ACCEPT),
    ]  # fmt: skip
    assert decisions(steps)[0].places == (("input", 4), ("a", 7), ("c", 8))
    assert decisions([*steps[:3], says("input", 9, DROP)])[0].places == (("input", 9),)


def test_goto_and_return() -> None:
    steps = [enters("input"), says("input", 4, JUMP, "a"), says("a", 5, GOTO, "b"), says("b", 6, RETURN)]
    assert decisions([*steps, says("input", 9, DROP)])[0].places == (("input", 9),)
    assert decisions([*steps[:3], says("b", 6, DROP)])[0].places == (("input", 4), ("a", 5), ("b", 6))


def test_the_policy_decides_when_no_rule_did() -> None:
    (decision,) = decisions([enters("input"), says("input", 4, JUMP, "a"), says("a", 5, RETURN)])
    assert (decision.rule, decision.jumps, decision.verdict) == (None, (), "")
    assert decision.places == (("input", 0),)


def test_each_base_chain_and_each_clone_for_itself() -> None:
    steps = [
        enters("prerouting"), enters("input", skb=2), says("input", 3, ACCEPT, skb=2), says("prerouting", 1, ACCEPT),
        enters("forward", "filter", 2), says("FORWARD", 2, DROP),
    ]  # fmt: skip
    found = decisions(steps)
    assert [(one.skb, one.family, one.base, one.verdict) for one in found] == [
        (1, "inet", "prerouting", "accept"), (2, "inet", "input", "accept"), (1, "ip", "forward", "drop"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "verdict"), [(DROP, "drop"), (STOLEN, "stolen"), (3 | 7 << 16, "queue"), (1 << 16 | STOLEN, "stolen")]
)
def test_verdicts_by_name(code: int, verdict: str) -> None:
    assert decisions([enters("input"), says("input", 4, code)])[0].verdict == verdict


def test_a_rule_that_was_not_found() -> None:
    (decision,) = decisions([enters("input"), says("input", 4, JUMP, "a"), says("", 0, DROP)])
    assert decision.places == (("input", 4), ("", 0))


def test_other_facts_are_left_alone() -> None:
    assert decisions([step("qdisc_enqueue", handle=1), step("ipt_do_table", table="filter", hook=1)]) == []


def test_a_step_says_which_rule_it_was() -> None:
    assert analyzers.tell(says("a", 5, JUMP, "b")) == (Told("rule", "chain:a, handle:5, verdict:jump b"),)
    assert analyzers.tell(says("b", 6, DROP, "junk")) == (Told("rule", "chain:b, handle:6, verdict:drop"),)
