/* SPDX-License-Identifier: GPL-2.0-only */
/* Histograms with the log-linear buckets of nettrace/histogram.py. */

/*
 * Behind the buckets comes the sum of the values. Plain bytes, as BCC compiles code for every
 * element that a map's value has.
 */
struct histogram {
	u8 counts[(HISTOGRAM_BUCKETS + 1) * 8] __attribute__((aligned(8)));
};

static __always_inline u64 histogram_bucket(u64 value)
{
	u64 rest = value, log2 = 0, shift;

	if (value >> HISTOGRAM_VALUE_BITS)
		return HISTOGRAM_BUCKETS - 1;
#define HISTOGRAM_HALVE(bits)                                                  \
	if (rest >> bits) {                                                    \
		rest >>= bits;                                                 \
		log2 += bits;                                                  \
	}
	HISTOGRAM_HALVE(32)
	HISTOGRAM_HALVE(16)
	HISTOGRAM_HALVE(8)
	HISTOGRAM_HALVE(4)
	HISTOGRAM_HALVE(2)
	HISTOGRAM_HALVE(1)
	shift = log2 > HISTOGRAM_BITS ? log2 - HISTOGRAM_BITS : 0;
	return (shift << HISTOGRAM_BITS) + (value >> shift);
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
