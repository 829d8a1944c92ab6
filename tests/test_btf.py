"""Types of the four recorded kernels, and of small blobs made here.

The expected offsets and sizes are the C compiler's: `bpftool btf dump file vmlinux format c`
of each kernel, compiled with offsetof, and for bit-fields with a struct whose one member is all ones.
"""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
import random
import struct
from pathlib import Path
from typing import Optional, Union

import pytest

from nettrace import btf
from nettrace.btf import Btf, Member, Param, Prototype
from nettrace.errors import KernelError
from tests.record_kernel import VERSIONS, _Cutter, unpack

# Byte offset and size by kernel, in the order of VERSIONS.
PLACES = {
    ("sk_buff", "dev"): [(16, 8)] * 4,
    ("sk_buff", "sk"): [(24, 8)] * 4,
    ("sk_buff", "cb"): [(40, 48)] * 4,
    ("sk_buff", "len"): [(112, 4)] * 4,
    ("sk_buff", "vlan_tci"): [(154, 2), (154, 2), (158, 2), (158, 2)],
    ("sk_buff", "protocol"): [(176, 2), (180, 2), (180, 2), (180, 2)],
    ("sk_buff", "network_header"): [(180, 2), (184, 2), (184, 2), (184, 2)],
    ("sk_buff", "head"): [(192, 8), (200, 8), (200, 8), (200, 8)],
    ("sk_buff", "users"): [(212, 4), (220, 4), (220, 4), (220, 4)],
    ("sock", "__sk_common.skc_dport"): [(12, 2)] * 4,
    ("sock", "__sk_common.skc_num"): [(14, 2)] * 4,
    ("sock", "__sk_common.skc_v6_daddr"): [(56, 16)] * 4,
    ("sock", "sk_protocol"): [(540, 2), (516, 2), (574, 2), (540, 2)],
    ("tcp_sock", "rcv_nxt"): [(1416, 4), (1424, 4), (1712, 4), (1768, 4)],
    ("tcp_skb_cb", "tcp_flags"): [(12, 1), (12, 1), (12, 1), (12, 2)],
    ("net", "ns.inum"): [(136, 4), (144, 4), (136, 4), (280, 4)],
    ("net_device", "name"): [(0, 16), (0, 16), (304, 16), (288, 16)],
    ("net_device", "ifindex"): [(256, 4), (216, 4), (224, 4), (224, 4)],
    ("net_device", "nd_net"): [(1264, 8), (1272, 8), (280, 8), (264, 8)],
    ("inet_sock", "inet_sport"): [(776, 2), (804, 2), (798, 2), (830, 2)],
    ("ipv6_pinfo", "daddr_cache"): [(40, 8), (40, 8), (40, 8), (53, 1)],
}
# Byte and mask within it.
BITFIELDS: dict[tuple[str, str], list[Optional[tuple[int, int]]]] = {
    ("sk_buff", "pkt_type"): [(128, 0x07)] * 4,
    ("sk_buff", "ip_summed"): [(128, 0x60)] * 4,
    ("sk_buff", "pfmemalloc"): [(126, 0x40)] * 4,
    ("sk_buff", "vlan_present"): [(130, 0x01), (130, 0x01), None, None],
}
SIZES = {
    "sk_buff": [224, 232, 232, 232],
    "sock": [760, 776, 776, 800],
    "net_device": [2368, 2432, 2560, 2816],
    "tcp_sock": [2216, 2240, 2368, 2432],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kernels")
    return {version: unpack(version, root / version) / "sys/kernel/btf" for version in VERSIONS}


@pytest.fixture(scope="module")
def kernels(folders: dict[str, Path]) -> dict[str, Btf]:
    return {version: Btf.load(folder / "vmlinux") for version, folder in folders.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_members_are_where_the_compiler_puts_them(kernels: dict[str, Btf], version: str) -> None:
    for (name, path), places in PLACES.items():
        member = kernels[version].member(name, path)
        assert member is not None, (name, path)
        assert (member.offset, member.size) == places[VERSIONS.index(version)], (name, path)
        assert not member.is_bitfield and member.shift == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_bitfields_have_the_compilers_byte_and_mask(kernels: dict[str, Btf], version: str) -> None:
    for (name, path), places in BITFIELDS.items():
        member = kernels[version].member(name, path)
        expected = places[VERSIONS.index(version)]
        if expected is None:
            assert member is None
        else:
            assert member is not None and member.is_bitfield
            assert (member.offset, member.mask << member.shift) == expected, (name, path)


@pytest.mark.parametrize("version", VERSIONS)
def test_struct_sizes(kernels: dict[str, Btf], version: str) -> None:
    for name, sizes in SIZES.items():
        assert kernels[version].has_struct(name)
        assert kernels[version].struct_size(name) == sizes[VERSIONS.index(version)]


def test_what_is_not_there_is_none(kernels: dict[str, Btf]) -> None:
    types = kernels["6.12"]
    assert types.member("sk_buff", "nosuch") is None
    assert types.member("sk_buff", "len.nosuch") is None
    assert types.member("nosuch", "len") is None
    assert not types.has_struct("nosuch")
    assert types.struct_size("nosuch") is None
    assert types.prototype("nosuch") is None
    assert types.prototype("sk_buff") is None  # a name, but of no function
    assert types.tracepoint("nosuch") is None
    assert types.enum("nosuch") is None
    assert types.enum_value("nosuch", "A") is None
    assert types.enum_value("bpf_map_type", "nosuch") is None


SKB, SOCK, NET = "struct sk_buff *", "struct sock *", "struct net *"


@pytest.mark.parametrize("version", VERSIONS)
def test_prototypes(kernels: dict[str, Btf], version: str) -> None:
    types = kernels[version]
    assert types.prototype("nf_hook_slow") == Prototype(
        (
            Param("skb", SKB),
            Param("state", "struct nf_hook_state *"),
            Param("e", "struct nf_hook_entries *"),  # const in the source
            Param("s", "unsigned int"),
        ),
        "int",
    )
    transmit = types.prototype("__tcp_transmit_skb")
    assert transmit is not None and transmit.returns == "int"
    assert [param.type for param in transmit.params] == [SOCK, SKB, "int", "gfp_t", "u32"]
    assert transmit.index(SKB) == 1
    assert transmit.index(SOCK) == 0
    assert transmit.index("struct sk_buff **") is None
    clone = types.prototype("skb_clone")
    assert clone is not None and clone.returns == SKB


def test_prototypes_differ_between_kernels(kernels: dict[str, Btf]) -> None:
    def parameters(version: str, function: str) -> Optional[list[str]]:
        prototype = kernels[version].prototype(function)
        return None if prototype is None else [param.type for param in prototype.params]

    # Linux commit 6be49deaa095 (6.10) gave the function a reason.
    assert parameters("6.1", "tcp_v4_send_reset") == [SOCK, SKB]
    assert parameters("6.12", "tcp_v4_send_reset") == [SOCK, SKB, "enum sk_rst_reason"]
    assert parameters("5.10", "icmp_push_reply") == [
        "struct icmp_bxm *", "struct flowi4 *", "struct ipcm_cookie *", "struct rtable **"
    ]  # fmt: skip
    assert parameters("6.12", "icmp_push_reply") == [
        SOCK, "struct icmp_bxm *", "struct flowi4 *", "struct ipcm_cookie *", "struct rtable **"
    ]  # fmt: skip
    # pahole leaves out what the compiler changed too much, here __netif_receive_skb_core.constprop.0.
    assert parameters("6.1", "__netif_receive_skb_core") is None
    assert parameters("7.2", "__netif_receive_skb_core") == ["struct sk_buff **", "bool", "struct packet_type **"]
    assert parameters("6.1", "_printk") == ["char *", "..."]


def test_tracepoints_differ_between_kernels(kernels: dict[str, Btf]) -> None:
    def parameters(version: str, name: str) -> Optional[list[str]]:
        prototype = kernels[version].tracepoint(name)
        return None if prototype is None else [param.type for param in prototype.params]

    assert parameters("5.10", "kfree_skb") == [SKB, "void *"]
    assert parameters("6.1", "kfree_skb") == [SKB, "void *", "enum skb_drop_reason"]
    for version in ("6.12", "7.2"):
        assert parameters(version, "kfree_skb") == [SKB, "void *", "enum skb_drop_reason", SOCK]
    for version in VERSIONS:
        assert parameters(version, "netif_receive_skb") == [SKB]
        assert parameters(version, "napi_gro_receive_entry") == [SKB]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_function_of_the_kernel_is_found(folders: dict[str, Path], version: str) -> None:
    blob = (folders[version] / "vmlinux").read_bytes()
    types = Btf.from_bytes(blob)
    functions = [name for name, kind, _ in _Cutter(blob).roots() if kind == 12]
    assert len(functions) > 100
    for name in functions:
        assert types.prototype(name) is not None, name
        assert types.prototype(name) is types.prototype(name)


def test_enums(kernels: dict[str, Btf]) -> None:
    for version in VERSIONS:
        assert kernels[version].enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF") == 27
    assert kernels["5.10"].enum_value("bpf_attach_type", "BPF_TRACE_KPROBE_MULTI") is None
    for version in ("6.1", "6.12", "7.2"):
        assert kernels[version].enum_value("bpf_attach_type", "BPF_TRACE_KPROBE_MULTI") == 42
    assert kernels["5.10"].enum("skb_drop_reason") is None
    reasons = kernels["6.12"].enum("skb_drop_reason")
    assert reasons is not None
    assert reasons["SKB_DROP_REASON_NO_SOCKET"] == 3
    assert reasons["SKB_DROP_REASON_SUBSYS_MASK"] == 0xFFFF0000


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.2"])
def test_types_of_a_module_stand_on_the_kernels(folders: dict[str, Path], version: str) -> None:
    base = Btf.load(folders[version] / "vmlinux")
    module = Btf.load(folders[version] / "nf_tables", base)
    assert base.prototype("nft_do_chain") is None
    do_chain = module.prototype("nft_do_chain")
    assert do_chain is not None
    assert do_chain.params == (Param("pkt", "struct nft_pktinfo *"), Param("priv", "void *"))
    skb = module.member("nft_pktinfo", "skb")
    assert skb is not None and (skb.offset, skb.size) == (0, 8)
    hook = module.member("nft_base_chain", "ops.hooknum")  # a struct of the kernel inside one of the module
    assert hook is not None and hook.size == 4
    assert module.member("sk_buff", "dev") == base.member("sk_buff", "dev")
    conntrack = Btf.load(folders[version] / "nf_conntrack", base)
    nf_conntrack_in = conntrack.prototype("nf_conntrack_in")
    assert nf_conntrack_in is not None
    assert [param.type for param in nf_conntrack_in.params] == [SKB, "struct nf_hook_state *"]
    from_bytes = Btf.from_bytes((folders[version] / "nf_tables").read_bytes(), base)
    assert from_bytes.prototype("nft_do_chain") == do_chain


@pytest.mark.parametrize("version", VERSIONS)
def test_functions_with_a_packet(kernels: dict[str, Btf], version: str) -> None:
    found = kernels[version].functions_with(SKB)
    # From the kernels' sources.
    places = {"ip_rcv": 0, "ip_output": 2, "__tcp_transmit_skb": 1, "nf_hook_slow": 0, "skb_clone": 0}
    assert {name: found[name] for name in places} == places
    assert not found.keys() & {"console_show", "icmp_push_reply", "register_fprobe_ips", "__netif_receive_skb_core"}
    assert kernels[version].functions_with("struct nosuch *") == {}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("type_text", [SKB, SOCK, NET, "struct sk_buff **", "struct net_device *"])
def test_functions_with_a_type_are_those_whose_prototypes_have_it(
    folders: dict[str, Path], version: str, type_text: str
) -> None:
    base = Btf.load(folders[version] / "vmlinux")
    cutter = _Cutter((folders[version] / "vmlinux").read_bytes())
    blobs = [(base, cutter)]
    for path in sorted(folders[version].iterdir()):
        if path.name != "vmlinux":
            blobs.append((Btf.load(path, base), _Cutter(path.read_bytes(), cutter)))
    # Asked one by one first: functions_with remembers prototypes.
    expected = []
    for types, names in blobs:
        functions = [name for name, kind, _ in names.roots() if kind == FUNC]
        places = {name: prototype.index(type_text) for name in functions if (prototype := types.prototype(name))}
        expected.append({name: place for name, place in places.items() if place is not None})
    assert [types.functions_with(type_text) for types, _ in blobs] == expected
    assert any(expected)


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.2"])
def test_prototypes_are_the_same_after_all_were_gone_through(folders: dict[str, Path], version: str) -> None:
    asked, gone_through = (Btf.load(folders[version] / "vmlinux") for _ in range(2))
    for name in gone_through.functions_with(SKB):
        assert gone_through.prototype(name) == asked.prototype(name)


INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = range(9, 16)
FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(16, 20)
FLAG = 1 << 31


def blob(*types: tuple[Union[int, str], ...], strings: bytes = b"\0", start: int = 0) -> bytes:
    """BTF of types given as words: strings are names, put into the string section when first used."""
    data, section = bytearray(), bytearray(strings)
    places = {text: at for at, text in enumerate_strings(strings)}
    for words in types:
        for word in words:
            if isinstance(word, str):
                if word not in places:
                    places[word] = start + len(section)
                    section += word.encode() + b"\0"
                word = places[word]
            data += (word % (1 << 32)).to_bytes(4, "little")
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(section))
    return header + bytes(data) + bytes(section)


def enumerate_strings(section: bytes) -> list[tuple[int, str]]:
    places, at = [], 0
    for text in section.split(b"\0")[:-1]:
        places.append((at, text.decode()))
        at += len(text) + 1
    return places


def info(kind: int, vlen: int = 0) -> int:
    return kind << 24 | vlen


SIGNED_INT = ("int", info(INT), 4, 1 << 24 | 32)


def test_anonymous_structs_nest_and_modifiers_are_seen_through() -> None:
    types = Btf.from_bytes(
        blob(
            SIGNED_INT,  # 1
            ("inner", info(STRUCT, 2), 8, "a", 1, 0, "b", 1, 32),  # 2
            ("", info(UNION, 2), 8, "whole", 2, 0, "", 4, 0),  # 3
            ("", info(STRUCT, 1), 8, "deep", 5, 32),  # 4
            ("number", info(TYPEDEF), 6),  # 5
            ("", info(CONST), 1),  # 6
            ("outer", info(STRUCT, 4), 40, "first", 1, 0, "", 7 + 1, 64, "list", 9, 128, "next", 10, 256),  # 7
            ("", info(VOLATILE), 3),  # 8: an anonymous union may be qualified
            ("", info(ARRAY), 0, 2, 1, 2),  # 9: struct inner list[2]
            ("", info(PTR), 7),  # 10
        )
    )
    assert types.member("outer", "deep") == Member(96, 32, False)
    assert types.member("outer", "whole.b") == Member(96, 32, False)
    assert types.member("outer", "list") == Member(128, 128, False)
    assert types.member("outer", "next") == Member(256, 64, False)
    assert types.member("outer", "next.first") is None  # no pointer is followed
    assert types.struct_size("outer") == 40


def test_bitfields_that_cross_a_byte() -> None:
    types = Btf.from_bytes(
        blob(SIGNED_INT, ("s", info(STRUCT, 3) | FLAG, 8, "a", 1, 3 << 24, "b", 1, 13 << 24 | 3, "c", 1, 32))
    )
    b = types.member("s", "b")
    assert b is not None
    assert (b.offset, b.size, b.shift, b.mask, b.is_bitfield) == (0, 2, 3, 0x1FFF, True)
    assert types.member("s", "c") == Member(32, 32, False)
    assert Member(6, 13, True).size == 4  # three bytes have no integer
    assert Member(40, 1, True).offset == 5


def test_type_texts() -> None:
    types = Btf.from_bytes(
        blob(
            SIGNED_INT,  # 1
            ("sk_buff", info(FWD), 0),  # 2
            ("", info(CONST), 2),  # 3
            ("", info(PTR), 3),  # 4: const struct sk_buff *
            ("", info(RESTRICT), 4),  # 5
            ("", info(PTR), 5),  # 6
            ("u", info(FWD) | FLAG, 0),  # 7
            ("", info(PTR), 7),  # 8
            ("", info(FUNC_PROTO, 2), 1, "x", 6, "y", 8),  # 9
            ("", info(PTR), 9),  # 10
            ("e", info(ENUM), 4),  # 11
            ("user", info(TYPE_TAG), 1),  # 12
            ("", info(PTR), 12),  # 13
            ("", info(STRUCT), 0),  # 14
            ("", info(PTR), 14),  # 15
            ("", info(PTR), 10),  # 16
            ("", info(FUNC_PROTO), 0),  # 17
            ("", info(PTR), 17),  # 18
            ("", info(FUNC_PROTO, 8), 0,
             "a", 6, "b", 8, "c", 10, "d", 11, "e", 13, "f", 15, "g", 16, "h", 18),  # 19
            ("function", info(FUNC), 19),
            ("last", info(FUNC_PROTO, 2), 4, "a", 1, 0, 0),  # 21
            ("variadic", info(FUNC, 1), 21),  # of global linkage
        )
    )  # fmt: skip
    function = types.prototype("function")
    assert function is not None
    assert [param.type for param in function.params] == [
        "struct sk_buff **",
        "union u *",
        "int (*)(struct sk_buff **, union u *)",
        "enum e",
        "int *",
        "struct {...} *",
        "int (**)(struct sk_buff **, union u *)",
        "void (*)(void)",
    ]
    assert function.returns == "void"
    assert types.prototype("variadic") == Prototype((Param("a", "int"), Param("", "...")), SKB)


def test_enums_of_both_signs() -> None:
    types = Btf.from_bytes(
        blob(
            ("plain", info(ENUM, 2), 4, "A", 1, "B", 0xFFFFFFFF),
            ("negative", info(ENUM, 1) | FLAG, 4, "C", -1),
        )
    )
    assert types.enum("plain") == {"A": 1, "B": 0xFFFFFFFF}
    assert types.enum("negative") == {"C": -1}
    assert types.enum_value("negative", "C") == -1


def test_enums_of_eight_bytes() -> None:
    if not hasattr(btf.libbpf(), "btf__add_enum64"):
        pytest.skip("this libbpf is older than enums of eight bytes (1.0)")
    types = Btf.from_bytes(
        blob(
            ("big", info(ENUM64, 2), 8, "D", 1, 0, "E", 0, 0xFFFFFFFF),
            ("low", info(ENUM64, 2) | FLAG, 8, "F", -2, -1, "G", 5, 0),
        )
    )
    assert types.enum("big") == {"D": 1, "E": 0xFFFFFFFF00000000}
    assert types.enum("low") == {"F": -2, "G": 5}


@pytest.mark.parametrize("order", ["first use", "shuffled", "reversed"])
def test_functions_are_found_in_any_order_of_names(order: str) -> None:
    names = [f"function_{place}" for place in range(3000)]
    shuffled = {"first use": names, "reversed": names[::-1]}.get(order) or random.Random(1).sample(names, len(names))
    section = b"\0" + b"".join(name.encode() + b"\0" for name in shuffled)
    protos = [("", info(FUNC_PROTO, 1), 0, "x" if place % 2 else "y", 1) for place in range(2)]
    functions = [(name, info(FUNC), 2 + place % 2) for place, name in enumerate(names)]
    types = Btf.from_bytes(blob(SIGNED_INT, *protos, *functions, strings=section))
    for place, name in enumerate(names):
        assert types.prototype(name) == Prototype((Param("x" if place % 2 else "y", "int"),), "void")
    assert types.prototype("function_3000") is None
    assert types.prototype("unction_1") is None


def test_a_modules_function_may_have_a_name_that_the_kernel_knows() -> None:
    base_blob = blob(SIGNED_INT, ("s", info(STRUCT, 1), 4, "shared", 1, 0))
    base = Btf.from_bytes(base_blob)
    section = base_blob[24 + 4 * 4 + 6 * 4 :]
    shared = {text: at for at, text in enumerate_strings(section)}["shared"]
    module = Btf.from_bytes(
        blob(
            (0, info(FUNC_PROTO), 0),  # 3
            (shared, info(FUNC), 3),
            (0, info(FUNC_PROTO, 1), 1, shared, 1),  # 5
            ("own", info(FUNC), 5),
            strings=b"",
            start=len(section),
        ),
        base,
    )
    assert module.prototype("shared") == Prototype((), "void")
    assert module.prototype("own") == Prototype((Param("shared", "int"),), "int")
    assert base.prototype("own") is None


def test_all_kinds_of_types_are_gone_through() -> None:
    if not hasattr(btf.libbpf(), "btf__add_enum64"):
        pytest.skip("this libbpf is older than enums of eight bytes (1.0)")
    types = Btf.from_bytes(
        blob(
            SIGNED_INT,  # 1
            ("", info(ARRAY), 0, 1, 1, 2),
            ("u", info(UNION, 2), 4, "a", 1, 0, "b", 1, 0),
            ("e", info(ENUM, 2), 4, "A", 1, "B", 2),
            ("t", info(TYPEDEF), 1),
            ("f", info(FLOAT), 4),
            ("v", info(VAR), 1, 0),
            (".data", info(DATASEC, 1), 4, 7, 0, 4),
            ("tag", info(DECL_TAG), 3, -1),
            ("big", info(ENUM64, 1), 8, "D", 1, 0),
            ("sk_buff", info(FWD), 0),  # 11
            ("", info(VOLATILE), 11),
            ("", info(CONST), 12),
            ("rcu", info(TYPE_TAG), 13),
            ("", info(PTR), 14),  # 15: sk_buff rcu const volatile *
            ("", info(RESTRICT), 15),
            ("", info(PTR), 16),  # 17: sk_buff **
            ("sk_buff_head", info(FWD), 0),  # 18
            ("", info(PTR), 18),
            ("skb_t", info(TYPEDEF), 15),  # 20
            ("", info(FUNC_PROTO, 3), 0, "x", 1, "y", 16, "z", 15),  # 21
            ("", info(FUNC_PROTO, 3), 15, "x", 17, "y", 19, "z", 20),
            ("", info(FUNC_PROTO, 9), 0, *("x", 1) * 7, "y", 15, "", 0),
            ("second", info(FUNC), 21),
            ("other", info(FUNC), 22),
            ("eighth", info(FUNC, 1), 23),
        )
    )  # fmt: skip
    assert types.functions_with(SKB) == {"second": 1, "eighth": 7}
    assert types.functions_with("struct sk_buff **") == {"other": 0}
    assert types.functions_with(SOCK) == {}


def test_a_modules_types_may_be_the_kernels() -> None:
    base_blob = blob(
        SIGNED_INT,
        ("sk_buff", info(STRUCT, 1), 4, "len", 1, 0),
        ("", info(PTR), 2),
        ("", info(FUNC_PROTO, 2), 1, "sk", 1, "skb", 3),  # 4
        ("of_kernel", info(FUNC), 4),
        ("", info(CONST), 2),  # 6
        ("late", info(TYPEDEF), 1),
    )
    base = Btf.from_bytes(base_blob)
    module = Btf.from_bytes(
        blob(
            ("same_prototype", info(FUNC), 4),  # 8
            (0, info(PTR), 6),  # 9
            (0, info(FUNC_PROTO, 1), 1, "own", 9),  # 10
            ("own_prototype", info(FUNC), 10),
            (0, info(FUNC_PROTO, 1), 1, "own", 1),
            ("without", info(FUNC), 12),
            strings=b"",
            start=len(base._strings),
        ),
        base,
    )
    assert module.functions_with(SKB) == {"same_prototype": 1, "own_prototype": 0}
    assert module.prototype("own_prototype") == Prototype((Param("own", SKB),), "int")
    assert base.functions_with(SKB) == {"of_kernel": 1}


def test_kinds_of_types_that_are_not_known() -> None:
    data = blob(SIGNED_INT, ("new", info(20), 0))
    with pytest.raises(KernelError, match=r"a kind that nettrace does not know \(20\)"):
        btf._Walk(data[24 : 24 + 28], 1)


@pytest.mark.parametrize("data", [b"", b"no BTF at all, but longer than a header of it", blob(SIGNED_INT)[:-1]])
def test_what_is_no_btf_is_refused(data: bytes, tmp_path: Path, kernels: dict[str, Btf]) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(data)
    for base in (None, kernels["6.12"]):
        with pytest.raises(KernelError, match="vmlinux is not BTF"):
            Btf.load(file, base)


@pytest.mark.parametrize("of_module", [False, True])
def test_types_that_libbpf_does_not_know_are_refused(
    kernels: dict[str, Btf], of_module: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    stdin = os.dup(0)  # libbpf 0.3 closes it
    try:
        with pytest.raises(KernelError, match="a newer libbpf"):
            Btf.from_bytes(blob(("x", info(0), 0)), kernels["6.12"] if of_module else None)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
    assert capfd.readouterr() == ("", "")


def test_a_kernel_without_btf_is_told(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.load(tmp_path / "vmlinux")
    with pytest.raises(KernelError, match="cannot be read"):
        Btf.load(tmp_path)


def test_a_missing_libbpf_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, use_errno: bool) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", refuse)
    btf.libbpf.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"libbpf1 or libbpf0 \(apt\), or libbpf \(dnf\)"):
            btf.libbpf()
    finally:
        btf.libbpf.cache_clear()


class OldLibbpf:
    """libbpf before 1.0 in what matters: errors are pointers, and before 0.3 there is no split BTF."""

    def libbpf_set_print(self, printer: Optional[int]) -> None:
        pass

    def btf__new(self, data: bytes, size: int) -> int:
        return (1 << 64) - 22


def test_errors_of_an_old_libbpf(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, Btf]) -> None:
    monkeypatch.setattr(btf, "libbpf", OldLibbpf)
    with pytest.raises(KernelError, match="Invalid argument"):
        Btf.from_bytes(blob(SIGNED_INT))
    with pytest.raises(KernelError, match="the BTF of modules"):
        Btf.from_bytes(blob(SIGNED_INT), kernels["6.12"])
