/* read, pread64, readv, preadv, preadv2. */

static __always_inline void read_ends(struct thread *t, u32 tid, u32 phase, u64 now, u64 duration, s64 result)
{
	u32 fd = t->call_arguments[0] & 0x7fffffff;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase);
	if (!c)
		return; /* counted as lost there */
	c->read_calls++;
	if (result > 0)
		c->read_bytes += result;
	if (t->call_phase == phase)
		c->read_ns += duration;
	else
		emit(KIND_READ, tid, phase, now, fd | DURATION_ONLY, result, duration);
#else
	emit(KIND_READ, tid, phase, now, fd, result, duration);
#endif
}
