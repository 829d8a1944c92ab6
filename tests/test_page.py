"""The page that --report makes of a recording: opened in a browser, and held against what the library says of it."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import html
import io
import json
import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nettrace
from nettrace import cli, commands, live, page, rules, tree
from nettrace.event import Context, Detail, Device, Drop, Event
from nettrace.evidence import Evidence
from nettrace.kernel import Symbol
from nettrace.rules import Rules
from nettrace.tree import Tree

from . import browser, many, test_replay
from .browser import Browser
from .headers import PING, packet
from .test_recordings import FOLDER, VERSIONS
from .test_replay import CODE, HOME, RUNS, SKB, Changing, Nobody, Record, T, live_run

KILLED = "basic"


@pytest.fixture(autouse=True)
def meanings(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> Rules:
    """What is shipped, read once."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)
    monkeypatch.setattr(commands, "Kernel", Nobody)
    monkeypatch.setattr(live, "Running", Nobody)
    return shipped


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests; each opens its own page."""
    if browser.command() is None:
        pytest.skip("chromium is not installed")
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


Maker = Callable[..., Path]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Makes a page of a recording."""

    def make(recording: Path, *arguments: str, status: int = 0) -> Path:
        path = tmp_path / f"{len(list(tmp_path.glob('*.html')))}.html"
        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(["-r", str(recording), "--report", str(path), *arguments]) == status
        assert out.getvalue() == ""
        return path

    return make


def data_of(path: Path) -> Any:
    (text,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(text)


def rows(window: Browser, table: str) -> list[list[str]]:
    """The cells of a table, as a reader sees them."""
    found: list[list[str]] = window.run(
        f"[...document.querySelectorAll({json.dumps(table + ' tbody tr')})]"
        ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return found


def text(window: Browser, place: str) -> str:
    found: str = window.run(f"document.querySelector({json.dumps(place)}).innerText")
    return found


def opened(window: Browser, path: Path, fragment: str = "", **more: Any) -> None:
    """Opens a page, which must be content with itself."""
    window.open(path, fragment, **more)
    assert window.run("document.documentElement.dataset.ready") == "yes"
    assert window.trouble == []
    assert [url.partition("#")[0] for url in window.requests] == [path.as_uri()]


def packets_of(version: str, name: str = "diag") -> tuple[Any, list[Context]]:
    with nettrace.open(str(FOLDER / version / f"{name}.ntr")) as recording:
        return recording, list(recording)


@pytest.mark.parametrize("name", ["diag", "drop", KILLED])
@pytest.mark.parametrize("version", VERSIONS)
def test_it_opens_and_asks_nobody_for_anything(version: str, name: str, report: Maker, window: Browser) -> None:
    path = report(FOLDER / version / f"{name}.ntr", status=int(name == KILLED))
    opened(window, path)
    assert text(window, "h1").endswith(f"{name}.ntr")
    assert bool(window.run("document.querySelector('#no-end') !== null")) == (name == KILLED)
    assert len(rows(window, ".list")) == len(data_of(path)["packets"]) > 0


@pytest.mark.parametrize("mode", RUNS)
def test_recordings_of_all_modes_open(
    mode: str, tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run(mode, tmp_path / "x", meanings, monkeypatch)
    opened(window, report(tmp_path / "x"))
    assert "2 hits missed" in text(window, "#losses")
    assert len(window.run("document.querySelector('main').innerText")) > 100


@pytest.mark.parametrize("version", VERSIONS)
def test_numbers_are_those_of_the_library(version: str, report: Maker, window: Browser) -> None:
    recording, packets = packets_of(version)
    found = [recording.findings(each) for each in packets]
    opened(window, report(FOLDER / version / "diag.ntr"))
    numbers = dict(reversed(tile.split("\n", 1)) for tile in window.run(
        "[...document.querySelectorAll('.tile')].map(tile => tile.innerText)"
    ))  # fmt: skip
    assert int(numbers["Packets"]) == len(packets) == recording.summary.shown
    assert int(numbers["steps"]) == sum(len(each.events) for each in packets)
    assert int(numbers["with errors"]) == sum(any(f.level == "error" for f in each) for each in found)
    assert int(numbers["not seen to their end"]) == sum(each.unfinished for each in packets)

    # One packet came to a closed port; that others are reported as dropped, too, when they have served their purpose
    # is for the tests of findings.
    dead = {id(finding.event) for each in found for finding in each if finding.event.drop is not None}
    assert sum(int(row[2]) for row in rows(window, "#drops")) == int(numbers["dropped"]) == len(dead) == 1

    kinds = {finding.name for each in found for finding in each if finding.level != "info"}
    assert set(window.run("[...document.querySelectorAll('.finding h3 + p code')].map(e => e.innerText)")) == kinds
    for name in kinds:
        concerned = sum(any(finding.name == name for finding in each) for each in found)
        assert f"{name} \u2013 {concerned} packet" in text(window, "#findings")
    proofs = [proof.text for each in found for finding in each for proof in finding.evidence]
    assert window.run("[...document.querySelectorAll('.evidence .mono')].map(e => e.innerText)") == proofs

    roots = window.run("[...document.querySelectorAll('#tree > * .share')].map(e => e.innerText)")
    assert roots and "not all of" not in text(window, "#findings")
    began = Counter(each.events[0].trace for each in packets)
    tops = window.run(
        "[...document.querySelectorAll('#tree > *')].map(e => [e.querySelector('code').innerText, "
        "parseInt(e.querySelector('.share').innerText)])"
    )
    assert dict(tops) == began

    timed = sum(int(row[2]) for row in rows(window, "#latency table:first-of-type") if len(row) == 5)
    assert timed == sum(not each.unfinished for each in packets)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chosen_packet_has_its_steps(version: str, report: Maker, window: Browser) -> None:
    recording, packets = packets_of(version)
    number, chosen = next(
        (at + 1, each) for at, each in enumerate(packets) if any(item.drop for item in each.events)
    )  # fmt: skip
    path = report(FOLDER / version / "diag.ntr")
    opened(window, path, f"#packet={number}")
    steps = [row for row in rows(window, "table.steps") if len(row) == 6]
    assert [row[3].split()[-1] for row in steps] == [item.trace for item in chosen.events]
    assert [row[4].split()[1] for row in steps] == [str(item.detail.cpu) for item in chosen.events if item.detail]
    gaps = window.run("[...document.querySelectorAll('.gap')].length")
    assert gaps == len(chosen.events) - 1
    drop = next(item.drop for item in chosen.events if item.drop is not None)
    symbol = recording.host.symbol(drop.location)
    assert f"at {symbol.name}+0x{symbol.offset:x}" in text(window, "table.steps")

    window.run("document.querySelector('input[value=device]').click()")
    devices = {item.device.name for item in chosen.events if item.device and item.device.ifindex}
    lanes = window.run("[...document.querySelectorAll('#timeline text')].map(e => e.textContent)")
    assert devices and devices <= {name.partition("@")[0] for name in lanes}
    points = window.run("document.querySelectorAll('#timeline .points').length")
    window.run("document.querySelector('input[value=steps]').click()")
    assert points == len(chosen.events) == window.run("document.querySelectorAll('#timeline .points').length")

    window.run("document.querySelector('#timeline .points').dispatchEvent(new MouseEvent('click'))")
    assert window.run("document.querySelector('tr.chosen').id") == "step0"
    window.run("document.querySelector('tr[data-packet=\"1\"]').click()")
    assert [row[3].split()[-1] for row in rows(window, "table.steps") if len(row) == 6] == [
        item.trace for item in packets[0].events
    ]
    assert window.run("location.hash") == "#packet=1"
    window.run("""
        const link = document.querySelector('tr[data-packet="1"] a');
        link.focus();
        link.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
    """)
    assert text(window, "#detail b") == "#2"
    assert window.run("document.activeElement.getAttribute('href')") == "#packet=2"
    assert window.trouble == []


def test_packets_are_searched_and_sorted(report: Maker, window: Browser) -> None:
    _, packets = packets_of("6.12")
    opened(window, report(FOLDER / "6.12" / "diag.ntr"))
    window.run("searchFor('icmp_rcv ping')")
    shown = [row[0] for row in rows(window, ".list")]
    assert shown == [
        str(at + 1)
        for at, each in enumerate(packets)
        if {"icmp_rcv"} & {item.trace for item in each.events}
        and each.events[0].packet.l4[0] in (0, 8)  # which are pings
    ]
    assert text(window, "#found") == f"{len(shown)} of {len(packets)}"
    window.run("document.querySelector('#findings button.link').click()")
    assert [row[0] for row in rows(window, ".list")] == [str(len(packets))]
    window.run("searchFor('')")
    window.run("which.value = 1; which.dispatchEvent(new Event('input'))")
    assert [row[0] for row in rows(window, ".list")] == [str(len(packets))]
    window.run("which.value = 0; which.dispatchEvent(new Event('input'))")
    window.run("[...document.querySelectorAll('.list th button')].find(e => e.innerText === 'steps').click()")
    assert [int(row[3]) for row in rows(window, ".list")] == sorted((len(e.events) for e in packets), reverse=True)


def test_a_filter_holds_for_all_of_it(report: Maker, window: Browser) -> None:
    _, packets = packets_of("6.12")
    opened(window, report(FOLDER / "6.12" / "diag.ntr", "-p", "icmp"))
    pings = [
        each
        for each in packets
        if each.events[0].packet.l4_protocol == 1 and each.events[0].packet.l3_protocol == 0x800
    ]
    assert text(window, ".tile b") == str(len(pings)) and 0 < len(pings) < len(packets)
    assert "-p icmp" in text(window, "header")


NASTY = [
    "</script><script>document.title='no'</script>", "<!--<script>", "<img src=x onerror=document.title='no'>",
    "a\u2028b\u202ec", "&lt;b&gt;", "@DATA@@FACTS@", "\\u003c\"'`${1}", "{{x}}\udcff",
]  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY)
def test_names_are_taken_for_text(
    nasty: str, tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Changing, "netns", lambda self, inode: None if inode == HOME else nasty)
    monkeypatch.setattr(Changing, "owner", lambda self, inode: (nasty, 7))
    monkeypatch.setattr(Changing, "evidence", lambda self, finding, context: [Evidence(nasty, nasty)])
    monkeypatch.setattr(Changing, "symbol", lambda self, address: Symbol(nasty, 1, None, nasty))
    monkeypatch.setattr(Changing, "drop_reason", lambda self, number: {3: "NO_SOCKET"}.get(number, nasty))
    device = Device(5, nasty, HOME + 1)
    steps = tuple(
        Event(T + number, trace, SKB, PING, number, device, Detail(0, 1, 1, nasty, 0, 98, number), drop, stack)
        for number, (trace, drop, stack) in enumerate(
            [
                ("ip_rcv", None, ()),
                ("tcp_v4_rcv", None, (CODE + 1,)),
                ("kfree_skb", Drop(CODE + 5, 7), ()),
                ("kfree_skb", Drop(CODE + 5, 3), ()),
            ]
        )
    )
    monkeypatch.setitem(RUNS, "packets", [Record(1, 1, 0, SKB, 0, True, False, 0, 9, steps)])
    header_of = test_replay.header_of
    monkeypatch.setattr(
        test_replay, "header_of",
        lambda mode: header_of(mode).__class__(**{**vars(header_of(mode)), "command": (nasty,), "kernel": nasty,
                                                  "skipped": ((nasty, nasty),)}),
    )  # fmt: skip
    live_run("packets", tmp_path / "x", meanings, monkeypatch, "--diag-keep")
    path = report(tmp_path / "x")
    opened(window, path)
    assert window.run("document.title") == "x - nettrace"
    assert window.run("document.scripts.length") == 2 and window.run("document.images.length") == 0
    assert window.run("document.querySelectorAll('b, i, script, img').length") == window.run(
        "document.querySelectorAll('.box b, .tile b, #packet b, .share i, .bar, .gap i, script').length"
    )
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in nasty)
    for place in ("header", "#findings .evidence", "#findings", "#drops", "#paths", "#packet", "#traces"):
        assert shown in window.run(f"document.querySelector('{place}').textContent"), place


def test_the_policy_forbids_what_the_page_does_not_do(report: Maker, window: Browser) -> None:
    opened(window, report(FOLDER / "6.12" / "diag.ntr"))
    assert window.run("""new Promise(resolve => {
        const made = [document.createElement('script'), document.createElement('img')];
        made[0].textContent = "document.title = 'no'";
        made[1].onerror = () => resolve(document.title);
        document.body.append(...made);
        made[1].src = 'https://example.invalid/x.png';
    })""") == "diag.ntr - nettrace"  # fmt: skip
    assert sum("Content Security Policy" in each for each in window.trouble) == 2


def test_light_and_dark(report: Maker, window: Browser) -> None:
    path = report(FOLDER / "6.12" / "diag.ntr")
    shades = []
    for dark in (False, True):
        opened(window, path, dark=dark)
        colours = window.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        shades.append([sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours])
    (light, ink), (dark_page, dark_ink) = shades
    assert light > 600 > 200 > ink and dark_page < 200 < 600 < dark_ink


def test_it_fits_on_small_screens(report: Maker, window: Browser) -> None:
    opened(window, report(FOLDER / "6.12" / "diag.ntr"), width=360, height=700)
    assert window.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_without_scripts_it_tells_the_main_facts(report: Maker) -> None:
    source = report(FOLDER / "6.12" / "diag.ntr").read_text(encoding="utf-8")
    (facts,) = re.findall(r"<noscript><pre>(.*?)</pre>", source, re.DOTALL)
    told = html.unescape(facts)
    assert "14 packets, 289 events, 0 messages lost" in told
    assert "dropped: 1 NO_SOCKET at __udp4_lib_rcv+0x" in told and "error: " in told


def test_many_packets_are_counted_and_some_are_shown(
    tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "FIRST_MAX", 40)
    monkeypatch.setattr(page, "SLOWEST_MAX", 10)
    packets = many.multiply(FOLDER / "6.12" / "diag.ntr", tmp_path / "x", 300, meanings)
    path = report(tmp_path / "x")
    data = data_of(path)
    assert data["counts"]["packets"] == packets > 300
    assert 40 <= len(data["packets"]) <= 50
    rounds = packets // 14
    (drop,) = data["drops"]["rows"]
    assert drop[2] == data["counts"]["dropped"] == rounds
    assert sum(all for all, _ in data["moments"]["counts"]) == packets
    assert sum(dropped for _, dropped in data["moments"]["counts"]) == rounds
    assert sum(row[2] for row in data["histograms"][0]["rows"]) == packets
    assert sum(row[3] for row in data["flows"]["rows"]) + data["flows"]["others"] == 12 * rounds
    # Each way that packets go is there.
    paths = {tuple(data["words"][step[1]] for step in each["steps"]) for each in data["packets"]}
    assert paths == {tuple(item.trace for item in each.events) for each in packets_of("6.12")[1]}
    slowest = max(each["took_ns"] for each in data["packets"])
    assert slowest == max(events_ns(each) for each in packets_of("6.12")[1])
    opened(window, path)
    assert f"{len(data['packets'])} of {packets} packets are on this page" in text(window, "#chosen")
    assert len(rows(window, ".list")) == len(data["packets"])


def events_ns(context: Context) -> int:
    """How long a packet took, without what freed it."""
    last = [item for item in context.events if "kfree" not in item.trace and item.trace not in FREES]
    return last[-1].time_ns - context.events[0].time_ns


FREES = ("consume_skb", "skb_attempt_defer_free")


def test_a_packet_of_very_many_steps_is_cut(
    tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "STEPS_MAX", 20)
    steps = tuple(
        Event(T + number, "ip_rcv" if number < 90 else "tcp_v4_rcv", SKB, PING, number, None) for number in range(100)
    )
    monkeypatch.setitem(RUNS, "packets", [Record(1, 1, 0, SKB, 0, True, False, 0, 9, steps)])
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    opened(window, report(tmp_path / "x"))
    shown = rows(window, "table.steps")
    assert [row[0] for row in shown] == [
        *map(str, range(1, 11)), "\u2026 80 steps are left out here \u2026", *map(str, range(91, 101))
    ]  # fmt: skip
    assert "100 steps" in text(window, "#detail")


def test_losses_come_first(
    tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_run("events", tmp_path / "x", meanings, monkeypatch)
    opened(window, report(tmp_path / "x"))
    assert window.run("document.querySelector('main').firstElementChild.id") == "losses"
    assert window.run("[...document.querySelectorAll('#losses li')].map(e => e.innerText)") == [
        "3 messages lost", "1 packets lost whole", "2 hits missed", "3 events lost on their way"
    ]  # fmt: skip


def test_a_recording_of_nothing(
    tmp_path: Path, report: Maker, meanings: Rules, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNS, "packets", [])
    live_run("packets", tmp_path / "x", meanings, monkeypatch)
    opened(window, report(tmp_path / "x"))
    assert "no packets were seen" in text(window, "header")


def test_the_file_is_its_makers_own_and_a_new_one(
    tmp_path: Path, report: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = report(FOLDER / "6.12" / "diag.ntr")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert cli.main(["-r", str(FOLDER / "6.12" / "diag.ntr"), "--report", str(path)]) == 2
    assert f"--report: {path} is there already" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_no_file_is_left_where_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.ntr"
    bad.write_bytes(b"no recording")
    assert cli.main(["-r", str(bad), "--report", str(tmp_path / "x.html")]) == 1
    assert cli.main(["-r", str(FOLDER / "6.12" / "drop.ntr"), "--sock", "--report", str(tmp_path / "x.html")]) == 2
    assert not (tmp_path / "x.html").exists()


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "from nettrace import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    path = tmp_path / "x.html"
    done = subprocess.run(
        [sys.executable, "-c", program, "-r", str(FOLDER / "6.12" / "diag.ntr"), "--report", str(path)],
        cwd=FOLDER.parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"nettrace: --report: {path} cannot be written: File too large")
    assert not path.exists()


def test_addresses_are_not_needed_for_a_flow() -> None:
    assert packet(0x88CC).l3_protocol  # and has no addresses
    from nettrace.packets import flow

    assert flow(packet(0x88CC)) is None and flow(PING) == ("ICMP", "10.0.0.1", "10.0.0.2")
