/* Processes and threads by the thousand: `storm forks N`, `storm execs N PROGRAM`, `storm alive N`, `storm quick N`, and
 * `storm ends N`, of processes that end while all their threads run.
 * Prints what each child's life was by wait4(2), and what each thread has done by its own sums and getrusage(2). */
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define PAGE 4096ul
#define MAX 8192
#define AT_ONCE 25

static struct life {
	int pid, status, maps, yields, reads;
	struct rusage usage;
} lives[MAX];
static int zero;
static pthread_barrier_t all_alive;

static void print(const char *name, const struct life *l)
{
	const struct rusage *u = &l->usage;
	printf("{\"name\": \"%s\", \"pid\": %d, \"tid\": %d, \"status\": %d, \"maps\": %d, \"yields\": %d, \"reads\": %d, "
	       "\"minor\": %ld, \"major\": %ld, \"voluntary\": %ld, \"involuntary\": %ld}\n",
	       name, *name == 't' ? getpid() : l->pid, l->pid, l->status, l->maps, l->yields, l->reads, u->ru_minflt, u->ru_majflt,
	       u->ru_nvcsw, u->ru_nivcsw);
}

static void work(struct life *l, int i)
{
	char byte;

	l->maps = i % 5;
	l->yields = i % 3;
	l->reads = i % 7;
	for (int map = 0; map < l->maps; map++) {
		volatile char *p = mmap(0, 11 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 0; page < 11; page++)
			p[page * PAGE] = 1;
	}
	for (int turn = 0; turn < l->yields; turn++)
		syscall(SYS_sched_yield);
	for (int turn = 0; turn < l->reads; turn++)
		if (read(zero, &byte, 1) != 1)
			abort();
}

static void *spin(void *argument)
{
	pthread_barrier_wait(&all_alive);
	for (;;)
		;
	return argument;
}

static void end_while_threads_run(struct life *l, int i)
{
	pthread_t ids[2];

	work(l, i);
	pthread_barrier_init(&all_alive, 0, 3);
	for (int j = 0; j < 2; j++)
		if (pthread_create(&ids[j], 0, spin, 0))
			abort();
	pthread_barrier_wait(&all_alive);
}

static void children(int n, const char *program, void (*live)(struct life *, int))
{
	char maps[8], yields[8];
	char *arguments[] = {(char *)program, maps, yields, 0}, *environment[] = {0};
	struct life ignored;

	for (int i = 0; i < n; i++) {
		struct life *l = &lives[i];
		if (program) {
			l->maps = i % 5;
			l->yields = i % 3;
			snprintf(maps, sizeof(maps), "%d", l->maps);
			snprintf(yields, sizeof(yields), "%d", l->yields);
		} else {
			l->maps = i % 5, l->yields = i % 3, l->reads = i % 7;
		}
		l->pid = fork();
		if (l->pid == 0) {
			if (program) {
				execve(program, arguments, environment);
				_exit(127);
			}
			live(&ignored, i);
			_exit(i % 256);
		}
		if (i % AT_ONCE == AT_ONCE - 1 || i == n - 1)
			for (int j = i - i % AT_ONCE; j <= i; j++)
				if (wait4(lives[j].pid, &lives[j].status, 0, &lives[j].usage) != lives[j].pid)
					abort();
	}
	for (int i = 0; i < n; i++)
		print("child", &lives[i]);
}

static void *thread(void *argument)
{
	struct life *l = argument;

	l->pid = own_tid();
	work(l, l - lives);
	if (l->status)
		pthread_barrier_wait(&all_alive);
	getrusage(RUSAGE_THREAD, &l->usage);
	return 0;
}

static void threads(int n, int at_once)
{
	static pthread_t ids[MAX];
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 << 10);
	pthread_barrier_init(&all_alive, 0, n);
	for (int i = 0; i < n; i += at_once) {
		for (int j = i; j < i + at_once && j < n; j++) {
			lives[j].status = at_once == n;
			if (pthread_create(&ids[j], &attributes, thread, &lives[j]))
				abort();
		}
		for (int j = i; j < i + at_once && j < n; j++)
			pthread_join(ids[j], 0);
	}
	for (int i = 0; i < n; i++)
		print("thread", &lives[i]);
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0;

	if (n < 1 || n > MAX)
		return 2;
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	zero = open("/dev/zero", O_RDONLY);
	if (!strcmp(argv[1], "alive") || !strcmp(argv[1], "quick")) {
		struct life whole = {.pid = fork()};
		if (whole.pid == 0) {
			threads(n, argv[1][0] == 'a' ? n : AT_ONCE);
			return 0;
		}
		if (wait4(whole.pid, &whole.status, 0, &whole.usage) != whole.pid)
			abort();
		print("process", &whole);
	} else {
		children(n, argc > 3 ? argv[3] : 0, strcmp(argv[1], "ends") ? work : end_while_threads_run);
	}
	return 0;
}
