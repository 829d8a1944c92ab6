"""The rules in C, asked about calls that a test makes up, against the rules as Python applies them."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ctypes
import random
import subprocess
from pathlib import Path

import pytest

from nettrace import files, live, plan, rules, tree, trouble
from nettrace.event import Event, Packet, Return
from nettrace.facts import Fact
from nettrace.kernel import Kernel
from nettrace.plan import Plan
from nettrace.rules import Rules
from tests.native import COMPILER, needs_compiler
from tests.record_kernel import VERSIONS

VERDICT = Path(__file__).resolve().parent.parent / "bpf" / "verdict.h"
BEFORE = """
#include <stdbool.h>
#include <stdint.h>
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef int64_t s64;
"""
AFTER = """
int first(u32 rules, u64 value) { return may_be_trouble(rules, value); }
int whole(u32 rules, u64 value, const u64 *words) { return is_trouble(rules, value, words); }
"""
NO_PACKET = Packet(0, 0, 0x0800, 17, 0, 0, 0, b"\0" * 4, b"\0" * 4, b"\0" * 24)
MASK = (1 << 64) - 1
RETURNED = [
    0, 1, 2, 3, 4, 5, 7, 16, 255, 256, 1 << 16, 1 << 32, 1 << 31, (2 << 16) + 2, 0xFFFF888012345678, 0x12345600000000,
    *(number & MASK for number in (-1, -2, -12, -13, -22, -101, -113)),
    *(number & 0xFFFFFFFF for number in (-1, -12, -22)),
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, 13, 22, 63, 64, 65, 100, 101, 113, 127, 128, 129, 4096, 0xFFFFFFFF, (1 << 64) - 1]


@pytest.fixture(scope="module")
def traces() -> tree.Tree:
    return tree.load(files.TREE)


@pytest.fixture(scope="module")
def meanings(traces: tree.Tree) -> Rules:
    return rules.load(files.RULES, traces)


def watching(traces: tree.Tree, meanings: Rules, kernel: Kernel) -> Plan:
    watched = [trace for trace in traces.traces() if trace.monitor]
    return plan.make_monitor(watched, kernel, meanings.need_return, meanings.ask_verdict, tracing=True)


def test_each_watched_trace_can_tell_of_trouble(traces: tree.Tree, meanings: Rules) -> None:
    watched = [trace for trace in traces.traces() if trace.monitor]
    assert {trace.name for trace in watched if trace.role != "drop"} <= meanings.tell_trouble
    for trace in watched:
        # What only follows from something else is told by that.
        told = [rule for rule in meanings.of(trace.name) if rule.level != "info"]
        assert trace.role == "drop" or told, trace.name


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_the_kernel_judges_as_the_rules_do(
    version: str, traces: tree.Tree, meanings: Rules, kernels: dict[str, Kernel], tmp_path: Path
) -> None:
    kernel = kernels[version]
    what = watching(traces, meanings, kernel)
    host, planned = live.Running(kernel, 0), live.traced(what)
    judge = live.judge(host, planned, meanings)
    source, library = tmp_path / "trouble.c", tmp_path / "trouble.so"
    text = trouble.c_text(what, judge, live.return_types(host, planned))
    source.write_text(f'{BEFORE}#include "{VERDICT}"\n{text}{AFTER}')
    assert COMPILER is not None
    subprocess.run([COMPILER, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    native = ctypes.CDLL(str(library))
    native.first.argtypes = [ctypes.c_uint32, ctypes.c_uint64]
    native.whole.argtypes = [ctypes.c_uint32, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    chance = random.Random(version)
    seen: dict[str, set[bool]] = {}
    for probe in what.probes:
        assert probe.numbers is not None
        facts = what.facts[probe.numbers.facts - 1] if probe.numbers.facts else ()
        # Else the register holds nothing in particular: no rule of these asks for it.
        values = RETURNED if probe.numbers.returns else [0]
        for value in values:
            for _ in range(20 if probe.numbers.returns else 400):
                words, told = made_up(facts, chance)
                event = Event(0, probe.trace.name, 0, NO_PACKET, 0, None, returned=Return(0, value), facts=told)
                rule = judge.rule(event)
                expected = rule is not None and rule.level != "info"
                array = (ctypes.c_uint64 * max(1, len(words)))(*words)
                whole = bool(native.whole(probe.numbers.rules, value, array))
                assert whole == expected, (probe.trace.name, value, told, rule)
                assert native.first(probe.numbers.rules, value) or not whole
                seen.setdefault(probe.trace.name, set()).add(whole)
    # What could not be sent again was not sent again; kernels that do not tell this apart tell of no failure.
    assert seen["tcp_retransmit"] == ({True, False} if version == "7.2" else {True})
    # All can tell of trouble; and what is asked on each packet can also find none.
    assert {name for name, answers in seen.items() if True not in answers} <= {"kfree_skb"}
    assert {name for name, answers in seen.items() if False in answers} >= {"ip_forward", "tcp_conn_request"}


def made_up(facts: tuple[Fact, ...], chance: random.Random) -> tuple[list[int], tuple[tuple[str, int | str], ...]]:
    """Words as the kernel would send them, and what they say."""
    words: list[int] = []
    told: list[tuple[str, int | str]] = []
    for fact in facts:
        raw = [chance.choice(NUMBERS) & (1 << 8 * fact.size) - 1 for _ in range(fact.words)]
        if fact.is_text:
            raw = [0x74736574] + [0] * (fact.words - 1)
        words += raw
        told.append((fact.name, fact.value(tuple(raw))))
    return words, tuple(told)
