/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading the headers of an skb, wherever they are at the moment. */

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_RARP 0x8035
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define ETH_P_IPV6 0x86dd

#define ETH_HLEN 14
#define VLAN_HLEN 4

#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_ESP 50
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136

#define IPV6_EXT_MAX 8
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS 60
#define IPPROTO_MOBILITY 135

#define AF_INET 2
#define AF_INET6 10
#define TCP_TIME_WAIT 6
#define TCP_NEW_SYN_RECV 12

#define HEADER_UNSET 0xffff

#define ntohs(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)

#define READ(type, base, offset)                                               \
	({                                                                     \
		type value_ = 0;                                               \
		bpf_probe_read_kernel(&value_, sizeof(value_),                 \
				      (void *)((u64)(base) + (offset)));       \
		value_;                                                        \
	})

/* The part of sk_buff that says where the headers are, fetched by one read. */
struct view {
	u64 words[SKB_VIEW_BYTES / 8];
};

#define VIEW(view, type, member)                                               \
	(*(type *)((u8 *)(view)->words + (OFF_sk_buff__##member - SKB_VIEW_AT)))

/* Where the network header is, and what protocol it is of. */
struct place {
	u64 head;
	u32 l3;		/* offset from head; 0: there is no network header yet */
	u32 tail;	/* end of what lies in the linear buffer */
	u16 protocol;	/* EtherType; 0: the skb does not say yet */
	u16 vlan_tci;	/* of the tag, in the frame or beside it; 0: none */
};

static __always_inline bool locate(void *skb, struct place *place)
{
	struct view view;
	u16 mac, network, tag;
	u32 at, i;

	if (bpf_probe_read_kernel(&view, sizeof(view), (void *)((u64)skb + SKB_VIEW_AT)))
		return false;
	place->head = VIEW(&view, u64, head);
	place->tail = VIEW(&view, u32, tail);
	place->protocol = ntohs(VIEW(&view, u16, protocol));
	place->vlan_tci = 0;
#ifdef HAVE_VLAN_PRESENT
	if (VIEW(&view, u8, vlan_present) & MASK_sk_buff__vlan_present)
#else
	if (VIEW(&view, u16, vlan_proto))
#endif
		place->vlan_tci = VIEW(&view, u16, vlan_tci);
	mac = VIEW(&view, u16, mac_header);
	network = VIEW(&view, u16, network_header);

	if ((place->protocol == ETH_P_8021Q || place->protocol == ETH_P_8021AD) && mac != HEADER_UNSET) {
		/*
		 * A tag in the frame. On the way up the network header is the tag,
		 * on the way down the header behind it: go by the frame.
		 */
		at = mac + ETH_HLEN;
#pragma unroll
		for (i = 0; i < 2; i++) {
			if (place->protocol != ETH_P_8021Q && place->protocol != ETH_P_8021AD)
				break;
			tag = READ(u16, place->head, at);
			place->vlan_tci = ntohs(tag);
			tag = READ(u16, place->head, at + 2);
			place->protocol = ntohs(tag);
			at += VLAN_HLEN;
		}
		place->l3 = at;
		return true;
	}
	if (network && (mac == HEADER_UNSET || network >= mac))
		place->l3 = network;
	else if (mac != HEADER_UNSET)
		/*
		 * Just received, or just taken out of a tunnel: the network header is
		 * not set yet, or still the outer one; the data begins with it.
		 */
		place->l3 = (u32)(VIEW(&view, u64, data) - place->head);
	else
		place->l3 = 0;
	return true;
}

static __always_inline void copy_l4(const struct place *place, struct packet *packet, u32 at)
{
	u32 size = 8;

	switch (packet->l4_protocol) {
	case IPPROTO_TCP:
		size = 14;
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		size = 4;
		break;
	case IPPROTO_AH:
		at += 4;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
	case IPPROTO_ESP:
		break;
	default:
		return;
	}
	if (at + size > place->tail)
		return;
	if (bpf_probe_read_kernel(packet->l4, size, (void *)(place->head + at)))
		return;
	if (packet->l4_protocol == IPPROTO_ICMP || packet->l4_protocol == IPPROTO_ICMPV6)
		*(u16 *)(packet->l4 + 2) = 0;	/* the checksum */
	packet->flags |= PACKET_HAS_L4;
}

static __always_inline bool parse_ipv4(const struct place *place, struct packet *packet, u32 *l4)
{
	u8 header[20] __attribute__((aligned(8)));
	u16 fragment;

	if (place->l3 + sizeof(header) > place->tail)
		return false;
	if (bpf_probe_read_kernel(header, sizeof(header), (void *)(place->head + place->l3)))
		return false;
	if (header[0] >> 4 != 4)
		return false;
	packet->l3_protocol = ETH_P_IP;
	packet->l4_protocol = header[9];
	packet->l3_length = ntohs(*(u16 *)(header + 2));
	*(u32 *)packet->saddr = *(u32 *)(header + 12);
	*(u32 *)packet->daddr = *(u32 *)(header + 16);
	fragment = ntohs(*(u16 *)(header + 6));
	*l4 = place->l3 + (header[0] & 0xf) * 4;
	if (fragment & 0x3fff) {
		packet->flags |= PACKET_FRAGMENT;
		packet->fragment_offset = (fragment & 0x1fff) << 3;
		if (packet->fragment_offset)
			*l4 = 0;
	}
	return true;
}

static __always_inline bool parse_ipv6(const struct place *place, struct packet *packet, u32 *l4)
{
	u8 header[40] __attribute__((aligned(8))), extension[8] __attribute__((aligned(8)));
	u8 next;
	u32 at = place->l3 + sizeof(header), i;
	u16 fragment;

	if (at > place->tail)
		return false;
	if (bpf_probe_read_kernel(header, sizeof(header), (void *)(place->head + place->l3)))
		return false;
	if (header[0] >> 4 != 6)
		return false;
	packet->l3_protocol = ETH_P_IPV6;
	packet->l3_length = ntohs(*(u16 *)(header + 4)) + sizeof(header);
	__builtin_memcpy(packet->saddr, header + 8, 16);
	__builtin_memcpy(packet->daddr, header + 24, 16);
	next = header[6];
#pragma clang loop unroll(disable)
	for (i = 0; i < IPV6_EXT_MAX; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_MOBILITY)
			break;
		if (at + sizeof(extension) > place->tail ||
		    bpf_probe_read_kernel(extension, sizeof(extension), (void *)(place->head + at))) {
			packet->l4_protocol = next;
			*l4 = 0;
			return true;
		}
		if (next == IPPROTO_FRAGMENT) {
			fragment = ntohs(*(u16 *)(extension + 2));
			packet->flags |= PACKET_FRAGMENT;
			packet->fragment_offset = fragment & 0xfff8;
			at += 8;
			if (packet->fragment_offset) {
				packet->l4_protocol = extension[0];
				*l4 = 0;
				return true;
			}
		} else {
			at += (extension[1] + 1) * 8;
		}
		next = extension[0];
	}
	packet->l4_protocol = next;
	*l4 = at;
	return true;
}

static __always_inline bool parse_arp(const struct place *place, struct packet *packet)
{
	u8 arp[28] __attribute__((aligned(8)));

	if (place->l3 + sizeof(arp) > place->tail)
		return false;
	if (bpf_probe_read_kernel(arp, sizeof(arp), (void *)(place->head + place->l3)))
		return false;
	packet->l3_protocol = place->protocol;
	/* Hardware and protocol address of 6 and 4 bytes: what Ethernet and IPv4 have. */
	if (*(u16 *)(arp + 4) != 0x0406)
		return true;
	__builtin_memcpy(packet->saddr, arp + 14, 4);
	__builtin_memcpy(packet->daddr, arp + 24, 4);
	__builtin_memcpy(packet->l4, arp + 6, 8);		/* operation, sender's address */
	__builtin_memcpy(packet->l4 + 8, arp + 18, 6);		/* target's */
	packet->flags |= PACKET_HAS_L4;
	return true;
}

/*
 * A segment on its way down has no header yet: its socket knows the addresses.
 * TCP's own header may be there already: then l4 is its place.
 */
static __always_inline bool parse_socket(void *skb, void *sk, const struct place *place, struct packet *packet, u32 *l4)
{
	u16 family, transport;
	u8 state;
	u32 mapped[3] = {};

	if (!sk)
		return false;
	family = READ(u16, sk, OFF_sock__skc_family);
	state = READ(u8, sk, OFF_sock__skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return false;	/* smaller structs than a sock */
	if (family == AF_INET6) {
		bpf_probe_read_kernel(mapped, sizeof(mapped), (void *)((u64)sk + OFF_sock__skc_v6_daddr));
		if (!mapped[0] && !mapped[1] && mapped[2] == 0xffff0000)
			family = AF_INET;
	}
	if (family == AF_INET) {
		packet->l3_protocol = ETH_P_IP;
		*(u32 *)packet->saddr = READ(u32, sk, OFF_sock__skc_rcv_saddr);
		*(u32 *)packet->daddr = READ(u32, sk, OFF_sock__skc_daddr);
	} else if (family == AF_INET6) {
		packet->l3_protocol = ETH_P_IPV6;
		bpf_probe_read_kernel(packet->saddr, 16, (void *)((u64)sk + OFF_sock__skc_v6_rcv_saddr));
		bpf_probe_read_kernel(packet->daddr, 16, (void *)((u64)sk + OFF_sock__skc_v6_daddr));
	} else {
		return false;
	}
	packet->l4_protocol = READ(u16, sk, OFF_sock__sk_protocol);
	packet->flags |= PACKET_FROM_SOCKET;
	transport = READ(u16, skb, OFF_sk_buff__transport_header);
	if (transport != HEADER_UNSET)
		*l4 = transport;
	return true;
}

/* Ports from the socket, sequence numbers and flags from TCP's control block. */
static __always_inline void copy_l4_of_socket(void *skb, void *sk, struct packet *packet)
{
	u16 port;

	if (packet->l4_protocol != IPPROTO_TCP && packet->l4_protocol != IPPROTO_UDP)
		return;
	port = READ(u16, sk, OFF_sock__skc_num);
	*(u16 *)packet->l4 = ntohs(port);
	*(u16 *)(packet->l4 + 2) = READ(u16, sk, OFF_sock__skc_dport);
	packet->flags |= PACKET_HAS_L4;
	if (packet->l4_protocol == IPPROTO_TCP) {
		*(u32 *)(packet->l4 + 4) = ntohl(READ(u32, skb, OFF_sk_buff__cb + OFF_tcp_skb_cb__seq));
		*(u32 *)(packet->l4 + 8) = ntohl(READ(u32, sk, OFF_tcp_sock__rcv_nxt));
		packet->l4[13] = READ(u8, skb, OFF_sk_buff__cb + OFF_tcp_skb_cb__tcp_flags);
	}
}

/* Reads everything but what only the display needs; false: these headers cannot be read here. */
static __always_inline bool parse(void *skb, void *sk, const struct place *place, struct packet *packet, u32 *ports_at)
{
	u8 version;
	u32 l4 = 0;

	*ports_at = 0;
	if (!place->l3) {
		if (!parse_socket(skb, sk, place, packet, &l4))
			return false;
	} else {
		/* __ip_local_out() sees the header before skb->protocol is set. */
		version = place->protocol ? 0 : READ(u8, place->head, place->l3) >> 4;
		if (place->protocol == ETH_P_IP || version == 4) {
			if (!parse_ipv4(place, packet, &l4))
				return false;
		} else if (place->protocol == ETH_P_IPV6 || version == 6) {
			if (!parse_ipv6(place, packet, &l4))
				return false;
		} else if (place->protocol == ETH_P_ARP || place->protocol == ETH_P_RARP) {
			return parse_arp(place, packet);
		} else {
			packet->l3_protocol = place->protocol;
			return place->protocol != 0;
		}
	}
	if (l4)
		copy_l4(place, packet, l4);
	if (packet->flags & PACKET_FROM_SOCKET) {
		if (!(packet->flags & PACKET_HAS_L4))
			copy_l4_of_socket(skb, sk, packet);
	} else if (packet->flags & PACKET_HAS_L4) {
		*ports_at = l4;
	}
	return true;
}

/* What only the display needs. */
static __always_inline void complete(void *skb, const struct place *place, struct packet *packet)
{
	packet->kind = KIND_PACKET;
	packet->slots = sizeof(*packet) / SLOT_BYTES;
	packet->length = READ(u32, skb, OFF_sk_buff__len);
	packet->vlan_tci = place->vlan_tci;
}

/* Whether the headers that a packet was last seen with are still the same. */
static __always_inline bool same_headers(const struct place *place, const struct tracked *t)
{
	u32 addresses[2], ports;
	u64 v6[4];

	if (place->l3 == 0 || place->l3 != t->l3)
		return place->l3 == t->l3;
	if (place->vlan_tci != t->now.vlan_tci)
		return false;
	if (place->protocol && place->protocol != t->now.l3_protocol)
		return false;
	if (t->now.l3_protocol == ETH_P_IP) {
		if (bpf_probe_read_kernel(addresses, sizeof(addresses), (void *)(place->head + place->l3 + 12)))
			return true;
		if (addresses[0] != *(u32 *)t->now.saddr || addresses[1] != *(u32 *)t->now.daddr)
			return false;
	} else if (t->now.l3_protocol == ETH_P_IPV6) {
		if (bpf_probe_read_kernel(v6, sizeof(v6), (void *)(place->head + place->l3 + 8)))
			return true;
		if (v6[0] != *(u64 *)t->now.saddr || v6[1] != *(u64 *)(t->now.saddr + 8) ||
		    v6[2] != *(u64 *)t->now.daddr || v6[3] != *(u64 *)(t->now.daddr + 8))
			return false;
	}
	if (t->ports_at) {
		ports = READ(u32, place->head, t->ports_at);
		if (t->now.l4_protocol == IPPROTO_ICMP || t->now.l4_protocol == IPPROTO_ICMPV6)
			ports &= 0xffff;	/* type and code; then the checksum */
		if (ports != *(u32 *)t->now.l4)
			return false;
	}
	return true;
}
