"""What was traced as JSON, one object a line: the same attributes that text shows, and those that it leaves out.

Ids, addresses and 64-bit values are strings, as many programs read numbers as floating point. What is not known is
null. nettrace.schema.json says what there is.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TextIO, Union

from . import event, sockets, tables
from .analyzers import Told
from .coverage import Coverage
from .diagnosis import Analysis, Finding
from .event import Context, Device, Event, Packet, Socket
from .header import FORMAT, Header
from .histogram import Histogram, first_of
from .packets import TCP_FLAGS, change_text, packet_text, protocol_name
from .sinks import CLOCK_CHANGE_NS, Display, Lookups, Summary, Text
from .tables import DropCounts, FunctionStats, LatencySummary, Paths, Table
from .tree import Group

if TYPE_CHECKING:
    from .alignment import Parting
    from .checkup import Checkup
    from .comparison import Comparison, Side, Slower

_IP, _IPV6, _ARP, _RARP = 0x0800, 0x86DD, 0x0806, 0x8035
_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_WITH_PORTS = (6, 17, 33, 132, 136)
_NS = 1_000_000_000

Findings = Callable[[Context], Sequence[Finding]]

# Nothing that is written here is inside of itself: looking for that takes a tenth of the time.
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class JsonLines(Text):
    """Packets, events and tables as JSON.

    findings: of a packet; None: nobody asked for them. quiet, keep: as for diagnosis.Analysis.
    """

    def __init__(
        self, out: TextIO, display: Display, lookups: Lookups, findings: Optional[Findings] = None, *,
        quiet: bool = False, keep: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(out, display, lookups)
        self._analysis = None if findings is None else Analysis(findings, quiet=quiet, keep=keep)
        self._mode = ""
        self._offset_ns = 0
        self._texts: dict[int, str] = {}  # of the latest second
        self._paths: Optional[Paths] = None

    def begin(self, header: Header) -> None:
        """The first line."""
        self._mode = header.mode
        self._offset_ns = header.clock_offset_ns
        plain = header.plain()
        plain.update(clock_offset_ns=str(header.clock_offset_ns))
        plain["skipped"] = [{"trace": name, "reason": reason} for name, reason in header.skipped]
        self._line("header", {"format": FORMAT, **plain})
        self.flush()

    def end(self, summary: Optional[Summary]) -> None:
        """The last line; none, if it is not known what was seen and what was not. Before it, what paths there were."""
        if self._paths is not None:
            self._line(tables.kind_of(self._paths), self._table(self._paths))
        if summary is not None:
            self._line("summary", asdict(summary))
        self.flush()

    @property
    def done(self) -> bool:
        """Whether an error was found, and that was what the user waited for."""
        return self._analysis is not None and self._analysis.done

    def context(self, context: Context) -> bool:
        """A packet with its steps and, if they were asked for, its findings."""
        findings = None if self._analysis is None else self._analysis.of(context)
        if self._analysis is not None and findings is None:
            return False
        headers = list(dict.fromkeys(item.packet for item in context.events))
        steps = [self._step(item, headers, *news) for item, news in zip(context.events, news(context, self._maker))]
        self._line("packet", {
            "id": str(context.packet_id),
            "skbs": [_hex(skb) for skb in context.skbs],
            "latency_ns": str(self.duration_ns(context.events)),
            "unfinished": context.unfinished,
            "incomplete": context.missing,
            "headers": [_headers(packet) for packet in headers],
            "steps": steps,
            "findings": None if findings is None else [self._finding(finding) for finding in findings],
        })  # fmt: skip
        return True

    def events(self, events: Iterable[Event]) -> None:
        """A line each; of three in a row, where packets' times are told, one."""
        if self._mode == "latency":
            end, first, last = events
            self._line("latency", {
                **self._when(end.time_ns), "end": end.trace, "first": first.trace, "last": last.trace,
                "latency_ns": str(last.time_ns - first.time_ns), "skb": _hex(end.skb),
                "headers": [_headers(first.packet)],
            })  # fmt: skip
        else:
            for item in events:
                step = self._step(item, [item.packet], None, None)
                self._line("event", {"headers": [_headers(item.packet)], "steps": [step]})

    def gap(self, events: int) -> None:
        """So many events were lost here."""
        self._line("gap", {"events": events})

    def table(self, table: Table) -> None:
        """What was counted so far; of paths, which are many, only the last table is told."""
        if isinstance(table, Paths):
            self._paths = table
        else:
            self._line(tables.kind_of(table), self._table(table))

    def duration_ns(self, events: Sequence[Event]) -> int:
        """How long a packet took."""
        if self._mode == "latency":
            return events[2].time_ns - events[1].time_ns
        return super().duration_ns(events)

    def keep_time(self, wall_offset_ns: int) -> None:
        """Takes over what wall-clock time is by now."""
        if abs(wall_offset_ns - self._offset_ns) > CLOCK_CHANGE_NS:
            self._offset_ns = wall_offset_ns

    def _line(self, kind: str, plain: dict[str, Any]) -> None:
        self._out.write(_line({"type": kind, **plain}))

    def _when(self, time_ns: int) -> dict[str, str]:
        second, rest = divmod(time_ns + self._offset_ns, _NS)
        text = self._texts.get(second)
        if text is None:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._texts = {second: text}
        return {"time_ns": str(time_ns), "time": f"{text}.{rest:09d}Z"}

    def _step(
        self, item: Event, headers: Sequence[Packet], made: Optional[str], change: Optional[str]
    ) -> dict[str, Any]:
        know = self._know
        detail, drop, returned = item.detail, item.drop, item.returned
        return {
            **self._when(item.time_ns),
            "trace": item.trace,
            "group": know.groups.get(item.trace),
            "skb": _hex(item.skb),
            "number": item.number,
            "headers": headers.index(item.packet),
            "device": self._device(item.device),
            "made": made,
            "change": change,
            "detail": None if detail is None else {
                **detail._asdict(), "owner": self._owner(detail.socket),
            },
            "drop": None if drop is None else self._drop(drop.reason, drop.location),
            "returned": None if returned is None else {
                "value": str(returned.value),
                "text": know.returned(item.trace, returned.value) or None,
                "time_ns": str(returned.time_ns),
                "after_ns": str(returned.time_ns - item.time_ns),
            },
            "facts": {name: str(value) for name, value in item.facts},
            "remarks": [{"level": level, "text": text} for level, text in know.remarks(item)],
            "stack": [self._code(address) for address in item.stack] if self._has_stack(item) else None,
            "socket": None if item.socket is None else _socket(item.packet, item.socket),
        }  # fmt: skip

    def _has_stack(self, item: Event) -> bool:
        return bool(item.stack) or item.trace in self._show.stacks

    def _device(self, device: Optional[Device]) -> Optional[dict[str, Any]]:
        if device is None or not (device.ifindex or device.netns):
            return None
        has_interface = bool(device.ifindex)
        return {
            "ifindex": device.ifindex if has_interface else None,
            "name": device.name if has_interface else None,
            "netns": device.netns or None,
            "netns_name": self._know.netns(device.netns) if device.netns else None,
        }

    def _owner(self, socket: int) -> Optional[dict[str, Any]]:
        owner = self._know.owner(socket) if socket else None
        return None if owner is None else {"name": owner[0], "pid": owner[1]}

    def _code(self, address: int) -> dict[str, Any]:
        symbol = self._know.symbol(address)
        return {
            "address": _hex(address),
            "symbol": None if symbol is None else symbol.name,
            "offset": None if symbol is None else symbol.offset,
            "module": None if symbol is None else symbol.module or None,
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        item = finding.event
        return {
            "level": finding.level,
            "name": finding.name,
            "message": finding.message,
            "root": finding.root,
            "effect": finding.effect,
            **self._when(item.time_ns),
            "trace": item.trace,
            "group": self._know.groups.get(item.trace),
            "skb": _hex(item.skb),
            "number": item.number,
            "device": self._device(item.device),
            "told": [_told(told) for told in finding.told],
            "evidence": [proof._asdict() for proof in finding.evidence],
            "doubt": finding.doubt or None,
            "advice": list(finding.advice),
        }

    def _table(self, table: Table) -> dict[str, Any]:
        if isinstance(table, FunctionStats):
            return {"hits": {name: count for name, count in table.hits.items() if count}}
        if isinstance(table, LatencySummary):
            return {
                "packets": _histogram(table.latencies, "ns"),
                "steps": [
                    {
                        "from": edge.origin, "to": edge.target, "count": edge.steps, "total_ns": str(edge.total_ns),
                        "max_ns": str(edge.most_ns),
                    }
                    for edge in sorted(table.edges, key=lambda edge: (-edge.total_ns, edge))
                ],
                "one_point": table.one_point,
                "short": table.short,
            }  # fmt: skip
        if isinstance(table, DropCounts):
            rows = sorted(table.drops.items(), key=lambda row: (-row[1], row[0][0] or 0, row[0][1]))
            return {"drops": [self._dropped(*key, count) for key, count in rows],
                    "seconds": table.seconds, "last": table.last}  # fmt: skip
        if isinstance(table, Paths):
            nodes = [
                {
                    "parent": None if node.parent < 0 else node.parent,
                    "trace": node.trace,
                    "drop": None if node.drop is None else self._drop(*node.drop),
                    "count": node.count,
                    "ended": node.ended,
                    "times": _histogram(node.times, "ns"),
                }
                for node in table.nodes
            ]
            return {**table._asdict(), "nodes": nodes}
        peers = table.peers and sorted(table.peers, key=lambda peer: (-peer.times.total, peer.address))
        return {
            **{name: _histogram(getattr(table, name), "us") for name in ("sample", "smoothed", "least")},
            "peers": None if peers is None else [
                {"address": _address(peer.l3_protocol, peer.address), "times": _histogram(peer.times, "us")}
                for peer in peers
            ],
            "crowded_out": table.crowded_out,
        }  # fmt: skip

    def _dropped(self, reason: Optional[int], location: int, count: int) -> dict[str, Any]:
        return {**self._drop(reason, location), "count": count}

    def _drop(self, reason: Optional[int], location: int) -> dict[str, Any]:
        return {
            **self._code(location),
            "reason": reason,
            "reason_name": None if reason is None else self._know.reason(reason),
            "meaning": None if reason is None else self._know.meaning(reason),
        }


class News(NamedTuple):
    """What is new at a step: what its skb is that was not there before, and what became of the headers."""

    made: Optional[str]
    change: Optional[str]


def news(context: Context, maker: Callable[[Sequence[Event]], str]) -> Iterator[News]:
    """Of each step, what is new; maker: tells of which kind an skb is that appears after these steps."""
    latest: dict[int, Event] = {}
    for at, item in enumerate(context.events):
        before = latest.get(item.skb)
        latest[item.skb] = item
        # A clone may be given the address of one that was freed.
        if before is None or item.number <= before.number:
            yield News(maker(context.events[:at]) if at else None, None)
        else:
            yield News(None, change_text(before.packet, item.packet) or None)


def coverage_line(coverage: Coverage) -> str:
    """The tree, and what the kernel has of it, as one line of JSON."""

    def traces(group: Group) -> Iterator[dict[str, Any]]:
        for trace in group.traces:
            place = coverage.places[trace.name]
            yield {
                "name": trace.name, "group": group.name, "desc": trace.desc, "role": trace.role,
                "default": trace.default, "how": place.how or None, "target": place.target or None,
                "module": place.module or None, "missing": place.missing or None,
            }  # fmt: skip
        for child in group.groups:
            yield from traces(child)

    found = [trace for group in coverage.tree.root.groups for trace in traces(group)]
    plain = {
        "type": "coverage", "format": FORMAT, "kernel": coverage.release, "functions": coverage.functions,
        "traceable_known": coverage.traceable_known, "traces": found,
    }  # fmt: skip
    return _line(plain)


def checkup_line(found: "Checkup") -> str:
    """What a host offers, as one line of JSON."""
    plain = {
        "type": "check", "format": FORMAT, "kernel": found.release, "tracing": found.tracing, "drops": found.drops,
        "rows": [row._asdict() for row in found.rows],
    }  # fmt: skip
    return json.dumps(plain, separators=(",", ":")) + "\n"


def comparison_line(found: "Comparison") -> str:
    """What became different between two recordings, as one line of JSON."""

    def side(one: "Side") -> dict[str, Any]:
        return {
            "path": one.path, "kernel": one.header.kernel, "packets": one.packets, "incomplete": one.incomplete,
            "alone": one.alone, "trouble": one.trouble or None,
        }  # fmt: skip

    def times(row: "Union[Parting, Slower]") -> dict[str, Any]:
        return {**row._asdict(), "first_ns": str(row.first_ns), "second_ns": str(row.second_ns)}

    plain = {
        "type": "diff",
        "format": FORMAT,
        "first": side(found.first),
        "second": side(found.second),
        "scope": found.scope.text,
        "traces": found.traces,
        "flows": [
            {
                "name": flow.name, "first": flow.first, "second": flow.second,
                "pairs": flow.pairs, "parted": flow.parted,
                "partings": [
                    {
                        "pairs": count, **times(place),
                        "differences": [each._asdict() for each in place.differences],
                        **{name: getattr(place, name) or None for name in ("after", "meet")},
                    }
                    for count, place in flow.partings.values()
                ],
                "others": flow.others,
                "shares": [share._asdict() for share in flow.shares],
            }
            for flow in found.flows
        ],
        "slower": [times(row) for row in found.slower],
        "unpaired": found.unpaired,
        "uncounted": found.uncounted,
    }  # fmt: skip
    return _line(plain)


def _line(plain: Mapping[str, Any]) -> str:
    return f"{_encode(plain)}\n"


def _hex(address: int) -> str:
    return f"0x{address:x}"


def _told(told: Told) -> dict[str, str]:
    return {"label": told.label, "text": told.text}


def _address(protocol: int, raw: bytes) -> Optional[str]:
    if protocol in (_IP, _ARP, _RARP):
        return inet_ntop(AF_INET, raw[:4])
    return inet_ntop(AF_INET6, raw) if protocol == _IPV6 else None


def _headers(packet: Packet) -> dict[str, Any]:
    """A packet's headers: their text, and their fields."""
    is_ip = packet.l3_protocol in (_IP, _IPV6) and not packet.flags & event.UNREAD
    has_l4 = is_ip and bool(packet.flags & event.HAS_L4) and not packet.fragment_offset
    protocol = packet.l4_protocol
    sport, dport = event.PORTS_L4.unpack(packet.l4) if has_l4 and protocol in _WITH_PORTS else (None, None)
    tcp = icmp = None
    if has_l4 and protocol == _TCP:
        _, _, seq, ack, flags = event.TCP_L4.unpack(packet.l4)
        tcp = {"seq": seq, "ack": ack, "flags": "".join(letter for bit, letter in TCP_FLAGS if flags & bit)}
    elif has_l4 and protocol in (_ICMP, _ICMPV6):
        icmp = dict(zip(("type", "code", "id", "sequence"), event.ICMP_L4.unpack(packet.l4)))
    return {
        "text": packet_text(packet),
        "length": packet.length,
        "l3_protocol": packet.l3_protocol,
        "l3_length": packet.l3_length,
        "saddr": _address(packet.l3_protocol, packet.saddr),
        "daddr": _address(packet.l3_protocol, packet.daddr),
        "l4_protocol": protocol if is_ip else None,
        "l4_name": protocol_name(protocol) if is_ip else None,
        "sport": sport,
        "dport": dport,
        "tcp": tcp,
        "icmp": icmp,
        "l4": packet.l4.hex() if packet.flags & event.HAS_L4 else None,
        "fragment_offset": packet.fragment_offset if packet.flags & event.FRAGMENT else None,
        "vlans": [tci & 0xFFF for tci in (packet.vlan_tci, packet.vlan_tci2) if tci],
        "gso_size": packet.gso_size,
        "gso_segs": packet.gso_segs,
        "tunnel": event.TUNNELS[packet.tunnel] or None,
        "tunnel_id": packet.tunnel_id,
        "inner": None if packet.inner is None else _headers(packet.inner),
    }


def _socket(packet: Packet, socket: Socket) -> dict[str, Any]:
    plain: dict[str, Any] = {**socket._asdict(), "timer_ns": str(socket.timer_ns)}
    if not socket.whole:
        plain = {name: value if name in ("state", "whole") else None for name, value in plain.items()}
    return {"text": sockets.socket_text(packet, socket), **plain}


def _histogram(histogram: Histogram, unit: str) -> dict[str, Any]:
    def value(number: Union[int, float]) -> Any:
        return str(number) if unit == "ns" else number

    return {
        "count": histogram.total,
        "unit": unit,
        **{f"p{percent}": value(histogram.percentile(percent)) for percent in (50, 90, 99)},
        "buckets": [
            {"first": value(first_of(number)), "last": value(first_of(number + 1) - 1), "count": count}
            for number, count in enumerate(histogram.counts)
            if count
        ],
    }
