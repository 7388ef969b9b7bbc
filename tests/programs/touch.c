/* Maps a file and reads one byte at each of the offsets that stand in another: `touch FILE OFFSETS`, one number a line.
 * Nothing is read ahead. It says where it is mapped, and that its faults are to be found between two moments. */
#include "truth.h"
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat status;
	int file = open(argv[1], O_RDONLY);
	FILE *offsets = fopen(argv[2], "r");
	unsigned long offset, touched = 0, sum = 0;
	volatile char *p;

	(void)argc;
	if (file < 0 || !offsets || fstat(file, &status))
		abort();
	p = mmap(0, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
	if (p == MAP_FAILED || madvise((void *)p, status.st_size, MADV_RANDOM))
		abort();
	close(file);
	while (fscanf(offsets, "%lu", &offset) == 1) {
		sum += p[offset];
		touched++;
	}
	printf("{\"touched\": %lu, \"sum\": %lu}\n", touched, sum);
	return 0;
}
