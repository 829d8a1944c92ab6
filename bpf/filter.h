/* SPDX-License-Identifier: GPL-2.0-only */
/* The packet filter: only the conditions that were asked for exist. */

/*
 * A number of the filter. It is put in when the program is loaded, so that one
 * compilation serves all numbers.
 */
#define VALUE(index)                                                           \
	({ u64 value_; asm("%0 = %1 ll" : "=r"(value_) : "i"(VALUE_MARK + (index))); value_; })

/* The constants that belong together. */
#define WORDS(name) name##_W0, name##_W1, name##_W2, name##_W3
#define MASKS(name) name##_M0, name##_M1, name##_M2, name##_M3

static __always_inline bool words_are(const void *bytes, u32 w0, u32 w1, u32 w2, u32 w3)
{
	const u32 *words = bytes;

	return words[0] == w0 && words[1] == w1 && words[2] == w2 && words[3] == w3;
}

static __always_inline bool masked_words_are(const void *bytes, u32 w0, u32 w1, u32 w2, u32 w3,
					     u32 m0, u32 m1, u32 m2, u32 m3)
{
	const u32 *words = bytes;

	return (words[0] & m0) == w0 && (words[1] & m1) == w1 && (words[2] & m2) == w2 && (words[3] & m3) == w3;
}

/* Masks exist only where a prefix was given. */
static __always_inline bool saddr_matches(const u8 *address)
{
#ifdef FILTER_SADDR_M0
	return masked_words_are(address, WORDS(FILTER_SADDR), MASKS(FILTER_SADDR));
#elif defined(FILTER_SADDR_W0)
	return words_are(address, WORDS(FILTER_SADDR));
#else
	return true;
#endif
}

static __always_inline bool daddr_matches(const u8 *address)
{
#ifdef FILTER_DADDR_M0
	return masked_words_are(address, WORDS(FILTER_DADDR), MASKS(FILTER_DADDR));
#elif defined(FILTER_DADDR_W0)
	return words_are(address, WORDS(FILTER_DADDR));
#else
	return true;
#endif
}

static __always_inline bool addr_matches(const u8 *address)
{
#ifdef FILTER_ADDR_M0
	return masked_words_are(address, WORDS(FILTER_ADDR), MASKS(FILTER_ADDR));
#elif defined(FILTER_ADDR_W0)
	return words_are(address, WORDS(FILTER_ADDR));
#else
	return true;
#endif
}

static __always_inline bool ports_match(const struct packet *packet)
{
#ifdef FILTER_PORTS
	u16 sport = ntohs(*(u16 *)packet->l4);
	u16 dport = ntohs(*(u16 *)(packet->l4 + 2));

	if (!(packet->flags & PACKET_HAS_L4))
		return false;
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_IPV6)
		return false;
	if (packet->l4_protocol != IPPROTO_TCP && packet->l4_protocol != IPPROTO_UDP &&
	    packet->l4_protocol != IPPROTO_UDPLITE && packet->l4_protocol != IPPROTO_SCTP &&
	    packet->l4_protocol != IPPROTO_DCCP)
		return false;
#endif
#ifdef FILTER_SPORT_MIN
	if (sport < FILTER_SPORT_MIN || sport > FILTER_SPORT_MAX)
		return false;
#endif
#ifdef FILTER_DPORT_MIN
	if (dport < FILTER_DPORT_MIN || dport > FILTER_DPORT_MAX)
		return false;
#endif
#ifdef FILTER_PORT_MIN
	if ((sport < FILTER_PORT_MIN || sport > FILTER_PORT_MAX) &&
	    (dport < FILTER_PORT_MIN || dport > FILTER_PORT_MAX))
		return false;
#endif
	return true;
}

static __always_inline bool tcp_flags_match(const struct packet *packet)
{
#ifdef FILTER_TCP_FLAGS
	if (!(packet->flags & PACKET_HAS_L4))
		return false;
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_IPV6)
		return false;
	if (packet->l4_protocol != IPPROTO_TCP)
		return false;
#ifdef FILTER_TCP_FLAGS_EXACT
	return packet->l4[13] == FILTER_TCP_FLAGS;
#else
	return packet->l4[13] & FILTER_TCP_FLAGS;
#endif
#endif
	return true;
}

/* Whether one set of headers, the packet's own or that of a packet inside, is what was asked for. */
static __always_inline bool headers_match(const struct packet *packet)
{
#ifdef FILTER_L3
	if (packet->l3_protocol != FILTER_L3)
		return false;
#endif
#ifdef FILTER_L4
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_IPV6)
		return false;
	if (packet->l4_protocol != FILTER_L4)
		return false;
#endif
#ifdef FILTER_ADDRESS_FAMILY
#if FILTER_ADDRESS_FAMILY == 4
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_ARP && packet->l3_protocol != ETH_P_RARP)
		return false;
#else
	if (packet->l3_protocol != ETH_P_IPV6)
		return false;
#endif
	if (!saddr_matches(packet->saddr) || !daddr_matches(packet->daddr))
		return false;
	if (!addr_matches(packet->saddr) && !addr_matches(packet->daddr))
		return false;
#endif
#ifdef FILTER_LEN_MIN
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_IPV6)
		return false;
	/* The least is above 0, which says that there is no header yet, or more than its length field can tell. */
	if (packet->l3_length < FILTER_LEN_MIN || packet->l3_length > FILTER_LEN_MAX)
		return false;
#endif
	return ports_match(packet) && tcp_flags_match(packet);
}

/*
 * Inode numbers of namespaces begin at 0xf0000000; from 6.18 on, the initial
 * namespaces have fixed numbers just below.
 */
#define NETNS_INODE_MIN 0xeffffff0

/* The inode of a struct net; 0: this is none. */
static __always_inline u32 netns_inode(u64 net)
{
	u32 inode;

	if (!is_kernel_pointer(net))
		return 0;
	inode = READ(u32, net, OFF_net__ns_inum);
	return inode >= NETNS_INODE_MIN ? inode : 0;
}

/*
 * skb->dev shares its place with a node of TCP's queues and with what UDP keeps
 * there while a packet waits to be read: it is a device only if it leads to a
 * network namespace.
 */
static __always_inline u32 netns_of_device(u64 dev)
{
	return is_kernel_pointer(dev) ? netns_inode(READ(u64, dev, OFF_net_device__nd_net)) : 0;
}

static __always_inline u32 netns_of_socket(u64 sk)
{
	return is_kernel_pointer(sk) ? netns_inode(READ(u64, sk, OFF_sock__skc_net)) : 0;
}

static __always_inline bool task_matches(void)
{
#ifdef FILTER_TGID
	if (bpf_get_current_pid_tgid() >> 32 != FILTER_TGID)
		return false;
#endif
#ifdef FILTER_COMM_W0
	u32 comm[4] __attribute__((aligned(8))) = {};

	bpf_get_current_comm(comm, sizeof(comm));
	if (!words_are(comm, WORDS(FILTER_COMM)))
		return false;
#endif
	return true;
}

static __always_inline bool device_matches(void *skb, void *sk)
{
#if defined(FILTER_NETNS) || defined(FILTER_IFNAME_W0)
	u64 dev = READ(u64, skb, OFF_sk_buff__dev);
	u32 netns = netns_of_device(dev);
#endif
#ifdef FILTER_IFNAME_W0
	u32 name[4] __attribute__((aligned(8))) = {};

	if (!netns)
		return false;
	bpf_probe_read_kernel(name, sizeof(name), (void *)(dev + OFF_net_device__name));
	if (!masked_words_are(name, WORDS(FILTER_IFNAME), MASKS(FILTER_IFNAME)))
		return false;
#endif
#ifdef FILTER_NETNS
	if (!netns) {
		u64 owner = READ(u64, skb, OFF_sk_buff__sk);

		netns = netns_of_socket(owner ? owner : (u64)sk);
	}
	if (netns != FILTER_NETNS)
		return false;
#endif
	return true;
}

#ifdef FILTER_PCAP

/* The bytes that a pcap-filter expression is about, from the MAC header or from the network header on. */
struct pcap_bytes {
	const struct place *place;
	void *skb;
	u32 start;	/* offset from head */
	u32 tag;	/* type and TCI of a tag beside the frame, to be seen in it; 0: none */
};

#define PCAP_TAG_AT 12		/* behind the addresses */
#define PCAP_OFFSET_MAX 0xffff

/* A load that touches the tag, and perhaps bytes before or behind it. */
static __always_inline bool pcap_load_tag(const struct pcap_bytes *bytes, u32 at, u32 size, u32 *value)
{
	u32 beside = 0, begin = PCAP_TAG_AT;
	u64 window;

	if (at < PCAP_TAG_AT)
		begin = PCAP_TAG_AT - 4;
	if (at < PCAP_TAG_AT || at + size > PCAP_TAG_AT + VLAN_HLEN) {
		if (!fetch(bytes->place, bytes->start + begin, &beside, sizeof(beside)))
			return false;
		beside = ntohl(beside);
	}
	if (at < PCAP_TAG_AT)
		window = (u64)beside << 32 | bytes->tag;
	else
		window = (u64)bytes->tag << 32 | beside;
	*value = window << 8 * (at - begin) >> (64 - 8 * size);
	return true;
}

/* size is 1, 2 or 4; false: the packet has no such bytes. */
static __always_inline bool pcap_load(const struct pcap_bytes *bytes, u64 at, u32 size, u32 *value)
{
	u32 word = 0;

	if (at > PCAP_OFFSET_MAX)
		return false;
	if (bytes->tag && at + size > PCAP_TAG_AT) {
		if (at < PCAP_TAG_AT + VLAN_HLEN)
			return pcap_load_tag(bytes, at, size, value);
		at -= VLAN_HLEN;
	}
	if (!fetch(bytes->place, bytes->start + at, &word, size))
		return false;
	*value = size == 1 ? word : size == 2 ? ntohs(word) : ntohl(word);
	return true;
}

static __always_inline u32 pcap_length(const struct pcap_bytes *bytes)
{
	u32 data = READ(u64, bytes->skb, OFF_sk_buff__data) - bytes->place->head;

	/* skb->len counts from skb->data on. */
	return READ(u32, bytes->skb, OFF_sk_buff__len) + data - bytes->start + (bytes->tag ? VLAN_HLEN : 0);
}

/* The two forms of the expression come after this file. */
static __always_inline bool pcap_l2(const struct pcap_bytes *bytes);
static __always_inline bool pcap_l3(const struct pcap_bytes *bytes);

static __always_inline bool pcap_matches(void *skb, const struct place *place)
{
	struct pcap_bytes bytes = { .place = place, .skb = skb };
	u32 link = place->l3 - place->mac;

	if (!place->l3)
		return false;
	/* Else the MAC header is not Ethernet's, or was left behind by a tunnel. */
	if (place->mac != HEADER_UNSET && link >= ETH_HLEN && link <= ETH_HLEN + 2 * VLAN_HLEN) {
		bytes.start = place->mac;
		if (place->vlan_proto)
			bytes.tag = (u32)place->vlan_proto << 16 | place->vlan_tci;
		return pcap_l2(&bytes);
	}
	bytes.start = place->l3;
	return pcap_l3(&bytes);
}

#endif

/* The conditions that are not about headers. */
static __always_inline bool skb_matches(void *skb, void *sk, const struct place *place)
{
#ifdef FILTER_MARK
	if ((READ(u32, skb, OFF_sk_buff__mark) & FILTER_MARK_MASK) != FILTER_MARK)
		return false;
#endif
	if (!task_matches() || !device_matches(skb, sk))
		return false;
#ifdef FILTER_PCAP
	if (!pcap_matches(skb, place))
		return false;
#endif
	return true;
}

#ifdef RATE_LIMIT
/*
 * Packets by the second of the kernel's clock. Those before are kept, so that a CPU
 * that is late finds its second's count and does not begin it anew.
 */
BPF_TABLE("lru_hash", u64, u64, packets_of_second, 1024);
#endif

/* To be asked once for each packet, when all else is as wanted: true for RATE_LIMIT of them a second at most. */
static __always_inline bool within_rate(void)
{
#ifdef RATE_LIMIT
	u64 second = bpf_ktime_get_ns() / 1000000000, none = 0;
	u64 *packets = packets_of_second.lookup(&second);

	if (!packets) {
		packets_of_second.insert(&second, &none);	/* unless another CPU was faster */
		packets = packets_of_second.lookup(&second);
	}
	if (!packets)
		return false;
	/*
	 * Linux commit 5ca419f2864a (5.12) added atomics that return a value. Without
	 * them: whoever counts k-th reads k or more, so no more than the limit can pass.
	 */
	__sync_fetch_and_add(packets, 1);
	return *(volatile u64 *)packets <= RATE_LIMIT;
#else
	return true;
#endif
}
