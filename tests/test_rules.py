"""Rules read strictly, when they hold, and the shipped ones against the recorded kernels and the older tool's."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional, Union

import pytest

from nettrace import diagnosis, facts, files, proof, rules, tree
from nettrace.errors import ConfigurationError
from nettrace.event import Drop, Event, Return
from nettrace.kernel import Kernel
from nettrace.reasons import DROP_FILE, RESET_FILE
from nettrace.rules import Judge, Rule, Rules
from nettrace.tree import Trace, Tree
from tests.record_kernel import VERSIONS

from .headers import PING

TREE = """\
desc: all traces
groups:
  some:
    desc: some
    traces:
      check: {skb: 0, facts: {type: "int@1", most: "int@2", kind: "Qdisc->ops->id"}, desc: a}
      send: {skb: 0, desc: b}
      seen: {tracepoint: "net:seen", skb: 0, desc: c}
      dropped: {tracepoint: "skb:kfree_skb", skb: 0, role: drop, desc: d}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    path = tmp_path_factory.mktemp("tree") / "t.yaml"
    path.write_text(TREE, encoding="utf-8")
    return tree.load(path)


Load = Callable[..., Rules]


@pytest.fixture
def load(tmp_path: Path, small: Tree) -> Load:
    """Reads texts as the files a.yaml, b.yaml, ..."""

    def load(*texts: str) -> Rules:
        for name, text in zip("abc", texts):
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        return rules.load(tmp_path, small)

    return load


def rule(name: str, trace: str, when: str = "", **more: str) -> str:
    """A rule of five lines, or more: a condition is in the third."""
    lines = [f"{name}:", f"  trace: {trace}", f"  when: {when}" if when else "  # always", "  level: warn"]
    return "\n".join([*lines, f"  message: it is {name}", *(f"  {key}: {value}" for key, value in more.items())]) + "\n"


def test_a_rule_is_read(load: Load) -> None:
    text = (
        "refused:\n  trace: [check, send]\n  when: {return: {lt: 0, ne: -EXDEV}}\n  returns: int\n  level: error\n"
        "  message: it was refused\n  advice: [do this, or that]\n  evidence: route\n  effect: true\n"
        "sent:\n  trace: send\n  level: info\n  message: it was sent\n"
    )
    read = load(text)
    less, other = (rules.Condition("return", "lt", (0,)), rules.Condition("return", "ne", ("-EXDEV",)))
    refused = Rule(
        "refused", ("check", "send"), (less, other), "int", "error", "it was refused", ("do this", "or that"),
        ("route",), effect=True,
    )  # fmt: skip
    assert read.all == (refused, Rule("sent", ("send",), (), None, "info", "it was sent"))
    assert read.find("sent") is read.all[1]
    assert read.find("lost") is None
    assert read.of("send") == read.all
    assert read.of("seen") == ()


def test_what_rules_ask_of_a_run(load: Load) -> None:
    read = load(
        rule("a", "[check, seen]") + rule("b", "send", "{return: {eq: 1}}")
        + rule("c", "dropped").replace("warn", "info")
    )  # fmt: skip
    assert read.by_trace == {"check", "seen", "send", "dropped"}
    assert read.tell_trouble == {"check", "seen", "send"}
    assert read.need_return == {"send"}
    assert [one.needs_return for one in read.all] == [False, True, False]
    assert load(rule("d", "send", "{verdict: {eq: NF_DROP}}")).need_return == {"send"}
    assert load(rule("e", "check", "{type: {eq: 1}}")).need_return == set()


def test_the_files_are_read_by_name_and_those_of_reasons_are_not(load: Load, tmp_path: Path) -> None:
    for name in (DROP_FILE, RESET_FILE):
        (tmp_path / name).write_text("- no rule\n", encoding="utf-8")
    assert [one.name for one in load(rule("z", "send", "{return: {eq: 1}}"), rule("a", "send")).all] == ["z", "a"]


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        (rule("a", "chek"), 2, "there is no trace 'chek'; did you mean 'check'?"),
        (rule("a", "[send, sendd]"), 2, "there is no trace 'sendd'; did you mean 'send'?"),
        (rule("a", "[]"), 2, "the list is empty"),
        (rule("a", "[send, send]"), 2, "a trace is named twice"),
        (rule("a", "send").replace("trace", "traces"), 2, "unknown key 'traces'; did you mean 'trace'?"),
        (rule("a", "send").replace("  level: warn\n", ""), 1, "'level' is missing"),
        (rule("a", "send").replace("warn", "fatal"), 4, "'fatal' is not one of info, warn, error"),
        (rule("a", "send", advice="[]"), 6, "the list is empty"),
        (rule("a", "send", evidence="7"), 6, "text is expected, not a whole number"),
        (rule("a", "send", effect="1"), 6, "true or false is expected, not a whole number"),
        (rule("a", "send", "[1]"), 3, "a mapping is expected, not a list"),
        (
            rule("a", "send", "{return: {eg: 0}}"), 3,
            "unknown operator 'eg'; there are eq, ne, lt, le, gt, ge, in, between",
        ),
        (rule("a", "send", "{return: {any: 0}}"), 3, "unknown operator 'any'; there are "),
        (rule("a", "send", "{return: {}}"), 3, "'return' is compared with nothing: leave it out if it may be anything"),
        (rule("a", "send", "{return: {in: []}}"), 3, "the list is empty: the rule can never hold"),
        (rule("a", "send", "{return: {in: 1}}"), 3, "a list is expected, not a whole number"),
        (rule("a", "send", "{return: {eq: [1]}}"), 3, "text is expected, not a list"),
        (rule("a", "send", "{return: {eq: }}"), 3, "text is expected, not nothing"),
        (rule("a", "send", "{return: {between: [1]}}"), 3, "'between' needs two numbers, the lowest and the highest"),
        (
            rule("a", "send", "{return: {between: [5, 1]}}"), 3,
            "nothing is between 5 and 1: the rule can never hold",
        ),
        (rule("a", "send", "{return: {eq: a b}}"), 3, "'a b' is no number, and no name of one"),
        (rule("a", "check", "{type: {gt: moost}}"), 3, "'moost' is no number, no name of one, and no other fact"),
        # NULL is YAML's own word for nothing.
        (rule("a", "send", "{return: {eq: NULL}}"), 3, "text is expected, not nothing"),
        (
            rule("a", "send", "{return: {eq: NF_DORP}}"), 3,
            "'NF_DORP' is no number, and no name of one; did you mean 'NF_DROP'?",
        ),
        (rule("a", "send", "{return: {in: [0, -ENOSUCH]}}"), 3, "'-ENOSUCH' is no number, and no name of one"),
        (
            rule("a", "[send, seen]", "{return: {eq: 0}}"), 3,
            "seen is a tracepoint, which returns nothing: the rule can never hold",
        ),
        (
            rule("a", "seen", "{verdict: {eq: NF_DROP}}"), 3,
            "seen is a tracepoint, which returns nothing: the rule can never hold",
        ),
        (rule("a", "seen", returns="int"), 6, "a tracepoint returns nothing"),
        (
            rule("a", "[dropped, check]", "{drop_reason: {eq: NO_SOCKET}}"), 3,
            "check tells no reason: the rule can never hold",
        ),
        (rule("a", "dropped", "{drop_reason: {gt: A}}"), 3, "a reason has a name: eq, ne and in compare it"),
        (rule("a", "dropped", "{drop_reason: {eq: 5}}"), 3, "text is expected, not a whole number"),
        (rule("a", "check", "{typo: {eq: 1}}"), 3, "check tells no 'typo'; did you mean 'type'?; it has return, "),
        (
            rule("a", "[check, send]", "{type: {eq: 1}}"), 3,
            "send tells no 'type'; it has return, verdict",
        ),
        (
            rule("a", "[check, send]") + rule("b", "[dropped, send]", "{}"), 6,
            "rule 'b' can never hold: all of send is taken by rule 'a'",
        ),
        (
            rule("a", "send", returns="int") + rule("b", "send", "{return: {eq: 1}}", returns="int"), 7,
            "rule 'b' can never hold: all of send is taken by rule 'a'",
        ),
        (rule("a", "send", "{return: {eq: 1}}") + rule("a", "check"), 6, "duplicate key 'a', first in line 1"),
        ("[]\n", 1, "a mapping is expected, not a list"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_an_error_with_its_place(text: str, line: int, error: str, load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(text)
    assert str(raised.value).startswith(f"{tmp_path / 'a.yaml'}:{line}: {error}")


def test_a_name_of_another_file(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(rule("a", "send"), rule("b", "check") + rule("a", "seen"))
    assert str(raised.value) == f"{tmp_path / 'b.yaml'}:6: there are two rules 'a'"


def test_what_does_not_take_all(load: Load) -> None:
    load(rule("a", "send", returns="int") + rule("b", "send", returns="bool") + rule("c", "send"))
    load(rule("a", "send", "{return: {lt: 0}}") + rule("b", "send"), rule("c", "check"))


ENUMS = {
    "xdp_action": {0: "XDP_ABORTED", 1: "XDP_DROP", 2: "XDP_PASS", 3: "XDP_TX", 4: "XDP_REDIRECT"},
    "gro_result": {0: "GRO_MERGED", 4: "GRO_CONSUMED"},
}
REASONS = {2: "NOT_SPECIFIED", 3: "NO_SOCKET"}


def judged(
    read: Rules, returns: Optional[str] = "int", enums: Mapping[str, Mapping[int, str]] = ENUMS
) -> Callable[[Event], str]:
    """Which rule an event meets, where the functions return this type."""
    judge = Judge(read, lambda trace: returns, lambda name: enums.get(name, {}), lambda value: REASONS[value])

    def name(item: Event) -> str:
        found = judge.rule(item)
        return "" if found is None else found.name

    return name


def returned(value: Optional[int], trace: str = "send") -> Event:
    """The event of a function that left this in the 64 bits of its register."""
    register = None if value is None else Return(1, value & (1 << 64) - 1)
    return Event(0, trace, 0xFFFF888100000000, PING, returned=register)


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        ("{eq: 3}", (3,), (2, 4, -3)),
        ("{ne: 3}", (2, 4, -3), (3,)),
        ("{lt: 3}", (2, -4), (3, 4)),
        ("{le: 3}", (3, -4), (4,)),
        ("{gt: 3}", (4, 1 << 30), (3, -4)),
        ("{ge: 3}", (3, 4), (2, -4)),
        ("{in: [1, 3]}", (1, 3), (2,)),
        ("{between: [1, 3]}", (1, 2, 3), (0, 4, -2)),
        ("{between: [-3, -3]}", (-3,), (-2, -4, 3)),
        ("{gt: 1, ne: 3}", (2, 4), (1, 3)),
        ("{eq: NF_STOP}", (5,), (4,)),
        ("{eq: -EXDEV}", (-18,), (18, -17)),
        ("{eq: EXDEV}", (18,), (-18,)),
        ("{lt: -ENOENT}", (-3,), (-2, 2)),
        ("{in: [NET_XMIT_DROP, NET_XMIT_CN]}", (1, 2), (0,)),
        ("{eq: TC_ACT_UNSPEC}", (-1,), (1,)),
        ("{between: [-EXDEV, -EPERM]}", (-18, -1), (-19, 0)),
        ("{eq: true}", (1,), (0, 2)),
        ('{eq: "NULL"}', (0,), (1,)),
        ("{eq: xdp_action.XDP_DROP}", (1,), (0, 2)),
        ("{in: [xdp_action.XDP_TX, 9]}", (3, 9), (1,)),
        # What this kernel has no number for, nothing is equal to, and nothing can be compared with.
        ("{eq: gro_result.GRO_DROP}", (), (0, 4)),
        ("{ne: gro_result.GRO_DROP}", (), (0, 4)),
        ("{ge: gro_result.GRO_DROP}", (), (0, 4)),
        ("{between: [0, gro_result.GRO_DROP]}", (), (0, 4)),
        ("{in: [gro_result.GRO_DROP, 4]}", (4,), (0,)),
        ("{eq: no_enum.AT_ALL}", (), (0, 1)),
    ],
)
def test_conditions(condition: str, holds: tuple[int, ...], fails: tuple[int, ...], load: Load) -> None:
    name = judged(load(rule("a", "send", f"{{return: {condition}}}")))
    assert [value for value in (*holds, *fails) if name(returned(value)) == "a"] == list(holds)
    assert name(returned(None)) == ""


@pytest.mark.parametrize(
    ("kind", "register", "number"),
    [
        ("int", 0xFFFFFFFF, -1),
        ("int", 0xABCD_0000_0001, 1),  # what is above an int says nothing
        ("unsigned int", 0xFFFFFFFF, 0xFFFFFFFF),
        ("u32", 1 << 32 | 7, 7),
        ("u8", 0x1FF, 0xFF),
        ("s8", 0x1FF, -1),
        ("__sum16", 0xFFFF_0001, 1),
        ("bool", 0xFF00, 0),  # only its lowest byte is set
        ("bool", 0xFF01, 1),
        ("enum skb_drop_reason", 0xFFFF_FFFF_0000_0003, 3),
        ("enum gro_result", 0xFFFFFFFF, -1),
        ("netdev_tx_t", 0x10, 0x10),
        ("long int", (1 << 64) - 5, -5),
        ("long unsigned int", (1 << 64) - 5, (1 << 64) - 5),
        ("struct sock *", 0xFFFF888100000000, 0xFFFF888100000000),
        (None, 0xFFFFFFFF, -1),  # not known: as most functions have it
    ],
)
def test_numbers_are_as_the_type_has_them(kind: Optional[str], register: int, number: int, load: Load) -> None:
    name = judged(load(rule("a", "send", f"{{return: {{eq: {number}}}}}")), kind)
    assert name(returned(register)) == "a"
    assert name(returned(register + 1)) == ""


def test_a_pointer_that_ends_in_zeros_is_not_null(load: Load) -> None:
    name = judged(load(rule("a", "send", '{return: {eq: "NULL"}}')), "struct sock *")
    assert [name(returned(value)) for value in (0, 0xFFFF888100000000)] == ["a", ""]


# include/uapi/linux/netfilter.h: the verdict is in the low byte, an error or a queue's number in the high bits.
VERDICTS = {
    0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat",
    13 << 16: "drop",  # NF_DROP_ERR(-EACCES)
    1 << 16 | 2: "drop",  # NF_DROP_REASON(), which says "stolen" (Linux commit e0d4593140b0)
    7 << 16 | 3: "queue",
    0xFFFF << 16 | 3: "queue",
    77: "", -1: "", -4: "",
}  # fmt: skip


@pytest.mark.parametrize("value", VERDICTS)
def test_verdicts(value: int, load: Load) -> None:
    names = ("drop", "accept", "stolen", "queue", "repeat")
    text = "".join(rule(name, "send", f"{{verdict: {{eq: NF_{name.upper()}}}}}") for name in names)
    assert judged(load(text), "unsigned int")(returned(value)) == VERDICTS[value]


def test_the_first_that_holds_counts(load: Load) -> None:
    name = judged(
        load(rule("big", "send", "{return: {gt: 9}}") + rule("even", "[send, check]", "{return: {in: [2, 10]}}"))
    )
    assert [name(returned(value)) for value in (10, 2, 1)] == ["big", "even", ""]
    assert [name(returned(value, "check")) for value in (10, 1)] == ["even", ""]
    assert name(returned(10, "seen")) == ""
    always = judged(load(rule("a", "[send, seen]")))
    assert [always(returned(None, trace)) for trace in ("send", "seen", "check")] == ["a", "a", ""]


def test_rules_for_a_type(load: Load) -> None:
    read = load(
        rule("number", "send", "{return: {lt: 0}}", returns="int")
        + rule("reason", "send", "{return: {ne: 0}}", returns="enum skb_drop_reason")
        + rule("other", "send")
    )
    assert [judged(read, "int")(returned(value)) for value in (-1, 2)] == ["number", "other"]
    assert [judged(read, "enum skb_drop_reason")(returned(value)) for value in (0, 2)] == ["other", "reason"]
    assert [judged(read, None)(returned(value)) for value in (-1, 2)] == ["other", "other"]


def test_reasons_of_drops(load: Load) -> None:
    name = judged(
        load(
            rule("socket", "dropped", "{drop_reason: {in: [NO_SOCKET, X]}}")
            + rule("any", "dropped", "{drop_reason: {ne: X}}")
        )
    )  # fmt: skip
    dropped = Event(0, "dropped", 1, PING)
    assert [name(dropped._replace(drop=Drop(0, reason))) for reason in (3, 2, None)] == ["socket", "any", ""]
    assert name(dropped) == ""


def test_facts_are_compared(load: Load) -> None:
    name = judged(
        load(
            rule("text", "check", "{kind: {in: [tbf, EPERM]}}") + rule("number", "check", "{type: {eq: EXDEV}}")
            + rule("both", "check", "{type: {gt: 5}, kind: {ne: fq}}")
        )
    )  # fmt: skip
    item = Event(0, "check", 1, PING)
    told: list[tuple[tuple[str, Union[int, str]], ...]] = [
        (("kind", "tbf"),), (("kind", "EPERM"),), (("type", 18),), (("type", 6), ("kind", "x")),
        (("type", 6), ("kind", "fq")), (("type", 6),), (),
    ]  # fmt: skip
    assert [name(item._replace(facts=each)) for each in told] == ["text", "text", "number", "both", "", "", ""]
    # A text is not more than a number.
    assert judged(load(rule("a", "check", "{kind: {gt: 1}}")))(item._replace(facts=(("kind", "2"),))) == ""


def test_facts_are_compared_with_each_other(load: Load) -> None:
    name = judged(load(rule("more", "check", "{type: {gt: most}}")))
    item = Event(0, "check", 1, PING)
    told = [(("type", 3), ("most", 2)), (("type", 2), ("most", 2)), (("type", 3),)]
    assert [name(item._replace(facts=each)) for each in told] == ["more", "", ""]


# The rules of nettrace itself.


@pytest.fixture(scope="module")
def shipped() -> Rules:
    return rules.load(files.RULES, tree.load(files.TREE))


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    return {trace.name: trace for trace in tree.load(files.TREE).traces()}


def obstacle(one: Rule, trace: Trace, kernel: Kernel) -> str:
    """Why the rule cannot hold of the trace on a kernel."""
    prototype, types, returns = None, kernel.btf, None
    if trace.tracepoint is not None:
        prototype = kernel.btf.tracepoint(trace.tracepoint.partition(":")[2])
        if prototype is None:
            return "no tracepoint"
    else:
        function = next((name for name in trace.functions if kernel.obstacle(name) is None), None)
        if function is None:
            return "no function"
        prototype, types, returns = kernel.prototype(function), kernel.types_of(function), kernel.return_type(function)
    # Modules of 5.10 do not tell.
    if one.needs_return and returns == "void":
        return "returns nothing"
    if one.returns is not None and one.returns != returns:
        return f"returns {returns}"
    paths = dict(trace.facts)
    for condition in one.conditions:
        subject = condition.subject
        if subject in paths and facts.find(subject, paths[subject], prototype, types) is None:
            return f"no {subject}"
        for value in condition.values:
            enum, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
            if enum and name not in kernel.enum_names(enum).values():
                return f"no {value}"
    return ""


# Where a rule cannot hold, and why.
NOT_EVERYWHERE = {
    "input-route-failed": {"7.2": "returns enum skb_drop_reason"},
    "input-route-failed-with-reason": dict.fromkeys(("5.10", "6.1", "6.12"), "returns int"),
    "bad-checksum": {"5.10": "no tracepoint"},
    # Older kernels tell of no attempt that failed.
    "retransmission-failed": dict.fromkeys(("5.10", "6.1", "6.12"), "no error"),
    # GRO does not drop any more.
    "gro-dropped": {"6.1": "no gro_result.GRO_DROP", "6.12": "no gro_result.GRO_DROP", "7.2": "no gro_result.GRO_DROP"},
}


def test_each_rule_can_hold(shipped: Rules, traces: dict[str, Trace], kernels: dict[str, Kernel]) -> None:
    against: dict[str, dict[str, str]] = {}
    for one in shipped.all:
        for version in VERSIONS:
            whys = [obstacle(one, traces[trace], kernels[version]) for trace in one.traces]
            if all(whys):
                against.setdefault(one.name, {})[version] = whys[0]
    assert against == NOT_EVERYWHERE


def test_each_trace_of_a_rule_is_on_some_kernel(
    shipped: Rules, traces: dict[str, Trace], kernels: dict[str, Kernel]
) -> None:
    for one in shipped.all:
        for trace in one.traces:
            found = [version for version in VERSIONS if not obstacle(one, traces[trace], kernels[version])]
            assert found, f"{one.name}: {trace}"


def test_texts_are_plain(shipped: Rules) -> None:
    for one in shipped.all:
        # Lines show it between asterisks.
        assert "*" not in one.message and "\n" not in one.message, one.name
        for text in (one.message, *one.advice):
            assert not text.endswith((".", "!", ",")), one.name
        assert re.fullmatch(r"[a-z0-9-]+", one.name)


def test_what_is_wrong_comes_with_advice_or_is_an_effect(shipped: Rules) -> None:
    lacking = {one.name for one in shipped.all if one.level == "error" and not one.advice and not one.effect}
    assert lacking == set()


def test_evidence_that_can_be_asked_for(shipped: Rules) -> None:
    wanted = {name for one in shipped.all for name in one.evidence}
    for table in (diagnosis._EVIDENCE, diagnosis._EVIDENCE_AT):
        wanted |= {name for names in table.values() for name in names}
    # Firewalls are asked in another way.
    questions = {*proof._OF_DEVICES, *proof._OF_FLOWS}
    assert wanted - questions == {"firewall"}
    assert not questions - wanted


def test_no_two_rules_have_a_name(shipped: Rules) -> None:
    names = [one.name for one in shipped.all]
    assert len(set(names)) == len(names) >= 80


BRIDGE_HOOKS = ("pre_routing", "forward_ip", "forward_arp", "post_routing")
# What the older tool says of which functions by which condition on the return value, and the rule that says it here.
OLDER = {
    "dev_gro_receive eq 4": "gro-dropped",
    "enqueue_to_backlog ne 0": "backlog-full",
    "netif_receive_generic_xdp eq 1": "xdp-drop",
    "netif_receive_generic_xdp eq 3": "xdp-sent-back",
    "netif_receive_generic_xdp eq 4": "xdp-redirected",
    "xdp_do_generic_redirect ne 0": "xdp-redirect-failed",
    "__dev_queue_xmit ne 0": "queue-refused queue-congested device-refused",
    "dev_hard_start_xmit any": "given-to-driver",
    **{f"br_nf_{hook} eq 0": "bridge-filter-drop" for hook in BRIDGE_HOOKS},
    **{f"br_nf_{hook} eq 1": "bridge-filter-accept" for hook in BRIDGE_HOOKS},
    "ipt_do_table eq 0": "iptables-drop",
    "ipt_do_table eq 1": "iptables-accept",
    "nft_do_chain eq 0": "nft-drop",
    "nft_do_chain eq 1": "nft-accept",
    "nf_nat_manip_pkt any": "nat",
    "nf_hook_slow eq -1": "hook-drop",
    "fib_validate_source ne 0": "source-refused",
    "ip_route_input_slow ne 0": "input-route-failed input-route-failed-with-reason",
    "tcp_v4_send_reset any": "reset-sent",
    "tcp_v6_send_reset any": "reset-sent",
    "tcp_send_active_reset any": "reset-by-program",
    "tcp_rcv_state_process any": "state-handled",
    "tcp_send_probe0 any": "probe-sent",
    "__inet_lookup_listener eq 0": "port-not-listened",
    "inet6_lookup_listener eq 0": "port-not-listened",
    "tcp_bad_csum any": "bad-checksum",
    "__tcp_transmit_skb ne 0": "transmit-failed",
    "ping_lookup eq 0": "ping-not-waited-for",
    "inet_listen any": "listens",
    "tcp_close any": "closed",
    "tcp_retransmit_timer any": "retransmission-timeout",
    "tcp_enter_recovery any": "recovery-begins",
    "tcp_enter_loss any": "loss",
    "tcp_try_keep_open any": "open-again",
    "tcp_enter_cwr any": "window-reduced",
    "tcp_dsack_set any": "duplicate-data",
    "skb_clone any": "cloned",
    "consume_skb any": "freed",
}  # fmt: skip
# What has no such counterpart, and why.
OTHERWISE = {
    "tcp_in_window eq 0": "compilers put it into nf_conntrack_tcp_packet, which tells: window-check-failed",
    "kfree_skb any": "the reason tells, by drop-reasons.yaml; where there is none, nettrace/diagnosis.py",
}


def test_all_rules_of_the_older_tool_are_listed() -> None:
    assert len(OLDER) + len(OTHERWISE) == 46
    assert not OLDER.keys() & OTHERWISE.keys()


@pytest.mark.parametrize("older", OLDER)
def test_the_rules_of_the_older_tool(older: str, shipped: Rules, traces: dict[str, Trace]) -> None:
    function, operator, *_ = older.split()
    found = [shipped.find(name) for name in OLDER[older].split()]
    for one in found:
        assert one is not None
        assert any(function in (trace, *traces[trace].functions) for trace in one.traces), one.name
        # One that says so of any return value is an `any` here too.
        assert (operator == "any") == (not one.conditions), one.name
