/* Hot kernels and other functions that were asked for: how often they are called in each phase. Attached in windows only:
 * such a function may be called 10^5 times in a token. */

struct call_key {
	u32 phase;
	u32 row;	/* of meta's probes */
};
BPF_TABLE("percpu_hash", struct call_key, u64, window_calls, 8192);

int count_function(struct pt_regs *regs)
{
	struct window_caller caller;
	u64 *calls, one = 1;

	if (!in_window(regs, &caller))
		return 0;
	struct call_key key = {.phase = phase_of(caller.thread), .row = caller.probe->row};
	calls = window_calls.lookup(&key);
	if (calls)
		(*calls)++;
	else if (window_calls.update(&key, &one))
		lose_other(LOST_COUNTERS);
	return 0;
}

/* Bursts: how long calls take, from the entry to a place that the call passes when it is about to return. Calls of a
 * thread that are open at the same time differ in the stack pointer that they began with. */
struct open_call {
	u32 tid;
	u64 sp;
} __attribute__((packed));
struct call_begin {
	u64 ts_ns;
	u32 row;
	u32 window;
};
BPF_TABLE("lru_hash", struct open_call, struct call_begin, open_calls, 4096);

struct duration_key {
	u32 phase;
	u32 row;	/* of meta's probes: the entry's */
	u32 bucket;	/* eight to each doubling */
};
struct duration_sum {
	u64 calls;
	u64 ns;
};
BPF_TABLE("percpu_hash", struct duration_key, struct duration_sum, durations, 8192);

static __always_inline u32 duration_bucket(u64 ns)
{
	u32 log = 0;

	if (ns < 8)
		return ns;
#pragma clang loop unroll(full)
	for (int step = 32; step; step >>= 1)
		if (ns >> log >> step)
			log += step;
	return (log - 2) << 3 | (ns >> (log - 3) & 7);
}

int enter_function(struct pt_regs *regs)
{
	struct window_caller caller;
	int zero = 0;
	u32 *window = window_open.lookup(&zero);

	if (!in_window(regs, &caller) || !window)
		return 0;
	struct open_call key = {.tid = caller.tid, .sp = regs->sp + caller.probe->sp_offset};
	struct call_begin fresh = {.row = caller.probe->row, .window = *window}, *begin;
	begin = open_calls.update(&key, &fresh) ? 0 : open_calls.lookup(&key);
	if (begin)
		begin->ts_ns = bpf_ktime_get_ns(); /* last of all: what the probe takes is not the call's time */
	else
		lose_other(LOST_COUNTERS);
	return 0;
}

int leave_function(struct pt_regs *regs)
{
	u64 now = bpf_ktime_get_ns();
	struct window_caller caller;
	struct call_begin *begin;
	struct duration_sum *sum;
	int zero = 0;
	u32 *window = window_open.lookup(&zero);

	if (!in_window(regs, &caller) || !window)
		return 0;
	if (caller.probe->condition && !holds(regs->flags, caller.probe->condition - 1))
		return 0;
	struct open_call key = {.tid = caller.tid, .sp = regs->sp + caller.probe->sp_offset};
	begin = open_calls.lookup(&key);
	if (!begin)
		return 0; /* it began before the window did */
	struct duration_sum first = {.calls = 1, .ns = now - begin->ts_ns};
	struct duration_key at = {
		.phase = phase_of(caller.thread), .row = begin->row, .bucket = duration_bucket(first.ns)};
	u32 began_in = begin->window;
	open_calls.delete(&key);
	if (began_in != *window)
		return 0; /* its return was not seen then */
	sum = durations.lookup(&at);
	if (sum) {
		sum->calls++;
		sum->ns += first.ns;
	} else if (durations.update(&at, &first)) {
		lose_other(LOST_COUNTERS);
	}
	return 0;
}
