/* SPDX-License-Identifier: GPL-2.0-only */
/* Histograms with the log-linear buckets of nettrace/histogram.py. */

/*
 * Behind the buckets comes the sum of the values. Plain bytes, as BCC compiles code for every
 * element that a map's value has.
 */
struct histogram {
	u8 counts[(HISTOGRAM_BUCKETS + 1) * 8] __attribute__((aligned(8)));
};

/* The bucket of a value, where each power of two has 2^bits of them. */
static __always_inline u64 log_linear(u64 value, const u32 bits)
{
	u64 rest = value, log2 = 0, shift;

#define HISTOGRAM_HALVE(half)                                                  \
	if (rest >> half) {                                                    \
		rest >>= half;                                                 \
		log2 += half;                                                  \
	}
	HISTOGRAM_HALVE(32)
	HISTOGRAM_HALVE(16)
	HISTOGRAM_HALVE(8)
	HISTOGRAM_HALVE(4)
	HISTOGRAM_HALVE(2)
	HISTOGRAM_HALVE(1)
	shift = log2 > bits ? log2 - bits : 0;
	return (shift << bits) + (value >> shift);
}

static __always_inline u64 histogram_bucket(u64 value)
{
	return value >> HISTOGRAM_VALUE_BITS ? HISTOGRAM_BUCKETS - 1 : log_linear(value, HISTOGRAM_BITS);
}

static __always_inline void histogram_add(struct histogram *histogram, u64 value)
{
	u64 bucket = histogram_bucket(value);

	/* It is always below; but the verifier must see it, and the compiler keep the question. */
	asm volatile("" : "+r"(bucket));
	if (bucket < HISTOGRAM_BUCKETS)
		__sync_fetch_and_add((u64 *)histogram->counts + bucket, 1);
	__sync_fetch_and_add((u64 *)histogram->counts + HISTOGRAM_BUCKETS, value);
}

/* A quarter of the buckets, of half the size, where there are many histograms. */
struct coarse_histogram {
	u32 counts[COARSE_BUCKETS];
};

static __always_inline void coarse_histogram_add(struct coarse_histogram *histogram, u64 value)
{
	u64 bucket = value >> COARSE_VALUE_BITS ? COARSE_BUCKETS - 1 : log_linear(value, COARSE_BITS);

	asm volatile("" : "+r"(bucket));
	/* One that is full stays so: the others still tell more or less. */
	if (bucket < COARSE_BUCKETS && histogram->counts[bucket] != ~0u)
		__sync_fetch_and_add(&histogram->counts[bucket], 1);
}
