"""Packets in pcapng files: what is written is read by tcpdump, tshark and a reader of the tests' own."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from socket import inet_aton
from typing import Any, Optional

import pytest

from nettrace.event import Event, Frame, Record
from nettrace.recorder import Recorder
from nettrace.recording import Writer
from nettrace.rules import Rules

from . import pcapng
from .test_replay import (
    CODE,
    ETH0,
    LO,
    REQUEST,
    SKB,
    SUMMARY,
    Changing,
    Drop,
    T,
    header_of,
    meanings,
    replayed,
    steps,
)

__all__ = ["meanings"]  # a fixture

SNAPLEN = 64
WALL = T + 1_700_000_000_123_456_789
ETHERNET, RAW = 1, 101

tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
tcpdump = pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump")


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(size: int, ident: int = 1) -> bytes:
    """UDP from 10.0.0.1:5000 to 10.0.0.2:53."""
    addresses = inet_aton("10.0.0.1") + inet_aton("10.0.0.2")
    header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + size, ident, 0, 64, 17, 0) + addresses
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return header + struct.pack(">HHHH", 5000, 53, 8 + size, 0) + bytes(range(size))


MACS = bytes.fromhex("0200000000020200000000010800")


def frame(size: int, *, is_ethernet: bool = True, cut: int = SNAPLEN) -> Frame:
    whole = (MACS if is_ethernet else b"") + datagram(size)
    return Frame(is_ethernet, len(whole), whole[:cut])


def hits(start: int, *rows: tuple[str, Optional[Frame], dict[str, Any]], skb: int = SKB) -> tuple[Event, ...]:
    rest = ((trace, REQUEST, more.pop("device", ETH0), {"frame": one, **more}) for trace, one, more in rows)
    return steps(start, skb, *rest)


NO_SOCKET = Drop(CODE + 0x13, 3)
SENT = hits(
    T, ("skb_clone", None, {}), ("ip_rcv", frame(4, is_ethernet=False), {}), ("tcp_v4_rcv", frame(4), {}),
    ("kfree_skb", frame(4), {"drop": NO_SOCKET}),
)  # fmt: skip
LONG = hits(T + 10**9, ("tcp_v4_rcv", frame(200), {}), ("consume_skb", frame(200), {"device": LO}), skb=SKB + 1)
RECORDS = [
    Record(7, 7, 0, SKB, 0, True, False, 0, 20, SENT),
    Record((1 << 63) + 9, (1 << 63) + 9, 0, SKB + 1, 0, True, False, 0, 20, LONG),
]


def record_to(path: Path, rules: Rules, mode: str = "packets", snaplen: int = SNAPLEN) -> Path:
    with Writer(str(path)) as writer:
        recorder = Recorder(writer, Changing())
        recorder.begin(replace(header_of(mode), snaplen=snaplen), rules)
        for record in RECORDS:
            recorder.push(record if mode == "packets" else record._replace(single=True))
        recorder.end(SUMMARY)
    return path


@pytest.fixture
def recording(tmp_path: Path, meanings: Rules) -> Path:
    return record_to(tmp_path / "x", meanings)


def run(*command: str, stdin: bytes = b"") -> str:
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def fields(path: Path, *names: str) -> list[list[str]]:
    words = [word for name in names for word in ("-e", name)]
    text = run("tshark", "-r", str(path), "-T", "fields", "-E", "separator=|", *words)
    return [line.split("|") for line in text.splitlines()]


def test_packets_are_written_where_they_were_seen(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording.parent / "y"
    shown = replayed(recording, monkeypatch, "--pcap", str(path))
    assert shown == replayed(recording, monkeypatch)
    assert path.stat().st_mode & 0o777 == 0o600
    found = pcapng.packets(path.read_bytes())
    events = [item for item in (*SENT, *LONG) if item.frame is not None]
    assert [(one.interface.name, one.interface.link, one.data, one.length, one.time) for one in found] == [
        (
            item.trace, ETHERNET if item.frame.is_ethernet else RAW, item.frame.data, item.frame.length,
            item.time_ns + WALL - T,
        )
        for item in events
        if item.frame is not None
    ]  # fmt: skip
    assert [one.packet_id for one in found] == [7] * 3 + [(1 << 63) + 9] * 2
    assert {one.interface.name: one.interface.description for one in found} == {
        "ip_rcv": "ip_rcv: ? (from the IP header on)", "tcp_v4_rcv": "tcp_v4_rcv: ?",
        "kfree_skb": "tracepoint: packets that are dropped", "consume_skb": "tracepoint: packets that are freed",
    }  # fmt: skip
    assert {one.interface.snaplen for one in found} == {SNAPLEN}


def test_comments_tell_what_bytes_cannot(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording.parent / "y"
    replayed(recording, monkeypatch, "--pcap", str(path))
    first, _, dropped, _, freed = [one.comment for one in pcapng.packets(path.read_bytes())]
    assert first.startswith(f"packet 7, skb 0x{SKB:x}, ip_rcv, eth0@blue")
    assert freed == f"packet {(1 << 63) + 9}, skb 0x{SKB + 1:x}, consume_skb, lo@4026531840"
    why = "dropped at tcp_v4_rcv+0x13: NO_SOCKET ("
    assert why in dropped and dropped.endswith(")") and "error" not in dropped
    path.unlink()
    replayed(recording, monkeypatch, "--pcap", str(path), "--diag-keep")
    comments = [one.comment for one in pcapng.packets(path.read_bytes())]
    assert why in comments[2] and "; error: " in comments[2] and comments[2].endswith("(the likely cause)")
    assert not any("error: " in comment for number, comment in enumerate(comments) if number != 2)


def test_only_some_points(recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {
        "tcp_v4_rcv": {"tcp_v4_rcv"}, "kfree_skb, ip_rcv": {"kfree_skb", "ip_rcv"},
        "i*_rcv,tcp-in": {"tcp_v4_rcv", "ip_rcv"}, "all": {"ip_rcv", "tcp_v4_rcv", "kfree_skb", "consume_skb"},
    }  # fmt: skip
    for number, (names, points) in enumerate(chosen.items()):
        path = recording.parent / f"y{number}"
        replayed(recording, monkeypatch, "--pcap", str(path), "--pcap-at", names)
        assert {one.interface.name for one in pcapng.packets(path.read_bytes())} == points
    replayed(recording, monkeypatch, "--pcap", str(recording.parent / "z"), "--pcap-at", "ip_rcv,udp_rcv", status=2)
    assert "--pcap-at: nothing of 'udp_rcv' is in the recording" in capsys.readouterr().err
    assert not (recording.parent / "z").exists()


def test_what_is_not_shown_is_not_written(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (words, ids) in enumerate((([], {7, (1 << 63) + 9}), (["-c", "1"], {7}), (["--diag-quiet"], {7}))):
        path = recording.parent / f"y{number}"
        replayed(recording, monkeypatch, "--pcap", str(path), *words)
        assert {one.packet_id for one in pcapng.packets(path.read_bytes())} == ids


@pytest.mark.parametrize("mode", ["events", "drops"])
def test_single_hits(mode: str, tmp_path: Path, meanings: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed(record_to(tmp_path / "x", meanings, mode), monkeypatch, "--pcap", str(tmp_path / "y"))
    found = pcapng.packets((tmp_path / "y").read_bytes())
    assert [(one.packet_id, one.comment.split(",")[0]) for one in found] == [(None, f"skb 0x{SKB:x}")] * 3 + [
        (None, f"skb 0x{SKB + 1:x}")
    ] * 2


@tshark
def test_as_tshark_reads_it(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording.parent / "y"
    replayed(recording, monkeypatch, "--pcap", str(path), "--diag-keep")
    rows = fields(
        path, "frame.interface_name", "frame.protocols", "frame.len", "frame.cap_len", "ip.src", "udp.dstport",
        "frame.time_epoch", "frame.comment", "frame.interface_description",
    )  # fmt: skip
    assert [row[:6] for row in rows] == [
        ["ip_rcv", "raw:ip:udp:dns", "32", "32", "10.0.0.1", "53"],
        ["tcp_v4_rcv", "eth:ethertype:ip:udp:dns", "46", "46", "10.0.0.1", "53"],
        ["kfree_skb", "eth:ethertype:ip:udp:dns", "46", "46", "10.0.0.1", "53"],
        ["tcp_v4_rcv", "eth:ethertype:ip:udp:dns", "242", "64", "10.0.0.1", "53"],
        ["consume_skb", "eth:ethertype:ip:udp:dns", "242", "64", "10.0.0.1", "53"],
    ]
    first, second = SENT[1].time_ns + WALL - T, LONG[0].time_ns + WALL - T
    assert [rows[at][6] for at in (0, 3)] == [f"{ns // 10**9}.{ns % 10**9:09d}" for ns in (first, second)]
    assert rows[0][7].startswith("packet 7, skb 0x") and "NO_SOCKET" in rows[2][7]
    assert rows[2][8] == "tracepoint: packets that are dropped"


@tcpdump
def test_as_tcpdump_reads_it(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording.parent / "y"
    # It takes one link type in a file.
    replayed(recording, monkeypatch, "--pcap", str(path), "--pcap-at", "tcp_v4_rcv,kfree_skb,consume_skb")
    lines = run("tcpdump", "--nano", "-tt", "-n", "-e", "-r", str(path)).splitlines()
    ns = SENT[2].time_ns + WALL - T
    assert len(lines) == 4
    assert lines[0].startswith(f"{ns // 10**9}.{ns % 10**9:09d} 02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype IPv4")
    assert "length 46: 10.0.0.1.5000 > 10.0.0.2.53" in lines[0] and "length 242: 10.0.0.1.5000" in lines[2]


@tshark
def test_into_a_pipe(recording: Path) -> None:
    command = [sys.executable, "-m", "nettrace", "-r", str(recording), "--pcap", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    assert [one.packet_id for one in pcapng.packets(done.stdout)] == [7] * 3 + [(1 << 63) + 9] * 2
    assert done.stderr.decode().startswith("2 packets, ")
    text = run("tshark", "-r", "-", "-T", "fields", "-e", "frame.interface_name", stdin=done.stdout)
    assert text.split() == ["ip_rcv", "tcp_v4_rcv", "kfree_skb", "tcp_v4_rcv", "consume_skb"]


def test_a_terminal_is_no_pipe(recording: Path) -> None:
    terminal, other = os.openpty()
    command = [sys.executable, "-m", "nettrace", "-r", str(recording), "--pcap", "-"]
    done = subprocess.run(command, stdout=other, stderr=subprocess.PIPE, check=False)
    os.close(other)
    os.close(terminal)
    assert done.returncode == 2 and done.stderr.startswith(b"nettrace: --pcap - writes no text: ")


def test_files_that_cannot_be(
    recording: Path,
    meanings: Rules,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = recording.parent
    (folder / "link").symlink_to(folder / "target")
    for name in (recording.name, "link"):
        replayed(recording, monkeypatch, "--pcap", str(folder / name), status=2)
        said = f"nettrace: --pcap: {folder / name} is there already: remove it, or give another name\n"
        assert capsys.readouterr().err == said
    assert not (folder / "target").exists()
    without = record_to(folder / "without", meanings, snaplen=0)
    replayed(without, monkeypatch, "--pcap", str(folder / "z"), status=2)
    assert f"{without} has no packets for --pcap: they are recorded with -w and --snaplen" in capsys.readouterr().err
    assert not (folder / "z").exists()


ON_A_FULL_DISK = """
import resource, signal, sys
from nettrace import cli

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1300, 1300))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_disk_that_is_full(recording: Path) -> None:
    path = recording.parent / "y"
    command = [sys.executable, "-c", ON_A_FULL_DISK, "-r", str(recording), "--pcap", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    size = path.stat().st_size
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.endswith(f"{path}: File too large after {size} bytes, which can be read: make room\n") or (
        f"{path}: File too large after {size} bytes, which can be read\n" in done.stderr
    )
    assert [one.packet_id for one in pcapng.packets(path.read_bytes())] == [7] * 3


def test_what_somebody_made_up(
    tmp_path: Path,
    meanings: Rules,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for snaplen in (-1, 1 << 32):
        path = tmp_path / f"x{snaplen}"
        record_to(path, meanings, snaplen=snaplen)
        replayed(path, monkeypatch, "--pcap", str(tmp_path / "y"), status=1)
        assert f"its header makes no sense (packets of {snaplen} bytes)" in capsys.readouterr().err


def test_json_beside_it_is_the_same(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = replayed(recording, monkeypatch, "--json", "--pcap", str(recording.parent / "y"))
    assert shown == replayed(recording, monkeypatch, "--json")
    assert json.loads(shown.splitlines()[0])["snaplen"] == SNAPLEN
    assert len(pcapng.packets((recording.parent / "y").read_bytes())) == 5
