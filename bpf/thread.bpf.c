/* What the programs ask of a thread: whether it is traced, in which phase it is, and its time in the kernel, which is
 * gathered until the phase changes. */

static __always_inline u32 phase_of(struct thread *t)
{
	struct process *p = processes.lookup(&t->pid);
	return p ? p->phase : t->exit_phase; /* 0: its process could not be kept, which was counted as lost */
}

#ifdef DETAIL_COUNTS
static __always_inline struct counters *counters_of(u32 tid, u32 phase)
{
	struct counter_key key = {.tid = tid, .phase = phase};
	struct counters *c = counts.lookup(&key);
	if (c)
		return c;
	int zero = 0;
	c = no_counts.lookup(&zero);
	if (c)
		counts.insert(&key, c); /* and not update(): another CPU may have been first */
	c = counts.lookup(&key);
	if (!c)
		lose_other(LOST_COUNTERS);
	return c;
}
#endif

#ifdef ATTACHING
static __always_inline void meet(struct thread *t, u64 task, u32 tid, int running, u32 leaving);
#endif

/* The running thread when it is traced and its program has begun; else NULL. */
static __always_inline struct thread *this_thread(u32 tid)
{
	struct thread *t = threads.lookup(&tid);
#ifdef ATTACHING
	if (t && t->armed == EXPECTED && tid == (u32)bpf_get_current_pid_tgid())
		meet(t, bpf_get_current_task(), tid, 1, 0);
#endif
	return t && t->armed ? t : 0;
}

/* A thread by its task, armed, as this_thread(). `tid` is the number that it has now. */
static __always_inline struct thread *thread_of(u64 task, u32 tid)
{
	struct thread *t = threads.lookup(&tid);
	struct process *p;
	u32 pid = 0;

	if (t && !t->armed)
		t = 0;
#ifdef ATTACHING
	if (t && t->armed == EXPECTED)
		meet(t, task, tid, (u32)bpf_get_current_pid_tgid() == tid, 0);
#endif
	if (t && t->task == task)
		return t;
	READ_KERNEL(pid, task, TASK_TGID);
	if (pid != tid)
		return 0; /* not traced, or a former leader about to end, whose number another has taken */
	p = processes.lookup(&pid);
	if (!p || !p->executing)
		return 0;
	/* in execve, between taking the leader's number and its end: kept under the number it had */
	pid = p->executing;
	t = threads.lookup(&pid);
	return t && t->armed && t->task == task ? t : 0;
}

/* Resident bytes of the current process as /proc/PID/status counts them; 0 when it has no memory any more. */
static __always_inline u64 resident_bytes(void)
{
	void *mm = 0;
	u64 task = bpf_get_current_task();
	s64 file = 0, anonymous = 0, shared = 0;
	READ_KERNEL(mm, task, TASK_MM);
	if (!mm)
		return 0;
	READ_KERNEL(file, mm, MM_RSS + RSS_COUNT);
	READ_KERNEL(anonymous, mm, MM_RSS + RSS_COUNT + RSS_STRIDE);
	READ_KERNEL(shared, mm, MM_RSS + RSS_COUNT + 3 * RSS_STRIDE);
	s64 pages = (file > 0 ? file : 0) + (anonymous > 0 ? anonymous : 0) + (shared > 0 ? shared : 0);
	return (u64)pages << 12;
}

static __always_inline void note_resident(u32 tid, u32 pid, u32 phase, u64 now, u64 bytes)
{
	if (!bytes)
		return; /* the address space is gone: not zero bytes, but not known */
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (c && bytes > c->rss_peak_bytes)
		c->rss_peak_bytes = bytes;
#else
	emit(KIND_RSS, tid, phase, now, pid, bytes, 0);
#endif
}

/* Time in the kernel is gathered and sent when the phase changed, not per call. */
static __always_inline void flush_system_time(struct thread *t, u32 tid, u64 now)
{
	if (!t->system_ns)
		return;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, t->system_phase);
	if (c)
		c->cpu_system_ns += t->system_ns;
#else
	emit(KIND_SYSTEM_TIME, tid, t->system_phase, now, 0, t->system_ns, 0);
#endif
	t->system_ns = 0;
}

static __always_inline void add_system_time(struct thread *t, u32 tid, u32 phase, u64 now, u64 ns)
{
	if (t->system_phase != phase) {
		flush_system_time(t, tid, now);
		t->system_phase = phase;
	}
	t->system_ns += ns;
}

/* Of a running thread: the switch to it was not told (seen on a guest for switches from some other threads, with ftrace
 * as well). It is put right when the thread leaves the CPU. */
static __always_inline int came_unseen(struct thread *t)
{
	return t->off_ts > t->on_ts;
}

/* The running thread's time on the CPU since a moment at which its time off the CPU was `offcpu_ns`. */
static __always_inline u64 time_on_cpu(struct thread *t, u64 since, u64 offcpu_ns, u64 now)
{
	u64 ran_ns = 0, before;

	if (!came_unseen(t))
		return now - since - (t->offcpu_ns - offcpu_ns);
	if (since > t->off_ts)
		return now - since;
	before = t->off_ts - since - (t->offcpu_ns - offcpu_ns);
	READ_KERNEL(ran_ns, bpf_get_current_task(), TASK_SUM_RUNTIME);
	return before + ran_ns - t->ran_ns;
}

/* The system call that the thread is in, or its way out of the last one, has taken until now. */
static __always_inline void end_kernel_time(struct thread *t, u32 tid, u32 phase, u64 now)
{
	if (!t->call_ts)
		return; /* it was in user mode */
	add_system_time(t, tid, phase, now, time_on_cpu(t, t->call_ts, t->call_offcpu_ns, now));
	t->call_ts = 0;
}
