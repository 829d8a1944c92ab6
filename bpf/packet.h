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
#define IPPROTO_IPIP 4
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_IPV6 41
#define IPPROTO_GRE 47
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
#define IPPROTO_NONE 59
#define IPPROTO_DSTOPTS 60
#define IPPROTO_MOBILITY 135

#define AF_INET 2
#define AF_INET6 10
#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

#define HEADER_UNSET 0xffff

#define ntohs(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)

#ifdef UNREAD
/* The kernel lets no program read its memory (lockdown): it would refuse one that tries. */
#define READ(type, base, offset) ((type)0)
#else
#define READ(type, base, offset)                                               \
	({                                                                     \
		type value_ = 0;                                               \
		bpf_probe_read_kernel(&value_, sizeof(value_),                 \
				      (void *)((u64)(base) + (offset)));       \
		value_;                                                        \
	})
#endif

/*
 * For the verifier, right before the number is used: Linux 5.10 forgets what it knew of one that
 * was on the stack in between.
 */
#define CLAMP(number, most)                                                    \
	asm volatile("if %0 <= %1 goto +1\n\t%0 = %1" : "+r"(number) : "i"(most))

static __always_inline bool is_kernel_pointer(u64 value)
{
	return (s64)value < 0;
}

/* The part of sk_buff that says where the headers are, fetched by one read. */
struct view {
	u64 words[SKB_VIEW_BYTES / 8];
};

#define VIEW(view, type, member)                                               \
	(*(type *)((u8 *)(view)->words + (OFF_sk_buff__##member - SKB_VIEW_AT)))

/* Headers of ordinary packets end here at the latest, and lie in the linear buffer. */
#define HEADERS_USUAL 40

#ifdef AT_page_offset_base
/*
 * The data behind the linear buffer: of the first page only, as headers do not go further.
 * Its address from that of its struct page is page_to_virt() of x86-64.
 */
static __always_inline void locate_beyond(void *skb, struct place *place)
{
	u64 page, pages, base;
	u32 end, offset;

	if (!READ(u32, skb, OFF_sk_buff__data_len))
		return;
	end = READ(u32, skb, OFF_sk_buff__end);
	if (!READ(u8, place->head + end, OFF_skb_shared_info__nr_frags))
		return;
	page = READ(u64, place->head + end, OFF_skb_shared_info__frags + OFF_skb_frag__page);
	if (page & 1)
		return;	/* memory of a device */
	offset = READ(u32, place->head + end, OFF_skb_shared_info__frags + OFF_skb_frag__offset);
	place->beyond_size = READ(u32, place->head + end, OFF_skb_shared_info__frags + OFF_skb_frag__size);
	pages = READ(u64, AT_vmemmap_base, 0);
	base = READ(u64, AT_page_offset_base, 0);
	place->beyond = base + ((page - pages) / SIZEOF_page << 12) + offset;
}
#endif

/* Reads at an offset from head; false: the packet has no such bytes, or they cannot be read. */
static __always_inline bool fetch(const struct place *place, u32 at, void *to, u32 size)
{
	u64 from = place->head + at;

	if (at + size > place->tail) {
#ifdef AT_page_offset_base
		if (!place->beyond || at < place->tail || at - place->tail + size > place->beyond_size)
			return false;
		from = place->beyond + (at - place->tail);
#else
		return false;
#endif
	}
	return !bpf_probe_read_kernel(to, size, (void *)from);
}

static __always_inline bool is_vlan(u16 protocol)
{
	return protocol == ETH_P_8021Q || protocol == ETH_P_8021AD;
}

#ifdef PATHS
/* Whether locate() would find any. */
static __always_inline bool has_headers(void *skb)
{
	return READ(u16, skb, OFF_sk_buff__network_header) ||
	       READ(u16, skb, OFF_sk_buff__mac_header) != HEADER_UNSET;
}
#endif

static __always_inline bool locate(void *skb, struct place *place)
{
	struct view view;
	u16 tag[2], network;
	u32 at, data, i;

	__builtin_memset(place, 0, sizeof(*place));
	if (bpf_probe_read_kernel(&view, sizeof(view), (void *)((u64)skb + SKB_VIEW_AT)))
		return false;
	place->head = VIEW(&view, u64, head);
	place->tail = VIEW(&view, u32, tail);
	place->mac = VIEW(&view, u16, mac_header);
	place->protocol = ntohs(VIEW(&view, u16, protocol));
#ifdef HAVE_VLAN_PRESENT
	if (VIEW(&view, u8, vlan_present) & MASK_sk_buff__vlan_present)
#else
	if (VIEW(&view, u16, vlan_proto))
#endif
	{
		place->vlan_proto = ntohs(VIEW(&view, u16, vlan_proto));
		place->vlan_tci = VIEW(&view, u16, vlan_tci);
	}
	network = VIEW(&view, u16, network_header);
	data = VIEW(&view, u64, data) - place->head;
	/* On its way to a device: the header is there already, but not noted yet. */
	if (place->mac == HEADER_UNSET && network >= data + ETH_HLEN && network <= data + ETH_HLEN + 2 * VLAN_HLEN)
		place->mac = data;

	if (is_vlan(place->protocol) && place->mac != HEADER_UNSET) {
		/*
		 * A tag in the frame. On the way up the network header is the tag,
		 * on the way down the header behind it: go by the frame.
		 */
		at = place->mac + ETH_HLEN;
#pragma unroll
		for (i = 0; i < 2; i++) {
			if (!is_vlan(place->protocol) || !fetch(place, at, tag, sizeof(tag)))
				break;
			if (place->vlan_tci)
				place->vlan_tci2 = ntohs(tag[0]);
			else
				place->vlan_tci = ntohs(tag[0]);
			place->protocol = ntohs(tag[1]);
			at += VLAN_HLEN;
		}
		place->l3 = at;
	} else if (network && (place->mac == HEADER_UNSET || network >= place->mac)) {
		place->l3 = network;
	} else if (place->mac != HEADER_UNSET) {
		/*
		 * Just received, or just taken out of a tunnel: the network header is
		 * not set yet, or still the outer one; the data begins with it.
		 */
		place->l3 = data;
	}
#ifdef AT_page_offset_base
	if (place->l3 && place->l3 + HEADERS_USUAL > place->tail)
		locate_beyond(skb, place);
#endif
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
	/* What an ICMP error quotes may end behind the ports. */
	if (!fetch(place, at, packet->l4, size) && (size != 14 || !fetch(place, at, packet->l4, 8)))
		return;
	if (packet->l4_protocol == IPPROTO_ICMP || packet->l4_protocol == IPPROTO_ICMPV6)
		*(u16 *)(packet->l4 + 2) = 0;	/* the checksum */
	packet->flags |= PACKET_HAS_L4;
}

static __always_inline bool parse_ipv4(const struct place *place, struct packet *packet, u32 *l4)
{
	u8 header[20] __attribute__((aligned(8)));
	u16 fragment;

	if (!fetch(place, place->l3, header, sizeof(header)))
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

/* The fixed part; l4_protocol is then what comes next, perhaps an extension. */
static __always_inline bool parse_ipv6_start(const struct place *place, struct packet *packet)
{
	u8 header[40] __attribute__((aligned(8)));

	if (!fetch(place, place->l3, header, sizeof(header)))
		return false;
	if (header[0] >> 4 != 6)
		return false;
	packet->l3_protocol = ETH_P_IPV6;
	packet->l4_protocol = header[6];
	packet->l3_length = ntohs(*(u16 *)(header + 4)) + sizeof(header);
	/* A jumbogram says that it has no payload; its length is more than fits here. */
	if (packet->l3_length == sizeof(header) && header[6] != IPPROTO_NONE)
		packet->l3_length = 0;
	__builtin_memcpy(packet->saddr, header + 8, 16);
	__builtin_memcpy(packet->daddr, header + 24, 16);
	return true;
}

static __always_inline bool is_extension(u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_MOBILITY;
}

static __always_inline bool parse_ipv6(const struct place *place, struct packet *packet, u32 *l4)
{
	u8 extension[8] __attribute__((aligned(8)));
	u8 next;
	u32 at = place->l3 + 40, i;
	u16 fragment;

	if (!parse_ipv6_start(place, packet))
		return false;
	next = packet->l4_protocol;
#pragma clang loop unroll(disable)
	for (i = 0; i < IPV6_EXT_MAX; i++) {
		if (!is_extension(next))
			break;
		if (!fetch(place, at, extension, sizeof(extension))) {
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

	if (!fetch(place, place->l3, arp, sizeof(arp)))
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

/* A request or a socket in TIME_WAIT is a smaller struct than a sock: it only begins as one. */
static __always_inline bool is_whole_socket(const void *sk)
{
	u8 state = READ(u8, sk, OFF_sock__skc_state);

	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* What a socket that may be a smaller struct knows of addresses; false: it is not one of IP. */
static __always_inline bool read_addresses(const void *sk, struct packet *packet)
{
	u16 family = READ(u16, sk, OFF_sock__skc_family);
	u32 mapped[3] = {};

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
	packet->flags |= PACKET_FROM_SOCKET;
	return true;
}

/* Likewise of ports. */
static __always_inline void read_ports(const void *sk, struct packet *packet)
{
	u16 port = READ(u16, sk, OFF_sock__skc_num);

	*(u16 *)packet->l4 = ntohs(port);
	*(u16 *)(packet->l4 + 2) = READ(u16, sk, OFF_sock__skc_dport);
	packet->flags |= PACKET_HAS_L4;
}

/*
 * A segment on its way down has no header yet: its socket knows the addresses.
 * TCP's own header may be there already: then l4 is its place.
 */
static __always_inline bool parse_socket(void *skb, void *sk, const struct place *place, struct packet *packet, u32 *l4)
{
	u16 transport;

	if (!sk || !is_whole_socket(sk) || !read_addresses(sk, packet))
		return false;
	packet->l4_protocol = READ(u16, sk, OFF_sock__sk_protocol);
	transport = READ(u16, skb, OFF_sk_buff__transport_header);
	if (transport != HEADER_UNSET)
		*l4 = transport;
	return true;
}

/* Ports from the socket, sequence numbers and flags from TCP's control block. */
static __always_inline void copy_l4_of_socket(void *skb, void *sk, struct packet *packet)
{
	if (packet->l4_protocol != IPPROTO_TCP && packet->l4_protocol != IPPROTO_UDP)
		return;
	read_ports(sk, packet);
	if (packet->l4_protocol == IPPROTO_TCP) {
		*(u32 *)(packet->l4 + 4) = ntohl(READ(u32, skb, OFF_sk_buff__cb + OFF_tcp_skb_cb__seq));
		*(u32 *)(packet->l4 + 8) = ntohl(READ(u32, sk, OFF_tcp_sock__rcv_nxt));
		packet->l4[13] = READ(u8, skb, OFF_sk_buff__cb + OFF_tcp_skb_cb__tcp_flags);
	}
}

#define VXLAN_PORT 4789
#define VXLAN_PORT_OLD 8472	/* Linux's own before there was a standard */
#define GENEVE_PORT 6081
#define ETH_P_TEB 0x6558

/* Goes on to the packet inside; false: there is none, or none that is known of. */
static __always_inline bool enter(struct place *place, const struct packet *packet, u32 l4, u8 *tunnel, u32 *id)
{
	u8 header[8] __attribute__((aligned(8)));
	u16 port;
	u32 at = l4;

	if (!l4 || packet->flags & PACKET_FROM_SOCKET)
		return false;
	switch (packet->l4_protocol) {
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		*tunnel = TUNNEL_IP;
		place->protocol = packet->l4_protocol == IPPROTO_IPIP ? ETH_P_IP : ETH_P_IPV6;
		break;
	case IPPROTO_GRE:
		if (!fetch(place, at, header, 4) || header[1] & 7)
			return false;	/* version 0 only */
		*tunnel = TUNNEL_GRE;
		place->protocol = ntohs(*(u16 *)(header + 2));
		at += header[0] & 0x80 ? 8 : 4;	/* checksum */
		if (header[0] & 0x20) {		/* key */
			if (!fetch(place, at, header + 4, 4))
				return false;
			*id = ntohl(*(u32 *)(header + 4));
			at += 4;
		}
		at += header[0] & 0x10 ? 4 : 0;	/* sequence */
		break;
	case IPPROTO_UDP:
		port = ntohs(*(u16 *)(packet->l4 + 2));
		if (port != VXLAN_PORT && port != VXLAN_PORT_OLD && port != GENEVE_PORT)
			return false;
		if (!fetch(place, at + 8, header, 8))
			return false;
		*id = ntohl(*(u32 *)(header + 4)) >> 8;
		at += 16;
		place->protocol = ETH_P_TEB;
		*tunnel = TUNNEL_VXLAN;
		if (port == GENEVE_PORT) {
			if (header[0] >> 6)
				return false;
			*tunnel = TUNNEL_GENEVE;
			place->protocol = ntohs(*(u16 *)(header + 2));
			at += (header[0] & 0x3f) * 4;
		} else if (!(header[0] & 0x08)) {
			return false;
		}
		break;
	case IPPROTO_ICMP:
		/* Unreachable, quench, redirect, time exceeded, parameter problem: RFC 792. */
		if (packet->l4[0] != 3 && packet->l4[0] != 4 && packet->l4[0] != 5 && packet->l4[0] != 11 &&
		    packet->l4[0] != 12)
			return false;
		*tunnel = TUNNEL_ICMP;
		place->protocol = ETH_P_IP;
		at += 8;
		break;
	case IPPROTO_ICMPV6:
		if (packet->l4[0] < 1 || packet->l4[0] > 4)
			return false;
		*tunnel = TUNNEL_ICMP;
		place->protocol = ETH_P_IPV6;
		at += 8;
		break;
	default:
		return false;
	}
	if (place->protocol == ETH_P_TEB) {
		if (!fetch(place, at + 12, header, 2))
			return false;
		place->protocol = ntohs(*(u16 *)header);
		at += ETH_HLEN;
	}
	place->l3 = at;
	return true;
}

/* The headers at a place; false: they cannot be read. */
static __always_inline bool parse_headers(const struct place *place, struct packet *packet, u32 *l4)
{
	u8 version = 0;

	/* __ip_local_out() sees the header before skb->protocol is set. */
	if (!place->protocol && fetch(place, place->l3, &version, 1))
		version >>= 4;
	if (place->protocol == ETH_P_IP || version == 4)
		return parse_ipv4(place, packet, l4);
	if (place->protocol == ETH_P_IPV6 || version == 6)
		return parse_ipv6(place, packet, l4);
	if (place->protocol == ETH_P_ARP || place->protocol == ETH_P_RARP)
		return parse_arp(place, packet);
	packet->l3_protocol = place->protocol;
	return place->protocol != 0;
}

#ifndef UNREAD
/*
 * The IP header of a packet where all is as usual, to be asked first: the network header is set and lies in the
 * linear buffer, there are no tags in the frame and no extensions. False: it takes locate() and parse() to tell.
 */
static __always_inline bool parse_plain(void *skb, struct packet *packet)
{
	struct place place = {};
	struct view view;
	u16 mac;
	u32 l4;

	if (bpf_probe_read_kernel(&view, sizeof(view), (void *)((u64)skb + SKB_VIEW_AT)))
		return false;
	place.head = VIEW(&view, u64, head);
	place.l3 = VIEW(&view, u16, network_header);
	/* Headers in a page are not looked for: there is nothing beyond. */
	place.tail = VIEW(&view, u32, tail);
	place.protocol = ntohs(VIEW(&view, u16, protocol));
	mac = VIEW(&view, u16, mac_header);
	if (!place.l3 || (mac != HEADER_UNSET && place.l3 < mac))
		return false;
	if (place.protocol == ETH_P_IPV6)
		return parse_ipv6_start(&place, packet) && !is_extension(packet->l4_protocol);
	/* As parse_headers() has it. */
	return (place.protocol == ETH_P_IP || !place.protocol) && parse_ipv4(&place, packet, &l4);
}
#endif

/* Reads the headers into the hit: the packet's, and those of what it carries; false: they cannot be read here. */
static __always_inline bool parse(struct hit *hit)
{
	struct packet *packet = &hit->packet;
	struct place *at = &hit->inside;
	u32 depth, id = 0, end;
	u8 tunnel = 0;

	*at = hit->at;
	hit->l4 = 0;
	hit->ports_at = 0;
	hit->inner.kind = 0;
	__builtin_memset(packet, 0, sizeof(*packet));
	if (!at->l3) {
		if (!parse_socket(hit->skb, hit->sk, at, packet, &hit->l4))
			return false;
		if (hit->l4)
			copy_l4(at, packet, hit->l4);
		if (!(packet->flags & PACKET_HAS_L4))
			copy_l4_of_socket(hit->skb, hit->sk, packet);
	} else {
		/*
		 * One copy of the code serves the packet and what it carries. The compiler
		 * must not know how often it runs: it would close the loop without a branch,
		 * which the verifier of Linux 5.10 refuses.
		 */
		depth = 0;
		do {
			hit->l4 = 0;
			if (!parse_headers(at, packet, &hit->l4)) {
				if (!depth)
					return false;
				break;
			}
			if (hit->l4)
				copy_l4(at, packet, hit->l4);
			if (depth) {
				packet->kind = KIND_INNER;
				packet->slots = sizeof(*packet) / SLOT_BYTES;
				packet->tunnel = tunnel;
				packet->tunnel_id = id;
				break;
			}
			if (packet->flags & PACKET_HAS_L4 && packet->l3_protocol != ETH_P_ARP &&
			    packet->l3_protocol != ETH_P_RARP)
				hit->ports_at = hit->l4;
			if (!enter(at, packet, hit->l4, &tunnel, &id))
				break;
			hit->inner = *packet;
			hit->inner.kind = KIND_PACKET;	/* the outer one waits here */
			__builtin_memset(packet, 0, sizeof(*packet));
			depth++;
			asm volatile("" : "+r"(depth));
		} while (depth < 2);
		if (hit->inner.kind) {
			struct packet outer = hit->inner;

			hit->inner = *packet;
			*packet = outer;
		}
	}
	packet->kind = KIND_PACKET;
	packet->slots = sizeof(*packet) / SLOT_BYTES;
	packet->vlan_tci = hit->at.vlan_tci;
	packet->vlan_tci2 = hit->at.vlan_tci2;
	packet->length = READ(u32, hit->skb, OFF_sk_buff__len);
	end = READ(u32, hit->skb, OFF_sk_buff__end);
	packet->gso_size = READ(u16, hit->at.head + end, OFF_skb_shared_info__gso_size);
	if (packet->gso_size)
		packet->gso_segs = READ(u16, hit->at.head + end, OFF_skb_shared_info__gso_segs);
	return true;
}

#ifndef LATENCY

/* Whether the headers that a packet was last seen with are still the same. */
static __always_inline bool same_headers(const struct place *place, const struct tracked *t)
{
	u32 header[4];	/* of IPv4 from the identification on */
	u32 ports;
	u16 fragment;
	u64 v6[4];

	if (place->l3 == 0 || place->l3 != t->l3)
		return place->l3 == t->l3;
	if (place->vlan_tci != t->now.vlan_tci || place->vlan_tci2 != t->now.vlan_tci2)
		return false;
	if (place->protocol && place->protocol != t->now.l3_protocol)
		return false;
	if (t->now.l3_protocol == ETH_P_IP) {
		if (!fetch(place, place->l3 + 4, header, sizeof(header)))
			return true;
		if (header[2] != *(u32 *)t->now.saddr || header[3] != *(u32 *)t->now.daddr)
			return false;
		/* The first fragment is what was the whole packet. */
		fragment = ntohs(header[0] >> 16);
		if ((fragment & 0x1fff) << 3 != t->now.fragment_offset ||
		    !(fragment & 0x3fff) != !(t->now.flags & PACKET_FRAGMENT))
			return false;
	} else if (t->now.l3_protocol == ETH_P_IPV6) {
		if (!fetch(place, place->l3 + 8, v6, sizeof(v6)))
			return true;
		if (v6[0] != *(u64 *)t->now.saddr || v6[1] != *(u64 *)(t->now.saddr + 8) ||
		    v6[2] != *(u64 *)t->now.daddr || v6[3] != *(u64 *)(t->now.daddr + 8))
			return false;
	}
	if (t->ports_at && fetch(place, t->ports_at, &ports, sizeof(ports))) {
		if (t->now.l4_protocol == IPPROTO_ICMP || t->now.l4_protocol == IPPROTO_ICMPV6)
			ports &= 0xffff;	/* type and code; then the checksum */
		if (ports != *(u32 *)t->now.l4)
			return false;
	}
	return true;
}

#endif
