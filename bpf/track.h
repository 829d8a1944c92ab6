/* SPDX-License-Identifier: GPL-2.0-only */
/* Keeping the steps of followed packets until they are freed. */

/* The user is to see nothing more of this skb; it is known until it ends, or was idle for long. */
static __always_inline void retire(struct tracked *t, const struct hit *hit)
{
	t->record.flags |= RECORD_FREED;
	fill_step(&t->log[0], hit, 0);
	t->record.slots = 1;
}

/* Whether all of the packet is in this message, and it took less time than the user is interested in. */
static __always_inline bool is_short(const struct tracked *t)
{
	return ASKED(MIN_LATENCY) && !t->record.slots_before && !t->record.children && !t->record.calls &&
	       !t->record.parent_id && bpf_ktime_get_ns() - t->first_ns < MIN_LATENCY_NS;
}

/* One hit of a probe. */
static __always_inline void handle(void *ctx, struct hit *hit)
{
	u64 skb = (u64)hit->skb, dev;
	struct tracked *t = find_tracked(skb);
	u32 known = !!t, changed = 0, moved = 0;

	/* Else the compiler asks several questions about t at once, which the verifier refuses. */
	asm volatile("" : "+r"(known));

	if (!known && !(hit->flags & MAY_MATCH))
		return;
	if (locate(hit->skb, &hit->at)) {
		changed = 1;
		if (known) {
			if (!t)
				return;
			if (t->l3 && !hit->at.l3) {
				/*
				 * Headers that were there do not vanish: the skb ended
				 * unseen, as when the free came from an interrupt of a
				 * kprobe's program, and its address is another's now.
				 */
				if (!(t->record.flags & RECORD_FREED)) {
					send(ctx, t, hit->place);
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
				/* For the user it has ended already, or is not to be seen; so are its clones. */
				if (hit->flags & CLONES)
					call_begins(t, hit, CLONES);
				if (hit->flags & FREES)
					forget(skb);
				return;
			}
			changed = !same_headers(&hit->at, t);
		}
		if (changed)
			changed = parse(hit);
	}
	if (!known) {
		if (!changed || !is_wanted(hit))
			return;
		t = add(skb, 0, 0, hit->place);
		if (!t)
			return;
		if (!is_admitted()) {
			/* Remembered, so that it is not asked again further on: half a path is none. */
			retire(t, hit);
			return;
		}
	}
	if (!t)
		return;
#ifdef COUNT_HITS
	count_hit(hit);
#endif
	if (changed) {
		t->l3 = hit->at.l3;
		t->ports_at = hit->ports_at;
		t->now = hit->packet;
		t->inner = hit->inner;
	}
#ifndef COUNT_HITS
	dev = READ(u64, hit->skb, OFF_sk_buff__dev);
	if (dev != t->dev && fill_device(&t->device, dev)) {
		t->dev = dev;
		moved = 1;
	} else if (!known) {
		moved = fill_device_of_socket(&t->device, hit);
	}
	if (t->record.slots >= LOG_SLOTS - HIT_SLOTS) {
		send(ctx, t, hit->place);
		/* Each message tells these again. */
		changed = 1;
		moved = 1;
	}
	if (changed)
		note_headers(t);
	if (moved)
		note_device(t);
	note_step(ctx, t, hit);
#endif
	if (hit->flags & (CLONES | RETURNS))
		call_begins(t, hit, hit->flags);
	t->steps++;
	if (hit->flags & (FREES | ENDS)) {
		if (is_short(t)) {
			count(COUNTER_SHORT);
		} else {
			t->record.flags |= RECORD_FREED;
			send(ctx, t, hit->place);
		}
		count(COUNTER_FREED);
		if (hit->flags & FREES)
			forget(skb);
		else
			retire(t, hit);
	}
}

/* No header is there: whatever is seen of the skb is new. */
#define NOWHERE ~0u

/* The new skb inherits the parent's identity, and its headers unless it is one of several pieces. */
static __always_inline void adopt(void *ctx, struct tracked *parent, u64 skb, bool is_piece)
{
	struct tracked *child = find_tracked(skb);

	if (child) {
		if (!(child->record.flags & RECORD_FREED)) {
			/* Another skb that was at this address ended unseen. */
			send(ctx, child, PLACES);
			count(COUNTER_REUSED);
		}
		forget(skb);
	}
	child = add(skb, parent->record.packet_id, parent->record.record_id, PLACES);
	if (!child)
		return;
	if (parent->record.flags & RECORD_FREED) {
		child->record.flags |= RECORD_FREED;
		return;
	}
	count(COUNTER_CLONED);
	child->now = parent->now;
	child->inner = parent->inner;
	child->device = parent->device;
	child->dev = parent->dev;
	child->l3 = is_piece ? NOWHERE : parent->l3;
	child->ports_at = parent->ports_at;
#ifndef COUNT_HITS
	note_headers(child);
	note_device(child);
#endif
	parent->record.children++;
}
