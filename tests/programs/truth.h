/* What a test program knows of itself: readings of its own thread, and counts of what it did.
 *
 * A reading is RUSAGE_THREAD between two readings of CLOCK_MONOTONIC. Work lies between four of them:
 *
 *     outer begin, llama_decode() { inner begin, work, inner end }, outer end
 *
 * so a counter of the phase is at least what the inner two differ by, at most what
 * the outer two differ by, and known exactly where those are the same. Everything is printed when all is over. */
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct reading {
	uint64_t before_ns, after_ns, cpu_ns, run_delay_ns;
	struct rusage usage;
};

enum edge { OUTER_BEGIN, INNER_BEGIN, INNER_END, OUTER_END, EDGES };

/* of this thread: set by open_schedstat(); 0: not read */
static __thread int schedstat_fd;

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static inline int own_tid(void)
{
	return syscall(SYS_gettid);
}

/* Time that this thread waited for a CPU, by the kernel itself; a read() is made for it at each reading. */
static inline void open_schedstat(void)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", own_tid());
	schedstat_fd = open(path, O_RDONLY);
}

static inline void take_reading(struct reading *r)
{
	char text[128] = "";
	unsigned long long on_cpu = 0, delay = 0;

	r->before_ns = clock_ns(CLOCK_MONOTONIC);
	getrusage(RUSAGE_THREAD, &r->usage);
	if (schedstat_fd > 0 && pread(schedstat_fd, text, sizeof(text) - 1, 0) > 0) {
		sscanf(text, "%llu %llu", &on_cpu, &delay);
		r->run_delay_ns = delay;
	}
	r->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	r->after_ns = clock_ns(CLOCK_MONOTONIC);
}

static inline void print_reading(const struct reading *r)
{
	const struct rusage *u = &r->usage;
	printf("{\"before_ns\": %llu, \"after_ns\": %llu, \"cpu_ns\": %llu, \"run_delay_ns\": %llu, \"minor\": %ld, "
	       "\"major\": %ld, \"voluntary\": %ld, \"involuntary\": %ld, \"system_us\": %lld, \"user_us\": %lld}",
	       (unsigned long long)r->before_ns, (unsigned long long)r->after_ns, (unsigned long long)r->cpu_ns,
	       (unsigned long long)r->run_delay_ns, u->ru_minflt, u->ru_majflt, u->ru_nvcsw, u->ru_nivcsw,
	       u->ru_stime.tv_sec * 1000000ll + u->ru_stime.tv_usec, u->ru_utime.tv_sec * 1000000ll + u->ru_utime.tv_usec);
}

static inline void print_readings(const struct reading readings[EDGES])
{
	for (int i = 0; i < EDGES; i++) {
		printf(i ? ", " : "[");
		print_reading(&readings[i]);
	}
	printf("]");
}

/* struct llama_batch as llama.h has it: 56 bytes, given by value. */
struct llama_batch {
	int32_t n_tokens;
	void *token, *embd, *pos, *n_seq_id, *seq_id, *logits;
};

#endif
