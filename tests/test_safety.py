"""What anybody can put into names, recordings and folders does no harm: on a terminal, in files, to other programs."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ast
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nettrace import cli, commands, files, live, options, rules, tree
from nettrace.errors import KernelError, UsageError
from nettrace.evidence import Evidence
from nettrace.kept import Kept, Replaced, created
from nettrace.recording import Writer, chunks, opened
from nettrace.rules import Rules
from nettrace.tree import Tree
from tests import test_layering

RECORDED = Path(__file__).parent / "data" / "recordings" / "6.12"
NASTY = "\x1b[2J\x9b\nnext \u202e"


@pytest.fixture
def read_once(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)


def assert_harmless(text: str) -> None:
    assert text and not [char for char in text if not char.isprintable() and char not in "\n\t"]
    assert not [line for line in text.splitlines() if line.startswith("next")]


# ---- on a terminal


def spoiled(value: Any) -> Any:
    if isinstance(value, str):
        return value + NASTY
    if isinstance(value, dict):
        return {name: each if name == "role" else spoiled(each) for name, each in value.items()}
    return [spoiled(each) for each in value] if isinstance(value, list) else value


def nasty_recording(source: Path, target: Path) -> Path:
    """The same with all names and texts in it such as nobody should see them."""
    with opened(str(source)) as file, Writer(str(target)) as writer:
        writer.begin()
        for _, each in chunks(file, str(source)):
            chunk: Any = dict(each)
            header = chunk.get("nettrace", {})
            for name in ("command", "unit", "kernel", "traces", "skipped", "stack_at", "version", "machine"):
                if name in header:
                    header[name] = spoiled(header[name])
            for answer in chunk.get("answers", []):
                answer[3] = spoiled(answer[3])
            event = chunk.get("records", {}).get("event", {})
            for name in ("devices", "details", "facts"):
                if name in event:
                    event[name] = spoiled(event[name])
            writer.write(chunk)
    return target


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings that somebody spoiled, by their names."""
    folder = tmp_path_factory.mktemp(f"spoiled {NASTY}")
    return {name: nasty_recording(RECORDED / f"{name}.ntr", folder / name) for name in ("diag", "drop", "basic")}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("diag", ["--diag-keep"]), ("diag", ["--detail", "--ret"]), ("diag", ["-v", "--tiny-show"]),
        ("diag", ["-o", "id,cpu,if,netns,pid,group,mark,len"]), ("diag", ["--latency-summary"]), ("diag", ["--paths"]),
        ("diag", ["--latency"]), ("diag", ["--json", "--diag-keep"]), ("drop", ["--detail"]), ("drop", ["-v"]),
        ("basic", []), ("basic", ["--json"]),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("read_once")
def test_what_a_recording_says_cannot_move_the_cursor(
    name: str, arguments: list[str], nasty: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("NO_COLOR", "1")
    cli.main(["-r", str(nasty[name]), *arguments])
    out, err = capsys.readouterr()
    assert "\\x1b[2J" in out + err
    assert_harmless(out)
    assert_harmless(err)


@pytest.mark.usefixtures("read_once")
def test_nor_what_two_say_and_a_file_of_expectations(
    nasty: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "e.yaml"
    expected.write_text(
        json.dumps({"expect": [{"name": NASTY, "flow": {"proto": "icmp"}, "must_pass": ["*"], "drops": [NASTY]}]}),
        encoding="utf-8",
    )
    cli.main(["-r", str(nasty["diag"]), "--assert", str(expected)])
    out, err = capsys.readouterr()
    assert out.count("\\x1b[2J") > 1, err
    assert_harmless(out)
    cli.main(["--diff", str(nasty["diag"]), str(nasty["diag"])])
    out, err = capsys.readouterr()
    assert "\\x1b[2J" in out, err
    assert_harmless(out)


def test_what_the_user_says_cannot_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_kernel(**_: object) -> NoReturn:
        raise KernelError(NASTY)

    monkeypatch.setattr(commands, "Kernel", no_kernel)
    monkeypatch.chdir(tmp_path)
    known = [action for action in options.parser()._actions if action.nargs != 0 and action.option_strings]
    assert len(known) > 40
    for action in known:
        words = [NASTY] * (action.nargs if isinstance(action.nargs, int) else 1)
        assert cli.main([action.option_strings[-1], *words]) in (1, 2)
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert_harmless(err)
    for words in ([f"--{NASTY}"], [f"-{NASTY}"], ["-c", "1", f"tcp {NASTY}"]):
        assert cli.main(words) in (1, 2)
        assert_harmless(capsys.readouterr().err)


def test_what_the_host_says_cannot_either(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, Any]) -> None:
    host = live.Running(kernels["6.12"], 0)
    monkeypatch.setattr(host, "_netns", lambda _: NASTY)
    monkeypatch.setattr(host, "_owner", lambda _: (NASTY, 7))
    monkeypatch.setattr(host, "_prover", Says())
    owner = host.owner(1)
    assert owner is not None
    (proof,) = host.evidence(None, None)  # type: ignore[arg-type]
    for text in (host.netns(1), owner[0], proof.text):
        assert text is not None and text.isprintable() and text.startswith("\\x1b[2J")


class Says:
    """Proves anything."""

    def evidence(self, *_: object) -> list[Evidence]:
        return [Evidence("nft", NASTY)]


def test_a_name_that_the_locale_cannot_write_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    (tmp_path / "x").write_text("\u0444\n", encoding="utf-8")
    monkeypatch.setattr(files, "SCHEMA", tmp_path / "x")
    assert cli.main(["--json-schema"]) == 0
    assert out.buffer.getvalue() == b"\\u0444\n"  # type: ignore[attr-defined]


# ---- in files


def write(way: str, path: str) -> None:
    if way == "new":
        created(path, "--x").close()
    elif way == "kept":
        file = Kept("--x", path)
        file.write(b"x")
        file.close()
    else:
        Replaced("--x", path).write(b"x")


WAYS = ("new", "kept", "replaced")


@pytest.mark.parametrize("way", WAYS)
def test_files_are_for_nobody_else(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    mask = os.umask(0)
    try:
        write(way, str(path))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("way", WAYS)
def test_no_file_is_written_through_a_link(tmp_path: Path, way: str) -> None:
    target = tmp_path / "target"
    target.write_text("as it was", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to(target)
    if way == "replaced":
        write(way, str(link))
        assert not link.is_symlink() and link.read_bytes() == b"x"
    else:
        with pytest.raises(UsageError, match="is there already"):
            write(way, str(link))
    assert target.read_text(encoding="utf-8") == "as it was"


@pytest.mark.parametrize("way", WAYS)
def test_nor_through_a_folder_that_anybody_could_have_put_there(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, mine = tmp_path / "tmp", tmp_path / "mine"
    theirs.mkdir()
    theirs.chmod(0o1777)
    (mine / "inside").mkdir(parents=True)
    (theirs / "link").symlink_to(mine)
    for path in (theirs / "link" / "x", theirs / "link" / "inside" / "x", theirs / "link" / ".." / "link" / "x"):
        with pytest.raises(UsageError, match=r"^--x: .*(link, in a folder where everybody can|nothing can be) writ"):
            write(way, str(path))
    monkeypatch.chdir(theirs)
    with pytest.raises(UsageError):
        write(way, "link/x")
    # What only its owner can have put there is as good as the folder itself.
    (tmp_path / "link").symlink_to(mine)
    write(way, str(tmp_path / "link" / "inside" / "x"))
    write(way, "real")
    assert (mine / "inside" / "x").exists() and (theirs / "real").exists()
    assert sorted(os.listdir(mine)) == ["inside"]


def test_all_that_opens_files_to_write_is_known() -> None:
    """Whoever adds a way to write a file: let it be one of those in nettrace/kept.py, which are tested above."""
    writing = {"O_CREAT", "O_WRONLY", "O_RDWR", "mkstemp", "mkdtemp", "NamedTemporaryFile", "write_text", "write_bytes"}
    found = {
        module
        for module, source in test_layering.SOURCES.items()
        for node in ast.walk(source)
        if (isinstance(node, ast.Attribute) and node.attr in writing)
        or (isinstance(node, ast.Name) and node.id in writing)
        or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
            and any("w" in str(getattr(each, "value", "")) for each in node.args[1:])
        )
    }  # fmt: skip
    # A pipe; /dev/null; a temporary file of Python's; a cache that checks whose its folder is.
    assert found == {"inside", "cli", "btf", "cache", "kept"}


# ---- to other programs


def test_no_shell_is_ever_run() -> None:
    """A name in a shell's command would be one more command."""
    running = []
    for module, source in test_layering.SOURCES.items():
        for node in ast.walk(source):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                pytest.fail(f"{module} runs a shell")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert not node.attr.startswith(("system", "popen", "exec", "spawn", "posix_spawn")), module
            if isinstance(node, ast.Name):
                assert node.id not in ("eval", "exec", "Popen"), module
            if "subprocess" in test_layering.imports(node):
                running.append(module)
    assert running == ["ruleset"]


def test_the_launcher_hands_its_arguments_over_as_they_are() -> None:
    text = (Path(__file__).parent.parent / "bin" / "nettrace.in").read_text(encoding="utf-8")
    assert "$@" not in text.replace('"$@"', "") and "eval" not in text
