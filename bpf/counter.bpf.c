/* perf's counters, by thread and phase: read where a thread's own edges are.
 *
 * The events count on each CPU all the time, whoever runs there (a program reads those of its own CPU only). What a
 * thread has of them is what they grew by from the moment it came onto the CPU to the moment it left, and between
 * those from one of its own edges to the next: where it changes the phase itself, or is seen for the first time after
 * another thread did. Compiled only where counters are asked for. */
#ifdef PERF_COUNTERS

/* Of one CPU: who is counted there, in which phase, and where the events stood when that began. */
struct counter_base {
	u64 task;		/* 0: nobody */
	u32 phase;
	u32 unused;
	struct bpf_perf_event_value of[PERF_COUNTERS];
};

struct counted {
	u64 until_ns;		/* the last edge */
	struct bpf_perf_event_value of[PERF_COUNTERS];
};

BPF_PERF_ARRAY(counter_events, PERF_COUNTERS * COUNTER_CPUS);
BPF_PERCPU_ARRAY(counter_bases, struct counter_base, 1);
BPF_HASH(counted, struct counter_key, struct counted, COUNTERS_ENTRIES);
BPF_ARRAY(nothing_counted, struct counted, 1); /* all zero; too large for the stack */

static __always_inline struct counted *counted_of(u32 tid, u32 phase)
{
	struct counter_key key = {.tid = tid, .phase = phase};
	struct counted *c = counted.lookup(&key);
	int zero = 0;

	if (c)
		return c;
	c = nothing_counted.lookup(&zero);
	if (c)
		counted.update(&key, c); /* its own thread alone writes it */
	c = counted.lookup(&key);
	if (!c)
		lose_other(LOST_COUNTERS);
	return c;
}

/* Adds to `c` (NULL: to nothing) what the events of this CPU have grown by, and begins anew from here. `ahead`: bits of
 * events that the kernel counts right after this, for what went before. */
static __always_inline void read_counters(struct counter_base *base, struct counted *c, u64 ahead)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct bpf_perf_event_value now;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PERF_COUNTERS; i++) {
		if (counter_events.perf_counter_value(i * COUNTER_CPUS + cpu, &now, sizeof(now)))
			continue; /* not an event of this CPU's */
		now.counter += ahead >> i & 1;
		if (c) {
			c->of[i].counter += now.counter - base->of[i].counter;
			c->of[i].enabled += now.enabled - base->of[i].enabled;
			c->of[i].running += now.running - base->of[i].running;
		}
		base->of[i] = now;
	}
	if (c)
		c->until_ns = bpf_ktime_get_ns();
}

static __always_inline void begin_counting(struct thread *t)
{
	u32 zero = 0;
	struct counter_base *base = counter_bases.lookup(&zero);

	if (!base)
		return;
	t->counting = 1;
	base->task = bpf_get_current_task();
	base->phase = phase_of(t);
	read_counters(base, 0, 0);
}

/* An edge of the running thread, when the phase is not the one that its counts are of. */
static __always_inline void counter_edge(struct thread *t, u32 tid)
{
	u64 task = bpf_get_current_task();
	u32 zero = 0, phase;
	struct counter_base *base;

#ifdef ATTACHING
	if (!t->counting && !t->exiting) {
		begin_counting(t); /* it was there before us */
		return;
	}
#endif
	if (!t->counting)
		return;
	base = counter_bases.lookup(&zero);
	if (!base || base->task != task)
		return; /* told as lost when it leaves the CPU */
	phase = phase_of(t);
	if (base->phase == phase)
		return;
	read_counters(base, counted_of(tid, base->phase), 0);
	base->phase = phase;
}

/* The thread ends: as for perf, what comes after is not its own. */
static __always_inline void end_counting(struct thread *t, u32 tid)
{
	u32 zero = 0;
	struct counter_base *base = counter_bases.lookup(&zero);

	if (!base || !t->counting)
		return;
	t->counting = 0;
	if (base->task != bpf_get_current_task()) {
		lose_other(LOST_COUNTERS);
		return;
	}
	read_counters(base, counted_of(tid, base->phase), 0);
	base->task = 0;
}

/* At a switch. `was_counting`: the thread that leaves is one of ours; `t`: the one that comes, or NULL. */
static __always_inline void switch_counters(u64 previous, u32 tid, u32 was_counting, u64 next, struct thread *t)
{
	struct counter_base *base;
	struct counted *c = 0;
	u32 zero = 0, counts;

#ifdef ATTACHING
	if (t && !t->exiting)
		t->counting = 1;
#endif
	counts = t && t->counting;
	if (!was_counting && !counts)
		return;
	base = counter_bases.lookup(&zero);
	if (!base)
		return; /* cannot be: the map has one entry */
	if (was_counting && base->task == previous)
		c = counted_of(tid, base->phase);
	else if (was_counting)
		lose_other(LOST_COUNTERS); /* the switch to it was not told: what it had since is not known */
	read_counters(base, c, COUNTERS_OF_SWITCHES);
	base->task = counts ? next : 0;
	base->phase = counts ? phase_of(t) : 0;
}

#else

static __always_inline void counter_edge(struct thread *t, u32 tid) {}
static __always_inline void begin_counting(struct thread *t) {}
static __always_inline void end_counting(struct thread *t, u32 tid) {}
static __always_inline void switch_counters(u64 previous, u32 tid, u32 was_counting, u64 next, struct thread *t) {}

#endif
