"""Where nf_tables keeps its rules, with BTF and without, against include/net/netfilter/nf_tables.h of these kernels."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import pytest

from nettrace import files, layouts, plan, tree
from nettrace.kernel import Kernel
from nettrace.plan import Program, Wishes
from tests.record_kernel import VERSIONS

# What both ways have.
SAME = {
    "OFF_nft_pktinfo__skb": 0,
    "OFF_nft_expr__data": 8,
    "OFF_nft_verdict__code": 0,
    "OFF_nft_verdict__chain": 8,
    "OFF_nft_immediate_expr__data": 0,
    "OFF_nft_immediate_expr__dreg": 16,
}
# struct nft_rule: list_head, then u64 handle:42, genmask:2, dlen:12, udata:1.
ARRAY = {
    "OFF_nft_chain__rules_gen_0": 0,
    "OFF_nft_chain__rules_gen_1": 8,
    "OFF_nft_rule__data": 24,
    "OFF_nft_rule__dlen": 21,
    "SHIFT_nft_rule__dlen": 4,
    "MASK_nft_rule__dlen": 0xFFF,
}
# struct nft_rule_dp: u64 is_last:1, dlen:12, handle:42.
BLOB = {
    "OFF_nft_chain__blob_gen_0": 0,
    "OFF_nft_chain__blob_gen_1": 8,
    "OFF_nft_rule_blob__size": 0,
    "OFF_nft_rule_blob__data": 8,
    "OFF_nft_rule__data": 8,
    "OFF_nft_rule__dlen": 0,
    "SHIFT_nft_rule__dlen": 1,
    "MASK_nft_rule__dlen": 0xFFF,
}


@pytest.mark.parametrize("version", VERSIONS)
def test_where_the_rules_are(kernels: dict[str, Kernel], version: str) -> None:
    expected = {**SAME, **(ARRAY if version == "5.10" else BLOB)}
    assert layouts.nft_offsets(kernels[version].types_of(layouts.NFT_CORE)) == expected


def test_the_handle_of_a_rule() -> None:
    types = layouts.Layouts(layouts._NF_TABLES)
    # As in memory: a word of 64 bits behind a list_head.
    word = (41 << 44 | 2 << 42 | 123456).to_bytes(8, "little")
    rule = bytes(16) + word
    for name, value in (("handle", 123456), ("dlen", 41)):
        member = types.member("nft_rule", name)
        assert member is not None
        found = int.from_bytes(rule[member.offset : member.offset + member.size], "little")
        assert found >> member.shift & member.mask == value


def test_only_for_kernels_without_blobs(kernels: dict[str, Kernel]) -> None:
    assert layouts.of_module("nf_tables", kernels["5.10"].btf) is not None
    assert layouts.of_module("nf_tables", kernels["6.1"].btf) is None
    assert layouts.of_module("nf_conntrack", kernels["5.10"].btf) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cookies", [False, True])
def test_the_programs_for_verdicts(kernels: dict[str, Kernel], version: str, cookies: bool) -> None:
    traces = tree.load(files.TREE).traces()
    made = plan.make(traces, kernels[version], cookies=cookies)
    programs: dict[str, list[Program]] = {}
    for probe in made.probes:
        programs.setdefault(probe.trace.name, []).append(probe.program)
    assert [program.kind for program in programs["nft_do_chain"]] == ["nft_chain"]
    assert [program.kind for program in programs["nft_immediate_eval"]] == ["nft_verdict"]
    told = made.facts[programs["nft_immediate_eval"][0].facts - 1]
    assert [fact.name for fact in told] == ["chain", "handle", "verdict", "target"]
    assert [fact.argument for fact in told] == [3, 4, 5, 5]
    assert sum(fact.words for fact in told) == 10


def test_without_facts_they_are_as_any_other(kernels: dict[str, Kernel]) -> None:
    traces = [trace for trace in tree.load(files.TREE).traces() if trace.nft]
    made = plan.make(traces, kernels["6.12"], Wishes(facts=False))
    assert {probe.program.kind for probe in made.probes} == {"kprobe"}
