/* Huge pages that the kernel makes of small ones (collapse), in its own thread or because MADV_COLLAPSE asked for it.
 *
 * Whose memory it is, is told by the memory's owner: khugepaged works for all. Rare, so told with any detail. */
#ifdef COLLAPSE_STATUS

static __always_inline void tell_collapse(u64 mm, u32 what, u64 address)
{
	u64 owner = 0;
	u32 pid = 0;
	struct process *p;

	READ_KERNEL(owner, mm, MM_OWNER);
	if (!owner)
		return; /* its process has ended meanwhile */
	READ_KERNEL(pid, owner, TASK_TGID);
	p = processes.lookup(&pid);
	if (p)
		emit(KIND_COLLAPSE, pid, p->phase, bpf_ktime_get_ns(), what, address, 0);
}

TRACEPOINT(mm_collapse_huge_page)
{
	/* mm, pages isolated, status */
	tell_collapse(ctx->args[0], (u32)ctx->args[COLLAPSE_STATUS] & 0xff, 0);
	return 0;
}

#if COLLAPSE_FILE_STATUS >= 0
TRACEPOINT(mm_khugepaged_collapse_file)
{
	/* mm, folio, index, address, ... status */
	tell_collapse(ctx->args[0], ((u32)ctx->args[COLLAPSE_FILE_STATUS] & 0xff) | COLLAPSE_FILE,
		      ctx->args[COLLAPSE_FILE_ADDRESS]);
	return 0;
}
#endif

#endif
