"""The measurements, made inside a VM: python3 -m bench.guest PART... writes samples, a JSON object a line.

Tools take turns: in each round each of them is started, measured and ended, so that what changes
in the machine meanwhile meets them all.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

from tests.e2e.net import Host, hosts, join

PORT = 6100
NOBODY = "192.0.2.1"  # for documentation: no packet here has it
SECONDS = 3
READY_TIMEOUT_S = 240
# How long a reader may go on with what it has, when the traffic is over.
CATCH_UP_S = 90
FLOOD = Path("/tmp/flood")
PROGRAMS = Path("/tmp/programs")  # what nettrace has compiled here


class Sample(NamedTuple):
    """One measured number."""

    part: str
    tool: str
    measure: str  # with its unit
    value: float
    round: int


@dataclass(frozen=True)
class Tool:
    """Something that traces, or nothing."""

    name: str
    command: str = ""  # for a shell's words
    ready: str = ""  # is in its output when it traces

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


def nettrace(name: str, arguments: str) -> Tool:
    return Tool(name, f"{sys.executable} -m nettrace {arguments}", "begin trace...")


def floor(arguments: str) -> Tool:
    return Tool("empty programs", f"{sys.executable} -m bench.floor {arguments}", "begin trace...")


def pwru(expression: str) -> Tool:
    return Tool("pwru", f"pwru --filter-track-skb '{expression}'", "Listening for events")


NOTHING = Tool("no tracer")
BPFTRACE_FUNCTIONS = ("ip_rcv", "ip_local_deliver", "__ip_local_out", "udp_rcv", "tcp_v4_rcv")
BPFTRACE = Tool(
    "bpftrace, 5 kprobes",
    'bpftrace -e \'interval:ms:100 { if (!@r) { @r = 1; printf("ready\\n"); } } '
    + " ".join(f"kprobe:{name} {{ if (arg0 == 1) {{ @hit[probe] = count(); }} }}" for name in BPFTRACE_FUNCTIONS)
    + "'",
    "ready",
)


class Running:
    """A tool that was started, with its output in files."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.out, self.err = Path("/tmp/bench.out"), Path("/tmp/bench.err")
        self._began = time.monotonic()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._process = subprocess.Popen(tool.words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.start_s = self._wait_ready()

    def _wait_ready(self) -> float:
        ready = self.tool.ready.encode()
        while time.monotonic() - self._began < READY_TIMEOUT_S:
            # Both files are small until then.
            if ready in self.out.read_bytes() or ready in self.err.read_bytes():
                return time.monotonic() - self._began
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self._process.kill()
        raise SystemExit(f"{self.tool.name} did not begin: {self.err.read_text(errors='replace')[-2000:]}")

    def status(self, name: str) -> float:
        """A size of /proc/PID/status, in MiB."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+)", text)[0]) / 1024

    def cpu_s(self) -> float:
        """How long its threads ran up to now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def catch_up(self) -> None:
        """Waits until it writes no more."""
        limit, size, since = time.monotonic() + CATCH_UP_S, -1, time.monotonic()
        while time.monotonic() < limit and time.monotonic() - since < 2:
            now = self.out.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
            time.sleep(0.1)

    def stop(self) -> float:
        """Ends it as Ctrl-C does; returns how long that took, in seconds."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(READY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return time.monotonic() - began


@contextmanager
def running(tool: Tool) -> Iterator[Optional[Running]]:
    """The tool while it traces; None for no tool."""
    if not tool.command:
        yield None
        return
    started = Running(tool)
    try:
        yield started
    finally:
        if started._process.poll() is None:
            started.stop()


class Bench:
    """Two hosts, a generator, and the samples so far."""

    def __init__(self, left: Host, right: Host, rounds: int, others: Sequence[Tool], out: Path) -> None:
        self.left, self.right, self.rounds, self.others = left, right, rounds, list(others)
        self._out = out
        self._takers = [
            right.popen(str(FLOOD), "take", right.ip, str(PORT)),
            right.popen("iperf3", "-s", "-B", right.ip, "--forceflush"),
        ]
        for taker in self._takers:
            assert taker.stdout is not None
            taker.stdout.readline()

    def close(self) -> None:
        for taker in self._takers:
            taker.terminate()
            taker.wait()

    def note(self, part: str, tool: Tool, turn: int, **measures: float) -> None:
        """Keeps what was measured; '_per_' in a name stands for a slash."""
        with self._out.open("a") as out:
            for measure, value in measures.items():
                out.write(json.dumps(Sample(part, tool.name, measure, value, turn)._asdict()) + "\n")
        print(
            f"{part}: {tool.name}: " + ", ".join(f"{name} {value:.6g}" for name, value in measures.items()), flush=True
        )

    def turns(self, *tools: Tool) -> Iterator[tuple[int, Tool]]:
        """Each tool in each round."""
        for turn in range(self.rounds):
            for tool in tools:
                yield turn, tool

    def flood(self, rate: int = 0, seconds: float = SECONDS) -> tuple[int, float]:
        """Sends UDP packets; returns how many, and how many a second."""
        words = [str(FLOOD), "send", self.right.ip, str(PORT), str(seconds), str(rate)]
        sent, _, took = self.left.popen(*words).communicate()[0].split()
        return int(sent), int(sent) / float(took)

    def tcp(self) -> float:
        """iperf3's bits a second."""
        text = self.left.sh(f"iperf3 -J -t {SECONDS} -c {self.right.ip}")
        return float(json.loads(text)["end"]["sum_received"]["bits_per_second"])


def forget_programs() -> None:
    """The next start of nettrace has to compile."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)


def startup(bench: Bench) -> None:
    """From the command to the first packet that could be seen, from Ctrl-C to the end, and the memory."""
    first = nettrace("nettrace, first start", f"-p udp --addr {NOBODY}")
    again = replace(first, name="nettrace, from its cache")
    drop = nettrace("nettrace --drop", "--drop")
    tools = [first, again, drop, pwru(f"udp and host {NOBODY}"), BPFTRACE, *bench.others]
    for turn, tool in bench.turns(*tools):
        if tool is first:
            forget_programs()
        elif tool is drop:
            Running(tool).stop()  # so that this one comes from the cache, too
        with running(tool) as run:
            assert run is not None
            memory = {"start_mib": run.status("VmRSS"), "most_mib": run.status("VmHWM")}
            bench.note("startup", tool, turn, start_s=run.start_s, exit_s=run.stop(), **memory)
    for turn in range(bench.rounds):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "nettrace", "-h"], stdout=subprocess.DEVNULL, check=True)
        bench.note("startup", Tool("nettrace -h"), turn, start_s=time.monotonic() - began)


def cost(bench: Bench) -> None:
    """What traffic loses that the filter does not match."""
    mine = f"--force --addr {NOBODY}"
    tools = [NOTHING, floor(mine), nettrace("nettrace", mine), pwru(f"host {NOBODY}"), BPFTRACE, *bench.others]
    for turn, tool in bench.turns(*tools):
        with running(tool):
            bench.note("cost", tool, turn, udp_packets_per_s=bench.flood()[1], tcp_bits_per_s=bench.tcp())


def matching(bench: Bench) -> None:
    """Every packet of a flood matches and is followed, as text into a file."""
    expression = f"udp and dst port {PORT}"
    tools = [nettrace("nettrace", f"-p udp -D {PORT}"), pwru(expression), *bench.others]
    for rate in (500, 2000, 0):
        part = f"matching at {rate} packets/s" if rate else "matching at full speed"
        for turn, tool in bench.turns(*tools):
            if tool.name == "pwru" and not rate and turn:
                continue  # it is far behind after the first flood
            with running(tool) as run:
                assert run is not None
                before = run.cpu_s()
                sent = bench.flood(rate)[0]
                run.catch_up()
                cpu_s = run.cpu_s() - before
                most_mib = run.status("VmHWM")
                run.stop()
                followed, lost = seen(run)
                bench.note(
                    part, tool, turn, sent=sent, followed=followed, lost=lost,
                    cpu_us_per_packet=cpu_s * 1e6 / max(1, followed), most_mib=most_mib,
                )  # fmt: skip


def seen(run: Running) -> tuple[int, int]:
    """How many packets a tool followed, by what it wrote, and how many it says that it lost."""
    if "nettrace" in run.tool.name:
        with run.out.open("rb") as out:
            followed = sum(line.startswith(b"*****************") for line in out)
        told = run.err.read_text()
        missing = ("packets? lost whole", "packets? not followed for want of room", "skbs? pushed out")
        return followed, sum(int(count) for what in missing for count in re.findall(rf"(\d+) {what}", told))
    with run.out.open("rb") as out:
        skbs = {line.split(b" ", 1)[0] for line in out if line.startswith(b"0x")}
        out.seek(0)
        # Its addresses are used again: the packets are as many as their first functions.
        followed = sum(b" __ip_local_out(" in line or b" __ip_local_out " in line for line in out) or len(skbs)
    return followed, 0


def modes(bench: Bench) -> None:
    """What traffic loses where the tool looks at all of it, without telling each packet's steps."""
    mine = f"-p udp -D {PORT}"
    tools = [
        NOTHING,
        nettrace("nettrace --drop", "--drop"),
        nettrace("nettrace --monitor", "--monitor"),
        nettrace("nettrace --latency", f"--latency --min-latency 100000 {mine}"),
        nettrace("nettrace --latency-summary", f"--latency-summary {mine}"),
        nettrace("nettrace --func-stats", f"--func-stats {mine}"),
        nettrace("nettrace --paths", f"--paths {mine}"),
    ]
    for turn, tool in bench.turns(*tools):
        with running(tool):
            bench.note("modes", tool, turn, udp_packets_per_s=bench.flood()[1], tcp_bits_per_s=bench.tcp())


def growth(bench: Bench) -> None:
    """How the cost grows with the traces, and with the packets that are on their way."""
    by_traces = [nettrace(str(count), f"--force --addr {NOBODY} -t {some_traces(count)}") for count in (10, 80, 300)]
    for turn, tool in bench.turns(NOTHING, *by_traces):
        with running(tool):
            bench.note("growth with traces", tool, turn, udp_packets_per_s=bench.flood()[1])
    held = (10, 1000, 10_000, 100_000)
    follower = nettrace("nettrace", f"-p udp -D {PORT}")
    for turn, count in ((turn, count) for turn in range(bench.rounds) for count in held):
        tool = Tool(str(count))
        with holding(count) as hold, running(follower) as run:
            assert run is not None
            hold()
            before = run.cpu_s()
            sent = bench.flood(500)[0]
            run.catch_up()
            cpu_us = (run.cpu_s() - before) * 1e6 / sent
            bench.note("growth with open packets", tool, turn, cpu_us_per_packet=cpu_us, mib=run.status("VmRSS"))


def some_traces(count: int) -> str:
    """So many traces that this kernel has, spread over the tree."""
    words = [sys.executable, "-m", "nettrace", "-t", "?", "--json"]
    told = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    there = [trace["name"] for trace in told["traces"] if trace["how"] and not trace["missing"]]
    return ",".join(there[:: max(1, len(there) // count)][:count])


@contextmanager
def holding(count: int) -> Iterator[Callable[[], None]]:
    """A way to have so many matching packets wait in a qdisc of a host aside."""
    with hosts("aside", "beyond"):
        join("aside", "a0", ["10.77.0.1/24"], "beyond", "b0", ["10.77.0.2/24"])
        aside = Host("aside", "10.77.0.1")
        aside.sh(f"tc qdisc add dev a0 root netem delay 300s limit {count * 2}")
        aside.sh("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev a0 nud permanent")
        # Of one socket only so many may wait to be sent.
        sender = (
            f"import socket\nfor n in range(0, {count}, 100):\n"
            " s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f" for m in range(min(100, {count} - n)): s.sendto(b'x', ('10.77.0.2', {PORT}))"
        )

        def hold() -> None:
            told = aside.popen(sys.executable, "-c", sender).communicate()[0]
            assert not told, told

        yield hold


PARTS = {"startup": startup, "cost": cost, "matching": matching, "modes": modes, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.guest")
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tool", action="append", default=[], help="NAME=READY=COMMAND: another tool to be measured")
    parser.add_argument("--out", type=Path, default=Path("/mnt/out/samples.jsonl"))
    asked = parser.parse_args()
    os.environ["NETTRACE_PROGRAM_CACHE"] = str(PROGRAMS)
    subprocess.run(["tcc", "-O2", "-o", str(FLOOD), str(Path(__file__).with_name("flood.c"))], check=True)
    others = [Tool(name, command, ready) for name, ready, command in (one.split("=", 2) for one in asked.tool)]
    with hosts("left", "right"):
        join("left", "l0", ["10.0.42.1/24"], "right", "r0", ["10.0.42.2/24"])
        bench = Bench(Host("left", "10.0.42.1"), Host("right", "10.0.42.2"), asked.rounds, others, asked.out)
        try:
            for part in asked.parts:
                PARTS[part](bench)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
