/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long packets take from where they are matched to where they are seen last: of a
 * followed skb only these two steps are kept, and told when its packet is over. For
 * the summary all steps are kept, and counted.
 */

/*
 * A packet with clones is as old as its first skb and lasts as long as any of them: this
 * is what those of its skbs that have ended leave to the others.
 */
struct family {
	u64 last_ns;
	u32 last_where;
	u32 last_kind;
	u32 steps;
	u32 alive;	/* skbs that have not ended */
};

BPF_TABLE("lru_hash", u64, struct family, families, TRACKED_MAX);

/* The headers, what they carry, and the steps: end, first, last. */
#define MESSAGE_SLOTS ((2 * sizeof(struct packet) + 3 * sizeof(struct step)) / SLOT_BYTES)

#ifdef LATENCY_SUMMARY

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

#endif

static __always_inline bool is_short(const struct tracked *t)
{
	return ASKED(MIN_LATENCY) && t->last.time_ns - t->first.time_ns < MIN_LATENCY_NS;
}

/* Another step counts for the latency. */
static __always_inline void note(struct tracked *t, const struct step *step)
{
#ifdef LATENCY_SUMMARY
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
#endif
	t->last = *step;
	t->steps++;
}

/* The packet is over: tells how long it took, or counts why not. */
static __always_inline void tell(void *ctx, struct tracked *t, u32 place)
{
#ifdef LATENCY_SUMMARY
	struct histogram *histogram;
	u32 zero = 0;
#endif

	if (t->steps < 2) {
		count(COUNTER_ONE_POINT);
		return;
	}
	if (is_short(t)) {
		count(COUNTER_SHORT);
		return;
	}
	count(COUNTER_MEASURED);
#ifdef LATENCY_SUMMARY
	histogram = latencies.lookup(&zero);
	if (histogram)
		histogram_add(histogram, t->last.time_ns - t->first.time_ns);
#else
	/* It stands for the packet, whichever of the skbs ended last. */
	t->record.parent_id = 0;
	t->record.flags |= RECORD_SINGLE;
	t->record.slots = MESSAGE_SLOTS;
	submit(ctx, &t->record, sizeof(t->record) + MESSAGE_SLOTS * SLOT_BYTES, place);
#endif
}

/* The skb has ended, and perhaps its packet with it. */
static __always_inline void end(void *ctx, struct tracked *t, u32 place)
{
	u64 packet_id = t->record.packet_id;
	struct family *family;

	if (t->record.children || t->record.parent_id) {
		family = families.lookup(&packet_id);
		if (!family) {
			count(COUNTER_FAMILIES_LOST);
			return;
		}
		/* A clone that was seen nowhere adds nothing. */
		if (t->steps && t->last.time_ns > family->last_ns) {
			family->last_ns = t->last.time_ns;
			family->last_where = t->last.where;
			family->last_kind = t->last.kind;
		}
		__sync_fetch_and_add(&family->steps, t->steps);
		__sync_fetch_and_add(&family->alive, -1);
		/* Of two that end at a time, one deletes it. */
		if (*(volatile u32 *)&family->alive || families.delete(&packet_id))
			return;
		t->last.time_ns = family->last_ns;
		t->last.where = family->last_where;
		t->last.kind = family->last_kind;
		t->steps = family->steps;
	}
	tell(ctx, t, place);
}

/* One hit of a probe. */
static __always_inline void handle(void *ctx, struct hit *hit)
{
	u64 skb = (u64)hit->skb;
	struct tracked *t = find_tracked(skb);
	u32 known = !!t;

	/* Else the compiler asks several questions about t at once, which the verifier refuses. */
	asm volatile("" : "+r"(known));

	if (!known && !(hit->flags & MAY_MATCH))
		return;
	if (!locate(hit->skb, &hit->at))
		return;
	if (known) {
		if (!t)
			return;
		if (t->l3 && !hit->at.l3) {
			/* As in track.h: the skb ended unseen, and its address is another's now. */
			if (!(t->record.flags & RECORD_FREED)) {
				t->end = t->last;
				end(ctx, t, hit->place);
				count(COUNTER_REUSED);
			}
			tracked.delete(&skb);
			if (!(hit->flags & MAY_MATCH))
				return;
			known = 0;
		}
	}
	if (known) {
		if (!t)
			return;
		if (t->record.flags & RECORD_FREED) {
			if (hit->flags & CLONES)
				call_begins(t, hit, CLONES);
			if (hit->flags & FREES)
				tracked.delete(&skb);
			return;
		}
		fill_step(&t->end, hit, 0);
		/* A clone that was seen nowhere is not measured by its end either. */
		if (hit->flags & POINT && (t->steps || !(hit->flags & FREES))) {
			note(t, &t->end);
		}
	} else {
		if (!parse(hit) || !is_wanted(hit))
			return;
		t = add(skb, 0, 0, hit->place);
		if (!t)
			return;
		if (!is_admitted()) {
			/* Remembered, so that it is not asked again further on. */
			t->record.flags |= RECORD_FREED;
			return;
		}
#ifndef LATENCY_SUMMARY
		t->now = hit->packet;
		t->inner = hit->packet;
		if (hit->inner.kind)
			t->inner = hit->inner;
#endif
		fill_step(&t->first, hit, 0);
		t->end = t->first;
		note(t, &t->first);
	}
	t->l3 = hit->at.l3;
	if (hit->flags & CLONES)
		call_begins(t, hit, CLONES);
#ifdef LATENCY_SUMMARY
	/* Of a packet with clones each skb is judged by itself: it may be the only slow one. */
	if ((hit->flags & (FREES | ENDS) || t->hops == HOPS) && !is_short(t))
		count_way(t);
#endif
	if (hit->flags & (FREES | ENDS)) {
		end(ctx, t, hit->place);
		count(COUNTER_FREED);
		if (hit->flags & FREES)
			tracked.delete(&skb);
		else
			t->record.flags |= RECORD_FREED;
	}
}

/* The family of a packet, which begins with its first clone; NULL: there is no room, or it was pushed out. */
static __always_inline struct family *family_of(const struct tracked *t)
{
	struct family only = { .alive = 1 };
	u64 packet_id = t->record.packet_id;

	if (!t->record.children && !t->record.parent_id)
		families.update(&packet_id, &only);
	return families.lookup(&packet_id);
}

static __always_inline void adopt(void *ctx, struct tracked *parent, u64 skb, bool is_piece)
{
	struct tracked *child = find_tracked(skb);
	struct family *family = NULL;

	if (child) {
		if (!(child->record.flags & RECORD_FREED)) {
			/* Another skb that was at this address ended unseen. */
			child->end = child->last;
			end(ctx, child, PLACES);
			count(COUNTER_REUSED);
		}
		tracked.delete(&skb);
	}
	if (!(parent->record.flags & RECORD_FREED)) {
		family = family_of(parent);
		if (!family) {
			count(COUNTER_FAMILIES_LOST);
			return;
		}
	}
	child = add(skb, parent->record.packet_id, parent->record.record_id, PLACES);
	if (!child)
		return;
	if (!family) {
		child->record.flags |= RECORD_FREED;
		return;
	}
	count(COUNTER_CLONED);
	__sync_fetch_and_add(&family->alive, 1);
#ifdef LATENCY_SUMMARY
	child->way[0] = parent->last;
	child->hops = 1;
#else
	child->now = parent->now;
	child->inner = parent->inner;
#endif
	child->first = parent->first;
	child->last = parent->last;
	child->l3 = is_piece ? 0 : parent->l3;
	parent->record.children++;
}
