/* Reads a file by io_uring, in its own thread inside llama_decode(): `uring FILE READS WAYS`. Prints what it did.
 *
 * WAYS is a word of letters: s a kernel thread polls for submissions, f registered file, b registered buffer, a
 * IOSQE_ASYNC (worker threads), u no difference in user data, e each seventh request fails (bad descriptor), r each
 * eleventh request is refused (no such opcode), k no completion for those that succeed, o the ring of completions is
 * let overflow, l the last batch is not waited for, - nothing special. The system calls are made by hand: no liburing. */
#include "truth.h"
#include <errno.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define ENTRIES 32u
#define BLOCK 8192u

struct ring {
	int fd;
	unsigned *sq_head, *sq_tail, *sq_mask, *sq_flags, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static struct ring ring;
static int file, n_reads;
static const char *ways;
static char buffers[ENTRIES][BLOCK] __attribute__((aligned(4096)));
static long submitted, completed, bytes, errors, refused;

static int has(char way)
{
	return strchr(ways, way) != 0;
}

static void check(long result)
{
	if (result < 0) {
		perror("io_uring");
		exit(3);
	}
}

static void set_up(void)
{
	/* SUBMIT_ALL: a refused request does not keep back those after it */
	struct io_uring_params p = {
		.flags = (has('s') ? IORING_SETUP_SQPOLL : 0) | (has('r') ? IORING_SETUP_SUBMIT_ALL : 0),
		.sq_thread_idle = 50,
	};
	char *sq, *cq;

	ring.fd = syscall(SYS_io_uring_setup, ENTRIES, &p);
	check(ring.fd);
	sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED,
		  ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(0, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			 IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED)
		check(-1);
	ring.sq_head = (unsigned *)(sq + p.sq_off.head);
	ring.sq_tail = (unsigned *)(sq + p.sq_off.tail);
	ring.sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
	ring.sq_flags = (unsigned *)(sq + p.sq_off.flags);
	ring.sq_array = (unsigned *)(sq + p.sq_off.array);
	ring.cq_head = (unsigned *)(cq + p.cq_off.head);
	ring.cq_tail = (unsigned *)(cq + p.cq_off.tail);
	ring.cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
	ring.cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
	if (has('f'))
		check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &file, 1));
	if (has('b')) {
		struct iovec all = {.iov_base = buffers, .iov_len = sizeof(buffers)};
		check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &all, 1));
	}
}

/* The number-th request; lengths differ, and none reaches the file's end. */
static void prepare(int number)
{
	unsigned tail = *ring.sq_tail, slot = tail & *ring.sq_mask;
	struct io_uring_sqe *e = &ring.sqes[slot];
	int bad = has('e') && number % 7 == 0, unknown = has('r') && number % 11 == 0 && !bad;

	memset(e, 0, sizeof(*e));
	e->opcode = unknown ? 250 : has('b') ? IORING_OP_READ_FIXED : IORING_OP_READ;
	e->fd = bad ? -1 : has('f') ? 0 : file;
	e->flags = (has('f') && !bad ? IOSQE_FIXED_FILE : 0) | (has('a') ? IOSQE_ASYNC : 0) |
		   (has('k') ? IOSQE_CQE_SKIP_SUCCESS : 0);
	e->addr = (unsigned long)buffers[slot];
	e->len = 512 + number % 13 * 512;
	e->off = number % 97 * 4096;
	e->user_data = has('u') ? 0 : number;
	ring.sq_array[slot] = slot;
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (unknown)
		refused++;
	else
		submitted++;
	if (has('k') && !bad && !unknown) { /* what it will do; nothing will tell */
		completed++;
		bytes += e->len;
	}
}

static int reap(void)
{
	unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
	int n = 0;

	for (; head != tail; head++, n++) {
		int result = ring.cqes[head & *ring.cq_mask].res;
		completed++;
		if (result < 0)
			errors++;
		else
			bytes += result;
	}
	__atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
	return n;
}

static void enter(unsigned n, unsigned wait)
{
	unsigned flags = wait ? IORING_ENTER_GETEVENTS : 0;

	if (has('s')) {
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(ring.sq_flags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP)
			flags |= IORING_ENTER_SQ_WAKEUP;
		n = 0;
	}
	while (syscall(SYS_io_uring_enter, ring.fd, n, wait, flags, 0, 0) < 0)
		if (errno != EINTR)
			check(-1);
}

static void read_all(void)
{
	for (int done = 0; done < n_reads;) {
		int batch = n_reads - done < (int)ENTRIES ? n_reads - done : (int)ENTRIES, ended = 0;
		int last = done + batch == n_reads;
		for (int i = 0; i < batch; i++)
			prepare(done + i);
		done += batch;
		if (has('k') || (has('o') && !last) || (has('l') && last)) {
			enter(batch, 0);
			continue;
		}
		for (enter(batch, 1); (ended += reap()) < (has('o') ? done : batch);)
			enter(0, 1);
	}
	/* the polling thread has taken the last of them */
	while (has('s') && __atomic_load_n(ring.sq_head, __ATOMIC_ACQUIRE) != *ring.sq_tail)
		usleep(1000);
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	(void)context, (void)batch;
	read_all();
	return 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	(void)sampler, (void)context;
	return index;
}

int main(int argc, char **argv)
{
	struct llama_batch batch = {.n_tokens = 1};

	if (argc != 4)
		return 2;
	file = open(argv[1], O_RDONLY);
	check(file);
	n_reads = atoi(argv[2]);
	ways = argv[3];
	set_up();
	llama_decode(0, batch);
	llama_sampler_sample(0, 0, 0);
	if (has('k'))
		usleep(100000);
	printf("{\"tid\": %d, \"pid\": %d, \"submitted\": %ld, \"completed\": %ld, \"bytes\": %ld, \"errors\": %ld, "
	       "\"refused\": %ld}\n",
	       own_tid(), getpid(), submitted, completed, bytes, errors, refused);
	return 0;
}
