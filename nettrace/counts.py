"""Numbers with what they count."""

import re

_PLURAL = re.compile(r"s\b")


def counted(number: int, what: str) -> str:
    """So many packets, or one packet; what is counted is given in the plural, by an s."""
    return f"{number} {_PLURAL.sub('', what, count=1) if number == 1 else what}"
