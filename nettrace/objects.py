"""Compiled programs, apart from the compiler and from the kernel: what can be kept in a file."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Loads of numbers that are put in when a program is loaded hold this, plus the number's index.
VALUE_MARK = 0x6E747276 << 32

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_64 = 0x18  # the only instruction of two words: the second has the upper half of the number
_MAP_FD = 1


class MapSpec(NamedTuple):
    """A map to be made."""

    name: str
    kind: int  # enum bpf_map_type
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class Code:
    """The instructions of a program, and which of them are to be completed before it is loaded."""

    instructions: bytes
    maps: tuple[tuple[int, int], ...]  # offset, index of a map
    values: tuple[tuple[int, int], ...]  # offset, index of a number

    @classmethod
    def of(cls, instructions: bytes, map_fds: Mapping[int, int]) -> "Code":
        """From what the compiler made, where maps are file descriptors; these tell their indexes."""
        code = bytearray(instructions)
        maps, values = [], []
        words = list(_INSTRUCTION.iter_unpack(instructions))
        at = 0
        while at < len(words):
            operation, registers, _, low = words[at]
            if operation == _LOAD_64:
                high = words[at + 1][3]
                if registers >> 4 == _MAP_FD:
                    maps.append((at * 8, map_fds[low]))
                    _put(code, at * 8, 0)
                elif high == VALUE_MARK >> 32:
                    values.append((at * 8, low))
                    _put(code, at * 8, 0)
                at += 1
            at += 1
        return cls(bytes(code), tuple(maps), tuple(values))

    def completed(self, map_fds: Sequence[int], values: Sequence[int]) -> bytes:
        """What the kernel can load."""
        code = bytearray(self.instructions)
        for offset, index in self.maps:
            _put(code, offset, map_fds[index])
        for offset, index in self.values:
            _put(code, offset, values[index])
        return bytes(code)


def _put(code: bytearray, offset: int, number: int) -> None:
    struct.pack_into("<I", code, offset + 4, number & 0xFFFFFFFF)
    struct.pack_into("<I", code, offset + 12, number >> 32)


@dataclass(frozen=True)
class Object:
    """What a C text became."""

    maps: tuple[MapSpec, ...]
    programs: Mapping[str, Code]

    def to_bytes(self) -> bytes:
        """For a file."""
        programs = {name: [code.instructions.hex(), code.maps, code.values] for name, code in self.programs.items()}
        return json.dumps({"maps": self.maps, "programs": programs}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Object":
        """What to_bytes() made; ValueError if it is anything else."""
        try:
            told = json.loads(data)
            return cls(
                tuple(MapSpec(*one) for one in told["maps"]),
                {
                    name: Code(bytes.fromhex(code), _pairs(maps), _pairs(values))
                    for name, (code, maps, values) in told["programs"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not compiled programs: {error}") from error


def _pairs(told: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((offset, index) for offset, index in told)
