"""What the kernel's reasons for dropping a packet or resetting a TCP connection mean, from rules/.

A reason has the name that nettrace prints: the kernel's own without SKB_DROP_REASON_ or SK_RST_REASON_.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import yamlfile
from .yamlfile import Item

# What happens to healthy traffic and harms nothing, what may harm, what does.
LEVELS = ("info", "warn", "error")
DROP_FILE = "drop-reasons.yaml"
RESET_FILE = "reset-reasons.yaml"


@dataclass(frozen=True)
class Reason:
    """One reason in words for somebody who is no kernel developer."""

    name: str
    aliases: tuple[str, ...]  # what other kernels call it
    level: str  # one of LEVELS
    meaning: str
    causes: tuple[str, ...]
    check: tuple[str, ...]
    fix: tuple[str, ...]


@dataclass(frozen=True)
class Reasons:
    """All reasons, by name and by alias."""

    drops: Mapping[str, Reason]
    resets: Mapping[str, Reason]

    def drop(self, name: str) -> Optional[Reason]:
        """Why a packet is dropped: "NO_SOCKET"; None for what rules/ do not know."""
        return self.drops.get(name)

    def reset(self, name: str) -> Optional[Reason]:
        """Why a TCP connection is reset: "TCP_ABORT_ON_CLOSE"; None for what rules/ do not know."""
        return self.resets.get(name)


def load(folder: Path) -> Reasons:
    """Reads both files; raises ConfigurationError, with file and line, where one is wrong."""
    return Reasons(_load(folder / DROP_FILE), _load(folder / RESET_FILE))


def _load(path: Path) -> Mapping[str, Reason]:
    reasons: dict[str, Reason] = {}
    lines: dict[str, int] = {}
    for name, item in yamlfile.load(path).mapping().items():
        reason = _reason(name, item)
        for known_as in (name, *reason.aliases):
            if known_as in reasons:
                raise item.error(f"'{known_as}' is already in line {lines[known_as]}")
            reasons[known_as] = reason
            lines[known_as] = item.line
    return reasons


def _reason(name: str, item: Item) -> Reason:
    fields = item.fields(("level", "meaning", "causes", "check", "fix"), ("aliases",))
    return Reason(
        name,
        _texts(fields["aliases"]) if "aliases" in fields else (),
        fields["level"].choice(LEVELS),
        fields["meaning"].text(),
        _texts(fields["causes"]),
        _texts(fields["check"]),
        _texts(fields["fix"]),
    )


def _texts(item: Item) -> tuple[str, ...]:
    texts = tuple(each.text() for each in item.items())
    if not texts:
        raise item.error("the list is empty")
    return texts
