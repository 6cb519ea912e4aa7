/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* BCC includes this file before all others; without this option its bpf.h leaves out half of its helpers. */
#define CONFIG_BPF_SYSCALL 1
