// Calls of llama_decode() that end in other ways than a plain return, each told with its own clock: `calls KIND N`.
#include "truth.h"
#include <pthread.h>
#include <stdexcept>

extern "C" int llama_decode(void *context, llama_batch batch);
extern "C" int llama_sampler_sample(void *sampler, void *context, int index);

static int depth;

static void spin_us(int us)
{
	for (uint64_t end = clock_ns(CLOCK_MONOTONIC) + us * 1000ull; clock_ns(CLOCK_MONOTONIC) < end;)
		;
}

__attribute__((noipa)) static int finish(void *context)
{
	spin_us(200);
	return context != nullptr;
}

__attribute__((noipa)) static void work(int n_tokens, void *context)
{
	llama_batch inner = {};

	inner.n_tokens = 1;
	spin_us(200);
	if (depth > 0) {
		depth--;
		llama_decode(context, inner);
		depth++;
	}
	if (n_tokens % 3 == 0)
		throw std::runtime_error("through the frame");
}

// returns by a jump to finish(), or is left by an exception
extern "C" __attribute__((noipa)) int llama_decode(void *context, llama_batch batch)
{
	work(batch.n_tokens, context);
	return finish(context);
}

extern "C" __attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

static void call(void *context, int n_tokens, bool sample)
{
	llama_batch batch = {};
	bool thrown = false;
	uint64_t begin_ns, end_ns;

	batch.n_tokens = n_tokens;
	begin_ns = clock_ns(CLOCK_MONOTONIC);
	try {
		llama_decode(context, batch);
	} catch (const std::exception &) {
		thrown = true;
	}
	end_ns = clock_ns(CLOCK_MONOTONIC);
	if (sample)
		llama_sampler_sample(context, context, 0);
	static pthread_mutex_t one_line = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&one_line);
	printf("{\"pid\": %d, \"tid\": %d, \"n_tokens\": %d, \"thrown\": %d, \"begin_ns\": %llu, \"end_ns\": %llu}\n", getpid(),
	       own_tid(), n_tokens, thrown, (unsigned long long)begin_ns, (unsigned long long)end_ns);
	pthread_mutex_unlock(&one_line);
}

static int n;

static void *caller(void *argument)
{
	long which = (long)argument;

	for (int i = 0; i < n; i++) {
		call(argument, which == 1 ? 1 : 2, true);
		usleep(which == 1 ? 300 : 700);
	}
	return nullptr;
}

int main(int argc, char **argv)
{
	const char *kind = argc == 3 ? argv[1] : "";

	n = argc == 3 ? atoi(argv[2]) : 0;
	if (!strcmp(kind, "plain") || !strcmp(kind, "nested")) {
		depth = !strcmp(kind, "nested") ? 3 : 0;
		for (int i = 0; i < n; i++)
			call(&n, 1, true);
	} else if (!strcmp(kind, "throwing")) {
		for (int i = 0; i < n; i++)
			call(&n, i + 1, i % 2);
	} else if (!strcmp(kind, "overlapping")) {
		pthread_t threads[2];
		for (long i = 0; i < 2; i++)
			pthread_create(&threads[i], nullptr, caller, (void *)(i + 1));
		for (int i = 0; i < 2; i++)
			pthread_join(threads[i], nullptr);
	} else {
		return 2;
	}
	return 0;
}
