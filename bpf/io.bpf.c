/* read, pread64, readv, preadv, preadv2. */

static __always_inline void read_ends(struct thread *t, s64 result, struct event *e)
{
	e->kind = KIND_READ;
	e->arg0 = t->call_arguments[0] & ~DURATION_ONLY;
	e->arg1 = result;
}
