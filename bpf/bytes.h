/* SPDX-License-Identifier: GPL-2.0-only */
/* The packets themselves. */

/* How long the Ethernet header is that a packet begins with; 0: it has none, or not yet. */
static __always_inline u32 ethernet_header(const struct place *at)
{
	u32 size = at->l3 - at->mac;

	if (at->mac == HEADER_UNSET)
		return 0;
	/* Else it is before another network header: that of the tunnel which the packet came out of, or goes into. */
	return size == ETH_HLEN || size == ETH_HLEN + VLAN_HLEN || size == ETH_HLEN + 2 * VLAN_HLEN ? size : 0;
}

/*
 * The packet as it is here, from the Ethernet header on where it has one, else from the network
 * header on: what lies in the linear buffer, and in the first page behind it. Returns the slots.
 */
static __always_inline u32 fill_bytes(struct bytes *bytes, void *skb, struct place *at)
{
	u32 header = ethernet_header(at), start = at->l3 - header, taken;
	u64 linear, size, beyond = 0;
	u8 *to;

	if (!at->l3 || start >= at->tail)
		return 0;
	linear = at->tail - start;
	if (linear > SNAPLEN)
		linear = SNAPLEN;
	size = linear;
	CLAMP(size, SNAPLEN);
	if (bpf_probe_read_kernel(bytes + 1, size, (void *)(at->head + start)))
		return 0;
#ifdef AT_page_offset_base
	if (linear < SNAPLEN) {
		if (!at->beyond)
			locate_beyond(skb, at);
		beyond = SNAPLEN - linear;
		if (beyond > at->beyond_size)
			beyond = at->beyond_size;
		/* To the verifier the sum may be twice as much as it can be: that much room there is. */
		size = linear;
		CLAMP(size, SNAPLEN);
		to = (u8 *)(bytes + 1) + size;
		size = beyond;
		CLAMP(size, SNAPLEN);
		if (bpf_probe_read_kernel(to, size, (void *)at->beyond))
			beyond = 0;
	}
#endif
	taken = linear + beyond;
	bytes->length = READ(u32, skb, OFF_sk_buff__len) + (u32)(READ(u64, skb, OFF_sk_buff__data) - at->head) - start;
	bytes->taken = taken;
	bytes->header = header;
	bytes->vlan_proto = at->vlan_proto;
	bytes->vlan_tci = at->vlan_tci;
	bytes->unused = 0;
	bytes->kind = KIND_BYTES;
	bytes->slots = 1 + (taken + SLOT_BYTES - 1) / SLOT_BYTES;
	return bytes->slots;
}
