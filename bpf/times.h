/* SPDX-License-Identifier: GPL-2.0-only */
/* Of each packet a message: how long it took. */

/* The headers, what they carry, and the steps: end, first, last. */
#define MESSAGE_SLOTS ((2 * sizeof(struct packet) + 3 * sizeof(struct step)) / SLOT_BYTES)

static __always_inline void begin(struct tracked *t, const struct hit *hit)
{
	t->now = hit->packet;
	t->inner = hit->packet;
	if (hit->inner.kind)
		t->inner = hit->inner;
}

static __always_inline void note(struct tracked *t, const struct hit *hit, const struct step *step)
{
	t->last = *step;
	t->steps++;
}

static __always_inline void settle(struct tracked *t, const struct hit *hit)
{
}

static __always_inline void inherit(struct tracked *child, const struct tracked *parent)
{
	child->now = parent->now;
	child->inner = parent->inner;
}

static __always_inline void tell(void *ctx, struct tracked *t, u32 place)
{
	if (!is_measured(t))
		return;
	/* It stands for the packet, whichever of the skbs ended last. */
	t->record.parent_id = 0;
	t->record.flags |= RECORD_SINGLE;
	t->record.slots = MESSAGE_SLOTS;
	submit(ctx, &t->record, sizeof(t->record) + MESSAGE_SLOTS * SLOT_BYTES, place);
}
