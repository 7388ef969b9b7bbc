/* A library with the engine's entry points, to be opened late. */
#include "truth.h"

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	usleep(1000);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}
