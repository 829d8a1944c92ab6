"""Names that anybody may have given, as text that can go to a terminal.

What comes from the kernel, from the host, from a recording or from the command line passes through here once, where it
comes in or, of an error, where it is printed: nothing behind that has to think of it.
"""

from typing import Any


def printable(text: str) -> str:
    """The text without what moves the cursor, begins a line or turns the direction of writing: escapes stand for it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def text_of(raw: bytes) -> str:
    """A name that C has, up to the zero at its end."""
    return printable(raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace"))


def all_printable(value: Any) -> Any:
    """What JSON can hold, with all of its texts printable, names of members too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): all_printable(each) for name, each in value.items()}
    return [all_printable(each) for each in value] if isinstance(value, (list, tuple)) else value
