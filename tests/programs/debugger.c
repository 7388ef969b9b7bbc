/* Runs a program as a debugger does, or is one to itself: `debugger KIND COMMAND...`. The exit code is COMMAND's.
 *
 * traceme   the child asks to be traced, as under gdb
 * seize     the child stops itself and is seized there, with all that it starts, as under strace
 * running   the child is seized while it runs, thread by thread, and let go after a while, as by strace -p
 * itself    asks its own parent to trace it, and becomes COMMAND
 * refused   asks for what is refused to everybody, expects that, and becomes COMMAND */
#include "truth.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define FOLLOW (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)

static void fail(const char *what)
{
	fprintf(stderr, "debugger: %s: %s\n", what, strerror(errno));
	exit(97);
}

static void become(char **command)
{
	execvp(command[0], command);
	fail(command[0]);
}

static int code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Until the child has ended: everything goes on that stops. */
static int debug(pid_t child, int seized)
{
	int status, stops = 0, fresh = !seized;

	for (;;) {
		pid_t tid = waitpid(-1, &status, __WALL);
		if (tid < 0)
			fail("wait");
		if (WIFSTOPPED(status)) {
			int number = WSTOPSIG(status), event = status >> 16;
			stops++;
			if (event || (fresh && number == SIGTRAP)) /* the latter: an exec, in the old way */
				number = 0;
			fresh = 0;
			if (ptrace(PTRACE_CONT, tid, 0, number) && errno != ESRCH)
				fail("PTRACE_CONT");
		} else if (tid == child) {
			printf("{\"name\": \"debugger\", \"pid\": %d, \"child\": %d, \"stops\": %d}\n", getpid(), child, stops);
			fflush(stdout);
			return code_of(status);
		}
	}
}

/* Seizes all threads of a process that runs, and lets them go again. */
static void visit(pid_t child)
{
	char path[64];
	int tids[256], n = 0, status;
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/task", child);
	DIR *folder = opendir(path);
	while (folder && (entry = readdir(folder)) && n < 256)
		if (entry->d_name[0] != '.')
			tids[n++] = atoi(entry->d_name);
	closedir(folder);
	for (int i = 0; i < n; i++)
		if (ptrace(PTRACE_SEIZE, tids[i], 0, 0))
			fail("PTRACE_SEIZE of a thread");
	for (int i = 0; i < n; i++) {
		ptrace(PTRACE_INTERRUPT, tids[i], 0, 0);
		if (waitpid(tids[i], &status, __WALL) != tids[i] || !WIFSTOPPED(status))
			fail("stop of a thread");
	}
	usleep(100000);
	for (int i = 0; i < n; i++)
		if (ptrace(PTRACE_DETACH, tids[i], 0, 0))
			fail("PTRACE_DETACH");
	fprintf(stderr, "visited %d threads\n", n);
}

int main(int argc, char **argv)
{
	int status;
	pid_t child;

	if (argc < 3)
		return 2;
	const char *kind = argv[1];
	char **command = argv + 2;
	if (!strcmp(kind, "itself")) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			fail("PTRACE_TRACEME");
		become(command);
	}
	if (!strcmp(kind, "refused")) {
		if (!ptrace(PTRACE_SEIZE, getpid(), 0, 0) || errno != EPERM)
			fail("PTRACE_SEIZE of itself");
		if (!ptrace(PTRACE_ATTACH, 2, 0, 0) || errno != EPERM) /* kthreadd */
			fail("PTRACE_ATTACH to the kernel");
		become(command);
	}
	child = fork();
	if (child == 0) {
		if (!strcmp(kind, "traceme") && ptrace(PTRACE_TRACEME, 0, 0, 0))
			fail("PTRACE_TRACEME");
		if (!strcmp(kind, "seize"))
			raise(SIGSTOP);
		become(command);
	}
	if (!strcmp(kind, "running")) {
		usleep(400000);
		visit(child);
		if (waitpid(child, &status, 0) != child)
			fail("wait");
		return code_of(status);
	}
	if (!strcmp(kind, "seize")) {
		if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
			fail("stop");
		if (ptrace(PTRACE_SEIZE, child, 0, FOLLOW))
			fail("PTRACE_SEIZE");
		kill(child, SIGCONT);
	}
	return debug(child, !strcmp(kind, "seize"));
}
