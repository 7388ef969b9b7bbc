/* N children that end at the moment their parent does: `crowd N`. Each has done work and told it before; they wait for the
 * end of a pipe that the parent holds. */
#include "truth.h"
#include <sys/mman.h>

#define PAGE 4096ul

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0, hold[2], ready[2];
	char line[200], byte;

	if (pipe(hold) || pipe(ready))
		return 1;
	for (int i = 0; i < n; i++) {
		if (fork())
			continue;
		struct rusage u;
		close(hold[1]);
		for (int map = 0; map < i % 5 + 1; map++) {
			volatile char *p = mmap(0, 17 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			for (int page = 0; page < 17; page++)
				p[page * PAGE] = 1;
		}
		getrusage(RUSAGE_SELF, &u);
		int length = snprintf(line, sizeof(line), "{\"pid\": %d, \"maps\": %d, \"minor\": %ld, \"status\": %d}\n", getpid(),
				      i % 5 + 1, u.ru_minflt, i % 256 << 8);
		if (write(1, line, length) != length || write(ready[1], "x", 1) != 1)
			_exit(255);
		while (read(hold[0], &byte, 1) != 0)
			;
		_exit(i % 256);
	}
	for (int i = 0; i < n; i++)
		if (read(ready[0], &byte, 1) != 1)
			return 2;
	return 0;
}
