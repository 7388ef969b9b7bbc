/* What the kernel side sends: the one place where its layout is written.
 *
 * Python reads this file (bitnet_trace/recording/layout.py) and builds its numpy dtypes and enums from it,
 * so every declaration keeps to one form: `type name;` a line in structs, `NAME = value,` a line in enums.
 */
#ifndef BITNET_TRACE_RECORD_H
#define BITNET_TRACE_RECORD_H

/* ---- streamed events -------------------------------------------------------------------------------------
 * One size for all, so that a span of the ring is a numpy array. `ts_ns` is CLOCK_MONOTONIC at the END of what
 * is described; a duration reaches back from it. `phase` is the phase that the event's process was in. */
struct event {
	u64 ts_ns;
	u32 tid;
	u32 phase;
	u16 kind;
	u16 cpu;
	u32 arg0;
	u64 arg1;
	u64 arg2;
};

enum kind {
	/* ring `events`                    arg0                     arg1                  arg2            */
	KIND_FAULT = 1,		/* enum fault_flag          address               latency ns      */
	KIND_POPULATE = 2,	/* system call number       minor | major << 32   populated bytes */
	KIND_SWITCH_OUT = 3,	/* switch_flag|state<<8|wait_reason on-CPU ns    next tid        */
	KIND_SWITCH_IN = 4,	/* enum switch_flag         off-CPU ns            run-queue ns    */
	KIND_WAKEUP = 5,	/* waker's tid              target cpu            0               */
	KIND_MIGRATE = 6,	/* destination cpu          origin cpu            0               */
	KIND_FUTEX = 7,		/* operation | errno << 16  address               duration ns; wakes are not timed: 0 */
	KIND_READ = 8,		/* fd                       bytes, or -errno      duration ns     */
	KIND_YIELD = 9,		/* 0                        0                     duration ns     */
	KIND_SYSTEM_TIME = 10,	/* 0                        ns in kernel since the thread's last such record  0 */
	KIND_RSS = 11,		/* pid                      resident bytes        0               */
	KIND_IO_SUBMIT = 12,	/* opcode | enum io_flag    user data             0               */
	KIND_IO_COMPLETE = 13,	/* opcode | enum io_flag    result, or -errno     latency ns      */
	KIND_TLB = 14,		/* enum tlb_event           pages, -1: all        0               */
	KIND_FUTEX_WAKES = 15,	/* calls, one or more       address               threads woken; `ts_ns` is the first call's */
	/* memory calls: arg0 = pages, arg1 = page address | enum memory_detail or advice, arg2 = duration ns */
	KIND_MMAP = 16,
	KIND_MUNMAP = 17,
	KIND_MREMAP = 18,
	KIND_BRK = 19,
	KIND_MADVISE = 20,
	KIND_MPROTECT = 21,
	KIND_MLOCK = 22,
	KIND_BARRIER = 23,	/* index in meta.json's probes  the barrier object's address, or 0  0; at the entry, in windows only */
	/* what a record above has no room for; each comes before it, of the same thread and with the same `ts_ns` */
	KIND_MREMAP_FROM = 24,	/* pages before          page address          0               */
	KIND_FILE_READ = 25,	/* device               file offset | READ_DIRECT  inode: the bytes read are at it */
	KIND_COLLAPSE = 26,	/* enum scan_result | COLLAPSE_FILE  address, or 0  0; of memory of process `tid` */
	KIND_CACHE_ADDED = 27,	/* device               inode                 pages that came into the page cache */
	KIND_READAHEAD = 28,	/* device               inode                 pages asked for | READAHEAD_ASYNC */
	KIND_OPERATION = 29,	/* number of the operation  the tensor that it computes  that tensor's first source, or 0; as KIND_BARRIER */
	/* ring `phases`                    arg0                     arg1                  arg2            */
	KIND_PHASE_BEGIN = 32,	/* role                     context pointer       n_tokens | pid << 32 */
	KIND_PHASE_END = 33,	/* enum phase_end           0                     pid << 32       */
	KIND_PHASE_TOKENS = 34,	/* role                     0                     n_tokens | pid << 32 */
	KIND_PHASE_MARK = 35,	/* role                     argument              pid << 32       */
	KIND_MAX = 36,
};

/* In arg0 of KIND_OPERATION: the tensor could not be read. */
#define UNKNOWN_OPERATION 0xffff

/* Bit 31 of arg0, any kind with a duration, in counts mode: the event was counted in a kernel map already;
 * only its duration is carried here, because it reaches over a phase edge and has to be split. */
#define DURATION_ONLY 0x80000000

enum fault_flag {
	FAULT_MAJOR = 1,
	FAULT_KERNEL = 2,	/* raised in kernel mode (copy_to_user ...) */
	FAULT_WRITE = 4,
	FAULT_EXEC = 8,
	FAULT_FAILED = 16,	/* the exception had no handled fault: SIGSEGV, a fixup */
	FAULT_NO_LATENCY = 32,	/* the exception was not seen, only the handled fault */
};

enum switch_flag {
	SWITCH_VOLUNTARY = 1,
	SWITCH_PREEMPT = 2,	/* preempted in kernel mode or by the scheduler's tick */
	SWITCH_MIGRATED = 4,	/* in: runs on another CPU than before */
	SWITCH_OPEN = 8,	/* no real switch: what was under way when the recording ended, closed there */
	SWITCH_EXIT = 16,	/* out: the thread's last */
	SWITCH_IN_KERNEL = 32,	/* out: a thread that never is in user mode (io_uring's), all its CPU time is the kernel's */
	SWITCH_LATE = 64,	/* in: was missed, and found out at the switch away */
};

/* above the opcode, which is 8 bits */
enum io_flag {
	IO_BYTES = 256,		/* a positive result is a number of bytes */
	IO_POLLED = 512,	/* submitted by the ring's polling thread */
	IO_WORKER = 1024,	/* was given to a worker thread: it would have blocked, or the program asked for that */
	IO_NO_LATENCY = 2048,	/* its submission was not seen */
	IO_MORE = 4096,		/* not a request's end: a multishot request that goes on, or a message of another ring */
};
#define IO_UNKNOWN_OPCODE 255

enum tlb_event {
	TLB_BEGUN = 1,		/* a flush, on the CPU that asked for it */
	TLB_IPI_SENT = 2,	/* other CPUs were asked to flush: once, however many they are */
	TLB_RECEIVED = 3,	/* a flush that another CPU asked for */
};

/* the low 12 bits of a memory call's address word (addresses are page-aligned) */
enum memory_detail {
	MEMORY_READ = 1,
	MEMORY_WRITE = 2,
	MEMORY_EXEC = 4,
	MEMORY_SHARED = 8,
	MEMORY_ANONYMOUS = 16,
	MEMORY_FIXED = 32,
	MEMORY_POPULATE = 64,
	MEMORY_LOCKED = 128,
	MEMORY_HUGETLB = 256,
	MEMORY_FAILED = 512,	/* the call returned an error; every memory call sets it */
	MEMORY_STACK = 1024,	/* MAP_STACK: what C libraries ask for a thread's stack */
};

#define COLLAPSE_FILE 0x100	/* in KIND_COLLAPSE: of a file or shared memory */
#define READAHEAD_ASYNC 0x8000000000000000	/* in KIND_READAHEAD: ahead of need, nobody waits for it */

/* Bit 63 of the offset in KIND_FILE_READ: past the page cache (O_DIRECT). */
#define READ_DIRECT 0x8000000000000000

enum phase_end {
	END_RETURN = 1,		/* the function returned */
	END_NEXT = 2,		/* never seen to return (an exception passed it): closed at the next begin */
	END_EXIT = 3,		/* the thread or the process ended */
	END_GAP = 4,		/* a gap between calls, closed by the next call or because it turned idle */
};

/* Roles of probed functions, as probes/<engine>.toml name them (`role = "decode"`), in lower case without ROLE_. */
enum role {
	ROLE_STARTUP = 1,	/* from the process's first instruction; no probe */
	ROLE_GAP = 2,		/* between two calls; no probe */
	ROLE_IDLE = 3,		/* a gap whose thread went to sleep; no probe */
	ROLE_LOAD = 4,
	ROLE_INIT = 5,
	ROLE_DECODE = 6,
	ROLE_UBATCH = 7,	/* one micro-batch: adds its tokens to the decode call around it */
	ROLE_SAMPLE = 8,	/* mark: a token is sampled */
	ROLE_LOGITS = 9,	/* mark: logits are read */
	ROLE_WARMUP = 10,	/* mark: warm-up on (argument 1) or off (0) */
	ROLE_PERF_RESET = 11,	/* mark: the engine's own counters are reset, what was before is warm-up */
	ROLE_TEARDOWN = 12,
	ROLE_CLEAR = 14,	/* mark: the context's memory is cleared, what was not sampled before is thrown away */
	ROLE_BARRIER = 15,	/* threads wait for each other; probed in windows */
	ROLE_FUNCTION = 16,	/* asked for by name; calls are counted in windows */
	ROLE_ATTACHED = 17,	/* a process that ran before the tracer came, until its next call; no probe */
	ROLE_OPERATION = 18,	/* a thread begins its part of one node of the graph; probed in windows */
	ROLE_LINK_MAP = 13,	/* the dynamic linker changed the link map: new libraries to look at */
};

/* ---- counters ---------------------------------------------------------------------------------------------
 * One per thread and phase. `--detail counts` keeps them in a kernel map; `--detail events` folds the stream to
 * the very same columns in Python. All are sums but rss_peak_bytes, a maximum that belongs to the process. */
struct counters {
	u64 cpu_ns;
	u64 cpu_system_ns;
	u64 faults_user_minor;
	u64 faults_user_major;
	u64 faults_kernel_minor;
	u64 faults_kernel_major;
	u64 faults_populate_minor;
	u64 faults_populate_major;
	u64 faults_failed;
	u64 populated_bytes;
	u64 fault_ns;
	u64 switches_voluntary;
	u64 switches_involuntary;
	u64 wakeups;
	u64 migrations;
	u64 runq_wait_ns;
	u64 offcpu_ns;
	u64 futex_calls;
	u64 futex_wait_ns;
	u64 mmap_calls;
	u64 mmap_bytes;
	u64 munmap_calls;
	u64 munmap_bytes;
	u64 mremap_calls;
	u64 brk_calls;
	u64 madvise_calls;
	u64 mprotect_calls;
	u64 mlock_calls;
	u64 memory_calls_ns;
	u64 read_calls;
	u64 read_bytes;
	u64 read_ns;
	u64 sched_yield_calls;
	u64 rss_peak_bytes;
	u64 io_uring_submitted;
	u64 io_uring_completed;
	u64 io_uring_bytes;
	u64 io_uring_ns;	/* of requests from submission to completion: not of a thread, not split at phase edges */
	u64 tlb_flushes;
	u64 tlb_full_flushes;
	u64 tlb_flush_pages;	/* of those that are not full */
	u64 tlb_ipis_sent;
	u64 tlb_shootdowns_received;
};

struct counter_key {
	u32 tid;
	u32 phase;
};

/* ---- ring `samples`: where a thread was when the timer fired, or where it had waited -----------------------------
 * Stacks are of addresses, innermost first, 0 after the last: the instruction itself, then return addresses. A stack that
 * fills its array may go on. */
/* What a thread waits in: a number, or a system call's number and 1. In arg0 of KIND_SWITCH_OUT from this bit on. */
#define WAIT_REASON_SHIFT 19
enum wait_reason {
	WAIT_NONE = 0,
	WAIT_FAULT = 1023,	/* the largest: all bits of a reason */
};

struct sample {
	u64 ts_ns;
	u32 tid;
	u32 pid;
	u32 phase;
	u16 cpu;
	u16 reason;		/* enum wait_reason: 0 of the timer */
	u64 period_ns;		/* of the timer, or off the CPU */
	u64 kernel[40];		/* all 0: it was in user mode */
	u64 user[96];
};

/* ---- ring `tasks`: what happened to processes and their address spaces; rare, variable in meaning ----------- */
enum task_kind {
	TASK_FORK = 1,		/* value = parent's tid */
	TASK_EXEC = 2,		/* value = tid before the exec; text = file name */
	TASK_COMM = 3,		/* text = new name */
	TASK_EXIT = 4,		/* value = exit code of the thread, as wait() has it */
	TASK_MAP_FILE = 5,	/* address, length, offset, device, inode of a file mapping; text = last part of its name */
	/* Two that set the kernel's own accounting of a thread (taskstats), which is of its whole life and ends before the
	 * thread's last switch, against what was counted. value = voluntary | involuntary << 32 switches,
	 * length = run-queue ns, offset = on-CPU ns. */
	TASK_BEFORE = 6,	/* the kernel's, before counting began; also address = minor | major << 32 faults, inode = runs */
	TASK_AFTER = 7,		/* ours, between TASK_EXIT and the thread's last switch */
	/* A piece of a file's path, told when the file is first mapped or read: device, inode, text; value = level << 8 | piece.
	 * Level 0 is the last part of the path; a part that is longer than `text` comes in several pieces. */
	TASK_FILE_NAME = 9,
	/* What a thread asked of the scheduler, for thread `value` (0: itself): device = system call, length = errno; text = CPU
	 * mask, address = policy, offset = real-time priority, inode = nice: those that the call has. */
	TASK_ASKED = 10,
	TASK_SCHEDULED = 11,	/* what a thread has of these when it ends */
	TASK_TENSOR = 12,	/* what a tensor of the graph is called, at first and when it is another: address, text */
	TASK_PTRACED = 8,	/* traced by another program, value = its pid, text = its name; length = 1: was refused, for we do */
};

struct task_event {
	u64 ts_ns;
	u32 kind;
	u32 pid;
	u32 tid;
	u32 device;
	u64 value;
	u64 address;
	u64 length;
	u64 offset;
	u64 inode;
	char text[64];
};

#endif
