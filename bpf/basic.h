/* SPDX-License-Identifier: GPL-2.0-only */
/* All hits are about packets. */

static __always_inline void handle(void *ctx, struct hit *hit)
{
	handle_packet(ctx, hit);
}
