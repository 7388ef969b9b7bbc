/* Barriers: who came to one, and when. Attached in windows only: a thread comes to hundreds in a token. */

BPF_ARRAY(window_open, u32, 1);
enum window_hit { HITS_ALL = 0, HITS_RECORDED = 1, HITS_MAX = 2 };
BPF_PERCPU_ARRAY(window_hits, u64, HITS_MAX);

static __always_inline u32 count_window_hit(u32 which)
{
	u64 *hits = window_hits.lookup(&which);
	if (hits)
		(*hits)++;
	return 0;
}

/* A probe is live for a while before the window is open and after it is closed: what it is hit then is counted as cost. */
int enter_barrier(struct pt_regs *regs)
{
	u32 cookie = bpf_get_attach_cookie(regs);
	u32 tid = bpf_get_current_pid_tgid();
	int zero = 0;
	u32 *open = window_open.lookup(&zero);
	struct probe *probe;
	struct thread *t;
	u64 *hits;

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
	emit(KIND_BARRIER, tid, phase_of(t), bpf_ktime_get_ns(), probe->row,
	     argument_value(regs, probe->argument_kind, probe->argument_register, probe->argument_offset,
			    probe->sp_offset), 0);
	return 0;
}
