/* Children by other ways than fork(): `relatives N`. By turns vfork(), clone() with CLONE_PARENT (its parent is ours) and
 * clone() with CLONE_UNTRACED (a ptrace is not to follow). Each child maps, writes and yields; it tells its parent what its
 * own getrusage(2) was, through memory that they share. */
#include "truth.h"
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096ul
#define MAX 64

static volatile struct life {
	int pid, minor, done;
} *lives;

static void live(int i)
{
	struct rusage u;

	for (int map = 0; map < i % 5 + 1; map++) {
		volatile char *p = mmap(0, 17 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 0; page < 17; page++)
			p[page * PAGE] = 1;
	}
	for (int turn = 0; turn < i % 3; turn++)
		syscall(SYS_sched_yield);
	getrusage(RUSAGE_SELF, &u);
	lives[i].pid = syscall(SYS_getpid);
	lives[i].minor = u.ru_minflt;
	lives[i].done = 1;
	_exit(i);
}

/* as fork(), with other flags */
static pid_t clone_here(unsigned long flags)
{
	return syscall(SYS_clone, flags, 0, 0, 0, 0);
}

int main(int argc, char **argv)
{
	static const char *names[] = {"vfork", "parent", "untraced"};
	int n = argc > 1 ? atoi(argv[1]) : 0;
	pid_t pid;

	if (n < 1 || n > MAX)
		return 2;
	lives = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < n; i++) {
		pid = i % 3 == 0 ? vfork() : clone_here(i % 3 == 1 ? CLONE_PARENT : CLONE_UNTRACED | SIGCHLD);
		if (pid == 0)
			live(i);
		while (!lives[i].done)
			usleep(1000);
		if (i % 3 != 1 && waitpid(pid, 0, 0) != pid)
			return 3;
	}
	for (int i = 0; i < n; i++)
		printf("{\"name\": \"%s\", \"pid\": %d, \"maps\": %d, \"yields\": %d, \"minor\": %d, \"status\": %d}\n", names[i % 3],
		       lives[i].pid, i % 5 + 1, i % 3, lives[i].minor, i << 8);
	return 0;
}
