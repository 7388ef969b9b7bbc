/* An engine whose threads meet at barriers, and what it knows of that: `meet BARRIER PLANT THREADS CALLS ROUNDS LOG [TOKENS]`.
 *
 * BARRIER  spin: ggml's own, thread N on CPU N; futex: one that sleeps; pthread: the C library's; omp: gcc's OpenMP (with
 *          -fopenmp)
 * PLANT    none; busy: the last thread works a millisecond longer before every tenth barrier; sleep: it sleeps that long
 * Each of CALLS calls of llama_decode(), with TOKENS (1) tokens, takes THREADS threads through ROUNDS barriers. When all is over LOG is written:
 * the time (CLOCK_MONOTONIC, ns, 64 bits) before each barrier, by thread, call and round; and a JSON line for each thread:
 * its place, its number, how often it was delayed. */
#include "truth.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define MAX_THREADS 16
#define WORK_NS 30000
#define DELAY_NS 1000000

enum barrier { SPIN, FUTEX, PTHREAD, OMP };
static const char *barriers[] = {"spin", "futex", "pthread", "omp"};
static enum barrier kind;
static const char *plant;
static int n_threads, n_rounds, n_calls;
static pthread_barrier_t of_c_library;
static struct {
	int tid, delays;
	uint64_t *next, *arrivals_ns;
} known[MAX_THREADS];

struct state {
	_Atomic int arrived, passed;
};
static struct state barrier_state, start_state;

/* The last one lets the others go: they spin, or sleep. */
static void meet(struct state *s, int sleep)
{
	int passed = s->passed;

	if (atomic_fetch_add(&s->arrived, 1) == n_threads - 1) {
		s->arrived = 0;
		s->passed++;
		if (sleep)
			syscall(SYS_futex, &s->passed, FUTEX_WAKE_PRIVATE, MAX_THREADS, 0, 0, 0);
		return;
	}
	while (s->passed == passed) {
		if (sleep)
			syscall(SYS_futex, &s->passed, FUTEX_WAIT_PRIVATE, passed, 0, 0, 0);
		else
			__builtin_ia32_pause();
	}
}

__attribute__((noipa)) void ggml_barrier(struct state *s)
{
	if (n_threads == 1) /* as ggml has it: a place for a probe before others can see that this thread has come */
		return;
	meet(s, kind == FUTEX);
}

static void work(uint64_t ns)
{
	uint64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + ns;
	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end)
		;
}

static void compute(int place)
{
	for (int round = 0; round < n_rounds; round++) {
		work(WORK_NS);
		if (place == n_threads - 1 && round % 10 == 9 && strcmp(plant, "none")) {
			struct timespec delay = {0, DELAY_NS};
			if (*plant == 'b')
				work(DELAY_NS);
			else
				nanosleep(&delay, 0);
			known[place].delays++;
		}
		*known[place].next++ = clock_ns(CLOCK_MONOTONIC);
		if (kind == PTHREAD) {
			pthread_barrier_wait(&of_c_library);
		} else if (kind == OMP) {
#ifdef _OPENMP
#pragma omp barrier
#endif
		} else {
			ggml_barrier(&barrier_state);
		}
	}
}

static void settle(int place)
{
	cpu_set_t one;

	known[place].tid = own_tid();
	if (kind != SPIN)
		return;
	CPU_ZERO(&one);
	CPU_SET(place, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void *worker(void *place)
{
	settle((long)place);
	for (int call = 0; call < n_calls; call++) {
		meet(&start_state, 1);
		compute((long)place);
	}
	return 0;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
#ifdef _OPENMP
	if (kind == OMP) {
#pragma omp parallel num_threads(n_threads)
		{
			if (!known[omp_get_thread_num()].tid)
				settle(omp_get_thread_num());
			compute(omp_get_thread_num());
		}
		return batch.n_tokens;
	}
#endif
	meet(&start_state, 1);
	compute(0);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = argc > 7 ? atoi(argv[7]) : 1};
	pthread_t threads[MAX_THREADS];

	if (argc < 7 || atoi(argv[3]) > MAX_THREADS)
		return 2;
	while (strcmp(barriers[kind], argv[1]))
		if (kind++ == OMP)
			return 2;
	plant = argv[2], n_threads = atoi(argv[3]), n_calls = atoi(argv[4]), n_rounds = atoi(argv[5]);
	size_t size = sizeof(uint64_t) * n_calls * n_rounds;
	for (int i = 0; i < n_threads; i++) /* written to now: not to fault later */
		known[i].next = known[i].arrivals_ns = memset(malloc(size), 1, size);
	pthread_barrier_init(&of_c_library, 0, n_threads);
	for (long i = 1; i < n_threads && kind != OMP; i++)
		pthread_create(&threads[i], 0, worker, (void *)i);
	if (kind != OMP)
		settle(0);
	for (int call = 0; call < n_calls; call++) {
		llama_decode(&batch, batch);
		llama_sampler_sample(0, 0, 0);
	}
	for (int i = 1; i < n_threads && kind != OMP; i++)
		pthread_join(threads[i], 0);
	FILE *log = fopen(argv[6], "w");
	if (!log)
		return 3;
	for (int i = 0; i < n_threads; i++) {
		fwrite(known[i].arrivals_ns, size, 1, log);
		printf("{\"place\": %d, \"tid\": %d, \"delays\": %d}\n", i, known[i].tid, known[i].delays);
	}
	return fclose(log) ? 3 : 0;
}
