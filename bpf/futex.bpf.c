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

static __always_inline u32 error_of(s64 result)
{
	return result < 0 && result > -4096 ? -result : 0;
}

/* A wake is what the last thread at a barrier does, hundreds of times a token, mostly with nobody asleep. It is taken at its
 * exit only: it is not timed, so that it costs one program and not two. The time in the kernel lacks that of wakes. */
static __always_inline int is_wake(u64 regs)
{
	unsigned long operation = 0;

	READ_KERNEL(operation, regs, 13 * sizeof(long)); /* si */
	return (operation & 127) == 1 /* FUTEX_WAKE */;
}

/* Returns whether the call that ends, whose entry was not taken, is a wake. */
static __always_inline int wake_ends(struct thread *t, u32 tid, u32 phase, u64 regs, s64 result)
{
	struct {
		unsigned long si, di, number;
	} r = {};

	READ_KERNEL(r, regs, 13 * sizeof(long));
	if (r.number != CALL_FUTEX || (r.si & 127) != 1)
		return 0;
#ifdef DETAIL_COUNTS
	if (t->system_phase != phase) {
		flush_system_time(t, tid, bpf_ktime_get_ns());
		t->system_phase = phase;
	}
	t->wakes++;
#else
	emit(KIND_FUTEX, tid, phase, bpf_ktime_get_ns(), 1 /* FUTEX_WAKE */ | error_of(result) << 16, r.di, 0);
#endif
	return 1;
}

static __always_inline void futex_ends(struct thread *t, s64 result, struct event *e)
{
	e->kind = KIND_FUTEX;
	e->arg0 = futex_operation(t) | error_of(result) << 16;
	e->arg1 = t->call_arguments[0];
}
