"""Buckets that Python and C agree about, and percentiles of known values."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ctypes
import random
import subprocess
from pathlib import Path

import pytest

from nettrace import histogram
from nettrace.histogram import BUCKETS, BYTES, COARSE_BUCKETS, Histogram, Row, bucket, first_of, of_coarse

from .native import COMPILER, needs_compiler

HEADER = Path(__file__).resolve().parent.parent / "bpf" / "histogram.h"
LARGEST = (1 << 40) - 1
SOME = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 1000, 4095, 4096, 123456789, LARGEST, LARGEST + 1, (1 << 64) - 1]


def of(*values: int) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts), sum(values) % (1 << 64))


def in_ms(us: int) -> str:
    return f"{us / 1000:.3f}ms"


def test_every_value_is_within_the_bounds_of_its_bucket_and_these_are_narrow() -> None:
    for value in [*range(5000), *(random.Random(1).randrange(LARGEST) for _ in range(5000))]:
        number = bucket(value)
        assert first_of(number) <= value < first_of(number + 1)
        assert first_of(number + 1) - first_of(number) <= max(1, value / 16)
    assert bucket(LARGEST) == BUCKETS - 1
    assert first_of(BUCKETS) == LARGEST + 1


def test_what_is_too_large_counts_as_the_largest() -> None:
    assert bucket(LARGEST + 1) == bucket(1 << 63) == BUCKETS - 1


@needs_compiler
def test_c_finds_the_same_buckets(tmp_path: Path) -> None:
    source, library = tmp_path / "histogram.c", tmp_path / "histogram.so"
    defines = "".join(f"#define {name} {value}\n" for name, value in histogram.constants().items())
    source.write_text(
        "#include <stdint.h>\ntypedef uint8_t u8; typedef uint32_t u32; typedef uint64_t u64;\n"
        "#define __always_inline inline __attribute__((always_inline))\n"
        f'{defines}#include "{HEADER}"\n'
        "struct histogram counted;\n"
        "void add(u64 value) { histogram_add(&counted, value); }\n"
        "struct coarse_histogram coarse;\n"
        "void add_coarse(u64 value) { coarse_histogram_add(&coarse, value); }\n"
    )
    assert COMPILER is not None
    subprocess.run([COMPILER, "-O1", "-w", "-shared", "-fPIC", "-o", library, source], check=True)
    native = ctypes.CDLL(str(library))
    native.add.argtypes = [ctypes.c_uint64]
    values = SOME + [random.Random(2).randrange(1 << bits) for bits in range(1, 64) for _ in range(20)]
    for value in values:
        native.add(value)
    counted = bytes((ctypes.c_char * BYTES).in_dll(native, "counted"))
    assert Histogram.from_bytes(counted) == of(*values)
    native.add_coarse.argtypes = [ctypes.c_uint64]
    coarse = (ctypes.c_uint32 * COARSE_BUCKETS).in_dll(native, "coarse")
    for value in values:
        native.add_coarse(value)
        (number,) = [number for number, count in enumerate(coarse) if count]
        coarse[number] = 0
        assert number == COARSE_BUCKETS - 1 or first_of(number, 2) <= value < first_of(number + 1, 2)
        middle = of_coarse(number)
        if value < 1 << 36:
            # The half of a bucket of each kind.
            assert abs((first_of(middle) + first_of(middle + 1) - 1) / 2 - value) <= value * (1 / 8 + 1 / 32)
    coarse[5] = 0xFFFFFFFF
    native.add_coarse(5)
    assert coarse[5] == 0xFFFFFFFF
    # As a per-CPU map has it.
    assert Histogram.from_bytes(counted + counted).counts == of(*values, *values).counts


@pytest.mark.parametrize("percent, value", [(50, 500), (90, 900), (99, 990), (100, 1000)])
def test_percentiles_are_close(percent: int, value: int) -> None:
    assert of(*range(1, 1001)).percentile(percent) == pytest.approx(value, rel=1 / 32)


def test_percentiles_of_few_and_of_none() -> None:
    assert of(7).percentile(50) == of(7).percentile(99) == 7
    assert of(1, 1, 1, 9).percentile(50) == 1
    assert of().percentile(50) == 0


def test_rows_are_powers_of_two_without_gaps() -> None:
    assert of(0, 1, 5, 5, 20).rows() == [
        Row(0, 0, 1), Row(1, 1, 1), Row(2, 3, 0), Row(4, 7, 2), Row(8, 15, 0), Row(16, 31, 1),
    ]  # fmt: skip
    assert of().rows() == []


def test_table() -> None:
    assert histogram.table(of(*[600] * 3, 1500), in_ms) == [
        "  0.512ms - 1.023ms: 3  75.0% |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
        "  1.024ms - 2.047ms: 1  25.0% |@@@@@@@@@@@@@@                          |",
    ]
    assert histogram.table(of(), in_ms) == []


def test_percentiles_on_a_line() -> None:
    assert histogram.percentiles(of(*[8] * 9, 9), str) == "p50 8  p90 8  p99 9"
