/* Deletes its own file, before or after it opens a library, and the library's once that is open; calls it then:
 * `vanishing LIBRARY before|after N`. */
#include "truth.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 5};
	char self[4096];

	if (argc != 4)
		return 2;
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[length > 0 ? length : 0] = 0;
	if (argv[2][0] == 'b' && unlink(self))
		return 3;
	void *library = dlopen(argv[1], RTLD_NOW);
	if (!library || unlink(argv[1]))
		return 4;
	if (argv[2][0] == 'a' && unlink(self))
		return 5;
	int (*decode)(void *, struct llama_batch) = (int (*)(void *, struct llama_batch))dlsym(library, "llama_decode");
	int (*sample)(void *, void *, int) = (int (*)(void *, void *, int))dlsym(library, "llama_sampler_sample");
	for (int i = 0; i < atoi(argv[3]); i++) {
		decode(library, batch);
		sample(0, 0, i);
		batch.n_tokens = 1;
	}
	printf("{\"pid\": %d, \"tid\": %d}\n", getpid(), own_tid());
	return 0;
}
