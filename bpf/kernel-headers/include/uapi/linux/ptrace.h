/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The registers at a probe, as arch/x86/include/asm/ptrace.h and arch/arm64's struct user_pt_regs lay them out. */
#if defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct pt_regs {
  unsigned long long regs[31], sp, pc, pstate;
};
#else
struct pt_regs {
  unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#endif
