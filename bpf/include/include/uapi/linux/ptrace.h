/* SPDX-License-Identifier: GPL-2.0-only */
/* What a kprobe's context looks like on each architecture that nettrace knows. */
#ifndef NETTRACE_PTRACE_H
#define NETTRACE_PTRACE_H

#if defined(__TARGET_ARCH_x86) || defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct user_pt_regs {
	__u64 regs[31], sp, pc, pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
#else
#error "nettrace knows the registers of x86_64 and arm64 only"
#endif

#endif
