/* Calls that change the address space: how much, how, of which file, and what they brought in at once. */

/* Resident memory falls only in these calls, so what it is before them, and at phase edges, holds its peak. */
static __always_inline void before_resident_falls(struct thread *t, u32 tid, u64 now)
{
	struct process *p = processes.lookup(&t->pid);
	u64 bytes;

	if (!p)
		return; /* counted when the process could not be kept */
	bytes = resident_bytes();
	if (bytes <= p->rss_peak)
		return; /* not a new peak of this phase */
	p->rss_peak = bytes;
	note_resident(tid, t->pid, p->phase, now, bytes);
}

/* A file mapping is told through the ring `tasks`, before the call is made: the descriptor may be closed after it. */
static __always_inline void mmap_begins(struct thread *t, u32 tid, u64 regs, u64 now)
{
	u64 file, dentry = 0, name = 0, fd = 0, offset = 0;
	struct file_key key;
	s64 size = 0;

	t->call_file_bytes = 0;
	if (t->call_arguments[3] & 0x20 /* MAP_ANONYMOUS */)
		return;
	fd = LOAD_WORD(regs, REGISTER_R8);
	offset = LOAD_WORD(regs, REGISTER_R9);
	file = open_file(fd);
	if (!file)
		return; /* the call is about to fail with EBADF */
	key = file_key(file);
	tell_path(&key, file, t->pid, tid, now);
	size = file_size(file);
	if (size > 0 && (u64)size > offset)
		t->call_file_bytes = size - offset;
	struct task_event *e = reserve_task(TASK_MAP_FILE, t->pid, tid, now);
	if (!e)
		return; /* counted as lost there */
	e->length = t->call_arguments[1];
	e->offset = offset;
	e->address = t->call_arguments[0];
	e->inode = key.inode;
	e->device = key.device;
	READ_KERNEL(dentry, file, FILE_DENTRY);
	READ_KERNEL(name, dentry, DENTRY_NAME);
	bpf_probe_read_kernel_str(e->text, sizeof(e->text), (void *)name);
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static __always_inline u64 whole_pages(u64 bytes)
{
	return (bytes + 4095) & ~4095ULL;
}

/* What a call that succeeded brought into memory at once: MAP_POPULATE, MAP_LOCKED, mlock, MADV_POPULATE_*. */
static __always_inline u64 bytes_populated(struct thread *t, s64 result)
{
	u64 bytes;

	if (error_of(result))
		return 0; /* failed */
	switch (t->call_number) {
	case CALL_MMAP:
		if (!(t->call_arguments[3] & (0x8000 | 0x2000) /* MAP_POPULATE | MAP_LOCKED */))
			return 0;
		bytes = t->call_arguments[1];
		if (t->call_file_bytes && t->call_file_bytes < bytes)
			bytes = t->call_file_bytes; /* nothing is brought in beyond the file's end */
		return whole_pages(bytes);
	case CALL_MLOCK2:
		if (t->call_arguments[2] & 1 /* MLOCK_ONFAULT */)
			return 0;
		return whole_pages(t->call_arguments[1] + (t->call_arguments[0] & 4095));
	case CALL_MLOCK:
		return whole_pages(t->call_arguments[1] + (t->call_arguments[0] & 4095));
	case CALL_MADVISE:
		if (t->call_arguments[2] != 22 && t->call_arguments[2] != 23 /* MADV_POPULATE_READ, _WRITE */)
			return 0;
		return whole_pages(t->call_arguments[1]);
	default:
		return 0;
	}
}

static __always_inline u32 mmap_detail(struct thread *t)
{
	u64 protection = t->call_arguments[2], flags = t->call_arguments[3];

	return (protection & 7) | (flags & 1 ? MEMORY_SHARED : 0) | (flags & 0x20 ? MEMORY_ANONYMOUS : 0) |
	       (flags & 0x10 ? MEMORY_FIXED : 0) | (flags & 0x8000 ? MEMORY_POPULATE : 0) |
	       (flags & 0x2000 ? MEMORY_LOCKED : 0) | (flags & 0x40000 ? MEMORY_HUGETLB : 0) |
	       (flags & 0x20000 ? MEMORY_STACK : 0);
}

static __always_inline void memory_call_ends(struct thread *t, s64 result, struct event *e)
{
	u64 length = whole_pages(t->call_arguments[1]), address = t->call_arguments[0];
	u32 failed = error_of(result) ? MEMORY_FAILED : 0, detail = 0;

	switch (t->call_number) {
	case CALL_MMAP:
		e->kind = KIND_MMAP;
		detail = mmap_detail(t);
		if (!failed)
			address = result;
		break;
	case CALL_MUNMAP:
		e->kind = KIND_MUNMAP;
		break;
	case CALL_MREMAP:
		e->kind = KIND_MREMAP;
#ifndef DETAIL_COUNTS
		emit(KIND_MREMAP_FROM, e->tid, e->phase, e->ts_ns, length >> 12, (address & ~4095ULL) | failed, 0);
#endif
		length = whole_pages(t->call_arguments[2]);
		if (!failed)
			address = result;
		break;
	case CALL_BRK:
		e->kind = KIND_BRK;
		length = 0;
		address = result;
		break;
	case CALL_MADVISE:
		e->kind = KIND_MADVISE;
		detail = t->call_arguments[2] & 0x1ff;
		break;
	case CALL_MPROTECT:
		e->kind = KIND_MPROTECT;
		detail = t->call_arguments[2] & 7;
		break;
	default: /* mlock, mlock2, mlockall */
		e->kind = KIND_MLOCK;
		if (t->call_number == CALL_MLOCKALL)
			length = address = 0;
		break;
	}
	e->arg0 = length >> 12 < ~DURATION_ONLY ? length >> 12 : ~DURATION_ONLY;
	e->arg1 = (address & ~4095ULL) | detail | failed;
}
