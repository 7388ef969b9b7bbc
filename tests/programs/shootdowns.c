/* A thread on each CPU that gives back pages which the others may have in their TLBs, without an end: `shootdowns`. An
 * interrupt for that, which comes while one is being sent and traced, fires the same tracepoint again. */
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#define PAGE 4096ul

static void *give_back(void *argument)
{
	long cpu = (long)argument;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return 0; /* not one of ours */
	volatile char *p = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (;;) {
		*p = 1;
		madvise((void *)p, PAGE, MADV_DONTNEED);
	}
}

int main(void)
{
	pthread_t thread;

	for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++)
		if (pthread_create(&thread, 0, give_back, (void *)cpu))
			abort();
	for (;;)
		pause();
}
