"""What a trace tells beyond the packet: members of the kernel's structs, found from the arguments of its function.

A fact is written as C would reach it: `Qdisc->ops->id` begins at the argument that points to a struct
Qdisc, `nft_chain@1->name` at argument 1, whose type the function's prototype leaves open. A colon says what
something is that C calls otherwise: the argument in `sock:tcp_sock->srtt_us`, what a number points to in
`sk_buff->_skb_refdst:rtable->rt_type`, the bytes of an array in `sk_buff->cb:tcp_skb_cb->seq`. Of several,
with bars between them, the first counts that the kernel has. An array of characters, or a pointer to some,
is a text; 16 bytes are one number. `+16` behind a path leads on by so many bytes, to a pointer in an array.
`enum sk_rst_reason` is the argument of this type itself, `int@1` argument 1.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from .btf import Prototype
from .layouts import Types
from .printable import text_of

POINTER_BYTES = 8
ADDRESS_BYTES = 16  # of IPv6
TEXT_BYTES = 32
TEXT_WORDS = TEXT_BYTES // 8
# More than the facts of any trace take.
WORDS_MAX = 12

_PATH = re.compile(
    r"(?P<struct>\w+)(?::(?P<cast>\w+))?(?:@(?P<argument>[0-5]))?(?P<members>(?:->[\w.]+(?::\w+)?)+)(?:\+(?P<further>\d+))?"
)
_VALUE = re.compile(r"(?P<type>(?:enum )?\w+)@(?P<argument>[0-5])|(?P<enum>enum \w+)")
_STRUCT_POINTER = re.compile(r"(?:struct|union) (\w+) \*")
_CHARS = re.compile(r"(?:unsigned |signed )?char(?: \*|\[\d+\])")
_SIGNED = ("int", "long int", "short int", "s8", "s16", "s32", "s64", "signed char")
_VALUE_BYTES = 4  # of arguments that are integers


class Hop(NamedTuple):
    """A pointer on the way to a fact."""

    offset: int
    has_flags: bool  # it is an integer to C, and its low bits are flags


class Fact(NamedTuple):
    """Where a fact is on this kernel: at the end of a chain of pointers that begins at an argument."""

    name: str
    argument: int
    hops: tuple[Hop, ...]  # where the pointers are, each in what the one before points to
    offset: Optional[int]  # None: the argument itself is the fact
    size: int  # bytes; of a text, what is read at most
    is_text: bool = False
    signed: bool = False
    shift: int = 0
    mask: int = (1 << 64) - 1

    @property
    def words(self) -> int:
        """How many 64-bit words it takes in a message."""
        return TEXT_WORDS if self.is_text else -(-self.size // 8)

    def value(self, words: Sequence[int]) -> Union[int, str]:
        """The fact in the words of a message."""
        if self.is_text:
            return text_of(b"".join(word.to_bytes(8, "little") for word in words))
        number = words[0] if len(words) == 1 else words[0] | words[1] << 64
        number = number >> self.shift & self.mask
        bits = 8 * self.size
        return number - (1 << bits) if self.signed and number >> bits - 1 else number


def words_before(facts: Sequence[Fact], name: str) -> tuple[int, Fact]:
    """The fact of this name in a set, and behind how many words it is; KeyError if there is none."""
    word = 0
    for fact in facts:
        if fact.name == name:
            return word, fact
        word += fact.words
    raise KeyError(name)


def is_path(text: str) -> bool:
    """Whether it is written as a fact must be."""
    return all(_PATH.fullmatch(path) or _VALUE.fullmatch(path) for path in text.split("|"))


def find(name: str, paths: str, prototype: Optional[Prototype], types: Types) -> Optional[Fact]:
    """The fact on a kernel with these types, for a function or tracepoint of this prototype; None: it has no such."""
    for path in paths.split("|"):
        fact = _find(name, path, prototype, types)
        if fact is not None:
            return fact
    return None


def _find(name: str, path: str, prototype: Optional[Prototype], types: Types) -> Optional[Fact]:
    match = _PATH.fullmatch(path)
    if match is None:
        return _argument_itself(name, path, prototype)
    struct: Optional[str] = match["cast"] or match["struct"]
    argument = _argument(match["struct"], match["argument"], prototype)
    if argument is None:
        return None
    hops: list[Hop] = []
    before = 0  # bytes, of arrays that are taken for structs
    steps = match["members"][2:].split("->")
    for place, step in enumerate(steps):
        member_path, _, cast = step.partition(":")
        member = None if struct is None else types.member(struct, member_path)
        if struct is None or member is None:
            return None
        kind = types.member_type(struct, member_path) or ""
        if place < len(steps) - 1:
            if kind.endswith("]"):
                before += member.offset
            else:
                hops.append(Hop(before + member.offset, not kind.endswith("*")))
                before = 0
            pointer = _STRUCT_POINTER.fullmatch(kind)
            struct = cast or (pointer[1] if pointer else None)
            continue
        offset = before + member.offset
        if _CHARS.fullmatch(kind):
            if kind.endswith("*"):
                return Fact(name, argument, (*hops, Hop(offset, False)), 0, TEXT_BYTES, is_text=True)
            return Fact(name, argument, tuple(hops), offset, min(member.size, TEXT_BYTES), is_text=True)
        if match["further"] is not None:
            return Fact(name, argument, tuple(hops), offset + int(match["further"]), POINTER_BYTES)
        if member.size not in (1, 2, 4, 8, ADDRESS_BYTES):
            return None
        return Fact(
            name, argument, tuple(hops), offset, member.size, signed=kind in _SIGNED,
            shift=member.shift, mask=member.mask,
        )  # fmt: skip
    return None


def _argument_itself(name: str, path: str, prototype: Optional[Prototype]) -> Optional[Fact]:
    match = _VALUE.fullmatch(path)
    assert match is not None, path
    if match["enum"]:
        index = None if prototype is None else prototype.index(match["enum"])
    else:
        index = int(match["argument"])
        if prototype is not None and [param.type for param in prototype.params[index : index + 1]] != [match["type"]]:
            index = None
    signed = match["type"] in _SIGNED
    return None if index is None else Fact(name, index, (), None, _VALUE_BYTES, signed=signed, mask=0xFFFFFFFF)


def _argument(struct: str, number: Optional[str], prototype: Optional[Prototype]) -> Optional[int]:
    if number is None:
        return None if prototype is None else prototype.index(f"struct {struct} *")
    if prototype is None:
        return int(number)
    params = prototype.params[int(number) : int(number) + 1]
    return int(number) if any(param.type in ("void *", f"struct {struct} *") for param in params) else None


def c_text(sets: Sequence[Sequence[Fact]]) -> str:
    """The function that reads each of the sets, with the macros of bpf/facts.h; nothing without sets."""
    if not sets:
        return ""
    lines = ["FACTS_BEGIN"]
    for number, facts in enumerate(sets, 1):
        lines.append(f"FACTS_OF({number})")
        word = 0
        for fact in facts:
            source = f"FACT_ARGUMENT({fact.argument})"
            for hop in fact.hops:
                source = f"FACT_{'REFERENCE' if hop.has_flags else 'POINTER'}({source}, {hop.offset})"
            if fact.offset is None:
                lines.append(f"FACT_VALUE({word}, {source})")
            elif fact.is_text:
                lines.append(f"FACT_TEXT({word}, {source}, {fact.offset}, {fact.size})")
            elif fact.size == ADDRESS_BYTES:
                lines.append(f"FACT_ADDRESS({word}, {source}, {fact.offset}, {fact.size})")
            else:
                lines.append(f"FACT(u{8 * fact.size}, {word}, {source}, {fact.offset})")
            word += fact.words
        lines.append(f"FACTS_DONE({word})")
    lines.append("FACTS_END")
    return "\n".join(lines) + "\n"
