/* A short life with an end that can be looked up: `lines LIBRARY ENGINE END N MS CODE`.
 *
 * Prints N numbered lines, MS ms apart; among them it forks a child that prints a line of its own, and opens two
 * libraries: LIBRARY, and ENGINE, of which it calls llama_decode() after each further line. At last it writes its process
 * number, the lines and the code into the file END, and exits with CODE. */
#include "truth.h"
#include <dlfcn.h>
#include <sys/wait.h>

static void *open_library(const char *path)
{
	void *library = dlopen(path, RTLD_NOW);

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(90);
	}
	return library;
}

static void put(int i, const char *what)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%d %s\n", i, what);

	if (write(1, line, length) != length)
		exit(91);
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 1};
	int (*decode)(void *, struct llama_batch) = 0;

	if (argc != 7)
		return 92;
	int n = atoi(argv[4]), status;
	for (int i = 0; i < n; i++) {
		put(i, "line");
		if (i == n / 4) {
			pid_t child = fork();
			if (child == 0) {
				put(i, "child");
				_exit(17);
			}
			if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 17)
				return 93;
		} else if (i == n / 3) {
			open_library(argv[1]);
		} else if (i == n / 2) {
			decode = (int (*)(void *, struct llama_batch))dlsym(open_library(argv[2]), "llama_decode");
		}
		if (decode)
			decode(0, batch);
		usleep(atoi(argv[5]) * 1000);
	}
	FILE *end = fopen(argv[3], "w");
	if (!end || fprintf(end, "%d %d %s\n", getpid(), n, argv[6]) < 0 || fclose(end))
		return 94;
	return atoi(argv[6]);
}
