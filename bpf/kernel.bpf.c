/* Hot kernels and other functions that were asked for: how often they are called in each phase. Attached in windows only:
 * such a function may be called 10^5 times in a token. */

struct call_key {
	u32 phase;
	u32 row;	/* of meta's probes */
};
BPF_TABLE("percpu_hash", struct call_key, u64, window_calls, 8192);

int count_function(struct pt_regs *regs)
{
	u32 cookie = bpf_get_attach_cookie(regs);
	u32 tid = bpf_get_current_pid_tgid();
	int zero = 0;
	u32 *open = window_open.lookup(&zero);
	struct probe *probe;
	struct thread *t;
	u64 *calls, one = 1, *hits;

	count_window_hit(HITS_ALL);
	if (!open || !*open)
		return 0;
	t = this_thread(tid);
	probe = probes.lookup(&cookie);
	hits = probe_hits.lookup(&cookie);
	if (!t || !probe || !hits)
		return 0; /* of another program; cookies are below MAX_PROBES */
	(*hits)++;
	count_window_hit(HITS_RECORDED);
	struct call_key key = {.phase = phase_of(t), .row = probe->row};
	calls = window_calls.lookup(&key);
	if (calls)
		(*calls)++;
	else if (window_calls.update(&key, &one))
		lose_other(LOST_COUNTERS);
	return 0;
}
