#!/usr/bin/env python3
"""Checks that pings to an address pass a path without drops: exit status 0 or 1, and JUnit XML for a CI job.

In the job, record the flow with `nettrace -p icmp --addr 10.0.42.2 -c 2 -w flow.ntr &`, make the traffic, and then
run `check_flow.py flow.ntr 10.0.42.2 results.xml`.
"""

import sys
from xml.etree import ElementTree

import nettrace

PATH = ["ip_output", "veth_xmit", "icmp_rcv"]

file, address, junit = sys.argv[1:]
suite = ElementTree.Element("testsuite", name="flow")
with nettrace.open(file) as recording:
    for number, packet in enumerate(recording.packets(proto="icmp", daddr=address), 1):
        case = ElementTree.SubElement(suite, "testcase", classname="flow", name=f"packet {number}")
        passed = [event.trace for event in packet.events if event.trace in PATH]
        if passed != PATH or recording.drops(packet) or packet.unfinished or packet.missing:
            ElementTree.SubElement(case, "failure", message=f"passed {passed}").text = recording.text(packet)
suite.set("failures", str(len(suite.findall(".//failure"))))
suite.set("tests", str(len(suite)))
ElementTree.ElementTree(suite).write(junit, encoding="utf-8", xml_declaration=True)
print(f"{suite.get('tests')} packets, {suite.get('failures')} not as expected")
sys.exit(suite.get("failures") != "0" or not len(suite))  # nothing tested is no success
