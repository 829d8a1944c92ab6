"""Suggestions for words that are not known."""

import pytest

from nettrace.suggest import did_you_mean

KNOWN = ["tcp_v4_rcv", "tcp_v6_rcv", "tcp_rcv", "SKB_clone"]


@pytest.mark.parametrize(
    ("word", "most", "said"),
    [
        ("tcp_v4_rvc", 1, "; did you mean 'tcp_v4_rcv'?"),
        ("tcp_v4_rvc", 2, "; did you mean 'tcp_v4_rcv' or 'tcp_v6_rcv'?"),
        ("tcp_v4_rcvs", 3, "; did you mean 'tcp_v4_rcv', 'tcp_v6_rcv' or 'tcp_rcv'?"),
        ("skb_clon", 3, "; did you mean 'SKB_clone'?"),
        ("xyzzy", 3, ""),
        ("", 3, ""),
    ],
)
def test_what_is_close_comes_first(word: str, most: int, said: str) -> None:
    assert did_you_mean(word, KNOWN, most) == said


def test_nothing_is_known() -> None:
    assert did_you_mean("x", []) == ""
