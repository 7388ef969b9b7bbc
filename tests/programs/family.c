/* Makes processes and threads, and says what each was: `family KIND [N]`. Of every child that was waited for, the
 * resources that wait4(2) gives: all of its life, by the kernel's own count. */
#include "truth.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define PAGE 4096ul

extern char **environ;
static const char *self;

/* `maps` mappings of `pages` pages each, all written to */
static void touch(int maps, int pages)
{
	for (int i = 0; i < maps; i++) {
		volatile char *p = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int j = 0; j < pages; j++)
			p[j * PAGE] = 1;
	}
}

/* Waits for a child and prints its life. `maps`: mmap calls that it made; -1: the dynamic linker made some too. */
static void wait_and_print(const char *name, pid_t pid, int maps)
{
	struct rusage u;
	int status;

	if (wait4(pid, &status, 0, &u) != pid)
		abort();
	printf("{\"name\": \"%s\", \"pid\": %d, \"status\": %d, \"maps\": %d, \"minor\": %ld, \"major\": %ld, "
	       "\"voluntary\": %ld, \"involuntary\": %ld}\n",
	       name, pid, status, maps, u.ru_minflt, u.ru_majflt, u.ru_nvcsw, u.ru_nivcsw);
}

static pid_t run(char *const arguments[])
{
	pid_t pid;

	fflush(stdout);
	if (posix_spawn(&pid, self, 0, 0, arguments, environ)) /* vfork */
		abort();
	return pid;
}

/* N forked children, some at a time */
static void children(int n)
{
	pid_t pids[8];

	for (int i = 0; i < n; i++) {
		int at = i % 8;
		fflush(stdout);
		pids[at] = fork();
		if (pids[at] == 0) {
			touch(i % 5, i % 17 + 1);
			if (i % 3 == 0)
				usleep(1000);
			_exit(i % 256);
		}
		if (at == 7 || i == n - 1)
			for (int j = 0; j <= at; j++)
				wait_and_print("child", pids[j], (i - at + j) % 5);
	}
}

/* A child that has the kernel get 512 MiB for it, and give them back when it is gone: it does nothing itself. */
static void large_child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(mmap(0, 512 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED);
	wait_and_print("large", pid, 1);
}

static struct {
	int tid, minor, major, voluntary, involuntary;
} threads[1024];

static void *thread(void *argument)
{
	long i = (long)argument;
	struct rusage u;

	threads[i].tid = own_tid();
	if (i % 3 == 0)
		usleep(2000);
	touch(i % 3 + 1, 11);
	getrusage(RUSAGE_THREAD, &u);
	threads[i].minor = u.ru_minflt;
	return 0;
}

/* In a process of its own: N threads, some at a time. Its own words on each thread come after. */
static void make_threads(int n)
{
	static pthread_t ids[1024];

	for (int i = 0; i < n; i += 50) {
		for (long j = i; j < i + 50 && j < n; j++)
			if (pthread_create(&ids[j], 0, thread, (void *)j))
				abort();
		for (int j = i; j < i + 50 && j < n; j++)
			pthread_join(ids[j], 0);
	}
	for (int i = 0; i < n; i++)
		printf("{\"name\": \"thread\", \"pid\": %d, \"tid\": %d, \"maps\": %d, \"minor\": %d}\n", getpid(), threads[i].tid,
		       i % 3 + 1, threads[i].minor);
}

static void *exec_here(void *arguments)
{
	execve(self, arguments, environ);
	abort();
}

static void *sleep_forever(void *argument)
{
	for (;;)
		pause();
	return argument;
}

/* exec by a thread that is not the leader, while others sleep, spin and work */
static void *spin_forever(void *argument)
{
	for (;;)
		touch(0, 0);
	return argument;
}

static void exec_from_thread(char *const arguments[])
{
	pthread_t id;

	touch(3, 101);
	prctl(PR_SET_NAME, "before");
	pthread_create(&id, 0, sleep_forever, 0);
	pthread_create(&id, 0, spin_forever, 0);
	pthread_create(&id, 0, exec_here, (void *)arguments);
	sleep_forever(0);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 0;

	self = argv[0];
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (!strcmp(kind, "leaf")) {
		touch(n, 7);
	} else if (!strcmp(kind, "children")) {
		children(n);
	} else if (!strcmp(kind, "large_child")) {
		large_child();
	} else if (!strcmp(kind, "threads")) {
		char *arguments[] = {argv[0], "make_threads", argv[2], 0};
		wait_and_print("process", run(arguments), -1);
	} else if (!strcmp(kind, "make_threads")) {
		make_threads(n);
	} else if (!strcmp(kind, "spawned")) {
		char *arguments[] = {argv[0], "leaf", "3", 0};
		for (int i = 0; i < n; i++)
			wait_and_print("process", run(arguments), -1);
	} else if (!strcmp(kind, "execs")) { /* a child that executes itself n times */
		char *arguments[] = {argv[0], "exec_again", argv[2], 0};
		wait_and_print("process", run(arguments), -1);
	} else if (!strcmp(kind, "exec_again")) {
		char left[16];
		char *arguments[] = {argv[0], n > 1 ? "exec_again" : "leaf", left, 0};
		snprintf(left, sizeof(left), "%d", n > 1 ? n - 1 : 5);
		touch(2, 13);
		execve(self, arguments, environ);
		abort();
	} else if (!strcmp(kind, "thread_execs")) {
		char *arguments[] = {argv[0], "exec_from_thread", 0};
		for (int i = 0; i < n; i++)
			wait_and_print("process", run(arguments), -1);
	} else if (!strcmp(kind, "exec_from_thread")) {
		char *arguments[] = {argv[0], "leaf", "3", 0};
		exec_from_thread(arguments);
	} else {
		return 2;
	}
	return 0;
}
