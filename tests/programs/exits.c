/* Many threads that compete for the CPUs and end: `exits THREADS MS [wait]`. Each computes for MS ms of CPU time, touches
 * pages of its own and sleeps a known number of times. With `wait` the process then sleeps until it is ended; not by SIGINT. */
#include "truth.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define MAX 1024

static struct {
	pthread_t thread;
	int tid, sleeps, pages;
	struct reading at_end;
} all[MAX];
static long budget_ms;

static void *compete(void *argument)
{
	long i = (long)argument;

	all[i].tid = own_tid();
	all[i].sleeps = i % 7;
	all[i].pages = i % 13 + 1;
	open_schedstat();
	volatile char *p = mmap(0, all[i].pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int page = 0; page < all[i].pages; page++)
		p[page * PAGE] = 1;
	for (int turn = 0; turn < all[i].sleeps; turn++)
		usleep(100);
	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < budget_ms * 1000000ull)
		;
	take_reading(&all[i].at_end);
	return 0;
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[1]) : 0;

	if (n < 1 || n > MAX)
		return 2;
	budget_ms = atol(argv[2]);
	for (long i = 0; i < n; i++)
		if (pthread_create(&all[i].thread, 0, compete, (void *)i))
			abort();
	for (int i = 0; i < n; i++)
		pthread_join(all[i].thread, 0);
	for (int i = 0; i < n; i++) {
		printf("{\"pid\": %d, \"tid\": %d, \"sleeps\": %d, \"pages\": %d, \"end\": ", getpid(), all[i].tid,
		       all[i].sleeps, all[i].pages);
		print_reading(&all[i].at_end);
		printf("}\n");
	}
	fflush(stdout);
	if (argc > 3) {
		signal(SIGINT, SIG_IGN); /* as a program that is interrupted from the terminal and goes on */
		pause();
	}
	return 0;
}
