"""The reasons in rules/ against those that the recorded kernels know, and what becomes of a wrong file."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from nettrace import files, reasons
from nettrace.errors import ConfigurationError
from nettrace.kernel import Kernel
from nettrace.reasons import Reason, Reasons

# Subsystems' own reasons: the module with the enum, "" for the kernel itself.
SUBSYSTEMS = {"mac80211_drop_reason": "mac80211", "ovs_drop_reason": "openvswitch", "qdisc_drop_reason": ""}
# The end of an enum and the first number of a subsystem: no packet is dropped for them.
MARKERS = re.compile(r".*_MAX|__.*")
# Names that only kernels between the recorded ones have.
BETWEEN = {
    "VXLAN_NO_REMOTE", "QDISC_OVERLIMIT", "QDISC_CONGESTED", "CAKE_FLOOD", "FQ_BAND_LIMIT", "FQ_HORIZON_LIMIT",
    "FQ_FLOW_LIMIT", "DUALPI2_STEP_DROP", "RX_DROP", "RX_DROP_UNUSABLE",
}  # fmt: skip
RESET_PREFIX = "SK_RST_REASON_"

# What happens to healthy connections, neighbours and switches, so that it must not look like a fault.
HEALTHY = """
NOT_DROPPED_YET CONSUMED OTHERHOST TCP_OLD_DATA TCP_OFOMERGE TCP_OFO_DROP TCP_OLD_ACK TCP_OLD_SEQUENCE
TCP_RFC7323_PAWS_ACK TCP_CLOSE IPV6_NDISC_NS_OTHERHOST ARP_PVLAN_DISABLE QUEUE_PURGE UNIX_SKIP_OOB
"""
# What breaks the scenarios that must be diagnosed as errors.
FAULTS = """
NETFILTER_DROP NO_SOCKET IP_RPFILTER IP_INADDRERRORS IP_INNOROUTES IP_OUTNOROUTES NEIGH_FAILED PKT_TOO_BIG IP_INHDR
XDP TC_INGRESS TC_EGRESS QDISC_DROP QDISC_DROP_OVERLIMIT TCP_CSUM UDP_CSUM SOCKET_RCVBUFF
"""
ENTRY = "  level: warn\n  meaning: It is.\n  causes: [this]\n  check: [that]\n  fix: [Do it.]\n"


@pytest.fixture(scope="module")
def shipped() -> Reasons:
    return reasons.load(files.RULES)


@pytest.fixture(scope="module")
def known_drops(kernels: dict[str, Kernel]) -> set[str]:
    return {name for kernel in kernels.values() for name in drops(kernel)}


@pytest.fixture(scope="module")
def known_resets(kernels: dict[str, Kernel]) -> set[str]:
    names = {name for kernel in kernels.values() for name in kernel.enum_names("sk_rst_reason").values()}
    return {name[len(RESET_PREFIX) :] for name in names if not MARKERS.fullmatch(name)}


def drops(kernel: Kernel) -> Iterator[str]:
    """All that a kernel can say of a dropped packet, as nettrace prints it."""
    values = set(kernel.drop_reasons)
    for enum, module in SUBSYSTEMS.items():
        types = kernel.module_btf(module) if module else kernel.btf
        if types is not None:
            values.update((types.enum(enum) or {}).values())
    for value in values:
        name = kernel.drop_reason(value)
        if not MARKERS.fullmatch(name):
            yield name


def every(shipped: Reasons) -> Iterator[Reason]:
    for mapping in (shipped.drops, shipped.resets):
        yield from {reason.name: reason for reason in mapping.values()}.values()


@pytest.mark.parametrize(
    "name",
    [
        "NO_SOCKET", "CONSUMED", "TCP_LISTEN_OVERFLOW", "QDISC_DROP_OVERLIMIT", "OVS_DROP_METER", "RX_DROP_U_REPLAY",
        "RX_DROP_M_BAD_BCN_KEYIDX",
    ],
)  # fmt: skip
def test_the_recorded_kernels_know(name: str, known_drops: set[str]) -> None:
    assert name in known_drops


def test_every_drop_reason_of_every_kernel_has_an_entry(shipped: Reasons, known_drops: set[str]) -> None:
    assert len(known_drops) > 200
    assert [name for name in sorted(known_drops) if shipped.drop(name) is None] == []


def test_every_reset_reason_of_every_kernel_has_an_entry(shipped: Reasons, known_resets: set[str]) -> None:
    assert len(known_resets) > 20
    assert [name for name in sorted(known_resets) if shipped.reset(name) is None] == []


def test_every_entry_is_a_reason_of_some_kernel(
    shipped: Reasons, known_drops: set[str], known_resets: set[str]
) -> None:
    assert set(shipped.drops) - known_drops == BETWEEN
    assert set(shipped.resets) == known_resets


def test_an_entry_has_the_name_of_a_recorded_kernel(shipped: Reasons, known_drops: set[str]) -> None:
    assert {reason.name for reason in shipped.drops.values()} <= known_drops


def test_a_reason_is_found_by_its_other_names(shipped: Reasons) -> None:
    reason = shipped.drop("QDISC_OVERLIMIT")
    assert reason is not None
    assert reason is shipped.drop("QDISC_DROP_OVERLIMIT")
    assert (reason.name, reason.aliases) == ("QDISC_DROP_OVERLIMIT", ("QDISC_OVERLIMIT",))


def test_an_unknown_reason_is_none(shipped: Reasons) -> None:
    assert shipped.drop("TCP_ABORT_ON_CLOSE") is None
    assert shipped.reset("NETFILTER_DROP") is None


@pytest.mark.parametrize("name", HEALTHY.split())
def test_what_happens_to_healthy_traffic_is_information(name: str, shipped: Reasons) -> None:
    reason = shipped.drop(name)
    assert reason is not None
    assert reason.level == "info"


@pytest.mark.parametrize("name", FAULTS.split())
def test_what_breaks_traffic_is_an_error(name: str, shipped: Reasons) -> None:
    reason = shipped.drop(name)
    assert reason is not None
    assert reason.level == "error"


def test_sentences_are_sentences(shipped: Reasons) -> None:
    for reason in every(shipped):
        for sentence in (reason.meaning, *reason.fix):
            assert re.fullmatch(r"[A-Z].*\.", sentence), (reason.name, sentence)


def test_causes_and_checks_are_no_sentences(shipped: Reasons) -> None:
    for reason in every(shipped):
        for phrase in (*reason.causes, *reason.check):
            assert not phrase.endswith((".", ";", ",", ":")), (reason.name, phrase)
            assert phrase.count("(") == phrase.count(")"), (reason.name, phrase)


def test_texts_are_plain(shipped: Reasons) -> None:
    for reason in every(shipped):
        texts = (reason.meaning, *reason.causes, *reason.check, *reason.fix)
        for text in texts:
            assert not re.search(r"(?i)(?<!-)\b(?:I|we|us|our|my|please|you|your|simply)\b", text), (reason.name, text)
            assert text.isascii() and text.isprintable() and "  " not in text, (reason.name, text)
        assert len(reason.meaning) <= 110, reason.name
        assert not re.search(r"\b(?:skb|sk_buff|struct|NULL)\b", reason.meaning), reason.name
        # What is said once helps; said twice it was copied by mistake.
        assert len(set(texts)) == len(texts), reason.name


def test_no_two_reasons_mean_the_same(shipped: Reasons) -> None:
    meanings = [reason.meaning for reason in {reason.name: reason for reason in shipped.drops.values()}.values()]
    assert len(set(meanings)) == len(meanings)


def test_what_is_no_fault_needs_no_work(shipped: Reasons) -> None:
    for reason in every(shipped):
        if reason.level == "info":
            assert re.match(r"(?:Nothing|Usually nothing)\b", reason.fix[0]), reason.name


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    (tmp_path / reasons.RESET_FILE).write_text("R:\n" + ENTRY, encoding="utf-8")

    def write(text: str) -> Path:
        (tmp_path / reasons.DROP_FILE).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_an_entry_is_read(write: Callable[[str], Path]) -> None:
    loaded = reasons.load(write("A:\n  aliases: [B]\n" + ENTRY))
    expected = Reason("A", ("B",), "warn", "It is.", ("this",), ("that",), ("Do it.",))
    assert loaded.drops == {"A": expected, "B": expected}
    assert loaded.reset("R") == Reason("R", (), "warn", "It is.", ("this",), ("that",), ("Do it.",))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A:\n" + ENTRY + "  cause: [x]\n", ":7: unknown key 'cause'; did you mean 'causes'?"),
        ("A:\n" + ENTRY.replace("  fix: [Do it.]\n", ""), ":1: 'fix' is missing"),
        ("A:\n" + ENTRY.replace("warn", "warning"), ":2: 'warning' is not one of info, warn, error"),
        ("A:\n" + ENTRY.replace("It is.", "' '"), ":3: the text is empty"),
        ("A:\n" + ENTRY.replace("[this]", "[]"), ":4: the list is empty"),
        ("A:\n" + ENTRY.replace("[this]", "this"), ":4: a list is expected, not text"),
        ("A:\n" + ENTRY.replace("[that]", "[that, '']"), ":5: the text is empty"),
        ("A:\n" + ENTRY.replace("[that]", "[7]"), ":5: text is expected, not a whole number"),
        ("A:\n" + ENTRY + "A:\n" + ENTRY, ":7: duplicate key 'A', first in line 1"),
        ("A:\n" + ENTRY + "B:\n  aliases: [A]\n" + ENTRY, ":7: 'A' is already in line 1"),
        ("A:\n  aliases: [B]\n" + ENTRY + "B:\n" + ENTRY, ":8: 'B' is already in line 1"),
        ("A:\n  aliases: [B, B]\n" + ENTRY, ":1: 'B' is already in line 1"),
        ("- A\n", ":1: a mapping is expected, not a list"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_place(text: str, error: str, write: Callable[[str], Path]) -> None:
    folder = write(text)
    with pytest.raises(ConfigurationError) as raised:
        reasons.load(folder)
    assert str(raised.value).startswith(f"{folder / reasons.DROP_FILE}{error}")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"drop-reasons\.yaml: cannot be read: No such file"):
        reasons.load(tmp_path)
