/* A small program, to be linked statically: `leaf [MAPS [YIELDS]]`. It maps and writes pages, yields, and ends with the
 * number of its mappings. */
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int maps = argc > 1 ? atoi(argv[1]) : 0, yields = argc > 2 ? atoi(argv[2]) : 0;

	for (int i = 0; i < maps; i++) {
		volatile char *p = mmap(0, 7 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 0; page < 7; page++)
			p[page * 4096] = 1;
	}
	for (int i = 0; i < yields; i++)
		sched_yield();
	return maps;
}
