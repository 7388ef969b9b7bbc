/* LD_PRELOAD: read-only file mappings are neither populated nor read ahead, and their file is not in the page cache. So
 * each page that is touched is a fault of its own. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *map(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
	int of_data = file >= 0 && protection == PROT_READ && offset == 0 && length > 1 << 20;
	void *p;

	if (of_data) {
		flags &= ~MAP_POPULATE;
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	}
	p = (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
	if (of_data && p != MAP_FAILED)
		syscall(SYS_madvise, p, length, MADV_RANDOM);
	return p;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
	return map(address, length, protection, flags, file, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
	return map(address, length, protection, flags, file, offset);
}

int posix_madvise(void *address, size_t length, int advice)
{
	(void)address, (void)length, (void)advice;
	return 0;
}
