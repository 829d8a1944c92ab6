/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The paths of packets as a tree of steps: packets with the same steps up to one have a node
 * of it in common. A node is known by a hash of its parent's and the step; of a packet only
 * the node where it is and the time of its last step are kept.
 */

#define NO_PARENT 0
#define NO_NODE 2	/* there was no room; the keys of nodes are odd */

struct path_node {
	u64 parent;
	u64 step;	/* kind and place, as in `hits`; 0: another CPU has it */
	u64 drop_location;	/* 0: not a drop */
	u64 drop_reason;
	u64 count;	/* skbs that came here */
	u64 ended;	/* of these, those that went no further */
	struct coarse_histogram times;	/* ns since the parent */
};

struct path_node_bytes {
	u8 bytes[sizeof(struct path_node)] __attribute__((aligned(8)));
};

BPF_TABLE("percpu_hash", u64, struct path_node_bytes, path_nodes, PATH_NODES_MAX);

/* Never written: a new node starts as a copy of it. */
BPF_ARRAY(blank_node, struct path_node_bytes, 1);

/* Multiplying carries each bit up, shifting brings it down: all depend on all. */
static __always_inline u64 mixed(u64 value)
{
	const u64 golden = 0x9E3779B97F4A7C15ULL;	/* 2^64 divided by the golden ratio */

	value *= golden;
	value ^= value >> 32;
	value *= golden;
	value ^= value >> 29;
	return value * golden;
}

/* A step, and what makes it another one at the same place. */
struct path_step {
	u64 step;	/* kind and place, as in `hits` */
	u64 drop_location;	/* 0: not a drop */
	u64 drop_reason;
};

static __always_inline u64 node_key(u64 parent, const struct path_step *step)
{
	u64 key = mixed(mixed(parent) + step->step);

	if (step->drop_location)
		key = mixed(mixed(key + step->drop_location) + step->drop_reason);
	return key | 1;
}

static __always_inline struct path_node *add_node(u64 key, u64 parent, const struct path_step *step)
{
	u32 zero = 0;
	struct path_node_bytes *blank = blank_node.lookup(&zero);
	struct path_node *node;

	if (!blank)
		return NULL;
	path_nodes.insert(&key, blank);	/* unless another CPU was faster */
	node = (struct path_node *)path_nodes.lookup(&key);
	if (!node)
		return NULL;
	node->parent = parent;
	node->drop_location = step->drop_location;
	node->drop_reason = step->drop_reason;
	node->step = step->step;
	return node;
}

/* The skb goes on to a step. */
static __always_inline void go_on(struct tracked *t, const struct path_step *step, u64 time_ns, bool ends)
{
	u64 parent = t->node, key = node_key(parent, step);
	struct path_node *node = NULL;

	if (parent != NO_NODE) {
		node = (struct path_node *)path_nodes.lookup(&key);
		if (!node)
			node = add_node(key, parent, step);
	}
	if (node) {
		/* An interrupt may count in between. */
		__sync_fetch_and_add(&node->count, 1);
		if (ends)
			__sync_fetch_and_add(&node->ended, 1);
		if (parent != NO_PARENT)
			coarse_histogram_add(&node->times, time_ns - t->last.time_ns);
		t->node = key;
	} else {
		count(COUNTER_STEPS_LOST);
		t->node = NO_NODE;
	}
	t->last.time_ns = time_ns;
}

static __always_inline void begin(struct tracked *t, const struct hit *hit)
{
	t->node = NO_PARENT;
}

static __always_inline void note(struct tracked *t, const struct hit *hit, const struct step *next)
{
	struct path_step step = { .step = (u64)hit->kind << 32 | hit->where };

	if (hit->drop_location) {
		step.drop_location = hit->drop_location;
		step.drop_reason = hit->drop_reason;
	}
	go_on(t, &step, next->time_ns, hit->flags & (FREES | ENDS));
}

/*
 * Most hits are steps of packets that are followed already, and nothing else: they are counted at once, without
 * what looks at packets. True: that is all, or there is nothing to do.
 */
static __always_inline bool passes(u64 skb, u16 flags, u8 kind, u32 where)
{
	struct path_step step = { .step = (u64)kind << 32 | where };
	struct tracked *t;

	if (flags & ~(MAY_MATCH | POINT))
		return false;
	t = find_tracked(skb);
	if (!t)
		return !(flags & MAY_MATCH);
	/* Where packets are matched, that its headers are gone tells that it is another one: see handle(). */
	if (!t->l3 || (flags & MAY_MATCH && !has_headers((void *)skb)))
		return false;
	if (!(t->record.flags & RECORD_FREED))
		go_on(t, &step, bpf_ktime_get_ns(), false);
	return true;
}

static __always_inline void settle(struct tracked *t, const struct hit *hit)
{
}

static __always_inline void inherit(struct tracked *child, const struct tracked *parent)
{
	child->node = parent->node;
}

static __always_inline void tell(void *ctx, struct tracked *t, u32 place)
{
	count(COUNTER_MEASURED);
}
