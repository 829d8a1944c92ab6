/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long packets take from where they are matched to where they are seen last: of a
 * followed skb only these two steps are kept. What becomes of them, and of the steps in
 * between, is in times.h, edges.h or paths.h: one of them follows this file.
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

/* The packet is taken up. */
static __always_inline void begin(struct tracked *t, const struct hit *hit);
/* Another step, the first one included, that counts. */
static __always_inline void note(struct tracked *t, const struct hit *hit, const struct step *step);
/* The work on the hit is done, but for what its end brings. */
static __always_inline void settle(struct tracked *t, const struct hit *hit);
/* What a clone has of its parent. */
static __always_inline void inherit(struct tracked *child, const struct tracked *parent);
/* The packet is over. */
static __always_inline void tell(void *ctx, struct tracked *t, u32 place);

static __always_inline bool is_short(const struct tracked *t)
{
	return ASKED(MIN_LATENCY) && t->last.time_ns - t->first.time_ns < MIN_LATENCY_NS;
}

/* Whether it can and shall be told how long the packet took; counts it, or why not. */
static __always_inline bool is_measured(const struct tracked *t)
{
	if (t->steps < 2) {
		count(COUNTER_ONE_POINT);
		return false;
	}
	if (is_short(t)) {
		count(COUNTER_SHORT);
		return false;
	}
	count(COUNTER_MEASURED);
	return true;
}

/* Whether a step counts. */
static __always_inline bool is_point(const struct tracked *t, const struct hit *hit)
{
#ifdef PATHS
	return true;
#else
	/* A clone that was seen nowhere is not measured by its end either. */
	return hit->flags & POINT && (t->steps || !(hit->flags & FREES));
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
			forget(skb);
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
				forget(skb);
			return;
		}
		fill_step(&t->end, hit, 0);
		if (is_point(t, hit))
			note(t, hit, &t->end);
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
		begin(t, hit);
		fill_step(&t->first, hit, 0);
		t->end = t->first;
		note(t, hit, &t->first);
	}
	t->l3 = hit->at.l3;
	if (hit->flags & CLONES)
		call_begins(t, hit, CLONES);
	settle(t, hit);
	if (hit->flags & (FREES | ENDS)) {
		end(ctx, t, hit->place);
		count(COUNTER_FREED);
		if (hit->flags & FREES)
			forget(skb);
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
		forget(skb);
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
	inherit(child, parent);
	child->first = parent->first;
	child->last = parent->last;
	child->l3 = is_piece ? 0 : parent->l3;
	parent->record.children++;
}
