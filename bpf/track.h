/* SPDX-License-Identifier: GPL-2.0-only */
/* Keeping the steps of followed packets until they are freed. */

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

/* Where the skb is; false: it has no device. */
static __always_inline bool fill_device(struct device *device, u64 dev)
{
	u32 netns = netns_of_device(dev);

	if (!netns)
		return false;
	__builtin_memset(device, 0, sizeof(*device));
	device->netns = netns;
	device->ifindex = READ(u32, dev, OFF_net_device__ifindex);
	bpf_probe_read_kernel(device->name, sizeof(device->name), (void *)(dev + OFF_net_device__name));
	device->kind = KIND_DEVICE;
	device->slots = sizeof(*device) / SLOT_BYTES;
	return true;
}

/* An skb without a device is at least in the namespace of its socket. */
static __always_inline bool fill_device_of_socket(struct device *device, const struct hit *hit)
{
	u64 sk = READ(u64, hit->skb, OFF_sk_buff__sk);
	u32 netns = netns_of_socket(sk ? sk : (u64)hit->sk);

	if (!netns)
		return false;
	__builtin_memset(device, 0, sizeof(*device));
	device->netns = netns;
	device->kind = KIND_DEVICE;
	device->slots = sizeof(*device) / SLOT_BYTES;
	return true;
}

#ifdef WITH_DETAIL
/* By which the programs that have it open can be found; 0: none has. */
static __always_inline u64 inode_of_socket(const void *sk)
{
	u64 socket = READ(u64, sk, OFF_sock__sk_socket);

	return is_kernel_pointer(socket) ? READ(u64, socket, OFF_socket_alloc__inode - OFF_socket_alloc__socket) : 0;
}

static __always_inline void fill_task(struct detail *detail)
{
	u64 task = bpf_get_current_pid_tgid();

	__builtin_memset(detail, 0, sizeof(*detail));	/* the log is used again after it was sent */
	detail->kind = KIND_DETAIL;
	detail->slots = sizeof(*detail) / SLOT_BYTES;
	detail->cpu = bpf_get_smp_processor_id();
	detail->pid = (u32)task;
	detail->tgid = task >> 32;
	bpf_get_current_comm(detail->comm, sizeof(detail->comm));
}

static __always_inline void fill_detail(struct detail *detail, const struct hit *hit)
{
	u64 sk;

	fill_task(detail);
	detail->mark = READ(u32, hit->skb, OFF_sk_buff__mark);
	detail->length = READ(u32, hit->skb, OFF_sk_buff__len);
	sk = READ(u64, hit->skb, OFF_sk_buff__sk);
	if (!sk)
		sk = (u64)hit->sk;
	if (sk && is_whole_socket((void *)sk))
		detail->socket = inode_of_socket((void *)sk);
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

#ifdef WITH_STACK
static __always_inline void fill_stack(void *ctx, struct stack *stack)
{
	long size = bpf_get_stack(ctx, stack->frames, sizeof(stack->frames), 0);

	stack->unused = 0;
	stack->unused2 = 0;
	stack->bytes = size < 0 ? 0 : size;
	stack->kind = KIND_STACK;
	stack->slots = sizeof(*stack) / SLOT_BYTES;
}
#endif

/* The user is to see nothing more of this skb; it is known until it ends, or was idle for long. */
static __always_inline void retire(struct tracked *t, const struct hit *hit)
{
	t->record.flags |= RECORD_FREED;
	fill_step(&t->log[0], hit, 0);
	t->record.slots = 1;
}

#ifdef COUNT_HITS
static __always_inline void count_hit(const struct hit *hit)
{
	u64 key = (u64)hit->kind << 32 | hit->where, one = 1;
	u64 *value = hits.lookup(&key);

	if (value)
		(*value)++;
	else
		hits.update(&key, &one);
}
#endif

/* Hands over what the log holds, and empties it. */
static __always_inline void send(void *ctx, struct tracked *t, u32 place)
{
#ifndef COUNT_HITS
	u32 slots = log_end(t);

	submit(ctx, &t->record, sizeof(t->record) + slots * SLOT_BYTES, place);
	t->record.slots_before += slots;
	t->record.slots = 0;
#endif
}

/* Tells the headers as they are now; the steps that follow have these. */
static __always_inline void note_headers(struct tracked *t)
{
	u32 slots = log_end(t);

	*(struct packet *)&t->log[slots] = t->now;
	slots += sizeof(t->now) / SLOT_BYTES;
	if (t->inner.kind) {
		*(struct packet *)&t->log[slots] = t->inner;
		slots += sizeof(t->inner) / SLOT_BYTES;
	}
	t->record.slots = slots;
}

static __always_inline void note_device(struct tracked *t)
{
	u32 slots = log_end(t);

	if (!t->device.kind)
		return;
	*(struct device *)&t->log[slots] = t->device;
	t->record.slots = slots + sizeof(t->device) / SLOT_BYTES;
}

static __always_inline void note_step(void *ctx, struct tracked *t, const struct hit *hit)
{
	struct step *step;
	u32 slots = log_end(t);

	step = &t->log[slots];
	fill_step(step, hit, t->steps);
	if (!t->steps)
		t->first_ns = step->time_ns;
	slots++;
#ifdef WITH_DETAIL
	fill_detail((struct detail *)&t->log[slots], hit);
	slots += sizeof(struct detail) / SLOT_BYTES;
#endif
	if (hit->drop_location) {
		fill_drop((struct drop *)&t->log[slots], hit);
		slots += sizeof(struct drop) / SLOT_BYTES;
	}
#ifdef WITH_STACK
	if (hit->flags & STACK) {
		fill_stack(ctx, (struct stack *)&t->log[slots]);
		slots += sizeof(struct stack) / SLOT_BYTES;
	}
#endif
#ifdef WITH_FACTS
	if (hit->facts)
		slots += read_facts(hit, (struct facts *)&t->log[slots]);
#endif
	t->record.slots = slots;
}

#ifdef FOLLOW

/* Whether all of the packet is in this message, and it took less time than the user is interested in. */
static __always_inline bool is_short(const struct tracked *t)
{
#ifdef MIN_LATENCY_NS
	return !t->record.slots_before && !t->record.children && !t->record.calls && !t->record.parent_id &&
	       bpf_ktime_get_ns() - t->first_ns < MIN_LATENCY_NS;
#else
	return false;
#endif
}

/* One hit of a probe. */
static __always_inline void handle(void *ctx, struct hit *hit)
{
	u64 skb = (u64)hit->skb, dev;
	struct tracked *t = find_tracked(skb);
	u32 known = !!t, changed = 0, moved = 0;

	/* Else the compiler asks several questions about t at once, which the verifier refuses. */
	asm volatile("" : "+r"(known));

	if (!known && !(hit->flags & MAY_MATCH))
		return;
	if (locate(hit->skb, &hit->at)) {
		changed = 1;
		if (known) {
			if (!t)
				return;
			if (t->l3 && !hit->at.l3) {
				/*
				 * Headers that were there do not vanish: the skb ended
				 * unseen, as when the free came from an interrupt of a
				 * kprobe's program, and its address is another's now.
				 */
				if (!(t->record.flags & RECORD_FREED)) {
					send(ctx, t, hit->place);
					count(COUNTER_REUSED);
				}
				tracked.delete(&skb);
				if (!(hit->flags & MAY_MATCH))
					return;
				known = 0;
			}
		}
		if (known) {
			if (!t)
				return;
			if (t->record.flags & RECORD_FREED) {
				/* For the user it has ended already, or is not to be seen; so are its clones. */
				if (hit->flags & CLONES)
					call_begins(t, hit, CLONES);
				if (hit->flags & FREES)
					tracked.delete(&skb);
				return;
			}
			changed = !same_headers(&hit->at, t);
		}
		if (changed)
			changed = parse(hit);
	}
	if (!known) {
		if (!changed || !is_wanted(hit))
			return;
		t = add(skb, 0, 0, hit->place);
		if (!t)
			return;
		if (!within_rate()) {
			/* Remembered, so that it is not asked again further on: half a path is none. */
			count(COUNTER_OVER_RATE);
			retire(t, hit);
			return;
		}
		count(COUNTER_MATCHED);
	}
	if (!t)
		return;
#ifdef COUNT_HITS
	count_hit(hit);
#endif
	if (changed) {
		t->l3 = hit->at.l3;
		t->ports_at = hit->ports_at;
		t->now = hit->packet;
		t->inner = hit->inner;
	}
#ifndef COUNT_HITS
	dev = READ(u64, hit->skb, OFF_sk_buff__dev);
	if (dev != t->dev && fill_device(&t->device, dev)) {
		t->dev = dev;
		moved = 1;
	} else if (!known) {
		moved = fill_device_of_socket(&t->device, hit);
	}
	if (t->record.slots >= LOG_SLOTS - HIT_SLOTS) {
		send(ctx, t, hit->place);
		/* Each message tells these again. */
		changed = 1;
		moved = 1;
	}
	if (changed)
		note_headers(t);
	if (moved)
		note_device(t);
	note_step(ctx, t, hit);
#endif
	if (hit->flags & (CLONES | RETURNS))
		call_begins(t, hit, hit->flags);
	t->steps++;
	if (hit->flags & (FREES | ENDS)) {
		if (is_short(t)) {
			count(COUNTER_SHORT);
		} else {
			t->record.flags |= RECORD_FREED;
			send(ctx, t, hit->place);
		}
		count(COUNTER_FREED);
		if (hit->flags & FREES)
			tracked.delete(&skb);
		else
			retire(t, hit);
	}
}

/* No header is there: whatever is seen of the skb is new. */
#define NOWHERE ~0u

/* The new skb inherits the parent's identity, and its headers unless it is one of several pieces. */
static __always_inline void adopt(void *ctx, struct tracked *parent, u64 skb, bool is_piece)
{
	struct tracked *child = find_tracked(skb);

	if (child && !(child->record.flags & RECORD_FREED)) {
		/* Another skb that was at this address ended unseen. */
		send(ctx, child, PLACES);
		count(COUNTER_REUSED);
	}
	child = add(skb, parent->record.packet_id, parent->record.record_id, PLACES);
	if (!child)
		return;
	if (parent->record.flags & RECORD_FREED) {
		child->record.flags |= RECORD_FREED;
		return;
	}
	count(COUNTER_CLONED);
	child->now = parent->now;
	child->inner = parent->inner;
	child->device = parent->device;
	child->dev = parent->dev;
	child->l3 = is_piece ? NOWHERE : parent->l3;
	child->ports_at = parent->ports_at;
#ifndef COUNT_HITS
	note_headers(child);
	note_device(child);
#endif
	parent->record.children++;
}

#elif defined(SOCKETS)
/* Nothing: sockets have a file of their own. */
#else /* each hit by itself */

BPF_PERCPU_ARRAY(scratch, struct tracked_bytes, PLACES);

/* What is known of the packet, once its place was looked for; false: it is none, or not one that can be told of. */
static __always_inline bool read_packet(struct hit *hit)
{
#ifdef DROPS
	struct packet *packet = &hit->packet;

#ifndef UNREAD
	if (!locate(hit->skb, &hit->at))
		return false;
	if (parse(hit))
		return true;
	/* It may be dropped for its broken header. Messages of other sockets are no packets. */
	if (!hit->at.l3 || !hit->at.protocol)
		return false;
#endif
	hit->inner.kind = 0;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->kind = KIND_PACKET;
	packet->slots = sizeof(*packet) / SLOT_BYTES;
	packet->l3_protocol = hit->at.protocol;
	packet->flags = PACKET_UNREAD;
	packet->length = READ(u32, hit->skb, OFF_sk_buff__len);
	return true;
#else
	return locate(hit->skb, &hit->at) && parse(hit);
#endif
}

static __always_inline void handle(void *ctx, struct hit *hit)
{
	struct tracked *t;
	u32 key = hit->place;
	u64 dev;

	if (!read_packet(hit) || !is_wanted(hit))
		return;
#ifdef DROPS
	if (is_normal_free(hit)) {
		count(COUNTER_NORMAL_FREES);
		return;
	}
#endif
	if (!within_rate()) {
		count(COUNTER_OVER_RATE);
		return;
	}
	count(COUNTER_MATCHED);
#if defined(COUNT_HITS)
	count_hit(hit);
#elif defined(COUNT_DROPS)
	count_drop(hit);
#else
	t = (struct tracked *)scratch.lookup(&key);
	if (!t)
		return;
	__builtin_memset(&t->record, 0, sizeof(t->record));
	t->record.record_id = new_id(hit->place);
	t->record.packet_id = t->record.record_id;
	t->record.skb = (u64)hit->skb;
	t->record.flags = RECORD_SINGLE;
	t->now = hit->packet;
	t->inner = hit->inner;
	t->device.kind = 0;
#ifndef UNREAD
	dev = READ(u64, hit->skb, OFF_sk_buff__dev);
	if (!fill_device(&t->device, dev))
		fill_device_of_socket(&t->device, hit);
#endif
	note_headers(t);
	note_device(t);
	note_step(ctx, t, hit);
	send(ctx, t, hit->place);
#endif
}

#endif
