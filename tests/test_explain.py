"""What is told of a name, with files made here and with those of nettrace."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import pytest

from nettrace import explain, files, reasons, rules, tree
from nettrace.errors import UsageError
from nettrace.reasons import Reasons
from nettrace.rules import Rules
from nettrace.tree import Tree

TREE = """\
desc: all traces
groups:
  ip:
    desc: the network layer
    traces:
      ip_rcv_core: {functions: [ip_rcv_core, ip_rcv], skb: 0, facts: {kind: "Qdisc->ops->id"}, desc: it is received}
      ip_output: {skb: 0, desc: a packet is sent}
    groups:
      life:
        desc: the end
        traces:
          kfree_skb: {tracepoint: "skb:kfree_skb", skb: 0, role: drop, desc: the packet is dropped}
"""
RULES = """\
refused:
  trace: [ip_rcv_core, ip_output]
  when: {return: {in: [-EXDEV, 5], lt: 7}}
  level: error
  message: it was refused
  advice: [look here, or there]
  evidence: [route, rp_filter]
seen:
  trace: ip_output
  level: info
  message: it was seen
"""
ENTRY = """\
  level: error
  meaning: Nobody waits for it.
  causes: [a wrong port, a program that ended]
  check: [ss -l]
  fix: [Start it.]
"""
REASON_TEXT = """\
    Nobody waits for it.
  usual causes:
    a wrong port
    a program that ended
  what to check:
    ss -l
  what to do:
    Start it.
"""

Known = tuple[Tree, Rules, Reasons]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    folder = tmp_path_factory.mktemp("rules")
    (folder / "t.txt").write_text(TREE, encoding="utf-8")
    (folder / "r.yaml").write_text(RULES, encoding="utf-8")
    drops, resets = f"NO_SOCKET:\n  aliases: [NOBODY]\n{ENTRY}OTHER:\n{ENTRY}", f"NO_SOCKET:\n{ENTRY}ABORT:\n{ENTRY}"
    (folder / reasons.DROP_FILE).write_text(drops, encoding="utf-8")
    (folder / reasons.RESET_FILE).write_text(resets, encoding="utf-8")
    leaves = tree.load(folder / "t.txt")
    return leaves, rules.load(folder, leaves), reasons.load(folder)


TRACE_TEXT = """\
ip_rcv_core: a trace of the group ip, function ip_rcv_core, or ip_rcv
    it is received
  what it may say:
    error: it was refused (rule refused)
  what it tells beside the packet:
    kind: Qdisc->ops->id
"""
DROP_TEXT = f"NO_SOCKET (also NOBODY): a reason why the kernel drops a packet, error\n{REASON_TEXT}"
RESET_TEXT = "{}: a reason why TCP resets a connection, error\n" + REASON_TEXT


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ip",
            "ip: a group of traces\n    the network layer\n  traces:\n    ip_rcv_core\n    ip_output\n    kfree_skb\n",
        ),
        ("ip_rcv_core", TRACE_TEXT),
        ("ip_rcv", TRACE_TEXT),
        ("kfree_skb", "kfree_skb: a trace of the group life, tracepoint skb:kfree_skb\n    the packet is dropped\n"),
        (
            "skb:kfree_skb",
            "kfree_skb: a trace of the group life, tracepoint skb:kfree_skb\n    the packet is dropped\n",
        ),
        (
            "refused",
            "refused: a rule, error\n    it was refused\n  where:\n    ip_rcv_core\n    ip_output\n"
            "  when:\n    return in -EXDEV, 5\n    return lt 7\n"
            "  evidence that --diag looks for:\n    route\n    rp_filter\n"
            "  what to do:\n    look here\n    or there\n",
        ),
        ("seen", "seen: a rule, info\n    it was seen\n  where:\n    ip_output\n  when:\n    always\n"),
        # What has two meanings is told twice.
        ("NO_SOCKET", f"{DROP_TEXT}\n{RESET_TEXT.format('NO_SOCKET')}"),
        ("NOBODY", DROP_TEXT),
        ("nobody", DROP_TEXT),
        ("SKB_DROP_REASON_NOBODY", DROP_TEXT),
        ("skb_drop_reason_nobody", DROP_TEXT),
        ("ABORT", RESET_TEXT.format("ABORT")),
        ("SK_RST_REASON_ABORT", RESET_TEXT.format("ABORT")),
    ],
)
def test_what_a_name_means(name: str, text: str, known: Known) -> None:
    assert explain.text(name, *known) == text


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("ip_recv_core", "; did you mean 'ip_rcv_core'?"),
        ("NO_SOCKT", "; did you mean 'NO_SOCKET'?"),
        ("refusd", "; did you mean 'refused'?"),
        ("xyzzy", ""),
        ("SK_RST_REASON_NOBODY", ""),
        ("", ""),
    ],
)
def test_a_name_that_means_nothing(name: str, suggestion: str, known: Known) -> None:
    with pytest.raises(UsageError) as raised:
        explain.text(name, *known)
    said = str(raised.value)
    assert said.startswith(f"--explain: there is no trace, drop reason, reset reason or rule '{name}'{suggestion}")
    assert suggestion or "did you mean" not in said


def test_each_name_of_nettrace_is_explained() -> None:
    leaves = tree.load(files.TREE)
    ours = (leaves, rules.load(files.RULES, leaves), reasons.load(files.RULES))
    names = {*leaves.names(), *(rule.name for rule in ours[1].all), *ours[2].drops, *ours[2].resets}
    for name in names:
        lines = explain.text(name, *ours).splitlines()
        # A title that says what it is, and a meaning below.
        assert ": " in lines[0] and lines[1].startswith("    ") and lines[1].strip(), name
