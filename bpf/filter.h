/* SPDX-License-Identifier: GPL-2.0-only */
/* The packet filter. */

/* Which conditions there are is a number, too, see VALUE: what was not asked for, the verifier takes away. */
#define ASKED(condition) (FILTER_ASKED & ASK_##condition)

/* The numbers that belong together. */
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

static __always_inline bool saddr_matches(const u8 *address)
{
	return masked_words_are(address, WORDS(FILTER_SADDR), MASKS(FILTER_SADDR));
}

static __always_inline bool daddr_matches(const u8 *address)
{
	return masked_words_are(address, WORDS(FILTER_DADDR), MASKS(FILTER_DADDR));
}

static __always_inline bool addr_matches(const u8 *address)
{
	return masked_words_are(address, WORDS(FILTER_ADDR), MASKS(FILTER_ADDR));
}

static __always_inline bool is_ip(const struct packet *packet)
{
	return packet->l3_protocol == ETH_P_IP || packet->l3_protocol == ETH_P_IPV6;
}

static __always_inline bool ports_match(const struct packet *packet)
{
	u16 sport = ntohs(*(u16 *)packet->l4);
	u16 dport = ntohs(*(u16 *)(packet->l4 + 2));

	if (!(packet->flags & PACKET_HAS_L4) || !is_ip(packet))
		return false;
	if (packet->l4_protocol != IPPROTO_TCP && packet->l4_protocol != IPPROTO_UDP &&
	    packet->l4_protocol != IPPROTO_UDPLITE && packet->l4_protocol != IPPROTO_SCTP &&
	    packet->l4_protocol != IPPROTO_DCCP)
		return false;
	if (ASKED(SPORT) && (sport < FILTER_SPORT_MIN || sport > FILTER_SPORT_MAX))
		return false;
	if (ASKED(DPORT) && (dport < FILTER_DPORT_MIN || dport > FILTER_DPORT_MAX))
		return false;
	if (ASKED(PORT) && (sport < FILTER_PORT_MIN || sport > FILTER_PORT_MAX) &&
	    (dport < FILTER_PORT_MIN || dport > FILTER_PORT_MAX))
		return false;
	return true;
}

static __always_inline bool tcp_flags_match(const struct packet *packet)
{
	u8 flags = packet->l4[13];

	if (!(packet->flags & PACKET_HAS_L4) || !is_ip(packet) || packet->l4_protocol != IPPROTO_TCP)
		return false;
	if (ASKED(TCP_FLAGS_EXACT))
		return flags == FILTER_TCP_FLAGS;
	return flags & FILTER_TCP_FLAGS;
}

#define ASK_OF_NETWORK                                                         \
	(ASK_L3 | ASK_L4 | ASK_IPV4 | ASK_IPV6 | ASK_SADDR | ASK_DADDR | ASK_ADDR | ASK_LEN)

/* Whether the network header is what was asked for. */
static __always_inline bool network_matches(const struct packet *packet)
{
	if (ASKED(L3) && packet->l3_protocol != FILTER_L3)
		return false;
	if (ASKED(L4) && (!is_ip(packet) || packet->l4_protocol != FILTER_L4))
		return false;
	if (ASKED(IPV4) && packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_ARP &&
	    packet->l3_protocol != ETH_P_RARP)
		return false;
	if (ASKED(IPV6) && packet->l3_protocol != ETH_P_IPV6)
		return false;
	if (ASKED(SADDR) && !saddr_matches(packet->saddr))
		return false;
	if (ASKED(DADDR) && !daddr_matches(packet->daddr))
		return false;
	if (ASKED(ADDR) && !addr_matches(packet->saddr) && !addr_matches(packet->daddr))
		return false;
	/* The least is above 0, which says that there is no header yet, or more than its length field can tell. */
	return !ASKED(LEN) ||
	       (is_ip(packet) && packet->l3_length >= FILTER_LEN_MIN && packet->l3_length <= FILTER_LEN_MAX);
}

/* Whether one set of headers, the packet's own or that of a packet inside, is what was asked for. */
static __always_inline bool headers_match(const struct packet *packet)
{
	if (!network_matches(packet))
		return false;
	if (FILTER_ASKED & (ASK_SPORT | ASK_DPORT | ASK_PORT) && !ports_match(packet))
		return false;
	return !ASKED(TCP_FLAGS) || tcp_flags_match(packet);
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

static __always_inline bool comm_matches(void)
{
	u32 comm[4] __attribute__((aligned(8))) = {};

	bpf_get_current_comm(comm, sizeof(comm));
	return words_are(comm, WORDS(FILTER_COMM));
}

static __always_inline bool task_matches(void)
{
	if (ASKED(TGID) && bpf_get_current_pid_tgid() >> 32 != FILTER_TGID)
		return false;
	return !ASKED(COMM) || comm_matches();
}

static __always_inline bool is_at_device(u64 dev)
{
	u32 name[4] __attribute__((aligned(8))) = {};

	if (!netns_of_device(dev))
		return false;
	bpf_probe_read_kernel(name, sizeof(name), (void *)(dev + OFF_net_device__name));
	return masked_words_are(name, WORDS(FILTER_IFNAME), MASKS(FILTER_IFNAME));
}

static __always_inline bool is_in_netns(u64 dev, void *skb, void *sk)
{
	u32 netns = netns_of_device(dev);

	if (!netns) {
		u64 owner = READ(u64, skb, OFF_sk_buff__sk);

		netns = netns_of_socket(owner ? owner : (u64)sk);
	}
	return netns == FILTER_NETNS;
}

static __always_inline bool device_matches(void *skb, void *sk)
{
	u64 dev;

	if (!(FILTER_ASKED & (ASK_IFNAME | ASK_NETNS)))
		return true;
	dev = READ(u64, skb, OFF_sk_buff__dev);
	if (ASKED(IFNAME) && !is_at_device(dev))
		return false;
	return !ASKED(NETNS) || is_in_netns(dev, skb, sk);
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
	*value = size == 1 ? word : (size == 2 ? ntohs(word) : ntohl(word));
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
	if (ASKED(MARK) && (READ(u32, skb, OFF_sk_buff__mark) & FILTER_MARK_MASK) != FILTER_MARK)
		return false;
	if (!task_matches() || !device_matches(skb, sk))
		return false;
#ifdef FILTER_PCAP
	if (!pcap_matches(skb, place))
		return false;
#endif
	return true;
}

#ifdef LIMIT_RATE
/*
 * Packets by the second of the kernel's clock. Those before are kept, so that a CPU
 * that is late finds its second's count and does not begin it anew.
 */
BPF_TABLE("lru_hash", u64, u64, packets_of_second, 1024);
#endif

/* To be asked once for each packet, when all else is as wanted: true for RATE_LIMIT of them a second at most. */
static __always_inline bool within_rate(void)
{
#ifdef LIMIT_RATE
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
