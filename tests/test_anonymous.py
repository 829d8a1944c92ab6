"""What strangers may see of a run: nothing that tells whose it is, and all that tells what happened."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import json
import stat
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nettrace
from nettrace import cli, rules, tree
from nettrace.anonymous import Anonymised, Anonymiser, Stranger, key_of
from nettrace.errors import StreamError, UsageError
from nettrace.event import HAS_L4, Context, Detail, Device, Event, Frame, Packet, Record
from nettrace.header import Header
from nettrace.jsonlines import JsonLines
from nettrace.player import Player
from nettrace.recording import chunks, opened
from nettrace.rules import Rules
from nettrace.sinks import Display, Lookups, Text
from nettrace.tables import Peer, RoundTrips
from nettrace.tree import Tree
from tests.test_replay import Changing, header_of
from tests.test_tables import histogram

FOLDER = Path(__file__).parent / "data" / "recordings"
RECORDINGS = sorted(FOLDER.glob("*/*.ntr"))
KEY = bytes(range(32))
SOMEBODY = Anonymiser(KEY)


@pytest.fixture(autouse=True)
def read_once(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)


def other(address: str) -> str:
    return str(ip_address(SOMEBODY.address(ip_address(address).packed)))


# ---- addresses


def in_common(first: bytes, second: bytes) -> int:
    differ = int.from_bytes(first, "big") ^ int.from_bytes(second, "big")
    return 8 * len(first) - differ.bit_length()


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([4, 16]))
def test_what_addresses_have_in_common_they_keep(data: st.DataObject, size: int) -> None:
    first = data.draw(st.binary(min_size=size, max_size=size))
    place = data.draw(st.integers(0, 8 * size - 1))
    tail = data.draw(st.integers(0, (1 << place) - 1))
    second = ((int.from_bytes(first, "big") ^ 1 << place) >> place << place | tail).to_bytes(size, "big")
    assert in_common(SOMEBODY.address(first), SOMEBODY.address(second)) == in_common(first, second)


def test_no_two_addresses_become_one() -> None:
    some = [IPv4Address(f"192.0.{third}.{fourth}").packed for third in range(8) for fourth in range(256)]
    others = {SOMEBODY.address(address) for address in some}
    assert len(others) == len(some) and len(others & set(some)) < len(some) / 4


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "127.0.0.1", "127.1.2.3", "255.255.255.255", "224.0.0.251", "::", "::1", "ff02::1", "ff02::fb"],
)
def test_what_any_host_has_stays(address: str) -> None:
    assert other(address) == address


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.20.1.1", "192.168.7.7", "169.254.1.1", "100.64.3.4", "8.8.8.8", "239.1.2.3",
                "fe80::1:2", "fd00::17", "2a00:1450::17", "ff02::1:ff12:3456", "ff05::1:3:7"],
)  # fmt: skip
def test_what_kind_of_address_it_is_stays(address: str) -> None:
    before, after = ip_address(address), ip_address(other(address))
    assert after != before
    for kind in ("is_private", "is_multicast", "is_loopback", "is_link_local", "is_unspecified"):
        assert getattr(before, kind) == getattr(after, kind), kind


def test_ipv4_in_ipv6_is_the_same_address() -> None:
    assert other("::ffff:10.1.2.3") == str(ip_address(f"::ffff:{other('10.1.2.3')}"))


def test_it_is_the_key_that_decides() -> None:
    addresses = [IPv4Address(f"198.51.100.{number}").packed for number in range(64)]
    made = [[Anonymiser(key).address(each) for each in addresses] for key in (KEY, KEY, key_of(None), key_of(None))]
    assert made[0] == made[1] and made[0] != made[2] != made[3]


def test_a_key_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    assert key_of(str(path)) == key_of(str(path)) != key_of(None)
    path.write_bytes(KEY[:15])
    with pytest.raises(UsageError, match=r"^--anonymise-key: .* has fewer than 16 bytes"):
        key_of(str(path))
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory$"):
        key_of(str(tmp_path / "none"))


# ---- all else


def event(protocol: int, l4_protocol: int, l4: bytes, **more: Any) -> Event:
    size = 16 if protocol == 0x86DD else 4
    packet = Packet(84, 0, protocol, l4_protocol, HAS_L4, 0, 84, bytes(range(1, size + 1)), b"\x0a" * size, l4)
    return Event(5, "ip_rcv", 7, packet, **more)


@pytest.mark.parametrize(("protocol", "kept"), [(6, 14), (17, 4), (1, 8), (58, 8), (50, 8), (2, 0), (99, 0)])
def test_nothing_of_what_packets_carry_is_left(protocol: int, kept: int) -> None:
    item = event(0x0800, protocol, bytes(range(1, 17)), frame=Frame(True, 84, b"secret"))
    after = SOMEBODY.event(item)
    assert after.packet.l4 == bytes(range(1, kept + 1)).ljust(16, b"\0") and after.frame is None


def test_addresses_in_other_places() -> None:
    redirect = event(0x0800, 1, bytes([5, 1, 0, 0, 192, 0, 2, 7]).ljust(16, b"\0"))
    assert SOMEBODY.event(redirect).packet.l4[4:8] == SOMEBODY.address(bytes([192, 0, 2, 7]))
    arp = event(0x0806, 0, b"\0\2" + bytes.fromhex("020000000007") + b"\xff" * 6 + b"ab")
    l4 = SOMEBODY.event(arp).packet.l4
    assert l4[:2] == b"\0\2" and l4[2:8] != bytes.fromhex("020000000007") and l4[2] & 3 == 2
    assert l4[8:] == b"\xff" * 6 + b"\0\0"
    inner = redirect.packet._replace(inner=arp.packet)
    assert SOMEBODY.packet(inner).inner == SOMEBODY.packet(arp.packet)


@pytest.mark.parametrize(
    ("router", "family", "raw"),
    [("192.0.2.7", 2, bytes([192, 0, 2, 7])), ("2001:db8::7", 10, ip_address("2001:db8::7").packed), ("", None, b"")],
)
def test_routers(router: str, family: Optional[int], raw: bytes) -> None:
    facts = (("gateway", int.from_bytes(raw, "little")), ("gateway_family", family or 0), ("mtu", 1500))
    after = dict(SOMEBODY.event(event(0x0800, 17, bytes(16), facts=facts)).facts)
    assert after["gateway"] == int.from_bytes(SOMEBODY.address(raw) if raw else b"", "little")
    assert after["mtu"] == 1500


def test_names() -> None:
    facts = (("device", "acme0"), ("table", "nat"), ("chain", "acme"), ("target", "acme"), ("kind", "fq_codel"))
    item = event(
        0x0800, 6, bytes(16), device=Device(3, "vlan-acme", 7), detail=Detail(0, 5, 5, "acme-db", 1, 84, 9), facts=facts
    )
    after = SOMEBODY.event(item)
    assert "acme" not in repr(after)
    told = dict(after.facts)
    assert (told["table"], told["kind"]) == ("nat", "fq_codel") and told["chain"] == told["target"] != told["device"]
    assert after.device is not None and after.device._replace(name="") == Device(3, "", 7)
    for name in ("eth0", "lo", "veth12"):
        assert SOMEBODY.name("device", name) == name
    for name in ("veth1a2b3c4", "enx0123456789ab", "eth0.acme", "br-0123456789ab"):
        assert SOMEBODY.name("device", name) != name
    assert SOMEBODY.name("netns", "eth0") != "eth0" and SOMEBODY.name("task", "kworker/0:1") == "kworker/0:1"


def test_each_fact_was_looked_at(leaves: Tree) -> None:
    """A new one that holds an address must be known to nettrace/anonymous.py; texts are taken for names."""
    numbers = {
        "handle", "packets", "limit", "neighbour", "connection", "route", "gateway_family", "fragment", "mtu", "ttl",
        "error", "hop_limit", "hook", "family", "functions", "queued", "backlog", "state", "rtt", "rtt_min", "memory",
        "reset_reason", "sequence", "end", "timeouts", "rto", "resent", "type", "code", "verdict",
        *(f"function{number}" for number in range(20)),
    }  # fmt: skip
    known = {"gateway", "device", "table", "chain", "target", "kind"}
    assert {name for trace in leaves.traces() for name, _ in trace.facts} <= numbers | known


def test_peers() -> None:
    times = histogram(1)
    peers = [Peer(bytes([192, 0, 2, 7]).ljust(16, b"\0"), 0x0800, times), Peer(bytes(range(32, 48)), 0x86DD, times)]
    table = SOMEBODY.table(RoundTrips(times, times, times, peers))
    assert isinstance(table, RoundTrips) and table.peers is not None
    assert table.peers[0].address == SOMEBODY.address(bytes([192, 0, 2, 7])).ljust(16, b"\0")
    assert table.peers[1].address == SOMEBODY.address(bytes(range(32, 48)))


# ---- recordings


def secrets(path: Path) -> set[str]:
    """All that must not be seen, as text and as a recording has it."""
    found: set[str] = set()
    raws: set[bytes] = set()
    with nettrace.open(str(path)) as recording:
        try:
            for item in recording.events():
                packet: Optional[Packet] = item.packet
                while packet is not None:
                    raws |= {packet.saddr, packet.daddr}
                    if packet.l3_protocol == 0x0806:
                        for mac in (packet.l4[2:8], packet.l4[8:14]):
                            found |= {mac.hex(), mac.hex(":"), mac.hex(":").upper()} if any(mac) else set()
                    packet = packet.inner
                if item.device is not None:
                    found.add(recording.host.netns(item.device.netns) or "")
                    found.add(item.device.name)
                if item.detail is not None:
                    found.add(item.detail.comm)
                    found.add((recording.host.owner(item.detail.socket) or ("", 0))[0])
                for name, value in item.facts:
                    if name == "gateway" and value:
                        assert isinstance(value, int)
                        raws.add((value & 0xFFFFFFFF).to_bytes(4, "little"))
                    elif name in ("device", "chain", "table"):
                        found.add(str(value))
        except StreamError:
            pass  # one of them was killed
        found |= {word for word in recording.header.command if "/" in word or "." in word}
    for raw in raws:
        if raw and any(raw) and not ip_address(raw).is_loopback and SOMEBODY.address(raw) != raw:
            found |= {str(ip_address(raw)), ip_address(raw).exploded, raw.hex()}
    usual = ("lo", "swapper/", "ksoftirqd/", "eth0", "filter", "nat", "input")
    return {each for each in found if each and not each.startswith(usual)}


def is_in(secret: str, text: str) -> bool:
    """Whether it is told; where a name is a word that may be there anyway, as a name."""
    if secret not in ("left", "right", "ping"):
        return secret in text
    names = (
        f"@{secret}",
        f"ns:{secret}]",
        f"[task:{secret}",
        f"[sk:{secret}",
        f'name":"{secret}"',
        f'comm":"{secret}"',
    )
    return any(name in text for name in (*names, f', "{secret}"'))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The recordings, each with the copy that strangers get."""
    folder = tmp_path_factory.mktemp("copies")
    key = folder / "key"
    key.write_bytes(KEY)
    made = {path: folder / f"{path.parent.name}-{path.name}" for path in RECORDINGS}
    for path, copy in made.items():
        status = cli.main(["-r", str(path), "-w", str(copy), "--anonymise-key", str(key)])
        assert status == (path.name == "basic.ntr")  # its run was killed
    return made


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nothing_is_told(
    path: Path, copies: dict[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, hidden = copies[path], secrets(path)
    assert len(hidden) > 3 and stat.S_IMODE(copy.stat().st_mode) == 0o600
    told: list[str] = []
    with opened(str(copy)) as file:
        try:
            for _, chunk in chunks(file, str(copy)):
                told.append(json.dumps(chunk))
        except StreamError:
            pass
    capsys.readouterr()
    ways = [[], ["--detail", "--ret"], ["--json"], ["--report", str(tmp_path / "page.html")]]
    if path.stem not in ("drop", "basic"):
        ways += [["--diag-keep"], ["--json", "--diag-keep"], ["-v", "--latency-show"]]
    for way in ways:
        cli.main(["-r", str(copy), *way])
        out, err = capsys.readouterr()
        told += [out, err.replace(str(copy), "")]
    told.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    for text in told:
        assert not [secret for secret in hidden if is_in(secret, text)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_happened_is_told(path: Path, copies: dict[Path, Path]) -> None:
    def shapes(path: Path) -> list[Any]:
        found: list[Any] = []
        with nettrace.open(str(path)) as recording:
            try:
                for packet in recording:
                    findings = [(each.level, each.name, each.root) for each in recording.findings(packet)]
                    steps = [(item.time_ns, item.trace, item.skb, item.number, item.drop) for item in packet.events]
                    found.append((packet.packet_id, packet.unfinished, packet.missing, steps, findings))
            except StreamError:
                found.append("no end")
            found.append(recording.summary)
        return found

    assert shapes(copies[path]) == shapes(path)


def test_what_a_run_shows_and_records() -> None:
    """As run.Run hands it over."""
    out = io.StringIO()
    host = Stranger(Changing(), SOMEBODY)
    header = SOMEBODY.header(header_of("packets"))
    know = Lookups(netns=host.netns, owner=host.owner)
    item = event(
        0x0800, 6, bytes(16), device=Device(3, "acme0", 99), detail=Detail(0, 5, 5, "acme-db", 1, 84, 9),
        facts=(("device", "acme0"),),
    )  # fmt: skip
    for sink in (Text(out, Display(detail=True), know), JsonLines(out, Display(), know)):
        sink.begin(header)
        taker = Anonymised(Player(sink, follow=True), SOMEBODY)
        taker.push(Record(1, 1, 0, 7, 0, True, False, 0, 3, (item,)))
        taker.expire(6)
        taker.close(7)
        taker.flush()
    text = out.getvalue()
    assert text.count(other("1.2.3.4")) >= 2 and "netns-" in text
    for secret in ("1.2.3.4", "10.10.10.10", "acme", "blue", "curl"):
        assert secret not in text.replace(other("1.2.3.4"), "").replace(other("10.10.10.10"), ""), secret
    assert isinstance(header, Header) and header.command == ("--anonymise",)
    context = Context(1, (7,), (item,), False, False)
    (proof,) = host.evidence(None, context)  # type: ignore[arg-type]
    assert proof.text == "left out by --anonymise"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-r", "x", "--anonymise"], "-r and --anonymise make another recording: give -w FILE too"),
        (["-r", "x", "-w", "y", "--anonymise", "--json"], "--json says nothing with -r and --anonymise"),
        (["-r", "x", "-w", "y", "--anonymise-key", "k", "-p", "tcp"], "--proto says nothing with -r and --anonymise"),
        (["-r", "x", "-w", "y"], "-w says nothing with -r, which replays what was recorded"),
        (
            ["--anonymise", "--pcap", "x"],
            "--pcap says nothing with --anonymise, which tells nothing of what is in packets",
        ),
        (["--anonymise", "-w", "x", "--snaplen", "64"], "--snaplen says nothing with --anonymise"),
        (["--anonymise", "--assert", "x"], "--assert says nothing with --anonymise"),
        (["--anonymise", "--diff", "x", "y"], "--anonymise says nothing with --diff"),
    ],
)
def test_what_says_nothing_with_it(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err
