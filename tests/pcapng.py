"""Reads pcapng files, for tests where neither tcpdump nor tshark can tell all of it."""

import struct
from typing import NamedTuple, Optional


class Interface(NamedTuple):
    link: int
    snaplen: int
    name: str
    description: str
    units_per_second: int


class Packet(NamedTuple):
    interface: Interface
    time: int  # in the units of its interface
    data: bytes
    length: int
    comment: str
    packet_id: Optional[int]


def packets(raw: bytes) -> list[Packet]:
    """The packets of a little-endian file; whatever is not as it should be fails."""
    interfaces: list[Interface] = []
    found: list[Packet] = []
    at = 0
    while at < len(raw):
        kind, length = struct.unpack_from("<II", raw, at)
        assert length % 4 == 0 and raw[at + length - 4 : at + length] == raw[at + 4 : at + 8]
        body = raw[at + 8 : at + length - 4]
        if kind == 0x0A0D0D0A:
            assert at == 0 and body[:4] == bytes.fromhex("4d3c2b1a") and struct.unpack_from("<HH", body, 4) == (1, 0)
            assert set(_options(body[16:])) == {2, 3, 4}
        elif kind == 1:
            link, _, snaplen = struct.unpack_from("<HHI", body)
            told = _options(body[8:])
            assert told[9] == b"\x09"
            interfaces.append(Interface(link, snaplen, told[2].decode(), told[3].decode(), 10**9))
        else:
            assert kind == 6
            number, high, low, taken, whole = struct.unpack_from("<IIIII", body)
            end = 20 + taken
            assert taken <= min(whole, interfaces[number].snaplen)
            told = _options(body[end + -end % 4 :])
            packet_id = int.from_bytes(told[5], "little") if 5 in told else None
            found.append(Packet(interfaces[number], high << 32 | low, body[20:end], whole, told[1].decode(), packet_id))
        at += length
    assert at == len(raw)
    return found


def _options(raw: bytes) -> dict[int, bytes]:
    told: dict[int, bytes] = {}
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", raw, at)
        at += 4
        if code == 0:
            assert length == 0 and at == len(raw)
            return told
        assert code not in told
        told[code] = raw[at : at + length]
        at += length + -length % 4
