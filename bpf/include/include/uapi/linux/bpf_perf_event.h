/* The context of a BPF program on a perf event, x86-64. */
#ifndef BITNET_TRACE_BPF_PERF_EVENT_H
#define BITNET_TRACE_BPF_PERF_EVENT_H
#include <uapi/linux/ptrace.h>
struct bpf_perf_event_data {
	struct pt_regs regs;
	__u64 sample_period;
	__u64 addr;
};
#endif
