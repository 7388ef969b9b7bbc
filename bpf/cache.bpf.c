/* What had to be brought into the page cache, by whoever needed it or read ahead. Streamed only. */
#if defined(FOLIO_MAPPING) && !defined(DETAIL_COUNTS)

static __always_inline void tell_cache(u16 kind, u64 inode, u64 value)
{
	u32 tid = bpf_get_current_pid_tgid(), device = 0;
	struct thread *t = this_thread(tid);
	u64 super = 0, number = 0;

	if (!t) {
		count_others(OTHERS_RUNS, 1);
		return;
	}
	READ_KERNEL(super, inode, INODE_SB);
	READ_KERNEL(device, super, SB_DEV);
	READ_KERNEL(number, inode, INODE_INO);
	emit(kind, tid, phase_of(t), bpf_ktime_get_ns(), device, number, value);
}

TRACEPOINT(mm_filemap_add_to_page_cache)
{
	u64 folio = ctx->args[0], mapping = 0, inode = 0, flags = 0;
	u8 order = 0;

	READ_KERNEL(mapping, folio, FOLIO_MAPPING);
	READ_KERNEL(inode, mapping, MAPPING_HOST);
	READ_KERNEL(flags, folio, FOLIO_FLAGS);
	if (flags & 1ull << FOLIO_HEAD)
		READ_KERNEL(order, folio, FOLIO_ORDER);
	tell_cache(KIND_CACHE_ADDED, inode, 1ull << (order & 31));
	return 0;
}

#ifdef READAHEAD_INODE
TRACEPOINT(page_cache_sync_ra)
{
	/* inode, index, state, pages asked for: a page was not there */
	tell_cache(KIND_READAHEAD, ctx->args[0], ctx->args[3]);
	return 0;
}

TRACEPOINT(page_cache_async_ra)
{
	/* the same: a page was reached that is marked for it */
	tell_cache(KIND_READAHEAD, ctx->args[0], ctx->args[3] | READAHEAD_ASYNC);
	return 0;
}
#endif

#endif
