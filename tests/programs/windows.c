/* A decoder whose threads meet at a barrier a known number of times in each call.
 *
 * windows KIND THREADS CALLS BARRIERS PAUSE_US: KIND is spin (its own ggml_barrier), futex (pthread_barrier_wait) or none.
 * Each thread prints how many it entered, a JSON line. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "truth.h"

struct pool {
	_Atomic int arrived, passed;
	int threads;
};

static struct pool pool;
static pthread_barrier_t sleeping;
static int barriers, pause_us;
static const char *kind;
static _Atomic int call, done, over;
static __thread uint64_t entered;

__attribute__((noinline)) void ggml_barrier(struct pool *p)
{
	int before = p->passed;

	if (p->threads == 1)
		return;
	if (++p->arrived == p->threads) {
		p->arrived = 0;
		p->passed++;
		return;
	}
	while (p->passed == before)
		sched_yield();
}

static void work(void)
{
	for (int i = 0; i < barriers; i++) {
		for (volatile int j = 0; j < 2000; j++)
			;
		if (!strcmp(kind, "spin"))
			ggml_barrier(&pool);
		else if (!strcmp(kind, "futex"))
			pthread_barrier_wait(&sleeping);
		entered++;
	}
}

static void *other(void *unused)
{
	int seen = 0;

	for (;;) {
		while (call == seen && !over)
			usleep(50);
		if (over)
			break;
		seen++;
		work();
		done++;
	}
	printf("{\"tid\": %d, \"entered\": %llu}\n", own_tid(), (unsigned long long)entered);
	return unused;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	done = 0;
	call++;
	work();
	while (done != pool.threads - 1)
		usleep(50);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	struct llama_batch batch = {.n_tokens = 1};

	if (argc != 6)
		return 2;
	kind = argv[1];
	pool.threads = atoi(argv[2]);
	barriers = atoi(argv[4]);
	pause_us = atoi(argv[5]);
	pthread_barrier_init(&sleeping, 0, pool.threads);
	for (int i = 1; i < pool.threads; i++)
		pthread_create(&threads[i], 0, other, 0);
	for (int i = 0; i < atoi(argv[3]); i++) {
		llama_decode(0, batch);
		llama_sampler_sample(0, 0, 0);
		usleep(pause_us);
	}
	over = 1;
	for (int i = 1; i < pool.threads; i++)
		pthread_join(threads[i], 0);
	printf("{\"tid\": %d, \"entered\": %llu}\n", own_tid(), (unsigned long long)entered);
	return 0;
}
