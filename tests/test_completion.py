"""Completion, asked of the shells themselves."""

import os
import pty
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nettrace import options, reasons, tree
from package import completion

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = options.parser()._actions
SPELLINGS = [name for action in ACTIONS for name in action.option_strings]
TRACES = tree.load(ROOT / "tracer.yaml")
REASONS = reasons.load(ROOT / "rules")

# Lines up to the cursor, and what they become where there is one way only.
COMPLETED = {
    "nettrace --reas": "nettrace --reason",
    "nettrace tcp port 80 --reas": "nettrace tcp port 80 --reason",
    "nettrace -t kfree_skb_par": "nettrace -t kfree_skb_partial",
    "nettrace -v -t icmp,kfree_skb_par": "nettrace -v -t icmp,kfree_skb_partial",
    "nettrace --trace-exclude=kfree_skb_par": "nettrace --trace-exclude=kfree_skb_partial",
    "nettrace --drop --reason NO_SOCK": "nettrace --drop --reason NO_SOCKET",
    "nettrace --explain NO_SOCK": "nettrace --explain NO_SOCKET",
    "nettrace -p udpl": "nettrace -p udplite",
    "nettrace -o cpu,gr": "nettrace -o cpu,group",
    "nettrace --backend kprobe-": "nettrace --backend kprobe-multi",
    "nettrace --iface l": "nettrace --iface lo",
    "nettrace -v -r trac": "nettrace -v -r tracer.yaml",
    "nettrace --diff tracer.yaml READ": "nettrace --diff tracer.yaml README.md",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    completion.main(folder)
    return folder


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shells complete the names of files here."""
    monkeypatch.chdir(ROOT)


def shell(name: str, *arguments: str) -> list[str]:
    """The lines that a shell prints."""
    if not shutil.which(name):
        pytest.skip(f"there is no {name}")
    done = subprocess.run([name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def in_bash(folder: Path, lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """What bash offers behind each of these rows of words."""
    program = 'source "$1"; shift\nwhile [[ $# -gt 0 ]]; do\n'
    program += 'COMP_WORDS=("${@:2:$1}") COMP_CWORD=$(($1 - 1)); shift $(($1 + 1))\n'
    program += '_nettrace; printf "%s\\t" "${COMPREPLY[@]}"; echo; done'
    rows = [text for words in lines for text in (str(len(words)), *words)]
    found = shell("bash", "-c", program, "bash", str(folder / "nettrace"), *rows)
    return [[word for word in line.split("\t") if word] for line in found]


def split(line: str) -> list[str]:
    """Words as bash has them for completion, where a = is one."""
    return line.replace("=", " = ").split(" ")


def completed_by_bash(folder: Path) -> list[str]:
    offered = in_bash(folder, [split(line) for line in COMPLETED])
    return [line[: len(line) - len(split(line)[-1])] + one(found) for line, found in zip(COMPLETED, offered)]


def completed_by_fish(folder: Path) -> list[str]:
    ask = [f"complete -C '{line}' | string split -f 1 \\t; echo end" for line in COMPLETED]
    found = "\n".join(shell("fish", "--no-config", "-c", "\n".join([f"source {folder}/nettrace.fish", *ask])))
    offered = [part.split() for part in found.split("end")]
    return [f"{line.rpartition(' ')[0]} {one(found)}" for line, found in zip(COMPLETED, offered)]


def completed_by_zsh(folder: Path) -> list[str]:
    if not shutil.which("zsh"):
        pytest.skip("there is no zsh")
    out = folder / "lines"
    program = [
        f"fpath=({folder} $fpath)", "autoload -Uz compinit", "compinit -u -D", f": > {out}",
        f"tell() {{ zle complete-word; print -r -- $BUFFER >> {out}; BUFFER= }}", "zle -N tell", "bindkey '^I' tell",
        *(f"{line}\t" for line in COMPLETED),
    ]  # fmt: skip
    ours, its = pty.openpty()
    with subprocess.Popen(["zsh", "-f", "-i"], stdin=its, stdout=its, stderr=its, start_new_session=True) as process:
        os.write(ours, "\n".join([*program, "exit\n"]).encode())
        process.wait(60)
    # It makes room for the value.
    return [line.rstrip(" =") for line in out.read_text(encoding="utf-8").splitlines()]


def one(found: Sequence[str]) -> str:
    """The only way to go on."""
    return found[0] if len(found) == 1 else f"{found}"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("completed", [completed_by_bash, completed_by_fish, completed_by_zsh])
def test_what_is_unique_is_completed(folder: Path, completed: Callable[[Path], list[str]]) -> None:
    assert completed(folder) == list(COMPLETED.values())


def test_bash_knows_all_names(folder: Path) -> None:
    all_options, number, expression, none, traces, behind, dropped, explained = in_bash(
        folder,
        [
            ["nettrace", "-"], ["nettrace", "-c", ""], ["nettrace", "tcp", "p"], ["nettrace", "--", "-"],
            ["nettrace", "--trace", "="], ["nettrace", "-t", "icmp,"],
            ["nettrace", "--reason", ""], ["nettrace", "--explain", ""],
        ],
    )  # fmt: skip
    assert all_options == SPELLINGS
    assert number == expression == none == []
    # All that -t knows, but for other names of the same.
    groups = [group.name for group in TRACES.root.all_groups()]
    assert sorted(traces) == sorted([*groups, *(trace.name for trace in TRACES.traces())])
    assert behind == [f"icmp,{name}" for name in traces]
    assert sorted(dropped) == sorted(REASONS.drops)
    assert {*traces, *dropped, *REASONS.resets} < set(explained)


def test_names_of_the_host_are_quoted_for_bash(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "$(id)").touch()
    here = tmp_path / "nettrace"
    here.write_text((folder / "nettrace").read_text(encoding="utf-8").replace("/run/netns", str(tmp_path)))
    offered = in_bash(tmp_path, [["nettrace", "--netns", ""]])
    assert offered == [[r"\$\(id\)", "nettrace"]]
