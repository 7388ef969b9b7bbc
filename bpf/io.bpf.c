/* read, pread64, readv, preadv, preadv2. */

/* Where in which file the bytes lay that a read returned. */
static __always_inline void tell_file_read(struct thread *t, struct event *e)
{
#ifndef DETAIL_COUNTS
	u64 file = open_file(t->call_arguments[0]);
	u64 offset = t->call_arguments[3];
	u32 flags = 0;
	struct file_key key;

	if (!file || !is_regular_file(file))
		return;
	key = file_key(file);
	tell_path(&key, file, t->pid, e->tid, e->ts_ns);
	if (t->call_number == CALL_READ || t->call_number == CALL_READV || (s64)offset < 0) {
		READ_KERNEL(offset, file, FILE_POSITION); /* behind what was read */
		offset -= e->arg1;
	}
	READ_KERNEL(flags, file, FILE_FLAGS);
	emit(KIND_FILE_READ, e->tid, e->phase, e->ts_ns, key.device, offset | (flags & 0x4000 /* O_DIRECT */ ? READ_DIRECT : 0),
	     key.inode);
#endif
}

static __always_inline void read_ends(struct thread *t, s64 result, struct event *e)
{
	e->kind = KIND_READ;
	e->arg0 = t->call_arguments[0] & ~DURATION_ONLY;
	e->arg1 = result;
	if (result > 0)
		tell_file_read(t, e);
}
