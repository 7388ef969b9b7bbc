/* Each llama_decode() makes some memory resident, says how much the process has then, and gives it back. */
#include "truth.h"
#include <sys/mman.h>
#include <sys/prctl.h>

#define PAGE 4096ul

static int status;
static const int pages[] = {4099, 16411, 2003, 1, 8209, 503};

/* VmRSS and VmHWM in KiB */
static void resident(long *now, long *peak)
{
	static char text[4096];
	ssize_t n = pread(status, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = 0;
	*now = atol(strstr(text, "VmRSS:") + 6);
	*peak = atol(strstr(text, "VmHWM:") + 6);
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	int i = *(int *)context, how = i % 3;
	unsigned long length = pages[i] * PAGE;
	long now, peak, after, unused;
	char *p = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)batch;
	for (unsigned long at = 0; at < length; at += PAGE)
		p[at] = 1;
	resident(&now, &peak);
	if (how == 0)
		madvise(p, length, MADV_DONTNEED);
	else if (how == 1)
		p = mremap(p, length, PAGE, 0);
	else
		munmap(p, length);
	resident(&after, &unused);
	printf("{\"pages\": %d, \"resident_kib\": %ld, \"peak_kib\": %ld, \"after_kib\": %ld, \"pid\": %d}\n", pages[i], now, peak,
	       after, getpid());
	return 0;
}

int main(void)
{
	struct llama_batch batch = {.n_tokens = 1};

	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	status = open("/proc/self/status", O_RDONLY);
	for (int i = 0; i < 6; i++)
		llama_decode(&i, batch);
	return 0;
}
