"""Facts found on the recorded kernels, held against what BTF and the kernel's own headers say of these structs."""

from ipaddress import ip_address

import pytest

from nettrace import facts, files, tree
from nettrace.btf import Param, Prototype
from nettrace.facts import Fact, Hop
from nettrace.kernel import Kernel
from tests.record_kernel import VERSIONS

HOOK = Prototype((Param("skb", "struct sk_buff *"), Param("state", "struct nf_hook_state *")), "int")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_of_an_argument(kernels: dict[str, Kernel], version: str) -> None:
    # struct nf_hook_state begins with the hook.
    found = facts.find("hook", "nf_hook_state->hook", HOOK, kernels[version].btf)
    assert found is not None and (found.argument, found.hops, found.offset) == (1, (), 0)
    family = facts.find("family", "nf_hook_state->pf", HOOK, kernels[version].btf)
    assert family is not None and family.size == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chain_of_pointers(kernels: dict[str, Kernel], version: str) -> None:
    btf = kernels[version].btf
    dev, ifindex = btf.member("nf_hook_state", "in"), btf.member("net_device", "ifindex")
    assert dev is not None and ifindex is not None
    found = facts.find("in", "nf_hook_state->in->ifindex", HOOK, btf)
    assert found == Fact("in", 1, (Hop(dev.offset, False),), ifindex.offset, 4, signed=True, mask=0xFFFFFFFF)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_taken_as_a_pointer_to_a_struct(kernels: dict[str, Kernel], version: str) -> None:
    btf = kernels[version].btf
    dst, kind = btf.member("sk_buff", "_skb_refdst"), btf.member("rtable", "rt_type")
    assert dst is not None and kind is not None
    found = facts.find("type", "sk_buff->_skb_refdst:rtable->rt_type", HOOK, btf)
    assert found is not None and (found.argument, found.hops, found.offset) == (
        0,
        (Hop(dst.offset, True),),
        kind.offset,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_what_c_calls_otherwise(kernels: dict[str, Kernel], version: str) -> None:
    btf = kernels[version].btf
    send = Prototype((Param("sk", "struct sock *"), Param("skb", "struct sk_buff *")), "int")
    srtt = facts.find("rtt", "sock:tcp_sock->srtt_us", send, btf)
    assert srtt is not None and (srtt.argument, srtt.hops, srtt.size) == (0, (), 4)
    # struct tcp_skb_cb begins with seq and end_seq, 32 bits each.
    cb = btf.member("sk_buff", "cb")
    assert cb is not None
    end = facts.find("end", "sk_buff->cb:tcp_skb_cb->end_seq", send, btf)
    assert end == Fact("end", 1, (), cb.offset + 4, 4, mask=0xFFFFFFFF)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_address_of_ipv6(kernels: dict[str, Kernel], version: str) -> None:
    btf = kernels[version].btf
    found = facts.find("gateway", "sk_buff->_skb_refdst:rtable->rt_gw6", HOOK, btf)
    assert found is not None and (found.size, found.words) == (16, 2)
    # In network byte order, in two words of a little-endian machine.
    assert found.value([0x80FE, 0x77 << 56]) == int.from_bytes(ip_address("fe80::77").packed, "little")
    gw4 = btf.member("rtable", "rt_gw4")
    assert gw4 is not None and gw4.offset == found.offset


@pytest.mark.parametrize("version", VERSIONS)
def test_texts(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    name = facts.find("name", "net_device@0->name", None, kernel.btf)
    assert name is not None and name.is_text and (name.size, name.hops, name.words) == (16, (), 4)
    if version != "5.10":  # whose modules have no BTF
        types = kernel.types_of("nft_do_chain")
        chain = facts.find("chain", "nft_chain@1->name", None, types)
        member = types.member("nft_chain", "name")
        assert member is not None
        assert chain == Fact("chain", 1, (Hop(member.offset, False),), 0, 32, is_text=True)


@pytest.mark.parametrize(
    "path",
    [
        "nf_hook_state->nothing",
        "sock->sk_rcvbuf",  # no argument of this type
        "nosuch@1->member",
        "nf_hook_state->pf->name",  # no pointer
        "sk_buff->_skb_refdst->rt_type",  # nor this one, to C
        "sk_buff->_skb_refdst:rtable->dst",  # nothing that fits in a word
        "nf_hook_state@0->pf",  # the argument is something else
    ],
)
def test_what_a_kernel_has_not(kernels: dict[str, Kernel], path: str) -> None:
    assert facts.find("fact", path, HOOK, kernels["6.12"].btf) is None


def test_the_first_that_the_kernel_has_counts(kernels: dict[str, Kernel]) -> None:
    found = facts.find("fact", "nf_hook_state->gone|nf_hook_state->pf|nf_hook_state->hook", HOOK, kernels["6.12"].btf)
    assert found == facts.find("fact", "nf_hook_state->pf", HOOK, kernels["6.12"].btf) is not None


def test_an_argument_itself(kernels: dict[str, Kernel]) -> None:
    send = Prototype((Param("skb", "struct sk_buff *"), Param("type", "int"), Param("why", "enum reason")), "void")
    btf = kernels["6.12"].btf
    expected = Fact("type", 1, (), None, 4, signed=True, mask=0xFFFFFFFF)
    assert facts.find("type", "int@1", send, btf) == facts.find("type", "int@1", None, btf) == expected
    assert facts.find("type", "int@2", send, btf) is None
    assert facts.find("why", "enum reason", send, btf) == Fact("why", 2, (), None, 4, mask=0xFFFFFFFF)
    assert facts.find("why", "enum other", send, btf) is None


@pytest.mark.parametrize("text", ["", "a", "a->", "a->b:", "a@9->b", "a@->b", "a b->c", "a->b|", "a->b;->c"])
def test_what_is_no_path(text: str) -> None:
    assert not facts.is_path(text)


# Linux commit 5691276b39da (6.10) gave resets a reason.
NO_RESET_REASON = {"tcp_v4_send_reset": {"reset_reason"}, "tcp_v6_send_reset": {"reset_reason"}}
# And ad892e912b84 (6.17) tells of retransmissions that failed.
NO_FAILURE = {"tcp_retransmit": {"error"}}
LACKING = {
    "5.10": {**NO_RESET_REASON, **NO_FAILURE}, "6.1": {**NO_RESET_REASON, **NO_FAILURE}, "6.12": NO_FAILURE,
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_each_fact_of_the_tree_is_there(kernels: dict[str, Kernel], version: str) -> None:
    kernel = kernels[version]
    lacking: dict[str, set[str]] = {}
    for trace in tree.load(files.TREE).traces():
        prototype, types = None, kernel.btf
        if trace.tracepoint is not None:
            prototype = kernel.btf.tracepoint(trace.tracepoint.partition(":")[2])
        function = next((name for name in trace.functions if kernel.obstacle(name) is None), None)
        if function is not None:
            prototype, types = kernel.prototype(function), kernel.types_of(function)
        elif prototype is None:
            continue
        for name, path in trace.facts:
            if facts.find(name, path, prototype, types) is None:
                lacking.setdefault(trace.name, set()).add(name)
    assert lacking == LACKING.get(version, {})
