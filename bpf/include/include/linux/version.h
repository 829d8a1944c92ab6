/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC puts the code in the program's header; kernels since 5.0 ignore it. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
