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
