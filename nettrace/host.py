"""What the numbers in events stand for on a host: asked of it while it runs, remembered, and read from a recording."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Protocol

from .diagnosis import Finding
from .event import Context
from .kernel import Symbol

if TYPE_CHECKING:
    from .evidence import Evidence

# How many answers of a kind are remembered, the latest ones.
ANSWERS_MAX = 16384

Key = Any  # what JSON can write: a number, a text, or a list of them


class Traced(NamedTuple):
    """A trace of a run."""

    name: str
    group: str
    role: Optional[str]
    desc: str
    function: Optional[str]  # the kernel's, None for a tracepoint


class Host(Protocol):
    """All that text and findings need to know beyond the events."""

    @property
    def own_netns(self) -> int:
        """The inode of the namespace that nettrace ran in."""

    @property
    def tick_ns(self) -> int:
        """How long a jiffy is."""

    def symbol(self, address: int) -> Optional[Symbol]:
        """The function at an address."""

    def drop_reason(self, number: int) -> str:
        """The name of a reason to drop a packet."""

    def enum_names(self, enum: str) -> Mapping[int, str]:
        """The names of an enum's values."""

    def return_type(self, function: str) -> Optional[str]:
        """The C type that a function returns."""

    def netns(self, inode: int) -> Optional[str]:
        """The name of a namespace."""

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        """The process that has a socket open, as name and number."""

    def evidence(self, finding: Finding, context: Context) -> "Sequence[Evidence]":
        """What there is to prove a finding."""


class Answers:
    """What was answered so far, by kind and key; of each kind the latest, and no more than there is room for."""

    def __init__(self) -> None:
        # OrderedDict, because taking the first key of a dict again and again scans the holes before it.
        self._kinds: dict[str, OrderedDict[Key, Any]] = {}

    def __contains__(self, asked: tuple[str, Key]) -> bool:
        return asked[1] in self._kinds.get(asked[0], ())

    def get(self, kind: str, key: Key, unknown: Any = None) -> Any:
        """The answer; `unknown` where there is none."""
        answers = self._kinds.get(kind)
        return unknown if answers is None else answers.get(key, unknown)

    def put(self, kind: str, key: Key, answer: Any) -> None:
        """Takes over an answer; which ones make room for it depends on nothing but what was put here."""
        answers = self._kinds.setdefault(kind, OrderedDict())
        if key not in answers and len(answers) >= ANSWERS_MAX:
            answers.popitem(last=False)
        answers[key] = answer

    def all(self) -> list[tuple[str, Key, Any]]:
        """All of them."""
        return [(kind, key, answer) for kind, answers in self._kinds.items() for key, answer in answers.items()]


_UNKNOWN = object()


class Asking:
    """What all hosts have in common that ask another one."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def own_netns(self) -> int:
        """See Host."""
        return self._host.own_netns

    @property
    def tick_ns(self) -> int:
        """See Host."""
        return self._host.tick_ns


class Remembering(Asking):
    """Passes questions on to a host, and tells of each answer that is new.

    told: takes the kind, the key and the answer, all of what JSON can write.
    """

    def __init__(self, host: Host, told: Callable[[str, Key, Any], None]) -> None:
        super().__init__(host)
        self._told = told
        self._asked: set[tuple[str, Key]] = set()
        self.answers = Answers()

    def ask_again(self) -> None:
        """From now on, what was answered may be another thing; until then an answer stands, as in a recording."""
        self._asked.clear()

    def symbol(self, address: int) -> Optional[Symbol]:
        """See Host."""
        # What has none may get one, when a module is loaded.
        symbol: Optional[Symbol] = self.answers.get("symbol", address)
        if symbol is None:
            symbol = self._changing("symbol", address, self._host.symbol)
        return symbol

    def drop_reason(self, number: int) -> str:
        """See Host."""
        answer = self.answers.get("reason", number)
        return str(answer if answer is not None else self._new("reason", number, self._host.drop_reason(number)))

    def enum_names(self, enum: str) -> Mapping[int, str]:
        """See Host."""
        names = self._host.enum_names(enum)
        if ("enum", enum) not in self.answers:
            self._new("enum", enum, [[number, name] for number, name in names.items()])
        return names

    def return_type(self, function: str) -> Optional[str]:
        """See Host."""
        kind = self._host.return_type(function)
        if ("type", function) not in self.answers:
            self._new("type", function, kind)
        return kind

    def netns(self, inode: int) -> Optional[str]:
        """See Host."""
        name: Optional[str] = self._changing("netns", inode, self._host.netns)
        return name

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        """See Host."""
        owner: Optional[tuple[str, int]] = self._changing("owner", inode, self._host.owner)
        return owner

    def evidence(self, finding: Finding, context: Context) -> "Sequence[Evidence]":
        """See Host."""
        found = self._host.evidence(finding, context)
        self._told("evidence", evidence_key(finding, context), [list(each) for each in found])
        return found

    def _changing(self, kind: str, key: Key, ask: Callable[[Key], Any]) -> Any:
        """Of what may be another thing the next time."""
        if (kind, key) in self._asked and (kind, key) in self.answers:
            return self.answers.get(kind, key)
        self._asked.add((kind, key))
        answer = ask(key)
        if self.answers.get(kind, key, _UNKNOWN) != answer:
            self._new(kind, key, answer)
        return answer

    def _new(self, kind: str, key: Key, answer: Any) -> Any:
        self.answers.put(kind, key, answer)
        self._told(kind, key, answer)
        return answer


class Recorded:
    """A host as a recording tells of it."""

    def __init__(self, own_netns: int, tick_ns: int) -> None:
        self._own_netns = own_netns
        self._tick_ns = tick_ns
        self._answers = Answers()

    def take(self, kind: str, key: Key, answer: Any) -> None:
        """An answer that the host gave."""
        if kind == "symbol" and answer is not None:
            name, offset, *rest = answer[: len(Symbol._fields)]
            answer = Symbol(str(name), int(offset), *rest)
        elif kind == "enum":
            answer = {int(number): str(name) for number, name in answer}
        elif kind in ("type", "netns") and answer is not None:
            answer = str(answer)
        elif kind == "owner" and answer is not None:
            answer = (str(answer[0]), int(answer[1]))
        elif kind == "evidence":
            from .evidence import Evidence

            answer = [Evidence(str(source), str(text)) for source, text in answer]
        self._answers.put(kind, tuple(key) if isinstance(key, list) else key, answer)

    @property
    def own_netns(self) -> int:
        """See Host."""
        return self._own_netns

    @property
    def tick_ns(self) -> int:
        """See Host."""
        return self._tick_ns

    def symbol(self, address: int) -> Optional[Symbol]:
        """See Host."""
        symbol: Optional[Symbol] = self._answers.get("symbol", address)
        return symbol

    def drop_reason(self, number: int) -> str:
        """See Host."""
        return str(self._answers.get("reason", number, number))

    def enum_names(self, enum: str) -> Mapping[int, str]:
        """See Host."""
        names: Mapping[int, str] = self._answers.get("enum", enum, {})
        return names

    def return_type(self, function: str) -> Optional[str]:
        """See Host."""
        kind: Optional[str] = self._answers.get("type", function)
        return kind

    def netns(self, inode: int) -> Optional[str]:
        """See Host."""
        name: Optional[str] = self._answers.get("netns", inode)
        return name

    def owner(self, inode: int) -> Optional[tuple[str, int]]:
        """See Host."""
        owner: Optional[tuple[str, int]] = self._answers.get("owner", inode)
        return owner

    def evidence(self, finding: Finding, context: Context) -> "Sequence[Evidence]":
        """See Host."""
        found: Sequence[Evidence] = self._answers.get("evidence", tuple(evidence_key(finding, context)), [])
        return found


def evidence_key(finding: Finding, context: Context) -> list[Key]:
    """What tells the evidence of a finding from that of all others."""
    item = finding.event
    return [context.packet_id, item.skb, item.number, item.trace, finding.name, ",".join(finding.wanted)]
