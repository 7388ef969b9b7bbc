/* The scheduler: switches, wake-ups, migrations, time on the CPU, off it, and waiting for it. */

/* A duration ends now. In counts mode it is added in the kernel when it lies in one phase; when it reaches over an
 * edge it is sent as a record without a count, and split by whoever knows the edges. */

static __always_inline void enter_cpu(u32 tid, struct thread *t, u64 now, u32 flags)
{
	u32 phase = phase_of(t), cpu = bpf_get_smp_processor_id();
	u64 off_cpu_ns = t->off_ts ? now - t->off_ts : 0;
	/* of a switch that is put right late `now` is reckoned, and may lie before a wake-up that was told */
	u64 run_queue_ns = t->runnable_ts && t->runnable_ts < now ? now - t->runnable_ts : 0;

	if (t->off_ts && cpu != t->cpu)
		flags |= SWITCH_MIGRATED;
	t->on_ts = now;
	t->on_phase = phase;
	t->cpu = cpu;
	t->offcpu_ns += off_cpu_ns;
	if (t->exiting)
		t->late_runq_ns += run_queue_ns;
	t->wake_unseen = t->off_ts && !t->runnable_ts;
	t->runnable_ts = 0;
#ifdef DETAIL_COUNTS
	if (t->off_phase == phase && !(flags & SWITCH_LATE)) {
		struct counters *c = counters_of(tid, phase);
		if (c) {
			c->offcpu_ns += off_cpu_ns;
			c->runq_wait_ns += run_queue_ns;
		}
	} else {
		emit(KIND_SWITCH_IN, tid, phase, now, flags | DURATION_ONLY, off_cpu_ns, run_queue_ns);
	}
#else
	emit(KIND_SWITCH_IN, tid, phase, now, flags, off_cpu_ns, run_queue_ns);
#endif
}

/* The switch to a thread that leaves the CPU now was missed. By the kernel's own sum it was on it for `ran_ns`. */
static __always_inline void enter_cpu_late(u32 tid, struct thread *t, u64 now, u64 ran_ns)
{
	u64 left_ts = t->off_ts, offcpu_ns = t->offcpu_ns;

	enter_cpu(tid, t, now - min_u64(ran_ns, now - left_ts), SWITCH_LATE);
	t->on_phase = 0; /* not known: left to whoever knows the edges */
	offcpu_ns = t->offcpu_ns - offcpu_ns;
	/* that time lies before what began after it */
	if (t->call_ts > left_ts)
		t->call_offcpu_ns += offcpu_ns;
	if (t->fault_ts > left_ts)
		t->fault_offcpu_ns += offcpu_ns;
}

/* A wake-up that was missed leaves a wait for the CPU unknown; by the kernel's own sum it was this long. */
static __always_inline void wait_for_cpu_late(u64 task, u32 tid, struct thread *t)
{
#if TASK_RUN_DELAY
	u64 run_delay_ns = 0;

	READ_KERNEL(run_delay_ns, task, TASK_RUN_DELAY);
	if (t->wake_unseen && run_delay_ns > t->run_delay_ns)
		emit(KIND_SWITCH_IN, tid, phase_of(t), t->on_ts, SWITCH_LATE | DURATION_ONLY, 0,
		     run_delay_ns - t->run_delay_ns);
	t->run_delay_ns = run_delay_ns;
#endif
}

static __always_inline void leave_cpu(u64 task, u32 tid, struct thread *t, u32 preempt, u64 state, u64 now, u32 next)
{
	u64 voluntary = 0, involuntary = 0, ran_ns = 0;
	u32 phase = phase_of(t), flags = 0;

	READ_KERNEL(ran_ns, task, TASK_SUM_RUNTIME);
	if (came_unseen(t))
		enter_cpu_late(tid, t, now, ran_ns - t->ran_ns);
	t->ran_ns = ran_ns;
	wait_for_cpu_late(task, tid, t);
	u64 on_cpu_ns = t->on_ts ? now - t->on_ts : 0;
	ran(on_cpu_ns);
	/* the kernel has counted this switch before its tracepoint: its own word on what kind it was */
	READ_KERNEL(voluntary, task, TASK_NVCSW);
	READ_KERNEL(involuntary, task, TASK_NIVCSW);
	if (voluntary != t->voluntary)
		flags |= SWITCH_VOLUNTARY;
	t->voluntary = voluntary;
	t->involuntary = involuntary;
	if (preempt)
		flags |= SWITCH_PREEMPT;
	if (t->exiting && (state & TASK_STATE_DEAD))
		flags |= SWITCH_EXIT;
	if (t->in_kernel)
		flags |= SWITCH_IN_KERNEL;
	if (t->exiting) {
		if (!(flags & SWITCH_EXIT))
			t->late_switches += flags & SWITCH_VOLUNTARY ? 1 : 1ull << 32;
		t->late_cpu_ns += now - (t->on_ts > t->exit_ts ? t->on_ts : t->exit_ts);
	}
	t->off_ts = now;
	t->off_phase = phase;
	t->runnable_ts = (preempt || state == 0) ? now : 0;
	if (flags & SWITCH_EXIT) {
		end_kernel_time(t, tid, phase, now); /* giving back its memory took time too */
		flush_system_time(t, tid, now);
	}
	if (t->system_phase != phase)
		flush_system_time(t, tid, now);
	end_wake_run(tid); /* not to be told too late */
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (c && !(flags & SWITCH_EXIT)) {
		if (flags & SWITCH_VOLUNTARY)
			c->switches_voluntary++;
		else
			c->switches_involuntary++;
	}
	if (t->on_phase == phase) {
		if (c) {
			c->cpu_ns += on_cpu_ns;
			c->cpu_system_ns += t->in_kernel ? on_cpu_ns : 0;
		}
	} else {
		emit(KIND_SWITCH_OUT, tid, phase, now, flags | DURATION_ONLY, on_cpu_ns, next);
	}
#else
	emit(KIND_SWITCH_OUT, tid, phase, now, flags | (state & 0x7ff) << 8 | wait_reason(t) << WAIT_REASON_SHIFT, on_cpu_ns, next);
#endif
	if (flags & SWITCH_EXIT) {
		u32 pid = t->pid;
		emit_accounting(TASK_AFTER, pid, tid, now, t->late_switches, t->late_runq_ns, t->late_cpu_ns, 0, 0);
		struct process *p = processes.lookup(&pid);
		if (p && p->threads == 0)
			processes.delete(&pid);
		threads.delete(&tid);
		return;
	}
	struct process *p = processes.lookup(&t->pid);
	if (p && state && !preempt && !(state & 8 /* __TASK_TRACED: a debugger stops it */))
		fall_idle(p, t->pid, tid, now);
}

static __always_inline u64 state_of_previous(struct bpf_raw_tracepoint_args *ctx, u64 prev)
{
#if SWITCH_STATE >= 0
	return (u32)ctx->args[SWITCH_STATE];
#else
	u32 task_state = 0;
	READ_KERNEL(task_state, prev, TASK_STATE);
	return task_state;
#endif
}

TRACEPOINT(sched_switch)
{
	/* preempt, prev, next, and since 5.18 prev's state (it may have been woken meanwhile): where, is asked for */
	u64 prev = ctx->args[SWITCH_PREVIOUS], next = ctx->args[SWITCH_NEXT];
	u32 prev_tid = bpf_get_current_pid_tgid(), next_tid = 0;
	u64 now = bpf_ktime_get_ns();
	struct thread *left, *entered;
	u32 was_counting = 0;

	READ_KERNEL(next_tid, next, TASK_PID);
#ifdef ATTACHING
	left = threads.lookup(&prev_tid);
	if (left && left->armed == EXPECTED)
		meet(left, prev, prev_tid, 1,
		     (ctx->args[0] & 1) || !state_of_previous(ctx, prev) ? LEAVES_INVOLUNTARILY : LEAVES_VOLUNTARILY);
#endif
	left = thread_of(prev, prev_tid);
	if (left) {
		u64 state = state_of_previous(ctx, prev);
		was_counting = left->counting;
		leave_cpu(prev, prev_tid, left, ctx->args[0] & 1, state, now, next_tid);
	}
	entered = thread_of(next, next_tid);
	if (entered)
		enter_cpu(next_tid, entered, now, 0);
	switch_counters(prev, prev_tid, was_counting, next, entered);
	if (!left && !entered)
		count_others(OTHERS_RUNS, 1);
	return 0;
}

static __always_inline int woken(u64 task, int first_time)
{
	u32 tid = 0;
	struct thread *t;
	u64 now;

	READ_KERNEL(tid, task, TASK_PID);
	t = thread_of(task, tid);
	if (!t) {
		count_others(OTHERS_RUNS, 1);
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (first_time)
		t->off_ts = now; /* born: its first wait is for a CPU */
	/* else it never left its CPU, or waits for one since it was preempted on its way to sleep */
	if ((t->off_ts > t->on_ts && !t->runnable_ts) || first_time)
		t->runnable_ts = now;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase_of(t));
	if (c)
		c->wakeups++;
#else
	emit(KIND_WAKEUP, tid, phase_of(t), now, (u32)bpf_get_current_pid_tgid(), 0, 0);
#endif
	return 0;
}

TRACEPOINT(sched_wakeup)
{
	return woken(ctx->args[0], 0);
}

TRACEPOINT(sched_wakeup_new)
{
	return woken(ctx->args[0], 1);
}

TRACEPOINT(sched_migrate_task)
{
	/* task, destination */
	u32 tid = 0;
	struct thread *t;

	READ_KERNEL(tid, ctx->args[0], TASK_PID);
	t = thread_of(ctx->args[0], tid);
	if (!t) {
		count_others(OTHERS_RUNS, 1);
		return 0;
	}
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase_of(t));
	if (c)
		c->migrations++;
#else
	emit(KIND_MIGRATE, tid, phase_of(t), bpf_ktime_get_ns(), (u32)ctx->args[1], t->cpu, 0);
#endif
	return 0;
}
