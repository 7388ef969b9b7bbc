/* Threads and processes: fork, exec, rename, exit. What the target starts is traced, and nothing else. */

static __always_inline void emit_task(u32 kind, u32 pid, u32 tid, u64 value, void *kernel_text)
{
	struct task_event *e = reserve_task(kind, pid, tid, bpf_ktime_get_ns());
	if (!e)
		return; /* counted as lost there */
	e->value = value;
	if (kernel_text)
		bpf_probe_read_kernel_str(e->text, sizeof(e->text), kernel_text);
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static __always_inline void emit_accounting(u32 kind, u32 pid, u32 tid, u64 now, u64 switches, u64 runq_ns, u64 cpu_ns,
					    u64 faults, u64 runs)
{
	struct task_event *e = reserve_task(kind, pid, tid, now);
	if (!e)
		return; /* counted as lost there */
	e->value = switches;
	e->address = faults;
	e->length = runq_ns;
	e->offset = cpu_ns;
	e->inode = runs;
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* The kernel's own accounting of the running thread so far. An offset of 0: this kernel does not keep it. */
static __always_inline void emit_before(struct thread *t, u32 tid, u64 task, u64 now)
{
	u64 runq_ns = 0, cpu_ns = 0;
	unsigned long runs = 0;

	if (TASK_RUN_DELAY)
		READ_KERNEL(runq_ns, task, TASK_RUN_DELAY);
	if (TASK_RUNS)
		READ_KERNEL(runs, task, TASK_RUNS);
	READ_KERNEL(cpu_ns, task, TASK_SUM_RUNTIME);
	emit_accounting(TASK_BEFORE, t->pid, tid, now, (u32)t->voluntary | t->involuntary << 32, runq_ns, cpu_ns,
			(u32)t->minor | t->major << 32, runs);
}

/* What the kernel has accounted for a thread so far is not ours: counting begins. `leaving`: 0, or what a switch is
 * (enum leaving) that the kernel has counted and that is ours. */
static __always_inline void begin_counts(struct thread *t, u64 task, u32 tid, u64 now, u32 leaving)
{
	t->armed = ARMED;
	t->task = task;
	read_fault_counts(task, &t->minor, &t->major);
	READ_KERNEL(t->voluntary, task, TASK_NVCSW);
	READ_KERNEL(t->involuntary, task, TASK_NIVCSW);
	READ_KERNEL(t->ran_ns, task, TASK_SUM_RUNTIME);
	READ_KERNEL(t->run_delay_ns, task, TASK_RUN_DELAY);
	t->voluntary -= leaving == LEAVES_VOLUNTARILY;
	t->involuntary -= leaving == LEAVES_INVOLUNTARILY;
	emit_before(t, tid, task, now);
}

#ifdef ATTACHING
/* An expected thread is seen for the first time. What it does now, it has done since it was entered; the CPU and the phases
 * are of that moment too. */
static __always_inline void meet(struct thread *t, u64 task, u32 tid, int running, u32 leaving)
{
	u32 pid = 0, flags = 0;

	READ_KERNEL(pid, task, TASK_TGID);
	if (pid != t->pid)
		return; /* it had ended when it was entered, and another has its number */
	READ_KERNEL(flags, task, TASK_FLAGS);
	t->in_kernel = flags & 0x10; /* PF_IO_WORKER */
	begin_counts(t, task, tid, bpf_ktime_get_ns(), leaving);
	if (running) {
		t->on_ts = t->off_ts;
		t->off_ts = 0;
		t->cpu = bpf_get_smp_processor_id();
	}
}
#endif

/* Not sched_process_fork: threads that the kernel makes for a process (io_uring's workers and polling threads) fire only
 * this. They belong to it: the same address space, the same process number. */
TRACEPOINT(task_newtask)
{
	/* child, flags of clone */
	u64 child = ctx->args[0];
	u32 parent_tid = bpf_get_current_pid_tgid();
	struct thread *parent = this_thread(parent_tid);
	struct thread t = {};
	u32 tid = 0, pid = 0, flags = 0;
	u64 now = bpf_ktime_get_ns();

	if (!parent)
		return 0;
	READ_KERNEL(flags, child, TASK_FLAGS);
	READ_KERNEL(tid, child, TASK_PID);
	READ_KERNEL(pid, child, TASK_TGID);
	t.task = child;
	t.pid = pid;
	t.armed = 1;
	t.counting = parent->counting;
	t.in_kernel = flags & 0x10; /* PF_IO_WORKER */
	if (threads.update(&tid, &t))
		lose_other(LOST_THREAD_STATE);
	struct process *p = processes.lookup(&pid);
	if (p) {
		__sync_fetch_and_add(&p->threads, 1);
	} else {
		struct process fresh = {.threads = 1};
		if (processes.update(&pid, &fresh)) {
			lose_other(LOST_PROCESS_STATE);
		} else {
			p = processes.lookup(&pid);
			if (p) {
				/* not enter_phase(): the parent runs here, its resident size is not the child's */
				p->phase = next_phase_id();
				p->role = ROLE_STARTUP;
				emit_phase(KIND_PHASE_BEGIN, tid, p->phase, now, ROLE_STARTUP, 0, (u64)pid << 32);
			}
		}
	}
	emit_task(TASK_FORK, pid, tid, parent_tid, (void *)child + TASK_COMM_OFFSET);
	return 0;
}

TRACEPOINT(sched_process_exec)
{
	/* task, old pid, bprm */
	u64 task = ctx->args[0];
	u32 old_tid = ctx->args[1];
	u32 tid = bpf_get_current_pid_tgid();
	void *file_name = 0;

	if (old_tid != tid) {
		/* a thread that was not the leader takes the leader's number; the others are gone */
		struct thread *old = threads.lookup(&old_tid);
		if (!old)
			return 0; /* not traced */
		struct thread copy = *old;
		if (threads.update(&tid, &copy))
			lose_other(LOST_THREAD_STATE);
		threads.delete(&old_tid);
		leave_wake_place(old_tid);
	}
	struct thread *t = this_thread(tid);
	if (!t)
		return 0;
	t->engine_phase = 0; /* the program that made the call is gone */
	struct process *p = processes.lookup(&t->pid);
	if (p)
		p->executing = 0;
	if (p && p->role != ROLE_STARTUP) {
		u64 now = bpf_ktime_get_ns();
		leave_phase(t->pid, tid, p->phase, END_EXIT, now);
		enter_phase(p, t->pid, tid, ROLE_STARTUP, now, 0, 0);
		counter_edge(t, tid);
	}
	READ_KERNEL(file_name, ctx->args[2], BPRM_FILENAME);
	emit_task(TASK_EXEC, t->pid, tid, old_tid, file_name);
	return 0;
}

TRACEPOINT(task_rename)
{
	/* task, comm */
	u32 tid = 0;
	READ_KERNEL(tid, ctx->args[0], TASK_PID);
	struct thread *t = thread_of(ctx->args[0], tid);
	if (!t)
		return 0;
	emit_task(TASK_COMM, t->pid, tid, 0, (void *)ctx->args[1]);
	/* the first execve names the thread where the kernel switches on counters that were to begin with it */
	if (!t->counting && !t->exiting && t->call_ts && t->call_number == CALL_EXECVE)
		begin_counting(t);
	return 0;
}

TRACEPOINT(sched_process_exit)
{
	u64 task = bpf_get_current_task();
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	u64 now = bpf_ktime_get_ns();
	u32 phase, code = 0;

	if (!t)
		return 0;
	phase = phase_of(t);
	send_populate(t, tid, phase, now, 0, 0);
	end_counting(t, tid);
	end_kernel_time(t, tid, phase, now); /* exit(), or killed inside a call */
	flush_system_time(t, tid, now);
	leave_wake_place(tid);
	/* from here to its last switch it is in the kernel */
	t->call_ts = t->in_kernel ? 0 : now;
	t->call_offcpu_ns = t->offcpu_ns;
	t->exiting = 1;
	t->exit_phase = phase;
	t->exit_ts = now;
	READ_KERNEL(code, task, TASK_EXIT_CODE);

	struct process *p = processes.lookup(&t->pid);
	if (p) {
		if (t->engine_phase)
			abandon_engine_call(t, tid, now);
		__sync_fetch_and_add(&p->threads, -1);
		if (p->threads == 0) { /* seen by two at once: a second end of a phase changes nothing */
			note_resident(tid, t->pid, p->phase, now, resident_bytes());
			leave_phase(t->pid, tid, p->phase, END_EXIT, now);
		}
	}
	send_scheduled(t, tid, task, now);
	emit_task(TASK_EXIT, t->pid, tid, code, 0);
	return 0;
}
