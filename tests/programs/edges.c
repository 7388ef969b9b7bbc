/* 31 calls of llama_decode() of 10 ms, with sleeps of 5 ms between them, while other threads do one thing all the time:
 * sleep, spin, wait for a futex, read() from a pipe that nobody writes to. What they do lasts over many phases. */
#include "truth.h"
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>

static _Atomic int stop, started, word = 1;
static int pipe_ends[2];

static void begin_thread(const char *name)
{
	printf("{\"name\": \"%s\", \"pid\": %d, \"tid\": %d}\n", name, getpid(), own_tid());
	atomic_fetch_add(&started, 1);
}

static void *sleeper(void *argument)
{
	struct timespec end;
	begin_thread("sleeper");
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += 1;
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, 0);
	return argument;
}

static void *spinner(void *argument)
{
	begin_thread("spinner");
	while (!atomic_load(&stop))
		;
	return argument;
}

static void *waiter(void *argument)
{
	begin_thread("waiter");
	syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, 0, 0, 0);
	return argument;
}

static void *reader(void *argument)
{
	char byte;
	begin_thread("reader");
	return read(pipe_ends[0], &byte, 1) < 0 ? argument : 0;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + 10000000;
	(void)context;
	(void)batch;
	while (clock_ns(CLOCK_MONOTONIC) < end)
		;
	return 0;
}

int main(void)
{
	static void *(*const bodies[])(void *) = {sleeper, spinner, waiter, reader};
	struct llama_batch batch = {.n_tokens = 1};
	pthread_t threads[4];

	if (pipe(pipe_ends))
		return 1;
	llama_decode(0, batch);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], 0, bodies[i], 0);
	while (atomic_load(&started) < 4)
		usleep(1000);
	usleep(20000); /* by now they are at it */
	for (int i = 0; i < 31; i++) {
		llama_decode(0, batch);
		usleep(5000);
	}
	llama_decode(0, batch);
	stop = 1;
	word = 2;
	syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	if (write(pipe_ends[1], "", 1) != 1)
		return 1;
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], 0);
	return 0;
}
