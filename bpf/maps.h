/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps, and the one way out to user space.
 *
 * Before this file come, as numbers: the offsets of the running kernel's structs
 * (OFF_*), its features (HAVE_*), the filter (FILTER_*) and the wire layout.
 */

/* More than the slots that one hit can need: new headers, step, detail, drop. */
#define HIT_SLOTS 16


/* A followed skb: the message that is growing, then what only the kernel needs. */
struct tracked {
	struct record record;
	struct step log[LOG_SLOTS + HIT_SLOTS];
	struct packet now;	/* the headers as last seen */
	u32 l3;			/* where in the buffer they were; 0: they came from the socket */
	u32 ports_at;		/* likewise the ports; 0: there are none to compare */
};

/* What a probe is for. */
#define MAY_MATCH (1 << 0)	/* a packet that nobody follows yet can be taken up */
#define FREES (1 << 1)		/* the skb ends here */
#define CLONES (1 << 2)		/* the function makes new skbs of this one */

/* What a probe knows about its hit. */
struct hit {
	u64 context;		/* whose hit it is, while it waits for the work; 0: nobody's */
	void *skb;
	void *sk;		/* NULL: the probe has no socket argument */
	u64 drop_location;	/* 0: not a drop */
	u32 drop_reason;
	u32 where;
	u64 call;		/* CLONES: the stack pointer of the call */
	u32 place;
	u8 kind;		/* KIND_STEP, KIND_STEP_TRACEPOINT */
	u8 flags;
};

struct clone_call {
	u64 parent_skb;
	u64 parent_id;		/* the record, as the address may be another skb's by the return */
};

/*
 * The same as plain bytes. BCC compiles, for the host, code that prints and reads
 * every member of every element of a map's values: of the log that would take as
 * long as all the programs.
 */
struct tracked_bytes {
	u8 bytes[sizeof(struct tracked)] __attribute__((aligned(8)));
};

BPF_TABLE("lru_hash", u64, struct tracked_bytes, tracked, TRACKED_MAX);

/* Never written: a new entry starts as a copy of it. */
BPF_ARRAY(blank, struct tracked_bytes, 1);

static __always_inline struct tracked *find_tracked(u64 skb)
{
	return (struct tracked *)tracked.lookup(&skb);
}

/*
 * Calls under way of functions that make new skbs, by the stack pointer of the
 * call: a task, a softirq and a hard interrupt that nest on one CPU, or the idle
 * tasks of several CPUs, which share one pid, cannot be mistaken for each other.
 */
BPF_TABLE("lru_hash", u64, struct clone_call, clone_calls, 4096);

/*
 * What a stub hands to the program that does the work, so that the work is compiled
 * once and not into every stub: they are many, and LLVM is slow. Another hit may come
 * between the two, from an interrupt or, where tracepoints can be preempted, another
 * task: whose place is whose is told by the address of the context.
 */
BPF_PERCPU_ARRAY(handed_over, struct hit, PLACES);
BPF_PROG_ARRAY(kprobe_work, 1);
BPF_PROG_ARRAY(tracepoint_work, 1);

BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

/* Not 0 once the run is ending: no further packet is taken up. */
BPF_ARRAY(ending, u32, 1);

#ifdef USE_RINGBUF
BPF_RINGBUF_OUTPUT(messages, RINGBUF_PAGES);
#else
BPF_PERF_OUTPUT(messages);
#endif

static __always_inline bool is_ending(void)
{
	u32 zero = 0;
	u32 *value = ending.lookup(&zero);

	return value && *value;
}

/* Counts for the summary, right also when an interrupt counts in between. */
static __always_inline void count(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/* The next number of a counter that only one program at a time goes by. */
static __always_inline u64 next_number(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	return value ? (*value)++ : 0;
}

/*
 * A number that no other call in this run returns, never 0. Each place on each CPU
 * numbers for itself, and so do the returns of kprobes, which have no place.
 */
static __always_inline u64 new_id(u32 place)
{
	u64 cpu = bpf_get_smp_processor_id();

	return (next_number(COUNTER_IDS_0 + place) + 1) << 16 | place << 14 | cpu;
}

/* Sends a message; size is that of the header and its slots. */
static __always_inline void submit(void *ctx, struct record *record, u32 size, u32 place)
{
	int failed;

	record->cpu = bpf_get_smp_processor_id();
	record->place = place;
	record->sequence = next_number(COUNTER_MESSAGES_0 + place);
#ifdef USE_RINGBUF
	failed = messages.ringbuf_output(record, size, 0);
#else
	failed = messages.perf_submit(ctx, record, size);
#endif
	if (!failed) {
		record->flags |= RECORD_DELIVERED;
		return;
	}
	count(COUNTER_LOST_MESSAGES);
	if (record->flags & (RECORD_FREED | RECORD_SINGLE) && !(record->flags & RECORD_DELIVERED) &&
	    !record->parent_id)
		count(COUNTER_LOST_PACKETS);
}
