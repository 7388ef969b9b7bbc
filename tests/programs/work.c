/* Does known amounts of work: `work FILE ITEM...`. An item is the name of one kind of work, done by the main thread inside
 * llama_decode(), or several with commas between them, each done by a thread of its own while the main thread is inside
 * llama_decode(). Each is done twice; the first time warms everything up. FILE has at least 503 pages. */
#include "truth.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#define PAGE 4096ul
#define ROUNDS 2
#define MAX_WORKERS 4
#define MAX_ITEMS 32

/* what may be known beforehand, by its name in `struct counters` */
#define COUNTS(X) \
	X(faults_user_minor) X(faults_kernel_minor) X(faults_populate_minor) X(faults_failed) X(populated_bytes) \
	X(mmap_calls) X(mmap_bytes) X(munmap_calls) X(munmap_bytes) X(mremap_calls) X(brk_calls) X(madvise_calls) \
	X(mprotect_calls) X(mlock_calls) X(read_calls) X(read_bytes) X(futex_calls) X(sched_yield_calls)

struct work {
#define FIELD(name) long name;
	COUNTS(FIELD)
	const char *name;
	int tid, index, round;
	uint64_t in_calls_ns; /* CPU time that it spent in calls, by its own clock */
	uint64_t of_calls_ns; /* from their begin to their end, likewise */
	pthread_t thread;
	struct reading readings[EDGES];
};

static struct work works[MAX_ITEMS][ROUNDS][MAX_WORKERS + 1];
static int item, n_workers; /* of the item at hand */
static int file, zero;

static char *map(struct work *w, unsigned long bytes, int flags)
{
	char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (p == MAP_FAILED)
		abort();
	w->mmap_calls++;
	w->mmap_bytes += (bytes + PAGE - 1) / PAGE * PAGE;
	return p;
}

static void unmap(struct work *w, void *p, unsigned long bytes)
{
	if (munmap(p, bytes))
		abort();
	w->munmap_calls++;
	w->munmap_bytes += (bytes + PAGE - 1) / PAGE * PAGE;
}

static void write_pages(volatile char *p, unsigned long pages)
{
	for (unsigned long i = 0; i < pages; i++)
		p[i * PAGE] = 1;
}

static void read_pages(volatile char *p, unsigned long pages)
{
	for (unsigned long i = 0; i < pages; i++)
		(void)p[i * PAGE];
}

/* ---- page faults ------------------------------------------------------------------------------------------------ */

static void touch(struct work *w)
{
	char *p = map(w, 1009 * PAGE, 0);
	write_pages(p, 1009);
	unmap(w, p, 1009 * PAGE);
	w->faults_user_minor += 1009;
}

/* many at once: a rate at which a sampled event would be throttled */
static void flood(struct work *w)
{
	for (int i = 0; i < 101; i++)
		touch(w);
}

static void zero_page(struct work *w)
{
	char *p = map(w, 503 * PAGE, 0);
	read_pages(p, 503);
	write_pages(p, 503);
	unmap(w, p, 503 * PAGE);
	w->faults_user_minor += 2 * 503;
}

static void discard(struct work *w)
{
	char *p = map(w, 211 * PAGE, 0);
	write_pages(p, 211);
	madvise(p, 211 * PAGE, MADV_DONTNEED);
	write_pages(p, 211);
	unmap(w, p, 211 * PAGE);
	w->madvise_calls++;
	w->faults_user_minor += 2 * 211;
}

/* read() into memory that is not there yet: the kernel's own copying faults */
static void read_fresh(struct work *w)
{
	char *p = map(w, 503 * PAGE, 0), *q = map(w, 101 * PAGE, 0);
	struct iovec parts[2] = {{q, 50 * PAGE}, {q + 50 * PAGE, 51 * PAGE}};
	if (pread(file, p, 503 * PAGE, 0) != 503 * PAGE || preadv(file, parts, 2, 0) != 101 * PAGE)
		abort();
	unmap(w, p, 503 * PAGE);
	unmap(w, q, 101 * PAGE);
	w->faults_kernel_minor += 503 + 101;
	w->read_calls += 2;
	w->read_bytes += (503 + 101) * PAGE;
}

static void populate(struct work *w)
{
	char *p = map(w, 1009 * PAGE, MAP_POPULATE);
	write_pages(p, 1009); /* no faults: they are there */
	unmap(w, p, 1009 * PAGE);
	w->faults_populate_minor += 1009;
	w->populated_bytes += 1009 * PAGE;
}

/* how many faults that takes is the kernel's choice (it maps several pages at once), the bytes are not */
static void populate_file(struct work *w)
{
	char *p = mmap(0, 503 * PAGE - 7, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
	if (p == MAP_FAILED)
		abort();
	read_pages(p, 503);
	w->mmap_calls++;
	w->mmap_bytes += 503 * PAGE;
	unmap(w, p, 503 * PAGE);
	w->populated_bytes += 503 * PAGE;
	w->faults_populate_minor = -1;
}

static void lock_pages(struct work *w)
{
	char *p = map(w, 1009 * PAGE, 0);
	if (mlock(p, 1009 * PAGE))
		abort();
	write_pages(p, 1009);
	unmap(w, p, 1009 * PAGE);
	w->mlock_calls++;
	w->faults_populate_minor += 1009;
	w->populated_bytes += 1009 * PAGE;
}

static void lock_later(struct work *w)
{
	char *p = map(w, 101 * PAGE, 0);
	if (syscall(SYS_mlock2, p, 101 * PAGE, 1 /* MLOCK_ONFAULT */))
		abort();
	write_pages(p, 101);
	unmap(w, p, 101 * PAGE);
	w->mlock_calls++;
	w->faults_user_minor += 101;
}

static void advise_populate(struct work *w)
{
	char *p = map(w, 307 * PAGE, 0);
	if (madvise(p, 307 * PAGE, 23 /* MADV_POPULATE_WRITE */))
		abort();
	write_pages(p, 307);
	unmap(w, p, 307 * PAGE);
	w->madvise_calls++;
	w->faults_populate_minor += 307;
	w->populated_bytes += 307 * PAGE;
}

/* pages that the page cache had to give up: what of them is major is the kernel's choice */
static void major(struct work *w)
{
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	char *p = mmap(0, 503 * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
	if (p == MAP_FAILED)
		abort();
	madvise(p, 503 * PAGE, MADV_RANDOM);
	for (int i = 0; i < 503; i += 7)
		read_pages(p + i * PAGE, 1);
	w->mmap_calls++;
	w->mmap_bytes += 503 * PAGE;
	unmap(w, p, 503 * PAGE);
	w->madvise_calls++;
	w->faults_user_minor = -1;
}

static __thread sigjmp_buf after_fault;

static void on_fault(int number)
{
	siglongjmp(after_fault, number);
}

/* faults that nothing comes of: SIGSEGV in user mode, EFAULT in the kernel */
static void failing(struct work *w)
{
	char *p = map(w, PAGE, 0);
	mprotect(p, PAGE, PROT_NONE);
	w->mprotect_calls++;
	for (volatile int i = 0; i < 101; i++)
		if (!sigsetjmp(after_fault, 1))
			*(volatile char *)p = 1;
	for (int i = 0; i < 103; i++)
		if (read(zero, p, 1) != -1)
			abort();
	w->read_calls += 103;
	unmap(w, p, PAGE);
	w->faults_failed += 101 + 103;
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

static void memory_calls(struct work *w)
{
	char *pages[101], *p = 0, byte = 0;

	for (int i = 0; i < 101; i++)
		pages[i] = map(w, 5000, 0);
	for (int i = 0; i < 7; i++, w->mmap_calls++)
		if (mmap(0, PAGE, PROT_READ, MAP_PRIVATE, 9999, 0) != MAP_FAILED)
			abort();
	for (int i = 0; i < 211; i++, w->mprotect_calls++)
		mprotect(pages[i % 101], PAGE, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE);
	for (int i = 0; i < 223; i++, w->madvise_calls++)
		madvise(pages[i % 101], PAGE, i & 1 ? MADV_RANDOM : MADV_NORMAL);
	madvise(pages[0] + 1, PAGE, MADV_NORMAL); /* not aligned: EINVAL */
	w->madvise_calls++;
	for (int i = 0; i < 103; i++, w->mremap_calls++) {
		p = mremap(pages[i % 101], 2 * PAGE, 2 * PAGE, 0);
		if (p != pages[i % 101])
			abort();
	}
	for (int i = 0; i < 5; i++, w->mlock_calls++)
		if (!mlock((void *)(16 * PAGE), PAGE)) /* nothing there: ENOMEM */
			abort();
	for (int i = 0; i < 109; i++, w->brk_calls++)
		syscall(SYS_brk, 0);
	for (int i = 0; i < 101; i++)
		unmap(w, pages[i], 5000);
	for (int i = 0; i < 3; i++, w->munmap_calls++)
		if (!munmap(&byte, PAGE)) /* not aligned: EINVAL */
			abort();
}

static void read_calls(struct work *w)
{
	char text[64];
	struct iovec parts[2] = {{text, 7}, {text + 7, 10}};

	for (int i = 0; i < 131; i++)
		w->read_bytes += read(zero, text, 11);
	for (int i = 0; i < 137; i++)
		w->read_bytes += pread(file, text, 13, i);
	for (int i = 0; i < 139; i++)
		w->read_bytes += readv(zero, parts, 2);
	for (int i = 0; i < 11; i++)
		w->read_bytes += preadv(file, parts, 2, i);
	for (int i = 0; i < 13; i++)
		w->read_bytes += preadv2(file, parts, 2, i, 0);
	for (int i = 0; i < 5; i++)
		if (read(9999, text, 1) != -1)
			abort();
	for (int i = 0; i < 3; i++)
		if (pread(file, text, 1, 1l << 40) != 0)
			abort();
	w->read_calls += 131 + 137 + 139 + 11 + 13 + 5 + 3;
}

static long futex_call(struct work *w, _Atomic int *word, int operation, int value, const struct timespec *timeout)
{
	w->futex_calls++;
	return syscall(SYS_futex, word, operation, value, timeout, 0, 0);
}

static void futex_calls(struct work *w)
{
	_Atomic int word = 1;
	struct timespec soon = {0, 1000000};

	for (int i = 0; i < 149; i++)
		futex_call(w, &word, FUTEX_WAKE_PRIVATE, 1, 0);
	for (int i = 0; i < 151; i++)
		futex_call(w, &word, FUTEX_WAIT, 2, 0); /* EAGAIN */
	for (int i = 0; i < 7; i++)
		futex_call(w, &word, FUTEX_WAIT_PRIVATE, 1, &soon); /* ETIMEDOUT */
}

static void wakes(struct work *w)
{
	_Atomic int words[2] = {1, 1};

	for (int i = 0; i < 4001; i++)
		futex_call(w, words, FUTEX_WAKE_PRIVATE, 1, 0);
	for (int i = 0; i < 211; i++)
		futex_call(w, &words[i & 1], FUTEX_WAKE, 1, 0);
	for (int i = 0; i < 13; i++)
		futex_call(w, (_Atomic int *)((char *)words + 1), FUTEX_WAKE_PRIVATE, 1, 0); /* EINVAL */
}

static void yields(struct work *w)
{
	for (int i = 0; i < 1009; i++)
		sched_yield();
	w->sched_yield_calls += 1009;
}

/* ---- switches ----------------------------------------------------------------------------------------------------- */

static void sleeps(struct work *w)
{
	struct timespec time = {0, 1000000};
	(void)w;
	for (int i = 0; i < 53; i++)
		nanosleep(&time, 0);
}

static void pin_to_first_cpu(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void spin_ns(uint64_t ns)
{
	for (uint64_t end = clock_ns(CLOCK_MONOTONIC) + ns; clock_ns(CLOCK_MONOTONIC) < end;)
		;
}

/* several of these compete for the first CPU */
static void compete(struct work *w)
{
	(void)w;
	pin_to_first_cpu();
	spin_ns(200000000);
}

static void yield_in_turns(struct work *w)
{
	pin_to_first_cpu();
	yields(w);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock_in_turns(struct work *w)
{
	w->futex_calls = -1; /* glibc's choice */
	for (int i = 0; i < 499; i++) {
		pthread_mutex_lock(&mutex);
		spin_ns(20000);
		pthread_mutex_unlock(&mutex);
	}
}

/* two threads, each waking the other 499 times and waiting for it */
static _Atomic int ball[ROUNDS];

static void ping_pong(struct work *w)
{
	_Atomic int *word = &ball[w->round];
	int side = w->index & 1;

	for (int i = 0; i < 499; i++) {
		int now;
		while (((now = atomic_load(word)) & 1) != side)
			futex_call(w, word, FUTEX_WAIT_PRIVATE, now, 0);
		atomic_fetch_add(word, 1);
		futex_call(w, word, FUTEX_WAKE_PRIVATE, 1, 0);
	}
}

/* a sleeper that signals wake 31 times, and the one who sends them to the worker before it */
static _Atomic int signals_seen[ROUNDS];
static __thread int signals_here;

static void on_signal(int number)
{
	(void)number;
	signals_here++;
}

static void sleep_through_signals(struct work *w)
{
	struct timespec time = {0, 5000000};
	signals_here = 0;
	while (signals_here < 31) {
		nanosleep(&time, 0);
		atomic_store(&signals_seen[w->round], signals_here);
	}
}

static void send_signals(struct work *w)
{
	struct timespec time = {0, 2000000};
	while (atomic_load(&signals_seen[w->round]) < 31) {
		pthread_kill(w[-1].thread, SIGUSR1);
		nanosleep(&time, 0);
	}
}

/* ---- durations ---------------------------------------------------------------------------------------------------- */

static void sleep_25ms_20_times(struct work *w)
{
	struct timespec time = {0, 25000000};
	(void)w;
	for (int i = 0; i < 20; i++)
		nanosleep(&time, 0);
}

static void busy_half_second(struct work *w)
{
	(void)w;
	spin_ns(500000000);
}

static void hog(struct work *w)
{
	(void)w;
	pin_to_first_cpu();
	spin_ns(500000000);
}

static void read_zeros(struct work *w)
{
	static char megabytes[8 << 20];
	uint64_t now = clock_ns(CLOCK_MONOTONIC), end = now + 400000000;
	while (now < end) {
		uint64_t begin_ns = clock_ns(CLOCK_MONOTONIC), begin_cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
		w->read_bytes += read(zero, megabytes, sizeof(megabytes));
		w->read_calls++;
		w->in_calls_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin_cpu_ns;
		now = clock_ns(CLOCK_MONOTONIC);
		w->of_calls_ns += now - begin_ns;
	}
	spin_ns(100000000);
	w->faults_kernel_minor = -1;
}

static void futex_waits(struct work *w)
{
	_Atomic int word = 1;
	struct timespec time = {0, 10000000};
	for (int i = 0; i < 31; i++)
		futex_call(w, &word, FUTEX_WAIT_PRIVATE, 1, &time);
}

/* ------------------------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(struct work *);
} kinds[] = {
#define KIND(f) {#f, f}
	KIND(touch), KIND(flood), KIND(zero_page), KIND(discard), KIND(read_fresh), KIND(populate), KIND(populate_file),
	KIND(lock_pages), KIND(lock_later), KIND(advise_populate), KIND(major), KIND(failing), KIND(memory_calls),
	KIND(read_calls), KIND(futex_calls), KIND(wakes), KIND(yields), KIND(sleeps), KIND(compete), KIND(yield_in_turns),
	KIND(lock_in_turns), KIND(ping_pong), KIND(sleep_through_signals), KIND(send_signals), KIND(sleep_25ms_20_times),
	KIND(busy_half_second), KIND(hog), KIND(read_zeros), KIND(futex_waits),
};

static void do_work(struct work *w)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, w->name)) {
			take_reading(&w->readings[INNER_BEGIN]);
			kinds[i].run(w);
			take_reading(&w->readings[INNER_END]);
			return;
		}
	fprintf(stderr, "no work %s\n", w->name);
	exit(1);
}

static _Atomic int ready, go, done, out; /* numbers of rounds and workers: they only grow */

static void *worker(void *argument)
{
	long index = (long)argument;
	char stack[256 << 10];

	write_pages(stack, sizeof(stack) / PAGE); /* the stack is there before anything is counted */
	if (getenv("SCHEDSTAT"))
		open_schedstat();
	for (int round = 0; round < ROUNDS; round++) {
		struct work *w = &works[item][round][index];
		w->tid = own_tid();
		take_reading(&w->readings[OUTER_BEGIN]);
		atomic_fetch_add(&ready, 1);
		/* no call and no sleep: nothing is counted in this wait but being preempted */
		while (atomic_load(&go) <= round)
			__builtin_ia32_pause();
		do_work(w);
		atomic_fetch_add(&done, 1);
		while (atomic_load(&out) <= round)
			__builtin_ia32_pause();
		take_reading(&w->readings[OUTER_END]);
		atomic_fetch_add(&ready, 1);
		while (atomic_load(&ready) < 2 * (round + 1) * n_workers)
			usleep(1000);
	}
	return 0;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	int round = *(int *)context;
	struct work *w = &works[item][round][n_workers];

	(void)batch;
	if (n_workers == 0) {
		do_work(w);
		return 0;
	}
	take_reading(&w->readings[INNER_BEGIN]);
	atomic_store(&go, round + 1);
	while (atomic_load(&done) < (round + 1) * n_workers)
		usleep(1000);
	take_reading(&w->readings[INNER_END]);
	return 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	(void)sampler;
	(void)context;
	return index;
}

static void print_counts(struct work *w)
{
	char text[2048];
	int at = 0;

	text[0] = 0;
#define PRINT(name) \
	if (w->name >= 0) \
		at += snprintf(text + at, sizeof(text) - at, "%s\"" #name "\": %ld", at ? ", " : "", w->name);
	COUNTS(PRINT)
	printf("{\"item\": %d, \"round\": %d, \"name\": \"%s\", \"pid\": %d, \"tid\": %d, \"in_calls_ns\": %llu, "
	       "\"of_calls_ns\": %llu, \"counts\": {%s}, \"readings\": ",
	       item, w->round, w->name, getpid(), w->tid, (unsigned long long)w->in_calls_ns,
	       (unsigned long long)w->of_calls_ns, text);
	print_readings(w->readings);
	printf("}\n");
}

static void do_item(char *names)
{
	char *next;
	int n_names = 0;

	n_workers = strchr(names, ',') ? 1 : 0;
	for (char *c = names; *c; c++)
		n_workers += *c == ',';
	for (char *name = strtok_r(names, ",", &next); name; name = strtok_r(0, ",", &next), n_names++)
		for (int round = 0; round < ROUNDS; round++)
			works[item][round][n_names] = (struct work){.name = name, .index = n_names, .round = round};
	if (n_names > MAX_WORKERS)
		exit(2);
	ready = go = done = out = 0;
	for (int round = 0; round < ROUNDS; round++)
		ball[round] = signals_seen[round] = 0;
	for (long i = 0; i < n_workers; i++) {
		pthread_create(&works[item][0][i].thread, 0, worker, (void *)i);
		works[item][1][i].thread = works[item][0][i].thread;
	}
	for (int round = 0; round < ROUNDS; round++) {
		struct work *w = &works[item][round][n_workers];
		struct llama_batch batch = {.n_tokens = round + 2};
		w->tid = own_tid();
		w->round = round;
		if (n_workers)
			w->name = "main";
		while (atomic_load(&ready) < (2 * round + 1) * n_workers)
			usleep(1000);
		take_reading(&w->readings[OUTER_BEGIN]);
		llama_decode(&round, batch);
		take_reading(&w->readings[OUTER_END]);
		llama_sampler_sample(0, 0, 0);
		atomic_store(&out, round + 1);
	}
	for (int i = 0; i < n_workers; i++)
		pthread_join(works[item][0][i].thread, 0);
}

int main(int argc, char **argv)
{
	char stack[512 << 10];

	if (argc < 3 || argc > MAX_ITEMS + 2)
		return 2;
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	write_pages(stack, sizeof(stack) / PAGE);
	write_pages((char *)works, sizeof(works) / PAGE);
	file = open(argv[1], O_RDONLY);
	zero = open("/dev/zero", O_RDONLY);
	if (file < 0 || zero < 0)
		return 3;
	if (getenv("SCHEDSTAT"))
		open_schedstat();
	struct sigaction on_segv = {.sa_handler = on_fault}, on_usr1 = {.sa_handler = on_signal};
	sigaction(SIGSEGV, &on_segv, 0);
	sigaction(SIGUSR1, &on_usr1, 0);
	for (item = 0; item < argc - 2; item++)
		do_item(argv[item + 2]);
	for (item = 0; item < argc - 2; item++)
		for (int round = 0; round < ROUNDS; round++)
			for (int i = 0; i <= MAX_WORKERS; i++)
				if (works[item][round][i].name)
					print_counts(&works[item][round][i]);
	return 0;
}
