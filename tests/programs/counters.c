/* Threads that take turns, touch pages, sleep and are moved; perf's own counters of it all, for comparison.
 * counters THREADS TIMES: each thread touches TIMES pages, sleeps TIMES times and is moved to another CPU and back for each
 * ten of them. Prints what the threads but the first have had: events that they inherited, less those of the first alone. */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int times;

static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *work(void *argument)
{
	struct timespec moment = {.tv_nsec = 1000};
	volatile char *pages = mmap(0, times * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)argument;
	madvise((void *)pages, times * 4096L, MADV_NOHUGEPAGE);
	for (int i = 0; i < times; i++) {
		pages[i * 4096L] = 1;
		nanosleep(&moment, 0);
		if (i % 10 == 0) {
			run_on(1);
			run_on(0);
		}
	}
	return 0;
}

static int open_event(int config, int inherit)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = config, .inherit = inherit};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

int main(int argc, char **argv)
{
	static const int configs[] = {
		PERF_COUNT_SW_CONTEXT_SWITCHES, PERF_COUNT_SW_CPU_MIGRATIONS, PERF_COUNT_SW_PAGE_FAULTS, PERF_COUNT_SW_TASK_CLOCK,
	};
	static const char *names[] = {"context-switches", "cpu-migrations", "page-faults", "task-clock"};
	int n_threads = argc > 1 ? atoi(argv[1]) : 1, all[4], own[4];

	times = argc > 2 ? atoi(argv[2]) : 101;
	for (int i = 0; i < 4; i++) {
		all[i] = open_event(configs[i], 1);
		own[i] = open_event(configs[i], 0);
	}
	run_on(0);
	for (int i = 0; i < n_threads; i++) {
		pthread_t thread;

		pthread_create(&thread, 0, work, 0);
		pthread_join(thread, 0);
	}
	usleep(50000); /* a thread's counts come to its parent's when it has ended, a moment after it is joined */
	printf("{\"pid\": %d", getpid());
	for (int i = 0; i < 4; i++) {
		uint64_t of_all = 0, of_own = 0, stopped;

		/* the first thread stands still for both readings, but for the clock */
		stopped = read(all[i], &of_all, 8) == 8 && read(own[i], &of_own, 8) == 8;
		printf(", \"%s\": %ld", names[i], stopped ? (long)(of_all - of_own) : -1);
	}
	printf("}\n");
	return 0;
}
