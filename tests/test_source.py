"""The C text for the four recorded kernels, read again with a small preprocessor."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, Optional

import pytest

from nettrace import files, filters, pcap, plan, rules, tree
from nettrace.btf import Member
from nettrace.drops import Drops
from nettrace.errors import KernelError
from nettrace.filters import Mark, PacketFilter, Range, TcpFlags
from nettrace.kernel import Kernel
from nettrace.plan import Plan, Probe, Program, Wishes
from nettrace.settings import Settings
from nettrace.source import (
    BASIC_FILES,
    FILES,
    LATENCY_FILES,
    MONITOR_FILES,
    PATHS_FILES,
    SOCKET_FILES,
    SUMMARY_FILES,
    render,
)
from nettrace.tree import Trace
from tests import record_pcap
from tests.record_kernel import VERSIONS

ALL_ON = Settings(follow=True, ringbuf=True, detail=True)
ALL_OFF = Settings(follow=False, ringbuf=False, detail=False)
WITH_PACKETS = ALL_ON.with_packets(2048)
LATENCY = Settings(latency=True)
LATENCY_SUMMARY = Settings(latency=True, latency_summary=True)
PATHS = Settings(latency=True, paths=True)
NO_FILTER = PacketFilter()
# More than anybody can ask for at once, to have each constant.
EVERYTHING = PacketFilter(
    saddr=ip_network("10.0.0.0/8"), daddr=ip_network("10.2.0.0/16"), addr=ip_network("10.2.3.0/24"), sport=Range(1, 2),
    dport=Range(3, 4), port=Range(5, 6), l3=0x0800, l4=6, tcp_flags=TcpFlags(0x12, True), pkt_len=Range(7, 8), tgid=9,
    comm=b"curl", netns=0xF0000001, iface=b"eth0", mark=Mark(10, 11), expression="tcp port 80", inner=True,
    min_latency_ns=12, rate_limit=13,
)  # fmt: skip
OTHERWISE = PacketFilter(
    saddr=ip_network("fd00::1"), daddr=ip_network("fd00::2"), addr=ip_network("fd00::2"), tcp_flags=TcpFlags(2, False)
)

OF_SOCKETS = ("srtt_us", "min_rtt_us")  # conditions that no packet has

# By kernel in the order of VERSIONS; the offsets are those of test_btf.py, which a C compiler told.
CONSTANTS = {
    "OFF_sk_buff__len": [112, 112, 112, 112],
    "OFF_sk_buff__protocol": [176, 180, 180, 180],
    "OFF_sk_buff__head": [192, 200, 200, 200],
    "OFF_sk_buff__vlan_tci": [154, 154, 158, 158],
    "OFF_sk_buff__vlan_present": [130, 130, None, None],
    "MASK_sk_buff__vlan_present": [1, 1, None, None],
    "HAVE_VLAN_PRESENT": [1, 1, None, None],
    "OFF_sock__skc_dport": [12, 12, 12, 12],
    "OFF_sock__sk_protocol": [540, 516, 574, 540],
    "OFF_net__ns_inum": [136, 144, 136, 280],
    "OFF_net_device__name": [0, 0, 304, 288],
    # linux/skbuff.h and linux/bvec.h: the page, then its length and offset, whatever they are called.
    "OFF_skb_frag__page": [0, 0, 0, 0],
    "OFF_skb_frag__size": [8, 8, 8, 8],
    "OFF_skb_frag__offset": [12, 12, 12, 12],
    "OFF_skb_shared_info__nr_frags": [2, 2, 2, 2],
    "OFF_skb_shared_info__gso_size": [4, 4, 4, 4],
    "OFF_skb_shared_info__gso_segs": [6, 6, 6, 6],
    "OFF_skb_shared_info__frags": [48, 48, 48, 48],
    "SIZEOF_page": [64, 64, 64, 64],
}

# The members of sk_buff that C reads at one go, and how many bytes they have.
VIEW = {
    "vlan_proto": 2, "vlan_tci": 2, "protocol": 2, "network_header": 2, "mac_header": 2,
    "tail": 4, "head": 8, "data": 8,
}  # fmt: skip


class Preprocessed:
    """What of a C text is compiled, and what it defines.

    Knows the conditions that bpf/*.h has, and refuses others; each macro may be defined once.
    """

    def __init__(self, text: str) -> None:
        self.macros: dict[str, str] = {}
        lines: list[str] = []
        head: Optional[int] = None
        taken: list[bool] = []  # of each open condition
        before: list[bool] = []  # whether one of its branches was taken already
        text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
        for line in text.replace("\\\n", " ").splitlines():
            directive, _, rest = line.strip().partition(" ")
            if directive in ("#ifdef", "#ifndef", "#if"):
                taken.append(self._holds(directive, rest))
                before.append(taken[-1])
            elif directive in ("#else", "#elif"):
                taken[-1] = not before[-1] and (directive == "#else" or self._holds("#if", rest))
                before[-1] = before[-1] or taken[-1]
            elif directive == "#endif":
                taken.pop()
                before.pop()
            elif not all(taken):
                continue
            elif directive == "#define":
                name = re.match(r"\w+", rest)
                assert name is not None
                assert name[0] not in self.macros, f"{name[0]} is defined twice"
                self.macros[name[0]] = rest[name.end() :].strip()
                lines.append(rest[name.end() :])
            elif directive not in ("#line", "#include", "#pragma"):
                assert not line.strip().startswith("#"), line
                lines.append(line)
            elif directive == "#line" and head is None:
                head = len(lines)
        assert not taken
        self.code = _with_pasted_names("\n".join(lines))
        self.body = "\n".join(lines[head:])  # without the numbers at the top

    def _holds(self, directive: str, condition: str) -> bool:
        if directive != "#if":
            return (condition in self.macros) == (directive == "#ifdef")
        compared = re.fullmatch(r"(\w+) == (\d+)", condition)
        if compared is not None:
            return int(self.macros.get(compared[1], "0"), 0) == int(compared[2])
        assert re.fullmatch(r"defined\(\w+\)( \|\| defined\(\w+\))*", condition), condition
        return any(name in self.macros for name in re.findall(r"defined\((\w+)\)", condition))

    def used(self, prefix: str) -> set[str]:
        """The names with this prefix that the code speaks of; VIEW(..., member) speaks of an offset."""
        code = re.sub(r"\bASKED\(\w+\)", "", self.code)
        names = set(re.findall(rf"\b{prefix}\w+", code))
        members = re.findall(r"\bVIEW\([^,()]+, \w+, (\w+)\)", self.code)
        return {name for name in names if name != "OFF_sk_buff__"} | {
            name for name in (f"OFF_sk_buff__{member}" for member in members) if name.startswith(prefix)
        }

    @property
    def functions(self) -> set[str]:
        return set(re.findall(r"^(?:static __always_inline )?[a-z][\w *]*?\b(\w+)\(", self.code, re.MULTILINE))


def _with_pasted_names(code: str) -> str:
    """WORDS(X) speaks of X_W0 to X_W3, and MASKS(X) of X_M0 to X_M3."""
    for macro, letter in (("WORDS", "W"), ("MASKS", "M")):
        names = ", ".join(rf"\1_{letter}{index}" for index in range(4))
        code = re.sub(rf"\b{macro}\((FILTER_\w+)\)", names, code)
    return code


@pytest.fixture(autouse=True)
def without_libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libpcap makes of expressions was recorded."""
    monkeypatch.setattr(pcap, "compile_expression", record_pcap.load().__getitem__)


@pytest.fixture(scope="module")
def plans(kernels: dict[str, Kernel]) -> dict[str, Plan]:
    traces = tree.load(files.TREE).traces()
    wishes = Wishes(end_at={"ip_output"}, stack_at={"kfree_skb"}, return_at={"udp_rcv"})
    return {v: plan.make(traces, kernels[v], wishes) for v in VERSIONS}


@pytest.fixture(scope="module")
def plain(kernels: dict[str, Kernel]) -> Plan:
    """Without any wishes, for 6.12."""
    return plan.make(tree.load(files.TREE).traces(), kernels["6.12"])


@pytest.fixture(scope="module")
def basic(kernels: dict[str, Kernel]) -> dict[str, Plan]:
    """Where packets are not followed, nothing is done at returns."""
    traces = tree.load(files.TREE).traces()
    return {v: plan.make(traces, kernels[v], clones=False) for v in VERSIONS}


@pytest.fixture(scope="module")
def watching(kernels: dict[str, Kernel]) -> dict[str, Plan]:
    """The plans of --monitor with --metrics."""
    traces = tree.load(files.TREE)
    meanings = rules.load(files.RULES, traces)
    return {
        v: plan.make_monitor(
            [trace for trace in traces.traces() if trace.monitor], kernels[v], meanings.need_return,
            meanings.ask_verdict, tracing=True,
            timed=[trace for trace in traces.traces() if trace.name in plan.TIMED],
        )
        for v in VERSIONS
    }  # fmt: skip


def rendered(
    plans: Mapping[str, Plan],
    kernels: Mapping[str, Kernel],
    version: str,
    settings: Settings = ALL_ON,
    packet_filter: PacketFilter = EVERYTHING,
) -> str:
    return render(plans[version], kernels[version], settings, packet_filter, files.BPF).text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("count_hits", [True, False])
@pytest.mark.parametrize("packet_filter", [NO_FILTER, EVERYTHING, OTHERWISE], ids=["none", "everything", "otherwise"])
def test_all_that_the_c_asks_for_is_defined_once(
    plans: dict[str, Plan], basic: dict[str, Plan], kernels: dict[str, Kernel], version: str, follow: bool,
    count_hits: bool, packet_filter: PacketFilter,
) -> None:  # fmt: skip
    settings = Settings(follow=follow, ringbuf=follow, detail=follow, count_hits=count_hits)
    text = Preprocessed(rendered(plans if follow else basic, kernels, version, settings, packet_filter))
    prefixes = (
        "OFF_", "MASK_", "FILTER_", "KIND_", "RECORD_", "PACKET_", "COUNTER_", "SKB_VIEW_", "LOG_", "TRACKED_", "HIT_",
        "AT_", "SIZEOF_", "TUNNEL_", "RINGBUF_", "STACK_", "CALLS_", "RATE_", "MIN_",
    )  # fmt: skip
    for prefix in prefixes:
        assert text.used(prefix) <= text.macros.keys()
    assert len(text.used("OFF_")) > 10
    assert {"OFF_sk_buff__head", "OFF_sk_buff__network_header", "OFF_sock__skc_num"} <= text.used("OFF_")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("packet_filter", [NO_FILTER, EVERYTHING, OTHERWISE], ids=["none", "everything", "otherwise"])
@pytest.mark.parametrize("counts", [False, True])
def test_all_that_is_asked_of_watched_functions_is_defined(
    watching: dict[str, Plan], kernels: dict[str, Kernel], version: str, packet_filter: PacketFilter, counts: bool
) -> None:
    settings = Settings(
        follow=False, count_hits=counts, drops=Drops(count=True), count_rtt=True, detail=counts,
        trouble="bool may_be_trouble(u32, u64);\nbool is_trouble(u32, u64, const u64 *);",
    )  # fmt: skip
    text = Preprocessed(rendered(watching, kernels, version, settings, packet_filter))
    for prefix in ("OFF_", "MASK_", "FILTER_", "KIND_", "RECORD_", "COUNTER_", "PROBE_", "RTT_", "TRANSIT_", "SHIFT_"):
        assert text.used(prefix) <= text.macros.keys()
    assert text.used("PROBE_") == {f"PROBE_{name.upper()}" for name in plan.Watched._fields}
    assert {"watch", "watch_function", "handle_packet", "handle_socket", "transit_begins"} <= text.functions
    assert ("tell_socket(ctx" in text.code.partition("handle_socket(void")[2]) != counts


@pytest.mark.parametrize("settings", [LATENCY, LATENCY_SUMMARY, PATHS], ids=["latency", "summary", "paths"])
@pytest.mark.parametrize("packet_filter", [NO_FILTER, EVERYTHING], ids=["none", "everything"])
def test_where_only_times_are_told_no_way_is_kept_or_none_is_sent(
    plans: dict[str, Plan], kernels: dict[str, Kernel], settings: Settings, packet_filter: PacketFilter
) -> None:
    for version in VERSIONS:
        text = Preprocessed(rendered(plans, kernels, version, settings, packet_filter))
        for prefix in (
            "OFF_",
            "FILTER_",
            "RECORD_",
            "COUNTER_",
            "HISTOGRAM_",
            "COARSE_",
            "HOPS",
            "EDGES_",
            "PATH_",
            "MIN_",
            "MESSAGE_",
        ):
            assert text.used(prefix) <= text.macros.keys()
        # One place submits a packet's times, another what a function returned; both are for the first only.
        assert ("count_edge" in text.functions) == settings.latency_summary
        assert ("add_node" in text.functions) == settings.paths
        assert len(re.findall(r"\bsubmit\(ctx, &t->record", text.code)) == (settings == LATENCY)
        assert not {"note_headers", "note_step", "fill_device", "same_headers"} & text.functions


def test_every_offset_is_of_use_on_some_kernel(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    texts = [Preprocessed(rendered(plans, kernels, version)) for version in VERSIONS]
    prefixes = ("OFF_", "MASK_", "AT_", "SIZEOF_")
    defined = {name for text in texts for name in text.macros if name.startswith(prefixes)}
    assert defined == {name for text in texts for prefix in prefixes for name in text.used(prefix)}


def test_marks_of_probes_are_numbers_that_the_c_side_looks_at(
    plans: dict[str, Plan], kernels: dict[str, Kernel]
) -> None:
    text = Preprocessed(rendered(plans, kernels, "6.12"))
    marks = {name: 1 << bit for bit, name in enumerate(plan.MARKS)}
    assert {name: int(text.macros[name], 0) for name in marks} == marks
    others = [Preprocessed(rendered(plans, kernels, "6.12", settings)).body for settings in (LATENCY, WITH_PACKETS)]
    body = text.body.partition("stubs")[0] + "".join(others)
    assert [name for name in marks if not re.search(rf"flags & \(?[A-Z_| ]*\b{name}\b", body)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kernels_constants(plans: dict[str, Plan], kernels: dict[str, Kernel], version: str) -> None:
    macros = Preprocessed(rendered(plans, kernels, version)).macros
    place = VERSIONS.index(version)
    found = {name: int(macros[name], 0) if name in macros else None for name in CONSTANTS}
    assert found == {name: values[place] for name, values in CONSTANTS.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_read_holds_all_that_says_where_the_headers_are(
    plans: dict[str, Plan], kernels: dict[str, Kernel], version: str
) -> None:
    text = Preprocessed(rendered(plans, kernels, version))
    start, size = (int(text.macros[name], 0) for name in ("SKB_VIEW_AT", "SKB_VIEW_BYTES"))
    # The C side has them as an array of u64.
    assert start % 8 == size % 8 == 0 and size <= 128
    read = set(re.findall(r"\bVIEW\([^,()]+, \w+, (\w+)\)", text.code)) - {"member"}
    # Until 6.2 a bit says whether there is a tag, since then the tag's protocol.
    view = {**VIEW, "vlan_present": 1} if version in ("5.10", "6.1") else VIEW
    assert read <= set(view)
    for member, length in view.items():
        offset = int(text.macros[f"OFF_sk_buff__{member}"], 0)
        assert start <= offset and offset + length <= start + size
    for kind, member in re.findall(r"\bVIEW\([^,()]+, (u\d+), (\w+)\)", text.code):
        assert int(kind[1:]) == 8 * view[member], member


@pytest.mark.parametrize(
    ("field", "macro"), [("follow", "FOLLOW"), ("ringbuf", "USE_RINGBUF"), ("detail", "WITH_DETAIL"),
                         ("count_hits", "COUNT_HITS")]
)  # fmt: skip
def test_switches_exist_only_if_on(basic: dict[str, Plan], kernels: dict[str, Kernel], field: str, macro: str) -> None:
    switches = {"FOLLOW", "USE_RINGBUF", "WITH_DETAIL", "COUNT_HITS"}
    off: dict[str, Any] = {"follow": False, "ringbuf": False, "detail": False, "count_hits": False}
    for chosen, expected in (({field: True}, {macro}), ({name: name != field for name in off}, switches - {macro})):
        text = rendered(basic, kernels, "6.12", Settings(**{**off, **chosen}))
        assert switches & Preprocessed(text).macros.keys() == expected


def test_what_the_switches_switch(plans: dict[str, Plan], basic: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    on = Preprocessed(rendered(plans, kernels, "6.12", ALL_ON))
    off = Preprocessed(rendered(basic, kernels, "6.12", ALL_OFF))
    assert "BPF_RINGBUF_OUTPUT(messages" in on.code and "BPF_PERF_OUTPUT(messages)" in off.code
    assert "BPF_PERF_OUTPUT" not in on.code and "BPF_RINGBUF_OUTPUT" not in off.code
    assert "fill_detail" in on.functions and "fill_detail" not in off.functions
    assert {"call_begins", "call_ends", "adopt", "tell_return"} <= on.functions
    assert not {"call_begins", "call_ends", "adopt", "tell_return"} & off.functions
    assert {"handle", "work", "submit"} <= on.functions & off.functions


@pytest.mark.parametrize("follow", [True, False])
def test_where_hits_are_only_counted_nothing_is_sent(
    plans: dict[str, Plan], basic: dict[str, Plan], kernels: dict[str, Kernel], follow: bool
) -> None:
    settings = Settings(follow=follow, count_hits=True)
    text = Preprocessed(rendered(plans if follow else basic, kernels, "6.12", settings))
    assert "count_hit" in text.functions and re.search(r"\bhits\.update\(", text.code)
    # One place sends, and it is not reached.
    assert len(re.findall(r"\bsubmit\(", text.code)) == 1 and "submit" in text.functions
    usual = Preprocessed(rendered(plans if follow else basic, kernels, "6.12", Settings(follow=follow)))
    assert "count_hit" not in usual.functions and not re.search(r"\bhits\b", usual.code)
    assert len(re.findall(r"\bsubmit\(", usual.code)) > 1


def test_stacks_are_read_only_where_a_program_wants_them(
    plans: dict[str, Plan], plain: Plan, kernels: dict[str, Kernel]
) -> None:
    wanted = Preprocessed(rendered(plans, kernels, "6.12"))
    assert "WITH_STACK" in wanted.macros and "fill_stack" in wanted.functions
    text = Preprocessed(render(plain, kernels["6.12"], ALL_ON, EVERYTHING, files.BPF).text)
    assert "WITH_STACK" not in text.macros and "fill_stack" not in text.functions
    # Some trace's stack, and so some flag: of functions with cookies the program has none, the cookie has it.
    traces = tree.load(files.TREE).find("udp_rcv")
    by_cookie = plan.make(traces, kernels["6.12"], Wishes(stack_at={"udp_rcv"}), cookies=True)
    assert "WITH_STACK" in Preprocessed(render(by_cookie, kernels["6.12"], ALL_ON, NO_FILTER, files.BPF).text).macros


@pytest.mark.parametrize("follow", [True, False])
def test_packets_are_read_only_if_they_are_asked_for(
    plans: dict[str, Plan], basic: dict[str, Plan], kernels: dict[str, Kernel], follow: bool
) -> None:
    made = plans if follow else basic
    without = Preprocessed(rendered(made, kernels, "6.12", Settings(follow=follow)))
    assert not {"fill_bytes"} & without.functions and not {"WITH_BYTES", "SNAPLEN"} & without.macros.keys()
    text = Preprocessed(rendered(made, kernels, "6.12", Settings(follow=follow).with_packets(300)))
    assert "fill_bytes" in text.functions and int(text.macros["SNAPLEN"], 0) == 300


@pytest.mark.parametrize(
    ("snaplen", "log_slots", "tracked_max"),
    [(0, 128, 16384), (1, 128, 16384), (256, 256, 8192), (1500, 256, 8192), (2048, 256, 8192)],
)
def test_a_hit_with_its_packet_has_room_in_the_log(snaplen: int, log_slots: int, tracked_max: int) -> None:
    settings = Settings().with_packets(snaplen)
    assert (settings.snaplen, settings.log_slots, settings.tracked_max) == (snaplen, log_slots, tracked_max)
    # HIT_SLOTS in bpf/maps.h at its most, and one more: else the log would be sent without end.
    assert settings.log_slots > 20 + 18 + 7 + 1 + -(-snaplen // 16)


def test_limits(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    settings = Settings(tracked_max=1000, log_slots=128, ringbuf_pages=8)
    macros = Preprocessed(rendered(plans, kernels, "6.12", settings)).macros
    found = {name: int(macros[name], 0) for name in ("TRACKED_MAX", "LOG_SLOTS", "RINGBUF_PAGES")}
    assert found == {"TRACKED_MAX": 1000, "LOG_SLOTS": 128, "RINGBUF_PAGES": 8}


def _number(macros: Mapping[str, str], name: str) -> int:
    """What a macro is worth that is a number, or adds up numbers and other macros."""
    words = re.findall(r"\w+|[()+/]", macros[name])
    return int(eval("".join(str(_number(macros, word)) if word[0].isalpha() else word for word in words)))


@pytest.mark.parametrize("with_stack", [True, False])
def test_defaults_that_c_relies_on(
    plans: dict[str, Plan], plain: Plan, kernels: dict[str, Kernel], with_stack: bool
) -> None:
    what = plans["6.12"] if with_stack else plain
    macros = Preprocessed(render(what, kernels["6.12"], Settings(), NO_FILTER, files.BPF).text).macros
    log_slots, hit_slots = int(macros["LOG_SLOTS"], 0), _number(macros, "HIT_SLOTS")
    # A mask bounds the log, and the kernel wants a power of two of pages.
    for number in (log_slots, int(macros["RINGBUF_PAGES"], 0)):
        assert number > 0 and number & (number - 1) == 0
    # Headers, those inside, device, step, detail, drop, facts, stack.
    facts = 112 if what.facts else 0
    assert hit_slots * 16 >= 80 + 80 + 32 + 16 + 48 + 16 + facts + (272 if with_stack else 0)
    # A clone begins with headers, those inside and a device, and a hit must have room behind them.
    assert (log_slots - hit_slots) * 16 > 80 + 80 + 32


def test_without_a_filter_nothing_is_asked(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    macros = Preprocessed(rendered(plans, kernels, "6.12", packet_filter=NO_FILTER)).macros
    assert {int(macros[name], 0) for name in filters.NUMBERS} == {0}
    assert not PacketFilter().shape.keys() & macros.keys()


def test_filter_constants_are_there_as_numbers(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    packet_filter = filters.parse(saddr="10.0.0.1", dport="443", proto="tcp")
    macros = Preprocessed(rendered(plans, kernels, "6.12", packet_filter=packet_filter)).macros
    numbers = {name: int(macros[name], 0) for name in filters.NUMBERS}
    assert {name: number for name, number in numbers.items() if number} == {
        "FILTER_ASKED": sum(int(macros[f"ASK_{name}"], 0) for name in ("SADDR", "IPV4", "DPORT", "L4")),
        "FILTER_SADDR_W0": 0x0100000A,
        **{f"FILTER_SADDR_M{word}": mask for word, mask in enumerate([0xFFFFFFFF])},
        "FILTER_DPORT_MIN": 443,
        "FILTER_DPORT_MAX": 443,
        "FILTER_L4": 6,
    }


def test_each_number_and_each_condition_decides_something(
    plans: dict[str, Plan], watching: dict[str, Plan], kernels: dict[str, Kernel]
) -> None:
    text = Preprocessed(rendered(plans, kernels, "6.12")).code
    sockets = Preprocessed(rendered(plans, kernels, "6.12", SOCKETS, NO_FILTER)).code
    words = set(re.findall(r"\w+", text + sockets))
    pasted = {f"{name}_{part}{word}" for name in re.findall(r"(?:WORDS|MASKS)\((\w+)\)", text)
              for part in "WM" for word in range(4)}  # fmt: skip
    assert set(filters.NUMBERS) <= words | pasted
    asked = {*re.findall(r"ASKED\((\w+)\)", text + sockets), *re.findall(r"\bASK_(\w+)", text + sockets)}
    assert asked >= set(filters.CONDITIONS)


@pytest.mark.parametrize("name", PacketFilter().shape)
def test_each_shape_decides_something(plans: dict[str, Plan], kernels: dict[str, Kernel], name: str) -> None:
    asked = {
        "FILTER_PCAP": {"expression": "tcp port 80"},
        "FILTER_INNER": {"inner": True},
        "LIMIT_RATE": {"rate_limit": 9},
    }
    with_it = Preprocessed(rendered(plans, kernels, "6.12", packet_filter=PacketFilter(**asked[name])))  # type: ignore[arg-type]
    without = Preprocessed(rendered(plans, kernels, "6.12", packet_filter=NO_FILTER))
    assert with_it.macros.keys() - without.macros.keys() >= {name} and with_it.body != without.body


def test_other_conditions_need_no_other_compilation(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    words: tuple[dict[str, Any], ...] = (
        {}, {"saddr": "10.0.0.1"}, {"saddr": "10.0.0.0/24"}, {"saddr": "fd00::1"}, {"daddr": "10.0.0.1"}, {"port": "1"},
        {"sport": "1"}, {"tcp_flags": "S"}, {"tcp_flags": "S!"}, {"proto": "tcp"}, {"proto": "arp"}, {"mark": "1/3"},
        {"comm": "ping", "iface": "eth0", "pid": "1"}, {"pkt_len": "1"}, {"netns": 4026531840}, {"min_latency": "1ms"},
    )  # fmt: skip
    sources = [render(plans["6.12"], kernels["6.12"], ALL_ON, filters.parse(**one), files.BPF) for one in words]
    assert len({source.compiled for source in sources}) == 1
    assert len({source.text for source in sources}) == len({source.values for source in sources}) == len(words)
    for source in sources:
        # The numbers at these places make the text that is shown.
        shown = source.compiled
        for index, value in enumerate(source.values):
            shown = shown.replace(f" VALUE({index})\n", f" {value:#x}\n")
        assert shown == source.text


def test_other_shapes_do(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    words: tuple[dict[str, Any], ...] = (
        {}, {"proto": "tcp", "inner": True}, {"rate_limit": "1"}, {"expression": "tcp port 80"}, {"expression": "arp"},
    )  # fmt: skip
    sources = [render(plans["6.12"], kernels["6.12"], ALL_ON, filters.parse(**one), files.BPF) for one in words]
    assert len({source.compiled for source in sources}) == len(words)


def test_numbers_that_come_later_decide_nothing_before() -> None:
    # The preprocessor would take VALUE(0) for 0.
    for path in files.BPF.glob("*.h"):
        for line in re.findall(r"^#(?:el)?if.*", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert not set(re.findall(r"\w+", line)) & set(filters.NUMBERS)


def test_the_expression_comes_behind_what_it_calls_and_before_who_calls_it(
    plans: dict[str, Plan], kernels: dict[str, Kernel]
) -> None:
    text = rendered(plans, kernels, "6.12")
    places = [text.index(f'#line 1 "{name}"') for name in ("bpf/filter.h", "expression", "bpf/follow.h")]
    assert places == sorted(places)
    between = text[places[1] : places[2]]
    assert re.findall(r"^static __always_inline bool (\w+)\(", between, re.MULTILINE) == ["pcap_l2", "pcap_l3"]
    # Port 80, and no word of the user's.
    assert "0x50" in between and "tcp port" not in text
    assert '#line 1 "expression"' not in rendered(plans, kernels, "6.12", packet_filter=OTHERWISE)


class Numbers:
    """A filter with this one number."""

    expression = None

    def __init__(self, value: Any) -> None:
        self._value = value

    @property
    def shape(self) -> dict[str, bool]:
        return {}

    def numbers(self) -> dict[str, Any]:
        return {"FILTER_L4": self._value}


@pytest.mark.parametrize("value", ["6\nint evil;", "6", 6.0, None])
def test_only_whole_numbers_get_into_the_c(plans: dict[str, Plan], kernels: dict[str, Kernel], value: Any) -> None:
    packet_filter: Any = Numbers(value)
    with pytest.raises((TypeError, ValueError)):
        rendered(plans, kernels, "6.12", packet_filter=packet_filter)


def test_no_word_of_the_tree_gets_into_the_c(kernels: dict[str, Kernel]) -> None:
    named = Trace(
        name="EVIL_name", desc="EVIL_desc", group="EVIL_group", functions=("EVIL_function",), tracepoint="EVIL:event",
        skb=0, sk=None, deref=False, match=True, role=None, default=True,
    )  # fmt: skip
    programs = (
        Program("kprobe"), Program("kprobe_by_cookie"), Program("function_return"), Program("tracepoint"),
        Program("drop", location=1),
    )  # fmt: skip
    probes = tuple(Probe(named, "EVIL_target", program) for program in programs)
    text = render(Plan(probes, (), (named,)), kernels["6.12"], ALL_ON, NO_FILTER, files.BPF).text
    assert "EVIL" not in text
    assert len(stubs(text)) == 5


def stubs(text: str) -> list[str]:
    return text.partition('#line 1 "stubs"\n')[2].splitlines()


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_stubs_are_calls_of_macros_with_plain_words(kernels: dict[str, Kernel], version: str, cookies: bool) -> None:
    traces = tree.load(files.TREE).traces()
    wishes = Wishes(end_at={"ip_output"}, stack_at={"kfree_skb"}, return_at={"udp_rcv"})
    made = plan.make(traces, kernels[version], wishes, cookies=cookies)
    text = render(made, kernels[version], ALL_ON, EVERYTHING, files.BPF).text
    parsed = Preprocessed(text)
    names = []
    for line in stubs(text):
        found = re.fullmatch(
            r"(KPROBE|KPROBE_BY_COOKIE|RETURN|TRACEPOINT|DROP_TRACEPOINT|NFT_\w+)\((\w+)((?:, [\w| ]+)*)\)", line
        )
        assert found is not None, line
        # As many arguments as the macro takes.
        parameters = parsed.macros[found[1]].partition(")")[0].count(",")
        assert found[3].count(",") == parameters, line
        names.append(found[2])
    assert len(set(names)) == len(names)
    assert names == [program.name for program in made.programs]
    # Nothing else is called so: functions, macros, maps.
    others = Preprocessed(text.partition('#line 1 "stubs"\n')[0])
    maps = set(re.findall(r"\b(\w+)\.(?:lookup|update|delete|call|insert|ringbuf_output)\(", others.code))
    assert {"handle", "submit", "work"} <= others.functions and {"tracked", "kprobe_work", "calls", "messages"} <= maps
    assert not set(names) & (others.functions | others.macros.keys() | maps)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (Program("kprobe"), "KPROBE(kprobe, DIRECT, 0, none, 0, 0)"),
        (Program("kprobe", skb=2, match=True), "KPROBE(kprobe_skb2_match, DIRECT, 2, none, MAY_MATCH, 0)"),
        (Program("kprobe", skb=1, sk=0), "KPROBE(kprobe_skb1_sk0, DIRECT, 1, 0, 0, 0)"),
        (Program("kprobe", deref=True), "KPROBE(kprobe_deref, FIRST_MEMBER, 0, none, 0, 0)"),
        (Program("kprobe", frees=True), "KPROBE(kprobe_frees, DIRECT, 0, none, FREES, 0)"),
        (Program("kprobe", match=True, clones=True),
         "KPROBE(kprobe_match_clones, DIRECT, 0, none, MAY_MATCH | CLONES, 0)"),
        (
            Program("kprobe", match=True, ends=True, returns=True, stack=True),
            "KPROBE(kprobe_match_ends_returns_stack, DIRECT, 0, none, MAY_MATCH | ENDS | RETURNS | STACK, 0)",
        ),
        (Program("kprobe_by_cookie"), "KPROBE_BY_COOKIE(kprobe_by_cookie, GOES_ON)"),
        (
            Program("kprobe_by_cookie", skb=2, match=True),
            "KPROBE_BY_COOKIE(kprobe_by_cookie_skb2_match, BEGINS_AT_2)",
        ),
        (Program("function_return"), "RETURN(function_return, 1)"),
        (Program("function_return", most=64), "RETURN(function_return_most64, 64)"),
        (Program("tracepoint", skb=3, tracepoint=2), "TRACEPOINT(tracepoint_skb3_tracepoint2, 3, 2, 0, 0, 0)"),
        (
            Program("tracepoint", frees=True, stack=True),
            "TRACEPOINT(tracepoint_frees_stack, 0, 0, FREES | STACK, 0, 0)",
        ),
        (Program("kprobe", facts=3), "KPROBE(kprobe_facts3, DIRECT, 0, none, 0, 3)"),
        (Program("tracepoint", facts=2, arguments=4), "TRACEPOINT(tracepoint_facts2_arguments4, 0, 0, 0, 2, 4)"),
        (
            Program("drop", match=True, frees=True, tracepoint=6, location=1, reason=2),
            "DROP_TRACEPOINT(drop_match_frees_tracepoint6_location1_reason2, 0, 1, 2, 6, MAY_MATCH | FREES)",
        ),
        (Program("drop", frees=True, location=1), "DROP_TRACEPOINT(drop_frees_location1, 0, 1, 0, 0, FREES)"),
    ],
)  # fmt: skip
def test_stubs(kernels: dict[str, Kernel], program: Program, expected: str) -> None:
    probe = Probe(tree.load(files.TREE).traces()[0], "anywhere", program)
    assert stubs(render(Plan((probe,), (), ()), kernels["6.12"], ALL_ON, NO_FILTER, files.BPF).text) == [expected]


def test_the_files_are_whole_and_say_where_they_are_from(
    plans: dict[str, Plan], watching: dict[str, Plan], kernels: dict[str, Kernel]
) -> None:
    with_drops = replace(ALL_OFF, drops=Drops(count=True))
    modes = (
        (FILES, replace(with_drops, follow=True).with_packets(64), plans["6.12"]),
        (BASIC_FILES, with_drops.with_packets(64), plans["6.12"]),
        (LATENCY_FILES, LATENCY, plans["6.12"]), (SUMMARY_FILES, LATENCY_SUMMARY, plans["6.12"]),
        (PATHS_FILES, PATHS, plans["6.12"]), (SOCKET_FILES, SOCKETS, plans["6.12"]),
        (SOCKET_FILES, replace(SOCKETS, count_rtt=True, peers_max=9), plans["6.12"]),
        (MONITOR_FILES, replace(with_drops, trouble="", count_rtt=True), watching["6.12"]),
    )  # fmt: skip
    definition = r"^static __always_inline [\w *]*?\b(\w+)\("
    ours = {
        name for path in files.BPF.glob("*.h") for name in re.findall(definition, path.read_text(), re.MULTILINE)
    }  # fmt: skip
    for names, settings, what in modes:
        text = render(what, kernels["6.12"], settings, NO_FILTER, files.BPF).text
        whole = [f'#line 1 "bpf/{name}"\n' + (files.BPF / name).read_text(encoding="utf-8") for name in names]
        places = [text.index(part) for part in whole]
        assert places == sorted(places)
        assert set(re.findall(r'^#line 1 "bpf/(.*)"$', text, re.MULTILINE)) == set(names)
        # Newer compilers refuse the call of a function that a switch has taken away.
        read = Preprocessed(text)
        in_macros = set(re.findall(r"\w+", " ".join(read.macros.values())))
        assert (set(re.findall(r"\b([a-z]\w+)\(", read.code)) & ours) - in_macros <= read.functions
        # BCC does not rewrite what is included.
        assert set(re.findall(r"^#include.*$", text, re.MULTILINE)) == {"#include <uapi/linux/ptrace.h>"}
    assert {name for names, _, _ in modes for name in names} == {path.name for path in files.BPF.glob("*.h")}


class NoMember:
    """Types that lack some members, or structs."""

    def __init__(self, kernel: Kernel, *missing: str) -> None:
        self._btf = kernel.btf
        self._missing = missing

    def member(self, struct: str, path: str) -> Any:
        is_missing = struct in self._missing or f"{struct}.{path}" in self._missing
        return None if is_missing else self._btf.member(struct, path)

    def struct_size(self, struct: str) -> Optional[int]:
        return None if struct in self._missing else self._btf.struct_size(struct)


class NoSymbol:
    """Symbols without some of the kernel's variables."""

    def __init__(self, kernel: Kernel, *missing: str) -> None:
        self._symbols = kernel.symbols
        self._missing = missing

    def data_address(self, name: str) -> Optional[int]:
        return None if name in self._missing else self._symbols.data_address(name)


@dataclass
class Changed:
    """A kernel of which something is otherwise."""

    btf: Any
    symbols: Any
    types_of: Any


def without(kernel: Kernel, *missing: str) -> Any:
    return Changed(NoMember(kernel, *missing), NoSymbol(kernel, *missing), kernel.types_of)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["sk_buff.network_header"], "struct sk_buff has no member network_header"),
        (["sock.__sk_common.skc_num"], "struct sock has no member __sk_common.skc_num"),
        (["skb_frag", "bio_vec"], "has no member netmem"),
    ],
)
def test_a_member_that_the_kernel_lacks_is_told(
    plans: dict[str, Plan], kernels: dict[str, Kernel], missing: list[str], words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        render(plans["6.12"], without(kernels["6.12"], *missing), ALL_ON, NO_FILTER, files.BPF)


def test_the_types_of_a_page_of_data_by_either_name(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    # Until 6.9 it was a bio_vec by another name; both structs are there, with the members in the same places.
    names = ("OFF_skb_frag__page", "OFF_skb_frag__size", "OFF_skb_frag__offset")
    for version, has_its_own in (("5.10", False), ("6.1", False), ("6.12", True), ("7.2", True)):
        assert (kernels[version].btf.member("skb_frag", "netmem") is not None) == has_its_own
        for missing in ("skb_frag", "bio_vec") if has_its_own else ("skb_frag",):
            text = render(plans[version], without(kernels[version], missing), ALL_ON, NO_FILTER, files.BPF).text
            macros = Preprocessed(text).macros
            assert [int(macros[name], 0) for name in names] == [0, 8, 12], (version, missing)


@pytest.mark.parametrize("version", VERSIONS)
def test_where_pages_are_is_read_from_the_symbols(
    plans: dict[str, Plan], kernels: dict[str, Kernel], recorded: Any, version: str
) -> None:
    told = (recorded(version) / "proc/kallsyms").read_text(encoding="utf-8")
    addresses = {name: int(address, 16) for address, _, name in re.findall(r"^(\w+) (\w) (\S+)$", told, re.MULTILINE)}
    macros = Preprocessed(rendered(plans, kernels, version)).macros
    for name in ("page_offset_base", "vmemmap_base"):
        assert int(macros[f"AT_{name}"], 0) == addresses[name]


@pytest.mark.parametrize("missing", ["page_offset_base", "vmemmap_base", "page"])
def test_without_all_of_it_pages_are_not_read(plans: dict[str, Plan], kernels: dict[str, Kernel], missing: str) -> None:
    text = Preprocessed(render(plans["6.12"], without(kernels["6.12"], missing), ALL_ON, EVERYTHING, files.BPF).text)
    assert not [name for name in text.macros if name.startswith(("AT_", "SIZEOF_"))]
    assert "locate_beyond" not in text.functions and "fetch" in text.functions


class OtherBit(NoMember):
    """Types where the bit that says that there is a VLAN tag is another one."""

    def member(self, struct: str, path: str) -> Any:
        if path == "vlan_present":
            return Member(offset_bits=130 * 8 + 5, size_bits=1, is_bitfield=True)
        return super().member(struct, path)


def test_a_bit_is_masked_within_its_byte(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    kernel: Any = Changed(OtherBit(kernels["6.1"]), kernels["6.1"].symbols, kernels["6.1"].types_of)
    macros = Preprocessed(render(plans["6.1"], kernel, ALL_ON, NO_FILTER, files.BPF).text).macros
    assert int(macros["OFF_sk_buff__vlan_present"], 0) == 130
    assert int(macros["MASK_sk_buff__vlan_present"], 0) == 0x20


SOCKETS = Settings(follow=False, sockets=True)
# By kernel in the order of VERSIONS, from what bpftool makes of its types in C.
SOCKET_PLACES = {
    # enum and bit-fields of include/net/inet_connection_sock.h: five bits from the first on.
    "SHIFT_inet_connection_sock__ca_state": [0, 0, 0, 0],
    "MASK_inet_connection_sock__ca_state": [31, 31, 31, 31],
    "OFF_minmax_sample__v": [4, 4, 4, 4],
}


@pytest.fixture(scope="module")
def socket_plans(kernels: dict[str, Kernel]) -> dict[str, Plan]:
    traces = [trace for trace in tree.load(files.TREE).traces() if trace.sk is not None]
    return {v: plan.make_sockets(traces, kernels[v]) for v in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "settings",
    [
        SOCKETS, replace(SOCKETS, detail=True, ringbuf=False), replace(SOCKETS, count_hits=True),
        replace(SOCKETS, count_rtt=True), replace(SOCKETS, count_rtt=True, peers_max=7),
    ],
    ids=["lines", "detail", "count_hits", "rtt", "peers"],
)  # fmt: skip
def test_all_that_is_asked_of_sockets_is_defined(
    socket_plans: dict[str, Plan], kernels: dict[str, Kernel], version: str, settings: Settings
) -> None:
    packet_filter = PacketFilter(l4=6, netns=0xF0000001, srtt_us=1000, min_rtt_us=500, rate_limit=3)
    text = Preprocessed(rendered(socket_plans, kernels, version, settings, packet_filter))
    for prefix in ("OFF_", "MASK_", "SHIFT_", "FILTER_", "KIND_", "SOCKET_", "COUNTER_", "RTT_", "HISTOGRAM_", "TICK_"):
        assert text.used(prefix) <= text.macros.keys(), prefix
    assert {"tell_socket", "handle", "call_ends"} <= text.functions
    assert {"FILTER_L4", "FILTER_NETNS", "FILTER_SRTT_US", "FILTER_MINRTT_US"} <= text.used("FILTER_")
    assert ("count_rtt" in text.functions) == settings.count_rtt
    assert ("count_peer" in text.functions) == bool(settings.peers_max)


@pytest.mark.parametrize("name", SOCKET_PLACES)
def test_members_of_sockets(socket_plans: dict[str, Plan], kernels: dict[str, Kernel], name: str) -> None:
    texts = [Preprocessed(rendered(socket_plans, kernels, version, SOCKETS)) for version in VERSIONS]
    assert [int(text.macros[name], 0) for text in texts] == SOCKET_PLACES[name]


def test_the_timer_of_retransmissions_is_found_whatever_it_is_called(
    socket_plans: dict[str, Plan], kernels: dict[str, Kernel]
) -> None:
    for version, struct, path in (
        ("5.10", "inet_connection_sock", "icsk_timeout"), ("6.12", "inet_connection_sock", "icsk_timeout"),
        ("7.2", "sock", "tcp_retransmit_timer.expires"),
    ):  # fmt: skip
        text = Preprocessed(rendered(socket_plans, kernels, version, SOCKETS))
        member = kernels[version].btf.member(struct, path)
        assert member is not None
        assert int(text.macros["OFF_inet_connection_sock__timeout"], 0) == member.offset
