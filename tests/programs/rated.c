/* rated TOKENS CALLS SPREAD STEPS: llama_decode() calls rated_call() a number of times that differs from token to token by at
 * most SPREAD, with nothing beside it. STEPS: how long a call takes; every eighth takes eight times as long.
 * Prints a JSON line for each token: when it began and ended, its CPU time, and how often it called. */
#include "truth.h"

struct token {
	uint64_t begin_ns, end_ns, cpu_ns;
	int calls;
};

static struct token *tokens;
static int made, calls, spread, steps;

__attribute__((noipa)) int rated_call(int turns)
{
	unsigned value = turns;

	for (int i = 0; i < turns; i++) {
		value = value * 1103515245u + 12345u;
		__asm__ volatile("" : "+r"(value)); /* one after the other, in a register */
	}
	return value & 1;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	struct token *own = &tokens[made];

	/* no token says anything of the next one: the finalizer of MurmurHash3 */
	unsigned mixed = (made + 1) * 0x9e3779b1u;
	mixed = (mixed ^ mixed >> 16) * 0x85ebca6bu;
	mixed = (mixed ^ mixed >> 13) * 0xc2b2ae35u;
	mixed ^= mixed >> 16;
	own->calls = calls - spread + (int)(mixed % (2 * spread + 1));
	made++;
	own->begin_ns = clock_ns(CLOCK_MONOTONIC);
	own->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < own->calls; i++)
		rated_call(i % 8 ? steps : 8 * steps);
	own->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - own->cpu_ns;
	own->end_ns = clock_ns(CLOCK_MONOTONIC);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 1};

	if (argc != 5)
		return 2;
	tokens = calloc(atoi(argv[1]), sizeof(*tokens));
	calls = atoi(argv[2]);
	spread = atoi(argv[3]);
	steps = atoi(argv[4]);
	for (int i = 0; i < atoi(argv[1]); i++) {
		llama_decode(0, batch);
		llama_sampler_sample(0, 0, 0);
	}
	for (int i = 0; i < made; i++)
		printf("{\"begin_ns\": %llu, \"end_ns\": %llu, \"cpu_ns\": %llu, \"calls\": %d}\n",
		       (unsigned long long)tokens[i].begin_ns, (unsigned long long)tokens[i].end_ns,
		       (unsigned long long)tokens[i].cpu_ns, tokens[i].calls);
	return 0;
}
