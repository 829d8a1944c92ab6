"""The blocks of a pcapng file: a section, its interfaces, and packets with remarks.

The libraries that distributions ship cannot write this: their files have one interface, or packets without comments.
The format is that of draft-ietf-opsawg-pcapng, little-endian.
"""

import struct

from .event import Frame

ETHERNET, RAW_IP = 1, 101  # link types

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_BLOCK = struct.Struct("<II")  # type and length; the length stands at the end again
_LENGTH = struct.Struct("<I")
_SECTION_BODY = struct.Struct("<IHHq")  # byte order, version, length of the section
_INTERFACE_BODY = struct.Struct("<HHI")  # link type, nothing, the most bytes of a packet
_PACKET_BODY = struct.Struct("<IIIII")  # interface, time (high, low), bytes here, bytes in all
_OPTION = struct.Struct("<HH")  # code, length
_ID = struct.Struct("<Q")

_COMMENT = 1
_HARDWARE, _OS, _PROGRAM = 2, 3, 4  # of a section
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9  # of an interface
_PACKET_ID = 5  # of a packet: the same wherever the packet was seen
_NANOSECONDS = b"\x09"
_TEXT_MAX = 4096  # bytes


def section(hardware: str, system: str, program: str) -> bytes:
    """What a file begins with."""
    body = _SECTION_BODY.pack(_BYTE_ORDER, 1, 0, -1)
    return _block(_SECTION, body, (_HARDWARE, _text(hardware)), (_OS, _text(system)), (_PROGRAM, _text(program)))


def interface(name: str, description: str, link: int, snaplen: int) -> bytes:
    """Where packets were seen; they name it by its number, from 0."""
    return _block(
        _INTERFACE, _INTERFACE_BODY.pack(link, 0, snaplen),
        (_NAME, _text(name)), (_DESCRIPTION, _text(description)), (_RESOLUTION, _NANOSECONDS),
    )  # fmt: skip


def packet(number: int, time_ns: int, frame: Frame, packet_id: int, comment: str) -> bytes:
    """A packet at an interface; time_ns: since the epoch; packet_id: 0 is none."""
    data = frame.data
    high, low = time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF
    body = _PACKET_BODY.pack(number, high, low, len(data), frame.length) + _padded(data)
    options = [(_COMMENT, _text(comment))]
    if packet_id:
        options.append((_PACKET_ID, _ID.pack(packet_id & 0xFFFFFFFFFFFFFFFF)))
    return _block(_PACKET, body, *options)


def _block(kind: int, body: bytes, *options: tuple[int, bytes]) -> bytes:
    told = b"".join([_OPTION.pack(code, len(value)) + _padded(value) for code, value in options])
    length = _BLOCK.size + len(body) + len(told) + _OPTION.size + _LENGTH.size
    return _BLOCK.pack(kind, length) + body + told + _OPTION.pack(0, 0) + _LENGTH.pack(length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_TEXT_MAX].decode("utf-8", "ignore").encode("utf-8")
