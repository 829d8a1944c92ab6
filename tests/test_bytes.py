"""Which bytes of a packet are told: bpf/bytes.h compiled for this machine."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ctypes
import struct
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import pytest

from nettrace.event import BYTES_ITEM
from nettrace.filters import PacketFilter
from tests.native import UNSET, Native, needs_compiler

BYTES = Path(__file__).resolve().parent.parent / "bpf" / "bytes.h"
SNAPLEN = 100
# The buffer of the skb, and the page behind it.
HEAD, PAGE = 0x1000, 0x2000
BUFFER = bytes(range(256))
BEHIND = bytes(reversed(range(256)))

pytestmark = needs_compiler

ASK = """
int ask_bytes(void *to, u64 skb, u64 head, u32 l3, u32 tail, u16 mac, u16 vlan_tci, u16 vlan_proto)
{
	struct place place = { head, l3, tail, mac, vlan_tci, vlan_proto };

	return fill_bytes(to, (void *)skb, &place);
}
"""
PAGES = """
u64 page;
u32 page_bytes;

static void locate_beyond(void *skb, struct place *place)
{
	place->beyond = page;
	place->beyond_size = page_bytes;
}
"""


class Told(NamedTuple):
    """What an item says, and the bytes behind it."""

    length: int
    header: int
    data: bytes
    vlan: tuple[int, int]


Ask = Callable[..., Optional[Told]]


@pytest.fixture(scope="module", params=[True, False], ids=["pages", "no-pages"])
def pages(request: pytest.FixtureRequest) -> bool:
    """Whether pages behind the buffer can be read."""
    return bool(request.param)


@pytest.fixture(scope="module")
def ask(pages: bool, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    text = f"#define SNAPLEN {SNAPLEN}\n" + (f"#define AT_page_offset_base 0\n{PAGES}" if pages else "")
    text += f'#line 1 "{BYTES}"\n{BYTES.read_text(encoding="utf-8")}{ASK}'
    native = Native(tmp_path_factory.mktemp("bytes"), PacketFilter(), text)
    head = native.put(HEAD, BUFFER)
    page = native.put(PAGE, BEHIND)
    skb = native.put(0, bytes(256))

    def tell(
        l3: int, *, tail: int = 200, mac: int = UNSET, data: Optional[int] = None, paged: int = 0,
        vlan: tuple[int, int] = (0, 0),
    ) -> Optional[Told]:  # fmt: skip
        data = l3 if data is None else data
        native.put_number(skb, "OFF_sk_buff__data", "<Q", head + data)
        native.put_number(skb, "OFF_sk_buff__len", "<I", tail - data + paged)
        if pages:
            ctypes.c_uint64.in_dll(native.library, "page").value = page if paged else 0
            ctypes.c_uint32.in_dll(native.library, "page_bytes").value = paged
        function = native.library.ask_bytes
        function.argtypes = [ctypes.c_char_p] + [ctypes.c_uint64] * 2 + [ctypes.c_uint32] * 2 + [ctypes.c_uint16] * 3
        item = ctypes.create_string_buffer(b"\xee" * 1000, 1000)
        slots = function(item, skb, head, l3, tail, mac, *vlan)
        if not slots:
            return None
        length, taken, header, proto, tci, unused, kind, told_slots = BYTES_ITEM.struct.unpack_from(item.raw)
        assert (unused, kind, told_slots) == (0, 12, slots) and slots == 1 + -(-taken // 16)
        assert item.raw[16 + taken :] == b"\xee" * (1000 - 16 - taken)
        return Told(length, header, item.raw[16 : 16 + taken], (tci, proto))

    return tell


def test_from_the_ethernet_header_on(ask: Ask) -> None:
    # At the driver, in IP and behind it; with tags in the frame.
    for data in (64, 78, 98):
        assert ask(78, mac=64, tail=130, data=data) == Told(66, 14, BUFFER[64:130], (0, 0))
    assert ask(82, mac=64, tail=130) == Told(66, 18, BUFFER[64:130], (0, 0))
    assert ask(86, mac=64, tail=130) == Told(66, 22, BUFFER[64:130], (0, 0))
    assert ask(78, mac=64, tail=130, vlan=(5, 0x8100)) == Told(66, 14, BUFFER[64:130], (5, 0x8100))


@pytest.mark.parametrize("mac", [UNSET, 78, 98, 64 - 20, 64 - 14], ids=["none", "none-long", "behind", "tunnel", "odd"])
def test_from_the_ip_header_on(ask: Ask, mac: int) -> None:
    assert ask(78, mac=mac, tail=130) == Told(52, 0, BUFFER[78:130], (0, 0))


def test_nothing_without_headers(ask: Ask) -> None:
    assert ask(0) is None and ask(0, mac=64) is None
    assert ask(78, tail=78, paged=100) is None and ask(78, tail=60, data=40) is None


def test_no_more_than_asked_for(ask: Ask) -> None:
    assert ask(78, mac=64, tail=64 + SNAPLEN) == Told(SNAPLEN, 14, BUFFER[64 : 64 + SNAPLEN], (0, 0))
    assert ask(78, mac=64, tail=200, paged=1000) == Told(1136, 14, BUFFER[64 : 64 + SNAPLEN], (0, 0))


def test_the_page_behind(ask: Ask, pages: bool) -> None:
    for paged, more in ((40, 40), (50, 50), (51, 50), (200, 50)):
        behind = BEHIND[:more] if pages else b""
        assert ask(78, mac=64, tail=114, paged=paged) == Told(50 + paged, 14, BUFFER[64:114] + behind, (0, 0))


def test_layout() -> None:
    assert struct.calcsize("<IHHHHHBB") == BYTES_ITEM.size == 16
