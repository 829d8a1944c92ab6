"""What the user may have meant by a word that is not known."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """`; did you mean 'x'?` or `'x', 'y' or 'z'?`, or nothing when no known word is close."""
    import difflib  # few words are wrong

    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=most)
    if not close:
        return ""
    *others, last = (f"'{by_lower_case[found]}'" for found in close)
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
