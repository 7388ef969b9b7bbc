/* Calls of llama_decode() that go out of it on different ways, each told with the program's own clock: `ways N`. */
#include "truth.h"
#include <stdlib.h>

__attribute__((noipa)) static uint64_t work(int us)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + us * 1000ull;

	while (clock_ns(CLOCK_MONOTONIC) < end)
		;
	return end;
}

__attribute__((noipa)) static void complain(const char *text)
{
	work(50);
	if (fprintf(stderr, "%s\n", text) < 0)
		abort();
}

volatile uint64_t sink;

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	uint64_t *block = NULL, sum = 0;
	int result = 0;

	if (batch.n_tokens % 6 == 0)
		return -1;
	if (batch.n_tokens % 6 == 1)
		block = malloc(4096);
	for (int i = 0; i < 3; i++) {
		sum += work(100);
		if (batch.n_tokens % 6 == 2 && i == 1)
			goto out;
	}
	if (batch.n_tokens % 6 == 3) {
		complain("no room");
		result = 1;
	} else if (batch.n_tokens % 6 == 4) {
		sum = work(100) ^ sum;
		result = context != NULL;
	}
	sink = sum;
out:
	free(block);
	return result;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;

	for (int i = 0; i < n; i++) {
		struct llama_batch batch = {.n_tokens = i + 1};
		uint64_t begin_ns = clock_ns(CLOCK_MONOTONIC);
		llama_decode(argv, batch);
		uint64_t end_ns = clock_ns(CLOCK_MONOTONIC);
		printf("{\"pid\": %d, \"tid\": %d, \"n_tokens\": %d, \"begin_ns\": %llu, \"end_ns\": %llu}\n", getpid(), own_tid(),
		       i + 1, (unsigned long long)begin_ns, (unsigned long long)end_ns);
	}
	return 0;
}
