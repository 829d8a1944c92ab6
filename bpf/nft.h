/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * nftables: which rule gives a verdict. The kernel hands an expression its own data and
 * the registers, not the rule it is part of. So the chains that a followed packet is in
 * are remembered, and the one that holds the expression is searched for its rule.
 */

#ifdef WITH_NFT

/* include/uapi/linux/netfilter/nf_tables.h */
#define NFT_REG_VERDICT 0
#define NFT_CONTINUE -1
#define NFT_BREAK -2
#define NFT_JUMP -3
#define NFT_GOTO -4

/* More than a base chain and NFT_JUMP_STACK_SIZE jumps from it. */
#define NFT_CHAINS 32
/*
 * Of longer chains, rules further on are not found: their handle is told as 0. The
 * verifier goes through all rounds of a loop, and its work grows with their square.
 */
#define NFT_RULES_MAX 1024

/* What the facts of a verdict are read from, beyond the arguments of the function (NFT_PARAMS in nettrace/plan.py). */
#define NFT_ARGUMENT_CHAIN 3
#define NFT_ARGUMENT_RULE 4
#define NFT_ARGUMENT_VERDICT 5

/* The chains that a packet is in: the base chain, then those that it jumped to. */
struct nft_path {
	u64 chains[NFT_CHAINS];
	u32 depth;
	u32 unused;
};

/* An expression at work, whose verdict is known when it returns. */
struct nft_call {
	u64 skb;
	u64 expr;
	u64 regs;
	u32 where;
	u32 unused;
};

BPF_TABLE("lru_hash", u64, struct nft_path, nft_paths, 4096);
BPF_TABLE("lru_hash", u64, struct nft_call, nft_calls, 1024);

/*
 * Where a chain of the path is. The bound is always so, but the verifier must be told,
 * and the compiler be kept from concluding that it need not be.
 */
static __always_inline u64 *nft_chain_at(struct nft_path *path, u32 place)
{
	asm volatile("" : "+r"(place));
	return &path->chains[place & (NFT_CHAINS - 1)];
}

/* A packet enters a base chain. */
static __always_inline void nft_enter(u64 skb, u64 chain)
{
	struct nft_path path = {};

	path.chains[0] = chain;
	path.depth = 1;
	nft_paths.update(&skb, &path);
}

/* How long a rule is, with its header. */
static __always_inline u32 nft_rule_bytes(u64 rule)
{
	return OFF_nft_rule__data +
	       (READ(u16, rule, OFF_nft_rule__dlen) >> SHIFT_nft_rule__dlen & MASK_nft_rule__dlen);
}

#ifdef OFF_nft_rule_blob__size

/* Whether the expression lies in one of the two generations of the chain's rules; where these begin, or 0. */
static __always_inline u64 nft_rules_with(u64 chain, u64 expr)
{
	u64 rules = READ(u64, chain, OFF_nft_chain__blob_gen_0) + OFF_nft_rule_blob__data;

	if (expr - rules < READ(u64, rules - OFF_nft_rule_blob__data, OFF_nft_rule_blob__size))
		return rules;
	rules = READ(u64, chain, OFF_nft_chain__blob_gen_1) + OFF_nft_rule_blob__data;
	if (expr - rules < READ(u64, rules - OFF_nft_rule_blob__data, OFF_nft_rule_blob__size))
		return rules;
	return 0;
}

/* The rule that holds the expression, 0 if it is not found; the packet has left the chains behind the rule's. */
static __always_inline u64 nft_find(struct nft_path *path, u64 expr)
{
	u64 rule = 0, end;
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < NFT_CHAINS; i++) {
		if (!path->depth || path->depth > NFT_CHAINS)
			return 0;
		rule = nft_rules_with(*nft_chain_at(path, path->depth - 1), expr);
		if (rule)
			break;
		path->depth--;
	}
	if (!rule)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < NFT_RULES_MAX; i++) {
		end = rule + nft_rule_bytes(rule);
		if (expr < end)
			return rule;
		rule = end;
	}
	return 0;
}

#else /* before Linux commit 2c865a8a28a1 (5.17): an array of pointers to rules */

static __always_inline u64 nft_find(struct nft_path *path, u64 expr)
{
	u64 rules = 0, rule;
	u32 i, second = 0;

#pragma clang loop unroll(disable)
	for (i = 0; i < NFT_RULES_MAX; i++) {
		if (!path->depth || path->depth > NFT_CHAINS)
			return 0;
		if (!rules)
			rules = READ(u64, *nft_chain_at(path, path->depth - 1),
				     second ? OFF_nft_chain__rules_gen_1 : OFF_nft_chain__rules_gen_0);
		rule = READ(u64, rules, 0);
		rules += sizeof(u64);
		if (!rule) {
			rules = 0;
			if (second)
				path->depth--;
			second = !second;
			continue;
		}
		/* Most are elsewhere altogether: it need not be read how long they are. */
		if (expr - rule < OFF_nft_rule__data + MASK_nft_rule__dlen && expr - rule < nft_rule_bytes(rule))
			return rule;
	}
	return 0;
}

#endif

/* A verdict is given, by an expression of this packet: the facts of it, and where the packet goes next. */
static __always_inline void nft_tell(struct pt_regs *ctx, u64 skb, u64 expr, u64 verdict, u32 where, u64 call,
				     u16 flags, u8 facts)
{
	struct nft_path *path;
	struct hit *place = leave(ctx, skb, flags, KIND_STEP, where);
	u64 chain = 0, rule = 0;
	s32 code;

	if (!place)
		return;
	path = nft_paths.lookup(&skb);
	if (path) {
		rule = nft_find(path, expr);
		code = READ(s32, verdict, OFF_nft_verdict__code);
		if (path->depth && path->depth <= NFT_CHAINS) {
			chain = *nft_chain_at(path, path->depth - 1);
			if (code == NFT_GOTO)
				path->depth--;
		}
		if ((code == NFT_JUMP || code == NFT_GOTO) && path->depth < NFT_CHAINS) {
			*nft_chain_at(path, path->depth) = READ(u64, verdict, OFF_nft_verdict__chain);
			path->depth++;
		}
	}
#ifdef WITH_FACTS
	place->facts = facts;
	place->arguments[NFT_ARGUMENT_CHAIN] = chain;
	place->arguments[NFT_ARGUMENT_RULE] = rule;
	place->arguments[NFT_ARGUMENT_VERDICT] = verdict;
#endif
	place->sk = NULL;
	place->call = call;
	place->drop_location = 0;
	kprobe_work.call(ctx, 0);
	place->context = 0;
}

/* An immediate value is a verdict if it goes to the register of these. */
static __always_inline void nft_immediate(struct pt_regs *ctx, u16 flags, u8 facts)
{
	u64 expr = ARG_0(ctx), skb = READ(u64, ARG_2(ctx), OFF_nft_pktinfo__skb);
	u64 private = expr + OFF_nft_expr__data;

	if (READ(u8, private, OFF_nft_immediate_expr__dreg) == NFT_REG_VERDICT)
		nft_tell(ctx, skb, expr, private + OFF_nft_immediate_expr__data, (u32)PT_REGS_IP(ctx),
			 CALL_OF_ENTRY(ctx), flags, facts);
}

/* The function of an expression begins, whose verdict, if it gives one, is known at the end. */
static __always_inline void nft_call_begins(struct pt_regs *ctx, u16 flags)
{
	u64 skb = READ(u64, ARG_2(ctx), OFF_nft_pktinfo__skb), key = CALL_OF_ENTRY(ctx);
	struct nft_call call = {};

#ifdef FOLLOW
	if (!(flags & MAY_MATCH) && !find_tracked(skb))
		return;
#endif
	call.skb = skb;
	call.expr = ARG_0(ctx);
	call.regs = ARG_1(ctx);
	call.where = (u32)PT_REGS_IP(ctx);
	nft_calls.update(&key, &call);
}

static __always_inline void nft_call_ends(struct pt_regs *ctx, u16 flags, u8 facts)
{
	u64 key = CALL_OF_RETURN(ctx);
	struct nft_call call, *under_way = nft_calls.lookup(&key);
	s32 code;

	if (!under_way)
		return;
	call = *under_way;
	nft_calls.delete(&key);
	/* The registers begin with that of the verdict. */
	code = READ(s32, call.regs, OFF_nft_verdict__code);
	if (code != NFT_CONTINUE && code != NFT_BREAK)
		nft_tell(ctx, call.skb, call.expr, call.regs, call.where, key, flags, facts);
}

#define NFT_CHAIN(name, flags, facts)                                          \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		u64 skb = READ(u64, ARG_0(ctx), OFF_nft_pktinfo__skb);         \
		struct hit *place = leave(ctx, skb, flags, KIND_STEP, PT_REGS_IP(ctx)); \
									       \
		if (place) {                                                   \
			nft_enter(skb, ARG_1(ctx));                            \
			hand_over_call(ctx, place, 0, facts);                  \
		}                                                              \
		return 0;                                                      \
	}

#define NFT_VERDICT(name, flags, facts)                                        \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		nft_immediate(ctx, flags, facts);                              \
		return 0;                                                      \
	}

#define NFT_EVAL(name, flags)                                                  \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		nft_call_begins(ctx, flags);                                   \
		return 0;                                                      \
	}

#define NFT_EVAL_RETURN(name, flags, facts)                                    \
	int name(struct pt_regs *ctx)                                          \
	{                                                                      \
		nft_call_ends(ctx, flags, facts);                              \
		return 0;                                                      \
	}

#endif
