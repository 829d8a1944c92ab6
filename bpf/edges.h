/* SPDX-License-Identifier: GPL-2.0-only */
/* Of all packets together: how long they took, and each step; all steps of an skb are kept until they are counted. */

/* From one step of an skb to the next. */
struct edge {
	u64 from;	/* kind and place, as in `hits` */
	u64 to;
};

struct edge_times {
	u64 count;
	u64 total_ns;
	u64 most_ns;
};

BPF_TABLE("percpu_hash", struct edge, struct edge_times, edges, EDGES_MAX);
BPF_PERCPU_ARRAY(latencies, struct histogram, 1);

static __always_inline void count_edge(const struct step *from, const struct step *to)
{
	struct edge edge = {
		.from = (u64)from->kind << 32 | from->where,
		.to = (u64)to->kind << 32 | to->where,
	};
	struct edge_times none = {}, *times = edges.lookup(&edge);
	u64 took = to->time_ns - from->time_ns;

	if (!times) {
		edges.insert(&edge, &none);
		times = edges.lookup(&edge);
	}
	if (!times) {
		count(COUNTER_STEPS_LOST);
		return;
	}
	/* An interrupt may count in between. */
	__sync_fetch_and_add(&times->count, 1);
	__sync_fetch_and_add(&times->total_ns, took);
	if (took > times->most_ns)
		times->most_ns = took;
}

/* Counts the steps that were kept, and goes on behind the last one. */
static __always_inline void count_way(struct tracked *t)
{
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 1; i < HOPS; i++) {
		if (i >= t->hops)
			break;
		count_edge(&t->way[i - 1], &t->way[i]);
	}
	t->way[0] = t->last;
	t->hops = 1;
}

static __always_inline void begin(struct tracked *t, const struct hit *hit)
{
}

static __always_inline void note(struct tracked *t, const struct hit *hit, const struct step *step)
{
	u32 hops = t->hops;

	/* For the verifier: the compiler must not see that the mask changes nothing. */
	asm volatile("" : "+r"(hops));
	if (hops < HOPS) {
		t->way[hops & (HOPS - 1)] = *step;
		t->hops = hops + 1;
	} else {
		/* It was fast so far, and may still turn out to be slow. */
		count(COUNTER_STEPS_LOST);
	}
	t->last = *step;
	t->steps++;
}

static __always_inline void settle(struct tracked *t, const struct hit *hit)
{
	/* Of a packet with clones each skb is judged by itself: it may be the only slow one. */
	if ((hit->flags & (FREES | ENDS) || t->hops == HOPS) && !is_short(t))
		count_way(t);
}

static __always_inline void inherit(struct tracked *child, const struct tracked *parent)
{
	child->way[0] = parent->last;
	child->hops = 1;
}

static __always_inline void tell(void *ctx, struct tracked *t, u32 place)
{
	struct histogram *histogram;
	u32 zero = 0;

	if (!is_measured(t))
		return;
	histogram = latencies.lookup(&zero);
	if (histogram)
		histogram_add(histogram, t->last.time_ns - t->first.time_ns);
}
