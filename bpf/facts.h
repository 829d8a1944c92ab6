/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a hit tells beyond the packet: members of the kernel's structs. Behind this file
 * comes, made of these macros, read_facts() with a case for each set of facts that the plan
 * has (nettrace/facts.py); it returns how many slots the item has.
 */

#define FACT_ARGUMENT(number) (hit->arguments[number])
#define FACT_POINTER(from, offset) READ(u64, from, offset)
/* Its low bits are flags. */
#define FACT_REFERENCE(from, offset) (READ(u64, from, offset) & ~7ULL)

#define FACTS_BEGIN                                                            \
	static __always_inline u32 read_facts(const struct hit *hit, u8 number, struct facts *facts) \
	{                                                                      \
		u32 slots = 0;                                                 \
									       \
		__builtin_memset(facts, 0, sizeof(*facts));                    \
		facts->set = number;                                           \
		facts->kind = KIND_FACTS;                                      \
		switch (number) {

#define FACTS_OF(number) case number:

#define FACT(type, word, from, offset) facts->words[word] = READ(type, from, offset);

#define FACT_VALUE(word, value) facts->words[word] = (value);

#define FACT_TEXT(word, from, offset, size)                                    \
	bpf_probe_read_kernel_str(&facts->words[word], size, (void *)((from) + (offset)));

#define FACT_ADDRESS(word, from, offset, size)                                 \
	bpf_probe_read_kernel(&facts->words[word], size, (void *)((from) + (offset)));

#define FACTS_DONE(count)                                                      \
	slots = 1 + ((count) + 1) / 2;                                         \
	break;

#define FACTS_END                                                              \
	}                                                                      \
	facts->slots = slots;                                                  \
	return slots;                                                          \
	}
