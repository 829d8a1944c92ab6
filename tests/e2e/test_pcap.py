"""Packets themselves, through a pipe, while nettrace runs; see test_recording.py for those in files."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import subprocess
import sys

from .. import pcapng
from .net import Host, ping
from .tool import CHECKOUT, EXIT_TIMEOUT_S, Nettrace


def test_packets_reach_tcpdump_while_nettrace_runs(pair: tuple[Host, Host]) -> None:
    left, right = pair
    Nettrace.starts += 1
    command = ["--basic", "-p", "icmp", "-d", right.ip, "-t", "netif_receive_skb", "--pcap", "-"]
    nettrace = subprocess.Popen(
        [sys.executable, "-m", "nettrace", *command],
        cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    tcpdump = subprocess.Popen(
        ["tcpdump", "-n", "-l", "-r", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    with nettrace, tcpdump:
        assert nettrace.stdout and nettrace.stderr and tcpdump.stdin and tcpdump.stdout
        begin = os.read(nettrace.stdout.fileno(), 1 << 16)
        assert pcapng.packets(begin) == [] and begin, nettrace.stderr.read()
        assert ping(left, right.ip)["received"] == 1
        packet = os.read(nettrace.stdout.fileno(), 1 << 16)
        assert len(pcapng.packets(begin + packet)) == 1
        tcpdump.stdin.write(begin + packet)
        assert b"10.0.42.1 > 10.0.42.2: ICMP echo request" in tcpdump.stdout.readline()
        tcpdump.stdin.close()
        assert tcpdump.wait(60) == 0
        nettrace.terminate()
        assert nettrace.wait(EXIT_TIMEOUT_S) == 0
        assert b"\n" not in nettrace.stdout.read()
        assert nettrace.stderr.read().startswith(b"1 event, 0 messages lost")
