/* Works for each line that it reads, with threads that were there before: `attended`. Prints a JSON object for each time. */
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define CALLS 101
#define PAGES 7
#define YIELDS 13
#define PAGE 4096ul

static pthread_barrier_t barrier;
static struct reading worker_readings[2];
static int worker_tid;
static char *memory;

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	for (int i = 0; i < PAGES; i++)
		*(volatile char *)(memory + (*(int *)context * PAGES + i) * PAGE) = 1;
	pthread_barrier_wait(&barrier);
	return batch.n_tokens;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

static void *worker(void *unused)
{
	worker_tid = own_tid();
	for (;;) {
		pthread_barrier_wait(&barrier);
		take_reading(&worker_readings[0]);
		for (int call = 0; call < CALLS; call++) {
			for (int i = 0; i < YIELDS; i++)
				sched_yield();
			pthread_barrier_wait(&barrier);
		}
		take_reading(&worker_readings[1]);
		pthread_barrier_wait(&barrier);
	}
	return unused;
}

int main(void)
{
	char line[16];
	pthread_t thread;
	struct reading readings[2];

	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	pthread_barrier_init(&barrier, 0, 2);
	pthread_create(&thread, 0, worker, 0);
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		memory = mmap(0, CALLS * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pthread_barrier_wait(&barrier);
		take_reading(&readings[0]);
		for (int call = 0; call < CALLS; call++) {
			struct llama_batch batch = {.n_tokens = call ? 1 : 8};
			llama_decode(&call, batch);
			llama_sampler_sample(0, 0, 0);
		}
		take_reading(&readings[1]);
		pthread_barrier_wait(&barrier);
		munmap(memory, CALLS * PAGES * PAGE);
		printf("{\"main\": [");
		print_reading(&readings[0]);
		printf(", ");
		print_reading(&readings[1]);
		printf("], \"worker_tid\": %d, \"worker\": [", worker_tid);
		print_reading(&worker_readings[0]);
		printf(", ");
		print_reading(&worker_readings[1]);
		printf("]}\n");
		fflush(stdout);
	}
	return 0;
}
