/* Page faults, from three sources that are kept apart.
 *
 * user, kernel  an exception: its tracepoint gives the time, the software event PAGE_FAULTS_MIN or _MAJ, which fires
 *               when the fault was handled, the class; the two are paired by thread and page.
 * populate      faults that the kernel takes on behalf of a call (MAP_POPULATE, mlock, O_DIRECT, exec): they raise
 *               the task's count and fire neither. At the end of each call what the task's count has grown by,
 *               less what was sent, is theirs. So the three together are the kernel's own count, always. */

/* The faults that the kernel has counted for a task: the base that later sums are taken from. */
static __always_inline void read_fault_counts(u64 task, u64 *minor, u64 *major)
{
	READ_KERNEL(*minor, task, TASK_MIN_FLT);
	READ_KERNEL(*major, task, TASK_MAJ_FLT);
}

static __always_inline void send_populate(struct thread *t, u32 tid, u32 phase, u64 now, u32 call, u64 bytes)
{
	u64 minor = 0, major = 0;

	read_fault_counts(bpf_get_current_task(), &minor, &major);
	u64 new_minor = minor - t->minor, new_major = major - t->major;
	t->minor = minor;
	t->major = major;
	if (!new_minor && !new_major && !bytes)
		return; /* nothing but what was sent */
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (!c)
		return; /* counted as lost there */
	c->faults_populate_minor += new_minor;
	c->faults_populate_major += new_major;
	c->populated_bytes += bytes;
#else
	emit(KIND_POPULATE, tid, phase, now, call, (u32)new_minor | new_major << 32, bytes);
#endif
}

/* An exception that no handled fault followed: SIGSEGV, or a fixup in the kernel. */
static __always_inline void send_failed_fault(struct thread *t, u32 tid, u32 phase, u64 now)
{
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (c)
		c->faults_failed++;
#else
	emit(KIND_FAULT, tid, phase, now, t->fault_flags | FAULT_FAILED | FAULT_NO_LATENCY, t->fault_address, 0);
#endif
	t->fault_ts = 0;
}

static __always_inline void fault_begins(u64 address, u64 error_code, u32 where)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	u64 now;

	if (!t)
		count_others(OTHERS_RUNS, 1);
	if (!t || t->walked)
		return;
	now = bpf_ktime_get_ns();
	if (t->fault_ts)
		send_failed_fault(t, tid, phase_of(t), now);
	t->fault_address = address;
	/* x86 page-fault error code: bit 1 write, bit 4 instruction fetch */
	t->fault_flags = where | (error_code & 2 ? FAULT_WRITE : 0) | (error_code & 16 ? FAULT_EXEC : 0);
	t->fault_ts = now;
	t->fault_offcpu_ns = t->offcpu_ns;
}

TRACEPOINT(page_fault_user)
{
	/* address, regs, error code */
	fault_begins(ctx->args[0], ctx->args[2], 0);
	return 0;
}

TRACEPOINT(page_fault_kernel)
{
	fault_begins(ctx->args[0], ctx->args[2], FAULT_KERNEL);
	return 0;
}

static __always_inline int fault_handled(struct bpf_perf_event_data *ctx, u32 major)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	u32 phase, flags = major;
	u64 now, latency = 0;

	if (!t) {
		count_others(OTHERS_RUNS, 1);
		return 0;
	}
	now = bpf_ktime_get_ns();
	phase = phase_of(t);
	if (major)
		t->major++;
	else
		t->minor++;
	if (t->fault_ts && (t->fault_address >> 12) == (ctx->addr >> 12)) {
		latency = now - t->fault_ts;
		flags |= t->fault_flags;
		if (!(flags & FAULT_KERNEL)) /* a fault in kernel mode lies inside a system call, counted there */
			add_system_time(t, tid, phase, now, time_on_cpu(t, t->fault_ts, t->fault_offcpu_ns, now));
		waited(ctx, t, tid, t->fault_offcpu_ns);
		t->fault_ts = 0;
	} else {
		flags |= FAULT_NO_LATENCY | ((ctx->regs.cs & 3) ? 0 : FAULT_KERNEL);
	}
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (!c)
		return 0; /* counted as lost there */
	if (flags & FAULT_KERNEL) {
		if (major)
			c->faults_kernel_major++;
		else
			c->faults_kernel_minor++;
	} else {
		if (major)
			c->faults_user_major++;
		else
			c->faults_user_minor++;
	}
	c->fault_ns += latency;
#else
	emit(KIND_FAULT, tid, phase, now, flags, ctx->addr, latency);
#endif
	return 0;
}

int fault_minor(struct bpf_perf_event_data *ctx)
{
	return fault_handled(ctx, 0);
}

int fault_major(struct bpf_perf_event_data *ctx)
{
	return fault_handled(ctx, FAULT_MAJOR);
}
