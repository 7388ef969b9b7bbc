/* Stacks: of the running thread when a timer fires, on each CPU, and of a thread that has waited. */

#define LEAST_WAIT_NS 200000 /* a stack costs 2 us: at most a hundredth of such a wait */

/* What a thread is in that may make it wait: an enum wait_reason. */
static __always_inline u32 wait_reason(struct thread *t)
{
	if (t->fault_ts)
		return WAIT_FAULT;
	return t->call_ts && t->call_number < WAIT_FAULT - 1 ? t->call_number + 1 : WAIT_NONE;
}

static __always_inline void send_stack(void *ctx, struct thread *t, u32 tid, u32 reason, u64 ns)
{
	struct sample *s = samples.ringbuf_reserve(sizeof(struct sample));
	if (!s) {
		lose_other(LOST_SAMPLE);
		return;
	}
	s->ts_ns = bpf_ktime_get_ns();
	s->tid = tid;
	s->pid = t->pid;
	s->phase = phase_of(t);
	s->cpu = bpf_get_smp_processor_id();
	s->reason = reason;
	s->period_ns = ns;
	/* what a stack leaves free of its array is set to 0, all of it when there is none */
	if (reason == WAIT_NONE)
		bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0);
	else
		__builtin_memset(s->kernel, 0, sizeof(s->kernel)); /* the wait is over, the kernel is in this program */
	t->walked++; /* and not 1: the timer may interrupt this while it follows the stack after a wait */
	bpf_get_stack(ctx, s->user, sizeof(s->user), BPF_F_USER_STACK);
	t->walked--;
	samples.ringbuf_submit(s, BPF_RB_NO_WAKEUP);
}

/* The thread comes out of what it has waited in. */
static __always_inline void waited(void *ctx, struct thread *t, u32 tid, u64 offcpu_before_ns)
{
#ifdef SAMPLING
	u64 ns = t->offcpu_ns - offcpu_before_ns;
	if (ns >= LEAST_WAIT_NS)
		send_stack(ctx, t, tid, wait_reason(t), ns);
#endif
}

/* The timer is periodic, but for what the kernel throttles and for the time that a hypervisor takes: one that comes late is
 * followed by one in time. What it leaves out stands for the time that traced threads were on this CPU since it fired last. */
static __always_inline void count_missed(struct sampler *s, struct thread *t, u64 now, u64 period)
{
	u64 ran_ns = s->ran_ns + (t && t->on_ts ? now - t->on_ts : 0);
	int missed = s->due && now >= s->due + period;

	if (missed) {
		s->missed_ns += ran_ns - s->ran_before_ns - (t ? period : 0);
		if (s->missed_ns >= (s64)period) {
			u64 samples = s->missed_ns / period;
			lose_others(LOST_TICK, samples);
			s->missed_ns -= samples * period;
		}
	}
	/* early: the last one was late, or the timer was stopped and started */
	s->due = !s->due || missed || now < s->due ? now + period : s->due + period;
	s->ran_before_ns = ran_ns;
}

static __always_inline void ran(u64 ns)
{
#ifdef SAMPLING
	u32 zero = 0;
	struct sampler *s = samplers.lookup(&zero);

	if (s)
		s->ran_ns += ns;
#endif
}

int take_sample(struct bpf_perf_event_data *ctx)
{
	u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	struct sampler *s = samplers.lookup(&zero);

	if (s)
		count_missed(s, t, bpf_ktime_get_ns(), ctx->sample_period);
	if (t) { /* the CPU's clock: whoever runs */
		counter_edge(t, tid);
		send_stack(ctx, t, tid, WAIT_NONE, ctx->sample_period);
	} else {
		count_others(OTHERS_RUNS, 1);
	}
	return 0;
}
