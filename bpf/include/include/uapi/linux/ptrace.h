/* struct pt_regs of x86-64, as a uprobe program and the system-call tracepoints see it. */
#ifndef BITNET_TRACE_PTRACE_H
#define BITNET_TRACE_PTRACE_H
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#endif
