/* A child that executes itself N times, each time under another name: `changing N`. Its parent prints what its life was by
 * wait4(2). Each of the N + 1 programs makes 3 mappings of 13 pages. */
#include "truth.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define PAGE 4096ul

int main(int argc, char **argv)
{
	int left = argc > 1 ? atoi(argv[1]) : 0, status;
	char number[16], name[16], self[4096];
	char *arguments[] = {name, number, "child", 0}, *environment[] = {0};
	struct rusage u;
	pid_t pid;

	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[length > 0 ? length : 0] = 0;
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (argc < 3) {
		pid = fork();
		if (pid == 0) {
			strcpy(name, "first");
			snprintf(number, sizeof(number), "%d", left);
			execve(self, arguments, environment);
			_exit(1);
		}
		if (wait4(pid, &status, 0, &u) != pid)
			abort();
		printf("{\"pid\": %d, \"status\": %d, \"maps\": %d, \"minor\": %ld, \"major\": %ld, \"voluntary\": %ld, "
		       "\"involuntary\": %ld}\n",
		       pid, status, 3 * (left + 1), u.ru_minflt, u.ru_majflt, u.ru_nvcsw, u.ru_nivcsw);
		return 0;
	}
	for (int i = 0; i < 3; i++) {
		volatile char *p = mmap(0, 13 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 0; page < 13; page++)
			p[page * PAGE] = 1;
	}
	snprintf(name, sizeof(name), "name %d", left);
	prctl(PR_SET_NAME, name);
	memset(argv[0], 'x', strlen(argv[0]));
	if (left == 0)
		return 0;
	snprintf(number, sizeof(number), "%d", left - 1);
	execve(self, arguments, environment);
	return 1;
}
