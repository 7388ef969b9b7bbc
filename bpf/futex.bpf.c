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

static __always_inline void futex_ends(struct thread *t, s64 result, struct event *e)
{
	u32 error = result < 0 && result > -4096 ? -result : 0;

	e->kind = KIND_FUTEX;
	e->arg0 = futex_operation(t) | error << 16;
	e->arg1 = t->call_arguments[0];
}
