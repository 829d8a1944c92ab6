/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps, and the one way out to user space.
 *
 * Before this file come, as numbers: the offsets of the running kernel's structs
 * (OFF_*), its features (HAVE_*), the filter (FILTER_*) and the wire layout.
 */

/*
 * A number of the filter, or an address of this boot. It is put in when the program is
 * loaded, so that one compilation serves all of them.
 */
#define VALUE(index)                                                           \
	({ u64 value_; asm("%0 = %1 ll" : "=r"(value_) : "i"(VALUE_MARK + (index))); value_; })

/* More than the slots that one hit can need: headers, inner ones, device, step, detail, drop, return. */
#ifdef WITH_STACK
#define STACK_SLOTS 18
#else
#define STACK_SLOTS 0
#endif
#ifdef WITH_FACTS
#define FACTS_SLOTS (1 + FACT_WORDS / 2)
#else
#define FACTS_SLOTS 0
#endif
#ifdef WITH_BYTES
#define BYTES_SLOTS (1 + (SNAPLEN + SLOT_BYTES - 1) / SLOT_BYTES)
#else
#define BYTES_SLOTS 0
#endif
#define HIT_SLOTS (20 + STACK_SLOTS + FACTS_SLOTS + BYTES_SLOTS)

#ifdef LATENCY

/* A followed skb: the message that tells how long its packet took, then what only the kernel needs. */
struct tracked {
	struct record record;
#ifdef TIMES
	struct packet now;	/* the headers that matched */
	struct packet inner;	/* what they carry; nothing: the same headers again */
#endif
	struct step end;	/* where it ended */
	struct step first;	/* where the packet was matched */
	struct step last;	/* where this skb was seen last; of a clone, first of all that of its parent */
	u32 l3;			/* where in the buffer the headers were; 0: they came from the socket */
	u32 steps;		/* that count for the latency */
#ifdef PATHS
	u64 node;		/* where in the tree of paths it is */
#endif
#ifdef LATENCY_SUMMARY
	u32 hops;		/* steps that are not counted yet */
	u32 unused;
	struct step way[HOPS];
#endif
};

#else

/* A followed skb: the message that is growing, then what only the kernel needs. */
struct tracked {
	struct record record;
	struct step log[LOG_SLOTS + HIT_SLOTS + BYTES_SLOTS];	/* the last for the verifier: see bytes.h */
	struct packet now;	/* the headers as last seen */
	struct packet inner;	/* what they carry; its kind is 0: nothing */
	struct device device;	/* where it was last seen; its kind is 0: nowhere yet */
	u64 dev;		/* the struct net_device of that */
	u64 first_ns;
	u32 l3;			/* where in the buffer the headers were; 0: they came from the socket */
	u32 ports_at;		/* likewise the ports; 0: there are none to compare */
	u32 steps;
	u32 unused;
};

#endif

/*
 * A probe's flags (MARKS in nettrace/plan.py):
 *   MAY_MATCH  a packet that nobody follows yet can be taken up
 *   FREES      the skb ends here
 *   CLONES     the function makes new skbs of this one
 *   ENDS       the user does not want to see more of the skb
 *   RETURNS    the function's return is to be told
 *   STACK      and the way to it
 *   POINT      counts for how long a packet took
 *   BYTES      the packet itself is to be told
 */

/* Where the network header of a packet is, and what protocol it is of. */
struct place {
	u64 head;
	u64 beyond;	/* address of the byte at `tail`, if the data goes on in a page; 0: it does not */
	u32 beyond_size;
	u32 l3;		/* offset from head; 0: there is no network header yet */
	u32 tail;	/* end of what lies in the linear buffer */
	u16 mac;	/* offset of the MAC header, or HEADER_UNSET */
	u16 protocol;	/* EtherType; 0: the skb does not say yet */
	u16 vlan_tci;	/* of the outer tag, in the frame or beside it; 0: none */
	u16 vlan_tci2;	/* of the inner one */
	u16 vlan_proto;	/* of a tag beside the frame; 0: there is none */
	u16 unused;
};

/*
 * What a probe knows about its hit, and what the work on it finds out. The latter is here
 * and not in variables for the verifier: what it reads from a map is any number to it,
 * so the many ways through the headers do not multiply.
 */
struct hit {
	u64 context;		/* whose hit it is, while it waits for the work; 0: nobody's */
	void *skb;
	void *sk;		/* NULL: the probe has no socket argument */
	u64 drop_location;	/* 0: not a drop */
	u32 drop_reason;
	u32 where;
	u64 call;		/* CLONES, RETURNS: the stack pointer of the call */
	u32 place;
	u16 flags;
	u8 kind;		/* KIND_STEP, KIND_STEP_TRACEPOINT */
	u8 facts;		/* the number of the set to tell; 0: none */
#if defined(WITH_FACTS) || defined(MONITOR)
	u64 arguments[6];	/* of the function, for the facts */
#endif
#ifdef MONITOR
	u64 returned;		/* RETURNS: by the function */
	struct facts told;	/* what the rules ask for */
	u32 begins;		/* not 0: no trouble, but the begin of what is measured */
	u32 is_gone;		/* the function has freed the skb */
	u32 mark;		/* of one that is gone */
	u32 unused3;
#endif
	struct place at;
	struct place inside;	/* where the reading of headers is */
	u32 l4;			/* likewise; 0: there is no transport header here */
	u32 ports_at;		/* offset of the ports, or what else tells flows apart; 0: none */
	struct packet packet;	/* the headers, once they were read */
	struct packet inner;	/* what they carry; its kind is 0: nothing */
};

/* A call of a function whose return is awaited. */
struct call {
	u64 skb;
	u64 record_id;		/* as the address may be another skb's by the return */
	u64 packet_id;
	u64 parent_id;
	u16 number;		/* of the step */
	u16 flags;
	u32 unused;
};

/*
 * The same as plain bytes. BCC compiles, for the host, code that prints and reads
 * every member of every element of a map's values: of the log that would take as
 * long as all the programs.
 */
struct tracked_bytes {
	u8 bytes[sizeof(struct tracked)] __attribute__((aligned(8)));
};

struct hit_bytes {
	u8 bytes[sizeof(struct hit)] __attribute__((aligned(8)));
};

#ifdef FOLLOW

BPF_TABLE("lru_hash", u64, struct tracked_bytes, tracked, TRACKED_MAX);

/* Never written: a new entry starts as a copy of it. */
BPF_ARRAY(blank, struct tracked_bytes, 1);

/*
 * How many followed skbs have an address like this one. Most hits are of packets that nobody follows: this
 * tells it without a search, as the verifier makes a few instructions of the lookup. Those that are pushed
 * out of the table, or that user space takes out, stay counted here: then it is only slower.
 */
#define ADDRESSES_LIKE (1 << 14)
BPF_ARRAY(tracked_like, u32, ADDRESSES_LIKE);

static __always_inline u32 *like(u64 skb)
{
	/* An skb is 256 bytes long, or a little less. */
	u32 key = (skb >> 8 ^ skb >> 22) & (ADDRESSES_LIKE - 1);

	return tracked_like.lookup(&key);
}

static __always_inline struct tracked *find_tracked(u64 skb)
{
	u32 *number = like(skb);

	if (!number || !*number)
		return NULL;
	return (struct tracked *)tracked.lookup(&skb);
}

/* The skb's entry goes; its address may be another one's at once. */
static __always_inline void forget(u64 skb)
{
	u32 *number = like(skb);

	if (!tracked.delete(&skb) && number)
		__sync_fetch_and_add(number, -1);
}

/*
 * Calls under way, by the stack pointer of the call: a task, a softirq and a hard
 * interrupt that nest on one CPU, or the idle tasks of several CPUs, which share
 * one pid, cannot be mistaken for each other. Functions that end by jumping to
 * another one share it: they are told apart by the low bits, in the order of
 * their entries, and return in the opposite order.
 */
BPF_TABLE("lru_hash", u64, struct call, calls, 16384);
#define CALLS_AT_ONE_PLACE 8

#endif

/*
 * What a stub hands to the program that does the work, so that the work is compiled
 * once and not into every stub: they are many, and LLVM is slow. Another hit may come
 * between the two, from an interrupt or, where tracepoints can be preempted, another
 * task: whose place is whose is told by the address of the context.
 */
BPF_PERCPU_ARRAY(handed_over, struct hit_bytes, PLACES);
BPF_PROG_ARRAY(kprobe_work, 1);
BPF_PROG_ARRAY(tracepoint_work, 1);

#ifdef COUNT_HITS
/* By where, and whether that is a tracepoint's number. */
BPF_TABLE("percpu_hash", u64, u64, hits, 4096);
#endif

#ifdef SAMPLE_HITS
/* Likewise, of one hit in SAMPLE_PERIOD. */
#define SAMPLE_PERIOD 16
BPF_TABLE("percpu_hash", u64, u64, sampled, 4096);
#endif

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
	if (record->flags & (RECORD_FREED | RECORD_SINGLE) && !(record->flags & (RECORD_DELIVERED | RECORD_RETURNED)) &&
	    !record->parent_id)
		count(COUNTER_LOST_PACKETS);
}
