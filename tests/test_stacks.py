"""Call stacks as they came from real kernels, against what a user should see of them."""

from typing import Optional

import pytest

from nettrace.kernel import Symbol
from nettrace.stacks import stack_lines


def shown(*names: Optional[str]) -> list[str]:
    """The functions that are shown of a stack; a frame is "name" or "name [module]", or None without a symbol."""
    symbols: list[Optional[Symbol]] = []
    for text in names:
        name, _, module = (text or "").partition(" [")
        symbols.append(Symbol(name, 0x12, None, module.rstrip("]")) if text else None)
    title, *lines = stack_lines(range(len(names)), lambda address: symbols[address])
    assert title == "Call Stack:"
    assert all(line.startswith("    -> ") for line in lines)
    return [line.partition("]")[2].replace("+0x12", "") for line in lines]


def test_a_frame() -> None:
    symbols = {
        0xFFFFFFFF81234567: Symbol("ip_rcv", 0x7, 100, ""),
        0xFFFFFFFFC0000010: Symbol("nft_do_chain", 0x10, None, "nf_tables"),
    }
    assert list(stack_lines([0xFFFFFFFF81234567, 0xFFFFFFFFC0000010, 0xFFFFFFFFC0FFFFFF], symbols.get)) == [
        "Call Stack:",
        "    -> [ffffffff81234567]ip_rcv+0x7",
        "    -> [ffffffffc0000010]nft_do_chain+0x10 [nf_tables]",
        "    -> [ffffffffc0ffffff](no symbol)",
    ]


def test_an_empty_stack() -> None:
    assert list(stack_lines([], {}.get)) == ["Call Stack:", "    -> (no stack: the kernel could not walk it)"]


PATH = ("kfree_skb", "__udp4_lib_rcv", "nft_do_chain [nf_tables]")


@pytest.mark.parametrize(
    "tracer",
    [
        # Raw tracepoints, as Linux 5.10, 6.1, 6.12 and 7.2 tell them. The program was loaded after the
        # symbols were read: it has none, or the name of what lies before it.
        (None, None, "bpf_trace_run2"),
        ("bpf_prog_938d1a855d890c6f_drop", "bpf_trace_run3"),
        (None, "bpf_trace_run4"),
        ("last_of_a_module [veth]", "bpf_trace_run4", "__bpf_trace_kfree_skb", "__traceiter_kfree_skb"),
        # Kprobes hand over the registers of the function itself.
        (),
    ],
)
def test_the_tracer_is_left_out(tracer: tuple[Optional[str], ...]) -> None:
    assert shown(*tracer, *PATH) == list(PATH)


def test_programs_of_others_are_shown() -> None:
    path = ("kfree_skb", "bpf_prog_938d1a855d890c6f_classify", "cls_bpf_classify [cls_bpf]")
    assert shown(None, "bpf_trace_run4", *path) == list(path)
    assert shown("bpf_prog_run_generic_xdp", "do_xdp_generic") == ["bpf_prog_run_generic_xdp", "do_xdp_generic"]


def test_only_the_innermost_tracer_is_ours() -> None:
    path = (*PATH, *(f"step{number}" for number in range(10)), "bpf_trace_run2", "__traceiter_sys_enter")
    assert shown(None, "bpf_trace_run4", *path) == list(path)
