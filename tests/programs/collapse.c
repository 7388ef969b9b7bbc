/* Has the kernel make huge pages of small ones: `collapse BLOCKS` in as many blocks of 2 MiB. */
#define _GNU_SOURCE
#include "truth.h"
#include <errno.h>
#include <sys/mman.h>

#define HUGE (2ul << 20)

int main(int argc, char **argv)
{
	unsigned long blocks = argc > 1 ? strtoul(argv[1], 0, 10) : 7;
	char *p = mmap(0, (blocks + 1) * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int made = 0, refused = 0;

	p = (char *)(((unsigned long)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, blocks * HUGE, MADV_NOHUGEPAGE);
	for (unsigned long i = 0; i < blocks * HUGE; i += 4096)
		p[i] = 1;
	madvise(p, blocks * HUGE, MADV_HUGEPAGE);
	for (unsigned long i = 0; i < blocks; i++) {
		if (!madvise(p + i * HUGE, HUGE, 25 /* MADV_COLLAPSE */))
			made++;
		else if (errno == EINVAL)
			refused++;
	}
	printf("{\"made\": %d, \"refused\": %d}\n", made, refused);
	return 0;
}
