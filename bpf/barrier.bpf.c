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

struct window_caller {
	struct thread *thread;
	struct probe *probe;
	u32 tid;
};

/* Whose hit of which probe this is; 0: it is not to be recorded. A probe is live for a while before the window is open and
 * after it is closed: what it is hit then is counted as cost. */
static __always_inline int in_window(struct pt_regs *regs, struct window_caller *caller)
{
	u32 cookie = bpf_get_attach_cookie(regs);
	int zero = 0;
	u32 *open = window_open.lookup(&zero);
	u64 *hits;

	count_window_hit(HITS_ALL);
	if (!open || !*open)
		return 0;
	caller->tid = bpf_get_current_pid_tgid();
	caller->thread = this_thread(caller->tid);
	caller->probe = probes.lookup(&cookie);
	hits = probe_hits.lookup(&cookie);
	if (!caller->thread || !caller->probe || !hits)
		return 0; /* of another program; cookies are below MAX_PROBES */
	(*hits)++;
	count_window_hit(HITS_RECORDED);
	return 1;
}

static __always_inline u64 window_argument(struct pt_regs *regs, struct probe *probe)
{
	return argument_value(regs, probe->argument_kind, probe->argument_register, probe->argument_offset, probe->sp_offset);
}

int enter_barrier(struct pt_regs *regs)
{
	struct window_caller caller;

	if (in_window(regs, &caller))
		emit(KIND_BARRIER, caller.tid, phase_of(caller.thread), bpf_ktime_get_ns(), caller.probe->row,
		     window_argument(regs, caller.probe), 0);
	return 0;
}
