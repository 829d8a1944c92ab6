"""bpf/filter.h compiled for this machine, to ask its functions about packets and skbs that a test makes up.

What the BPF programs have around them is played here: the kernel's memory, the helpers, the current task.
"""

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from nettrace import event
from nettrace.filters import CONDITIONS, PacketFilter

FILTER = Path(__file__).resolve().parent.parent / "bpf" / "filter.h"
COMPILER = shutil.which("cc")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

# Kernel addresses have their highest bit set. What is where is up to the test.
BASE = 0xFFFF888000000000
MEMORY_BYTES = 1 << 16
OFFSETS = {
    "OFF_sk_buff__dev": 16,
    "OFF_sk_buff__sk": 24,
    "OFF_sk_buff__len": 112,
    "OFF_sk_buff__mark": 116,
    "OFF_sk_buff__data": 208,
    "OFF_sock__skc_net": 48,
    "OFF_net_device__name": 0,
    "OFF_net_device__nd_net": 264,
    "OFF_net__ns_inum": 136,
}
UNSET = 0xFFFF

BEFORE = """
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
"""

_KERNEL = """
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_RARP 0x8035
#define ETH_P_IPV6 0x86dd
#define ETH_HLEN 14
#define VLAN_HLEN 4
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136
#define HEADER_UNSET 0xffff
#define ntohs(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)

u8 memory[MEMORY_BYTES];
u64 pid_tgid;
char comm[16];

static long bpf_probe_read_kernel(void *to, u32 size, const void *from)
{
	u64 at = (u64)from - BASE;

	memset(to, 0, size);
	if (at > MEMORY_BYTES - size)
		return -14;
	memcpy(to, memory + at, size);
	return 0;
}

static u64 bpf_get_current_pid_tgid(void)
{
	return pid_tgid;
}

static long bpf_get_current_comm(void *to, u32 size)
{
	memcpy(to, comm, size);
	return 0;
}

#define READ(type, base, offset) \\
	({ type value_ = 0; bpf_probe_read_kernel(&value_, sizeof(value_), (void *)((u64)(base) + (offset))); value_; })

static bool is_kernel_pointer(u64 value)
{
	return (s64)value < 0;
}

#define CLAMP(number, most) ((number) = (number) < (most) ? (number) : (most))

struct place {
	u64 head;
	u32 l3, tail;
	u16 mac, vlan_tci, vlan_proto;
	u64 beyond;
	u32 beyond_size;
};

static __always_inline bool fetch(const struct place *place, u32 at, void *to, u32 size)
{
	return at + size <= place->tail && !bpf_probe_read_kernel(to, size, (void *)(place->head + at));
}
"""

_AFTER = """
int ask_headers(const struct packet *packet)
{
	return headers_match(packet);
}

int ask_skb(u64 skb, u64 sk, u64 head, u32 l3, u32 tail, u16 mac, u16 vlan_tci, u16 vlan_proto)
{
	struct place place = { head, l3, tail, mac, vlan_tci, vlan_proto };

	return skb_matches((void *)skb, (void *)sk, &place);
}
"""


class Native:
    """One filter."""

    def __init__(self, directory: Path, packet_filter: PacketFilter, more: str = "") -> None:
        numbers = {
            **OFFSETS, "BASE": BASE, "MEMORY_BYTES": MEMORY_BYTES, **packet_filter.numbers(),
            **{f"ASK_{name}": bit for name, bit in CONDITIONS.items()},
            **{name: 1 for name, on in packet_filter.shape.items() if on},
        }  # fmt: skip
        source, library = directory / "filter.c", directory / "filter.so"
        source.write_text(
            BEFORE
            + "".join(f"#define {name} {value:#x}\n" for name, value in numbers.items())
            + event.c_text()
            + _KERNEL
            + f'#line 1 "{FILTER}"\n{FILTER.read_text(encoding="utf-8")}'
            + more
            + _AFTER,
            encoding="utf-8",
        )
        assert COMPILER is not None
        # -fno-strict-aliasing: as the kernel is compiled; the rest as BCC does it.
        subprocess.run(
            [COMPILER, "-std=gnu11", "-O1", "-w", "-fno-strict-aliasing", "-shared", "-fPIC", "-o", library, source],
            check=True,
        )
        self.library = ctypes.CDLL(str(library))
        self.memory = (ctypes.c_uint8 * MEMORY_BYTES).in_dll(self.library, "memory")

    def headers_match(self, packet: bytes) -> bool:
        """Of a struct packet."""
        assert len(packet) == event.PACKET_ITEM.size
        return bool(self.library.ask_headers(ctypes.create_string_buffer(packet, len(packet))))

    def put(self, at: int, data: bytes) -> int:
        """Puts bytes into the kernel's memory; returns their address."""
        ctypes.memmove(ctypes.addressof(self.memory) + at, data, len(data))
        return BASE + at

    def put_number(self, address: int, offset: str, form: str, value: int) -> None:
        """Sets the member of a struct."""
        self.put(address - BASE + OFFSETS[offset], struct.pack(form, value))

    def set_task(self, *, tgid: int = 0, pid: int = 0, comm: bytes = b"") -> None:
        ctypes.c_uint64.in_dll(self.library, "pid_tgid").value = tgid << 32 | pid
        (ctypes.c_char * 16).in_dll(self.library, "comm").raw = comm.ljust(16, b"\0")

    def skb_matches(
        self,
        skb: int,
        *,
        sk: int = 0,
        head: int = 0,
        l3: int = 0,
        tail: int = 0,
        mac: int = UNSET,
        vlan_tci: int = 0,
        vlan_proto: int = 0,
    ) -> bool:
        ask = self.library.ask_skb
        ask.argtypes = [ctypes.c_uint64] * 3 + [ctypes.c_uint32] * 2 + [ctypes.c_uint16] * 3
        return bool(ask(skb, sk, head, l3, tail, mac, vlan_tci, vlan_proto))
