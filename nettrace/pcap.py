"""A pcap-filter(7) expression, compiled by libpcap to classic BPF, and that as C for the filter.

There are two forms: L2 for packets with an Ethernet header, L3 for those that begin with IP. Of packets that were
recorded, decide() says whether they match.
"""

import ctypes
import functools
import operator
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Optional

from .errors import KernelError, UsageError
from .rebuilt import Frame

_DLT_EN10MB = 1
_DLT_RAW = 12
_SNAP_LENGTH = 0x40000
_NETMASK_UNKNOWN = 0xFFFFFFFF

# What an instruction's code is made of, see linux/bpf_common.h.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_OPERATORS = {
    0x00: "+", 0x10: "-", 0x20: "*", 0x30: "/", 0x40: "|", 0x50: "&", 0x60: "<<", 0x70: ">>", 0x90: "%", 0xA0: "^",
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "|": operator.or_,
    "<<": operator.lshift, ">>": operator.rshift, "%": operator.mod, "^": operator.xor,
}  # fmt: skip
_DIVISIONS = ("/", "%")
_SHIFTS = ("<<", ">>")
_NEG = 0x80
_JA = 0x00
_JEQ, _JGT, _JGE, _JSET = 0x10, 0x20, 0x30, 0x40
_CONDITIONS = {
    _JEQ: ("a == {}", "a != {}"),
    _JGT: ("a > {}", "a <= {}"),
    _JGE: ("a >= {}", "a < {}"),
    _JSET: ("a & {}", "!(a & {})"),
}
_X = 0x08  # the operand is the register X, not the constant
_RET_A = 0x10
_TXA = 0x80
_SCRATCH_WORDS = 16

# Loads from here on are not of the packet but of what the kernel knows about it (SKF_AD_OFF in linux/filter.h).
_ANCILLARY = 0xFFFFF000

# In the L3 form there is no link layer, but libpcap takes the bytes of the IP header for one.
_LINK_BYTES = re.compile(r"\b(?:ether|link)\s*\[")


class Instruction(NamedTuple):
    """Of classic BPF: struct bpf_insn."""

    code: int
    jt: int
    jf: int
    k: int


class Form(NamedTuple):
    """What libpcap made of the expression for one kind of packets; no instructions: no such packet matches."""

    instructions: tuple[Instruction, ...]
    listing: str  # in libpcap's notation, or why no packet matches


class _Insn(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Insn))]


def compile_expression(expression: str) -> tuple[Form, Form]:
    """The L2 and the L3 form; UsageError says in libpcap's words what is wrong with the expression."""
    l2 = _compile(expression, _DLT_EN10MB)
    if _LINK_BYTES.search(expression):
        l3 = Form((), "the link layer's bytes are asked for")
    else:
        l3 = _compile(expression, _DLT_RAW)
    if not l2.instructions and not l3.instructions:
        raise UsageError(f"expression '{expression}': {l2.listing}; see pcap-filter(7)")
    return l2, l3


def c_text(expression: str) -> str:
    """The functions pcap_l2() and pcap_l3() that bpf/filter.h declares."""
    l2, l3 = compile_expression(expression)
    return translate(l2.instructions, "pcap_l2") + "\n" + translate(l3.instructions, "pcap_l3")


def disassemble(expression: str) -> str:
    """Both forms in the notation of `tcpdump -d`."""
    l2, l3 = compile_expression(expression)
    parts = []
    for title, form in (("packets with an Ethernet header", l2), ("packets without", l3)):
        listing = form.listing if form.instructions else f"none match: {form.listing}"
        parts.append(f"{title}:\n{listing}\n")
    return "\n".join(parts)


def translate(instructions: Sequence[Instruction], name: str) -> str:
    """A C function of that name; bpf/filter.h has what it calls."""
    _check(instructions)
    lines: list[str] = []
    reached = {0} if instructions else set()  # by falling into it
    labels: set[int] = set()
    # Jumps only go forward: what leads to an instruction is known when it is its turn.
    for at, instruction in enumerate(instructions):
        if at not in reached and at not in labels:
            continue
        if at in labels:
            lines.append(f"l{at}:")
        falls = True
        if instruction.code & 7 == _RET:
            lines.append(f"\t{_return(instruction)}")
            falls = False
        elif instruction.code & 7 == _JMP:
            falls = _jump(instructions, at, lines, labels)
        else:
            lines += [f"\t{line}" for line in _statement(instruction)]
        if falls:
            reached.add(at + 1)
    body = "".join(f"{line}\n" for line in lines) or "\treturn false;\n"
    variables = sorted(set(re.findall(r"\b[am]\d*\b|\bx\b", body)), key=lambda name: (name[0], int(name[1:] or 0)))
    declaration = f"\tu32 {', '.join(f'{variable} = 0' for variable in variables)};\n\n" if variables else ""
    return f"static __always_inline bool {name}(const struct pcap_bytes *bytes)\n{{\n{declaration}{body}}}\n"


class _Unknown(Exception):
    """What is not known of the packet decides."""


# A number of 32 bits, and those of its bits that are not known.
_Word = tuple[int, int]
_WORD = 0xFFFFFFFF


def decide(instructions: Sequence[Instruction], frame: Frame) -> Optional[bool]:
    """Whether a frame matches; None: it depends on what is not known of it."""
    _check(instructions)
    if not instructions:
        return False
    try:
        return _run(instructions, frame)
    except _Unknown:
        return None
    except (IndexError, ZeroDivisionError):
        return False


def _run(instructions: Sequence[Instruction], frame: Frame) -> bool:
    a: _Word = (0, 0)
    x: _Word = (0, 0)
    scratch: list[_Word] = [(0, 0)] * _SCRATCH_WORDS
    at = 0
    while True:
        instruction = instructions[at]
        code, jt, jf, k = instruction
        kind, operand = code & 7, x if code & _X else (k, 0)
        at += 1
        if kind == _LD:
            a = _fetched(frame, instruction, x, scratch)
        elif kind == _LDX:
            x = _fetched(frame, instruction, x, scratch)
        elif kind in (_ST, _STX):
            scratch[k] = x if kind == _STX else a
        elif kind == _ALU:
            a = _calculated(code, a, operand)
        elif kind == _RET:
            return _is_set(a if code & 0x18 == _RET_A else (k, 0))
        elif kind == _JMP:
            at += k if code & 0xF0 == _JA else jt if _holds(code & 0xF0, a, operand) else jf
        elif code & 0xF8 == _TXA:
            a = x
        else:
            x = a


def _fetched(frame: Frame, instruction: Instruction, x: _Word, scratch: Sequence[_Word]) -> _Word:
    code, _, _, k = instruction
    mode = code & 0xE0
    if mode == _IMM:
        return k, 0
    if mode == _LEN:
        return 0, _WORD  # which of the layers below IP it has at a step is not recorded
    if mode == _MEM:
        return scratch[k]
    if mode == _MSH:
        # That is how long the IPv4 header is here, too.
        return (_bytes(frame, k, 1)[0] & 0xF) << 2, 0
    if mode == _IND and x[1]:
        raise _Unknown
    return _bytes(frame, k if mode == _ABS else x[0] + k, _SIZES[code & 0x18])


def _bytes(frame: Frame, place: int, size: int) -> _Word:
    end = place + size
    if end > frame.length:
        raise IndexError
    data, unknown = frame.data[place:end].ljust(size, b"\0"), frame.unknown[place:end].ljust(size, b"\xff")
    return int.from_bytes(data, "big"), int.from_bytes(unknown, "big")


def _calculated(code: int, a: _Word, b: _Word) -> _Word:
    if code & 0xF0 == _NEG:
        return (0, _WORD) if a[1] else (-a[0] & _WORD, 0)
    sign = _OPERATORS[code & 0xF0]
    if sign == "&":
        return _both(a, b)
    if sign in _DIVISIONS and not b[0] & ~b[1]:
        raise _Unknown if b[1] else ZeroDivisionError
    if a[1] or b[1]:
        return 0, _WORD
    if sign in _SHIFTS and b[0] >= 32:
        return 0, 0
    return _ARITHMETIC[sign](a[0], b[0]) & _WORD, 0


def _both(a: _Word, b: _Word) -> _Word:
    return a[0] & b[0], (a[1] | b[1]) & (a[0] | a[1]) & (b[0] | b[1])


def _holds(condition: int, a: _Word, b: _Word) -> bool:
    unknown = a[1] | b[1]
    if condition == _JSET:
        return _is_set(_both(a, b))
    if condition == _JEQ and (a[0] ^ b[0]) & ~unknown:
        return False
    if unknown:
        raise _Unknown
    return {_JEQ: a[0] == b[0], _JGT: a[0] > b[0], _JGE: a[0] >= b[0]}[condition]


def _is_set(word: _Word) -> bool:
    """Whether it is not zero."""
    if not word[0] & ~word[1] and word[1]:
        raise _Unknown
    return word[0] != 0


def _check(instructions: Sequence[Instruction]) -> None:
    """Refuses what cannot be translated: jumps backwards, and what is not read from the packet."""
    for at, (code, jt, jf, k) in enumerate(instructions):
        kind, mode = code & 7, code & 0xE0
        if kind == _JMP and at + 1 + (k if code & 0xF0 == _JA else max(jt, jf)) >= len(instructions):
            # k is unsigned here: a jump backwards is one far beyond the end.
            raise UsageError("the filter expression needs a loop, which BPF has not: leave out 'protochain'")
        if kind in (_LD, _LDX) and mode == _ABS and k >= _ANCILLARY:
            raise UsageError(
                "the filter expression asks for what is not in a packet, as 'inbound' or 'ifindex' do: use --iface"
            )


def _statement(instruction: Instruction) -> list[str]:
    """What neither jumps nor returns."""
    code, _, _, k = instruction
    kind = code & 7
    if kind in (_LD, _LDX):
        return _load("x" if kind == _LDX else "a", code, k)
    if kind in (_ST, _STX) and k < _SCRATCH_WORDS:
        return [f"m{k} = {'x' if kind == _STX else 'a'};"]
    if kind == _ALU:
        return _arithmetic(code, k)
    if kind == _MISC:
        return ["a = x;" if code & 0xF8 == _TXA else "x = a;"]
    _unknown(code)


def _load(register: str, code: int, k: int) -> list[str]:
    mode, size = code & 0xE0, _SIZES.get(code & 0x18)
    if mode == _IMM:
        return [f"{register} = {k:#x};"]
    if mode == _LEN:
        return [f"{register} = pcap_length(bytes);"]
    if mode == _MEM and k < _SCRATCH_WORDS:
        return [f"{register} = m{k};"]
    if mode in (_ABS, _IND) and size is not None:
        place = f"{k:#x}" if mode == _ABS else f"(u64)x + {k:#x}"
        return _loaded(register, place, size)
    if mode == _MSH:
        # The length of an IPv4 header.
        return [*_loaded(register, f"{k:#x}", 1), f"{register} = ({register} & 0xf) << 2;"]
    _unknown(code)


def _loaded(register: str, place: str, size: int) -> list[str]:
    return [f"if (!pcap_load(bytes, {place}, {size}, &{register}))", "\treturn false;"]


def _arithmetic(code: int, k: int) -> list[str]:
    if code & 0xF0 == _NEG:
        return ["a = -a;"]
    operator = _OPERATORS.get(code & 0xF0)
    if operator is None:
        _unknown(code)
    if code & _X:
        if operator in _DIVISIONS:
            return ["if (!x)", "\treturn false;", f"a {operator}= x;"]
        return [f"a = x < 32 ? a {operator} x : 0;" if operator in _SHIFTS else f"a {operator}= x;"]
    if operator in _DIVISIONS and k == 0:
        return ["return false;"]
    return ["a = 0;" if operator in _SHIFTS and k >= 32 else f"a {operator}= {k:#x};"]


def _jump(instructions: Sequence[Instruction], at: int, lines: list[str], labels: set[int]) -> bool:
    """Adds a jump to the lines; returns whether the next instruction can follow it."""
    code, jt, jf, k = instructions[at]
    then, otherwise = (at + 1 + k,) * 2 if code & 0xF0 == _JA else (at + 1 + jt, at + 1 + jf)
    if then == otherwise:
        if then != at + 1:
            lines.append(f"\t{_go(instructions, then, labels)}")
        return then == at + 1
    if code & 0xF0 not in _CONDITIONS:
        _unknown(code)
    condition, opposite = (text.format("x" if code & _X else f"{k:#x}") for text in _CONDITIONS[code & 0xF0])
    if then == at + 1:
        lines += [f"\tif ({opposite})", f"\t\t{_go(instructions, otherwise, labels)}"]
        return True
    lines += [f"\tif ({condition})", f"\t\t{_go(instructions, then, labels)}"]
    if otherwise != at + 1:
        lines.append(f"\t{_go(instructions, otherwise, labels)}")
    return otherwise == at + 1


def _go(instructions: Sequence[Instruction], target: int, labels: set[int]) -> str:
    """The way to an instruction: if that only returns, so can we."""
    if instructions[target].code & 7 == _RET:
        return _return(instructions[target])
    labels.add(target)
    return f"goto l{target};"


def _return(instruction: Instruction) -> str:
    if instruction.code & 0x18 == _RET_A:
        return "return a;"
    return "return true;" if instruction.k else "return false;"


def _unknown(code: int) -> NoReturn:
    raise UsageError(f"the filter expression needs an instruction ({code:#x}) that nettrace does not know")


def _compile(expression: str, link_type: int) -> Form:
    library = libpcap()
    handle = library.pcap_open_dead(link_type, _SNAP_LENGTH)
    if not handle:
        raise MemoryError
    try:
        program = _Program()
        if library.pcap_compile(handle, program, os.fsencode(expression), 1, _NETMASK_UNKNOWN):
            return Form((), library.pcap_geterr(handle).decode("utf-8", "replace"))
        try:
            found = program.instructions[: program.length]
            lines = [library.bpf_image(instruction, at).decode() for at, instruction in enumerate(found)]
            return Form(tuple(Instruction(one.code, one.jt, one.jf, one.k) for one in found), "\n".join(lines))
        finally:
            library.pcap_freecode(program)
    finally:
        library.pcap_close(handle)


@functools.cache
def libpcap() -> ctypes.CDLL:
    """The library; raises KernelError without it."""
    for name in ("libpcap.so.0.8", "libpcap.so.1"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        _declare(library)
        return library
    raise KernelError(
        "libpcap, which compiles filter expressions, is not installed",
        "install the package libpcap0.8 (apt) or libpcap (dnf)",
    )


def _declare(library: ctypes.CDLL) -> None:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    program = ctypes.POINTER(_Program)
    library.pcap_open_dead.argtypes, library.pcap_open_dead.restype = [number, number], pointer
    library.pcap_compile.argtypes = [pointer, program, text, number, ctypes.c_uint32]
    library.pcap_geterr.argtypes, library.pcap_geterr.restype = [pointer], text
    library.pcap_freecode.argtypes, library.pcap_freecode.restype = [program], None
    library.pcap_close.argtypes, library.pcap_close.restype = [pointer], None
    library.bpf_image.argtypes, library.bpf_image.restype = [ctypes.POINTER(_Insn), number], text
