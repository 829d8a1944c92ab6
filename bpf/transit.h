/* SPDX-License-Identifier: GPL-2.0-only */
/* How long packets are in the stack: of a few, chosen by chance, from one point to another. */

/* A packet under way; the place is found by the skb's address, and one packet has it at a time. */
struct transit {
	u64 skb;		/* 0: none */
	u64 since_ns;
};

#define TRANSIT_PLACES 64
/* Of so many packets one is measured. */
#define TRANSIT_SAMPLE 64
/* A packet that has not come after so long was lost. */
#define TRANSIT_NS_MAX 10000000000ULL

BPF_ARRAY(transits, struct transit, 2 * TRANSIT_PLACES);
/* In microseconds: in, out. */
BPF_PERCPU_ARRAY(transit_histograms, struct histogram, 2);

static __always_inline struct transit *transit_of(const void *skb, u32 direction)
{
	u64 hash = (u64)skb * 0x9E3779B97F4A7C15ULL;	/* 2^64 divided by the golden ratio */
	u32 place = (direction - 1) * TRANSIT_PLACES + (hash >> 58);

	return transits.lookup(&place);
}

static __always_inline void transit_begins(const struct hit *hit)
{
	struct transit *transit = transit_of(hit->skb, hit->begins);
	u64 now = bpf_ktime_get_ns();

	if (!transit || (transit->skb && now - transit->since_ns < TRANSIT_NS_MAX))
		return;
	transit->since_ns = now;
	transit->skb = (u64)hit->skb;
}

static __always_inline void transit_ends(const void *skb, u32 direction)
{
	struct transit *transit = transit_of(skb, direction);
	u32 which = direction - 1;
	struct histogram *histogram;
	u64 took_ns;

	if (!transit || transit->skb != (u64)skb)
		return;
	took_ns = bpf_ktime_get_ns() - transit->since_ns;
	transit->skb = 0;
	histogram = transit_histograms.lookup(&which);
	if (histogram && took_ns < TRANSIT_NS_MAX)
		histogram_add(histogram, took_ns / 1000);
}
