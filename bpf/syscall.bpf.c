/* System calls: the two raw tracepoints, and which calls are looked at. What each means is in memory, futex and io. */

#define TS_COMPAT 2

/* By int 0x80, or of a 32-bit program: the same numbers mean other calls. Of the registers of a call that is being made. */
static __always_inline int is_32_bit(u64 regs)
{
	u64 task;

	/* The instruction syscall leaves the one in the other (but where FRED is on): the kernel's word for it, which takes
	 * 20 ns, is asked for where it did not. */
	if (LOAD_WORD(regs, REGISTER_CX) == LOAD_WORD(regs, REGISTER_IP))
		return 0;
	task = (u64)bpf_get_current_task_btf();
	return LOAD_HALF(task, TASK_STATUS) & TS_COMPAT;
}

static __always_inline void keep_arguments(struct thread *t, u64 regs)
{
	t->call_arguments[0] = LOAD_WORD(regs, REGISTER_DI);
	t->call_arguments[1] = LOAD_WORD(regs, REGISTER_SI);
	t->call_arguments[2] = LOAD_WORD(regs, REGISTER_DX);
	t->call_arguments[3] = LOAD_WORD(regs, REGISTER_R10);
}

/* The first program's execve is where the target begins: counts are taken from here on. */
static __always_inline void arm(struct thread *t, u64 now)
{
	u64 task = bpf_get_current_task();

	t->on_ts = now;
	t->cpu = bpf_get_smp_processor_id();
	t->on_phase = phase_of(t); /* the first: user space has begun it */
	begin_counts(t, task, bpf_get_current_pid_tgid(), now, 0);
}

#ifdef DETAIL_COUNTS
/* Adds a call to the counters. Returns whether it has a duration that counts. */
static __always_inline int count_call(struct event *e)
{
	struct counters *c = counters_of(e->tid, e->phase);
	u64 duration = e->arg2, bytes = e->arg1 & MEMORY_FAILED ? 0 : (u64)e->arg0 << 12;
	struct thread *t = threads.lookup(&e->tid);

	if (!c || !t)
		return 0; /* counted as lost there */
	if (t->call_phase != e->phase)
		duration = 0; /* reaches over a phase edge: sent, and split there */
	switch (e->kind) {
	case KIND_YIELD:
		c->sched_yield_calls++;
		return 0;
	case KIND_READ:
		c->read_calls++;
		c->read_bytes += (s64)e->arg1 > 0 ? e->arg1 : 0;
		c->read_ns += duration;
		return 1;
	case KIND_FUTEX:
		c->futex_calls++;
		if (!futex_waits(e->arg0 & 0xffff))
			return 0;
		c->futex_wait_ns += duration;
		return 1;
	case KIND_MMAP:
		c->mmap_calls++;
		c->mmap_bytes += bytes;
		break;
	case KIND_MUNMAP:
		c->munmap_calls++;
		c->munmap_bytes += bytes;
		break;
	case KIND_MREMAP: c->mremap_calls++; break;
	case KIND_BRK: c->brk_calls++; break;
	case KIND_MADVISE: c->madvise_calls++; break;
	case KIND_MPROTECT: c->mprotect_calls++; break;
	default: c->mlock_calls++; break;
	}
	c->memory_calls_ns += duration;
	return 1;
}
#endif

TRACEPOINT(sys_enter)
{
	/* regs, number */
	u32 tid = bpf_get_current_pid_tgid();
	u64 number = ctx->args[1];
	struct thread *t;
	u64 now;

	if (is_wake(ctx->args[0], number))
		return 0; /* taken at its exit only; what only looks like one is then a call without an entry */
	t = threads.lookup(&tid);
	if (!t) {
		count_others(OTHERS_RUNS, 1);
		return 0;
	}
#ifdef ATTACHING
	if (t->armed == EXPECTED)
		meet(t, bpf_get_current_task(), tid, 1, 0);
#endif
	now = bpf_ktime_get_ns();
	if (!t->armed) {
		if (number != CALL_EXECVE && number != CALL_EXECVEAT)
			return 0; /* still our own code in the child */
		arm(t, now);
	}
	end_wake_run(tid);
	counter_edge(t, tid);
	if (is_32_bit(ctx->args[0])) {
		lose_other(CALLS_32_BIT);
		number = CALL_32_BIT; /* its time in the kernel and what it brought in are counted, not what it was */
	}
	t->call_ts = now;
	t->call_offcpu_ns = t->offcpu_ns;
	t->call_number = number;
	if (COUNTING)
		t->call_phase = phase_of(t);
	switch (number) {
	case CALL_EXECVE: case CALL_EXECVEAT:
		if (tid != t->pid) {
			struct process *p = processes.lookup(&t->pid);
			if (p)
				p->executing = tid;
		}
		break;
	case CALL_MMAP:
		keep_arguments(t, ctx->args[0]);
		mmap_begins(t, tid, ctx->args[0], now);
		break;
	case CALL_MUNMAP: case CALL_MREMAP: case CALL_MADVISE: case CALL_BRK:
		before_resident_falls(t, tid, now);
		break;
	}
	return 0;
}

/* Calls whose arguments are looked at when they end: the registers are then what they were at the entry. */
static __always_inline int is_looked_at(u32 number)
{
	switch (number) {
	case CALL_MUNMAP: case CALL_MREMAP: case CALL_MADVISE: case CALL_BRK: case CALL_MPROTECT: case CALL_MLOCK:
	case CALL_MLOCK2: case CALL_MLOCKALL: case CALL_READ: case CALL_PREAD64: case CALL_READV: case CALL_PREADV:
	case CALL_PREADV2: case CALL_FUTEX: case CALL_FUTEX_WAITV: case CALL_FUTEX_WAKE: case CALL_FUTEX_WAIT:
	case CALL_FUTEX_REQUEUE: case CALL_SETPRIORITY: case CALL_SETPARAM: case CALL_SETSCHEDULER: case CALL_SETAFFINITY:
	case CALL_SETATTR:
		return 1;
	default:
		return 0;
	}
}

TRACEPOINT(sys_exit)
{
	/* regs, return value */
	u32 tid = bpf_get_current_pid_tgid();
	s64 result = ctx->args[1];
	u64 number = LOAD_WORD(ctx->args[0], REGISTER_CALL);
	u64 now, duration;
	struct thread *t;
	u32 phase;

	if (is_wake(ctx->args[0], number) && !is_32_bit(ctx->args[0])) {
		wake_ends(tid, ctx->args[0], result);
		return 0;
	}
	if (number == CALL_PTRACE)
		ptrace_ends(tid, ctx->args[0], result);
	t = this_thread(tid);
	if (!t) {
		count_others(OTHERS_RUNS, 1);
		count_others(OTHERS_CALLS, 1);
		return 0;
	}
	phase = phase_of(t);
	now = bpf_ktime_get_ns();
	if (!t->call_ts) { /* a new thread's first way to user mode is an exit without an entry */
		send_populate(t, tid, phase, now, 0, 0);
		if (is_32_bit(ctx->args[0]))
			lose_other(CALLS_32_BIT); /* what looked like a wake */
		return 0;
	}
	duration = now - t->call_ts;
	waited(ctx, t, tid, t->call_offcpu_ns);
	end_kernel_time(t, tid, phase, now);
	if (t->fault_ts && (t->fault_flags & FAULT_KERNEL))
		send_failed_fault(t, tid, phase, now);
	if (is_looked_at(t->call_number))
		keep_arguments(t, ctx->args[0]);
	if (t->call_number != CALL_FUTEX && t->call_number != CALL_SCHED_YIELD) /* those two are frequent, and bring nothing in */
		send_populate(t, tid, phase, now, t->call_number, bytes_populated(t, result));

	struct event e = {.ts_ns = now, .tid = tid, .phase = phase, .arg2 = duration};
	switch (t->call_number) {
	case CALL_MMAP: case CALL_MUNMAP: case CALL_MREMAP: case CALL_BRK: case CALL_MADVISE: case CALL_MPROTECT:
	case CALL_MLOCK: case CALL_MLOCK2: case CALL_MLOCKALL:
		memory_call_ends(t, result, &e);
		break;
	case CALL_READ: case CALL_PREAD64: case CALL_READV: case CALL_PREADV: case CALL_PREADV2:
		read_ends(t, result, &e);
		break;
	case CALL_FUTEX: case CALL_FUTEX_WAITV: case CALL_FUTEX_WAKE: case CALL_FUTEX_WAIT: case CALL_FUTEX_REQUEUE:
		futex_ends(t, result, &e);
		break;
	case CALL_SCHED_YIELD:
		e.kind = KIND_YIELD;
		break;
	case CALL_SETPRIORITY: case CALL_SETPARAM: case CALL_SETSCHEDULER: case CALL_SETAFFINITY: case CALL_SETATTR:
		ask_ends(t, tid, result, now);
		return 0;
	default:
		return 0;
	}
#ifdef DETAIL_COUNTS
	if (!count_call(&e) || t->call_phase == phase)
		return 0;
	e.arg0 |= DURATION_ONLY;
#endif
	emit(e.kind, tid, phase, now, e.arg0, e.arg1, e.arg2);
	return 0;
}
