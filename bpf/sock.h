/* SPDX-License-Identifier: GPL-2.0-only */
/* All hits are about sockets. */

/* An RTT sample of TCP; none where the hit is of another function. */
struct sample {
	u64 sk;
	u64 rate;		/* the struct rate_sample that the function will fill */
	s32 us;			/* below 0: not among the arguments */
	u32 where;
};

/* Calls of tcp_ack_update_rtt() under way, as `calls`. */
BPF_TABLE("lru_hash", u64, struct sample, samples, 1024);

static __always_inline void handle(void *ctx, struct hit *hit)
{
	struct sample sample = {};

	/* The function that takes the samples: when it returns they are part of the smoothed and of the least one. */
	if (hit->flags & RETURNS) {
		sample.sk = (u64)hit->sk;
		sample.us = sample_of(PT_REGS_PARM3((struct pt_regs *)ctx), PT_REGS_PARM4((struct pt_regs *)ctx));
		sample.rate = PT_REGS_PARM6((struct pt_regs *)ctx);
		sample.where = hit->where;
		/* No call can begin where another one is under way: that one's return was missed. */
		if (samples.lookup(&hit->call))
			count(COUNTER_CALLS_LOST);
		samples.update(&hit->call, &sample);
		return;
	}
	handle_socket(ctx, hit, NO_RTT);
}

/* In the file after this one. */
static __always_inline struct hit *place_of(u64 context);

static __always_inline void call_ends(void *ctx, u64 value, u64 key, const u32 most)
{
	struct sample *under_way = samples.lookup(&key), sample;
	struct hit *place;

	if (!under_way)
		return;
	sample = *under_way;
	samples.delete(&key);
	sample.us = sample_at_return(sample.us, sample.rate, value);
	if (sample.us < 0)
		return;
	place = place_of(0);
	if (!place) {
		count(COUNTER_MISSED);
		return;
	}
	place->context = (u64)ctx;
	place->sk = (void *)sample.sk;
	place->where = sample.where;
	place->kind = KIND_STEP;
	place->flags = 0;
	handle_socket(ctx, place, sample.us);
	place->context = 0;
}
