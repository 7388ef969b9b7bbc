/* Decodes with the same CPU time for each token, on one CPU; or, as `tokens hog CPU PERCENT`, takes that share of a CPU.
 * Both before all others there, the hog before the decoding: what else the machine does is no part of it. `tokens CPU N
 * plain` leaves CPU and priority as they are, and prints the speed as engines do. */
#include "truth.h"
#include <sched.h>
#include <sys/prctl.h>

#define TOKEN_NS 4000000ull
#define HOG_NS 20000000ull

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	uint64_t until = clock_ns(CLOCK_THREAD_CPUTIME_ID) + TOKEN_NS;

	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < until)
		;
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

static void pin(int cpu, int priority)
{
	struct sched_param parameters = {.sched_priority = priority};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_FIFO, &parameters))
		exit(1);
}

static void hog(int percent)
{
	prctl(PR_SET_NAME, "planted-hog");
	for (;;) {
		uint64_t until = clock_ns(CLOCK_MONOTONIC) + HOG_NS * percent / 100;
		while (clock_ns(CLOCK_MONOTONIC) < until)
			;
		usleep(HOG_NS * (100 - percent) / 100 / 1000);
	}
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 8};

	if (argc == 4 && !strcmp(argv[1], "hog")) {
		pin(atoi(argv[2]), 11);
		hog(atoi(argv[3]));
	}
	int plain = argc == 4;
	if (!plain)
		pin(atoi(argv[1]), 10);
	uint64_t begin = 0;
	for (int i = 0; i <= atoi(argv[2]); i++) {
		llama_decode(argv, batch);
		llama_sampler_sample(argv, argv, 0);
		batch.n_tokens = 1;
		begin = begin ? begin : clock_ns(CLOCK_MONOTONIC);
	}
	double ms = (clock_ns(CLOCK_MONOTONIC) - begin) / 1e6;
	if (plain)
		printf("llama_perf_context_print: eval time = %.2f ms / %s runs (%.2f ms per token, %.2f tokens per second)\n", ms,
		       argv[2], ms / atoi(argv[2]), 1e3 * atoi(argv[2]) / ms);
	return 0;
}
