/* SPDX-License-Identifier: GPL-2.0-only */
/* What all following of packets has in common: matching the first time, and what functions make of an skb. */

static __always_inline void fill_step(struct step *step, const struct hit *hit, u16 number)
{
	step->time_ns = bpf_ktime_get_ns();
	step->number = number;
	step->where = hit->where;
	step->kind = hit->kind;
	step->slots = 1;
}

static __always_inline void fill_return(struct return_ *item, u64 value, u16 number)
{
	__builtin_memset(item, 0, sizeof(*item));
	item->value = value;
	item->number = number;
	item->kind = KIND_RETURN;
	item->slots = sizeof(*item) / SLOT_BYTES;
	item->time_ns = bpf_ktime_get_ns();
}

/* Whether the packet is one that the user wants to see. */
static __always_inline bool is_wanted(const struct hit *hit)
{
#ifdef FILTER_INNER
	if (!headers_match(&hit->packet) && !(hit->inner.kind && headers_match(&hit->inner)))
		return false;
#else
	if (!headers_match(&hit->packet))
		return false;
#endif
	return skb_matches(hit->skb, hit->sk, &hit->at) && !is_ending();
}

/* To be asked once for each packet or hit that is wanted: whether it is told, or is one too many in this second. */
static __always_inline bool is_admitted(void)
{
	bool admitted = within_rate();

	count(admitted ? COUNTER_MATCHED : COUNTER_OVER_RATE);
	return admitted;
}

#ifdef FOLLOW

/* A new entry for an skb. */
static __always_inline struct tracked *add(u64 skb, u64 packet_id, u64 parent_id, u32 place)
{
	u32 zero = 0;
	struct tracked_bytes *empty = blank.lookup(&zero);
	u32 *number = like(skb);
	struct tracked *t;

	if (!empty || !number)
		return NULL;
	if (tracked.update(&skb, empty)) {
		count(COUNTER_UNTRACKED);
		return NULL;
	}
	__sync_fetch_and_add(number, 1);
	t = find_tracked(skb);
	if (!t)
		return NULL;
	t->record.record_id = new_id(place);
	t->record.packet_id = packet_id ? packet_id : t->record.record_id;
	t->record.parent_id = parent_id;
	t->record.skb = skb;
	return t;
}

/* A function begins whose return is awaited: that is in the flags. */
static __always_inline void call_begins(struct tracked *t, const struct hit *hit, u16 flags)
{
	struct call call = {};
	u64 key = hit->call;
	u32 i;

	call.skb = (u64)hit->skb;
	call.record_id = t->record.record_id;
	call.packet_id = t->record.packet_id;
	call.parent_id = t->record.parent_id;
	call.number = t->steps;
	call.flags = flags;
#pragma clang loop unroll(disable)
	for (i = 0; i < CALLS_AT_ONE_PLACE; i++) {
		if (!calls.lookup(&key)) {
			if (!calls.update(&key, &call) && flags & RETURNS)
				t->record.calls++;
			return;
		}
		key++;
	}
	count(COUNTER_CALLS_LOST);
}

/* The new skb belongs to the packet too; is_piece: it is one of several, with headers of its own. */
static __always_inline void adopt(void *ctx, struct tracked *parent, u64 skb, bool is_piece);

#ifndef COUNT_HITS
static __always_inline void tell_return(void *ctx, const struct call *call, u64 value)
{
	struct {
		struct record record;
		struct return_ item;
	} message = {};

	message.record.packet_id = call->packet_id;
	message.record.record_id = call->record_id;
	message.record.parent_id = call->parent_id;
	message.record.skb = call->skb;
	message.record.flags = RECORD_RETURNED;
	message.record.slots = sizeof(message.item) / SLOT_BYTES;
	fill_return(&message.item, value, call->number);
	submit(ctx, &message.record, sizeof(message), PLACES);
}
#endif

/* A function returned. What makes skbs returns one, or `most` linked by ->next. */
static __always_inline void call_ends(void *ctx, u64 value, u64 key, const u32 most)
{
	struct call call, *under_way = calls.lookup(&key);
	struct tracked *parent;
	u32 i;

	if (!under_way)
		return;
	call = *under_way;
	/* Of several at one place, the one that was entered last. */
#pragma clang loop unroll(disable)
	for (i = 1; i < CALLS_AT_ONE_PLACE; i++) {
		key++;
		under_way = calls.lookup(&key);
		if (!under_way)
			break;
		call = *under_way;
	}
	if (i < CALLS_AT_ONE_PLACE)
		key--;
	calls.delete(&key);
	if (call.flags & CLONES) {
		parent = find_tracked(call.skb);
		if (parent && parent->record.record_id == call.record_id) {
			u64 skb = value;

			for (i = 0; i < most; i++) {
				/* NULL, or an error as a pointer. */
				if (!is_kernel_pointer(skb) || skb >= (u64)-4095)
					break;
				if (skb != call.skb)
					adopt(ctx, parent, skb, most > 1);
				if (most > 1)
					skb = READ(u64, skb, OFF_sk_buff__next);
			}
		}
	}
#ifndef COUNT_HITS
	if (call.flags & RETURNS)
		tell_return(ctx, &call, value);
#endif
}

#endif
