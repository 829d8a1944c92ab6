"""What return values mean, against the numbers of the kernel's headers and the types of recorded kernels."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

from collections.abc import Mapping

import pytest

from nettrace.kernel import Kernel
from nettrace.meaning import number, return_text, verdict

ENUMS = {
    "gro_result": {0: "GRO_MERGED", 1: "GRO_MERGED_FREE", 2: "GRO_HELD", 3: "GRO_NORMAL", 4: "GRO_CONSUMED"},
    "rx_handler_result": {0: "RX_HANDLER_CONSUMED", 3: "RX_HANDLER_PASS"},
    "signed": {-1: "MINUS", 0: "ZERO"},
}


def enum_names(enum: str) -> Mapping[int, str]:
    return ENUMS.get(enum, {})


def register(number: int, bits: int = 64) -> int:
    """A negative number as the register holds it; a 32-bit one may leave anything above."""
    return number & ((1 << bits) - 1)


def text(type_text: str, value: int, trace: str = "") -> str:
    return return_text(type_text, value, enum_names, trace, drop_reason=lambda number: f"REASON_{number}")


@pytest.mark.parametrize(
    ("type_text", "value", "meaning"),
    [
        ("void", 12345, ""),
        ("int", 0, "0"),
        ("int", 7, "7"),
        ("int", register(-113), "-EHOSTUNREACH"),
        ("int", register(-113, 32), "-EHOSTUNREACH"),
        ("int", 0xABCD_0000_0000 | register(-12, 32), "-ENOMEM"),
        ("int", 0xABCD_0000_0001, "1"),
        ("int", register(-11), "-EAGAIN"),
        ("int", register(-95), "-EOPNOTSUPP"),
        ("int", register(-115), "-EINPROGRESS"),
        ("int", register(-524), "-ENOTSUPP"),
        ("int", register(-517), "-EPROBE_DEFER"),
        # No error has this number; and -1 is often just "no".
        ("int", register(-3000), "-3000"),
        ("int", register(-5000), "-5000"),
        ("int", register(-1), "-1 (-EPERM)"),
        ("int", 0x8000_0000, "-2147483648"),
        ("unsigned int", register(-1), "4294967295"),
        ("u32", 0xFFFF_FFFF_0000_0002, "2"),
        ("u8", 0x1FF, "255"),
        ("__be16", 0x12345, "9029"),
        ("s8", 0xFF, "-1 (-EPERM)"),
        ("short int", 0x1FFFE, "-ENOENT"),
        ("long int", register(-22), "-EINVAL"),
        ("long int", 1 << 40, "1099511627776"),
        ("ssize_t", register(-32), "-EPIPE"),
        ("long unsigned int", register(-22), "18446744073709551594"),
        ("size_t", 1 << 40, "1099511627776"),
        ("bool", 0x100, "false"),
        ("bool", 0x101, "true"),
        ("_Bool", 1, "true"),
        ("struct sock *", 0, "NULL"),
        ("struct sock *", 0xFFFF88810A0B0C00, "0xffff88810a0b0c00"),
        ("struct sk_buff *", 0xFFFF88810A0B0C00, "0a0b0c00"),
        ("struct sk_buff *", register(-22), "ERR_PTR(-EINVAL)"),
        ("void *", register(-4095), "ERR_PTR(-4095)"),
        ("char *", register(-4096), "0xfffffffffffff000"),
        ("enum gro_result", 4, "GRO_CONSUMED"),
        ("enum gro_result", 5, "5"),
        ("enum signed", register(-1, 32), "MINUS"),
        ("enum nobody_knows", 2, "2"),
        ("gro_result_t", 3, "GRO_NORMAL"),
        ("rx_handler_result_t", 3, "RX_HANDLER_PASS"),
        ("netdev_tx_t", 0, "NETDEV_TX_OK"),
        ("netdev_tx_t", 0x10, "NETDEV_TX_BUSY"),
        # Some drivers return what queueing disciplines do.
        ("netdev_tx_t", 1, "NET_XMIT_DROP"),
        ("netdev_tx_t", register(-12, 32), "-ENOMEM"),
        ("enum skb_drop_reason", 3, "REASON_3"),
        ("enum skb_drop_reason", 0x20003, "REASON_131075"),
        # Functions of modules on a kernel that does not describe those.
        ("", 7, "7"),
        ("", register(-22, 32), "-EINVAL"),
        ("", register(-22), "-EINVAL"),
        ("", 0xFFFF88810A0B0C00, "0xffff88810a0b0c00"),
        ("struct in6_addr", 0xFFFF88810A0B0C00, "0xffff88810a0b0c00"),
        ("some_t", 7, "7"),
    ],
)
def test_types(type_text: str, value: int, meaning: str) -> None:
    assert text(type_text, value) == meaning


VERDICTS = ["NF_DROP", "NF_ACCEPT", "NF_STOLEN", "NF_QUEUE (queue 0)", "NF_REPEAT", "NF_STOP"]
RECEIVED = ["NET_RX_SUCCESS", "NET_RX_DROP", "2"]
SENT = ["NET_XMIT_SUCCESS", "NET_XMIT_DROP", "NET_XMIT_CN", "3"]
TC_ACTIONS = [
    "TC_ACT_OK", "TC_ACT_RECLASSIFY", "TC_ACT_SHOT", "TC_ACT_PIPE", "TC_ACT_STOLEN", "TC_ACT_QUEUED", "TC_ACT_REPEAT",
    "TC_ACT_REDIRECT", "TC_ACT_TRAP", "9",
]  # fmt: skip
XDP_ACTIONS = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT", "5"]


@pytest.mark.parametrize(
    ("trace", "type_text", "meanings"),
    [
        *((name, "unsigned int", VERDICTS) for name in (
            "ipt_do_table", "ip6t_do_table", "arpt_do_table", "ebt_do_table", "nft_do_chain", "nft_do_chain_inet",
            "nf_conntrack_in", "nf_confirm", "nf_nat_manip_pkt", "nf_nat_inet_fn", "nf_nat_ipv4_pre_routing",
            "br_nf_pre_routing", "br_nf_forward_ip", "br_nf_post_routing", "ip_vs_in_hook", "ip_vs_out",
            "ip_vs_remote_request4", "nf_flow_offload_ip_hook",
        )),
        # In modules of Linux 5.10, whose types are not known.
        ("ipt_do_table", "", VERDICTS),
        ("__nf_conntrack_confirm", "int", VERDICTS),
        ("nf_conntrack_tcp_packet", "int", VERDICTS),
        *((name, "int", RECEIVED) for name in (
            "enqueue_to_backlog", "netif_receive_skb", "__netif_receive_skb_core", "ip_rcv", "ip_local_deliver",
            "ip_forward", "ipv6_rcv", "arp_rcv", "arp_process", "icmp_rcv", "raw_rcv", "br_pass_frame_up",
        )),
        *((name, "int", SENT) for name in (
            "__dev_queue_xmit", "__dev_direct_xmit", "packet_direct_xmit", "ip_output", "ip_finish_output2",
            "ip6_finish_output2", "ip6_xmit", "__ip_queue_xmit", "__tcp_transmit_skb", "neigh_resolve_output",
            "fq_codel_enqueue", "pfifo_fast_enqueue", "ip_do_fragment",
        )),
        *((name, "int", TC_ACTIONS) for name in (
            "tcf_classify", "cls_bpf_classify", "u32_classify", "tcf_mirred_act", "tcf_bpf_act", "tunnel_key_act",
        )),
        ("bpf_prog_run_generic_xdp", "u32", XDP_ACTIONS),
        ("netif_receive_generic_xdp", "u32", XDP_ACTIONS),
        ("do_xdp_generic", "int", XDP_ACTIONS),
        ("nf_hook_slow", "int", ["0 (stolen or queued)", "1 (accepted)", "2"]),
        ("__ip_local_out", "int", ["0 (stolen or queued)", "1 (accepted)"]),
        ("nf_queue", "int", ["0 (queued, or dropped)", "1 (nobody listens, the rule says go on)"]),
        ("__neigh_event_send", "int", ["0 (the address is known)", "1 (the address is not known yet)"]),
        ("tcp_queue_rcv", "int", ["0 (queued)", "1 (merged with the segment before)"]),
        ("tcp_rcv_state_process", "int", ["0", "1 (a RST answers it)"]),
        # Renamed by the compiler.
        ("ipt_do_table.isra.0", "unsigned int", VERDICTS),
        # Nothing is promised of these.
        ("ip_rcv_core_of_mine", "int", ["0", "1", "2"]),
        ("tcp_v4_rcv", "int", ["0", "1"]),
        ("nf_nat_ipv4_register_fn", "int", ["0", "1"]),
        # On newer kernels some return something else than a plain integer.
        ("ip_rcv", "bool", ["false", "true"]),
        ("tcp_rcv_state_process", "enum skb_drop_reason", ["REASON_0", "REASON_1"]),
    ],
)  # fmt: skip
def test_functions(trace: str, type_text: str, meanings: list[str]) -> None:
    assert [text(type_text, number, trace) for number in range(len(meanings))] == meanings


@pytest.mark.parametrize(
    ("trace", "type_text", "value", "meaning"),
    [
        # NF_DROP_ERR(-EPERM), NF_DROP_REASON(..., EHOSTUNREACH), NF_QUEUE_NR(7) with the bypass flag
        ("nft_do_chain", "unsigned int", 1 << 16, "NF_DROP (-EPERM)"),
        ("nft_do_chain", "unsigned int", 113 << 16, "NF_DROP (-EHOSTUNREACH)"),
        ("nft_do_chain", "unsigned int", 113 << 16 | 2, "NF_STOLEN (dropped, -EHOSTUNREACH)"),
        ("nft_do_chain", "unsigned int", 7 << 16 | 0x8000 | 3, "NF_QUEUE (queue 7)"),
        ("nft_do_chain", "unsigned int", 0xFFFF0003, "NF_QUEUE (queue 65535)"),
        ("nft_do_chain", "unsigned int", 77, "77"),
        ("nf_conntrack_tcp_packet", "int", register(-1), "-NF_ACCEPT (invalid)"),
        ("nf_conntrack_tcp_packet", "int", register(-4), "-NF_REPEAT (to be looked up again)"),
        ("nf_hook_slow", "int", register(-113), "-EHOSTUNREACH (dropped)"),
        ("nf_hook_slow", "int", register(-1), "-EPERM (dropped)"),
        ("tcf_classify", "int", register(-1, 32), "TC_ACT_UNSPEC"),
        ("tcf_classify", "int", 0x20000007, "TC_ACT_GOTO_CHAIN 7"),
        ("tcf_action_exec", "int", 0x10000002, "TC_ACT_JUMP 2"),
        ("tcf_classify", "int", register(-2), "-ENOENT"),
        ("__dev_queue_xmit", "int", 0x10, "NETDEV_TX_BUSY"),
        ("__dev_queue_xmit", "int", register(-100), "-ENETDOWN"),
        ("htb_enqueue", "int", 0x10001, "NET_XMIT_DROP|__NET_XMIT_STOLEN"),
        ("htb_enqueue", "int", 0x20001, "NET_XMIT_DROP|__NET_XMIT_BYPASS"),
        ("ip_rcv", "int", register(-1), "-1 (-EPERM)"),
        ("udp_queue_rcv_skb", "int", register(-1), "-1 (dropped)"),
        ("udpv6_queue_rcv_one_skb", "int", 50, "50 (goes on as ESP)"),
        # ip_protocol_deliver_rcu() hands it to the protocol of this number, which no error has to do with.
        ("udp_rcv", "int", register(-50), "-50 (goes on as ESP)"),
        ("xfrm_input", "int", register(-1), "-1 (goes on as ICMP)"),
        ("udp_rcv", "int", 0, "0"),
        ("fou_udp_recv", "int", register(-4), "-4 (goes on as IPIP)"),
        ("fou_udp_recv", "int", 1, "1 (not the tunnel's)"),
        ("fou_udp_recv", "int", 0, "0"),
        ("cake_enqueue", "s32", 2, "NET_XMIT_CN"),
        ("ip_vs_nat_xmit_v6", "int", 2, "NF_STOLEN"),
        ("__xfrm_policy_check", "int", 0, "0 (refused)"),
        ("inet_frag_queue_insert", "int", 2, "2 (IPFRAG_OVERLAP)"),
        ("lwtunnel_xmit", "int", 256, "256 (LWTUNNEL_XMIT_CONTINUE)"),
        ("lwtunnel_xmit", "int", 1, "1"),
        ("tcp_try_rmem_schedule", "int", register(-1, 32), "-1 (no room)"),
        ("ipv6_frag_rcv", "int", 1, "1 (the packet is whole)"),
        ("xdp_do_generic_redirect", "int", register(-22), "-EINVAL"),
    ],
)
def test_more_of_functions(trace: str, type_text: str, value: int, meaning: str) -> None:
    assert text(type_text, value, trace) == meaning


def of_kernel(kernel: Kernel, function: str, value: int) -> str:
    prototype = kernel.prototype(function)
    assert prototype is not None

    def names(enum: str) -> Mapping[int, str]:
        return {number: name for name, number in (kernel.btf.enum(enum) or {}).items()}

    return return_text(prototype.returns, value, names, function, kernel.drop_reason)


@pytest.mark.parametrize(
    ("version", "function", "returned", "meaning"),
    [
        # The reverse path filter, and a source address that is one of the host's own.
        ("5.10", "fib_validate_source", -18, "-EXDEV"),
        ("6.12", "fib_validate_source", -18, "-EXDEV"),
        ("7.2", "fib_validate_source", "SKB_DROP_REASON_IP_RPFILTER", "IP_RPFILTER"),
        ("7.2", "fib_validate_source", "SKB_DROP_REASON_IP_LOCAL_SOURCE", "IP_LOCAL_SOURCE"),
        ("7.2", "fib_validate_source", 0, "0"),
        ("7.2", "fib_validate_source", 1, "1"),
        ("5.10", "tcp_ack", -1, "-1 (-EPERM)"),
        ("6.1", "tcp_ack", "SKB_DROP_REASON_TCP_TOO_OLD_ACK", "TCP_TOO_OLD_ACK"),
        ("7.2", "tcp_ack", "SKB_DROP_REASON_TCP_ACK_UNSENT_DATA", "TCP_ACK_UNSENT_DATA"),
        ("7.2", "tcp_ack", 1, "1"),
        ("5.10", "tcp_rcv_state_process", 1, "1 (a RST answers it)"),
        ("6.12", "tcp_rcv_state_process", 0, "NOT_DROPPED_YET"),
        ("5.10", "icmp_echo", 1, "true"),
        ("6.12", "icmp_echo", 1, "CONSUMED"),
        ("5.10", "nf_hook_slow", -1, "-EPERM (dropped)"),
        ("7.2", "ip_route_input_slow", 0, "NOT_DROPPED_YET"),
        ("6.12", "ip_route_input_slow", -113, "-EHOSTUNREACH"),
        ("6.1", "bpf_prog_run_generic_xdp", 1, "XDP_DROP"),
        ("6.12", "tun_net_xmit", 1, "NET_XMIT_DROP"),
        ("7.2", "ip_rcv_core", 0, "NULL"),
        ("7.2", "nft_do_chain", 0, "NF_DROP"),
        ("5.10", "__kfree_skb", 0, ""),
    ],
)
def test_recorded_kernels(
    kernels: dict[str, Kernel], version: str, function: str, returned: int | str, meaning: str
) -> None:
    kernel = kernels[version]
    if isinstance(returned, str):
        reason = kernel.btf.enum_value("skb_drop_reason", returned)
        assert reason is not None
        returned = -reason
    assert of_kernel(kernel, function, register(returned)) == meaning


@pytest.mark.parametrize(
    ("type_text", "value", "meant"),
    [
        ("int", register(-113, 32), -113),
        ("int", 0xABCD_0000_0001, 1),
        ("unsigned int", register(-113, 32), 0xFFFFFF8F),
        ("u8", 0x1FF, 0xFF),
        ("s8", 0x1FF, -1),
        ("short int", 0x18000, -0x8000),
        ("__sum16", 0xABCD_FFFF, 0xFFFF),
        ("long int", register(-5), -5),
        ("long unsigned int", register(-5), register(-5)),
        ("bool", 0xFF00, 0),
        ("_Bool", 0x101, 1),
        ("struct sock *", 0xFFFF_8881_0000_0000, 0xFFFF_8881_0000_0000),
        ("void *", 0, 0),
        ("enum skb_drop_reason", 0xABCD_0000_0003, 3),
        ("netdev_tx_t", register(-12, 32), -12),
        ("", register(-1, 32), -1),
    ],
)
def test_numbers(type_text: str, value: int, meant: int) -> None:
    assert number(type_text, value) == meant


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((plain, plain) for plain in range(6)),
        # NF_DROP_ERR(-EPERM), and NF_DROP_REASON(..., EHOSTUNREACH), which is "stolen" with an error
        (1 << 16, 0),
        (113 << 16 | 2, 0),
        (1 << 16 | 2, 0),
        # NF_QUEUE_NR(7), and with the bypass flag
        (7 << 16 | 3, 3),
        (7 << 16 | 0x8000 | 3, 3),
        (0xFFFF << 16 | 3, 3),
        (-(1 << 16) | 3, 3),  # the same, of a function whose type is not known
        # No verdicts; below zero is what connection tracking says.
        (6, 6),
        (77, 77),
        (-1, -1),
        (-4, -4),
    ],
)
def test_verdicts(value: int, meant: int) -> None:
    assert verdict(value) == meant
