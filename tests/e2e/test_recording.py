"""A run that is shown as JSON and recorded at the same time, and what its recording shows: on this kernel, the same.

Each start serves all questions about its mode. What must be the same is compared with what the run itself printed.
"""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import json
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .. import pcapng
from .net import Host, ping
from .tool import CHECKOUT, Nettrace, checked
from .traffic import send_udp, tcp

OUT = Path("/mnt/out")
PORT, CLOSED = 6042, 6043
SNAPLEN = 512
IPV4 = bytes([8, 0])  # as EtherType


@dataclass
class Run:
    """What a run printed, and its recording."""

    path: Path
    trace: Nettrace

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in (self.trace.first, *self.trace.output))

    @property
    def objects(self) -> list[dict[str, Any]]:
        return self.trace.objects

    def replay(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """What the recording shows, to somebody who is not root and cannot ask this host for anything."""
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-B", "-m", "nettrace",
             "-r", str(self.path), *arguments],
            cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        checked(arguments, done.stdout.splitlines())
        return done


def recorded(trace: Nettrace, path: Path) -> Run:
    """After the run; its recording is for everybody to read now, and kept."""
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    for folder in list(path.parents)[:3]:
        folder.chmod(0o755)
    if OUT.is_dir():
        shutil.copy(path, OUT)
        (OUT / f"{path.name}.out").write_text(Run(path, trace).text)
    return Run(path, trace)


@contextmanager
def sniffed(host: Host, interface: str, path: Path) -> Iterator[None]:
    """Writes what a packet socket gets at a device to a file."""
    command = [*host.within, "tcpdump", "-n", "-U", "-Z", "root", "--immediate-mode", "-s", "0", "-i", interface]
    with subprocess.Popen([*command, "-w", str(path)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "listening on" not in (line := process.stderr.readline()):
            assert line, "tcpdump ended"
        yield
        process.terminate()


def frames(path: Path) -> list[bytes]:
    """What a pcap file holds."""
    raw = path.read_bytes()
    assert raw[:4] == bytes.fromhex("d4c3b2a1")
    found, at = [], 24
    while at < len(raw):
        taken, whole = struct.unpack_from("<II", raw, at + 8)
        assert taken == whole
        found.append(raw[at + 16 : at + 16 + taken])
        at += 16 + taken
    return found


def is_filled_in(packet: bytes) -> bool:
    """Whether an IP header, without options, has its checksum."""
    total = sum(struct.unpack_from(">10H", packet))
    return (total & 0xFFFF) + (total >> 16) == 0xFFFF


@pytest.fixture(scope="module")
def diagnosed(
    pair: tuple[Host, Host], kernel_has_reasons: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """--diag of what arrives and of what nobody wants, as JSON, with the packets themselves."""
    left, right = pair
    path = tmp_path_factory.mktemp("diag") / "diag.ntr"
    arguments = ["--json", "--diag-keep", "--detail", "--ret", "--evidence-time", "30", "--addr", right.ip]
    arguments += ["--pcap", str(path.with_name("diag.pcapng")), "--snaplen", str(SNAPLEN)]
    with sniffed(right, "r0", path.with_name("diag.pcap")), Nettrace(*arguments, "-w", str(path)) as trace:
        assert ping(left, right.ip)["received"] == 1
        # Nothing more has to come for a packet to be shown.
        trace.wait_line("ping reply")
        tcp(left, right, right.ip, PORT, 1000)
        send_udp(left, right.ip, CLOSED)
        trace.wait_line('"name":"NO_SOCKET"' if kernel_has_reasons else f":{CLOSED}")
        trace.stop()
    assert trace.returncode == 0, trace.stderr
    yield recorded(trace, path)


def test_packets_are_those_of_a_packet_socket(diagnosed: Run) -> None:
    path = diagnosed.path.with_name("diag.pcapng")
    if OUT.is_dir():
        shutil.copy(path, OUT)
        shutil.copy(path.with_suffix(".pcap"), OUT)
    wire = frames(path.with_suffix(".pcap"))
    to_right = [each for each in wire if each[12:14] == IPV4 and each[30:34] == bytes([10, 0, 42, 2])]
    written = pcapng.packets(path.read_bytes())
    at_the_door = [
        each for each in written
        if each.interface.name == "netif_receive_skb" and ", r0@right" in each.comment and each.data[12:14] == IPV4
    ]  # fmt: skip
    assert sorted(each.data for each in at_the_door) == sorted(each[:SNAPLEN] for each in to_right)
    assert sorted(each.length for each in at_the_door) == sorted(map(len, to_right))
    assert {each[23] for each in to_right} == {1, 6, 17} and max(map(len, to_right)) > 1000

    # Elsewhere, too, they are these, but for what comes before the IP header and while that is not filled in.
    known = {each[14:] for each in wire}
    whole = 0
    for each in written:
        assert len(each.data) == min(each.length, SNAPLEN)
        own = each.data if each.interface.link == 101 else each.data[14:] if each.data[12:14] == IPV4 else b""
        if own and is_filled_in(own):
            assert any(one[: len(own)] == own for one in known), each
            whole += 1
    assert whole > len(written) / 2
    assert {each.interface.link for each in written} == {1, 101}
    assert {"ip_output", "ip_rcv_core", "net_dev_start_xmit", "udp_rcv"} <= {each.interface.name for each in written}


def test_packets_say_what_became_of_them(diagnosed: Run, kernel_has_reasons: bool) -> None:
    written = pcapng.packets(diagnosed.path.with_name("diag.pcapng").read_bytes())
    told = {each["id"]: each for each in diagnosed.objects if each["type"] == "packet"}
    assert {str(each.packet_id) for each in written} == told.keys()
    for each in written:
        steps = told[str(each.packet_id)]["steps"]
        times = {int(step["time_ns"]) for step in steps if step["trace"] == each.interface.name}
        offset = int(diagnosed.objects[0]["clock_offset_ns"])
        assert min(abs(each.time - offset - time) for time in times) < 100_000_000
    dropped = [each.comment for each in written if ", dropped at " in each.comment]
    assert dropped
    if kernel_has_reasons:
        assert any("NO_SOCKET" in comment and "; error: " in comment for comment in dropped)


def test_packets_of_a_recording(diagnosed: Run) -> None:
    with (diagnosed.path.with_name("again.pcapng")).open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "nettrace", "-r", str(diagnosed.path), "--diag-keep", "--pcap", "-"],
            cwd=CHECKOUT, stdout=file, check=True,
        )  # fmt: skip
    path = diagnosed.path.with_name("diag.pcapng")
    again = path.with_name("again.pcapng")
    assert again.read_bytes() == path.read_bytes()
    points = path.with_name("points.pcapng")
    subprocess.run(
        [sys.executable, "-m", "nettrace", "-r", str(diagnosed.path), "--json", "--pcap", str(points), "--pcap-at",
         "netif_receive_skb"],
        cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    lines = subprocess.run(
        ["tcpdump", "-n", "-r", str(points)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    assert any("> 10.0.42.2: ICMP echo request" in line for line in lines)
    assert any(f"> 10.0.42.2.{CLOSED}: UDP, length 8" in line for line in lines)


def test_json_is_the_same_again(diagnosed: Run) -> None:
    again = diagnosed.replay("--json", "--diag-keep", "--detail", "--ret")
    assert again.stdout == diagnosed.text
    assert again.stderr == diagnosed.trace.stderr


def test_text_and_json_tell_the_same(diagnosed: Run) -> None:
    text = diagnosed.replay("--diag-keep").stdout
    packets = [each for each in diagnosed.objects if each["type"] == "packet"]
    assert text.count("***************** ") == len(packets) > 5
    rest = text
    for each in packets:
        header = ",".join(f"{int(skb, 16) & 0xFFFFFFFF:08x}" for skb in each["skbs"])
        block, _, rest = rest.partition(f"***************** {header} ***************\n")[2].partition(
            "\n***************** "
        )
        rest = "***************** " + rest
        lines = [line for line in block.split("\n\n")[0].splitlines() if line.startswith("[")]
        assert len(lines) == len(each["steps"])
        for line, step in zip(lines, each["steps"]):
            assert f"[{step['trace']:<20}]" in line
            assert each["headers"][step["headers"]]["text"] in line
        for finding in each["findings"]:
            if finding["level"] != "info":
                assert f"{finding['trace']}({finding['group']})" in block
                for proof in finding["evidence"]:
                    assert proof["text"] in block


def test_a_packet_that_died_has_its_findings(diagnosed: Run, kernel_has_reasons: bool) -> None:
    died = [
        each for each in diagnosed.objects
        if each["type"] == "packet" and any(finding["root"] for finding in each["findings"])
    ]  # fmt: skip
    if kernel_has_reasons:
        assert {finding["name"] for each in died for finding in each["findings"]} >= {"NO_SOCKET"}
        assert any(finding["evidence"] for each in died for finding in each["findings"])


def test_its_page_has_all_of_it(diagnosed: Run) -> None:
    path = diagnosed.path.with_name("diag.html")
    subprocess.run(
        [sys.executable, "-m", "nettrace", "-r", str(diagnosed.path), "--report", str(path)], cwd=CHECKOUT, check=True
    )
    (text,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    page = json.loads(text)
    packets = [each for each in diagnosed.objects if each["type"] == "packet"]
    assert page["counts"]["packets"] == len(packets) == len(page["packets"])
    assert page["counts"]["events"] == sum(len(each["steps"]) for each in packets)
    assert sorted(each["skbs"] for each in page["packets"]) == sorted(each["skbs"] for each in packets)
    found = Counter(finding["name"] for each in packets for finding in each["findings"])
    assert {kind["name"] for kind in page["findings"]} <= found.keys()


def test_a_recording_can_be_filtered(diagnosed: Run) -> None:
    packets = [each for each in diagnosed.objects if each["type"] == "packet"]
    tcp_packets = [each for each in packets if any(PORT in (h["sport"], h["dport"]) for h in each["headers"])]
    shown = diagnosed.replay("-P", str(PORT), "--latency-show").stdout
    assert shown.count("total latency: ") == len(tcp_packets) > 5
    # Of headers that were built as of those that were not yet.
    assert diagnosed.replay(f"tcp port {PORT}", "--latency-show").stdout == shown


def test_some_traces_of_a_recording(diagnosed: Run) -> None:
    steps = [step for each in diagnosed.objects if each["type"] == "packet" for step in each["steps"]]
    shown = diagnosed.replay("-t", "tcp-in,life", "--trace-exclude", "skb_clone").stdout
    traces = [line.split("[")[2].split("]")[0].strip() for line in shown.splitlines() if line.startswith("[")]
    wanted = [step["trace"] for step in steps if step["group"] in ("tcp-in", "life") and step["trace"] != "skb_clone"]
    assert Counter(traces) == Counter(wanted) and "tcp_v4_rcv" in traces


def test_the_header_tells_of_the_run(diagnosed: Run) -> None:
    header, *_, summary = diagnosed.objects
    assert (header["type"], header["format"], summary["type"]) == ("header", 1, "summary")
    assert header["kernel"] == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert header["command"][0] == "--json"
    assert len(header["traces"]) > 100
    assert len(header["skipped"]) == summary["skipped"]


@pytest.fixture(scope="module")
def dropped(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """--drop as text, with call stacks and process names."""
    left, right = pair
    path = tmp_path_factory.mktemp("drop") / "drop.ntr"
    with Nettrace("--drop-stack", "--detail", "-v", "-p", "udp", "-D", str(CLOSED), "-w", str(path)) as trace:
        send_udp(left, right.ip, CLOSED)
        trace.wait_line("Call Stack:")
        trace.stop()
    assert trace.returncode == 0, trace.stderr
    yield recorded(trace, path)


def test_drops_with_call_stacks_are_the_same_again(dropped: Run) -> None:
    again = dropped.replay("--detail", "-v")
    assert again.stdout == dropped.text
    assert f":{CLOSED}" in again.stdout and "    -> [" in again.stdout


@pytest.fixture(scope="module")
def killed(pair: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of --basic that is killed after its first hits."""
    left, right = pair
    path = tmp_path_factory.mktemp("basic") / "basic.ntr"
    with Nettrace("--basic", "-p", "icmp", "-t", "icmp,ip-in", "-w", str(path)) as trace:
        assert ping(left, right.ip)["received"] == 1
        trace.wait_line("ping reply")
        trace.kill()
    yield recorded(trace, path)


def test_what_a_killed_run_showed_is_in_its_recording(killed: Run) -> None:
    again = killed.replay(status=1)
    # Of the last hits, some may be recorded and not be shown any more.
    assert again.stdout.startswith(killed.text)
    assert f"{killed.path} has no end: the run still goes on, or it was killed" in again.stderr


def test_in_ten_lines_of_python(diagnosed: Run) -> None:
    program = f"""
import nettrace
with nettrace.open({str(diagnosed.path)!r}) as recording:
    for packet in recording:
        print(packet.packet_id, len(packet.events), len(recording.findings(packet)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    expected = [
        f"{each['id']} {len(each['steps'])} {len(each['findings'])}"
        for each in diagnosed.objects
        if each["type"] == "packet"
    ]
    assert done.stdout.splitlines() == expected
