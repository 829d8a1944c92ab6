"""A call stack as lines of text."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from .kernel import Symbol

SymbolOf = Callable[[int], Optional[Symbol]]

# What stands between a function that is traced and the program that walks the stack. Kprobes hand
# the registers at the function over, raw tracepoints those of the program.
_TRACER = re.compile(
    r"bpf_trace_run\d+|__bpf_trace_\w+|__traceiter_\w+|perf_trace_\w+|trace_call_bpf|bpf_get_stack\w*|__bpf_get_stack"
    r"|get_perf_callchain|perf_callchain_kernel|kprobe_multi_link_\w+|fprobe_\w+|rethook_\w+|arch_rethook_\w+"
    r"|(?:arch_)?ftrace_\w+|function_graph_enter_regs|kprobe_(?:ftrace_handler|dispatcher|perf_func|int3_handler)"
    r"|kretprobe_(?:dispatcher|perf_func)|aggr_pre_handler|opt_pre_handler|optimized_callback|__kretprobe_\w+"
)
# So far up can the tracer be. Further out, its names belong to another tracer's work.
_TRACER_FRAMES = 12


def stack_lines(stack: Sequence[int], symbol_of: SymbolOf) -> Iterator[str]:
    """The stack, a line a function, the innermost first and without those that belong to tracing."""
    yield "Call Stack:"
    frames = [(address, symbol_of(address)) for address in stack]
    # Programs that were loaded after the symbols were read have no name, or that of a neighbour.
    tracer = [at for at, (_, symbol) in enumerate(frames[:_TRACER_FRAMES]) if symbol and _TRACER.fullmatch(symbol.name)]
    for address, symbol in frames[tracer[-1] + 1 if tracer else 0 :]:
        if symbol is None:
            yield f"    -> [{address:x}](no symbol)"
        else:
            module = f" [{symbol.module}]" if symbol.module else ""
            yield f"    -> [{address:x}]{symbol.name}+0x{symbol.offset:x}{module}"
    if not stack:
        yield "    -> (no stack: the kernel could not walk it)"
