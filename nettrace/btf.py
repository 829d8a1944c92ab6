"""BTF, the kernel's description of its own types: where members lie, what functions take, what enumerators are worth.

Types are read through libbpf by ctypes: it is there wherever BCC is, and it knows every
kind of BTF that the kernel of its distribution has.
"""

import ctypes
import functools
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Optional, Union

from .errors import KernelError

VMLINUX = "/sys/kernel/btf/vmlinux"

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = range(1, 9)
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO = range(9, 14)
_VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(14, 20)
_QUALIFIERS = frozenset((_VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))
# By kind: how many words follow the three that every type begins with, and how many more for each of its members.
_WORDS_BEHIND = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_WORDS_A_MEMBER = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}

_POINTER_BYTES = 8
_MAX_ERRNO = 4095

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, header's length, types and strings: offset, length
_TYPE = struct.Struct("<III")
_WORDS2 = struct.Struct("<II")


@functools.cache
def libbpf() -> ctypes.CDLL:
    """The library, loaded once; calls through it keep errno for `ctypes.get_errno`."""
    # ctypes.util.find_library runs a compiler or ldconfig: ten times as slow as the rest of this module.
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        _declare(library)
        return library
    raise KernelError(
        "libbpf is not installed", "install the package libbpf1 or libbpf0 (apt), or libbpf (dnf); BCC needs it too"
    )


def _declare(library: ctypes.CDLL) -> None:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    library.libbpf_set_print.argtypes, library.libbpf_set_print.restype = [pointer], pointer
    library.btf__new.argtypes, library.btf__new.restype = [text, number], pointer
    library.btf__find_by_name_kind.argtypes = [pointer, text, number]
    library.btf__type_by_id.argtypes, library.btf__type_by_id.restype = [pointer, number], pointer
    library.btf__name_by_offset.argtypes, library.btf__name_by_offset.restype = [pointer, number], text
    if hasattr(library, "btf__parse_split"):  # libbpf 0.3
        library.btf__parse_split.argtypes, library.btf__parse_split.restype = [text, pointer], pointer


class Member(NamedTuple):
    """Where a member of a struct lies; a bit-field's value is `(word at offset >> shift) & mask`, little-endian."""

    offset_bits: int
    size_bits: int
    is_bitfield: bool

    @property
    def offset(self) -> int:
        """In bytes; of a bit-field, the byte that holds its first bit."""
        return self.offset_bits // 8

    @property
    def size(self) -> int:
        """In bytes; of a bit-field, the smallest integer at `offset` that holds all of it."""
        covered = (self.shift + self.size_bits + 7) // 8
        return 1 << (covered - 1).bit_length() if self.is_bitfield and covered else covered

    @property
    def shift(self) -> int:
        """The first bit's place within the byte at `offset`."""
        return self.offset_bits % 8

    @property
    def mask(self) -> int:
        """As many ones as the member has bits."""
        return (1 << self.size_bits) - 1


class Param(NamedTuple):
    """A parameter of a function."""

    name: str
    type: str


@dataclass(frozen=True)
class Prototype:
    """What a function takes and returns, the types as C text without qualifiers: "struct sk_buff *"."""

    params: tuple[Param, ...]
    returns: str

    def index(self, type_text: str) -> Optional[int]:
        """The place of the first parameter of this type."""
        return next((place for place, param in enumerate(self.params) if param.type == type_text), None)


class _Type(NamedTuple):
    name: str
    kind: int
    vlen: int  # how many members, parameters, enumerators
    flag: bool
    value: int  # the size of what has one, else the type referred to
    address: int


class _Place(NamedTuple):
    offset_bits: int
    bitfield_bits: int  # 0: not a bit-field
    type_id: int


class Btf:
    """The types of the kernel, or of a module on top of them (`base`).

    Nothing is ever freed: what was loaded is of use until the process ends.
    """

    def __init__(self, handle: int, raw_types: bytes, strings: bytes, base: "Optional[Btf]") -> None:
        self._library = libbpf()
        self._handle = handle
        self._base = base
        self._strings = strings
        self._offsets: dict[bytes, Optional[int]] = {}  # of strings that were looked for; None: there is no such one
        self._raw_types = raw_types
        self._by_name = {kind: _NameOrder(raw_types, kind) for kind in (_FUNC, _TYPEDEF)}
        self._type = functools.cache(self._read_type)
        self._text = functools.cache(self._type_text)
        self._members = functools.cache(self._read_members)
        self._struct = functools.cache(self._find_struct)
        self._called = functools.cache(self._find_called)
        self._protos_with = functools.cache(self._find_protos_with)
        self._function_protos: dict[str, int] = {}  # of those that functions_with found
        self._prototypes: dict[str, Optional[Prototype]] = {}
        self._enums: dict[str, Optional[dict[str, int]]] = {}

    @classmethod
    def load(cls, path: Union[str, Path] = VMLINUX, base: "Optional[Btf]" = None) -> "Btf":
        """The BTF in a file; raises KernelError if there is none."""
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise KernelError(
                f"there is no BTF at {path}", "nettrace needs a kernel built with CONFIG_DEBUG_INFO_BTF"
            ) from None
        except OSError as error:
            raise KernelError(f"the BTF at {path} cannot be read: {error.strerror}") from None
        # libbpf 0.3 closes standard input when it is handed what is not BTF, so that is found out before.
        sections = _sections(data)
        if sections is None:
            raise KernelError(f"{path} is not BTF, or it is damaged")
        library = libbpf()
        if base is not None and not hasattr(library, "btf__parse_split"):
            raise KernelError(f"the installed libbpf cannot read the BTF of modules ({path}): it takes libbpf 0.3")
        ctypes.set_errno(0)
        # libbpf would complain on stderr; the error says it all.
        printer = library.libbpf_set_print(None)
        if base is None:
            handle = library.btf__new(data, len(data)) or 0
        else:
            handle = library.btf__parse_split(os.fsencode(path), base._handle) or 0
        library.libbpf_set_print(printer)
        # Before libbpf 1.0 a failure is a pointer into the last page of the address space, since then NULL and errno.
        errno = (1 << 64) - handle if handle else ctypes.get_errno()
        if errno <= _MAX_ERRNO:
            raise KernelError(
                f"libbpf cannot read the BTF in {path} ({os.strerror(errno)}): "
                "it is damaged, or has types that only a newer libbpf knows"
            )
        return cls(handle, *sections, base)

    @classmethod
    def from_bytes(cls, data: bytes, base: "Optional[Btf]" = None) -> "Btf":
        """The BTF in these bytes."""
        # libbpf has no public call that takes the bytes of a module's BTF.
        from tempfile import NamedTemporaryFile

        with NamedTemporaryFile(prefix="nettrace-btf-") as file:
            file.write(data)
            file.flush()
            return cls.load(file.name, base)

    def has_struct(self, name: str) -> bool:
        """Whether the kernel has a struct or union of this name."""
        return self._struct(name) is not None

    def struct_size(self, name: str) -> Optional[int]:
        """In bytes; None without such a struct."""
        type_id = self._struct(name)
        return None if type_id is None else self._type(type_id).value

    def member(self, struct: str, path: str) -> Optional[Member]:
        """Where `path` ("protocol", "__sk_common.skc_dport") lies in the struct; anonymous ones need no mention."""
        type_id = self._struct(struct)
        if type_id is None:
            return None
        place = self._place(type_id, path)
        if place is None:
            return None
        bits = place.bitfield_bits or 8 * self._size(self._bare(place.type_id))
        return Member(place.offset_bits, bits, bool(place.bitfield_bits))

    def member_type(self, struct: str, path: str) -> Optional[str]:
        """The type of such a member, as C text."""
        type_id = self._struct(struct)
        place = None if type_id is None else self._place(type_id, path)
        return None if place is None else self._text(self._bare(place.type_id))

    def _place(self, type_id: int, path: str) -> Optional[_Place]:
        """Where a member of the struct lies, from the struct's beginning."""
        offset_bits = 0
        place: Optional[_Place] = None
        for name in path.split("."):
            place = self._members(type_id).get(name)
            if place is None:
                return None
            offset_bits += place.offset_bits
            type_id = self._bare(place.type_id)
        return None if place is None else place._replace(offset_bits=offset_bits)

    def prototype(self, function: str) -> Optional[Prototype]:
        """What a function takes and returns; None if BTF does not have it."""
        if function not in self._prototypes:
            type_id = self._function_protos.get(function) or self._referred(function, _FUNC)
            self._prototypes[function] = None if type_id is None else self._prototype(type_id, skip=0)
        return self._prototypes[function]

    def function(self, name: str) -> Optional[int]:
        """The number by which the kernel knows a function's type; None if it is not described."""
        return self._find(name, _FUNC)

    def functions_with(self, type_text: str) -> dict[str, int]:
        """The functions that take a "struct x *" (or "**"), and the place of the first such parameter.

        Of a module's BTF these are the module's own functions.
        """
        protos = self._protos_with(type_text)
        found = {}
        for _, at in self._walk.types(_FUNC):
            proto = self._walk.words[at + 2]
            if proto in protos:
                name = self._string(self._walk.words[at])
                found[name] = protos[proto]
                self._function_protos[name] = proto
        return found

    def tracepoint(self, name: str) -> Optional[Prototype]:
        """What a tracepoint hands to its probes."""
        pointer = self._referred(f"btf_trace_{name}", _TYPEDEF)
        if pointer is None or self._type(pointer).kind != _PTR:
            return None
        # The first parameter, void *__data, belongs to the tracing machinery.
        return self._prototype(self._type(pointer).value, skip=1)

    def enum(self, name: str) -> Optional[dict[str, int]]:
        """The enumerators of a named enum."""
        if name not in self._enums:
            self._enums[name] = self._read_enum(name)
        return self._enums[name]

    def enum_value(self, enum_name: str, value_name: str) -> Optional[int]:
        """What an enumerator of a named enum is worth; None if there is no such one."""
        return (self.enum(enum_name) or {}).get(value_name)

    def _find(self, name: str, kind: int) -> Optional[int]:
        type_id: int = self._library.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return type_id if type_id > 0 else None

    def _find_struct(self, name: str) -> Optional[int]:
        return self._find(name, _STRUCT) or self._find(name, _UNION)

    def _referred(self, name: str, kind: int) -> Optional[int]:
        """What the function or typedef called `name` refers to.

        libbpf looks at every type for this, unless they are sorted by name (new in Linux 7.0 and
        libbpf 1.7): too slow for the hundreds of functions that a run asks for.
        """
        offset = self._string_offset(name)
        if offset is None:
            return None
        type_id = self._by_name[kind].find(offset)
        if type_id is None:
            found = self._find(name, kind)
            type_id = None if found is None else self._type(found).value
        return type_id

    def expect(self, names: Iterable[str]) -> None:
        """Finds all these names in one go, so that to ask for them later one by one is fast."""
        wanted = {name.encode() for name in names}
        self._offsets.update(dict.fromkeys(wanted))
        at = 0 if self._base is None else len(self._base._strings)
        for string in self._strings.split(b"\0"):
            if string in wanted:
                self._offsets[string] = at
            at += len(string) + 1

    def _string_offset(self, name: str) -> Optional[int]:
        encoded = name.encode()
        if encoded not in self._offsets:
            self._offsets[encoded] = self._find_string(encoded)
        offset = self._offsets[encoded]
        return offset if offset is not None or self._base is None else self._base._string_offset(name)

    def _find_string(self, name: bytes) -> Optional[int]:
        base = 0 if self._base is None else len(self._base._strings)
        # Every string ends with a NUL, and the first one of a kernel is empty.
        if base and self._strings.startswith(name + b"\0"):
            return base
        at = self._strings.find(b"\0" + name + b"\0")
        return base + at + 1 if at >= 0 else None

    def _read_type(self, type_id: int) -> _Type:
        if type_id == 0:
            return _Type("void", 0, 0, False, 0, 0)
        address = self._library.btf__type_by_id(self._handle, type_id)
        if not address:
            raise KernelError(f"BTF refers to type {type_id}, which it does not have")
        name, info, value = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return _Type(self._name(name), info >> 24 & 31, info & 0xFFFF, bool(info >> 31), value, address + _TYPE.size)

    def _name(self, offset: int) -> str:
        name: Optional[bytes] = self._library.btf__name_by_offset(self._handle, offset)
        return (name or b"").decode("ascii", "replace")

    def _bare(self, type_id: int) -> int:
        """The type behind typedefs and qualifiers."""
        kind = self._type(type_id)
        while kind.kind == _TYPEDEF or kind.kind in _QUALIFIERS:
            type_id = kind.value
            kind = self._type(type_id)
        return type_id

    def _size(self, type_id: int) -> int:
        kind = self._type(self._bare(type_id))
        if kind.kind == _PTR:
            return _POINTER_BYTES
        if kind.kind == _ARRAY:
            element, _, count = _TYPE.unpack(ctypes.string_at(kind.address, _TYPE.size))
            return int(count) * self._size(element)
        return kind.value if kind.kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT) else 0

    def _read_members(self, type_id: int) -> dict[str, _Place]:
        """The members of a struct, those of its anonymous structs and unions among them."""
        outer = self._type(type_id)
        if outer.kind not in (_STRUCT, _UNION):
            return {}
        members: dict[str, _Place] = {}
        raw = ctypes.string_at(outer.address, outer.vlen * _TYPE.size)
        for name_offset, member_type, where in _TYPE.iter_unpack(raw):
            offset, bitfield = (where & 0xFFFFFF, where >> 24) if outer.flag else (where, 0)
            name = self._name(name_offset)
            if name:
                members.setdefault(name, _Place(offset, bitfield, member_type))
                continue
            for inner, place in self._members(self._bare(member_type)).items():
                members.setdefault(inner, place._replace(offset_bits=offset + place.offset_bits))
        return members

    def _prototype(self, type_id: int, skip: int) -> Optional[Prototype]:
        proto = self._type(type_id)
        if proto.kind != _FUNC_PROTO:
            return None
        params = self._params(proto)[skip:]
        return Prototype(tuple(params), self._text(proto.value))

    def _params(self, proto: _Type) -> list[Param]:
        raw = ctypes.string_at(proto.address, proto.vlen * _WORDS2.size)
        # A last parameter without name and type stands for "...".
        return [
            Param(self._name(name), self._text(kind) if name or kind else "...")
            for name, kind in _WORDS2.iter_unpack(raw)
        ]

    def _type_text(self, type_id: int) -> str:
        kind = self._type(type_id)
        if kind.kind in _QUALIFIERS:
            return self._text(kind.value)
        if kind.kind == _PTR:
            target = self._text(kind.value)
            if self._type(kind.value).kind == _FUNC_PROTO:
                return target.replace(" (", " (*)(", 1)
            if target.endswith(")"):  # a pointer to a pointer to a function
                return target.replace("(*", "(**", 1)
            return target + "*" if target.endswith("*") else target + " *"
        if kind.kind == _FUNC_PROTO:
            return f"{self._text(kind.value)} ({', '.join(param.type for param in self._params(kind)) or 'void'})"
        if kind.kind == _ARRAY:
            element, _, count = _TYPE.unpack(ctypes.string_at(kind.address, _TYPE.size))
            return f"{self._text(element)}[{count}]"
        words = {_STRUCT: "struct ", _UNION: "union ", _ENUM: "enum ", _ENUM64: "enum "}
        word = ("union " if kind.flag else "struct ") if kind.kind == _FWD else words.get(kind.kind, "")
        return word + (kind.name or "{...}")

    @functools.cached_property
    def _walk(self) -> "_Walk":
        return _Walk(self._raw_types, 1 if self._base is None else self._base._walk.end_id)

    def _find_called(self, type_text: str) -> frozenset[int]:
        """The types of this text, qualified or not; those of the base among them."""
        walk = self._walk
        if type_text.endswith("*"):
            targets = self._called(type_text[:-1].rstrip())
            found = {type_id for type_id, at in walk.types(_PTR) if walk.words[at + 2] in targets}
        else:
            name = self._string_offset(type_text[len("struct ") :])
            found = {type_id for type_id, at in walk.types(_STRUCT, _FWD) if walk.words[at] == name}
        if self._base is not None:
            found |= self._base._called(type_text)
        more = found
        while more:
            more = {type_id for type_id, at in walk.types(*_QUALIFIERS) if walk.words[at + 2] in more} - found
            found = found | more
        return frozenset(found)

    def _find_protos_with(self, type_text: str) -> dict[int, int]:
        """The prototypes that have a parameter of the type, and its place; the base's among them."""
        wanted = self._called(type_text)
        words = self._walk.words
        found = {} if self._base is None else dict(self._base._protos_with(type_text))
        for type_id, at in self._walk.types(_FUNC_PROTO):
            params = words[at + 4 : at + 3 + 2 * (words[at + 1] & 0xFFFF) : 2].tolist()
            if not wanted.isdisjoint(params):
                found[type_id] = next(place for place, param in enumerate(params) if param in wanted)
        return found

    def _string(self, offset: int) -> str:
        if self._base is not None:
            if offset < len(self._base._strings):
                return self._base._string(offset)
            offset -= len(self._base._strings)
        return self._strings[offset : self._strings.index(0, offset)].decode("ascii", "replace")

    def _read_enum(self, name: str) -> Optional[dict[str, int]]:
        type_id = self._find(name, _ENUM)
        if type_id is not None:
            kind = self._type(type_id)
            words = struct.Struct("<Ii" if kind.flag else "<II")
            raw = ctypes.string_at(kind.address, kind.vlen * words.size)
            return {self._name(entry): value for entry, value in words.iter_unpack(raw)}
        type_id = self._find(name, _ENUM64)
        if type_id is None:
            return None
        kind = self._type(type_id)
        raw = ctypes.string_at(kind.address, kind.vlen * _TYPE.size)
        sign = 1 << 63 if kind.flag else 0
        return {self._name(entry): ((high << 32 | low) ^ sign) - sign for entry, low, high in _TYPE.iter_unpack(raw)}


def _sections(data: bytes) -> Optional[tuple[bytes, bytes]]:
    """The types and the strings in a BTF blob of this machine's byte order."""
    if len(data) < _HEADER.size:
        return None
    magic, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
    if magic != _MAGIC or header + max(types + types_size, strings + strings_size) > len(data):
        return None
    return data[header + types :][:types_size], data[header + strings :][:strings_size]


class _Walk:
    """Where each type of a blob is, found by going through all of them once.

    To ask libbpf for one after the other would take seconds.
    """

    def __init__(self, types: bytes, first_id: int) -> None:
        self.words = memoryview(types).cast("I")
        self._types: dict[int, list[tuple[int, int]]] = {kind: [] for kind in range(_ENUM64 + 1)}
        words, by_kind = self.words, self._types
        sizes = {kind: 3 + _WORDS_BEHIND.get(kind, 0) for kind in by_kind}
        at, end, type_id = 0, len(words), first_id
        while at < end:
            info = words[at + 1]
            kind = info >> 24 & 31
            if kind not in sizes:
                raise KernelError(f"the kernel's BTF has types of a kind that nettrace does not know ({kind})")
            by_kind[kind].append((type_id, at))
            at += sizes[kind]
            if kind in _WORDS_A_MEMBER:
                at += _WORDS_A_MEMBER[kind] * (info & 0xFFFF)
            type_id += 1
        self.end_id = type_id

    def types(self, *kinds: int) -> Iterator[tuple[int, int]]:
        """The number of each type of these kinds, and where its first word is."""
        return chain.from_iterable(self._types[kind] for kind in kinds)


class _NameOrder:
    """Finds a function (or typedef) in BTF's raw types by where its name is among the strings.

    Compilers and pahole store the names in the order of the types that use them first, so a few
    samples tell where a type must be. A name that an earlier type of another kind had is not
    found, nor is any in types that were shuffled since: nothing but time is lost.
    """

    _BLOCK_BYTES = 16384
    _SAMPLES = 5

    def __init__(self, types: bytes, kind: int) -> None:
        self._types = types
        # The second word of such a type: no members, no flag; functions of the kernel are all "static".
        self._second_word = (kind << 24).to_bytes(4, "little")

    def find(self, name_offset: int) -> Optional[int]:
        """The type that the type of this name refers to, or None if it is not where the samples say."""
        block = bisect_right(self._offsets, name_offset)
        start, end = max(block - 2, 0) * self._BLOCK_BYTES, (block + 1) * self._BLOCK_BYTES
        at = self._types.find(name_offset.to_bytes(4, "little") + self._second_word, start, end)
        if at < 0 or at % 4:
            return None
        return int.from_bytes(self._types[at + 8 : at + 12], "little")

    @functools.cached_property
    def _offsets(self) -> list[int]:
        """For each block of types, a name offset that its first types of the kind have, rising."""
        offsets = [0]
        for start in range(0, len(self._types), self._BLOCK_BYTES):
            samples = sorted(islice(self._names(start, start + self._BLOCK_BYTES), self._SAMPLES))
            # The middle one: a name used before is too low, and other data may look like such a type.
            offsets.append(max(offsets[-1], samples[len(samples) // 2] if samples else 0))
        return offsets[1:]

    def _names(self, start: int, end: int) -> Iterator[int]:
        at = self._types.find(self._second_word, start + 4, end)
        while at >= 0:
            if at % 4 == 0:
                yield int.from_bytes(self._types[at - 4 : at], "little")
            at = self._types.find(self._second_word, at + 1, end)
