"""What --drop asks of drops, on the four recorded kernels, and how it is shown."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import re
import shutil
from pathlib import Path
from typing import Callable, Optional

import pytest

from nettrace import drops, files, filters, plan, source, tree
from nettrace.drops import Drops
from nettrace.errors import UsageError
from nettrace.event import UNREAD, Drop, Event
from nettrace.kernel import Kernel, Symbol
from nettrace.plan import Plan, Program
from nettrace.settings import Settings
from nettrace.sinks import Display, DropTable, Lookups, Summary, Text
from nettrace.tables import DropCounts
from tests.record_kernel import VERSIONS

from .headers import ICMP, IP, PING, PING_TEXT, icmp, ipv6, packet

WITH_REASONS = [version for version in VERSIONS if version != "5.10"]
ENDING = Lookups(
    symbol=lambda address: Symbol("tcp_v4_rcv", address & 0xFFF, None, "") if address < 0x10000 else None,
    reason={2: "NOT_SPECIFIED", 3: "NO_SOCKET"}.__getitem__,
    meaning={3: "nobody listens"}.get,
)


def chosen(kernel: Kernel, reasons: Optional[str] = None, **other: bool) -> Drops:
    return drops.choose(kernel, reasons=reasons, **{"count": False, "unread": False, **other})


def of_drops(kernel: Kernel, *, stack: bool = False, unread: bool = False) -> Plan:
    (trace,) = [trace for trace in tree.load(files.TREE).traces() if trace.role == "drop"]
    return plan.of_drops(trace, kernel, stack=stack, unread=unread)


def list_of(text: str, name: str) -> Optional[list[str]]:
    found = re.search(rf"^#define {name}\(X\)(.*)$", text, re.MULTILINE)
    return None if found is None else re.findall(r"X\(([^)]*)\)", found[1])


@pytest.mark.parametrize("version", WITH_REASONS)
def test_reasons_are_the_kernels_in_any_case_and_with_or_without_its_prefix(
    kernels: dict[str, Kernel], version: str
) -> None:
    kernel = kernels[version]
    wanted = chosen(kernel, "no_socket, SKB_DROP_REASON_TCP_CSUM,NO_SOCKET").reasons
    assert [kernel.drop_reason(number) for number in wanted] == ["NO_SOCKET", "TCP_CSUM"]
    assert list_of(chosen(kernel, "NO_SOCKET").c_text(), "DROP_REASONS") == [hex(wanted[0])]


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ("NO_SOKET", "this kernel has no reason 'NO_SOKET'; did you mean 'NO_SOCKET'"),
        ("NO_SOCKET,TCP_CSUMM", "has no reason 'TCP_CSUMM'; did you mean"),
        ("zzz", "this kernel has no reason 'zzz'"),
        (" ,", "--reason needs the name of a reason"),
    ],
)
def test_reasons_that_are_none(kernels: dict[str, Kernel], reasons: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        chosen(kernels["6.12"], reasons)


def test_an_answer_that_a_raw_socket_has_got_is_no_drop() -> None:
    answer = packet(IP, ICMP, icmp(0))
    assert drops.is_normal_free("icmp_rcv", answer, "NO_SOCKET")
    assert not drops.is_normal_free("icmp_rcv", PING, "NO_SOCKET")
    # A later fragment has no header that tells.
    assert not drops.is_normal_free("icmp_rcv", packet(IP, ICMP, fragment_offset=1480), "NO_SOCKET")


def test_a_kernel_without_reasons(kernels: dict[str, Kernel]) -> None:
    with pytest.raises(UsageError, match="gives no reasons"):
        chosen(kernels["5.10"], "NO_SOCKET")
    text = chosen(kernels["5.10"]).c_text()
    assert (list_of(text, "NOT_DROPS"), list_of(text, "NO_REASONS")) == ([], [])
    assert [words for words in drops.shortages(kernels["5.10"], unread=False) if "not why" in words]
    assert drops.shortages(kernels["6.12"], unread=False) == []


@pytest.mark.parametrize("version", WITH_REASONS)
def test_what_is_no_drop_is_never_shown(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    text = chosen(kernel).c_text()
    numbers = list_of(text, "NOT_DROPS")
    assert numbers is not None and list_of(text, "DROP_REASONS") is None
    names = {kernel.drop_reason(int(number, 0)) for number in numbers}
    assert names == {"NOT_DROPPED_YET", "CONSUMED"} & set(kernel.drop_reasons.values())
    assert "NOT_DROPPED_YET" in names


@pytest.mark.parametrize("version", VERSIONS)
def test_normal_frees_are_at_functions_of_this_kernel(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    frees = chosen(kernel).normal_frees
    for start, size, free in frees:
        assert kernel.symbols.address(kernel.symbols.resolve(free.function) or "") == start
        assert 0 < size < 1 << 20
        assert all(value & ~free.mask == 0 for value in free.values)
    expected = [f"AT_{free.function}, {size:#x}" for _, size, free in frees for _ in free.values]
    found = list_of(chosen(kernel).c_text(), "NORMAL_FREES") or []
    assert [entry.rsplit(", ", 4)[0] for entry in found] == expected
    assert "tcp_v4_rcv" in {free.function for _, _, free in frees}
    # By the headers, which nobody can read there.
    assert list_of(chosen(kernel, unread=True).c_text(), "NORMAL_FREES") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_drop_tracepoint_is_attached(kernels: dict[str, Kernel], version: str) -> None:
    (probe,) = of_drops(kernels[version], stack=True).probes
    reason = 0 if version == "5.10" else 2
    assert probe.program == Program(
        "drop", skb=0, location=1, reason=reason, match=True, frees=True, stack=True
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "at"), [("5.10", (8, 16, 0, 24)), ("6.12", (8, 16, 36, 32)), ("7.2", (8, 16, 36, 32))]
)
def test_what_the_record_tells(kernels: dict[str, Kernel], version: str, at: tuple[int, ...]) -> None:
    # The numbers are those of the tracepoint's format file.
    (probe,) = of_drops(kernels[version], unread=True).probes
    program = probe.program
    assert (program.kind, program.skb, program.location, program.reason, program.protocol) == ("drop_record", *at)
    assert program.is_tracepoint and program.is_alone


def test_without_the_record_its_arguments(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "sys/kernel/tracing/events/skb/kfree_skb")
    kernel = Kernel(tmp_path)
    made = of_drops(kernel, unread=True)
    assert [probe.program.kind for probe in made.probes] == ["drop_arguments"]
    settings = Settings(follow=False, drops=chosen(kernel, unread=True))
    text = source.render(made, kernel, settings, filters.parse(), files.BPF).text
    assert text.endswith(
        "DROP_ARGUMENTS(drop_arguments_match_frees_location1_reason2, 0, 1, 2, 0, MAY_MATCH | FREES)\n"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proto": "udp"}, "-p with a protocol inside of IP needs"), ({"addr": "10.0.0.1"}, "--addr needs"),
        ({"dport": "53"}, "--dport needs"), ({"iface": "lo"}, "--iface needs"), ({"mark": "1"}, "--mark needs"),
        ({"netns": 4026531840}, "--netns needs"), ({"tcp_flags": "S"}, "needs what is in packets"),
    ],
)  # fmt: skip
def test_conditions_that_nobody_can_check(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        drops.refuse_contents(filters.parse(**options), (), protocol_known=True)  # type: ignore[arg-type]


def test_conditions_that_the_tracepoint_can_check() -> None:
    asked = filters.parse(proto="ipv6", comm="ping", rate_limit="5")
    drops.refuse_contents(asked, ("cpu", "pid"), protocol_known=True)
    with pytest.raises(UsageError, match="-p needs"):
        drops.refuse_contents(asked, (), protocol_known=False)
    with pytest.raises(UsageError, match="column 'mark'"):
        drops.refuse_contents(asked, ("cpu", "mark"), protocol_known=True)


def dropped(reason: Optional[int], location: int = 0x81) -> Event:
    return Event(12_000_345_678, "kfree_skb", 1, PING, drop=Drop(location, reason))


def shown(*events: Event, meanings: bool = False) -> str:
    out = io.StringIO()
    Text(out, Display(traces=False, meanings=meanings), ENDING).events(events)
    return out.getvalue()


def test_a_line() -> None:
    assert shown(dropped(3)) == f"[12.000345] {PING_TEXT} *reason: NO_SOCKET, tcp_v4_rcv+0x81*\n"
    assert shown(dropped(None, 0x20000)) == f"[12.000345] {PING_TEXT} *0x20000*\n"
    unread = dropped(3)._replace(packet=ipv6(0, flags=UNREAD))
    assert shown(unread) == "[12.000345] IPv6 *reason: NO_SOCKET, tcp_v4_rcv+0x81*\n"


def test_a_meaning_is_told_once() -> None:
    lines = shown(dropped(3), dropped(2), dropped(3), dropped(None), meanings=True).splitlines()
    assert [line for line in lines if "*" not in line] == ["    NO_SOCKET: nobody listens"]
    assert lines[1] == "    NO_SOCKET: nobody listens"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line and not line.startswith("reason")]


def test_the_table_is_sorted_and_has_rates() -> None:
    out = io.StringIO()
    table = DropTable(out, Display(meanings=True), ENDING)
    table.table(DropCounts({(3, 0x10): 4, (None, 0x20): 4, (2, 0x30): 9}, 2.0, False))
    assert rows(out.getvalue()) == [
        ["NOT_SPECIFIED", "tcp_v4_rcv+0x30", "9", "4.5/s"],
        ["-", "tcp_v4_rcv+0x20", "4", "2.0/s"],
        ["NO_SOCKET", "tcp_v4_rcv+0x10", "4", "2.0/s"],
    ]
    out.truncate(0)
    out.seek(0)
    table.table(DropCounts({(3, 0x10): 7}, 1.0, False))
    assert rows(out.getvalue()) == [["NO_SOCKET", "tcp_v4_rcv+0x10", "7", "3.0/s"]]
    out.truncate(0)
    out.seek(0)
    table.table(DropCounts({(3, 0x10): 8}, 4.0, True))
    assert rows(out.getvalue()) == [
        ["NO_SOCKET", "tcp_v4_rcv+0x10", "8", "2.0/s"], ["NO_SOCKET:", "nobody", "listens"],
    ]  # fmt: skip


def test_on_a_terminal_a_table_takes_the_place_of_the_last_one_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    table = DropTable(out, Display(), ENDING)
    table.table(DropCounts({(3, at): at for at in range(1, 6)}, 1.0, False))
    first = out.getvalue()
    assert first.count("\n") == 4 and first.endswith("... and 3 more\n") and "\033" not in first
    table.table(DropCounts({(3, at): at for at in range(1, 6)}, 1.0, True))
    assert out.getvalue()[len(first) :].startswith("\033[4A\033[Jreason ")
    assert out.getvalue()[len(first) :].count("\n") == 6


def test_the_summary_of_drops() -> None:
    summary = Summary(
        unit="drops", shown=3, events=3, lost_messages=(0, 0), lost_packets=0, unread_messages=0, missed_hits=0,
        untracked=0, evicted=0, unfinished=0, incomplete=0, skipped=0, normal_frees=2, uncounted=1,
    )  # fmt: skip
    assert summary.text(verbose=False) == (
        "3 drops, 0 messages lost, 2 normal frees left out, 1 drop not in the table for want of room, 0 traces skipped"
    )
