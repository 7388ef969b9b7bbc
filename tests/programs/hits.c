/* hits N: calls hit(), whose first instruction is a push, N times, and prints how many ns of CPU time that took. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__asm__(".globl hit\n.type hit, @function\nhit:\n\tpush %rbp\n\tpop %rbp\n\tret\n.size hit, . - hit\n");
void hit(void);

int main(int argc, char **argv)
{
	struct timespec a, b;
	long n = argc > 1 ? atol(argv[1]) : 0;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (long i = 0; i < n; i++)
		hit();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec);
	return 0;
}
