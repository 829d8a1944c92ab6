"""Facts of the four recorded kernels, and of small trees made here."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import shutil
from pathlib import Path
from typing import Callable

import pytest

from nettrace.btf import Param
from nettrace.errors import KernelError
from nettrace.kernel import ABSENT, Features, Field, Kernel, Symbol, Symbols, Tracepoint
from tests.record_kernel import VERSIONS

KALLSYMS = b"""\
0000000000000000 A __per_cpu_start
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 t twice
ffffffff81000200 T ip_rcv
ffffffff81000300 t changed.isra.0
ffffffff81000400 t doubly.constprop.1.isra.0
ffffffff81000500 t split.part.0
ffffffff81000600 t split.part.0.isra.0
ffffffff81000700 t iced.cold
ffffffff81000800 t iced.isra.0.cold
ffffffff81000900 t thin.llvm.16873458632470
ffffffff81000a00 t twice
ffffffff81000b00 t local.lto_priv.0
ffffffff81000b80 t local.lto_priv.1
ffffffff81000c00 W weak
ffffffff81000c80 t kept
ffffffff81000d00 t kept.isra.0
ffffffff81000e00 t in_both
ffffffff81000f00 t __pfx_unseen.isra.0
ffffffff81001000 T _etext
ffffffff82000000 d console_show
ffffffff82000100 b table.0
ffffffff82000200 r __UNIQUE_ID_name123
ffffffffc0203000 t late\t[two]
ffffffffc0202000 t early\t[two]
ffffffffc0202800 d data_of_module\t[two]
ffffffffc0101000 t last_of_one\t[one]
ffffffffc0100000 t in_both\t[one]
ffffffffc0100500 t modular.constprop.0\t[one]
ffffffffc0300000 t bpf_prog_6deef7357e7b4530_handle\t[bpf]
ffffffffc0300100 t ftrace_trampoline\t[__builtin__ftrace]
"""


def test_a_function_is_resolved_to_its_symbol() -> None:
    symbols = Symbols(KALLSYMS)
    for name in ("ip_rcv", "weak", "kept", "twice", "late", "early"):
        assert symbols.resolve(name) == name
    assert symbols.resolve("changed") == "changed.isra.0"
    assert symbols.resolve("changed.isra.0") == "changed.isra.0"
    assert symbols.resolve("doubly") == "doubly.constprop.1.isra.0"
    assert symbols.resolve("thin") == "thin.llvm.16873458632470"
    assert symbols.resolve("local") == "local.lto_priv.0"
    assert symbols.resolve("modular") == "modular.constprop.0"


@pytest.mark.parametrize(
    "name",
    ["split", "iced", "unseen", "console_show", "table", "__UNIQUE_ID_name123", "data_of_module", "nosuch", "",
     "bpf_prog_6deef7357e7b4530_handle", "ftrace_trampoline", "ip_rc", "p_rcv", "rcv"],
)  # fmt: skip
def test_pieces_and_data_are_never_taken_for_a_function(name: str) -> None:
    assert Symbols(KALLSYMS).resolve(name) is None


def test_ambiguous_names() -> None:
    symbols = Symbols(KALLSYMS)
    assert symbols.is_ambiguous("twice")
    assert symbols.is_ambiguous("in_both")
    assert not symbols.is_ambiguous("ip_rcv")
    assert not symbols.is_ambiguous("kept")
    assert not symbols.is_ambiguous("nosuch")


@pytest.mark.parametrize(("name", "inlined"), [("split", True), ("iced", True), ("kept", False), ("nosuch", False)])
def test_of_an_inlined_function_pieces_may_be_left(name: str, inlined: bool) -> None:
    data = KALLSYMS.replace(b"iced.isra.0.cold", b"iced.isra.0.cold.7") + b"ffffffff81000d80 t kept.cold\n"
    assert Symbols(data).is_inlined(name) == inlined


def test_addresses_of_data() -> None:
    data = KALLSYMS.replace(
        b"ffffffff82000000 d console_show\n",
        b"ffffffff82000000 d console_show\n"
        b"ffffffff82000008 D ip_rcv\n"
        b"ffffffff82000010 R __ksymtab_page_offset_base\n"
        b"ffffffff82000018 D page_offset_base\n"
        b"ffffffff82000020 B vmemmap_base\n",
    )
    symbols = Symbols(data)
    assert symbols.data_address("page_offset_base") == 0xFFFFFFFF82000018
    assert symbols.data_address("vmemmap_base") == 0xFFFFFFFF82000020
    assert symbols.data_address("console_show") == 0xFFFFFFFF82000000
    assert symbols.data_address("table.0") == 0xFFFFFFFF82000100
    assert symbols.data_address("ip_rcv") == 0xFFFFFFFF82000008  # the function of that name comes first
    for name in ("weak", "_base", "page_offset", "__per_cpu_start", "data_of_module", "nosuch"):
        assert symbols.data_address(name) is None
    hidden = b"\n".join(b"0" * 16 + line[16:] for line in data.splitlines()) + b"\n"
    assert Symbols(hidden).data_address("vmemmap_base") is None
    assert Symbols(b"").data_address("vmemmap_base") is None


def test_addresses_and_modules() -> None:
    symbols = Symbols(KALLSYMS)
    assert symbols.address("ip_rcv") == 0xFFFFFFFF81000200
    assert symbols.address("early") == 0xFFFFFFFFC0202000
    assert symbols.address("changed") is None
    assert symbols.address("console_show") is None
    assert symbols.module("early") == "two"
    assert symbols.module("modular.constprop.0") == "one"
    assert symbols.module("ip_rcv") == symbols.module("nosuch") == ""
    assert not symbols.hidden


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (0xFFFFFFFF81000200, Symbol("ip_rcv", 0, 0x100, "")),
        (0xFFFFFFFF810002FF, Symbol("ip_rcv", 0xFF, 0x100, "")),
        (0xFFFFFFFF81000300, Symbol("changed.isra.0", 0, 0x100, "")),
        (0xFFFFFFFF81000104, Symbol("twice", 4, 0x100, "")),
        (0xFFFFFFFF81000A04, Symbol("twice", 4, 0x100, "")),
        (0xFFFFFFFF81000004, Symbol("_stext", 4, 0x100, "")),  # the first of two names
        (0xFFFFFFFF81000704, Symbol("iced.cold", 4, 0x100, "")),
        (0xFFFFFFFFC0202010, Symbol("early", 0x10, 0x1000, "two")),
        (0xFFFFFFFFC0202810, Symbol("early", 0x810, 0x1000, "two")),  # data in between is no function
        (0xFFFFFFFFC0100010, Symbol("in_both", 0x10, 0x500, "one")),
        (0xFFFFFFFFC0101010, Symbol("last_of_one", 0x10, None, "one")),
        (0xFFFFFFFFC0300010, Symbol("bpf_prog_6deef7357e7b4530_handle", 0x10, None, "bpf")),
        (0xFFFFFFFF90000000, None),  # far behind all of the kernel's functions
        (0xFFFFFFFF80FFFFFF, None),
        (0x1000, None),
        (0, None),
    ],
)
def test_lookup(address: int, expected: Symbol) -> None:
    assert Symbols(KALLSYMS).lookup(address) == expected


@pytest.mark.parametrize("data", [b"", b"0000000000000000 T ip_rcv\n0000000000000000 t early\t[two]\n"])
def test_hidden_addresses_are_no_addresses(data: bytes) -> None:
    symbols = Symbols(data)
    assert symbols.hidden
    assert symbols.address("ip_rcv") is None
    assert symbols.lookup(0xFFFFFFFF81000200) is None
    assert symbols.resolve("ip_rcv") == ("ip_rcv" if data else None)


@pytest.mark.parametrize("version", VERSIONS)
def test_symbols_of_real_kernels(kernels: dict[str, Kernel], version: str) -> None:
    symbols = kernels[version].symbols
    assert not symbols.hidden
    ip_rcv = symbols.address("ip_rcv")
    assert ip_rcv is not None
    size = {"5.10": 256, "6.1": 464, "6.12": 480, "7.2": 560}[version]
    assert symbols.lookup(ip_rcv + 4) == Symbol("ip_rcv", 4, size, "")
    assert symbols.resolve("xfrm_output_gso") == (
        "xfrm_output_gso.isra.0" if version in ("6.12", "7.2") else "xfrm_output_gso.constprop.0"
    )
    # Data of that name too, and on 7.2 a second function.
    assert symbols.resolve("console_show") == "console_show"
    assert symbols.is_ambiguous("console_show") == (version == "7.2")
    assert symbols.module("nf_conntrack_in") == "nf_conntrack"
    # Every function is found at its own address, all but those that share it with another.
    for line in (kernels[version]._root / "proc/kallsyms").read_text().splitlines():
        name, _, of_module = line[19:].partition("\t")
        found = symbols.lookup(int(line[:16], 16)) if line[17] in "tTwW" else None
        if found is not None and found.name != name:
            assert symbols.address(found.name) == int(line[:16], 16)
        if found is not None:
            assert found.module == of_module.strip("[]")


def test_tracepoint_format() -> None:
    tracepoint = Tracepoint.parse(
        "name: kfree_skb\nID: 1461\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        "\n"
        "\tfield:void * skbaddr;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:__u8 saddr[16];\toffset:16;\tsize:16;\tsigned:0;\n"
        "\tfield:__data_loc char[] name;\toffset:32;\tsize:4;\tsigned:1;\n"
        "\n"
        'print fmt: "a %s b %s", __print_symbolic(REC->reason, { 1, "NOT_SPECIFIED" }, { 0x10, "HEX" }, '
        '{ -1, "MINUS" }, { (1 << 3), "UNREADABLE" }), __print_symbolic(REC->family, { 2, "AF_INET" })\n'
    )
    assert tracepoint.fields == {
        "common_type": Field("unsigned short", 0, 2, False),
        "skbaddr": Field("void *", 8, 8, False),
        "saddr": Field("__u8[16]", 16, 16, False),
        "name": Field("__data_loc char[]", 32, 4, True),
    }
    assert tracepoint.symbolic == {
        "reason": {1: "NOT_SPECIFIED", 16: "HEX", -1: "MINUS"},
        "family": {2: "AF_INET"},
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_tracepoints_of_real_kernels(kernels: dict[str, Kernel], version: str) -> None:
    tracepoint = kernels[version].tracepoint("skb:kfree_skb")
    assert tracepoint is not None
    assert tracepoint.fields["skbaddr"] == Field("void *", 8, 8, False)
    assert tracepoint.fields["location"] == Field("void *", 16, 8, False)
    reason = {"5.10": None, "6.1": 28, "6.12": 36, "7.2": 36}[version]
    if reason is None:
        assert "reason" not in tracepoint.fields and tracepoint.symbolic == {}
    else:
        assert tracepoint.fields["reason"] == Field("enum skb_drop_reason", reason, 4, False)
    entry = kernels[version].tracepoint("net:napi_gro_receive_entry")
    assert entry is not None and entry.fields["mac_header"].signed
    assert kernels[version].tracepoint("skb:nosuch") is None
    assert kernels[version].tracepoint("nosuch") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_reasons_of_btf_are_those_that_the_tracepoint_prints(kernels: dict[str, Kernel], version: str) -> None:
    tracepoint = kernels[version].tracepoint("skb:kfree_skb")
    assert tracepoint is not None
    printed = {value: name for value, name in tracepoint.symbolic.get("reason", {}).items() if name != "MAX"}
    reasons = dict(kernels[version].drop_reasons)
    for name in ("NOT_DROPPED_YET", "CONSUMED"):  # no drops: not printed
        reasons = {value: reason for value, reason in reasons.items() if reason != name}
    assert reasons == printed
    assert bool(reasons) == (version != "5.10")


def test_reasons_without_an_enum_are_what_the_tracepoint_prints(
    recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(recorded("6.1"), tmp_path, dirs_exist_ok=True)
    shutil.copy(recorded("5.10") / "sys/kernel/btf/vmlinux", tmp_path / "sys/kernel/btf/vmlinux")
    reasons = Kernel(tmp_path).drop_reasons
    assert reasons[2] == "NO_SOCKET"
    assert "MAX" not in reasons.values()


@pytest.mark.parametrize(
    ("version", "value", "name"),
    [
        ("5.10", 2, "2"),
        ("6.1", 0, "NOT_DROPPED_YET"),
        ("6.1", 2, "NO_SOCKET"),
        ("6.1", 0x30003, "196611"),
        ("6.12", 1, "CONSUMED"),
        ("6.12", 3, "NO_SOCKET"),
        ("6.12", 0x30003, "OVS_DROP_EXPLICIT"),
        ("6.12", 0x20001, "RX_DROP_M_UNEXPECTED_4ADDR_FRAME"),
        ("6.12", 0x3FFFF, "OPENVSWITCH:65535"),
        ("6.12", 0x90001, "589825"),
        ("6.12", 0xFFFF0000, "4294901760"),
        ("7.2", 0x20003, "OVS_DROP_EXPLICIT"),
        ("7.2", 0x10002, "RX_DROP_U_REPLAY"),
        ("7.2", 0x30002, "QDISC_DROP_OVERLIMIT"),
        ("7.2", 999, "999"),
    ],
)
def test_a_reason_has_a_name_or_its_number(kernels: dict[str, Kernel], version: str, value: int, name: str) -> None:
    assert kernels[version].drop_reason(value) == name


def test_reasons_of_a_module_that_is_not_loaded(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/kernel/btf/openvswitch").unlink()
    assert Kernel(tmp_path).drop_reason(0x30003) == "OPENVSWITCH:3"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "5.10",
            Features(
                kprobes=True, ringbuf=True, kprobe_multi=False, drop_reasons=False, module_btf=False, tracing=True
            ),
        ),
        (
            "6.1",
            Features(kprobes=True, ringbuf=True, kprobe_multi=False, drop_reasons=True, module_btf=True, tracing=True),
        ),
        (
            "6.12",
            Features(kprobes=True, ringbuf=True, kprobe_multi=True, drop_reasons=True, module_btf=True, tracing=True),
        ),
        (
            "7.2",
            Features(kprobes=True, ringbuf=True, kprobe_multi=True, drop_reasons=True, module_btf=True, tracing=True),
        ),
    ],
)
def test_features(kernels: dict[str, Kernel], version: str, expected: Features) -> None:
    assert kernels[version].features == expected


def test_kprobes_may_show_in_tracefs_only(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/bus/event_source/devices/kprobe/type").unlink()
    assert not Kernel(tmp_path).features.kprobes
    (tmp_path / "sys/kernel/tracing/kprobe_events").touch()
    assert Kernel(tmp_path).features.kprobes


@pytest.mark.parametrize("version", VERSIONS)
def test_prototypes_come_from_the_kernel_and_from_loaded_modules(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    slow = kernel.prototype("nf_hook_slow")
    assert slow is not None and slow.index("struct sk_buff *") == 0
    conntrack = kernel.prototype("nf_conntrack_in")
    if version == "5.10":
        assert conntrack is None  # its modules have no BTF
    else:
        assert conntrack is not None
        assert conntrack.params[0] == Param("skb", "struct sk_buff *")
    assert kernel.prototype("nosuch") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_what_functions_return(kernels: dict[str, Kernel], version: str) -> None:
    assert kernels[version].return_type("nf_hook_slow") == "int"
    assert kernels[version].return_type("skb_clone") == "struct sk_buff *"
    assert kernels[version].return_type("consume_skb") == "void"
    assert kernels[version].return_type("nosuch") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_functions_with_a_packet_are_those_of_modules_too(kernels: dict[str, Kernel], version: str) -> None:
    found = kernels[version].functions_with("struct sk_buff *")
    assert (found["ip_rcv"], found["ip_output"], found["__tcp_transmit_skb"]) == (0, 2, 1)
    assert found.get("nf_conntrack_in") == (None if version == "5.10" else 0)
    assert "console_show" not in found


def test_names_of_enumerators(kernels: dict[str, Kernel]) -> None:
    names = kernels["6.12"].enum_names("nf_inet_hooks")
    assert [names[value] for value in range(5)] == [
        "NF_INET_PRE_ROUTING", "NF_INET_LOCAL_IN", "NF_INET_FORWARD", "NF_INET_LOCAL_OUT", "NF_INET_POST_ROUTING",
    ]  # fmt: skip
    assert names[5] == "NF_INET_NUMHOOKS"  # NF_INET_INGRESS has the same value
    assert kernels["6.12"].enum_names("nosuch") == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_in_the_way_of_what_is_traceable(kernels: dict[str, Kernel], version: str) -> None:
    for name in ("ip_rcv", "nf_conntrack_in", "__dev_queue_xmit", "xfrm_output_gso"):
        assert kernels[version].obstacle(name) is None


def test_what_is_in_the_way(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("7.2"), tmp_path, dirs_exist_ok=True)
    symbols = tmp_path / "proc/kallsyms"
    lines = re.sub(rb"(?m)^\S+ . (?:ip_output|tcp_ack)\n", b"", symbols.read_bytes())
    symbols.write_bytes(b"ffffffff80000000 t tcp_ack.part.0\n" + lines)
    traceable = tmp_path / "sys/kernel/tracing/available_filter_functions"
    traceable.write_text(re.sub(r"(?m)^ip_rcv\n", "", traceable.read_text()))
    blacklist = tmp_path / "sys/kernel/debug/kprobes/blacklist"
    blacklist.write_text(blacklist.read_text() + "0xffffffff81000000-0xffffffff81000100\tskb_clone\n")
    kernel = Kernel(tmp_path)
    assert kernel.obstacle("nosuch") == ABSENT
    assert kernel.obstacle("console_show") == "several functions of this kernel are called console_show"
    # BTF has the one, the other left a piece.
    assert kernel.prototype("ip_output") is not None
    assert kernel.obstacle("ip_output") == kernel.obstacle("tcp_ack") == "inlined or left out by the compiler"
    assert kernel.obstacle("skb_clone") == "not to be probed, says the kernel (kprobe blacklist)"
    assert kernel.obstacle("ip_rcv") == "not to be traced, says the kernel (notrace, or declared inline)"
    traceable.unlink()
    assert Kernel(tmp_path).obstacle("ip_rcv") is None


def test_a_renamed_function_of_a_module_has_its_prototype(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    symbols = tmp_path / "proc/kallsyms"
    symbols.write_bytes(symbols.read_bytes().replace(b" nf_conntrack_in\t", b" nf_conntrack_in.isra.0\t"))
    prototype = Kernel(tmp_path).prototype("nf_conntrack_in")
    assert prototype is not None and prototype.params[0].name == "skb"


def test_a_renamed_function_has_the_prototype_of_its_name(kernels: dict[str, Kernel]) -> None:
    kernel = kernels["7.2"]
    symbol = kernel.symbols.resolve("__netif_receive_skb_core")
    assert symbol == "__netif_receive_skb_core.constprop.0"
    prototype = kernel.prototype(symbol)
    assert prototype is not None and prototype.index("struct sk_buff **") == 0


def test_btf_of_modules(kernels: dict[str, Kernel], recorded: Callable[[str], Path], tmp_path: Path) -> None:
    types = kernels["6.12"].module_btf("nf_tables")
    assert types is not None and types.has_struct("nft_pktinfo")
    assert kernels["6.12"].module_btf("nosuch") is None
    assert kernels["5.10"].module_btf("nf_tables") is None
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/kernel/btf/nf_tables").write_bytes(b"of another kernel")
    assert Kernel(tmp_path).module_btf("nf_tables") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_traceable_and_blacklist(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    assert kernel.traceable_known
    assert {"ip_rcv", "nf_conntrack_in", "__dev_queue_xmit"} <= kernel.traceable
    assert not any("[" in name for name in kernel.traceable)
    assert "asm_exc_divide_error" in kernel.kprobe_blacklist
    assert kernel.release.startswith(version + ".")


def test_a_tree_with_nothing_in_it(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    assert kernel.symbols.hidden
    assert kernel.tracefs is None
    assert kernel.tracepoint("skb:kfree_skb") is None
    assert kernel.traceable == frozenset() and not kernel.traceable_known
    assert kernel.kprobe_blacklist == frozenset()
    assert kernel.lockdown == ""
    assert kernel.release == "unknown"
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        kernel.btf  # noqa: B018


def test_tracefs_may_be_below_debugfs(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/kernel/tracing").rename(tmp_path / "sys/kernel/debug/tracing")
    (tmp_path / "sys/kernel/tracing").mkdir()  # the mount point is always there
    kernel = Kernel(tmp_path)
    assert kernel.tracefs == tmp_path / "sys/kernel/debug/tracing"
    assert kernel.tracepoint("skb:kfree_skb") is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
    ],
)
def test_lockdown(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "sys/kernel/security").mkdir(parents=True)
    (tmp_path / "sys/kernel/security/lockdown").write_text(text)
    assert Kernel(tmp_path).lockdown == expected


def test_a_tick_is_one_of_those_that_kernels_are_built_with(tmp_path: Path) -> None:
    # CONFIG_HZ has 100, 250, 300, 1000, on some architectures 128, 256, 1024.
    assert round(1e9 / Kernel(tmp_path).tick_ns) in (100, 128, 250, 256, 300, 1000, 1024)
