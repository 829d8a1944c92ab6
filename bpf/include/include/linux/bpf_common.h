/* SPDX-License-Identifier: GPL-2.0-only */
#define BPF_CLASS(code) ((code) & 0x07)
