/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The programs. After this file come one-line stubs, an entry for each kind of
 * function or tracepoint that the plan attaches.
 */

/* Arguments from 0; the register names are BCC's. */
#define ARG_0(ctx) PT_REGS_PARM1(ctx)
#define ARG_1(ctx) PT_REGS_PARM2(ctx)
#define ARG_2(ctx) PT_REGS_PARM3(ctx)
#define ARG_3(ctx) PT_REGS_PARM4(ctx)
#define ARG_4(ctx) PT_REGS_PARM5(ctx)
#define ARG_5(ctx) PT_REGS_PARM6(ctx)

#define ARG_none(ctx) 0

#if defined(__TARGET_ARCH_x86) || defined(__x86_64__)
/* The call pushed the return address, and the return takes it away again. */
#define CALL_OF_ENTRY(ctx) (PT_REGS_SP(ctx) + 8)
#else
#define CALL_OF_ENTRY(ctx) PT_REGS_SP(ctx)
#endif
#define CALL_OF_RETURN(ctx) PT_REGS_SP(ctx)

/* skb_from says how the argument leads to the skb. */
#define DIRECT(argument) ((void *)(argument))
#define FIRST_MEMBER(argument) READ(void *, argument, 0)

/* The place that this context has, or a free one for context 0; NULL: none. */
static __always_inline struct hit *place_of(u64 context)
{
	struct hit *place = NULL;
	u32 i;

#pragma unroll
	for (i = 0; i < PLACES; i++) {
		u32 key = i;

		place = (struct hit *)handed_over.lookup(&key);
		if (!place)
			return NULL;
		if (place->context == context) {
			place->place = i;
			return place;
		}
	}
	return NULL;
}

/* An argument by its number. */
static __always_inline u64 argument(struct pt_regs *ctx, u64 index)
{
	u64 value = 0;

/* The comments tell the cases apart: the verifier wants each register read at a fixed place. */
#define ARGUMENT(number)                                                       \
	case number:                                                           \
		value = ARG_##number(ctx);                                     \
		asm volatile("# argument " #number : "+r"(value));             \
		break

	switch (index) {
		ARGUMENT(0);
		ARGUMENT(1);
		ARGUMENT(2);
		ARGUMENT(3);
		ARGUMENT(4);
		ARGUMENT(5);
	}
	return value;
}

#ifndef MONITOR

#ifdef SAMPLE_HITS
/*
 * The kernel tells how long a program ran, but not for which of its functions. To count
 * each hit would cost as much as most of them do.
 */
static __always_inline void sample_hit(u8 kind, u32 where)
{
	u64 key = (u64)kind << 32 | where, one = 1;
	u64 *value;

	if (bpf_get_prandom_u32() % SAMPLE_PERIOD)
		return;
	value = sampled.lookup(&key);
	if (value)
		(*value)++;
	else
		sampled.update(&key, &one);
}
#endif

/*
 * Whether the network header says already that a packet that nobody follows is not wanted, as it does of most:
 * then nothing is left for the worker.
 */
static __always_inline bool is_refused(u64 skb)
{
#if defined(SOCKETS) || defined(UNREAD) || defined(FILTER_INNER)
	return false;
#else
	struct packet packet = {};

	return FILTER_ASKED & ASK_OF_NETWORK && parse_plain((void *)skb, &packet) && !network_matches(&packet);
#endif
}

/*
 * The stub's half: leaves the hit for the worker, unless there is nothing to do;
 * most hits are of packets that nobody follows.
 */
static __always_inline struct hit *leave(void *ctx, u64 skb, u16 flags, u8 kind, u32 where)
{
	struct hit *place;

#ifdef SAMPLE_HITS
	sample_hit(kind, where);
#endif
#ifdef PATHS
	if (passes(skb, flags, kind, where))
		return NULL;
#endif
#ifdef FOLLOW
	if (!find_tracked(skb) && (!(flags & MAY_MATCH) || is_refused(skb)))
		return NULL;
#else
	if (is_refused(skb))
		return NULL;
#endif
	place = place_of(0);
	if (!place) {
		count(COUNTER_MISSED);
		return NULL;
	}
	place->context = (u64)ctx;
	place->skb = (void *)skb;
	place->flags = flags;
	place->kind = kind;
	place->where = where;
	return place;
}

/*
 * The worker's half. The place is taken until the work is done: its numbers are its own.
 * Loaded twice, as a kprobe's program and as a tracepoint's.
 */
int work(void *ctx)
{
	struct hit *hit = place_of((u64)ctx);

	if (!hit)
		return 0;
	handle(ctx, hit);
	hit->context = 0;
	return 0;
}

/* These do not return, unless the worker is missing. BCC wants such calls outside of macros. */
static __always_inline void hand_over_call(struct pt_regs *ctx, struct hit *place, u64 sk, u8 facts)
{
#ifdef WITH_FACTS
	place->facts = facts;
	if (facts) {
		place->arguments[0] = ARG_0(ctx);
		place->arguments[1] = ARG_1(ctx);
		place->arguments[2] = ARG_2(ctx);
		place->arguments[3] = ARG_3(ctx);
		place->arguments[4] = ARG_4(ctx);
		place->arguments[5] = ARG_5(ctx);
	}
#endif
	place->sk = (void *)sk;
	place->call = CALL_OF_ENTRY(ctx);
	place->drop_location = 0;
	kprobe_work.call(ctx, 0);
	place->context = 0;
}

static __always_inline void hand_over_tracepoint(struct bpf_raw_tracepoint_args *ctx, struct hit *place,
						 u64 drop_location, const u8 facts, const u32 arguments)
{
#ifdef WITH_FACTS
	u32 i;

	place->facts = facts;
#pragma unroll
	for (i = 0; i < 6; i++)
		if (i < arguments)
			place->arguments[i] = ctx->args[i];
#endif
	place->sk = NULL;
	place->drop_location = drop_location;
	tracepoint_work.call(ctx, 0);
	place->context = 0;
}

/* skb_from: DIRECT or FIRST_MEMBER; sk_arg: a number, or none. */
#define KPROBE(name, skb_from, skb_arg, sk_arg, flags, facts)                  \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		struct hit *place = leave(ctx, (u64)skb_from(ARG_##skb_arg(ctx)), flags, KIND_STEP, PT_REGS_IP(ctx)); \
									       \
		if (place)                                                     \
			hand_over_call(ctx, place, ARG_##sk_arg(ctx), facts);  \
		return 0;                                                      \
	}

/* Whether a packet that was not followed yet may be one to follow. */
static __always_inline bool may_begin(u64 skb)
{
#ifdef FOLLOW
	if (find_tracked(skb))
		return true;
#endif
	return !is_refused(skb);
}

/* Whether one of the first arguments is a followed skb. */
static __always_inline bool may_go_on(struct pt_regs *ctx)
{
#ifdef FOLLOW
	return find_tracked(ARG_0(ctx)) || find_tracked(ARG_1(ctx)) || find_tracked(ARG_2(ctx));
#else
	return true;
#endif
}

#define BEGINS_AT_0 may_begin(ARG_0(ctx))
#define BEGINS_AT_1 may_begin(ARG_1(ctx))
#define BEGINS_AT_2 may_begin(ARG_2(ctx))
#define BEGINS_AT_3 may_begin(ARG_3(ctx))
#define BEGINS_AT_4 may_begin(ARG_4(ctx))
#define BEGINS_AT_5 may_begin(ARG_5(ctx))
#define GOES_ON may_go_on(ctx)
#define ANYTHING true

/*
 * One program for many functions, where each can be attached with a cookie: the
 * flags in 16 bits, the index of the skb in 4, that of the socket plus 1 in 4,
 * whether the argument only leads to the skb in 4, and the number of the facts in 8.
 * The kernel has to search for the cookie, so most hits are to be done with before: by
 * what the functions of this program have in common.
 */
#define KPROBE_BY_COOKIE(name, concerns)                                       \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		u64 (*attach_cookie)(void *) = (void *)174;                    \
		u64 cookie, skb, sk = 0;                                       \
		struct hit *place;                                             \
									       \
		if (!(concerns))                                               \
			return 0;                                              \
		cookie = attach_cookie(ctx);                                   \
		skb = argument(ctx, cookie >> 16 & 0xf);                       \
		if (cookie >> 24 & 1)                                          \
			skb = READ(u64, skb, 0);                               \
		place = leave(ctx, skb, cookie & 0xffff, KIND_STEP, PT_REGS_IP(ctx)); \
		if (place) {                                                   \
			if (cookie >> 20 & 0xf)                                \
				sk = argument(ctx, (cookie >> 20 & 0xf) - 1);  \
			hand_over_call(ctx, place, sk, cookie >> 28 & 0xff);   \
		}                                                              \
		return 0;                                                      \
	}

#define TRACEPOINT(name, skb_arg, index, flags, facts, arguments)              \
	int name(struct bpf_raw_tracepoint_args *ctx)                          \
	{                                                                      \
		struct hit *place = leave(ctx, ctx->args[skb_arg], flags, KIND_STEP_TRACEPOINT, index); \
									       \
		if (place)                                                     \
			hand_over_tracepoint(ctx, place, 0, facts, arguments); \
		return 0;                                                      \
	}

#ifndef DROPS
#define reason_is_wanted(reason) true
#endif

/* reason_arg: 0, which is the skb, where the kernel gives no reason. */
#define DROP_TRACEPOINT(name, skb_arg, location_arg, reason_arg, index, flags) \
	int name(struct bpf_raw_tracepoint_args *ctx)                          \
	{                                                                      \
		u32 reason = reason_arg ? (u32)ctx->args[reason_arg] : NO_REASON; \
		struct hit *place;                                             \
									       \
		if (!reason_is_wanted(reason))                                 \
			return 0;                                              \
		place = leave(ctx, ctx->args[skb_arg], flags, KIND_STEP_TRACEPOINT, index); \
		if (place) {                                                   \
			place->drop_reason = reason;                           \
			hand_over_tracepoint(ctx, place, ctx->args[location_arg], 0, 0); \
		}                                                              \
		return 0;                                                      \
	}

#ifdef UNREAD
/* A drop of which no more is known than the tracepoint says by itself. */
static __always_inline void unread_drop(void *ctx, u64 skb, u64 location, u32 reason, u16 protocol, u32 index,
					u16 flags)
{
	struct hit *place;

	if (!reason_is_wanted(reason))
		return;
	place = leave(ctx, skb, flags, KIND_STEP_TRACEPOINT, index);
	if (!place)
		return;
	place->sk = NULL;
	place->drop_location = location;
	place->drop_reason = reason;
	place->at.protocol = protocol;
	handle(ctx, place);
	place->context = 0;
}

/* By the tracepoint's record: where its fields are; reason_at is 0 where the kernel gives no reason. */
#define DROP_RECORD(name, skb_at, location_at, reason_at, protocol_at, index, flags) \
	int name(void *ctx)                                                    \
	{                                                                      \
		u32 reason = reason_at ? *(u32 *)(ctx + reason_at) : NO_REASON; \
		u16 protocol = *(u16 *)(ctx + protocol_at);                    \
									       \
		if (protocol)	/* else a message between sockets, no packet */ \
			unread_drop(ctx, *(u64 *)(ctx + skb_at), *(u64 *)(ctx + location_at), reason, protocol, \
				    index, flags);                             \
		return 0;                                                      \
	}

/* By its arguments, where the layout of the record cannot be read either; they do not tell the protocol. */
#define DROP_ARGUMENTS(name, skb_arg, location_arg, reason_arg, index, flags)  \
	int name(struct bpf_raw_tracepoint_args *ctx)                          \
	{                                                                      \
		u32 reason = reason_arg ? (u32)ctx->args[reason_arg] : NO_REASON; \
									       \
		unread_drop(ctx, ctx->args[skb_arg], ctx->args[location_arg], reason, 0, index, flags); \
		return 0;                                                      \
	}
#endif

#endif

#if defined(FOLLOW) || defined(SOCKETS)
#define RETURN(name, most)                                                     \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		call_ends(ctx, PT_REGS_RC(ctx), CALL_OF_RETURN(ctx), most);    \
		return 0;                                                      \
	}
#endif
