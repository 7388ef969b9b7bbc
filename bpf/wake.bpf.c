/* Runs of futex wakes. OpenMP's barrier ends with a wake, hundreds of times a token, mostly with nobody asleep. Each as an
 * event of its own would cost more than everything else together, so those that follow each other are sent as one record.
 *
 * A run goes on while its thread wakes at the same address, in the same phase, in the same tick of the clock, and makes no
 * other system call: what lies between two calls of a program is in no other's record. */

#define WAKE_RUNS 32768 /* a power of two */

/* In an array, and with all that tells whether the run goes on: looking that up in hash maps would be half of its cost. */
struct wake_run {
	u32 tid;		/* whose place this is; 0: free */
	u32 calls;		/* 0: no run is open */
	u32 phase;
	u32 woken;		/* threads */
	u64 phase_changes;
	u64 tick;
	u64 address;
	u64 first_ts;
};

BPF_ARRAY(wake_runs, struct wake_run, WAKE_RUNS);
BPF_HASH(wake_places, u32, u32, WAKE_RUNS); /* by place: its thread. Of two that want one place, one gets it */
BPF_ARRAY(phase_changes, u64, 1); /* how often any process has changed its phase */

/* After every change of a process's phase. */
static __always_inline void tell_phase_change(void)
{
	u32 zero = 0;
	u64 *changes = phase_changes.lookup(&zero);
	if (changes)
		__sync_fetch_and_add(changes, 1);
}

static __always_inline struct wake_run *wake_run_of(u32 tid)
{
	u32 place = tid & (WAKE_RUNS - 1);
	struct wake_run *run = wake_runs.lookup(&place);
	return run && run->tid == tid ? run : 0;
}

/* The running thread's wake, when it is one of the run that is open. */
static __always_inline int in_wake_run(u32 tid, u64 address, s64 result)
{
	u32 zero = 0;
	struct wake_run *run = wake_run_of(tid);
	u64 *changes = phase_changes.lookup(&zero);

	if (!run || !changes || !run->calls || run->phase_changes != *changes || run->address != address ||
	    run->tick != bpf_jiffies64() || result < 0)
		return 0;
	run->calls++;
	run->woken += result;
	return 1;
}

static __always_inline void end_wake_run(u32 tid)
{
	struct wake_run *run = wake_run_of(tid);

	if (!run || !run->calls)
		return;
#ifdef DETAIL_COUNTS
	struct counters *c = counters_of(tid, run->phase);
	if (c)
		c->futex_calls += run->calls;
#else
	emit(KIND_FUTEX_WAKES, tid, run->phase, run->first_ts, run->calls, run->address, run->woken);
#endif
	run->calls = 0;
}

/* Returns whether a run was begun: not when another thread has this one's place. */
static __always_inline int begin_wake_run(struct thread *t, u32 tid, u64 now, u64 address, u32 woken)
{
	u32 place = tid & (WAKE_RUNS - 1), zero = 0;
	struct wake_run *run = wake_runs.lookup(&place);
	u64 *changes = phase_changes.lookup(&zero);

	if (!run || !changes)
		return 0;
	if (run->tid != tid) {
		if (wake_places.insert(&place, &tid))
			return 0;
		run->tid = tid;
	}
	run->phase_changes = *changes; /* before the phase: a change between the two ends the run too early, never too late */
	run->phase = phase_of(t);
	run->tick = bpf_jiffies64();
	run->address = address;
	run->first_ts = now;
	run->woken = woken;
	run->calls = 1;
	return 1;
}

/* The thread ends, or takes another number. */
static __always_inline void leave_wake_place(u32 tid)
{
	u32 place = tid & (WAKE_RUNS - 1);
	struct wake_run *run = wake_run_of(tid);

	end_wake_run(tid);
	if (run) {
		run->tid = 0;
		wake_places.delete(&place);
	}
}
