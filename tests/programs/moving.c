/* Touches memory that is mapped, moved, unmapped and mapped again, in several processes; says how many faults of which kind
 * that are at least. */
#define _GNU_SOURCE
#include "truth.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096ul
#define PAGES 211ul

static long anonymous, shared, stack;

static void touch(volatile char *p, unsigned long pages)
{
	for (unsigned long i = 0; i < pages; i++)
		p[i * PAGE] = 1;
}

static char *map(unsigned long pages, int flags, void *where)
{
	char *p = mmap(where, pages * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
	if (p == MAP_FAILED)
		abort();
	madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
	return p;
}

static void *thread(void *unused)
{
	volatile char room[64 * PAGE];

	(void)unused;
	for (unsigned long i = sizeof(room); i > 0; i -= PAGE)
		room[i - 1] = 1;
	return 0;
}

int main(void)
{
	pthread_t other;
	char *p = map(PAGES, MAP_PRIVATE, 0);

	touch(p, PAGES);
	p = mremap(p, PAGES * PAGE, 3 * PAGES * PAGE, MREMAP_MAYMOVE);
	if (p == MAP_FAILED)
		abort();
	touch(p + PAGES * PAGE, 2 * PAGES);
	anonymous += 3 * PAGES;
	/* the middle becomes shared */
	map(PAGES, MAP_SHARED | MAP_FIXED, p + PAGES * PAGE);
	touch(p + PAGES * PAGE, PAGES);
	shared += PAGES;
	if (fork() == 0) {
		/* written before: a copy of each page that is not shared; the shared ones are mapped */
		touch(p, PAGES);
		munmap(p, PAGES * PAGE);
		p = map(PAGES, MAP_PRIVATE | MAP_FIXED, p);
		touch(p, PAGES);
		_exit(0);
	}
	wait(0);
	anonymous += 2 * PAGES;
	if (pthread_create(&other, 0, thread, 0) || pthread_join(other, 0))
		abort();
	stack += 63;
	printf("{\"anonymous\": %ld, \"shared\": %ld, \"stack\": %ld}\n", anonymous, shared, stack);
	return 0;
}
