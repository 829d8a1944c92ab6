"""Which rules, as iptables-save prints them, may be for a packet."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import pytest

from nettrace.event import Packet
from nettrace.iptables import may_fit

from .headers import IP, UDP, ipv6, packet, ports

QUESTION = packet(IP, UDP, ports(4444, 53), source="10.1.2.3", target="192.0.2.1")
REST = packet(IP, UDP, fragment_offset=1480, source="10.1.2.3", target="192.0.2.1")
QUESTION6 = ipv6(UDP, ports(4444, 53), source="2001:db8::5", target="2001:db8::1")


@pytest.mark.parametrize(
    ("one", "conditions", "fits"),
    [
        (QUESTION, "", True),
        (QUESTION, "-p udp -m udp --dport 53", True),
        (QUESTION, "-p udp -m udp --dport 54", False),
        (QUESTION, "-p udp -m udp ! --dport 54", True),
        (QUESTION, "-p udp -m udp ! --dport 53", False),
        (QUESTION, "-p udp -m udp --sport 4000:5000 --dport 1:53", True),
        (QUESTION, "-p udp -m udp --sport 4445:5000", False),
        (QUESTION, "-p udp -m multiport --dports 80,50:60,443", True),
        (QUESTION, "-p udp -m multiport --dports 80,443", False),
        (QUESTION, "-p tcp", False),
        (QUESTION, "! -p tcp", True),
        (QUESTION, "-p 17", True),
        (QUESTION, "-s 10.0.0.0/8 -d 192.0.2.1/32", True),
        (QUESTION, "-s 10.2.0.0/16", False),
        (QUESTION, "! -s 10.2.0.0/16", True),
        (QUESTION, "! -d 192.0.2.0/24 -p udp", False),
        # What is not known rules nothing out, whichever way it is meant.
        (QUESTION, "-s 10.0.0.9/255.0.0.255", True),
        (QUESTION, "! -s 10.0.0.9/255.0.0.255", True),
        (QUESTION, "-p nosuchprotocol", True),
        (QUESTION, "-m conntrack --ctstate NEW -m comment --comment \"not -p tcp\"", True),
        (REST, "-p udp -m udp --dport 54", True),
        (REST, "-p tcp -m tcp --dport 54", False),
        (QUESTION6, "-s 2001:db8::/64 -p udp -m udp --dport 53", True),
        (QUESTION6, "-d 2001:db8:1::/64", False),
        (QUESTION6, "-s 10.0.0.0/8", False),
    ],
)  # fmt: skip
def test_rules_that_may_fit(one: Packet, conditions: str, fits: bool) -> None:
    assert may_fit(f"-A INPUT {conditions} -j DROP", one) is fits
