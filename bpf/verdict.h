/* SPDX-License-Identifier: GPL-2.0-only */
#define NF_STOLEN 2
#define NF_STOP 5

/* Which of netfilter's verdicts a hook's return value is, as nettrace/meaning.py has it. */
static __always_inline s64 verdict_of(s64 value)
{
	u32 low = value & 0xff;

	if (low > NF_STOP)
		return value;
	/* Linux commit e0d4593140b0 (6.7). */
	return low == NF_STOLEN && value >> 16 & 0xffff ? 0 : low;
}
