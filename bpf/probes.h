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

static __always_inline struct hit *place_of(u64 context)
{
	struct hit *place;
	u32 first = 0, second = 1, third = 2;

	place = handed_over.lookup(&first);
	if (place && place->context != context)
		place = handed_over.lookup(&second);
	if (place && place->context != context)
		place = handed_over.lookup(&third);
	return place && place->context == context ? place : NULL;
}

/*
 * The stub's half: leaves the hit for the worker, unless there is nothing to do;
 * most hits are of packets that nobody follows.
 */
static __always_inline struct hit *leave(void *ctx, u64 skb, u8 flags)
{
	struct hit *place;

#ifdef FOLLOW
	if (!(flags & MAY_MATCH) && !tracked.lookup(&skb))
		return NULL;
#endif
	place = place_of(0);
	if (!place) {
		count(COUNTER_MISSED, 1);
		return NULL;
	}
	place->context = (u64)ctx;
	place->skb = (void *)skb;
	place->flags = flags;
	return place;
}

/* The worker's half. */
static __always_inline bool take(void *ctx, struct hit *hit)
{
	struct hit *place = place_of((u64)ctx);

	if (!place)
		return false;
	hit->skb = place->skb;
	hit->flags = place->flags;
	hit->sk = place->sk;
	hit->where = place->where;
	hit->drop_location = place->drop_location;
	hit->drop_reason = place->drop_reason;
	place->context = 0;
	return true;
}

int work_of_kprobe(struct pt_regs *ctx)
{
	struct hit hit = {};

	if (!take(ctx, &hit))
		return 0;
	hit.where = (u32)PT_REGS_IP(ctx);
	hit.kind = KIND_STEP;
	hit.id_counter = COUNTER_KPROBE_IDS;
	hit.call = CALL_OF_ENTRY(ctx);
	hit.drop_location = 0;
	handle(ctx, &hit);
	return 0;
}

int work_of_tracepoint(struct bpf_raw_tracepoint_args *ctx)
{
	struct hit hit = {};

	if (!take(ctx, &hit))
		return 0;
	hit.kind = KIND_STEP_TRACEPOINT;
	hit.id_counter = COUNTER_TRACEPOINT_IDS;
	hit.sk = NULL;
	handle(ctx, &hit);
	return 0;
}

/* Do not return, unless the worker is missing. BCC wants these calls outside of macros. */
static __always_inline void call_work_of_kprobe(struct pt_regs *ctx, struct hit *place)
{
	kprobe_work.call(ctx, 0);
	place->context = 0;
}

static __always_inline void call_work_of_tracepoint(struct bpf_raw_tracepoint_args *ctx, struct hit *place)
{
	tracepoint_work.call(ctx, 0);
	place->context = 0;
}

/* skb_from: DIRECT or FIRST_MEMBER; sk_arg: a number, or none. */
#define KPROBE(name, skb_from, skb_arg, sk_arg, flags)                         \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		struct hit *place = leave(ctx, (u64)skb_from(ARG_##skb_arg(ctx)), flags); \
									       \
		if (place) {                                                   \
			place->sk = (void *)ARG_##sk_arg(ctx);                 \
			call_work_of_kprobe(ctx, place);                       \
		}                                                              \
		return 0;                                                      \
	}

#define TRACEPOINT(name, skb_arg, index, flags)                                \
	int name(struct bpf_raw_tracepoint_args *ctx)                          \
	{                                                                      \
		struct hit *place = leave(ctx, ctx->args[skb_arg], flags);     \
									       \
		if (place) {                                                   \
			place->where = index;                                  \
			place->drop_location = 0;                              \
			call_work_of_tracepoint(ctx, place);                   \
		}                                                              \
		return 0;                                                      \
	}

/* reason_arg: 0, which is the skb, where the kernel gives no reason. */
#define DROP_TRACEPOINT(name, skb_arg, location_arg, reason_arg, index, flags) \
	int name(struct bpf_raw_tracepoint_args *ctx)                          \
	{                                                                      \
		struct hit *place = leave(ctx, ctx->args[skb_arg], flags);     \
									       \
		if (place) {                                                   \
			place->where = index;                                  \
			place->drop_location = ctx->args[location_arg];        \
			place->drop_reason = reason_arg ? (u32)ctx->args[reason_arg] : NO_REASON; \
			call_work_of_tracepoint(ctx, place);                   \
		}                                                              \
		return 0;                                                      \
	}

#ifdef FOLLOW
#define CLONE_RETURN(name, most)                                               \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		clone_ends(PT_REGS_RC(ctx), CALL_OF_RETURN(ctx), most);        \
		return 0;                                                      \
	}
#endif
