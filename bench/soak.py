"""A long run under mixed traffic, inside a VM: python3 -m bench.soak SECONDS; exits with 1 if anything drifts.

A client behind a router with NAT floods a closed UDP port, makes TCP transfers, opens and closes connections and pings,
while nettrace runs in several modes at a time. Memory must stay flat, ids unique, and what was seen and what was
counted as lost must be what the hosts' own counters say. Writes memory.csv: seconds, then MiB of each mode.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.net import Host, hosts, join

from .guest import FLOOD

CLOSED, OPEN, REFUSED = 6201, 6202, 6203
METRICS = 9435
SAMPLE_S = 10
# How much more memory it may have in the end than after a fifth of the time.
GROWTH = 1.1

MODES = {
    "packets": "-p icmp --json",
    "diagnosis": f"--diag --json -p tcp -P {REFUSED}",
    "drop": "--drop",
    "monitor": f"--monitor --metrics {METRICS}",
}
SERVER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    peer = listener.accept()[0]
    while peer.recv(1 << 16):
        pass
    peer.close()
"""
TRANSFERS = """
import socket, sys, time
end, made = time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < end:
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as peer:
        peer.sendall(bytes(200_000))
    made += 1
print(made)
"""
REFUSALS = """
import socket, sys, time
end, made = time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < end:
    with socket.socket() as one:
        if one.connect_ex((sys.argv[1], int(sys.argv[2]))):
            made += 1
    time.sleep(0.2)
print(made)
"""
# Lines are many: they are counted on the way.
COUNT_DROPS = f"grep -c 'UDP: .*:{CLOSED} '"


class Mode:
    """One nettrace, and what reads its output."""

    def __init__(self, name: str, options: str) -> None:
        self.name = name
        self.err = Path(f"/tmp/soak-{name}.err")
        self.out = Path(f"/tmp/soak-{name}.out")
        reader = COUNT_DROPS if name == "drop" else 'grep \'"type":"packet"\'' if "--json" in options else "tail -n 3"
        words = [sys.executable, "-m", "nettrace", *options.split()]
        with self.err.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err)
            assert self.process.stdout is not None
            first = self.process.stdout.readline()
            if b"begin trace" not in first and b'"header"' not in first:
                raise SystemExit(f"{name} did not begin: {self.err.read_text()}")
            self.reader = subprocess.Popen(["sh", "-c", reader], stdin=self.process.stdout, stdout=out)
            self.process.stdout.close()

    def mib(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)
        self.reader.wait(120)

    def told(self, what: str) -> int:
        """A number of the closing line."""
        return sum(map(int, re.findall(rf"(\d+) {what}", self.err.read_text())))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.soak")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--out", type=Path, default=Path("/mnt/out"))
    asked = parser.parse_args()
    subprocess.run(["tcc", "-o", str(FLOOD), str(Path(__file__).with_name("flood.c"))], check=True)
    os.environ["NETTRACE_PROGRAM_CACHE"] = "/tmp/programs"
    with hosts("client", "router", "server"):
        join("client", "c0", ["10.0.1.2/24"], "router", "rc", ["10.0.1.1/24"])
        join("router", "rs", ["10.0.2.1/24"], "server", "s0", ["10.0.2.2/24"])
        client, router, server = Host("client", "10.0.1.2"), Host("router"), Host("server", "10.0.2.2")
        client.sh("ip route add default via 10.0.1.1")
        router.sh("sysctl -qw net.ipv4.ip_forward=1")
        router.sh("nft 'add table ip n; add chain ip n p { type nat hook postrouting priority 100; }'")
        router.sh("nft add rule ip n p oifname rs masquerade")
        listener = server.popen(sys.executable, "-c", SERVER, str(OPEN))
        assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
        modes = {name: Mode(name, MODES[name]) for name in asked.modes.split(",")}
        try:
            faults = soak(client, server, modes, asked.seconds, asked.out / "memory.csv")
        finally:
            for mode in modes.values():
                mode.process.kill()
            listener.kill()
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def soak(client: Host, server: Host, modes: Mapping[str, Mode], seconds: float, log: Path) -> list[str]:
    """Traffic for so long; what is wrong in the end."""
    noports, echoes = server.snmp("Udp", "NoPorts"), server.snmp("Icmp", "InEchos")
    pings = client.popen("ping", "-q", "-i", "0.2", "-w", str(int(seconds)), server.ip)
    traffic = [
        client.popen(str(FLOOD), "send", server.ip, str(CLOSED), str(seconds), "0"),
        client.popen(sys.executable, "-c", TRANSFERS, server.ip, str(OPEN), str(seconds)),
        client.popen(sys.executable, "-c", REFUSALS, server.ip, str(REFUSED), str(seconds)),
    ]
    memory: list[list[float]] = []
    began = time.monotonic()
    with log.open("w") as out:
        out.write(f"seconds,{','.join(modes)}\n")
        while time.monotonic() - began < seconds - 2:
            memory.append([mode.mib() for mode in modes.values()])
            out.write(",".join(f"{value:.1f}" for value in [time.monotonic() - began, *memory[-1]]) + "\n")
            out.flush()
            time.sleep(SAMPLE_S)
    sent, transfers, refused = (int(one.communicate()[0].split()[0]) for one in traffic)
    pings.communicate()
    noports, echoes = server.snmp("Udp", "NoPorts") - noports, server.snmp("Icmp", "InEchos") - echoes
    print(f"{sent} datagrams sent, {noports} refused; {transfers} transfers, {refused} refusals, {echoes} echoes")
    scraped = ""
    if "monitor" in modes:
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics") as answer:
            scraped = answer.read().decode()
    faults = []
    for mode in modes.values():
        mode.stop()
        print(f"{mode.name}: {mode.err.read_text().strip()}")
    for at, name in enumerate(modes):
        course = [row[at] for row in memory]
        early, late = max(course[: max(1, len(course) // 5)]), max(course)
        print(f"{name}: {course[0]:.0f} MiB at first, {early:.0f} at most in the first fifth, {late:.0f} in all")
        if late > early * GROWTH:
            faults.append(f"{name} grew from {early:.0f} to {late:.0f} MiB")
    faults += judged(modes, noports, echoes, refused, scraped)
    return faults


def judged(modes: Mapping[str, Mode], noports: int, echoes: int, refused: int, scraped: str) -> list[str]:
    """What was seen beside what the hosts counted."""
    faults = []

    def same(what: str, seen: int, counted: int) -> None:
        print(f"{what}: {seen} seen or counted as lost, {counted} by the host")
        if seen != counted:
            faults.append(f"{what}: {seen} instead of {counted}")

    if "drop" in modes:
        lines = int(modes["drop"].out.read_text())
        lost = modes["drop"].told("drops? lost whole") + modes["drop"].told("messages? left unread")
        total = modes["drop"].told("drops?,") + lost
        print(
            f"drop: {total} drops, {lines} of them lines about the flood, {lost} lost or unread; {noports} by the host"
        )
        # Others are dropped, too, but not many.
        if not noports + refused + echoes <= total <= 1.1 * (noports + refused + echoes):
            faults.append(f"drop: {total} drops, but {noports + refused + echoes} by the host")
    if "monitor" in modes:
        pattern = r'^nettrace_drops_total\{[^}]*reason="NO_SOCKET"[^}]*\} ([\d.e+]+)$'
        counted = sum(int(float(value)) for value in re.findall(pattern, scraped, re.MULTILINE))
        # Segments to a closed port are dropped for the same reason, and echo replies, once the raw socket had its copy.
        same("monitor: drops without a socket", counted, noports + refused + echoes)
    if "packets" in modes:
        packets = [json.loads(line) for line in modes["packets"].out.read_text().splitlines()]
        ids = {packet["id"] for packet in packets}
        if len(ids) != len(packets):
            faults.append(f"packets: {len(packets)} with {len(ids)} ids")
        requests = sum("ping request" in packet["headers"][0]["text"] for packet in packets)
        same("packets: echo requests", requests, echoes)
    if "diagnosis" in modes:
        packets = [json.loads(line) for line in modes["diagnosis"].out.read_text().splitlines()]
        told = sum(any(finding["level"] == "error" for finding in packet["findings"]) for packet in packets)
        same("diagnosis: refused connections", told, refused)
    return faults


if __name__ == "__main__":
    sys.exit(main())
