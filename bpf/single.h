/* SPDX-License-Identifier: GPL-2.0-only */
/* Hits that stand for themselves: each is a message of its own. */

BPF_PERCPU_ARRAY(scratch, struct tracked_bytes, PLACES);

/* The message of a hit, about this skb or socket, with the headers that were found; NULL: there is no room for it. */
static __always_inline struct tracked *begin_message(const struct hit *hit, const void *about)
{
	u32 key = hit->place;
	struct tracked *t = (struct tracked *)scratch.lookup(&key);

	if (!t)
		return NULL;
	__builtin_memset(&t->record, 0, sizeof(t->record));
	t->record.record_id = new_id(hit->place);
	t->record.packet_id = t->record.record_id;
	t->record.skb = (u64)about;
	t->record.flags = RECORD_SINGLE;
	t->now = hit->packet;
	t->inner = hit->inner;
	t->device.kind = 0;
	return t;
}

#ifndef SOCKETS

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

static __always_inline void tell_packet(void *ctx, struct hit *hit, const struct device *device)
{
	struct tracked *t;

#ifdef MONITOR
	count_trouble(hit);
	if (hit->drop_location && reason_is_harmless(hit->drop_reason))
		return;
#endif
	if (!is_admitted())
		return;
#ifndef ONLY_COUNT
	t = begin_message(hit, hit->skb);
	if (!t)
		return;
	if (device)
		t->device = *device;
#ifndef UNREAD
	else if (!fill_device(&t->device, READ(u64, hit->skb, OFF_sk_buff__dev)))
		fill_device_of_socket(&t->device, hit);
#endif
	note_headers(t);
	note_device(t);
	note_step(ctx, t, hit);
	send(ctx, t, hit->place);
#elif defined(MONITOR)
	/* It was counted above. */
#elif defined(COUNT_DROPS)
	count_drop(hit);
#else
	count_hit(hit);
#endif
}

#ifdef MONITOR

/* The packet that this CPU dropped last: some functions tell of it when it is gone. */
struct dropped {
	u64 skb;
	struct packet packet;
	struct packet inner;
	struct device device;
	u32 mark;
	u32 unused;
};

struct dropped_bytes {
	u8 bytes[sizeof(struct dropped)] __attribute__((aligned(8)));
};

BPF_PERCPU_ARRAY(last_dropped, struct dropped_bytes, 1);

static __always_inline struct dropped *find_dropped(void)
{
	u32 zero = 0;

	return (struct dropped *)last_dropped.lookup(&zero);
}

static __always_inline void remember_dropped(const struct hit *hit)
{
	struct dropped *dropped = find_dropped();

	if (!dropped)
		return;
	dropped->skb = (u64)hit->skb;
	dropped->packet = hit->packet;
	dropped->inner = hit->inner;
	dropped->device.kind = 0;
	fill_device(&dropped->device, READ(u64, hit->skb, OFF_sk_buff__dev));
	dropped->mark = READ(u32, hit->skb, OFF_sk_buff__mark);
}

/* A hit of a function that has freed its packet; one that the user does not want to see was not remembered. */
static __always_inline const struct device *recall_dropped(struct hit *hit)
{
	struct dropped *dropped = find_dropped();

	if (!dropped || dropped->skb != (u64)hit->skb)
		return NULL;
	hit->packet = dropped->packet;
	hit->inner = dropped->inner;
	hit->mark = dropped->mark;
	return &dropped->device;
}

#endif

static __always_inline void handle_packet(void *ctx, struct hit *hit)
{
	const struct device *device = NULL;

#ifdef MONITOR
	if (hit->is_gone) {
		device = recall_dropped(hit);
		if (!device)
			return;
	}
#endif
	if (!device && (!read_packet(hit) || !is_wanted(hit)))
		return;
#ifdef DROPS
	if (hit->drop_location && is_normal_free(hit)) {
		count(COUNTER_NORMAL_FREES);
		return;
	}
#endif
#ifdef MONITOR
	if (hit->drop_location)
		remember_dropped(hit);
#endif
#ifdef MEASURE_TRANSIT
	if (hit->begins) {
		transit_begins(hit);
		return;
	}
#endif
	tell_packet(ctx, hit, device);
}

#endif
