"""The facts of one kernel, from /proc and /sys, read when first asked for and then kept.

Whether a kernel can do something is answered by looking for the thing, never by its version.
"""

import functools
import os
import re
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Optional

from . import layouts
from .btf import Btf, Prototype
from .errors import KernelError
from .layouts import Types

_TEXT = b"tTwW"  # what nm calls functions, local and global, weak ones too
_DATA = b"dDbBrR"  # and data: with a value from the start, without, not to be changed
_ADDRESS_END = 16
_TYPE_AT = 17
_NAME_AT = 19
_HIDDEN_ADDRESS = b"0" * _ADDRESS_END
# The suffixes of a function that the compiler changed but left whole; .part and .cold are pieces of one.
_RENAMED = re.compile(rb"(?:\.(?:isra|constprop|llvm|lto_priv)\.[0-9]+)+")
_PIECE = re.compile(rb"\.(?:part|cold)\b")
_NO_MODULES = frozenset((b"bpf", b"__builtin__ftrace", b"__builtin__kprobes"))
# See clock_getres(2); Python's time module does not name it.
_CLOCK_MONOTONIC_COARSE = 6
# No function is this long: an address this far behind a symbol lies outside of all functions.
_FUNCTION_BYTES_MAX = 1 << 20
_LAST_BYTES_MAX = 1 << 12

_FIELD = re.compile(r"\tfield:(?P<declaration>[^;]+);\toffset:(\d+);\tsize:(\d+);(?:\tsigned:([01]);)?")
_EVENT_ID = re.compile(r"^ID: ([0-9]+)$", re.MULTILINE)
_SYMBOLIC = re.compile(r'__print_symbolic\(REC->(\w+), ((?:\{ [^{}"]+, "[^"]*" \}(?:, )?)+)\)')
_SYMBOLIC_PAIR = re.compile(r'\{ ([^{}"]+), "([^"]*)" \}')

# Subsystems that number reasons of their own since Linux commit 071c0fc6fb91 (6.4): where their enums are.
_SUBSYSTEM_PREFIX = "SKB_DROP_REASON_SUBSYS_"
_SUBSYSTEM_ENUMS = {
    "MAC80211_UNUSABLE": ("mac80211", "mac80211_drop_reason"),
    "MAC80211_MONITOR": ("mac80211", "mac80211_drop_reason"),
    "OPENVSWITCH": ("openvswitch", "ovs_drop_reason"),
    "QDISC": ("", "qdisc_drop_reason"),
}

# Bits of a process's capabilities, as far as nettrace has a use for them.
_CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24,
    "CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39,
}  # fmt: skip
# The number of the user namespace that the kernel begins with.
_FIRST_USER_NAMESPACE = "user:[4026531837]"

# Why a function cannot be probed of which the kernel knows nothing.
ABSENT = "no such function, or inlined, or in a module that is not loaded"


class Symbol(NamedTuple):
    """A function, and how far into it an address is."""

    name: str
    offset: int
    size: Optional[int]  # up to the next function; None where that is not known
    module: str  # empty: the kernel itself


class Symbols:
    """The functions in /proc/kallsyms."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._lines: dict[bytes, bytes] = {}
        self._ambiguous: set[bytes] = set()
        self._modules: dict[bytes, str] = {}
        self._others: list[bytes] = []  # lines whose names cannot be asked for
        # The kernel's own symbols come first, and are many: they are not split up further than needed.
        tab = data.find(b"\t[")
        modules_at = len(data) if tab < 0 else data.rfind(b"\n", 0, tab) + 1
        lines, ambiguous = self._lines, self._ambiguous
        for line in data[:modules_at].splitlines():
            if line[_TYPE_AT] in _TEXT:
                name = line[_NAME_AT:]
                if name in lines:
                    ambiguous.add(name)
                    self._others.append(line)
                else:
                    lines[name] = line
        for line in data[modules_at:].splitlines():
            if line[_TYPE_AT] in _TEXT:
                name, _, module = line[_NAME_AT:].partition(b"\t[")
                if module[:-1] in _NO_MODULES or name in lines:
                    self._others.append(line)
                    if module[:-1] not in _NO_MODULES:
                        ambiguous.add(name)
                else:
                    lines[name] = line
                    self._modules[name] = module[:-1].decode()

    @functools.cached_property
    def hidden(self) -> bool:
        """Whether the kernel shows no addresses (to this user, or to all: kernel.kptr_restrict), or no symbols."""
        return all(line.startswith(_HIDDEN_ADDRESS) for line in self._lines.values())

    def address(self, name: str) -> Optional[int]:
        """Where a function begins; None if there is none of exactly this name or addresses are hidden."""
        line = self._lines.get(name.encode())
        return None if line is None else int(line[:_ADDRESS_END], 16) or None

    def data_address(self, name: str) -> Optional[int]:
        """Where the kernel's variable of this name lies; None as for `address`."""
        behind = b" %s\n" % name.encode()
        end = self._data.find(behind)
        while end >= 0:
            if self._data[end - 1] in _DATA:
                return int(self._data[end - 2 - _ADDRESS_END : end - 2], 16) or None
            end = self._data.find(behind, end + 1)
        return None

    def module(self, name: str) -> str:
        """The module that a function is in; empty: in the kernel itself, or there is no such function."""
        return self._modules.get(name.encode(), "")

    def resolve(self, name: str) -> Optional[str]:
        """The symbol of a function: its name, or what the compiler made of it (name.isra.0, name.constprop.0)."""
        if name.encode() in self._lines:
            return name
        return self._renamed.get(name)

    def is_inlined(self, name: str) -> bool:
        """Whether the compiler left no more of a function than pieces: the rest is in its callers."""
        return self.resolve(name) is None and name in self._in_pieces

    def is_ambiguous(self, name: str) -> bool:
        """Whether several functions have exactly this name.

        A kprobe on such a name is refused since Linux commit b022f0c7e404 (6.7), and before it
        hits the first of them.
        """
        return name.encode() in self._ambiguous

    def lookup(self, address: int) -> Optional[Symbol]:
        """The function that contains an address."""
        table = self._by_address
        # A space follows the address in a line: anything above it sorts behind all lines of this address.
        end = bisect_right(table, b"%016x~" % address)
        if end == 0 or self.hidden:
            return None
        start = int(table[end - 1][:_ADDRESS_END], 16)
        # Of several names of one place, the first one, as the kernel does.
        first = end - 1
        while first > 0 and table[first - 1][:_ADDRESS_END] == table[end - 1][:_ADDRESS_END]:
            first -= 1
        name, module = _name_and_module(table[first])
        size = None
        if end < len(table) and _name_and_module(table[end])[1] == module:
            size = int(table[end][:_ADDRESS_END], 16) - start
        # The last function of a module has no end here: what is far behind it may be of another that came later.
        if address - start >= (_FUNCTION_BYTES_MAX if size is not None or not module else _LAST_BYTES_MAX):
            return None
        return Symbol(name, address - start, size, module)

    @functools.cached_property
    def _by_address(self) -> list[bytes]:
        # Addresses have a fixed width, so that the lines sort as the numbers do.
        return sorted([*self._lines.values(), *self._others], key=itemgetter(slice(_ADDRESS_END)))

    @functools.cached_property
    def _renamed(self) -> dict[str, str]:
        renamed: dict[str, str] = {}
        # ord("."), for looking for a byte in bytes is ten times as fast as looking for bytes.
        for symbol in sorted([name for name in self._lines if 46 in name]):
            name, dot, suffixes = symbol.partition(b".")
            if name and _RENAMED.fullmatch(dot + suffixes):
                renamed.setdefault(name.decode(), symbol.decode())
        return renamed

    @functools.cached_property
    def _in_pieces(self) -> frozenset[str]:
        return frozenset(
            name.partition(b".")[0].decode() for name in self._lines if 46 in name and _PIECE.search(name) is not None
        )


def _name_and_module(line: bytes) -> tuple[str, str]:
    name, _, module = line[_NAME_AT:].partition(b"\t[")
    return name.decode("ascii", "replace"), module[:-1].decode("ascii", "replace")


class Field(NamedTuple):
    """A field of a tracepoint's record."""

    type: str
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True)
class Tracepoint:
    """A tracepoint's `format` file: its fields, and the names of values where it prints names."""

    fields: Mapping[str, Field]
    symbolic: Mapping[str, Mapping[int, str]]
    number: int = 0  # perf knows it by this

    @classmethod
    def parse(cls, text: str) -> "Tracepoint":
        """From the text of a `format` file."""
        fields = {}
        for found in _FIELD.finditer(text):
            declaration, offset, size, signed = found.groups()
            kind, _, name = declaration.rpartition(" ")
            name, bracket, length = name.partition("[")
            fields[name] = Field(kind + bracket + length, int(offset), int(size), signed == "1")
        symbolic: dict[str, Mapping[int, str]] = {}
        for found in _SYMBOLIC.finditer(text):
            pairs = _SYMBOLIC_PAIR.findall(found[2])
            symbolic[found[1]] = {int(value, 0): name for value, name in pairs if _is_number(value)}
        number = _EVENT_ID.search(text)
        return cls(fields, symbolic, int(number[1]) if number else 0)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?(?:0[xX][0-9a-fA-F]+|[1-9][0-9]*|0)", text) is not None


@dataclass(frozen=True)
class Features:
    """What this kernel can do."""

    kprobes: bool
    ringbuf: bool
    kprobe_multi: bool  # one call attaches a program to many functions
    drop_reasons: bool
    module_btf: bool
    tracing: bool  # fentry and fexit


class FunctionType(NamedTuple):
    """By what the kernel knows a function's type."""

    number: int
    module: str  # whose types it is of; empty: the kernel's own


class Kernel:
    """The running kernel, or what `root` holds of one; btf: a file with its types, if the kernel has none itself."""

    def __init__(self, root: Path = Path("/"), btf: Optional[Path] = None) -> None:
        self._root = root
        self.given_btf = btf
        self._btf = btf or root / "sys/kernel/btf/vmlinux"
        self._module_btf: dict[str, Optional[Btf]] = {}
        self._modules: Optional[str] = None  # that were loaded when the symbols were read
        self._tracepoints: dict[str, Optional[Tracepoint]] = {}

    @functools.cached_property
    def release(self) -> str:
        """As `uname -r` says it; nothing is decided by it."""
        return (self._read("proc/sys/kernel/osrelease") or "unknown").strip()

    @property
    def boot(self) -> bytes:
        """Changes with all that is found out here: when the host boots, a module comes or goes, or more is hidden.

        Empty: the kernel does not tell, or keeps so much to itself that each run is to be looked at.
        """
        boot = self._read("proc/sys/kernel/random/boot_id")
        if boot is None or self.lockdown == "confidentiality":
            return b""
        modules = [line.split() for line in (self._read("proc/modules") or "").splitlines()]
        places = [f"{words[0]} {words[5]}" for words in modules if len(words) > 5]  # name and address
        settings = [self.sysctl(f"kernel.{name}") for name in ("kptr_restrict", "perf_event_paranoid")]
        rights = sorted(self.capabilities)
        return repr((boot, self.lockdown, self.tracefs, self.probing_off, settings, rights, places)).encode()

    @functools.cached_property
    def btf(self) -> Btf:
        """The kernel's types; raises KernelError if it does not describe them."""
        return Btf.load(self._btf)

    def module_btf(self, module: str) -> Optional[Btf]:
        """A module's types; None where it is not loaded or describes none (before Linux 5.11: 36e68442d1af)."""
        if module not in self._module_btf:
            path = self._root / "sys/kernel/btf" / module
            try:
                self._module_btf[module] = Btf.load(path, self.btf) if path.exists() else None
            except KernelError:
                # Built for another kernel, or beyond this libbpf: the kernel's own types must do.
                self._module_btf[module] = None
        return self._module_btf[module]

    def function_at(self, address: int) -> Optional[Symbol]:
        """The function that contains an address, also of a module that came later."""
        found = self.symbols.lookup(address)
        modules = self._read("proc/modules")
        if found is None and modules != self._modules:
            self._modules = modules
            del self.symbols
            found = self.symbols.lookup(address)
        return found

    def anew(self) -> "Kernel":
        """The same kernel, to be asked for what it is by now."""
        return Kernel(self._root, self.given_btf)

    def object_bytes(self, cache: str) -> Optional[int]:
        """How large the objects of one of its caches of memory are; None where it does not say."""
        text = self._read(f"sys/kernel/slab/{cache}/object_size") or ""
        return int(text) if text.strip().isdigit() else None

    def modules(self) -> frozenset[str]:
        """The names of the modules that are loaded now."""
        return frozenset(line.partition(" ")[0] for line in (self._read("proc/modules") or "").splitlines())

    @functools.cached_property
    def symbols(self) -> Symbols:
        """The kernel's functions and their addresses."""
        self._modules = self._modules or self._read("proc/modules")
        try:
            return Symbols((self._root / "proc/kallsyms").read_bytes())
        except OSError:
            return Symbols(b"")

    def prototype(self, function: str) -> Optional[Prototype]:
        """What a function of the kernel or of a loaded module takes and returns."""
        # BTF has the name that the programmer gave.
        name = function.partition(".")[0]
        prototype = self.btf.prototype(name)
        if prototype is None:
            module = self.symbols.module(self.symbols.resolve(function) or "")
            types = self.module_btf(module) if module else None
            prototype = None if types is None else types.prototype(name)
        return prototype

    def function_type(self, function: str) -> Optional[FunctionType]:
        """By what the kernel knows a function's type; None if it does not."""
        module = self.symbols.module(function)
        types = self.module_btf(module) if module else self.btf
        number = None if types is None else types.function(function)
        return None if number is None else FunctionType(number, module)

    def types_of(self, function: str) -> Types:
        """The types that a function of the kernel or of a loaded module is compiled with, as far as they are known."""
        module = self.symbols.module(self.symbols.resolve(function) or "")
        if not module:
            return self.btf
        return self.module_btf(module) or layouts.of_module(module, self.btf) or self.btf

    def return_type(self, function: str) -> Optional[str]:
        """What a function returns, as C text; None where BTF does not tell."""
        prototype = self.prototype(function)
        return None if prototype is None else prototype.returns

    def functions_with(self, type_text: str) -> Mapping[str, int]:
        """The functions, those of loaded modules too, that take a "struct x *", and the place of that parameter."""
        found: dict[str, int] = {}
        for module in sorted(self._list("sys/kernel/btf")):
            types = None if module == "vmlinux" else self.module_btf(module)
            if types is not None:
                found.update(types.functions_with(type_text))
        # Of a name that both have, the kernel's, as in prototype().
        return {**found, **self.btf.functions_with(type_text)}

    def obstacle(self, function: str) -> Optional[str]:
        """Why a function cannot be probed, in a few words; None if nothing speaks against it."""
        symbol = self.symbols.resolve(function)
        if symbol is None:
            if self.symbols.is_inlined(function) or self.btf.prototype(function) is not None:
                return "inlined or left out by the compiler"
            return ABSENT
        if self.symbols.is_ambiguous(symbol):
            return f"several functions of this kernel are called {symbol}"
        if symbol in self.kprobe_blacklist:
            return "not to be probed, says the kernel (kprobe blacklist)"
        # ftrace cannot attach to others, and kprobes are refused since Linux commit 45408c4f9250 (4.19).
        if self.traceable_known and symbol not in self.traceable:
            return "not to be traced, says the kernel (notrace, or declared inline)"
        return None

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:
        """What this process may do, as far as nettrace has a use for it; in a user namespace, nothing of that."""
        namespace = self._root / "proc/self/ns/user"
        if os.path.islink(namespace) and os.readlink(namespace) != _FIRST_USER_NAMESPACE:
            return frozenset()
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", self._read("proc/self/status") or "", re.MULTILINE)
        mask = int(found[1], 16) if found else 0
        return frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1)

    def sysctl(self, name: str) -> Optional[str]:
        """The value of a setting, "kernel.kptr_restrict"; None: there is no such one, or it may not be read."""
        text = self._read("proc/sys/" + name.replace(".", "/"))
        return None if text is None else text.strip()

    @functools.cached_property
    def tracefs(self) -> Optional[Path]:
        """Where the tracing file system is mounted."""
        for place in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
            path = self._root / place
            if os.path.isdir(path / "events"):
                return path
        return None

    @property
    def tracefs_closed(self) -> bool:
        """Whether there is a tracing file system that this process may not look into."""
        places = (self._root / "sys/kernel/tracing", self._root / "sys/kernel/debug")
        return self.tracefs is None and any(map(_is_closed, places))

    @property
    def debugfs_readable(self) -> bool:
        """Whether the kernel's notes on kprobes can be read."""
        return self._read("sys/kernel/debug/kprobes/blacklist") is not None

    @property
    def probing_off(self) -> Sequence[str]:
        """By what the probing of functions is switched off, each as the command that switches it on."""
        off = []
        if self.sysctl("kernel.ftrace_enabled") == "0":
            off.append("sysctl kernel.ftrace_enabled=1")
        if (self._read("sys/kernel/debug/kprobes/enabled") or "").strip() == "0":
            off.append("echo 1 > /sys/kernel/debug/kprobes/enabled")
        return off

    @property
    def is_realtime(self) -> bool:
        """Whether it is built with PREEMPT_RT."""
        return (self._read("sys/kernel/realtime") or "").strip() == "1"

    @property
    def selinux_judges_lockdown(self) -> bool:
        """Whether SELinux is on, with a policy that says who may read the kernel's memory."""
        return self._exists("sys/fs/selinux/class/lockdown")

    def tracepoint(self, name: str) -> Optional[Tracepoint]:
        """The layout of a tracepoint, "skb:kfree_skb"; None if the kernel has no such one."""
        if name not in self._tracepoints:
            text = self._read_tracefs("events", *name.split(":", 1), "format")
            self._tracepoints[name] = None if text is None else Tracepoint.parse(text)
        return self._tracepoints[name]

    @functools.cached_property
    def traceable(self) -> frozenset[str]:
        """The functions that ftrace can follow; empty where the kernel does not say (see traceable_known)."""
        text = self._read_tracefs("available_filter_functions") or ""
        return frozenset(word for word in text.split() if word[0] != "[")

    @property
    def traceable_known(self) -> bool:
        """Whether the kernel said which functions ftrace can follow."""
        return bool(self.traceable)

    @functools.cached_property
    def kprobe_blacklist(self) -> frozenset[str]:
        """The functions that the kernel refuses to probe, as far as it says."""
        text = self._read("sys/kernel/debug/kprobes/blacklist") or ""
        return frozenset(line.split()[1] for line in text.splitlines() if len(line.split()) > 1)

    @functools.cached_property
    def drop_reasons(self) -> Mapping[int, str]:
        """Why the kernel drops packets: its own reasons (Linux commit c504e5c2f964, 5.17), or none."""
        values = self._enum("", "skb_drop_reason")
        if values:
            return {
                value: name[len("SKB_DROP_REASON_") :] if name.startswith("SKB_DROP_REASON_") else name[len("SKB_") :]
                for name, value in values.items()
                if name not in ("SKB_DROP_REASON_MAX", "SKB_DROP_REASON_SUBSYS_MASK")
            }
        tracepoint = self.tracepoint("skb:kfree_skb")
        named = {} if tracepoint is None else tracepoint.symbolic.get("reason", {})
        return {value: name for value, name in named.items() if name != "MAX"}

    def drop_reason(self, value: int) -> str:
        """A reason's name: "NO_SOCKET", a subsystem's own "OVS_DROP_METER", else "OPENVSWITCH:3" or the number."""
        return self.drop_reasons.get(value) or self._subsystem_reason(value)

    @functools.cached_property
    def drop_reason_numbers(self) -> Mapping[str, int]:
        """The reasons by name: the kernel's own, and those of subsystems whose modules are loaded."""
        numbers = {name: value for value, name in self.drop_reasons.items()}
        for module, enum in dict.fromkeys(_SUBSYSTEM_ENUMS.values()):
            for name, value in self._enum(module, enum).items():
                numbers.setdefault(name, value)
        return numbers

    def enum_names(self, enum_name: str) -> Mapping[int, str]:
        """The enumerators of one of the kernel's enums by what they are worth; nothing without such an enum."""
        names: dict[int, str] = {}
        for name, value in self._enum("", enum_name).items():
            names.setdefault(value, name)
        return names

    @property
    def has_kprobes(self) -> bool:
        """Whether functions can be probed at all."""
        return self._exists("sys/bus/event_source/devices/kprobe/type") or (
            self.tracefs is not None and os.path.exists(self.tracefs / "kprobe_events")
        )

    @functools.cached_property
    def features(self) -> Features:
        """What this kernel can do."""
        return Features(
            kprobes=self.has_kprobes,
            ringbuf=self.btf.enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF") is not None,
            # Linux commit 0dcac2725406 (5.18) added it; a kernel without CONFIG_FPROBE has all of it but what
            # it stands on, and refuses every link.
            kprobe_multi=self.btf.enum_value("bpf_attach_type", "BPF_TRACE_KPROBE_MULTI") is not None
            and self.symbols.resolve("register_fprobe_ips") is not None,
            drop_reasons=bool(self.drop_reasons),
            module_btf=any(name != "vmlinux" for name in self._list("sys/kernel/btf")),
            # Linux commit fec56f5890d9 (5.5).
            tracing=self.btf.enum_value("bpf_attach_type", "BPF_TRACE_FEXIT") is not None,
        )

    @functools.cached_property
    def tick_ns(self) -> int:
        """How long a jiffy is: CONFIG_HZ, as the clock tells that goes by ticks."""
        return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1_000_000_000)

    @functools.cached_property
    def lockdown(self) -> str:
        """What the kernel keeps even from root: "none", "integrity", "confidentiality"; empty: it knows no lockdown."""
        found = re.search(r"\[(\w+)\]", self._read("sys/kernel/security/lockdown") or "")
        return found[1] if found else ""

    def _subsystem_reason(self, value: int) -> str:
        subsystems = self._enum("", "skb_drop_reason_subsys")
        for enumerator, number in subsystems.items():
            subsystem = enumerator[len(_SUBSYSTEM_PREFIX) :]
            if number != value >> 16 or number == 0 or subsystem == "NUM":
                continue
            for name, reason in self._enum(*_SUBSYSTEM_ENUMS.get(subsystem, ("", ""))).items():
                if reason == value:
                    return name
            return f"{subsystem}:{value & 0xFFFF}"
        return str(value)

    def _enum(self, module: str, name: str) -> Mapping[str, int]:
        types = self.module_btf(module) if module else self.btf
        return {} if types is None or not name else types.enum(name) or {}

    def _read_tracefs(self, *names: str) -> Optional[str]:
        return None if self.tracefs is None else _read(self.tracefs.joinpath(*names))

    def _read(self, path: str) -> Optional[str]:
        return _read(self._root / path)

    def _exists(self, path: str) -> bool:
        return os.path.exists(self._root / path)

    def _list(self, path: str) -> list[str]:
        try:
            return os.listdir(self._root / path)
        except OSError:
            return []


def _is_closed(folder: Path) -> bool:
    # os.access goes by the real user, whatever capabilities the process has.
    try:
        os.scandir(folder).close()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _read(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
