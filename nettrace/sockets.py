"""Sockets as text: the state of one at a hit, and how long the round trips of many were."""

from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_ntop

from . import event, histogram
from .counts import counted
from .event import Packet, Socket
from .histogram import Histogram
from .packets import protocol_name

_TCP = 6
_ETH_P_IP = 0x0800

# enum in include/net/tcp_states.h, from 1 on.
_STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE",
)  # fmt: skip
# enum tcp_ca_state, from 0 on.
_CA_STATES = ("CA_Open", "CA_Disorder", "CA_CWR", "CA_Recovery", "CA_Loss")
# ICSK_TIME_* in include/net/inet_connection_sock.h, from 1 on.
_TIMERS = ("retrans", "dack", "probe0", "early_retrans", "loss_probe", "reo_timeout")

# How many peers are shown, those with the most samples.
_PEERS_SHOWN = 20


def socket_text(packet: Packet, socket: Socket) -> str:
    """A socket on one line: its addresses, its own end first, and its state."""
    text = f"{protocol_name(packet.l4_protocol)}: {_end(packet, packet.saddr, 0)} -> {_end(packet, packet.daddr, 2)}"
    if packet.l4_protocol == _TCP:
        text += f" {_name(_STATES, socket.state - 1, socket.state)}"
    if not socket.whole:
        return text
    if packet.l4_protocol == _TCP:
        text += (
            f" {_name(_CA_STATES, socket.ca_state, socket.ca_state)}"
            f" out:(p{socket.packets_out} r{socket.retrans_out}) unack:{socket.unacked}"
        )
    text += f" mem:(w{socket.wmem} r{socket.rmem})"
    if socket.timer is not None:
        text += f" timer:({_name(_TIMERS, socket.timer - 1, socket.timer)}, {_seconds(socket.timer_ns)})"
    if socket.rtt_us is not None:
        text += f" *rtt:{_milliseconds(socket.rtt_us)}"
        if socket.srtt_us is not None and socket.rtt_min_us is not None:
            text += f", srtt:{_milliseconds(socket.srtt_us)}, rtt_min:{_milliseconds(socket.rtt_min_us)}"
        text += "*"
    return text


def rtt_text(histograms: Iterable[Histogram]) -> str:
    """A table of round trips: the samples, and percentiles of them, of the smoothed and of the least ones."""
    sample, smoothed, least = histograms
    lines = [f"rtt distribution: {counted(sample.total, 'samples')}", *histogram.table(sample, _milliseconds)]
    if sample.total:
        for name, one in (("sample", sample), ("smoothed", smoothed), ("least", least)):
            lines.append(f"  {name:<9} {histogram.percentiles(one, _milliseconds)}")
    return "\n".join(lines)


def peer_of(key: bytes) -> tuple[bytes, int]:
    """Address and EtherType, from a key of the table of peers (struct peer in bpf/sock.h)."""
    return key[:16], int.from_bytes(key[16:20], "little")


def peers_text(peers: Iterable[tuple[bytes, int, Histogram]], crowded_out: int) -> str:
    """A table of round trips to each peer: address, EtherType, histogram; those with the most samples first."""
    rows = sorted(peers, key=lambda row: (-row[2].total, row[0]))
    lines = [
        f"  {address_text(protocol, address):<39} {one.total:>8} samples  {histogram.percentiles(one, _milliseconds)}"
        for address, protocol, one in rows[:_PEERS_SHOWN]
    ]
    if len(rows) > _PEERS_SHOWN:
        rest = sum(one.total for _, _, one in rows[_PEERS_SHOWN:])
        lines.append(f"  {len(rows) - _PEERS_SHOWN} more peers: {rest} samples")
    if crowded_out:
        lines.append(f"  peers beyond the first {len(rows)}: {crowded_out} samples")
    return "\n".join(lines)


def _end(packet: Packet, address: bytes, port_at: int) -> str:
    text = address_text(packet.l3_protocol, address)
    if not packet.flags & event.HAS_L4:
        return text
    return f"{text}:{int.from_bytes(packet.l4[port_at : port_at + 2], 'big')}"


def address_text(protocol: int, raw: bytes) -> str:
    """An address of this EtherType."""
    return inet_ntop(AF_INET, raw[:4]) if protocol == _ETH_P_IP else inet_ntop(AF_INET6, raw)


def _name(names: tuple[str, ...], place: int, number: int) -> str:
    """The name of a number, or the number where a newer kernel has one more."""
    return names[place] if 0 <= place < len(names) else str(number)


def _milliseconds(us: int) -> str:
    return f"{us // 1000}.{us % 1000:03d}ms"


def _seconds(ns: int) -> str:
    ms = abs(ns) // 1_000_000
    return f"{'-' if ns < 0 and ms else ''}{ms // 1000}.{ms % 1000:03d}s"
