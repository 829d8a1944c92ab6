/* SPDX-License-Identifier: GPL-2.0-only */
/* The packet filter: only the conditions that were asked for exist. */

static __always_inline bool address_is(const u8 *address, u32 w0, u32 w1, u32 w2, u32 w3)
{
	const u32 *words = (const u32 *)address;

	return words[0] == w0 && words[1] == w1 && words[2] == w2 && words[3] == w3;
}

static __always_inline bool packet_matches(const struct packet *packet)
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
#endif
#ifdef FILTER_SADDR_W0
	if (!address_is(packet->saddr, FILTER_SADDR_W0, FILTER_SADDR_W1, FILTER_SADDR_W2, FILTER_SADDR_W3))
		return false;
#endif
#ifdef FILTER_DADDR_W0
	if (!address_is(packet->daddr, FILTER_DADDR_W0, FILTER_DADDR_W1, FILTER_DADDR_W2, FILTER_DADDR_W3))
		return false;
#endif
#ifdef FILTER_ADDR_W0
	if (!address_is(packet->saddr, FILTER_ADDR_W0, FILTER_ADDR_W1, FILTER_ADDR_W2, FILTER_ADDR_W3) &&
	    !address_is(packet->daddr, FILTER_ADDR_W0, FILTER_ADDR_W1, FILTER_ADDR_W2, FILTER_ADDR_W3))
		return false;
#endif
#ifdef FILTER_PORTS
	if (!(packet->flags & PACKET_HAS_L4))
		return false;
	if (packet->l3_protocol != ETH_P_IP && packet->l3_protocol != ETH_P_IPV6)
		return false;
	if (packet->l4_protocol != IPPROTO_TCP && packet->l4_protocol != IPPROTO_UDP &&
	    packet->l4_protocol != IPPROTO_UDPLITE && packet->l4_protocol != IPPROTO_SCTP &&
	    packet->l4_protocol != IPPROTO_DCCP)
		return false;
#endif
#ifdef FILTER_SPORT
	if (*(u16 *)packet->l4 != ntohs((u16)FILTER_SPORT))
		return false;
#endif
#ifdef FILTER_DPORT
	if (*(u16 *)(packet->l4 + 2) != ntohs((u16)FILTER_DPORT))
		return false;
#endif
#ifdef FILTER_PORT
	if (*(u16 *)packet->l4 != ntohs((u16)FILTER_PORT) && *(u16 *)(packet->l4 + 2) != ntohs((u16)FILTER_PORT))
		return false;
#endif
	return true;
}
