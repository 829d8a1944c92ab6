"""Bad input of any kind: nothing but our own errors come out, soon, and without much memory.

A unit run tries a few examples, the same each time; `make fuzz FUZZ=600` others for so many seconds.
"""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import contextlib
import io
import json
import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, NoReturn

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nettrace import cli, commands, expectations, files, live, modes, options, pcap, reasons, rules, tree
from nettrace.decode import Decoder
from nettrace.errors import KernelError, NettraceError, StreamError, UsageError
from nettrace.jsonlines import JsonLines
from nettrace.kernel import Kernel
from nettrace.player import Player
from nettrace.rebuilt import Frame
from nettrace.recording import Writer, chunks, opened
from nettrace.replay import Recording
from nettrace.rules import Rules
from nettrace.sinks import Display, Summary, Text
from nettrace.tables import kind_of
from nettrace.tree import Tree
from tests import test_decode
from tests.test_tables import TABLES

SECONDS = float(os.environ.get("FUZZ") or 0)
TARGETS = 8  # that share the time
RECORDINGS = sorted(Path(__file__).parent.glob("data/recordings/*/*.ntr"))
EXAMPLE_S = 20  # none may take so long
MEMORY_BYTES = 3 << 30  # of address space, with what tests before took

STRANGE = [
    None, True, -1, 0, 1, 255, 1 << 16, 1 << 24, 1 << 32, 1 << 62, 1 << 64, -(1 << 63), 1 << 70, 10**400, 1.5, 1e308,
    float("nan"), "", "x", "0", "-1", "0001-01-01 00:00:00 +23:59", "00", "\x1b[2J\n", "\udc80", "@", "=",
    "9" * 5000, "a" * 300, [], [[]], {}, [0], [-1, "x", None, []], {"x": 1},
]  # fmt: skip


class Slow(Exception):
    """It takes too long."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """In time and memory."""

    def too_slow(*_: object) -> NoReturn:
        raise Slow

    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, EXAMPLE_S)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Short:
    """An example that a report need not have all of: of recordings it is in the test's folder."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)[-2000:]


def explore(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> None:
    """A few examples, or as many as there is time for."""

    def tried(example: Short) -> None:
        with bounded():
            check(example.value)

    until = time.monotonic() + SECONDS / TARGETS
    while True:
        settings(
            max_examples=500 if SECONDS else examples, deadline=None, database=None, derandomize=not SECONDS,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )(given(strategy.map(Short))(tried))()  # fmt: skip
        if time.monotonic() >= until:
            return


strange = st.one_of(st.sampled_from(STRANGE), st.text(max_size=20), st.integers(), st.floats(allow_nan=False))

# ---- YAML

LOADED = [files.TREE, *sorted(files.RULES.glob("*.yaml")), Path(__file__).parent.parent / "examples" / "flow.yaml"]


def some_of(path: Path) -> str:
    """As much of a file as is quick to read again and again."""
    return "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:120])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A file that is nearly right, one of right keys with any values, or none at all."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        lines = draw(st.sampled_from(YAMLS)).splitlines()
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(lines) - 1))
            line = lines[at]
            place = draw(st.integers(0, len(line)))
            new = draw(
                st.sampled_from(
                    [*"[]{}:,-?&*!|>'\"%@`#\t\n\0\x85\ufeff~<=", "&a ", "*a", "- ", "<<: *a", "!!x ", "---\n", "\\e"]
                )
            )
            lines[at : at + 1] = draw(
                st.sampled_from([[], [line, line], [line[:place] + new + line[place:]], [line[:place]], [line[place:]]])
            )
            lines = lines or ["x"]
        return "\n".join(lines)
    if kind == 1:
        value = st.recursive(
            strange,
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=6)
            ),
        )
        plain = draw(st.dictionaries(st.sampled_from(KEYS), value, max_size=6))
        return str(yaml.safe_dump(plain, allow_unicode=draw(st.booleans())))
    return draw(st.text(alphabet=st.sampled_from("ab1 \n\t-?:,[]{}&*!|>'\"%@`#.~"), max_size=200))


KEYS = [
    "desc", "traces", "groups", "functions", "tracepoint", "skb", "sk", "deref", "match", "role", "default", "facts",
    "nft", "monitor", "trace", "level", "message", "when", "returns", "advice", "evidence", "effect", "meaning",
    "causes", "check", "fix", "aliases", "expect", "incomplete", "name", "flow", "packets", "must_pass",
    "must_not_pass", "drops", "max_latency", "min", "max", "from", "to", "proto", "addr", "port", "pkt_len", "mark",
    "inner", "netns", "tcp_flags", "return", "lt",
]  # fmt: skip
YAMLS = [some_of(path) for path in LOADED]


def test_yaml(tmp_path: Path, leaves: Tree) -> None:
    with Recording(str(RECORDINGS[0])) as recording:
        header, host = recording.header, recording.host
    path = tmp_path / "x.yaml"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for load in (
            lambda: tree.load(path), lambda: rules.load(tmp_path, leaves), lambda: reasons._load(path),
            lambda: expectations.load(str(path), header, host),
        ):  # fmt: skip
            with contextlib.suppress(NettraceError):
                load()

    explore(documents(), check, 60)


# ---- the command line

VALUES = [
    "1", "0", "-1", "9" * 5000, "80", "1-2", "2-1", "-", "", " ", "10.0.0.1", "10.0.0.0/8", "::1", "fe80::1%eth0",
    "::/200", "tcp", "ipv6", "0x800", "S!", "all", "?", "ip*", "[", "ip_rcv,kfree_skb", "cpu,if", "1.5ms", "1e9s",
    "0.000001ns", "/", "..", "/dev/null", "/nowhere/x", "\x1b[2J", "\udc80", "ⅷ", "٣", "a" * 5000, "1/0",
    "0x" + "f" * 17, "NO_SOCKET", "eth0",
]  # fmt: skip
VALUE = st.sampled_from(VALUES) | st.text(max_size=12).filter(lambda text: "\0" not in text)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    actions = [action for action in options.parser()._actions if action.option_strings]
    words: list[str] = []
    for _ in range(draw(st.integers(0, 5))):
        action = draw(st.sampled_from(actions))
        option = draw(st.sampled_from(action.option_strings))
        count = 0 if action.nargs == 0 else action.nargs if isinstance(action.nargs, int) else 1
        given_ = [draw(VALUE) for _ in range(count)]
        words += [f"{option}={given_[0]}"] if count == 1 and draw(st.booleans()) else [option, *given_]
    return words + draw(st.lists(VALUE, max_size=2))


def test_options() -> None:
    def check(words: list[str]) -> None:
        with contextlib.suppress(UsageError), contextlib.redirect_stdout(io.StringIO()):
            try:
                options.parse(words)
            except SystemExit as error:  # -h, -V
                assert not error.code

    explore(command_lines(), check, 100)


def test_the_command_line(
    tmp_path: Path, kernels: dict[str, Kernel], leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the programs' text, on a recorded kernel."""
    monkeypatch.setattr(commands, "Kernel", lambda **_: kernels["6.12"])
    monkeypatch.setattr(modes, "require_tracing", lambda _: None)
    monkeypatch.setattr(modes, "require_drops", lambda _: None)
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)
    monkeypatch.chdir(tmp_path)

    def check(words: list[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                status = cli.main([*words, "--print-bpf"])
            except SystemExit as error:
                assert not error.code
                return
        assert status in (0, 1, 2)
        assert not status or "--check" in words or err.getvalue().splitlines()[-1].startswith("nettrace: ")

    explore(command_lines(), check, 40)


# ---- expressions

WORDS = [
    "and", "or", "not", "(", ")", "tcp", "udp", "ip", "ip6", "arp", "icmp", "vlan", "mpls", "port", "host", "net",
    "mask", "src", "dst", "ether", "proto", "portrange", "less", "greater", "len", "[", "]", "+", "-", "*", "/", "%",
    "&", "|", "^", "<<", ">>", "=", "!=", ">", "<", "0", "1", "80", "0x1f", "4294967296", "99999999999999999999",
    "1.2.3.4", "10.0.0.0/8", "::1", "fe80::/10", "2000-1", "tcp[13]", "ip[0:4]", "ip6[40]", "tcp[tcpflags]",
    "tcp-syn", "protochain", "6", "inbound", "ifindex", "broadcast", "multicast", "geneve", "pppoes", "type",
    "subtype", "atalk", "iso", "rnr", "0:1", ":", "'", '"', "\\",
]  # fmt: skip
# Letters by themselves may be a host's name, which libpcap would ask DNS for.
EXPRESSION = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | st.text(
    alphabet=st.sampled_from("0123456789.:/[]()&|!<>=+-*%^ \0\x1b\udc80é\n"), max_size=40
)


def has_libpcap() -> bool:
    try:
        pcap.compile_expression("ip")
    except KernelError:
        return False
    return True


HAS_LIBPCAP = has_libpcap()


def test_expressions() -> None:
    frame = Frame(bytes(range(60)), b"\0" * 30 + b"\xff" * 30, 90)

    def check(text: str) -> None:
        with contextlib.suppress(UsageError):
            for form in pcap.compile_expression(text):
                pcap.translate(form.instructions, "pcap")
                pcap.decide(form.instructions, frame)

    if not HAS_LIBPCAP:
        pytest.skip("libpcap is not installed")
    explore(EXPRESSION, check, 300)


# ---- recordings


def read_chunks(path: Path) -> str:
    found = []
    with opened(str(path)) as file, contextlib.suppress(StreamError):
        for _, chunk in chunks(file, str(path)):
            found.append(chunk)
    return json.dumps(found)


def tables() -> Iterator[list[Any]]:
    """Recordings of what was only counted."""
    header = json.loads(read_chunks(RECORDINGS[0]))[0]
    for table in TABLES:
        kind = kind_of(table)
        marks = [[0, "table", {"kind": kind, **table.plain()}], [1, "clock", 5], [2, "gap", 3], [3, "close", 1 << 40]]
        end = Summary("packets", 3, 20, (0, 1), *range(8))
        yield [
            {**header, "nettrace": {**header["nettrace"], "mode": kind}}, {"marks": marks}, {"end": asdict(end)},
        ]  # fmt: skip


def places(value: Any, names: tuple[Any, ...] = (), keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Where something is, in general and exactly: what a long list holds is the same thing many times."""
    if names:
        yield names, keys
    if isinstance(value, (dict, list)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            name = key if isinstance(value, dict) or len(value) < 20 else "*"
            yield from places(each, (*names, name), (*keys, key))


def by_place(found: list[Any]) -> list[list[tuple[Any, ...]]]:
    known: dict[Any, list[tuple[Any, ...]]] = {}
    for names, keys in places(found):
        known.setdefault(names, []).append(keys)
    return list(known.values())


SOURCES = [read_chunks(path) for path in RECORDINGS] + [json.dumps(each) for each in tables()]
PLACES = [by_place(json.loads(text)) for text in SOURCES]


@st.composite
def made_up(draw: st.DrawFn) -> list[Any]:
    """The chunks of a recording with some values that are not what they should be."""
    number = draw(st.integers(0, len(SOURCES) - 1))
    found: list[Any] = json.loads(SOURCES[number])
    for _ in range(draw(st.integers(1, 4))):
        *way, key = draw(st.sampled_from(draw(st.sampled_from(PLACES[number]))))
        place: Any = found
        try:
            for each in way:
                place = place[each]
            change(draw, place, key)
        except (IndexError, KeyError, TypeError):
            continue  # what was changed before is on the way
    return found


def change(draw: st.DrawFn, place: Any, key: Any) -> None:
    before, what = place[key], draw(st.integers(0, 4))
    if what == 0:
        del place[key]
    elif what == 1 and isinstance(place, list):
        place[key:key] = [before] * draw(st.sampled_from([1, 2, 50]))
    elif what == 2 and type(before) is int:
        place[key] = before + draw(st.sampled_from([1, -1, 2, 256, 1 << 16, 1 << 32, 1 << 63, -(1 << 64)]))
    elif what == 3 and isinstance(before, str) and before:
        place[key] = draw(st.sampled_from([before[:-1], before[2:], before * 2, "0" * len(before), "f" * len(before)]))
    else:
        place[key] = draw(strange)


SHOWN = [
    [], ["--diag-keep", "--detail", "--ret"], ["--json", "--diag-keep"], ["--date", "--latency-show"], ["--paths"],
    ["--latency-summary"], ["--latency"], ["--pcap", "OUT"], ["--report", "OUT"], ["--assert", "FLOW"],
    ["-w", "OUT", "--anonymise"],
    ["-p", "icmp"], *([["icmp or vlan 5 or tcp"]] if HAS_LIBPCAP else []), ["--netns", "client"],
    ["-o", "id,cpu,if,netns,pid,group,mark,len", "--tiny-show"], ["--pid", "1", "--detail"],
]  # fmt: skip


def test_recordings(tmp_path: Path, leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)
    (tmp_path / "FLOW").write_text("expect: [{name: x, flow: {proto: icmp}, must_pass: ['*'], max_latency: 1s}]")
    monkeypatch.chdir(tmp_path)

    def check(example: tuple[list[Any], list[str]]) -> None:
        found, arguments = example
        for name in ("x.ntr", "OUT"):
            Path(name).unlink(missing_ok=True)
        with Writer("x.ntr") as writer:
            writer.begin()
            for chunk in found:
                writer.write(chunk)
        shown(["-r", "x.ntr", *arguments])

    explore(st.tuples(made_up(), st.sampled_from(SHOWN)), check, 150)


def shown(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = cli.main(arguments)
    assert status in (0, 1, 2)
    assert status != 2 or err.getvalue().splitlines()[-1].startswith("nettrace: ")


def test_two_recordings(tmp_path: Path, leaves: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.chdir(tmp_path)

    def check(found: list[Any]) -> None:
        Path("x.ntr").unlink(missing_ok=True)
        with Writer("x.ntr") as writer:
            writer.begin()
            for chunk in found:
                writer.write(chunk)
        shown(["--diff", str(RECORDINGS[2]), "x.ntr"])

    explore(made_up(), check, 25)


def test_files_that_are_no_recordings(
    tmp_path: Path, leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)
    path = tmp_path / "x"

    def check(example: tuple[Path, int, bytes, int]) -> None:
        source, at, new, cut = example
        data = source.read_bytes()
        at %= len(data)
        path.write_bytes((data[:at] + new + data[at + len(new) :])[: len(data) - cut % len(data)])
        shown(["-r", str(path)])

    explore(
        st.tuples(st.sampled_from(RECORDINGS), st.integers(0, 1 << 20), st.binary(max_size=12), st.integers(0, 40)),
        check,
        60,
    )


# ---- messages from the kernel


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message that is nearly right, with a length in its items that fits as a rule."""
    if draw(st.booleans()):
        raw = bytearray(test_decode.WHOLE)
    else:
        address = st.binary(min_size=16, max_size=16)
        items = [
            test_decode.packet(
                draw(address), draw(address), draw(address),
                protocol=draw(st.sampled_from([0x800, 0x806, 0x86DD, 0x8035, 0x8100, 0, 0xFFFF])),
                l4_protocol=draw(st.integers(0, 255)), flags=draw(st.integers(0, 15)),
                fragment_offset=draw(st.sampled_from([0, 8, 65535])), vlan_tci=draw(st.integers(0, 65535)),
                tunnel=draw(st.integers(0, 6)), gso_size=draw(st.integers(0, 65535)),
            )
        ]  # fmt: skip
        for _ in range(draw(st.integers(1, 6))):
            kind = draw(st.integers(1, 12))
            slots = {1: 1, 2: 1, 3: 5, 6: 5, 7: 2, 4: 3, 5: 1, 8: 2, 9: 17, 11: 4}.get(kind, draw(st.integers(1, 8)))
            body = draw(st.binary(min_size=14, max_size=14))
            if kind == 1:
                body = body[:8] + struct.pack("<I", test_decode.IP_RCV & 0xFFFFFFFF) + body[12:]
            rest = draw(st.binary(max_size=16 * (slots - 1))).ljust(16 * (slots - 1), b"\0")
            items.append(body + bytes([kind, slots]) + rest)
        raw = bytearray(test_decode.record(*items))
    for _ in range(draw(st.integers(0, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, 2 * len(raw)))])


def test_messages(shipped: Rules) -> None:
    with Recording(str(RECORDINGS[0])) as recording:
        header, host = recording.header, recording.host
    lookups = live.lookups(host, header.traces)
    diagnosis = live.diagnosis(host, header.traces, shipped)

    def check(raw: bytes) -> None:
        decoder = Decoder(test_decode.ADDRESSES, test_decode.TRACEPOINTS, test_decode.FACTS)
        try:
            record = decoder.decode(raw)
        except StreamError:
            return
        out = io.StringIO()
        sinks: list[Text] = [
            Text(out, Display(detail=True), lookups),
            JsonLines(out, Display(), lookups, diagnosis.findings),
        ]
        for sink in sinks:
            sink.begin(header)
            player = Player(sink, follow=True)
            player.push(record)
            player.close(0)
            sink.events(record.events)

    explore(messages(), check, 300)
