/* Decodes a token of some 20 ms, again and again. */
#include "truth.h"

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	uint64_t until = clock_ns(CLOCK_THREAD_CPUTIME_ID) + 5000000;

	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < until)
		;
	usleep(15000);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	for (;;) {
		struct llama_batch batch = {.n_tokens = 1};
		llama_decode(argv, batch);
		llama_sampler_sample(argv, argv, argc);
	}
}
