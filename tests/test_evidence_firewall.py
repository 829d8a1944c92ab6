"""The evidence of packet filters, with answers of a host made up."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from typing import Any, Union

from nettrace import ruleset
from nettrace.event import Device, Event, Packet
from nettrace.evidence import Evidence
from nettrace.evidence_firewall import Firewalls
from nettrace.inside import NoAnswer
from nettrace.nftables import Chain
from nettrace.ruleset import Answer, LegacyChain, Rule

PACKET = Packet(84, 0, 0x0800, 1, 0, 0, 84, b"\x0a\0\0\1", b"\x0a\0\0\2", bytes(16))
TIME_S = 10.0
NETNS, OWN = 0xF0000001, 0xF0000002
JUMP = (1 << 32) - 3
INPUT = Chain("inet", "fw", "input", "filter", "input", -1, "drop")


def step(trace: str, time_ns: int, **facts: Union[int, str]) -> Event:
    return Event(time_ns, trace, 1, PACKET, device=Device(2, "eth0", NETNS), facts=tuple(facts.items()))


ENTERED = step("nft_do_chain", 10, family=1, table="fw", chain="input")
JUMPED = step("nft_immediate_eval", 11, chain="input", handle=4, verdict=JUMP, target="user")
DROPPED = step("nft_immediate_eval", 12, chain="user", handle=5, verdict=0, target="junk")
GONE = step("kfree_skb", 13)


class Host:
    """Answers a question, and remembers it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[object, ...]] = []

    def ask(self, netns: int, question: object, *arguments: object, timeout_s: float) -> Any:
        assert timeout_s == TIME_S
        self.asked.append((netns, question, *arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def found(host: Host, item: Event, *events: Event, netns: int = NETNS) -> list[Evidence]:
    return list(Firewalls(OWN, TIME_S, host.ask).evidence(item, events, netns))


def test_the_rule_and_those_that_led_to_it() -> None:
    jump = Rule(4, INPUT, "tcp dport 22 jump user")
    host = Host(Answer(7, (jump, Rule(5, Chain("inet", "fw", "user"), "ip saddr 10.0.0.1 drop"))))
    expected = [
        Evidence("nft", "rule 4 of chain input (hook input, priority -1) in table inet fw: tcp dport 22 jump user"),
        Evidence("nft", "rule 5 of chain user in table inet fw decided: ip saddr 10.0.0.1 drop"),
    ]
    for item in (ENTERED, DROPPED, GONE):
        assert found(host, item, ENTERED, JUMPED, DROPPED, GONE) == expected
        assert host.asked[-1] == (NETNS, ruleset.rules, "inet", "fw", (("input", 4), ("user", 5)), None, 8.0)


def test_the_policy() -> None:
    host = Host(Answer(7, (Rule(0, INPUT, ""),)))
    assert found(host, ENTERED, ENTERED, JUMPED, netns=0) == [
        Evidence("nftables", "no rule decided: policy drop of chain input (hook input, priority -1) in table inet fw")
    ]
    assert host.asked[0][0] == OWN


def test_of_several_base_chains_the_one_before_the_end() -> None:
    later = step("nft_do_chain", 20, family=2, table="nat", chain="POSTROUTING")
    said = step("nft_immediate_eval", 21, chain="POSTROUTING", handle=9, verdict=1)
    host = Host(Answer(7, (Rule(9, None, "-A POSTROUTING -j ACCEPT", "iptables"),)))
    events = [ENTERED, DROPPED, later, said]
    assert found(host, said, *events) == [
        Evidence("iptables", "rule 9 of chain POSTROUTING in table ip nat decided: -A POSTROUTING -j ACCEPT")
    ]
    found(host, ENTERED, *events)
    assert host.asked[-1][2:5] == ("inet", "fw", (("user", 5),))


def test_a_rule_that_was_not_found() -> None:
    host = Host(Answer(7, (Rule(0, INPUT, ""),)))
    far = step("nft_immediate_eval", 12, chain="input", handle=0, verdict=0)
    (only,) = found(host, ENTERED, ENTERED, far)
    assert (
        only.text
        == "a rule of chain input (hook input, priority -1) in table inet fw decided, behind the first 1024: drop"
    )


def test_a_name_that_the_kernel_cut_is_shown_whole() -> None:
    host = Host(Answer(7, (Rule(5, Chain("inet", "fw", "user_defined"), "drop"),)))
    (only,) = found(host, ENTERED, ENTERED, DROPPED)
    assert only.text == "rule 5 of chain user_defined in table inet fw decided: drop"


def test_what_cannot_be_read_is_said() -> None:
    host = Host(NoAnswer("not within 0.5 s"))
    (only,) = found(host, ENTERED, ENTERED, DROPPED)
    assert only.text == "rule 5 of chain user in table inet fw decided: no text, not within 0.5 s"
    (first, _) = found(host, ENTERED, ENTERED, JUMPED, DROPPED)
    assert first.text == "rule 4 of chain input in table inet fw: no text, not within 0.5 s"
    (only,) = found(host, ENTERED, ENTERED)
    assert only.text == "no rule decided: the policy of chain input in table inet fw"
    host = Host(Answer(7, (Rule(5, None, "", lacking=ruleset.INSTALL_NFT, expressions=("cmp", "immediate")),)))
    (only,) = found(host, ENTERED, ENTERED, DROPPED)
    assert only.text.endswith(": no text, install nftables to see the rule's text (cmp immediate)")


def test_a_packet_that_met_no_chain() -> None:
    assert found(Host(None), GONE, GONE) == []


def test_the_rules_of_legacy_iptables() -> None:
    item = step("ipt_do_table", 10, table="filter", hook=1)
    host = Host(LegacyChain("ACCEPT", ("-A INPUT -j DROP",)))
    (only,) = found(host, item, item)
    assert only.text == "table filter, chain INPUT: only this can drop the packet there: -A INPUT -j DROP"
    assert host.asked == [(NETNS, ruleset.legacy, "ip", "filter", "INPUT", 8.0)]
    host = Host(LegacyChain("DROP", ("-A INPUT -j DROP",)))
    texts = [one.text for one in found(host, item, item)]
    assert texts == [
        "table filter, chain INPUT: the kernel does not tell which rule it was, one of 2",
        "-A INPUT -j DROP",
        "-P INPUT DROP",
    ]
    host = Host(LegacyChain("ACCEPT", ()))
    assert "nothing there drops such packets any more" in found(host, item, item)[0].text
    # The packet is a ping.
    host = Host(LegacyChain("ACCEPT", ("-A INPUT -p tcp -j DROP", "-A INPUT -p icmp -j DROP")))
    (only,) = found(host, item, item)
    assert only.text.endswith("only this can drop the packet there, of 2 that drop packets: -A INPUT -p icmp -j DROP")
    host = Host(LegacyChain("ACCEPT", ("-A INPUT -p tcp -j DROP",)))
    assert "nothing there drops such packets any more" in found(host, item, item)[0].text
    host = Host(LegacyChain("", (), "gone"))
    assert [one.text for one in found(host, item, item)] == ["table filter, chain INPUT: gone"]
