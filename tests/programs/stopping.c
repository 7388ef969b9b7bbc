/* A child that stops itself 7 times and is stopped 7 times by its parent, and each time continued: `stopping`. The parent
 * prints how many stops it was told, and what the child's life was by wait4(2). */
#include "truth.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096ul

static void touch(void)
{
	volatile char *p = mmap(0, 11 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int page = 0; page < 11; page++)
		p[page * PAGE] = 1;
}

int main(void)
{
	int status, stops = 0, goes_on[2];
	struct rusage u;
	char byte;

	if (pipe(goes_on))
		return 1;
	pid_t pid = fork();
	if (pid == 0) {
		close(goes_on[1]);
		for (int i = 0; i < 7; i++) {
			touch();
			raise(SIGSTOP);
		}
		while (read(goes_on[0], &byte, 1) == 1)
			touch();
		_exit(0);
	}
	for (int i = 0; i < 14; i++) {
		if (i >= 7)
			kill(pid, SIGSTOP);
		if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
			return 2;
		stops++;
		if (i >= 7 && write(goes_on[1], "x", 1) != 1) /* while it stands still */
			return 3;
		kill(pid, SIGCONT);
	}
	close(goes_on[1]);
	if (wait4(pid, &status, 0, &u) != pid)
		return 5;
	printf("{\"pid\": %d, \"status\": %d, \"stops\": %d, \"maps\": 14, \"reads\": 8, \"minor\": %ld, \"major\": %ld, "
	       "\"voluntary\": %ld, \"involuntary\": %ld}\n",
	       pid, status, stops, u.ru_minflt, u.ru_majflt, u.ru_nvcsw, u.ru_nivcsw);
	return 0;
}
