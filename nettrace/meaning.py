"""What a function's return value means: by its type, and for some functions by what they are known to return.

A name is only given to what the kernel's sources promise of this function; all else is a number.
"""

import errno
import functools
import re
from collections.abc import Callable, Mapping
from typing import Optional

from .packets import protocol_name

EnumNames = Callable[[str], Mapping[int, str]]

_MAX_ERRNO = 4095
_UNSIGNED_64 = (1 << 64) - 1
_PACKET = "struct sk_buff *"
_DROP_REASON = "skb_drop_reason"
# The widths in bits of what C calls integers, and the kernel's names of them.
SIGNED_BITS = {
    "char": 8, "signed char": 8, "s8": 8, "__s8": 8, "short int": 16, "s16": 16, "__s16": 16,
    "int": 32, "s32": 32, "__s32": 32, "pid_t": 32,
    "long int": 64, "long long int": 64, "s64": 64, "__s64": 64, "ssize_t": 64, "ktime_t": 64,
}  # fmt: skip
UNSIGNED_BITS = {
    "unsigned char": 8, "u8": 8, "__u8": 8, "short unsigned int": 16, "u16": 16, "__u16": 16, "__be16": 16,
    "__sum16": 16, "unsigned int": 32, "u32": 32, "__u32": 32, "__be32": 32, "__wsum": 32, "gfp_t": 32,
    "long unsigned int": 64, "long long unsigned int": 64, "u64": 64, "__u64": 64, "__be64": 64, "size_t": 64,
    "netdev_features_t": 64,
}  # fmt: skip

# Of the names that share a number, the one that the kernel says; and those that programs never see.
_ERRNO_NAMES = {
    errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK", errno.EOPNOTSUPP: "EOPNOTSUPP", 512: "ERESTARTSYS",
    513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 517: "EPROBE_DEFER", 519: "EOPENSTALE", 521: "EBADHANDLE",
    524: "ENOTSUPP", 529: "EIOCBQUEUED",
}  # fmt: skip

# include/uapi/linux/netfilter.h
_VERDICTS = ("NF_DROP", "NF_ACCEPT", "NF_STOLEN", "NF_QUEUE", "NF_REPEAT", "NF_STOP")
_NF_STOLEN = _VERDICTS.index("NF_STOLEN")
_NF_QUEUE = _VERDICTS.index("NF_QUEUE")
# What connection tracking says by a verdict below zero.
_INVERTED = {"NF_ACCEPT": "invalid", "NF_REPEAT": "to be looked up again"}

# include/linux/netdevice.h, include/net/sch_generic.h
_RX = ("NET_RX_SUCCESS", "NET_RX_DROP")
_XMIT = {0: "NET_XMIT_SUCCESS", 1: "NET_XMIT_DROP", 2: "NET_XMIT_CN", 16: "NETDEV_TX_BUSY"}
_QDISC_FLAGS = {1 << 16: "__NET_XMIT_STOLEN", 1 << 17: "__NET_XMIT_BYPASS"}
# A driver's own; some return the codes of queueing disciplines.
_TX = {**_XMIT, 0: "NETDEV_TX_OK"}

# include/uapi/linux/pkt_cls.h
_TC = (
    "TC_ACT_UNSPEC", "TC_ACT_OK", "TC_ACT_RECLASSIFY", "TC_ACT_SHOT", "TC_ACT_PIPE", "TC_ACT_STOLEN", "TC_ACT_QUEUED",
    "TC_ACT_REPEAT", "TC_ACT_REDIRECT", "TC_ACT_TRAP",
)  # fmt: skip
_TC_WITH_NUMBER = {1: "TC_ACT_JUMP", 2: "TC_ACT_GOTO_CHAIN"}

# The kernel's headers give these names by #define, so that its BTF does not know them.
DEFINED = {
    name: number
    for names in (enumerate(_VERDICTS), enumerate(_RX), _XMIT.items(), enumerate(_TC, -1))
    for number, name in names
}

# include/uapi/linux/bpf.h
_XDP = ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT")


def return_text(
    type_text: str,
    value: int,
    enum_names: EnumNames,
    trace: str = "",
    drop_reason: Callable[[int], str] = str,
) -> str:
    """What a function returned, as a person would say it; empty for void.

    type_text: the C type that the function returns, empty if it is not known.
    value: the register, as 64 bits without sign.
    enum_names: the names of an enum's values.
    trace: the function's name.
    drop_reason: the name of a reason to drop a packet.
    """
    if type_text == "void":
        return ""
    if type_text.endswith("*"):
        return _pointer(value, is_packet=type_text == _PACKET)
    if type_text in ("bool", "_Bool"):
        return "true" if value & 0xFF else "false"
    number = _signed(value, 32)
    word, _, enum = type_text.rpartition(" ")
    if word == "enum":
        return _enumerator(enum, number, enum_names, drop_reason)
    if type_text == "netdev_tx_t":
        return _name_or_number(_TX.get(number), number)
    if type_text.endswith("_t") and number in enum_names(type_text[:-2]):
        return enum_names(type_text[:-2])[number]
    if type_text in ("", "int", "s32", "unsigned int", "u32"):
        name = trace.partition(".")[0]
        known = _known(name, number, enum_names, drop_reason)
        if known is not None:
            return known
    if type_text in UNSIGNED_BITS:
        return str(value & (1 << UNSIGNED_BITS[type_text]) - 1)
    if type_text in SIGNED_BITS:
        return _number(_signed(value, SIGNED_BITS[type_text]))
    # Of a type that says nothing: an address if it looks like one.
    return _number(number) if value >> 32 in (0, 0xFFFFFFFF) else f"0x{value:x}"


def number(type_text: str, value: int) -> int:
    """What a function returned as a number: signed if its type is, a pointer as it is.

    type_text and value: as for return_text().
    """
    if type_text.endswith("*"):
        return value
    if type_text in ("bool", "_Bool"):
        return value & 0xFF
    if type_text in UNSIGNED_BITS:
        return value & (1 << UNSIGNED_BITS[type_text]) - 1
    return _signed(value, SIGNED_BITS.get(type_text, 32))


def verdict(value: int) -> int:
    """Which of netfilter's verdicts a hook's return value is; what is none stays as it is."""
    low = value & 0xFF
    if low >= len(_VERDICTS):
        return value
    # Since Linux commit e0d4593140b0 (6.7) a packet dropped with a reason of its own is "stolen" with an error.
    return 0 if low == _NF_STOLEN and value >> 16 & 0xFFFF else low


def _known(name: str, number: int, enum_names: EnumNames, drop_reason: Callable[[int], str]) -> Optional[str]:
    """What this function is known to mean by the number."""
    if name in _NEGATED_REASONS:
        mark = _NEGATED_REASONS[name]
        if number < 0 and mark in enum_names(_DROP_REASON).values():
            return drop_reason(-number)
        return None
    if name in _WORDS:
        word = _WORDS[name].get(number)
        return None if word is None else f"{number} ({word})"
    meaning = _meaning(name)
    return None if meaning is None else meaning(number)


@functools.cache
def _meaning(name: str) -> Optional[Callable[[int], Optional[str]]]:
    return next((meaning for names, meaning in _MEANINGS if names.fullmatch(name)), None)


def _verdict(number: int) -> Optional[str]:
    if -len(_VERDICTS) < number < 0:
        name = _VERDICTS[-number]
        return f"-{name}" + (f" ({_INVERTED[name]})" if name in _INVERTED else "")
    verdict, more = number & 0xFF, number >> 16 & 0xFFFF
    if verdict >= len(_VERDICTS):
        return None
    if verdict == _NF_QUEUE:
        return f"NF_QUEUE (queue {more})"
    # A rule may say with which error the sender is told; since Linux commit e0d4593140b0 (6.7)
    # a packet dropped at once, with a reason of its own, is reported as stolen with an error.
    word = "dropped, " if verdict == _NF_STOLEN else ""
    return _VERDICTS[verdict] + (f" ({word}{_error(more)})" if more else "")


def _hooks(number: int) -> Optional[str]:
    """What came of all functions at a netfilter hook: nf_hook_slow() maps their verdicts to its own numbers."""
    if number < 0:
        return f"{_error(-number)} (dropped)"
    return {0: "0 (stolen or queued)", 1: "1 (accepted)"}.get(number)


def _received(number: int) -> Optional[str]:
    return _RX[number] if 0 <= number < len(_RX) else None


def _transmitted(number: int) -> Optional[str]:
    if number < 0:
        return None
    flags = [name for bit, name in _QDISC_FLAGS.items() if number & bit]
    name = _XMIT.get(number & 0xFFFF)
    return None if name is None else "|".join([name, *flags])


def _handled(number: int) -> Optional[str]:
    """What a protocol returns: IPv4 takes a negative number, IPv6 a positive one for the protocol to go on with."""
    return f"{number} (goes on as {protocol_name(abs(number))})" if 0 < abs(number) < 256 else None


def _queued(number: int) -> Optional[str]:
    return "-1 (dropped)" if number == -1 else _handled(number)


def _tunnelled(number: int) -> Optional[str]:
    """What a tunnel's hook in a UDP socket returns."""
    return "1 (not the tunnel's)" if number == 1 else _handled(number) if number < 0 else None


def _tc_action(number: int) -> Optional[str]:
    if number >> 28 in _TC_WITH_NUMBER:
        return f"{_TC_WITH_NUMBER[number >> 28]} {number & 0xFFFFFFF}"
    return _TC[number + 1] if -1 <= number < len(_TC) - 1 else None


def _xdp_action(number: int) -> Optional[str]:
    return _XDP[number] if 0 <= number < len(_XDP) else None


def _names(text: str) -> "re.Pattern[str]":
    return re.compile("|".join(text.split()))


# Patterns of function names, and what those functions return where their type is a plain integer.
_MEANINGS: tuple[tuple["re.Pattern[str]", Callable[[int], Optional[str]]], ...] = (
    (_names("nf_hook_slow __ip_local_out __ip6_local_out"), _hooks),
    (
        _names(
            r"""
            (ipt|ip6t|arpt|ebt)_do_table (iptable|ip6table)_mangle_hook nft_do_chain(_\w+)?
            nf_conntrack_in nf_conntrack_(tcp|udp|udplite|icmp|icmpv6|sctp|dccp|gre)_packet
            __nf_conntrack_confirm nf_confirm ipv[46]_(confirm|conntrack_in|conntrack_local|synproxy_hook)
            nf_nat_manip_pkt nf_nat_packet nf_nat_inet_fn nf_nat_ipv[46]_(fn|in|out|pre_routing|local_in|local_fn)
            nft_nat_do_chain nf_nat_masquerade_ipv[46] nf_nat_redirect_ipv[46]
            nf_conntrack_icmpv[46]_error (__)?nf_ct_resolve_clash nf_hook_run_bpf ipvlan_nf_input
            nf_ct_bridge_(pre|in|post) nf_flow_offload_(ip|ipv6|inet)_hook
            br_nf_(pre_routing|pre_routing_ipv6|local_in|forward|forward_ip|forward_arp|post_routing) ip_sabotage_in
            ip_vs_(in|out)(_hook)? ip_vs_(in|out)_icmp(_v6)? ip_vs_forward_icmp(_v6)? ip_vs_leave
            ip_vs_null_xmit ip_vs_(nat|dr|tunnel|bypass|icmp)_xmit(_v6)? handle_response
            ip_vs_(reply|local_reply|remote_request|local_request)[46]
            """
        ),
        _verdict,
    ),
    (
        _names(
            r"""
            netif_rx(_internal|_ni)? enqueue_to_backlog netif_receive_skb __netif_receive_skb(_core|_one_core)?
            ip_rcv ip_rcv_finish ip_local_deliver ip_local_deliver_finish ip_forward ipv6_rcv ip6_input
            ip6_rcv_finish arp_rcv arp_process icmp_rcv raw_rcv rawv6_rcv br_pass_frame_up mpls_forward
            gro_cells_receive pppoe_rcv pppoe_rcv_core pptp_rcv
            """
        ),
        _received,
    ),
    (
        _names(
            r"""
            dev_queue_xmit __dev_queue_xmit __dev_direct_xmit packet_direct_xmit
            ip_local_out ip6_local_out ip_output ip_mc_output (__)?ip_finish_output ip_finish_output2
            ip_forward_finish ip_do_fragment ip_fragment __ip_queue_xmit ip_queue_xmit
            ip6_output (__)?ip6_finish_output ip6_finish_output2 ip6_forward ip6_forward_finish ip6_fragment ip6_xmit
            __tcp_transmit_skb __tcp_retransmit_skb neigh_resolve_output neigh_connected_output neigh_direct_output
            neigh_xmit ipvlan_queue_xmit ipvlan_process_v4_outbound l2tp_xmit_skb vrf_output ip_build_and_send_pkt
            (noop|pfifo|bfifo|pfifo_fast|pfifo_tail|blackhole|cake|cbs|choke|codel_qdisc|drr|ets_qdisc|fq|fq_codel)_enqueue
            (fq_pie_qdisc|gred|hfsc|hhf|htb|multiq|netem|pie_qdisc|prio|qfq|red|sfb|sfq|skbprio|taprio|tbf)_enqueue
            """
        ),
        _transmitted,
    ),
    (
        _names(
            r"""
            tcf_classify __tcf_classify tcf_classify_ingress tc_run
            (basic|cls_bpf|cls_cgroup|flow|fl|fw|mall|route4|u32)_classify
            tcf_action_exec tcf_(bpf|connmark|csum|ct|ctinfo|gact|gate|ife|mirred|mpls|nat|pedit|police)_act
            tcf_(sample|simp|skbedit|skbmod|vlan)_act tunnel_key_act
            """
        ),
        _tc_action,
    ),
    (
        _names("udp_rcv udp6?_unicast_rcv_skb udpv6_rcv xfrm4_rcv xfrm_input xfrm4_rcv_encap xfrm4_transport_finish"),
        _handled,
    ),
    (_names("(udp|udpv6)_queue_rcv(_one)?_skb"), _queued),
    (_names("(fou|gue)_udp_recv xfrm[46]_udp_encap_rcv l2tp_udp_encap_recv gtp_encap_recv"), _tunnelled),
    (_names("bpf_prog_run_generic_xdp netif_receive_generic_xdp do_xdp_generic"), _xdp_action),
)

_WORDS = {
    "__cgroup_bpf_run_filter_skb": {1: "NET_XMIT_DROP", 2: "NET_XMIT_CN"},
    "__ipgre_rcv": {0: "PACKET_RCVD", 1: "PACKET_REJECT", 2: "PACKET_NEXT"},
    "__neigh_event_send": {0: "the address is known", 1: "the address is not known yet"},
    "__xfrm_policy_check": {0: "refused", 1: "allowed"},
    "__xfrm_route_forward": {0: "refused", 1: "allowed"},
    "inet_frag_queue_insert": {0: "IPFRAG_OK", 1: "IPFRAG_DUP", 2: "IPFRAG_OVERLAP"},
    "ipv6_destopt_rcv": {-1: "ends here", 1: "goes on with the next header"},
    "ipv6_frag_rcv": {-1: "the packet is not whole yet, or dropped", 1: "the packet is whole"},
    "ipv6_rthdr_rcv": {-1: "ends here", 1: "goes on with the next header"},
    # Since Linux commit a171fbec88a2 (6.6) it cannot be taken for something else.
    "lwtunnel_xmit": {256: "LWTUNNEL_XMIT_CONTINUE"},
    "nf_nat_icmp_reply_translation": {0: "not possible", 1: "done"},
    "nf_queue": {0: "queued, or dropped", 1: "nobody listens, the rule says go on"},
    "ping_queue_rcv_skb": {-1: "dropped"},
    "pppoe_xmit": {0: "to be sent again", 1: "sent, or dropped"},
    "raw_local_deliver": {0: "no raw socket wants it", 1: "given to raw sockets"},
    "tcp_queue_rcv": {0: "queued", 1: "merged with the segment before"},
    "tcp_try_rmem_schedule": {-1: "no room"},
    # Since Linux commit b98256959305 (6.9) these return why a RST is sent.
    "tcp_rcv_state_process": {1: "a RST answers it"},
    "tcp_child_process": {1: "a RST answers it"},
}

# Functions that say by a negative number why the packet is dropped, on kernels that have this
# reason; on others it is an errno. Linux commits 37653a0b8a6f (6.13) and 4b506af9c5b8 (5.19).
_NEGATED_REASONS = {
    "fib_validate_source": "SKB_DROP_REASON_IP_LOCAL_SOURCE",
    "__fib_validate_source": "SKB_DROP_REASON_IP_LOCAL_SOURCE",
    "tcp_ack": "SKB_DROP_REASON_TCP_TOO_OLD_ACK",
}


def _pointer(value: int, *, is_packet: bool) -> str:
    if value == 0:
        return "NULL"
    if value > _UNSIGNED_64 - _MAX_ERRNO:
        return f"ERR_PTR({_number(_signed(value, 64))})"
    # A packet has the name that blocks have it by.
    return f"{value & 0xFFFFFFFF:08x}" if is_packet else f"0x{value:x}"


def _enumerator(enum: str, number: int, enum_names: EnumNames, drop_reason: Callable[[int], str]) -> str:
    if enum == _DROP_REASON:
        return drop_reason(number)
    return _name_or_number(enum_names(enum).get(number), number)


def _name_or_number(name: Optional[str], number: int) -> str:
    return _number(number) if name is None else name


def _number(number: int) -> str:
    """A number, or the name of the error that a negative one is."""
    if not -_MAX_ERRNO <= number < 0:
        return str(number)
    # Many functions say no more by -1 than that it did not work.
    return f"-1 ({_error(1)})" if number == -1 else _error(-number)


def _error(number: int) -> str:
    name = _ERRNO_NAMES.get(number) or errno.errorcode.get(number)
    return f"-{number if name is None else name}"


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
