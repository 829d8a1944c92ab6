/* SPDX-License-Identifier: GPL-2.0-only */
/* What the hits of probes add to a message. */

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
#ifdef MONITOR
	if (hit->is_gone) {
		detail->mark = hit->mark;
		detail->length = hit->packet.length;
		return;
	}
#endif
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

#ifdef MONITOR
/* Whether or not it will be told. */
static __always_inline void count_trouble(const struct hit *hit)
{
	count_hit(hit);
	if (hit->drop_location)
		count_drop(hit);
}
#endif

/* Hands over what the log holds, and empties it. */
static __always_inline void send(void *ctx, struct tracked *t, u32 place)
{
#ifndef ONLY_COUNT
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

static __always_inline void note_step(void *ctx, struct tracked *t, struct hit *hit)
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
		slots += read_facts(hit, hit->facts, (struct facts *)&t->log[slots]);
#endif
#ifdef MONITOR
	if (hit->flags & RETURNS) {
		fill_return((struct return_ *)&t->log[slots], hit->returned, t->steps);
		slots += sizeof(struct return_) / SLOT_BYTES;
	}
#endif
#ifdef WITH_BYTES
	if (hit->flags & BYTES)
		slots += fill_bytes((struct bytes *)&t->log[slots], hit->skb, &hit->at);
#endif
	t->record.slots = slots;
}
