/* Says who it is: real and effective user, whether the dynamic linker was told to be careful. Makes 101 mappings. */
#include "truth.h"
#include <sys/auxv.h>
#include <sys/mman.h>

int main(void)
{
	for (int i = 0; i < 101; i++)
		*(volatile char *)mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
	printf("{\"pid\": %d, \"uid\": %d, \"euid\": %d, \"gid\": %d, \"egid\": %d, \"secure\": %lu}\n", getpid(), getuid(), geteuid(),
	       getgid(), getegid(), getauxval(AT_SECURE));
	return 0;
}
