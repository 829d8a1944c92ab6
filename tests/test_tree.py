"""The tree: what tracer.yaml may say, and how traces are selected."""

import re
from pathlib import Path
from typing import Any

import pytest

from nettrace import tree
from nettrace.errors import ConfigurationError
from nettrace.tree import Group, Trace, Tree

SMALL = """\
desc: all traces
groups:
  link:
    desc: link layer
    traces:
      netif_receive_skb: {tracepoint: "net:netif_receive_skb", skb: 0, match: true, desc: received}
    groups:
      bridge:
        desc: bridge
        default: false
        traces:
          br_handle_frame: {skb: 0, deref: true, desc: at a port}
  tcp:
    desc: TCP
    traces:
      tcp_skb_entail: {functions: [tcp_skb_entail, skb_entail], skb: 1, sk: 0, desc: queued}
      skb_clone: {skb: 0, role: clone, desc: cloned}
"""


@pytest.fixture(autouse=True, params=["libyaml", "pure"])
def parser(request: Any, monkeypatch: Any) -> None:
    """Everything holds with both of PyYAML's parsers."""
    import yaml

    if request.param == "pure":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)


def load(tmp_path: Path, text: str) -> Tree:
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    return tree.load(path)


def names(traces: tuple[Trace, ...]) -> list[str]:
    return [trace.name for trace in traces]


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    return load(tmp_path, SMALL)


def test_fields(small: Tree) -> None:
    received, port, entail, clone = small.traces()
    assert received == Trace(
        name="netif_receive_skb", desc="received", group="link", functions=(), tracepoint="net:netif_receive_skb",
        skb=0, sk=None, deref=False, match=True, role=None, default=True,
    )  # fmt: skip
    assert port.functions == ("br_handle_frame",)
    assert port.deref and not port.default
    assert entail.functions == ("tcp_skb_entail", "skb_entail")
    assert (entail.skb, entail.sk) == (1, 0)
    assert clone.role == "clone"


def test_groups(small: Tree) -> None:
    assert [group.name for group in small.root.all_groups()] == ["all", "link", "bridge", "tcp"]
    assert [group.default for group in small.root.all_groups()] == [True, True, False, True]


def test_what_is_below_a_group_that_is_off_is_off(tmp_path: Path) -> None:
    text = """\
desc: a
groups:
  outer:
    desc: b
    default: false
    groups: {inner: {desc: c, default: true, traces: {f: {skb: 0, desc: d}}}}
"""
    assert load(tmp_path, text).default() == ()


def test_a_single_trace_may_be_off_and_none_is_on_in_a_group_that_is_off(tmp_path: Path) -> None:
    text = """\
desc: a
traces: {f: {skb: 0, desc: d}, g: {skb: 0, desc: d, default: false}}
groups:
  rare: {desc: b, default: false, traces: {h: {skb: 0, desc: d, default: true}}}
"""
    loaded = load(tmp_path, text)
    assert names(loaded.default()) == ["f"]
    assert names(loaded.traces()) == ["f", "g", "h"]


def test_default(small: Tree) -> None:
    assert names(small.default()) == ["netif_receive_skb", "tcp_skb_entail", "skb_clone"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("all", ["netif_receive_skb", "br_handle_frame", "tcp_skb_entail", "skb_clone"]),
        ("link", ["netif_receive_skb", "br_handle_frame"]),
        ("bridge", ["br_handle_frame"]),
        ("skb_clone", ["skb_clone"]),
        ("skb_entail", ["tcp_skb_entail"]),
        ("net:netif_receive_skb", ["netif_receive_skb"]),
        ("no_such", []),
    ],
)
def test_find(small: Tree, name: str, found: list[str]) -> None:
    assert names(small.find(name)) == found


def leaf(fields: str) -> str:
    """A tree whose line 3 holds one trace."""
    return f"desc: a\ntraces:\n  f: {{{fields}}}\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (leaf("skb: 0, desc: d, skbb: 1"), 3, "unknown key 'skbb'; did you mean 'skb'?"),
        (leaf("skb: 0, desc: d, xyzzy: 1"), 3, "unknown key 'xyzzy'"),
        (leaf("skb: 0, desc: d, defautl: false"), 3, "unknown key 'defautl'; did you mean 'default'?"),
        (leaf("skb: 0"), 3, "'desc' is missing"),
        (leaf("skb: 0, desc: '  '"), 3, "the text is empty"),
        (leaf("skb: 0, desc: ~"), 3, "text is expected, not nothing"),
        (leaf("skb: 0, desc: 5"), 3, "text is expected, not a whole number"),
        (leaf("skb: '0', desc: d"), 3, "a whole number is expected, not text"),
        (leaf("skb: true, desc: d"), 3, "a whole number is expected, not true or false"),
        (leaf("skb: 0.5, desc: d"), 3, "a whole number is expected, not 0.5"),
        (leaf("skb: -1, desc: d"), 3, "-1 is outside 0..5"),
        (leaf("skb: 6, desc: d"), 3, "6 is outside 0..5"),
        (leaf("skb: 0, match: 1, desc: d"), 3, "true or false is expected, not a whole number"),
        (leaf("skb: 0, role: clones, desc: d"), 3, "'clones' is not one of free, drop, clone, segments; did you mean "),
        (leaf("desc: d"), 3, "trace 'f' needs 'skb' or 'sk'"),
        (leaf("desc: d, sk: 0, role: free"), 3, "trace 'f' needs 'skb', "),
        (leaf("desc: d, skb: 0, functions: []"), 3, "the list is empty"),
        (leaf("desc: d, skb: 0, functions: g"), 3, "a list is expected, not text"),
        (leaf("desc: d, skb: 0, functions: [g, g]"), 3, "a function is named twice"),
        (leaf("desc: d, skb: 0, functions: [g.isra.0]"), 3, "'g.isra.0' is not of the form function"),
        (leaf("desc: d, skb: 0, functions: [f], tracepoint: 'a:b'"), 3, "trace 'f' has both"),
        (leaf("desc: d, skb: 0, tracepoint: f"), 3, "'f' is not of the form category:event"),
        ("desc: a\ntraces:\n  f g: {skb: 0, desc: d}\n", 3, "'f g' is no function's name"),
        ("desc: a\ntraces:\n  f,g: {skb: 0, desc: d, functions: [f]}\n", 3, "'f,g' cannot be a name"),
        ("desc: a\ntraces:\n  f: {skb: 0, desc: d}\n  f: {skb: 0, desc: d}\n", 4, "duplicate key 'f', first in line 3"),
        (
            "desc: a\ntraces:\n  f: {skb: 0, desc: d}\ngroups:\n  g: {desc: b, traces: {f: {skb: 0, desc: d}}}\n",
            5,
            "'f' is used twice, first in line 3",
        ),
        (
            "desc: a\ntraces:\n  f: {skb: 0, desc: d}\n  g: {skb: 0, desc: d, functions: [h, f]}\n",
            4,
            "'f' is used twice, first in line 3",
        ),
        (
            "desc: a\ngroups:\n  g:\n    desc: b\n    traces: {g: {skb: 0, desc: d}}\n",
            5,
            "'g' is used twice, first in line 3",
        ),
        ("desc: a\ngroups:\n  all: {desc: b, traces: {f: {skb: 0, desc: d}}}\n", 3, "'all' is used twice, first in"),
        ("desc: a\ngroups:\n  g: {desc: b}\n", 3, "group 'g' is empty"),
        ("desc: a\ngroups:\n  g: {traces: {f: {skb: 0, desc: d}}}\n", 3, "'desc' is missing"),
        ("desc: a\ngroups:\n  g: {desc: b, trace: {f: {skb: 0, desc: d}}}\n", 3, "unknown key 'trace'; did you mean "),
        ("desc: a\ngroups: [g]\n", 2, "a mapping is expected, not a list"),
        ("desc: a\ntraces:\n  on: {skb: 0, desc: d}\n", 3, "a key must be text, on is not: quote it"),
        ("desc: a\ntraces:\n  [f]: {skb: 0, desc: d}\n", 3, "a key must be text"),
        ("desc: a\ntraces:\n  <<: {f: {skb: 0, desc: d}}\n", 3, "a key must be text, << is not"),
        ("desc: a\ntraces: &t\n  f: *t\n", 3, "an alias that contains itself"),
        ("desc: a\ntraces:\n  f: *g\n", 3, "found undefined alias"),
        ("desc: a\ntraces:\n  f: !!python/name:os.system {}\n", 3, "is not allowed here"),
        ("desc: a\ntraces:\n  f: {skb: 0, desc: !x d}\n", 3, "could not determine a constructor for the tag '!x'"),
        ("desc: a\ntraces:\n  f: {skb: 0, desc: 2026-99-99}\n", 3, "month must be in 1..12"),
        ("desc: a\ntraces:\n  f: {skb: 0, desc: d\n", 4, "expected ',' or '}'"),
        ("desc: a\n\tgroups: 1\n", 2, ""),
        ("desc: \u00e4\u00e4\u00e4\n\nb\x00\n\nc: d\n", 3, "a character that YAML forbids"),
        ("desc: a\n---\ndesc: b\n", 2, "but found another document"),
        ("", 1, "the file is empty"),
        ("- desc\n", 1, "a mapping is expected, not a list"),
    ],
)
def test_errors_have_their_place(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, text)
    place, _, said = str(raised.value).partition(": ")
    assert place == f"{tmp_path / 't.yaml'}:{line}"
    assert message in said


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path / 'none.yaml'}: cannot be read: No such file")):
        tree.load(tmp_path / "none.yaml")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"desc: a\ntraces: \xff\n")
    with pytest.raises(ConfigurationError, match=r"t\.yaml:2: is not UTF-8 text"):
        tree.load(path)


ALIASES = "\n".join(
    ["desc: a", "traces: {a: &a [1]}"]
    + [f"x{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi")]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # A few hundred bytes with 43 million values.
        (ALIASES, r":\d+: more than 50000 values, with those of aliases$"),
        ("[" * 2000 + "]" * 2000, ": too many levels of values inside of others$"),
        ("- " * 2000 + "x", ": too many levels of values inside of others$"),
        # With so many, libyaml has no stack left, and the process ends.
        ("[" * 100_000 + "]" * 100_000, ": the file is too large$"), ("? " * 100_000, ": the file is too large$"),
        ("{a: " * 100_000, ": the file is too large$"), ("#" * (1 << 20) + "\n", ": the file is too large$"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_would_take_all_memory_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, text)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigurationError, match="the file is too large"):
        tree.load("/dev/zero")


def test_frozen(small: Tree) -> None:
    with pytest.raises(AttributeError):
        small.traces()[0].name = "other"  # type: ignore[misc]
    assert hash(small) and isinstance(small.root, Group)
