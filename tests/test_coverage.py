"""What `-t ?` tells of a kernel."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
import shutil
from pathlib import Path
from typing import Callable

import pytest

from nettrace import coverage, files, tree
from nettrace.coverage import Coverage, Place
from nettrace.kernel import Kernel
from nettrace.tree import Tree
from nettrace.treetext import tree_text
from tests.record_kernel import VERSIONS

SMALL = """\
desc: all traces
groups:
  lower:
    desc: what is lower
    traces:
      received: {tracepoint: "net:netif_receive_skb", skb: 0, desc: a device received the packet}
      ip_rcv: {skb: 0, desc: the packet is checked}
    groups:
      inner:
        desc: below
        default: false
        traces:
          sent: {functions: [nosuch, ip_output], skb: 2, desc: the packet is sent}
          nf_conntrack_in: {skb: 0, desc: the connection is looked up}
          core: {functions: [__netif_receive_skb_core], skb: 0, deref: true, desc: the packet is handed out}
  upper:
    desc: what is upper
    traces:
      absent: {functions: [nosuch_either], skb: 0, desc: the packet is where no kernel has it}
      rare:
        functions: [ip_rcv_core]
        skb: 0
        default: false
        desc: the packet is rare, and it takes so many words to say so that they do not fit
      shown: {functions: [nosuch_too, console_show, nosuch_nor_this], skb: 0, desc: the packet is not there}
"""


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    path = tmp_path / "t.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return tree.load(path)


def test_places(small: Tree, kernels: dict[str, Kernel]) -> None:
    made = coverage.of(small, kernels["7.2"], multi=True)
    assert made.places == {
        "received": Place("tracepoint", "net:netif_receive_skb", "", ""),
        "ip_rcv": Place("kprobe-multi", "ip_rcv", "", ""),
        "sent": Place("kprobe-multi", "ip_output", "", ""),
        "nf_conntrack_in": Place("kprobe-multi", "nf_conntrack_in", "nf_conntrack", ""),
        "core": Place("kprobe-multi", "__netif_receive_skb_core.constprop.0", "", ""),
        "rare": Place("kprobe-multi", "ip_rcv_core", "", ""),
        "absent": Place("", "", "", "no such function, or inlined, or in a module that is not loaded"),
        "shown": Place("", "", "", "several functions of this kernel are called console_show"),
    }
    assert coverage.of(small, kernels["7.2"], multi=False).places["ip_rcv"].how == "kprobe"
    assert made.attached(small.traces()) == 6
    assert made.release == kernels["7.2"].release


def test_the_tree_as_text(small: Tree, kernels: dict[str, Kernel]) -> None:
    text = tree_text(coverage.of(small, kernels["7.2"], multi=True))
    head, _, body = text.partition("\n\n")
    assert head == (
        f"Linux {kernels['7.2'].release}; functions are attached by kprobe-multi\n"
        "  + on by default (in brackets: the symbol where it has another name, and its module)\n"
        "  o on only when named with -t\n"
        "  - missing: no such function, or inlined, or in a module that is not loaded, or as in brackets\n"
        "-t takes groups, traces, any kernel function that takes a packet, and patterns: -t 'ip-in,tcp_*'"
    )
    assert body == (
        "lower: what is lower\n"
        "      + received                  a device received the packet [tracepoint net:netif_receive_skb]\n"
        "      + ip_rcv                    the packet is checked\n"
        "  inner: below (off unless named)\n"
        "      o sent                      the packet is sent [ip_output]\n"
        "      o nf_conntrack_in           the connection is looked up [module nf_conntrack]\n"
        "      o core                      the packet is handed out [__netif_receive_skb_core.constprop.0]\n"
        "\n"
        "upper: what is upper\n"
        "      - absent                    the packet is where no kernel has it\n"
        "      o rare\n"
        "          the packet is rare, and it takes so many words to say so that they do not fit\n"
        "          [ip_rcv_core]\n"
        "      - shown                     the packet is not there\n"
        "                                  [several functions of this kernel are called console_show]\n"
        "\n"
        "can be attached on this kernel:\n"
        "  lower:         5 of 5\n"
        "  upper:         1 of 3\n"
        "  on by default: 2 of 4\n"
        "  all:           6 of 8\n"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shipped_tree_is_told_whole(kernels: dict[str, Kernel], version: str) -> None:
    shipped = tree.load(files.TREE)
    made = coverage.of(shipped, kernels[version], multi=False)
    lines = tree_text(made).splitlines()
    marks = {line.split()[1]: line.split()[0] for line in lines if re.match("      [-+o] ", line)}
    assert marks == {
        trace.name: "-" if made.places[trace.name].missing else "+" if trace.default else "o"
        for trace in shipped.traces()
    }
    for trace in shipped.traces():
        assert any(trace.desc in line for line in lines)
        assert any(made.places[trace.name].missing in line for line in lines)
    for group in shipped.root.all_groups():
        off = [line for line in lines if line.strip() == f"{group.name}: {group.desc} (off unless named)"]
        assert group.name == "all" or bool(off) != group.default
    missing = list(marks.values()).count("-")
    assert lines[-1].split() == ["all:", str(len(marks) - missing), "of", str(len(marks))]
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_lines_fit_a_terminal(kernels: dict[str, Kernel], version: str) -> None:
    shipped = tree.load(files.TREE)
    for line in tree_text(coverage.of(shipped, kernels[version], multi=True)).splitlines():
        # What alone is too long is not cut.
        assert len(line) <= 100 or not re.match(" +[-+o[] ", line), line


def test_without_root_less_is_known(small: Tree, recorded: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(recorded("6.12"), tmp_path / "root")
    shutil.rmtree(tmp_path / "root/sys/kernel/tracing")
    shutil.rmtree(tmp_path / "root/sys/kernel/debug")
    file = tmp_path / "root/proc/kallsyms"
    file.write_bytes(b"".join(b"0" * 16 + line[16:] + b"\n" for line in file.read_bytes().splitlines()))
    made = coverage.of(small, Kernel(tmp_path / "root"), multi=False)
    assert [name for name, place in made.places.items() if not place.missing] == [
        "received", "ip_rcv", "sent", "nf_conntrack_in", "core", "rare",
    ]  # fmt: skip
    last = tree_text(made).splitlines()[-1]
    assert last == "(only root is told which functions can be traced: more than those marked - may be missing)"


def test_coverage_is_frozen(small: Tree, kernels: dict[str, Kernel]) -> None:
    made = coverage.of(small, kernels["6.12"], multi=False)
    assert isinstance(made, Coverage)
    with pytest.raises(AttributeError):
        made.release = "other"  # type: ignore[misc]
