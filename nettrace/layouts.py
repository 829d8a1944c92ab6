"""Where members of structs lie that are not in BTF: those of nf_tables, while modules had no BTF of their own."""

from collections.abc import Mapping
from typing import NamedTuple, Optional, Protocol

from .btf import Btf, Member


class Types(Protocol):
    """What describes structs: BTF, or what is known without it."""

    def member(self, struct: str, path: str) -> Optional[Member]:
        """Where a member lies in a struct; None if there is no such."""

    def member_type(self, struct: str, path: str) -> Optional[str]:
        """The type of such a member, as C text."""


class _Known(NamedTuple):
    offset_bits: int
    size_bits: int
    type: str


_POINTER, _BYTE = 64, 8

# include/net/netfilter/nf_tables.h of Linux 5.10. The members used here are the same from Linux
# commit 0cbc06b3faba (4.18), which gave a chain its two generations of rules, to 2c865a8a28a1
# (5.17), which put the rules of one into a blob. Pointers have 64 bits.
_NF_TABLES = {
    "nft_pktinfo": {"skb": _Known(0, _POINTER, "struct sk_buff *")},
    "nft_chain": {
        "rules_gen_0": _Known(0, _POINTER, "struct nft_rule * *"),
        "rules_gen_1": _Known(8 * 8, _POINTER, "struct nft_rule * *"),
        # Behind two list_head and an rhlist_head.
        "table": _Known(64 * 8, _POINTER, "struct nft_table *"),
        "name": _Known(88 * 8, _POINTER, "char *"),
    },
    "nft_rule": {
        # Behind a list_head, in one word of 64 bits.
        "handle": _Known(16 * 8, 42, "u64"),
        "dlen": _Known(16 * 8 + 44, 12, "u64"),
        "data": _Known(24 * 8, 0, "unsigned char[0]"),
    },
    "nft_expr": {"data": _Known(8 * 8, 0, "unsigned char[0]")},
    "nft_verdict": {
        "code": _Known(0, 32, "u32"),
        "chain": _Known(8 * 8, _POINTER, "struct nft_chain *"),
    },
    "nft_immediate_expr": {
        "data": _Known(0, 128, "struct nft_data"),
        "dreg": _Known(16 * 8, _BYTE, "u8"),
    },
}
# struct nft_table: a list_head, an rhltable, four list_head, two u64 and a u32 before the family's bits.
_TABLE_BEFORE, _TABLE_BEHIND = 16, 4 * 16 + 2 * 8 + 4


# A function that is in nf_tables, and what bpf/nft.h reads of the structs there. Each of the
# alternatives is as a kernel has it: since 5.17, and before.
NFT_CORE = "nft_do_chain"
_NFT_MEMBERS = (
    "nft_pktinfo.skb", "nft_expr.data", "nft_verdict.code", "nft_verdict.chain", "nft_immediate_expr.data",
    "nft_immediate_expr.dreg",
)  # fmt: skip
_DLEN_BYTES = 2
_NFT_RULES = (
    (
        "nft_chain.blob_gen_0",
        "nft_chain.blob_gen_1",
        "nft_rule_blob.size",
        "nft_rule_blob.data",
        "nft_rule_dp.data",
    ),
    ("nft_chain.rules_gen_0", "nft_chain.rules_gen_1", "nft_rule.data"),
)


class Layouts:
    """Structs by what the kernel's sources say of them."""

    def __init__(self, structs: Mapping[str, Mapping[str, _Known]]) -> None:
        self._structs = structs

    def member(self, struct: str, path: str) -> Optional[Member]:
        """As Btf.member()."""
        known = self._structs.get(struct, {}).get(path)
        if known is None:
            return None
        is_bitfield = known.size_bits % 8 != 0 or known.offset_bits % 8 != 0
        return Member(known.offset_bits, known.size_bits, is_bitfield)

    def member_type(self, struct: str, path: str) -> Optional[str]:
        """As Btf.member_type()."""
        known = self._structs.get(struct, {}).get(path)
        return None if known is None else known.type


def of_module(module: str, kernel: Btf) -> Optional[Layouts]:
    """The structs of a module without BTF; None where they are not known.

    kernel: the kernel's own types, which tell whether it is one of those whose structs these are.
    """
    # Modules have BTF since Linux commit 36e68442d1af (5.11). A kernel without, but with the
    # reasons of c504e5c2f964 (5.17), was configured so, and has blobs.
    if module != "nf_tables" or kernel.enum("skb_drop_reason") is not None:
        return None
    chains = kernel.struct_size("rhltable")
    if chains is None:
        return Layouts(_NF_TABLES)
    family = _TABLE_BEFORE + chains + _TABLE_BEHIND
    table = {
        "family": _Known(family * 8, 6, "u16"),
        "name": _Known((family + 4) * 8, _POINTER, "char *"),
    }
    return Layouts({**_NF_TABLES, "nft_table": table})


def nft_offsets(types: Types) -> Optional[dict[str, int]]:
    """The constants of bpf/nft.h; None where the structs are not known, or not as they are known."""
    for rule, rules in zip(("nft_rule_dp", "nft_rule"), _NFT_RULES):
        dlen = types.member(rule, "dlen")
        found = {name: types.member(*name.split(".", 1)) for name in _NFT_MEMBERS + rules}
        offsets = {f"OFF_{name.replace('.', '__')}": member.offset for name, member in found.items() if member}
        if dlen is None or dlen.size != _DLEN_BYTES or len(offsets) < len(found):
            continue
        offsets["OFF_nft_rule__data"] = offsets.pop(f"OFF_{rule}__data")
        offsets["OFF_nft_rule__dlen"] = dlen.offset
        offsets["SHIFT_nft_rule__dlen"] = dlen.shift
        offsets["MASK_nft_rule__dlen"] = dlen.mask
        return offsets
    return None
