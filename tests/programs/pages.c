/* Holds memory in pages of known sizes when it ends, and says how much: `pages KIND BYTES`. */
#define _GNU_SOURCE
#include "truth.h"
#include <sys/mman.h>
#include <sys/prctl.h>

#define HUGE (2ul << 20)

int main(int argc, char **argv)
{
	unsigned long bytes = strtoul(argv[2], 0, 10);
	int is_pool = !strcmp(argv[1], "hugetlb"), off = !strcmp(argv[1], "off");
	char *p;

	(void)argc;
	if (off && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		abort();
	p = mmap(0, bytes + (is_pool ? 0 : HUGE), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | (is_pool ? MAP_HUGETLB : 0), -1, 0);
	if (p == MAP_FAILED)
		return 3;
	if (!is_pool) {
		p = (char *)(((unsigned long)p + HUGE - 1) & ~(HUGE - 1));
		if (!strcmp(argv[1], "small") ? madvise(p, bytes, MADV_NOHUGEPAGE) : madvise(p, bytes, MADV_HUGEPAGE))
			abort();
	}
	for (unsigned long i = 0; i < bytes; i += 4096)
		p[i] = 1;
	/* what the kernel itself says of it */
	char line[256];
	unsigned long begin, end, kib, rss = 0, huge = 0, pool = 0;
	int inside = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			inside = begin < (unsigned long)p + bytes && end > (unsigned long)p;
		else if (!inside)
			continue;
		else if (sscanf(line, "Rss: %lu kB", &kib) == 1)
			rss += kib << 10;
		else if (sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			huge += kib << 10;
		else if (sscanf(line, "Private_Hugetlb: %lu kB", &kib) == 1)
			pool += kib << 10;
	}
	printf("{\"begin\": %lu, \"bytes\": %lu, \"rss\": %lu, \"huge\": %lu, \"pool\": %lu}\n", (unsigned long)p, bytes, rss, huge, pool);
	return 0;
}
