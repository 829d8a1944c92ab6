/* SPDX-License-Identifier: GPL-2.0-only */
/* The page size, where BCC turns ring buffer pages into bytes; user space passes the real one. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
