/* Flushes the TLB a known number of times, inside llama_decode(): `tlb KIND TIMES`, while another thread of the process
 * runs on another CPU where there is one. Pages lie in the middle of memory that stays, so no page table is freed.
 *
 * protect: a written page is made read-only; discard: MADV_DONTNEED of three written pages; unmap: munmap of one;
 * large: MADV_DONTNEED of 64 (more than the 33 that are flushed one by one); alone: protect, without another thread;
 * nothing: mprotect and munmap of pages that were never touched. */
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define LARGE 64ul

static const char *kind;
static int times;
static atomic_int running, over;
static int other_tid;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set); /* fails where that CPU is not ours: then both share one */
}

static void *run_beside(void *nothing)
{
	pin(1);
	other_tid = own_tid();
	atomic_store(&running, 1);
	while (!atomic_load(&over))
		;
	return nothing;
}

static void check(int failed)
{
	if (failed)
		abort();
}

static void write_pages(char *p, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		((volatile char *)p)[i * PAGE] = 1;
}

static void protect(char *p)
{
	for (int i = 0; i < times; i++) {
		write_pages(p, 1);
		check(mprotect(p, PAGE, PROT_READ));
		check(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	}
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	char *memory = context, *p = memory + LARGE * PAGE;

	(void)batch;
	if (!strcmp(kind, "protect") || !strcmp(kind, "alone"))
		protect(p);
	for (int i = 0; i < times && !strcmp(kind, "discard"); i++) {
		write_pages(p, 3);
		check(madvise(p, 3 * PAGE, MADV_DONTNEED));
	}
	for (int i = 0; i < times && !strcmp(kind, "large"); i++) {
		write_pages(p, LARGE);
		check(madvise(p, LARGE * PAGE, MADV_DONTNEED));
	}
	for (int i = 0; i < times && !strcmp(kind, "unmap"); i++) {
		write_pages(p, 1);
		check(munmap(p, PAGE));
		check(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p);
	}
	for (int i = 0; i < times && !strcmp(kind, "nothing"); i++) {
		check(mprotect(p, PAGE, PROT_READ));
		check(munmap(p, PAGE));
		check(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p);
	}
	return 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	(void)sampler, (void)context;
	return index;
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 1};
	unsigned long bytes = 3 * LARGE * PAGE;
	pthread_t other;
	char *memory;

	if (argc != 3)
		return 2;
	kind = argv[1];
	times = atoi(argv[2]);
	pin(0);
	memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(memory == MAP_FAILED);
	check(madvise(memory, bytes, MADV_NOHUGEPAGE));
	write_pages(memory, LARGE);
	write_pages(memory + 2 * LARGE * PAGE, LARGE);
	if (strcmp(kind, "alone")) {
		pthread_create(&other, 0, run_beside, 0);
		while (!atomic_load(&running))
			sched_yield();
	}
	llama_decode(memory, batch);
	llama_sampler_sample(0, 0, 0);
	atomic_store(&over, 1);
	if (other_tid)
		pthread_join(other, 0);
	printf("{\"pid\": %d, \"tid\": %d, \"other_tid\": %d}\n", getpid(), own_tid(), other_tid);
	return 0;
}
