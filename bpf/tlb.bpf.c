/* TLB flushes: begun by a thread, the interrupts sent for them, and those received from other CPUs.
 *
 * All run as the thread that is charged: the one that flushes, or the one that the interrupt stops. A CPU that runs
 * another program flushes nothing for this one (its kernel notices the other address space), so what is received is
 * received by threads of the target. Left out are flushes when a CPU switches to another address space: the thread that
 * leaves is current still, and it is the one that comes that pays. */
#ifdef TLB_LOCAL_SHOOTDOWN

TRACEPOINT(tlb_flush)
{
	/* reason, pages; -1: everything */
	u32 reason = ctx->args[0], tid = bpf_get_current_pid_tgid(), what;
	u64 pages = ctx->args[1];
	struct thread *t;

	if (reason == TLB_LOCAL_MM_SHOOTDOWN || reason == TLB_LOCAL_SHOOTDOWN)
		what = TLB_BEGUN;
	else if (reason == TLB_REMOTE_SEND_IPI)
		what = TLB_IPI_SENT;
	else if (reason == TLB_REMOTE_SHOOTDOWN)
		what = TLB_RECEIVED;
	else
		return 0; /* switching, or an interrupt that had nothing to flush */
	t = this_thread(tid);
	if (!t)
		return 0;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, phase_of(t));
	if (!c)
		return 0; /* counted as lost there */
	if (what == TLB_IPI_SENT) {
		c->tlb_ipis_sent++;
	} else if (what == TLB_RECEIVED) {
		c->tlb_shootdowns_received++;
	} else {
		c->tlb_flushes++;
		if (pages == -1ULL)
			c->tlb_full_flushes++;
		else
			c->tlb_flush_pages += pages;
	}
#else
	emit(KIND_TLB, tid, phase_of(t), bpf_ktime_get_ns(), what, pages, 0);
#endif
	return 0;
}

#endif
