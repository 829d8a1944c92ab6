/* SPDX-License-Identifier: GPL-2.0-only */
/* Hits that are about a socket: its state, told line by line, or the round trips that it measures, counted. */

#define IPPROTO_MPTCP 262

#define ICSK_TIME_DACK 2
#define ICSK_ACK_TIMER 2

/* Addresses and ports of a socket: `saddr` is its own end, as if it were sending. */
static __always_inline bool parse_sock(const void *sk, struct packet *packet, bool *whole)
{
	u16 protocol = IPPROTO_TCP;

	__builtin_memset(packet, 0, sizeof(*packet));
	if (!is_kernel_pointer((u64)sk) || !read_addresses(sk, packet))
		return false;
	*whole = is_whole_socket(sk);
	if (*whole)
		protocol = READ(u16, sk, OFF_sock__sk_protocol);
	if (protocol == IPPROTO_MPTCP) {
		/* TCP to the program, but not to the kernel: the rest is in the sockets below this one. */
		protocol = IPPROTO_TCP;
		*whole = false;
	}
	packet->l4_protocol = protocol;
	if (packet->l4_protocol == IPPROTO_TCP || packet->l4_protocol == IPPROTO_UDP ||
	    packet->l4_protocol == IPPROTO_UDPLITE || packet->l4_protocol == IPPROTO_SCTP ||
	    packet->l4_protocol == IPPROTO_DCCP) {
		read_ports(sk, packet);
		/* A port that was given back is still known. */
		if (*whole && !*(u16 *)packet->l4)
			*(u16 *)packet->l4 = READ(u16, sk, OFF_inet_sock__inet_sport);
	}
	packet->kind = KIND_PACKET;
	packet->slots = sizeof(*packet) / SLOT_BYTES;
	return true;
}

static __always_inline s64 ns_until(u64 jiffies)
{
	u64 (*jiffies64)(void) = (void *)118;	/* Linux commit 5576b991e9c1 (5.5) */

	return (s64)(jiffies - jiffies64()) * TICK_NS;
}

static __always_inline void fill_tcp(struct socket_state *state, const void *sk)
{
	u32 srtt = READ(u32, sk, OFF_tcp_sock__srtt_us);

	state->ca_state = READ(u8, sk, OFF_inet_connection_sock__ca_state) >> SHIFT_inet_connection_sock__ca_state &
			  MASK_inet_connection_sock__ca_state;
	state->packets_out = READ(u32, sk, OFF_tcp_sock__packets_out);
	state->retrans_out = READ(u32, sk, OFF_tcp_sock__retrans_out);
	state->unacked = READ(u32, sk, OFF_tcp_sock__snd_nxt) - READ(u32, sk, OFF_tcp_sock__snd_una);
	/* Of the smoothed one, 0 says that there is none yet; the minimum begins as the largest number. */
	if (srtt) {
		state->srtt_us = srtt >> 3;
		state->rtt_min_us = READ(u32, sk, OFF_tcp_sock__rtt_min + OFF_minmax_sample__v);
	}
	state->timer = READ(u8, sk, OFF_inet_connection_sock__icsk_pending);
	if (state->timer) {
		state->flags |= SOCKET_HAS_TIMER;
		state->timer_ns = ns_until(READ(u64, sk, OFF_inet_connection_sock__timeout));
	} else if (READ(u8, sk, OFF_inet_connection_sock__ack_pending) & ICSK_ACK_TIMER) {
		state->flags |= SOCKET_HAS_TIMER;
		state->timer = ICSK_TIME_DACK;
		state->timer_ns = ns_until(READ(u64, sk, OFF_inet_connection_sock__ack_timeout));
	}
}

static __always_inline void fill_state(struct socket_state *state, const void *sk, u8 protocol, bool whole)
{
	__builtin_memset(state, 0, sizeof(*state));
	state->kind = KIND_SOCKET;
	state->slots = sizeof(*state) / SLOT_BYTES;
	state->state = READ(u8, sk, OFF_sock__skc_state);
	state->rtt_us = NO_RTT;
	state->srtt_us = NO_RTT;
	state->rtt_min_us = NO_RTT;
	if (!whole)
		return;
	state->flags = SOCKET_WHOLE;
	state->rmem = READ(u32, sk, OFF_sock__rmem_alloc);
	if (protocol == IPPROTO_TCP) {
		state->wmem = READ(u32, sk, OFF_sock__sk_wmem_queued);
		/* What follows the sock of one that listens is of no meaning, and may be left of a connection. */
		if (state->state != TCP_LISTEN)
			fill_tcp(state, sk);
	} else {
		state->wmem = READ(u32, sk, OFF_sock__sk_wmem_alloc) - 1;	/* the socket's own reference */
	}
}

static __always_inline bool is_wanted_socket(const struct hit *hit)
{
	if (ASKED(NETNS) && netns_of_socket((u64)hit->sk) != FILTER_NETNS)
		return false;
	return headers_match(&hit->packet) && task_matches() && !is_ending();
}

/* Whether its round trips take as long as the user is interested in. */
static __always_inline bool is_slow(const struct socket_state *state)
{
	if (ASKED(SRTT) && (state->srtt_us == NO_RTT || state->srtt_us < FILTER_SRTT_US))
		return false;
	return !ASKED(MINRTT) || (state->rtt_min_us != NO_RTT && state->rtt_min_us >= FILTER_MINRTT_US);
}

#ifdef COUNT_RTT

/* The sample, the smoothed round trip, the least one; in microseconds. */
BPF_PERCPU_ARRAY(rtt_histograms, struct histogram, RTT_HISTOGRAMS);

static __always_inline void count_rtt(u32 which, u32 us)
{
	struct histogram *histogram = rtt_histograms.lookup(&which);

	if (histogram && us != NO_RTT)
		histogram_add(histogram, us);
}

#ifdef RTT_PEERS_MAX
struct peer {
	u8 address[16];		/* of IPv4 in the first four bytes */
	u32 l3_protocol;
	u32 unused;
};

BPF_TABLE("hash", struct peer, struct histogram, rtt_peers, RTT_PEERS_MAX);
BPF_ARRAY(no_rtt, struct histogram, 1);

static __always_inline void count_peer(const struct packet *packet, u32 us)
{
	struct peer peer = {};
	struct histogram *histogram, *empty;
	u32 zero = 0;

	__builtin_memcpy(peer.address, packet->daddr, sizeof(peer.address));
	peer.l3_protocol = packet->l3_protocol;
	histogram = rtt_peers.lookup(&peer);
	if (!histogram) {
		empty = no_rtt.lookup(&zero);
		if (empty)
			rtt_peers.insert(&peer, empty);	/* unless another CPU was faster */
		histogram = rtt_peers.lookup(&peer);
	}
	if (histogram)
		histogram_add(histogram, us);
	else
		count(COUNTER_CROWDED_OUT);
}
#endif

static __always_inline void count_round_trip(const struct hit *hit, const struct socket_state *state)
{
	count_rtt(RTT_SAMPLE, state->rtt_us);
	count_rtt(RTT_SMOOTHED, state->srtt_us);
	count_rtt(RTT_LEAST, state->rtt_min_us);
#ifdef RTT_PEERS_MAX
	count_peer(&hit->packet, state->rtt_us);
#endif
}

#endif

static __always_inline void tell_socket(void *ctx, const struct hit *hit, const struct socket_state *state)
{
	struct tracked *t = begin_message(hit, hit->sk);
	u32 slots;

	if (!t)
		return;
	__builtin_memset(&t->device, 0, sizeof(t->device));
	t->device.netns = netns_of_socket((u64)hit->sk);
	t->device.kind = KIND_DEVICE;
	t->device.slots = sizeof(t->device) / SLOT_BYTES;
	note_headers(t);
	note_device(t);
	slots = log_end(t);
	fill_step(&t->log[slots], hit, 0);
	slots++;
	*(struct socket_state *)&t->log[slots] = *state;
	slots += sizeof(*state) / SLOT_BYTES;
#ifdef WITH_DETAIL
	{
		struct detail *detail = (struct detail *)&t->log[slots];

		fill_task(detail);
		if (state->flags & SOCKET_WHOLE) {
			detail->mark = READ(u32, hit->sk, OFF_sock__sk_mark);
			detail->socket = inode_of_socket(hit->sk);
		}
		slots += sizeof(*detail) / SLOT_BYTES;
	}
#endif
#ifdef WITH_STACK
	if (hit->flags & STACK) {
		fill_stack(ctx, (struct stack *)&t->log[slots]);
		slots += sizeof(struct stack) / SLOT_BYTES;
	}
#endif
	t->record.slots = slots;
	send(ctx, t, hit->place);
}

/* One hit; sample_us is NO_RTT unless it is about a round trip. */
static __always_inline void handle_socket(void *ctx, struct hit *hit, u32 sample_us)
{
	bool whole = false;
	struct socket_state state;

	hit->inner.kind = 0;
	if (!parse_sock(hit->sk, &hit->packet, &whole))
		return;
	fill_state(&state, hit->sk, hit->packet.l4_protocol, whole);
	state.rtt_us = sample_us;
	if (!is_wanted_socket(hit))
		return;
#ifdef MONITOR
	if (sample_us == NO_RTT) {
		count_trouble(hit);
	} else {
#ifdef COUNT_RTT
		count_round_trip(hit, &state);
#endif
		if (!(FILTER_ASKED & (ASK_SRTT | ASK_MINRTT)) || !is_slow(&state))
			return;
		count_trouble(hit);
	}
#else
	if (!is_slow(&state))
		return;
#endif
	if (!is_admitted())
		return;
#ifndef ONLY_COUNT
	tell_socket(ctx, hit, &state);
#elif defined(MONITOR)
	/* It was counted above. */
#elif defined(COUNT_RTT)
	count_round_trip(hit, &state);
#else
	count_hit(hit);
#endif
}

/*
 * What tcp_ack_update_rtt() learns, in microseconds, from its arguments: of the segment that was sent
 * first, else of the first one of a SACK; below 0: neither, it is in the struct rate_sample when it returns.
 */
static __always_inline s64 sample_of(s64 seq_us, s64 sack_us)
{
	return seq_us < 0 ? sack_us : seq_us;
}

/* And once it has returned, whether it learned anything; below 0: no. */
static __always_inline s64 sample_at_return(s64 us, u64 rate, u64 learned)
{
	if (!(u8)learned)
		return -1;
	return us < 0 ? READ(s64, rate, OFF_rate_sample__rtt_us) : us;
}
