/* SPDX-License-Identifier: GPL-2.0-only */
/* Following packets: matching the first time, then keeping their steps until they are freed. */

/*
 * Where the log of an entry ends so far. The bound is always so: handle() sends
 * the log before it can overflow. But the verifier must be told, and the
 * compiler be kept from concluding that it need not be.
 */
static __always_inline u32 log_end(const struct tracked *t)
{
	u32 slots = t->record.slots;

	asm volatile("" : "+r"(slots));
	return slots & (LOG_SLOTS - 1);
}

static __always_inline bool is_kernel_pointer(u64 value)
{
	return (s64)value < 0;
}

static __always_inline void fill_step(struct step *step, const struct hit *hit)
{
	step->time_ns = bpf_ktime_get_ns();
	step->unused = 0;
	step->where = hit->where;
	step->kind = hit->kind;
	step->slots = 1;
}

#ifdef WITH_DETAIL
static __always_inline void fill_detail(struct detail *detail, const struct hit *hit)
{
	void *dev = READ(void *, hit->skb, OFF_sk_buff__dev);
	void *sk = READ(void *, hit->skb, OFF_sk_buff__sk);
	void *net = NULL;

	__builtin_memset(detail, 0, sizeof(*detail));	/* the log is used again after it was sent */
	detail->kind = KIND_DETAIL;
	detail->slots = sizeof(*detail) / SLOT_BYTES;
	detail->cpu = bpf_get_smp_processor_id();
	detail->pid = (u32)bpf_get_current_pid_tgid();
	bpf_get_current_comm(detail->comm, sizeof(detail->comm));
	/*
	 * skb->dev shares its place with a node of TCP's queues and with what UDP
	 * keeps there while a packet waits to be read: believe it only if it leads
	 * to a network namespace (inode numbers of /proc begin at 0xf0000000).
	 */
	if (is_kernel_pointer((u64)dev)) {
		net = READ(void *, dev, OFF_net_device__nd_net);
		if (is_kernel_pointer((u64)net))
			detail->netns = READ(u32, net, OFF_net__ns_inum);
		if (detail->netns >> 28 == 0xf) {
			detail->ifindex = READ(u32, dev, OFF_net_device__ifindex);
			bpf_probe_read_kernel(detail->ifname, sizeof(detail->ifname),
					      (void *)((u64)dev + OFF_net_device__name));
			return;
		}
		detail->netns = 0;
	}
	if (!sk)
		sk = hit->sk;
	if (sk) {
		net = READ(void *, sk, OFF_sock__skc_net);
		detail->netns = READ(u32, net, OFF_net__ns_inum);
	}
}
#endif

static __always_inline void fill_drop(struct drop *drop, const struct hit *hit)
{
	drop->location = hit->drop_location;
	drop->reason = hit->drop_reason;
	drop->unused = 0;
	drop->kind = KIND_DROP;
	drop->slots = sizeof(*drop) / SLOT_BYTES;
}

#ifdef FOLLOW

static __always_inline void send(void *ctx, struct tracked *t, u32 place)
{
	u32 slots = log_end(t);

	submit(ctx, &t->record, sizeof(t->record) + slots * SLOT_BYTES, place);
	t->record.slots_before += slots;
	t->record.slots = 0;
}

/* Tells the headers as they are now; the steps that follow have these. */
static __always_inline void note_headers(struct tracked *t)
{
	u32 slots = log_end(t);

	*(struct packet *)&t->log[slots] = t->now;
	t->record.slots = slots + sizeof(t->now) / SLOT_BYTES;
}

/* A new entry for an skb, holding its headers and no step yet. */
static __always_inline struct tracked *add(u64 skb, const struct packet *packet, u64 packet_id, u64 parent_id,
					   u32 place)
{
	u32 zero = 0;
	struct tracked_bytes *empty = blank.lookup(&zero);
	struct tracked *t;

	if (!empty)
		return NULL;
	if (tracked.update(&skb, empty)) {
		count(COUNTER_UNTRACKED);
		return NULL;
	}
	t = find_tracked(skb);
	if (!t)
		return NULL;
	t->now = *packet;
	t->record.record_id = new_id(place);
	t->record.packet_id = packet_id ? packet_id : t->record.record_id;
	t->record.parent_id = parent_id;
	t->record.skb = skb;
	note_headers(t);
	count(packet_id ? COUNTER_CLONED : COUNTER_MATCHED);
	return t;
}

static __always_inline void note_step(struct tracked *t, const struct hit *hit)
{
	u32 slots = log_end(t);

	fill_step(&t->log[slots], hit);
	slots++;
#ifdef WITH_DETAIL
	fill_detail((struct detail *)&t->log[slots], hit);
	slots += sizeof(struct detail) / SLOT_BYTES;
#endif
	if (hit->drop_location) {
		fill_drop((struct drop *)&t->log[slots], hit);
		slots += sizeof(struct drop) / SLOT_BYTES;
	}
	t->record.slots = slots;
}

/* A function that makes new skbs of this one begins. */
static __always_inline void clone_begins(const struct tracked *t, const struct hit *hit)
{
	struct clone_call under_way = {};
	u64 call = hit->call;

	under_way.parent_skb = (u64)hit->skb;
	under_way.parent_id = t->record.record_id;
	clone_calls.update(&call, &under_way);
}

/* One hit of a probe. */
static __always_inline void handle(void *ctx, const struct hit *hit)
{
	u64 skb = (u64)hit->skb;
	struct tracked *t = find_tracked(skb);
	struct packet packet = {};
	struct place place = {};
	u32 known = !!t, changed = 0, ports_at = 0;

	/* Else the compiler asks several questions about t at once, which the verifier refuses. */
	asm volatile("" : "+r"(known));

	if (!known && !(hit->flags & MAY_MATCH))
		return;
	if (locate(hit->skb, &place)) {
		changed = 1;
		if (known) {
			if (!t)
				return;
			if (t->l3 && !place.l3) {
				/*
				 * Headers that were there do not vanish: the skb ended
				 * unseen, as when the free came from an interrupt of a
				 * kprobe's program, and its address is another's now.
				 */
				send(ctx, t, hit->place);
				tracked.delete(&skb);
				count(COUNTER_REUSED);
				if (!(hit->flags & MAY_MATCH))
					return;
				known = 0;
			}
		}
		if (known) {
			if (!t)
				return;
			changed = !same_headers(&place, t);
		}
		if (changed)
			changed = parse(hit->skb, hit->sk, &place, &packet, &ports_at);
		if (changed)
			complete(hit->skb, &place, &packet);
	}
	if (!known) {
		if (!changed || !packet_matches(&packet) || is_ending())
			return;
		t = add(skb, &packet, 0, 0, hit->place);
	}
	if (!t)
		return;
	if (changed) {
		t->l3 = place.l3;
		t->ports_at = ports_at;
		t->now = packet;
	}
	if (t->record.slots >= LOG_SLOTS - HIT_SLOTS) {
		send(ctx, t, hit->place);
		changed = 1;	/* each message tells the headers again */
	}
	if (changed && known)
		note_headers(t);
	note_step(t, hit);
	if (hit->flags & CLONES)
		clone_begins(t, hit);
	if (hit->flags & FREES) {
		t->record.flags |= RECORD_FREED;
		count(COUNTER_FREED);
		send(ctx, t, hit->place);
		tracked.delete(&skb);
	}
}

/* The new skb inherits the parent's identity. */
static __always_inline void adopt(struct tracked *parent, u64 skb)
{
	struct packet packet = parent->now;
	struct tracked *child;

	child = add(skb, &packet, parent->record.packet_id, parent->record.record_id, PLACES);
	if (!child)
		return;
	child->l3 = parent->l3;
	child->ports_at = parent->ports_at;
	parent->record.children++;
}

/* The function returned one skb, or a list of them linked by ->next. */
static __always_inline void clone_ends(u64 skb, u64 call, const u32 most)
{
	struct clone_call *under_way = clone_calls.lookup(&call);
	struct tracked *parent;
	u64 parent_skb, parent_id;
	u32 i;

	if (!under_way)
		return;
	parent_skb = under_way->parent_skb;
	parent_id = under_way->parent_id;
	clone_calls.delete(&call);
	parent = find_tracked(parent_skb);
	if (!parent || parent->record.record_id != parent_id)
		return;
	for (i = 0; i < most; i++) {
		/* NULL, or an error as a pointer. */
		if (!is_kernel_pointer(skb) || skb >= (u64)-4095)
			break;
		if (skb != parent_skb)
			adopt(parent, skb);
		if (most > 1)
			skb = READ(u64, skb, OFF_sk_buff__next);
	}
}

#else /* each hit by itself */

static __always_inline void handle(void *ctx, const struct hit *hit)
{
	struct {
		struct record record;
		struct packet packet;
		struct step step;
#ifdef WITH_DETAIL
		struct detail detail;
#endif
		struct drop drop;
	} message = {};
	u32 size = sizeof(message), ports_at;
	struct place place;

	if (!locate(hit->skb, &place))
		return;
	if (!parse(hit->skb, hit->sk, &place, &message.packet, &ports_at) || !packet_matches(&message.packet) ||
	    is_ending())
		return;
	complete(hit->skb, &place, &message.packet);
	fill_step(&message.step, hit);
#ifdef WITH_DETAIL
	fill_detail(&message.detail, hit);
#endif
	if (hit->drop_location)
		fill_drop(&message.drop, hit);
	else
		size -= sizeof(message.drop);
	message.record.record_id = new_id(hit->place);
	message.record.packet_id = message.record.record_id;
	message.record.skb = (u64)hit->skb;
	message.record.flags = RECORD_SINGLE;
	message.record.slots = (size - sizeof(message.record)) / SLOT_BYTES;
	count(COUNTER_MATCHED);
	submit(ctx, &message.record, size, hit->place);
}

#endif
