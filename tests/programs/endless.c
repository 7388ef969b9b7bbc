/* Decodes a token of some 20 ms, again and again, each in fresh memory; with an argument of so many µs, a quarter computed. */
#include "truth.h"
#include <sys/mman.h>

static unsigned long token_us = 20000;

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	uint64_t until = clock_ns(CLOCK_THREAD_CPUTIME_ID) + token_us * 250;

	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < until)
		;
	usleep(token_us * 3 / 4);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		token_us = strtoul(argv[1], NULL, 10);
	for (;;) {
		struct llama_batch batch = {.n_tokens = 1};
		char *fresh = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		fresh[0] = fresh[8192] = 1;
		munmap(fresh, 16384);
		llama_decode(argv, batch);
		llama_sampler_sample(argv, argv, argc);
	}
}
