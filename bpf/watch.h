/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Watching for trouble: programs that look at what a function was given and what it returned,
 * and tell of it only where the rules call that trouble.
 *
 * They are loaded once for each function, with its numbers put in (PROBE_*, see nettrace/plan.py);
 * what these rule out, the verifier takes away. Before this file come, made of the rules
 * (nettrace/trouble.py), may_be_trouble(), which asks only for what the function returned,
 * and is_trouble(); their first argument says by which rules.
 */

/* Whether a hit, of which the skb is at this address, is none that can be trouble but one that measures time. */
static __always_inline bool watch_is_over(const u64 *skb_at)
{
#ifdef MEASURE_TRANSIT
	if (PROBE_ENDS) {
		/* As a number: to the verifier it is a pointer, with which one cannot calculate. */
		transit_ends(READ(void *, skb_at, 0), PROBE_ENDS);
		return true;
	}
	if (PROBE_BEGINS)
		return bpf_get_prandom_u32() & (TRANSIT_SAMPLE - 1);
#endif
	return false;
}

/* A place for a call that may be trouble; the caller puts its arguments there. */
static __always_inline struct hit *watch_begins(void *ctx)
{
	struct hit *place = place_of(0);

	if (!place) {
		count(COUNTER_MISSED);
		return NULL;
	}
	place->context = (u64)ctx;
	return place;
}

/* What the call tells of round trips; below 0: nothing. */
static __always_inline s64 round_trip_of(const struct hit *place)
{
	return sample_at_return(sample_of(place->arguments[2], place->arguments[3]), place->arguments[5],
				place->returned);
}

/* The place has the arguments of the call, and what it returned. */
static __always_inline void watch_ends(void *ctx, struct hit *place)
{
	u32 round_trip_us = NO_RTT;
	bool is_told = false;

	place->skb = NULL;
	place->sk = NULL;
	if (PROBE_SKB < 6)
		place->skb = (void *)place->arguments[PROBE_SKB];
	if (PROBE_DEREF)
		place->skb = (void *)READ(u64, place->skb, 0);
	if (PROBE_SK < 6)
		place->sk = (void *)place->arguments[PROBE_SK];
	place->where = PROBE_WHERE;
	place->kind = PROBE_IS_TRACEPOINT ? KIND_STEP_TRACEPOINT : KIND_STEP;
	place->flags = PROBE_RETURNS ? RETURNS : 0;
	place->facts = PROBE_FACTS;
	place->drop_location = 0;
	place->begins = PROBE_BEGINS;
	/* Linux commit e0d4593140b0 (6.7): what is "stolen" with an error was dropped with a reason of its own. */
	place->is_gone = PROBE_VERDICT && (place->returned & 0xff) == NF_STOLEN;
	if (PROBE_BEGINS) {
		is_told = true;
	} else if (PROBE_IS_RTT) {
		s64 us = round_trip_of(place);

		round_trip_us = us;
		is_told = us >= 0;
	} else if (PROBE_LOCATION < 6) {
		place->drop_location = place->arguments[PROBE_LOCATION];
		place->drop_reason = PROBE_REASON < 6 ? place->arguments[PROBE_REASON] : NO_REASON;
		is_told = reason_is_wanted(place->drop_reason);
	} else {
#ifdef WITH_FACTS
		if (PROBE_FACTS)
			read_facts(place, PROBE_FACTS, &place->told);
#endif
		is_told = is_trouble(PROBE_RULES, place->returned, place->told.words);
	}
	if (is_told && place->skb)
		handle_packet(ctx, place);
	else if (is_told)
		handle_socket(ctx, place, round_trip_us);
	place->context = 0;
}

static __always_inline u64 given(const u64 *ctx, u64 index)
{
	u64 value = 0;

#define GIVEN_AT(number)                                                       \
	case number:                                                           \
		value = ctx[number];                                           \
		asm volatile("# given at " #number : "+r"(value));             \
		break
	switch (index) {
		GIVEN_AT(0);
		GIVEN_AT(1);
		GIVEN_AT(2);
		GIVEN_AT(3);
		GIVEN_AT(4);
		GIVEN_AT(5);
		GIVEN_AT(6);
	}
	return value;
}

/* Where the kernel hands over a function's arguments, and behind them what it returned, or those of a tracepoint. */
int watch(u64 *ctx)
{
	u64 value = 0;
	struct hit *place;

#define GIVEN(number)                                                          \
	if (number < PROBE_ARGUMENTS)                                          \
		place->arguments[number] = ctx[number];

	if (watch_is_over(ctx + PROBE_SKB))
		return 0;
	if (PROBE_RETURNS) {
		value = given(ctx, PROBE_ARGUMENTS);
		if (!may_be_trouble(PROBE_RULES, value))
			return 0;
	}
	place = watch_begins(ctx);
	if (!place)
		return 0;
	GIVEN(0)
	GIVEN(1)
	GIVEN(2)
	GIVEN(3)
	GIVEN(4)
	GIVEN(5)
	place->returned = value;
	watch_ends(ctx, place);
	return 0;
}

#ifdef WATCH_BY_KPROBES

/* Calls under way, with their arguments. */
struct watched_call {
	u64 call;		/* its stack pointer; functions that jump to each other share it */
	u64 where;
};

struct watched_arguments {
	u64 arguments[6];
};

BPF_TABLE("lru_hash", struct watched_call, struct watched_arguments, watched, 16384);

static __always_inline void copy_arguments(u64 *arguments, struct pt_regs *ctx)
{
	arguments[0] = ARG_0(ctx);
	arguments[1] = ARG_1(ctx);
	arguments[2] = ARG_2(ctx);
	arguments[3] = ARG_3(ctx);
	arguments[4] = ARG_4(ctx);
	arguments[5] = ARG_5(ctx);
}

int watch_entry(struct pt_regs *ctx)
{
	struct watched_call key = { .call = CALL_OF_ENTRY(ctx), .where = PROBE_WHERE };
	struct watched_arguments arguments;

	copy_arguments(arguments.arguments, ctx);
	watched.update(&key, &arguments);
	return 0;
}

/* A function that is entered; or if its return counts, one that returns. */
int watch_function(struct pt_regs *ctx)
{
	struct watched_call key = { .call = CALL_OF_RETURN(ctx), .where = PROBE_WHERE };
	struct watched_arguments *arguments = NULL;
	struct hit *place;
	u64 value = 0, skb = argument(ctx, PROBE_SKB);

	if (watch_is_over(&skb))
		return 0;
	if (PROBE_RETURNS) {
		arguments = watched.lookup(&key);
		value = PT_REGS_RC(ctx);
		if (!arguments)
			return 0;
		if (!may_be_trouble(PROBE_RULES, value)) {
			watched.delete(&key);
			return 0;
		}
	}
	place = watch_begins(ctx);
	if (!place)
		return 0;
	if (arguments) {
		__builtin_memcpy(place->arguments, arguments->arguments, sizeof(arguments->arguments));
		watched.delete(&key);
	} else {
		copy_arguments(place->arguments, ctx);
	}
	place->returned = value;
	watch_ends(ctx, place);
	return 0;
}

#endif
