/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef NETTRACE_KCONFIG_H
#define NETTRACE_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
#endif
