/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What --drop asks of a drop beside the packet filter. Before this file come lists:
 * DROP_REASONS(X), those that the user wants, X(number) each, or if there is no such list
 * NOT_DROPS(X), those that say that nothing was dropped; NO_REASONS(X), those that do not
 * say why; NORMAL_FREES(X), see below; HARMLESS(X), those that healthy packets meet.
 */

#define OR_IT_IS(number) || reason == number

static __always_inline bool reason_is_wanted(u32 reason)
{
#ifdef DROP_REASONS
	return false DROP_REASONS(OR_IT_IS);
#else
	return !(false NOT_DROPS(OR_IT_IS));
#endif
}

/* Whether the packet is one that healthy hosts drop all the time. */
static __always_inline bool reason_is_harmless(u32 reason)
{
	return false HARMLESS(OR_IT_IS);
}

/* Within a function: its start and size, and a protocol of layer 4 whose header has one of these values there. */
static __always_inline bool is_freed_at(const struct hit *hit, u64 start, u64 size, u8 protocol)
{
	return hit->drop_location - start < size && hit->packet.l4_protocol == protocol &&
	       hit->packet.flags & PACKET_HAS_L4;
}

/*
 * Where the kernel gives no reason, it may report packets that served their purpose, too:
 * X(start, size, protocol, offset, mask, value) says which, by the function that frees them
 * and a byte of their header.
 */
static __always_inline bool is_normal_free(const struct hit *hit)
{
#ifdef NORMAL_FREES
	u32 reason = hit->drop_reason;

	if (!(reason == NO_REASON NO_REASONS(OR_IT_IS)))
		return false;
#define FREES_AT(start, size, protocol, offset, mask, value)                   \
	if (is_freed_at(hit, start, size, protocol) && (hit->packet.l4[offset] & mask) == value) \
		return true;
	NORMAL_FREES(FREES_AT)
#endif
	return false;
}

#ifdef COUNT_DROPS

struct drop_place {
	u64 location;
	u32 reason;
	u32 unused;
};

BPF_TABLE("percpu_hash", struct drop_place, u64, drops, DROP_PLACES_MAX);

static __always_inline void count_drop(const struct hit *hit)
{
	struct drop_place place = { .location = hit->drop_location, .reason = hit->drop_reason };
	u64 none = 0, *value = drops.lookup(&place);

	if (!value) {
		drops.insert(&place, &none);	/* unless another CPU was faster */
		value = drops.lookup(&place);
	}
	if (value)
		__sync_fetch_and_add(value, 1);
	else
		count(COUNTER_UNCOUNTED);
}

#endif
