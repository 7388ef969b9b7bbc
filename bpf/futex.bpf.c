/* futex: the call that waiting for other threads is made of. */

/* Numbers for the calls that are not operations of futex(2) itself. */
enum futex_call { FUTEX_CALL_WAITV = 200, FUTEX_CALL_WAIT = 201, FUTEX_CALL_WAKE = 202, FUTEX_CALL_REQUEUE = 203 };

static __always_inline u32 futex_operation(struct thread *t)
{
	switch (t->call_number) {
	case CALL_FUTEX_WAITV: return FUTEX_CALL_WAITV;
	case CALL_FUTEX_WAIT: return FUTEX_CALL_WAIT;
	case CALL_FUTEX_WAKE: return FUTEX_CALL_WAKE;
	case CALL_FUTEX_REQUEUE: return FUTEX_CALL_REQUEUE;
	default: return t->call_arguments[1] & 127; /* without PRIVATE and CLOCK_REALTIME */
	}
}

/* futex(2): WAIT, WAIT_BITSET, LOCK_PI, WAIT_REQUEUE_PI and LOCK_PI2 sleep. */
static __always_inline int futex_waits(u32 operation)
{
	return operation == 0 || operation == 9 || operation == 6 || operation == 11 || operation == 13 ||
	       operation == FUTEX_CALL_WAITV || operation == FUTEX_CALL_WAIT;
}

/* Of the registers at the entry and the exit of a call alike. */
static __always_inline int is_wake(u64 regs, u64 number)
{
	return number == CALL_FUTEX && (LOAD_WORD(regs, REGISTER_SI) & 127) == 1 /* FUTEX_WAKE */;
}

/* Wakes are taken at their exit only and not timed: see wake.bpf.c. The time in the kernel lacks that of wakes. */
static __always_inline void wake_ends(u32 tid, u64 regs, s64 result)
{
	u64 address = LOAD_WORD(regs, REGISTER_DI), now;
	struct thread *t;

	if (in_wake_run(tid, address, result))
		return;
	t = this_thread(tid);
	if (!t) {
		count_others(OTHERS_RUNS, 2); /* at its entry too, where it was not looked at whose it is */
		count_others(OTHERS_CALLS, 1);
		return;
	}
	end_wake_run(tid);
	now = bpf_ktime_get_ns();
	if (result >= 0 && begin_wake_run(t, tid, now, address, result))
		return;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase_of(t));
	if (c)
		c->futex_calls++;
#else
	emit(KIND_FUTEX, tid, phase_of(t), now, 1 /* FUTEX_WAKE */ | error_of(result) << 16, address, 0);
#endif
}

static __always_inline void futex_ends(struct thread *t, s64 result, struct event *e)
{
	e->kind = KIND_FUTEX;
	e->arg0 = futex_operation(t) | error_of(result) << 16;
	e->arg1 = t->call_arguments[0];
}
