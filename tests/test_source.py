"""The C text for the four recorded kernels, read again with a small preprocessor."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Mapping
from typing import Any

import pytest

from nettrace import files, filters, plan, tree
from nettrace.btf import Member
from nettrace.errors import KernelError
from nettrace.kernel import Kernel
from nettrace.plan import Plan, Probe, Program
from nettrace.source import FILES, Settings, render
from nettrace.tree import Trace
from tests.record_kernel import VERSIONS

ALL_ON = Settings(follow=True, ringbuf=True, detail=True)
ALL_OFF = Settings(follow=False, ringbuf=False, detail=False)
EVERY_FILTER = {
    **filters.parse(saddr="10.0.0.1", daddr="10.0.0.2", addr="10.0.0.1", sport="1", dport="2", port="2").constants(),
    **filters.parse(proto="arp").constants(),
    **filters.parse(proto="tcp").constants(),
}

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
        taken: list[bool] = []  # of each open condition
        text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
        for line in text.replace("\\\n", " ").splitlines():
            directive, _, rest = line.strip().partition(" ")
            if directive in ("#ifdef", "#ifndef", "#if"):
                taken.append(self._holds(directive, rest))
            elif directive == "#else":
                taken[-1] = not taken[-1]
            elif directive == "#endif":
                taken.pop()
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
        assert not taken
        self.code = "\n".join(lines)

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
        names = set(re.findall(rf"\b{prefix}\w+", self.code))
        members = re.findall(r"\bVIEW\([^,()]+, \w+, (\w+)\)", self.code)
        return {name for name in names if name != "OFF_sk_buff__"} | {
            name for name in (f"OFF_sk_buff__{member}" for member in members) if name.startswith(prefix)
        }

    @property
    def functions(self) -> set[str]:
        return set(re.findall(r"^(?:static __always_inline )?[a-z][\w *]*?\b(\w+)\(", self.code, re.MULTILINE))


@pytest.fixture(scope="module")
def plans(kernels: dict[str, Kernel]) -> dict[str, Plan]:
    traces = tree.load(files.TREE).traces()
    return {v: plan.make(traces, kernels[v]) for v in VERSIONS}


def rendered(
    plans: Mapping[str, Plan],
    kernels: Mapping[str, Kernel],
    version: str,
    settings: Settings = ALL_ON,
    constants: Mapping[str, int] = EVERY_FILTER,
) -> str:
    return render(plans[version], kernels[version].btf, settings, constants, files.BPF)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [ALL_ON, ALL_OFF])
@pytest.mark.parametrize("constants", [{}, EVERY_FILTER])
def test_all_that_the_c_asks_for_is_defined_once(
    plans: dict[str, Plan], kernels: dict[str, Kernel], version: str, settings: Settings, constants: Mapping[str, int]
) -> None:
    text = Preprocessed(rendered(plans, kernels, version, settings, constants))
    prefixes = ("OFF_", "MASK_", "FILTER_", "KIND_", "RECORD_", "PACKET_", "COUNTER_", "SKB_VIEW_", "LOG_", "TRACKED_")
    for prefix in prefixes:
        assert text.used(prefix) <= text.macros.keys()
    assert len(text.used("OFF_")) > 10
    assert {"OFF_sk_buff__head", "OFF_sk_buff__network_header", "OFF_sock__skc_num"} <= text.used("OFF_")


def test_every_offset_is_of_use_on_some_kernel(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    texts = [Preprocessed(rendered(plans, kernels, version)) for version in VERSIONS]
    defined = {name for text in texts for name in text.macros if name.startswith(("OFF_", "MASK_"))}
    assert defined == {name for text in texts for prefix in ("OFF_", "MASK_") for name in text.used(prefix)}


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
    ("field", "macro"), [("follow", "FOLLOW"), ("ringbuf", "USE_RINGBUF"), ("detail", "WITH_DETAIL")]
)
def test_switches_exist_only_if_on(plans: dict[str, Plan], kernels: dict[str, Kernel], field: str, macro: str) -> None:
    others = {"FOLLOW", "USE_RINGBUF", "WITH_DETAIL"} - {macro}
    on = rendered(plans, kernels, "6.12", Settings(**{"follow": False, "ringbuf": False, "detail": False, field: True}))
    off = rendered(plans, kernels, "6.12", Settings(**{"follow": True, "ringbuf": True, "detail": True, field: False}))
    assert macro in Preprocessed(on).macros and not others & Preprocessed(on).macros.keys()
    assert macro not in Preprocessed(off).macros and others <= Preprocessed(off).macros.keys()


def test_what_the_switches_switch(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    on = Preprocessed(rendered(plans, kernels, "6.12", ALL_ON))
    off = Preprocessed(rendered(plans, kernels, "6.12", ALL_OFF))
    assert "BPF_RINGBUF_OUTPUT(messages" in on.code and "BPF_PERF_OUTPUT(messages)" in off.code
    assert "BPF_PERF_OUTPUT" not in on.code and "BPF_RINGBUF_OUTPUT" not in off.code
    assert "fill_detail" in on.functions and "fill_detail" not in off.functions
    assert "clone_ends" in on.functions and "clone_ends" not in off.functions
    assert "handle" in on.functions and "handle" in off.functions


def test_limits(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    settings = Settings(tracked_max=1000, log_slots=128, ringbuf_pages=8)
    macros = Preprocessed(rendered(plans, kernels, "6.12", settings)).macros
    found = {name: int(macros[name], 0) for name in ("TRACKED_MAX", "LOG_SLOTS", "RINGBUF_PAGES")}
    assert found == {"TRACKED_MAX": 1000, "LOG_SLOTS": 128, "RINGBUF_PAGES": 8}


def test_defaults_that_c_relies_on(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    macros = Preprocessed(rendered(plans, kernels, "6.12", Settings())).macros
    log_slots, hit_slots = int(macros["LOG_SLOTS"], 0), int(macros["HIT_SLOTS"], 0)
    # A mask bounds the log, and the kernel wants a power of two of pages.
    for number in (log_slots, int(macros["RINGBUF_PAGES"], 0)):
        assert number > 0 and number & (number - 1) == 0
    # Headers, step, detail, drop: 64, 16, 48 and 16 bytes.
    assert hit_slots >= (64 + 16 + 48 + 16) // 16
    assert log_slots > 2 * hit_slots


def test_no_filter_has_no_constants(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    macros = Preprocessed(rendered(plans, kernels, "6.12", constants={})).macros
    assert not [name for name in macros if name.startswith("FILTER_")]


def test_filter_constants_are_there_as_numbers(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    constants = filters.parse(saddr="10.0.0.1", dport="443", proto="tcp").constants()
    macros = Preprocessed(rendered(plans, kernels, "6.12", constants=constants)).macros
    assert {name: int(value, 0) for name, value in macros.items() if name.startswith("FILTER_")} == {
        "FILTER_ADDRESS_FAMILY": 4,
        "FILTER_SADDR_W0": 0x0100000A,
        "FILTER_SADDR_W1": 0,
        "FILTER_SADDR_W2": 0,
        "FILTER_SADDR_W3": 0,
        "FILTER_PORTS": 1,
        "FILTER_DPORT": 443,
        "FILTER_L4": 6,
    }


@pytest.mark.parametrize("value", ["6\nint evil;", "6", 6.0, None])
def test_only_whole_numbers_get_into_the_c(plans: dict[str, Plan], kernels: dict[str, Kernel], value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        rendered(plans, kernels, "6.12", constants={"FILTER_L4": value})


def test_no_word_of_the_tree_gets_into_the_c(kernels: dict[str, Kernel]) -> None:
    named = Trace(
        name="EVIL_name", desc="EVIL_desc", group="EVIL_group", functions=("EVIL_function",), tracepoint="EVIL:event",
        skb=0, sk=None, deref=False, match=True, role=None, default=True,
    )  # fmt: skip
    programs = (Program("kprobe"), Program("clone_return"), Program("tracepoint"), Program("drop", location=1))
    probes = tuple(Probe(named, "EVIL_target", program) for program in programs)
    text = render(Plan(probes, (), (named,)), kernels["6.12"].btf, ALL_ON, {}, files.BPF)
    assert "EVIL" not in text
    assert len(stubs(text)) == 4


def stubs(text: str) -> list[str]:
    return text.partition('#line 1 "stubs"\n')[2].splitlines()


@pytest.mark.parametrize("version", VERSIONS)
def test_stubs_are_calls_of_macros_with_plain_words(
    plans: dict[str, Plan], kernels: dict[str, Kernel], version: str
) -> None:
    text = rendered(plans, kernels, version)
    parsed = Preprocessed(text)
    names = []
    for line in stubs(text):
        found = re.fullmatch(r"(KPROBE|CLONE_RETURN|TRACEPOINT|DROP_TRACEPOINT)\((\w+)((?:, [\w| ]+)+)\)", line)
        assert found is not None, line
        # As many arguments as the macro takes.
        parameters = parsed.macros[found[1]].partition(")")[0].count(",")
        assert found[3].count(",") == parameters, line
        names.append(found[2])
    assert len(set(names)) == len(names)
    assert names == [program.name for program in plans[version].programs]
    # Nothing else is called so: functions, macros, maps.
    others = Preprocessed(text.partition('#line 1 "stubs"\n')[0])
    maps = set(re.findall(r"\b(\w+)\.(?:lookup|update|delete|call)\(", others.code))
    assert {"handle", "submit"} <= others.functions and {"tracked", "kprobe_work"} <= maps
    assert not set(names) & (others.functions | others.macros.keys() | maps)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (Program("kprobe"), "KPROBE(kprobe, DIRECT, 0, none, 0)"),
        (Program("kprobe", skb=2, match=True), "KPROBE(kprobe_skb2_match, DIRECT, 2, none, MAY_MATCH)"),
        (Program("kprobe", skb=1, sk=0), "KPROBE(kprobe_skb1_sk0, DIRECT, 1, 0, 0)"),
        (Program("kprobe", deref=True), "KPROBE(kprobe_deref, FIRST_MEMBER, 0, none, 0)"),
        (Program("kprobe", frees=True), "KPROBE(kprobe_frees, DIRECT, 0, none, FREES)"),
        (Program("kprobe", match=True, clones=True),
         "KPROBE(kprobe_match_clones, DIRECT, 0, none, MAY_MATCH | CLONES)"),
        (Program("clone_return", most=64), "CLONE_RETURN(clone_return_most64, 64)"),
        (Program("tracepoint", skb=3, tracepoint=2), "TRACEPOINT(tracepoint_skb3_tracepoint2, 3, 2, 0)"),
        (
            Program("drop", match=True, tracepoint=6, location=1, reason=2),
            "DROP_TRACEPOINT(drop_match_tracepoint6_location1_reason2, 0, 1, 2, 6, MAY_MATCH | FREES)",
        ),
        (Program("drop", location=1), "DROP_TRACEPOINT(drop_location1, 0, 1, 0, 0, FREES)"),
    ],
)  # fmt: skip
def test_stubs(kernels: dict[str, Kernel], program: Program, expected: str) -> None:
    probe = Probe(tree.load(files.TREE).traces()[0], "anywhere", program)
    assert stubs(render(Plan((probe,), (), ()), kernels["6.12"].btf, ALL_ON, {}, files.BPF)) == [expected]


def test_the_files_are_whole_and_say_where_they_are_from(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    text = rendered(plans, kernels, "6.12")
    places = [text.index(f'#line 1 "bpf/{name}"\n' + (files.BPF / name).read_text(encoding="utf-8")) for name in FILES]
    assert places == sorted(places)
    assert sorted(FILES) == sorted(path.name for path in files.BPF.glob("*.h"))
    # BCC does not rewrite what is included.
    assert set(re.findall(r"^#include.*$", text, re.MULTILINE)) == {"#include <uapi/linux/ptrace.h>"}


class NoMember:
    """Types that lack a member."""

    def __init__(self, kernel: Kernel, missing: str) -> None:
        self._btf = kernel.btf
        self._missing = missing

    def member(self, struct: str, path: str) -> Any:
        return None if f"{struct}.{path}" == self._missing else self._btf.member(struct, path)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("sk_buff.network_header", "struct sk_buff has no member network_header"),
        ("sock.__sk_common.skc_num", "struct sock has no member __sk_common.skc_num"),
    ],
)
def test_a_member_that_the_kernel_lacks_is_told(
    plans: dict[str, Plan], kernels: dict[str, Kernel], missing: str, words: str
) -> None:
    types: Any = NoMember(kernels["6.12"], missing)
    with pytest.raises(KernelError, match=words):
        render(plans["6.12"], types, ALL_ON, {}, files.BPF)


class OtherBit(NoMember):
    """Types where the bit that says that there is a VLAN tag is another one."""

    def member(self, struct: str, path: str) -> Any:
        if path == "vlan_present":
            return Member(offset_bits=130 * 8 + 5, size_bits=1, is_bitfield=True)
        return super().member(struct, path)


def test_a_bit_is_masked_within_its_byte(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    types: Any = OtherBit(kernels["6.1"], "")
    macros = Preprocessed(render(plans["6.1"], types, ALL_ON, {}, files.BPF)).macros
    assert int(macros["OFF_sk_buff__vlan_present"], 0) == 130
    assert int(macros["MASK_sk_buff__vlan_present"], 0) == 0x20


def test_the_shipped_filters_are_all_specialised(plans: dict[str, Plan], kernels: dict[str, Kernel]) -> None:
    """Every constant that a filter can have decides something in C."""
    code = "".join((files.BPF / name).read_text(encoding="utf-8") for name in FILES)
    assert {name for name in EVERY_FILTER if name not in code} == set()
