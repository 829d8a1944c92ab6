"""YAML read strictly: every value knows its line, and a wrong file is an error that says where.

Duplicate keys, merge keys, recursive aliases and tags other than YAML's plain ones are refused, and so is what would
take much time or memory.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from .errors import ConfigurationError, KernelError
from .suggest import did_you_mean

if TYPE_CHECKING:
    import yaml

# Several times those of the largest file that is shipped.
_BYTES_MAX = 1 << 20
_ITEMS_MAX = 50_000
# libyaml calls itself for each level, and does not look whether there is room on the stack.
_OPENING = b"[{?-:"
_OPENING_MAX = 20_000

_TYPE_NAMES = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a whole number"}


@dataclass(frozen=True)
class Item:
    """A value of a YAML file: a scalar, a list of items, or a dict of items by key.

    `line` is where the value begins, or its key if it has one.
    """

    value: object
    file: str
    line: int

    def error(self, message: str) -> ConfigurationError:
        """An error that points here."""
        return ConfigurationError(message, file=self.file, line=self.line)

    def mapping(self) -> dict[str, "Item"]:
        """The items by key, in file order."""
        return self._checked(dict)  # type: ignore[no-any-return]

    def fields(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, "Item"]:
        """The items by key, after checking that no key is missing and none unknown."""
        fields = self.mapping()
        known = (*required, *optional)
        for key, item in fields.items():
            if key not in known:
                raise item.error(f"unknown key '{key}'{did_you_mean(key, known)}")
        for key in required:
            if key not in fields:
                raise self.error(f"'{key}' is missing")
        return fields

    def items(self) -> list["Item"]:
        """The items of a list."""
        return self._checked(list)  # type: ignore[no-any-return]

    def text(self) -> str:
        """A text that is not blank, without the white space around it."""
        text: str = self._checked(str).strip()
        if not text:
            raise self.error("the text is empty")
        return text

    def choice(self, known: Collection[str]) -> str:
        """One of the known words."""
        word = self.text()
        if word not in known:
            raise self.error(f"'{word}' is not one of {', '.join(known)}{did_you_mean(word, known)}")
        return word

    def boolean(self) -> bool:
        """True or false."""
        return self._checked(bool)  # type: ignore[no-any-return]

    def integer(self, minimum: Optional[int] = None, maximum: Optional[int] = None) -> int:
        """A whole number within the limits."""
        number: int = self._checked(int)
        if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
            limits = f"{'' if minimum is None else minimum}..{'' if maximum is None else maximum}"
            raise self.error(f"{number} is outside {limits}")
        return number

    def _checked(self, wanted: type) -> Any:
        # Not isinstance: a bool is an int to it.
        if type(self.value) is not wanted:
            found = "nothing" if self.value is None else _TYPE_NAMES.get(type(self.value), repr(self.value))
            raise self.error(f"{_TYPE_NAMES[wanted]} is expected, not {found}")
        return self.value


def require() -> str:
    """The file of PyYAML; raises KernelError if it is not installed."""
    try:
        import yaml

        return yaml.__file__
    except ImportError as error:
        raise KernelError(
            "PyYAML is missing", "install it with 'apt install python3-yaml' or 'dnf install python3-pyyaml'"
        ) from error


def load(path: Union[str, Path]) -> Item:
    """Reads a file that holds one YAML document; raises KernelError if PyYAML is not installed."""
    require()
    import yaml

    text = _text(path)
    try:
        # libyaml's parser is ten times as fast, where PyYAML was built with it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        root = loader.get_single_node()
        if root is None:
            raise ConfigurationError("the file is empty", file=path, line=1)
        return _Converter(loader, str(path)).item(root, root.start_mark.line + 1, ())
    except RecursionError as error:
        raise ConfigurationError("too many levels of values inside of others", file=path) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "is not YAML"
        raise ConfigurationError(message, file=path, line=mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        # The position in the error counts bytes with libyaml, characters without.
        found = yaml.reader.Reader.NON_PRINTABLE.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        raise ConfigurationError("a character that YAML forbids", file=path, line=line) from error


def _text(path: Union[str, Path]) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=path) from error
    if len(data) > _BYTES_MAX or sum(map(data.count, _OPENING)) > _OPENING_MAX:
        raise ConfigurationError("the file is too large", file=path)
    try:
        return data.decode("utf-8")  # YAML is; what the locale says is not asked
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError("is not UTF-8 text", file=path, line=line) from error


class _Converter:
    """Turns PyYAML's nodes, which know their lines, into items."""

    def __init__(self, loader: "yaml.SafeLoader", file: str) -> None:
        self.loader = loader
        self.file = file
        self.items = 0

    def item(self, node: "yaml.Node", line: int, parents: tuple["yaml.Node", ...]) -> Item:
        if any(node is parent for parent in parents):
            raise ConfigurationError("an alias that contains itself", file=self.file, line=line)
        self.items += 1
        if self.items > _ITEMS_MAX:
            raise ConfigurationError(f"more than {_ITEMS_MAX} values, with those of aliases", file=self.file, line=line)
        return Item(self._value(node, line, (*parents, node)), self.file, line)

    def _value(self, node: "yaml.Node", line: int, parents: tuple["yaml.Node", ...]) -> object:
        import yaml

        if node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, parents)
        if node.tag == "tag:yaml.org,2002:seq":
            return [self.item(child, child.start_mark.line + 1, parents) for child in node.value]
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigurationError(f"tag '{node.tag}' is not allowed here", file=self.file, line=line)
        try:
            return self.loader.construct_object(node)
        # What looks like a date or a number but is none; PyYAML 5.3 also makes dates before the first.
        except (OverflowError, ValueError) as error:
            raise ConfigurationError(str(error), file=self.file, line=line) from error

    def _mapping(self, node: "yaml.Node", parents: tuple["yaml.Node", ...]) -> dict[str, "Item"]:
        items: dict[str, Item] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                # YAML 1.1 reads on, off, yes and no as true and false.
                key_text = key_node.value if isinstance(key_node.value, str) else "a collection"
                raise ConfigurationError(f"a key must be text, {key_text} is not: quote it", file=self.file, line=line)
            key = key_node.value
            if key in items:
                raise ConfigurationError(
                    f"duplicate key '{key}', first in line {items[key].line}", file=self.file, line=line
                )
            items[key] = self.item(value_node, line, parents)
        return items
