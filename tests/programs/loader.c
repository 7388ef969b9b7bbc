/* Opens a library late and calls llama_decode() in it at once: `loader LIBRARY main|thread N MILLISECONDS`. */
#include "truth.h"
#include <dlfcn.h>
#include <pthread.h>

static const char *path;
static int n, wait_ms;

static void *open_and_call(void *argument)
{
	struct llama_batch batch = {.n_tokens = 5};
	void *library;
	int (*decode)(void *, struct llama_batch);
	int (*sample)(void *, void *, int);

	usleep(wait_ms * 1000);
	library = dlopen(path, RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	decode = (int (*)(void *, struct llama_batch))dlsym(library, "llama_decode");
	sample = (int (*)(void *, void *, int))dlsym(library, "llama_sampler_sample");
	for (int i = 0; i < n; i++) {
		decode(argument, batch);
		sample(argument, argument, i);
		batch.n_tokens = 1;
	}
	printf("{\"pid\": %d, \"tid\": %d}\n", getpid(), own_tid());
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 5)
		return 2;
	path = argv[1];
	n = atoi(argv[3]);
	wait_ms = atoi(argv[4]);
	if (!strcmp(argv[2], "main")) {
		open_and_call(&n);
	} else {
		pthread_create(&thread, 0, open_and_call, &n);
		pthread_join(thread, 0);
	}
	return 0;
}
