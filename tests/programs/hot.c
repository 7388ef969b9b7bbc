/* Functions that use the CPU for times that they know, and threads that wait for each other by spinning.
 *
 * hot work SECONDS: one thread; half of its CPU time in heavy(), three tenths in medium(), the rest in light().
 * hot spin SECONDS: two threads meet at a barrier; one works three times as long as the other, which waits with `pause`.
 * hot meet SECONDS: as spin, but the barrier is pthread's, where threads sleep.
 * A JSON line for each thread: tid, CPU time by clock, and what it knows of where that went, in ns. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile double sink;
static double seconds;

static long long cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define WORK(name) \
	__attribute__((noinline)) static void name(void) \
	{ \
		double x = sink; \
		for (int i = 0; i < 100000; i++) \
			x = x * 0.9999 + i; \
		sink = x; \
	}

WORK(heavy)
WORK(medium)
WORK(light)

/* Calls `work` until the thread has used so much CPU time; returns how much it was. */
static __attribute__((noinline)) long long use(void (*work)(void), long long ns)
{
	long long begin = cpu_ns(), now;
	do {
		work();
		now = cpu_ns();
	} while (now - begin < ns);
	return now - begin;
}

static _Atomic int arrived, generation;

static void barrier(void)
{
	int mine = generation;

	if (atomic_fetch_add(&arrived, 1) == 1) {
		arrived = 0;
		generation++;
		return;
	}
	while (generation == mine)
		__builtin_ia32_pause();
}

static pthread_barrier_t sleeping;
static int asleep;

static void wait_for_the_other(void)
{
	if (asleep)
		pthread_barrier_wait(&sleeping);
	else
		barrier();
}

static long long wall_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void *meet(void *slow)
{
	long long begin = cpu_ns(), worked = 0, waited = 0, slept = 0;
	static _Atomic int rounds;

	rounds = seconds / 0.006;
	wait_for_the_other();
	for (int i = 0; i < rounds; i++) {
		worked += use(slow ? heavy : light, slow ? 6000000 : 2000000);
		long long before = cpu_ns(), wall = wall_ns();
		wait_for_the_other();
		waited += cpu_ns() - before;
		slept += wall_ns() - wall;
	}
	printf("{\"tid\": %ld, \"cpu\": %lld, \"worked\": %lld, \"spun\": %lld, \"waited\": %lld}\n", syscall(SYS_gettid),
	       cpu_ns() - begin, worked, waited, slept);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	seconds = atof(argv[2]);
	asleep = !strcmp(argv[1], "meet");
	pthread_barrier_init(&sleeping, 0, 2);
	if (asleep || !strcmp(argv[1], "spin")) {
		pthread_t other;
		pthread_create(&other, 0, meet, 0);
		meet("slow");
		pthread_join(other, 0);
		return 0;
	}
	long long of[3] = {0, 0, 0};
	while (of[0] + of[1] + of[2] < seconds * 1e9) {
		of[0] += use(heavy, 50000000);
		of[1] += use(medium, 30000000);
		of[2] += use(light, 20000000);
	}
	printf("{\"tid\": %d, \"cpu\": %lld, \"heavy\": %lld, \"medium\": %lld, \"light\": %lld}\n", getpid(), cpu_ns(), of[0], of[1],
	       of[2]);
	return 0;
}
