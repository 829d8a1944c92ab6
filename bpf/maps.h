/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps, and the one way out to user space.
 *
 * Before this file come, as numbers: the offsets of the running kernel's structs
 * (OFF_*), its features (HAVE_*), the filter (FILTER_*) and the wire layout.
 */

/* More than the slots that one hit can need: new headers, step, detail, drop. */
#define HIT_SLOTS 16

#define PLACES 3

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
	u32 id_counter;
	u8 kind;		/* KIND_STEP, KIND_STEP_TRACEPOINT */
	u8 flags;
};

struct clone_call {
	u64 parent_skb;
	u64 parent_id;		/* the record, as the address may be another skb's by the return */
};

BPF_TABLE("lru_hash", u64, struct tracked, tracked, TRACKED_MAX);

/* Never written: a new entry starts as a copy of it. */
BPF_ARRAY(blank, struct tracked, 1);

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

/* Adds to a counter of this CPU and returns what it was. */
static __always_inline u64 count(u32 counter, u64 add)
{
	u64 *value = counters.lookup(&counter);
	u64 before;

	if (!value)
		return 0;
	before = *value;
	*value = before + add;
	return before;
}

/*
 * A number that no other call in this run returns, never 0. Programs of one kind
 * do not nest on a CPU, but a tracepoint can fire inside a kprobe's program: each
 * kind counts by itself.
 */
static __always_inline u64 new_id(u32 counter)
{
	u64 cpu = bpf_get_smp_processor_id();

	return (count(counter, 1) + 1) << 16 | (counter == COUNTER_TRACEPOINT_IDS) << 15 | cpu;
}

/* Sends a message; size is that of the header and its slots. */
static __always_inline void submit(void *ctx, struct record *record, u32 size)
{
	int failed;

	record->cpu = bpf_get_smp_processor_id();
	record->sequence = count(COUNTER_MESSAGES, 1);
#ifdef USE_RINGBUF
	failed = messages.ringbuf_output(record, size, 0);
#else
	failed = messages.perf_submit(ctx, record, size);
#endif
	if (failed) {
		count(COUNTER_LOST_MESSAGES, 1);
		count(COUNTER_LOST_SLOTS, record->slots);
		if (record->flags & (RECORD_FREED | RECORD_SINGLE) && !record->parent_id)
			count(COUNTER_LOST_PACKETS, 1);
	}
}
