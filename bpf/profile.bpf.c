/* Timer samples: where the running thread is, and how it got there. A perf event of each CPU's clock. */

int take_sample(struct bpf_perf_event_data *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	struct sample *s;

	if (!t)
		return 0; /* the CPU's clock: whoever runs */
	s = samples.ringbuf_reserve(sizeof(struct sample));
	if (!s) {
		lose_other(LOST_SAMPLE);
		return 0;
	}
	s->ts_ns = bpf_ktime_get_ns();
	s->tid = tid;
	s->pid = t->pid;
	s->phase = phase_of(t);
	s->cpu = bpf_get_smp_processor_id();
	s->period_ns = ctx->sample_period;
	/* what a stack leaves free of its array is set to 0, all of it when there is none */
	bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0);
	bpf_get_stack(ctx, s->user, sizeof(s->user), BPF_F_USER_STACK);
	samples.ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	return 0;
}
