"""--diff: where two packets part, which packets are compared, and what is more than noise."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import io
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

import nettrace
from nettrace import cli, comparison, rules, tree
from nettrace.comparison import Comparison, Flow, compare, percentile_differs, share_differs
from nettrace.event import Context, Device, Event
from nettrace.header import Header
from nettrace.histogram import BUCKETS, Histogram, bucket
from nettrace.rules import Rules
from nettrace.tree import Tree

from . import edited, schema
from .headers import IP, PING, TCP, packet, tcp

CODE = 0xFFFFFFFF81000010
KERNELS = sorted(path.parent.name for path in edited.FOLDER.glob("*/good.ntr"))
DROPPED = "kfree_skb (NETFILTER_DROP, nf_hook_slow)"
SYMBOL = [0, "symbol", CODE, ["nf_hook_slow", 16, 100, ""]]


@pytest.fixture(autouse=True)
def read_once(leaves: Tree, shipped: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped."""
    monkeypatch.setattr(tree, "load", lambda _: leaves)
    monkeypatch.setattr(rules, "load", lambda *_: shipped)


@pytest.fixture(scope="module")
def recorded() -> list[Context]:
    return edited.packets()


@pytest.fixture(scope="module")
def ping(recorded: list[Context]) -> Context:
    return next(filter(edited.is_ping, recorded))


@pytest.fixture(scope="module")
def reason() -> int:
    with nettrace.open(str(edited.DIAG)) as recording:
        assert list(recording)
        return next(number for number in range(200) if recording.host.drop_reason(number) == "NETFILTER_DROP")


def all_of(_: Any) -> None:
    return None


Pair = Callable[..., Comparison]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Compares two lists of packets."""

    def run(first: list[Context], second: list[Context], **more: Any) -> Comparison:
        for path in tmp_path.iterdir():
            path.unlink()
        one = edited.write(tmp_path / "a.ntr", first)
        two = edited.write(tmp_path / "b.ntr", second, **more)
        return compare(one, two, all_of)

    return run


def the_flow(found: Comparison) -> Flow:
    (flow,) = found.flows
    return flow


def the_parting(found: Comparison) -> comparison.Parting:
    ((count, place),) = the_flow(found).partings.values()
    assert count == the_flow(found).parted
    return place


@pytest.mark.parametrize("version", ["5.10", "6.12", "7.2"])
def test_a_recording_does_not_differ_from_itself(version: str) -> None:
    path = str(edited.FOLDER / version / "diag.ntr")
    found = compare(path, path, all_of)
    assert found.first.packets == found.second.packets == sum(flow.pairs for flow in found.flows)
    assert not any(flow.differs for flow in found.flows) and not found.slower
    assert not found.first.alone and not found.second.alone


def test_where_a_packet_was_dropped(ping: Context, reason: int, pair: Pair) -> None:
    bad = edited.dropped(ping, "nf_hook_slow", reason, CODE)
    place = the_parting(pair([ping], [bad], answers=[SYMBOL]))
    traces = [item.trace for item in ping.events]
    assert place.after == "nf_hook_slow" and place.alike == traces.index("nf_hook_slow")
    assert [(each.trace, each.what, each.first, each.second) for each in place.differences] == [
        ("nf_hook_slow", "return", "1 (accepted)", "-EPERM (dropped)")
    ]
    assert place.first[0] == traces[traces.index("nf_hook_slow") + 1]
    assert place.second == ("kfree_skb (NETFILTER_DROP, nf_hook_slow)",)
    assert place.meet == ""


def test_a_detour_comes_back(ping: Context, pair: Pair) -> None:
    place = the_parting(pair([ping], [edited.without(ping, "ip_rcv_core", "ip_route_input_slow")]))
    assert (place.after, place.meet) == ("netif_receive_skb", "fib_validate_source")
    assert (place.first, place.second) == (("ip_rcv_core", "ip_route_input_slow"), ())


def test_a_detour_does_not_hide_where_the_ways_part_for_good(ping: Context, reason: int, pair: Pair) -> None:
    first = edited.without(ping, "ip_finish_output2")
    second = edited.dropped(edited.without(ping, "neigh_resolve_output"), "ip_rcv_core", reason, CODE)
    flow = the_flow(pair([first, edited.again(ping, 1000)], [second, edited.again(second, 1000)], answers=[SYMBOL]))
    assert (flow.pairs, flow.parted) == (2, 2)
    gone = [(count, place) for count, place in flow.partings.values() if place.second[-1:] == (DROPPED,)]
    assert [(count, place.after, place.meet) for count, place in gone] == [(2, "ip_rcv_core", "")]
    assert any(place.meet for _, place in flow.partings.values())


def moved(item: Event) -> Event:
    assert item.device is not None
    return item._replace(device=Device(item.device.ifindex, "eth7", item.device.netns))


def marked(item: Event) -> Event:
    assert item.detail is not None
    return item._replace(detail=item.detail._replace(mark=0x20))


def translated(item: Event) -> Event:
    return item._replace(packet=item.packet._replace(saddr=bytes([192, 0, 2, 1])))


def routed(item: Event) -> Event:
    return item._replace(facts=tuple((name, "eth7" if name == "device" else value) for name, value in item.facts))


@pytest.mark.parametrize(
    ("trace", "change", "what", "first", "second"),
    [
        ("veth_xmit", moved, "device", "l0@left", "eth7@left"),
        ("icmp_rcv", marked, "mark", "0x0", "0x20"),
        ("icmp_echo", translated, "headers", "unchanged", "NAT: source 10.0.42.1 -> 192.0.2.1"),
        ("ip_output", routed, "route", "route: unicast dev l0", "route: unicast dev eth7"),
    ],
)
def test_what_differs_at_a_step(
    trace: str, change: Callable[[Event], Event], what: str, first: str, second: str, ping: Context, pair: Pair
) -> None:
    found = pair([ping], [edited.changed(ping, trace, change)])
    place = the_parting(found)
    assert place.after == "" and place.first == place.second == ()
    each = place.differences[0]
    assert (each.trace, each.what, each.first, each.second) == (trace, what, first, second)


# Since 6.7 the rule itself frees the packet.
DROPPED_BY_A_RULE = {"5.10": "nf_hook_slow", "6.1": "NETFILTER_DROP, nf_hook_slow"}
NEWER = "NETFILTER_DROP, nft_do_chain"


@pytest.mark.parametrize("first", KERNELS)
@pytest.mark.parametrize("second", KERNELS)
def test_a_rule_that_drops_pings_is_found_on_any_kernel(first: str, second: str) -> None:
    """What tests/e2e/test_compare.py recorded: three pings, and three that a rule of nftables drops."""
    found = compare(*(str(edited.FOLDER / name) for name in (f"{first}/good.ntr", f"{second}/bad.ntr")), all_of)
    request, reply = sorted(found.flows, key=lambda flow: flow.name)
    assert (request.pairs, request.parted, reply.first, reply.second) == (3, 3, 3, 0)
    gone = [(count, place) for count, place in request.partings.values() if place.after and not place.meet]
    assert sum(count for count, _ in gone) == 3
    assert {place.second[-1] for _, place in gone} == {f"kfree_skb ({DROPPED_BY_A_RULE.get(second, NEWER)})"}
    assert all("icmp_rcv" in place.first for _, place in gone)


def test_what_is_another_thing_from_somewhere_on_is_told_once(ping: Context, pair: Pair) -> None:
    place = the_parting(pair([ping], [ping._replace(events=tuple(map(marked, ping.events)))]))
    assert [(each.trace, each.what) for each in place.differences] == [("__ip_local_out", "mark")]


def test_what_is_another_thing_each_time_is_no_difference(recorded: list[Context], pair: Pair) -> None:
    """Times, sequence numbers, addresses of skbs, the ports of clients."""

    def other(item: Event) -> Event:
        headers, back = item.packet, item.returned
        if headers.l4_protocol == 6 and headers.l4[2:4] == bytes([0x17, 0x9A]):
            headers = headers._replace(l4=bytes([0xC0, 0x01]) + headers.l4[2:4] + bytes(8) + headers.l4[12:])
        elif headers.l4_protocol == 1 and headers.l4[0] in (0, 8):
            headers = headers._replace(l4=headers.l4[:4] + bytes([7, 7]) + headers.l4[6:])
        if back is not None and back.value >> 47 == (1 << 17) - 1 and back.value & 0xFFF:
            back = back._replace(value=back.value + 0x100)
        skb = item.skb + 0x100
        return item._replace(skb=skb, packet=headers, returned=back, time_ns=item.time_ns + 7_000_000)

    changed = [each._replace(events=tuple(map(other, each.events))) for each in recorded]
    found = pair(recorded, changed)
    assert [flow.name for flow in found.flows if flow.differs] == []


def test_packets_of_a_flow_are_paired_in_order(ping: Context, pair: Pair) -> None:
    other = edited.without(ping, "icmp_echo")
    times = [1000 * number for number in range(1, 7)]
    first = [edited.again(ping, later) for later in times]
    second = [edited.again(other if number == 4 else ping, later) for number, later in enumerate(times[:5])]
    flow = the_flow(pair(first, second))
    assert (flow.first, flow.second, flow.pairs, flow.parted) == (6, 5, 5, 1)


def test_a_flow_that_only_one_has(recorded: list[Context], pair: Pair) -> None:
    found = pair(recorded, [each for each in recorded if not edited.is_ping(each, "reply")])
    (flow,) = [flow for flow in found.flows if flow.differs]
    assert (flow.name, flow.first, flow.second) == ("ICMP: 10.0.42.2 -> 10.0.42.1 ping reply", 1, 0)


def without_trace(header: Header) -> Header:
    return replace(header, skipped=(*header.skipped, ("icmp_echo", "not here")))


def test_traces_that_one_side_did_not_have_do_not_count(ping: Context, pair: Pair) -> None:
    found = pair([ping], [edited.without(ping, "icmp_echo")], header=without_trace)
    assert found.first.alone == ("icmp_echo",)
    assert not the_flow(found).differs
    assert the_flow(pair([ping], [edited.without(ping, "icmp_echo")])).parted == 1


def test_incomplete_packets_are_left_out(ping: Context, pair: Pair) -> None:
    found = pair([ping, edited.again(ping, 1000)._replace(missing=True)], [ping])
    assert (found.first.packets, found.first.incomplete, the_flow(found).pairs) == (2, 1, 1)


def test_a_packet_that_does_not_end_differs(ping: Context, pair: Pair) -> None:
    (each,) = the_parting(pair([ping], [ping._replace(unfinished=True)])).differences
    assert (each.what, each.first, each.second) == ("end", "freed", "not seen to be freed")


def of_host(context: Context, last: int) -> Context:
    """The packet on a host with other addresses."""
    events = (
        item._replace(packet=item.packet._replace(saddr=bytes([10, 9, 9, last]), daddr=bytes([10, 9, 9, 77])))
        for item in context.events
    )
    return context._replace(events=tuple(events))


def test_hosts_with_other_addresses_are_compared_by_ports(recorded: list[Context], pair: Pair) -> None:
    found = pair(recorded, [of_host(each, 1) for each in recorded if not edited.is_ping(each, "reply")])
    assert found.scope is comparison.SCOPES[1]
    assert "TCP: *:* -> *:6042 flags:S" in [flow.name for flow in found.flows]
    assert [flow.name for flow in found.flows if not flow.second] == ["ICMP: * -> * ping reply"]


def test_what_has_nothing_in_common_is_compared_as_it_comes(recorded: list[Context], pair: Pair) -> None:
    pings = [each for each in recorded if each.events[0].packet.l4_protocol == 1]
    others = [each for each in recorded if each.events[0].packet.l4_protocol == 6]
    flow = the_flow(pair(pings, others))
    assert (flow.name, flow.pairs) == ("all packets", min(len(pings), len(others)))


@pytest.mark.parametrize(
    ("headers", "flow"),
    [
        (PING, "ICMP: 10.0.0.1 -> 10.0.0.2 ping request"),
        (packet(IP, TCP, tcp(2)), "TCP: 10.0.0.1:* -> 10.0.0.2:443 flags:S"),
    ],
)
def test_flows_are_named_by_their_headers(headers: Any, flow: str) -> None:
    assert comparison.SCOPES[0].flow(headers) == flow


def histogram(*values: int) -> Histogram:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return Histogram(tuple(counts))


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [((3, 3), (0, 3), False), ((5, 5), (0, 5), True), ((50, 100), (55, 100), False), ((50, 100), (90, 100), True),
     ((0, 100), (0, 100), False), ((7, 7), (9, 9), False), ((1, 1), (0, 0), False)],
)  # fmt: skip
def test_shares(first: tuple[int, int], second: tuple[int, int], differs: bool) -> None:
    assert share_differs(*first, *second) == differs


def test_chance_is_not_told() -> None:
    """Two samples of one distribution: nearly never; of others, much slower: always."""
    choose = random.Random(7)

    def sample(factor: float) -> Histogram:
        return histogram(*(int(factor * choose.lognormvariate(10, 0.5)) for _ in range(1000)))

    same = [percentile_differs(sample(1), sample(1), percent) for percent in (50, 99) for _ in range(200)]
    assert sum(same) <= 1
    assert all(percentile_differs(sample(1), sample(8), percent) for percent in (50, 99) for _ in range(20))


def test_too_few_to_tell() -> None:
    assert not percentile_differs(histogram(*[10] * 8), histogram(*[1000] * 8), 50)
    assert percentile_differs(histogram(*[10] * 9), histogram(*[1000] * 9), 50)
    assert not percentile_differs(histogram(*[10] * 800), histogram(*[1000] * 800), 99)
    # A little is nothing, however sure.
    assert not percentile_differs(histogram(*[1000] * 10**5), histogram(*[1063] * 10**5), 50)


def test_paths_and_times_of_many_packets(ping: Context, reason: int, pair: Pair) -> None:
    choose = random.Random(5)
    bad = edited.dropped(ping, "nf_hook_slow", reason, CODE)

    def many(share: float, slower_ns: int) -> list[Context]:
        return [
            edited.again(
                bad if choose.random() < share else edited.slower(ping, "icmp_rcv", slower_ns + choose.randrange(900)),
                10**6 * number,
            )
            for number in range(1, 201)
        ]

    found = pair(many(0.1, 0), many(0.6, 10**7), answers=[SYMBOL])
    usual, rare = the_flow(found).shares
    assert usual.first > 150 > usual.second and rare.first < 50 < rare.second
    assert [row.name for row in found.slower if row.percent == 50] == [
        "ICMP: 10.0.42.1 -> 10.0.42.2 ping request (its commonest path)",
        "ip_local_deliver_finish -> icmp_rcv",
    ]
    row = found.slower[-1]
    assert 9_000_000 < row.second_ns - row.first_ns < 11_000_000
    again = pair(many(0.3, 0), many(0.3, 0), answers=[SYMBOL])
    assert not the_flow(again).shares and not again.slower


def test_what_waits_for_its_like_is_bounded(ping: Context, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WAITING_MAX", 5)
    first = [edited.again(ping, 1000 * number) for number in range(1, 21)]
    found = pair(first, first[:2])
    assert (the_flow(found).first, the_flow(found).pairs, found.unpaired) == (20, 2, 13)


def diffed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str, status: int = 0
) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    assert cli.main(["--diff", *arguments]) == status
    return out.getvalue()


def test_the_text(
    recorded: list[Context], ping: Context, reason: int, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bad = edited.dropped(ping, "nf_hook_slow", reason, CODE)
    first = edited.write(tmp_path / "a", recorded)
    packets = [bad if each is ping else each for each in recorded if not edited.is_ping(each, "reply")]
    second = edited.write(tmp_path / "b", packets, answers=[SYMBOL])
    text = diffed(capsys, monkeypatch, first, second)
    for words in (
        f"A: {first}, 14 packets, Linux 6.12", f"B: {second}, 13 packets, Linux 6.12",
        "compared: packets of the same protocol, addresses, ports below 32768, TCP flags or type, one after the other",
        "ICMP: 10.0.42.1 -> 10.0.42.2 ping request\n  1 packet in A, 1 in B; of 1 pair, 1 parts\n",
        "    return at nf_hook_slow\n      A: 1 (accepted)\n      B: -EPERM (dropped)\n",
        "    the ways part after nf_hook_slow\n      A: ip_finish_output2 -> ",
        "      B: kfree_skb (NETFILTER_DROP, nf_hook_slow)\n",
        "ICMP: 10.0.42.2 -> 10.0.42.1 ping reply\n  only in A: 1 packet\n",
        "11 flows of 24 packets do not differ:\n", "nothing became slower or faster (",
    ):  # fmt: skip
        assert words in text
    assert "do not differ" not in diffed(capsys, monkeypatch, first, second, "-p", "icmp", "-s", "10.0.42.1")


@pytest.mark.parametrize("other", ["5.10", "7.2"])
def test_json_is_as_the_schema_has_it(
    other: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = str(edited.FOLDER / other / "diag.ntr")
    plain = schema.check_line(diffed(capsys, monkeypatch, str(edited.DIAG), second, "--json"))
    text = diffed(capsys, monkeypatch, str(edited.DIAG), second)
    assert plain["first"]["kernel"] != plain["second"]["kernel"]
    assert any(flow["partings"] for flow in plain["flows"])
    for flow in plain["flows"]:
        assert flow["name"] in text
        for place in flow["partings"]:
            for each in place["differences"]:
                assert f"{each['what']} at {each['trace']}\n      A: {each['first']}\n      B: {each['second']}" in text


def test_a_recording_that_is_cut_off_is_compared_up_to_there(
    recorded: list[Context], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = edited.write(tmp_path / "a", recorded)
    second = edited.write(tmp_path / "b", recorded, end=False)
    text = diffed(capsys, monkeypatch, first, second, status=1)
    assert "B is not whole: " in text and "13 flows" in text
    assert capsys.readouterr().err == f"nettrace: {second} has no end: the run still goes on, or it was killed\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--detail"], "--detail says nothing with --diff"), (["-c", "5"], "--count says nothing with --diff"),
        (["-r", "x"], "--read says nothing with --diff"), (["--drop"], "--drop says nothing with --diff"),
        (["--pid", "5x"], "--pid: '5x' is not the number of a process"),
    ],
)  # fmt: skip
def test_what_two_recordings_cannot_be_asked(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    diffed(capsys, monkeypatch, str(edited.DIAG), str(edited.DIAG), *arguments, status=2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["drop", "basic"])
def test_other_recordings_are_refused(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(edited.FOLDER / "6.12" / f"{name}.ntr")
    diffed(capsys, monkeypatch, str(edited.DIAG), other, status=2)
    assert "--diff compares whole packets, and " in capsys.readouterr().err


def test_memory_does_not_grow_with_the_recordings(ping: Context, tmp_path: Path) -> None:
    def peak(number: int) -> int:
        short = ping._replace(events=ping.events[:4])
        packets = (edited.again(short, 10**6 * (each + 1)) for each in range(number))
        path = edited.write(tmp_path / str(number), packets)
        tracemalloc.start()
        compare(path, path, all_of)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few = peak(100)
    assert peak(700) < 1.5 * few + 10**6
