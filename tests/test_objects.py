"""Programs as BCC hands them over, completed for the kernel."""

import pytest

from nettrace.objects import Code, MapSpec, Object

# What BCC 0.26 made of: u32 z = 0, *v = a.lookup(&z);
# if (v && *v == (u32)VALUE(1)) messages.perf_submit(ctx, &z, sizeof(z));
# return v && *v > VALUE(2) ? VALUE(1) : 0;
# with the descriptors 6 (a) and 5 (messages).
MADE = bytes.fromhex(
    "bf17000000000000b706000000000000636afcff000000001811000006000000"
    "0000000000000000bfa200000000000007020000fcffffff8500000001000000"
    "bf0800000000000015081500000000006181000000000000"
    "1806000001000000000000007672746e"
    "bf62000000000000670200002000000077020000200000005d210a0000000000"
    "18120000050000000000000000000000bfa400000000000007040000fcffffff"
    "bf7100000000000018030000ffffffff0000000000000000b705000004000000"
    "85000000190000006181000000000000"
    "1802000002000000000000007672746e"
    "2d21010000000000b706000000000000bf600000000000009500000000000000"
)
MAPS = (MapSpec("a", 2, 4, 4, 1, 0), MapSpec("messages", 4, 4, 4, 2, 0))
FIRST_MAP, FIRST_VALUE, SECOND_MAP, OTHER, SECOND_VALUE = 3 * 8, 11 * 8, 17 * 8, 22 * 8, 27 * 8


def number(code: bytes, offset: int) -> int:
    """What a load of 64 bits loads."""
    return int.from_bytes(code[offset + 4 : offset + 8] + code[offset + 12 : offset + 16], "little")


def test_maps_and_numbers_are_found() -> None:
    code = Code.of(MADE, {6: 0, 5: 1})
    assert code.maps == ((FIRST_MAP, 0), (SECOND_MAP, 1))
    assert code.values == ((FIRST_VALUE, 1), (SECOND_VALUE, 2))


def test_nothing_of_this_process_is_kept() -> None:
    # Other descriptors, same programs.
    others = bytearray(MADE)
    others[FIRST_MAP + 4], others[SECOND_MAP + 4] = 77, 78
    assert Code.of(bytes(others), {77: 0, 78: 1}) == Code.of(MADE, {6: 0, 5: 1})


def test_completed_as_the_compiler_would_have_made_it() -> None:
    code = Code.of(MADE, {6: 0, 5: 1}).completed([6, 5], [0, 0x6E747276 << 32 | 1, 0x6E747276 << 32 | 2])
    assert code == MADE


def test_only_those_places_change() -> None:
    code = Code.of(MADE, {6: 0, 5: 1}).completed([100, 200], [1, 0x1122334455667788, 0xFFFFFFFF])
    assert [number(code, at) for at in (FIRST_MAP, SECOND_MAP)] == [100, 200]
    assert [number(code, at) for at in (FIRST_VALUE, SECOND_VALUE)] == [0x1122334455667788, 0xFFFFFFFF]
    assert number(code, OTHER) == 0xFFFFFFFF
    changed = {at for at in range(len(MADE)) if code[at] != MADE[at]}
    assert {at // 8 for at in changed} <= {at // 8 + word for at in (24, 88, 136, 216) for word in (0, 1)}


def test_a_descriptor_of_no_map_is_an_error() -> None:
    with pytest.raises(KeyError):
        Code.of(MADE, {6: 0})


def test_bytes_and_back() -> None:
    programs = Object(MAPS, {"work": Code.of(MADE, {6: 0, 5: 1}), "empty": Code(b"", (), ())})
    assert Object.from_bytes(programs.to_bytes()) == programs


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b'{"maps": 1, "programs": {}}', b'{"maps": [["a"]], "programs": {}}', b"\xff\xfe",
     b'{"maps": [], "programs": {"work": ["AAAA"]}}', b'{"maps": [], "programs": {"work": ["?", [], []]}}',
     b'{"maps": [], "programs": []}'],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Object.from_bytes(data)
