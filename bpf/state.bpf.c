/* What the kernel side remembers, and how it sends: maps, per-thread and per-process state, losses, emit().
 *
 * The files of this folder are compiled as one text, this one first. BCC rewrites map accesses only in the
 * text itself, so everything that touches a map is here or after here, and not in a header.
 */
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>
#include "record.h"

#define __always_inline inline __attribute__((always_inline))

/* ---- state ------------------------------------------------------------------------------------------------ */

/* A traced thread. Written only by programs that run as this thread, or that switch to or from it: no locks. */
struct thread {
	u64 task;		/* its task_struct: numbers change hands in an execve by a thread that is not the leader */
	u32 pid;
	u32 armed;		/* enum armed; 0 until the first program's execve: what our own child does before is not counted */
	/* scheduler */
	u64 on_ts;		/* on the CPU since */
	u64 off_ts;		/* off the CPU since */
	u64 runnable_ts;	/* waiting for a CPU since; 0: asleep */
	u64 run_delay_ns;	/* the kernel's own sum of waits for a CPU, likewise */
	u32 wake_unseen;	/* it is on the CPU and no wake-up was told that brought it there */
	u32 walked;		/* its stack is being followed: faults on the way are ours */
	u64 ran_ns;		/* the kernel's own sum of time on the CPU at the last switch */
	u64 voluntary;		/* the kernel's own counts at the last switch */
	u64 involuntary;
	u64 offcpu_ns;		/* all time off the CPU so far, to take it out of times in the kernel */
	u32 on_phase;
	u32 off_phase;
	u32 cpu;
	u32 exiting;
	u32 counting;		/* perf's counters are kept for it */
	/* after its end was told: its phase, as its process may be gone before its last switch, and what the kernel's
	 * accounting of it has no more */
	u32 exit_phase;
	u64 exit_ts;
	u64 late_switches;	/* voluntary | involuntary << 32 */
	u64 late_runq_ns;
	u64 late_cpu_ns;
	/* page fault being handled */
	u64 fault_ts;
	u64 fault_address;
	u64 fault_offcpu_ns;
	u32 fault_flags;
	u32 in_kernel;		/* not of a fault: a thread of io_uring, which never is in user mode */
	/* faults that the kernel has counted and we have sent */
	u64 minor;
	u64 major;
	/* system call being made */
	u64 call_ts;
	u64 call_offcpu_ns;
	u32 call_number;
	u32 call_phase;
	u64 call_arguments[4];	/* the arguments 0, 1, 2, 3 of those calls that are looked at */
	u64 call_file_bytes;	/* size of the mapped file beyond the offset, 0 when unknown */
	/* time in the kernel not yet sent */
	u64 system_ns;
	u32 system_phase;
	/* outermost open engine call */
	u32 engine_phase;	/* 0: none */
	u64 engine_sp;
	u64 engine_ip;
};

/* EXPECTED: a thread that ran before the tracer came (attach) and was not seen yet. Since `off_ts`, when it was entered,
 * it has not changed between running and not running, or it would have been seen. */
enum armed { ARMED = 1, EXPECTED = 2 };
enum leaving { LEAVES_VOLUNTARILY = 1, LEAVES_INVOLUNTARILY = 2 };

/* A traced process: the phase that it is in. */
struct process {
	u32 phase;
	u32 role;		/* enum role of that phase */
	u32 caller;		/* the thread that made the last engine call */
	u32 marked;		/* logits were read or a token sampled in this gap */
	u32 executing;		/* the last thread, but the leader, that has called execve */
	u32 unused;
	u64 threads;
	u64 rss_peak;		/* in this phase */
};

/* A phase: whether it is an engine call that is open still, and the call that was current when it began. */
struct phase_state {
	u32 previous;
	u32 open;
};

/* What a uprobe means: filled by user space, found by the probe's cookie. */
struct probe {
	u32 role;
	u32 action;
	u32 sp_offset;		/* bytes pushed since the function's entry */
	u32 condition;		/* what has to hold for a hit to count: a condition code of x86, plus 1; 0: nothing */
	u32 context_kind, context_register, context_offset;
	u32 tokens_kind, tokens_register, tokens_offset;
	u32 argument_kind, argument_register, argument_offset;
	u32 row;		/* its number among all probes of the recording */
};
enum probe_action { ACTION_BEGIN = 1, ACTION_END = 2, ACTION_MARK = 3, ACTION_TOKENS = 4, ACTION_HOLD = 5, ACTION_WINDOW = 6,
		    ACTION_WINDOW_END = 7 };
enum location_kind { LOCATION_NONE = 0, LOCATION_REGISTER = 1, LOCATION_MEMORY = 2 };

/* x86-64 numbers of the system calls that are looked at. */
enum call_number {
	CALL_READ = 0, CALL_MMAP = 9, CALL_MPROTECT = 10, CALL_MUNMAP = 11, CALL_BRK = 12, CALL_PREAD64 = 17,
	CALL_READV = 19, CALL_SCHED_YIELD = 24, CALL_MREMAP = 25, CALL_MADVISE = 28, CALL_EXECVE = 59,
	CALL_SETPRIORITY = 141, CALL_SETPARAM = 142, CALL_SETSCHEDULER = 144, CALL_SETAFFINITY = 203, CALL_SETATTR = 314,
	CALL_PTRACE = 101, CALL_MLOCK = 149, CALL_MUNLOCK = 150, CALL_MLOCKALL = 151, CALL_MUNLOCKALL = 152, CALL_FUTEX = 202,
	CALL_PREADV = 295, CALL_EXECVEAT = 322, CALL_MLOCK2 = 325, CALL_PREADV2 = 327, CALL_FUTEX_WAITV = 449,
	CALL_FUTEX_WAKE = 454, CALL_FUTEX_WAIT = 455, CALL_FUTEX_REQUEUE = 456,
	CALL_32_BIT = 1 << 30, /* not a number of the kernel's: a call by another table of numbers */
};

/* HELD: it stops when it changes its link map. LEAVING: it is about to be let go, and not to be stopped again. */
enum held_how { HELD = 1, LEAVING = 2 };
enum signal_number { SIGNAL_STOP = 19, SIGNAL_URG = 23 };

/* Where struct pt_regs has the arguments of a system call and its number. */
#define REGISTER_R10 56
#define REGISTER_R9 64
#define REGISTER_R8 72
#define REGISTER_CX 88
#define REGISTER_DX 96
#define REGISTER_SI 104
#define REGISTER_DI 112
#define REGISTER_CALL 120
#define REGISTER_IP 128

#define MAX_PROBES 1024

BPF_HASH(threads, u32, struct thread, THREADS_ENTRIES);
BPF_HASH(processes, u32, struct process, PROCESSES_ENTRIES);
BPF_HASH(held, u32, u32, PROCESSES_ENTRIES);		/* processes that our ptrace is on: enum held_how */
BPF_TABLE("lru_hash", u32, struct phase_state, phase_states, PHASES_ENTRIES);
BPF_ARRAY(phase_counter, u64, 1);
BPF_ARRAY(probes, struct probe, MAX_PROBES);
BPF_PERCPU_ARRAY(probe_hits, u64, MAX_PROBES);

BPF_RINGBUF_OUTPUT(events, EVENTS_PAGES);
BPF_RINGBUF_OUTPUT(phases, PHASES_PAGES);
BPF_RINGBUF_OUTPUT(tasks, TASKS_PAGES);
BPF_RINGBUF_OUTPUT(samples, SAMPLES_PAGES);

/* Nothing is lost in silence: what could not be sent or kept, by kind. */
BPF_PERCPU_ARRAY(lost_events, u64, KIND_MAX);
enum lost_other { LOST_TASK = 0, LOST_THREAD_STATE = 1, LOST_PROCESS_STATE = 2, LOST_COUNTERS = 3, LOST_PHASE = 4, LOST_IO_STATE = 5,
		 LOST_SAMPLE = 6,
		 LOST_TICK = 7, /* samples that the timer did not take in time: the kernel throttled it, or the CPU was away */
		 IO_OVERFLOWS = 8, /* not lost by us: io_uring's completions that found their ring full */
		 CALLS_32_BIT = 9, /* not looked at: 32-bit system calls */
		 LOST_MAX = 10 };
BPF_PERCPU_ARRAY(lost_others, u64, LOST_MAX);

/* What programs of others had our programs run for: it costs them, and not the target. */
enum others { OTHERS_RUNS = 0, OTHERS_CALLS = 1 /* ends of their system calls */, OTHERS_MAX = 2 };
BPF_PERCPU_ARRAY(others, u64, OTHERS_MAX);

/* The sampling timer of one CPU. */
struct sampler {
	u64 due;		/* when it should fire next, at the latest; 0: it never has */
	u64 ran_ns;		/* traced threads were on this CPU, up to the last switch away */
	u64 ran_before_ns;	/* of that, what was up to when it fired last */
	s64 missed_ns;		/* of theirs, where the timer should have fired; not yet counted as lost */
};
BPF_PERCPU_ARRAY(samplers, struct sampler, 1);

#ifdef DETAIL_COUNTS
#define COUNTING 1
BPF_HASH(counts, struct counter_key, struct counters, COUNTERS_ENTRIES);
BPF_ARRAY(no_counts, struct counters, 1); /* all zero; too large for the stack */
#else
#define COUNTING 0
#endif

/* A raw tracepoint's program. Not BCC's own macro: that one attaches by itself when it is loaded. */
#define TRACEPOINT(name) int on_##name(struct bpf_raw_tracepoint_args *ctx)

/* ---- small helpers ---------------------------------------------------------------------------------------- */

/* bpf_probe_read_user() by another name: at its own BCC searches all kernel symbols, a fifth of the time to compile. */
static long (*read_user_memory)(void *destination, u32 size, const void *source) = (void *)BPF_FUNC_probe_read_user;

#define READ_KERNEL(destination, base, offset) \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)(base) + (offset))

/* A word of a structure that a typed tracepoint's program was given: one load, checked when the program is loaded. The
 * helper above costs 20 to 40 ns. In assembler, because BCC makes the helper's call of everything that it sees. */
#define LOAD_WORD(base, offset) ({ \
	u64 word; \
	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(word) : "r"(base), "i"(offset)); \
	word; \
})

#define LOAD_HALF(base, offset) ({ \
	u32 half; \
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(half) : "r"(base), "i"(offset)); \
	half; \
})

/* The error number that a system call returns, 0 when it succeeded. */
static __always_inline u32 error_of(s64 result)
{
	return result < 0 && result > -4096 ? -result : 0;
}

static __always_inline u64 min_u64(u64 a, u64 b)
{
	return a < b ? a : b;
}

static __always_inline void count_others(u32 what, u64 runs)
{
	u64 *count = others.lookup(&what);
	if (count)
		*count += runs;
}

static __always_inline void lose_event(u32 kind)
{
	u64 *count = lost_events.lookup(&kind);
	if (count)
		(*count)++;
}

static __always_inline void lose_others(u32 what, u64 how_many)
{
	u64 *count = lost_others.lookup(&what);
	if (count)
		*count += how_many;
}

static __always_inline void lose_other(u32 what)
{
	lose_others(what, 1);
}

static __always_inline void fill(struct event *e, u16 kind, u32 tid, u32 phase, u64 ts_ns, u32 arg0, u64 arg1, u64 arg2)
{
	e->ts_ns = ts_ns;
	e->tid = tid;
	e->phase = phase;
	e->kind = kind;
	e->cpu = bpf_get_smp_processor_id();
	e->arg0 = arg0;
	e->arg1 = arg1;
	e->arg2 = arg2;
}

/* No wake-up: the reader comes by its own timer. A wake-up per event would trace itself. */
static __always_inline void emit(u16 kind, u32 tid, u32 phase, u64 ts_ns, u32 arg0, u64 arg1, u64 arg2)
{
	struct event *e = events.ringbuf_reserve(sizeof(struct event));
	if (!e) {
		lose_event(kind);
		return;
	}
	fill(e, kind, tid, phase, ts_ns, arg0, arg1, arg2);
	events.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* Phase edges have a ring of their own: a flood of events cannot push them out. */
static __always_inline void emit_phase(u16 kind, u32 tid, u32 phase, u64 ts_ns, u32 arg0, u64 arg1, u64 arg2)
{
	struct event *e = phases.ringbuf_reserve(sizeof(struct event));
	if (!e) {
		lose_event(kind);
		return;
	}
	fill(e, kind, tid, phase, ts_ns, arg0, arg1, arg2);
	phases.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* A place in the ring `tasks`, with what all its events have; NULL, and counted as lost, when it is full. */
static __always_inline struct task_event *reserve_task(u32 kind, u32 pid, u32 tid, u64 now)
{
	struct task_event *e = tasks.ringbuf_reserve(sizeof(struct task_event));
	if (!e) {
		lose_other(LOST_TASK);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->ts_ns = now;
	e->kind = kind;
	e->pid = pid;
	e->tid = tid;
	return e;
}
