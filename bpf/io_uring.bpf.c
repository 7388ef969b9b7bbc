/* io_uring: each request from its submission to its completion, whoever completes it.
 *
 * A completion may be made by a worker thread, by the ring's polling thread, or while another program runs. It is
 * billed to the thread that submitted the request, and for a ring with a polling thread (SQPOLL) to the one that
 * created the ring; to the phase that its process is in at that moment.
 *
 * Where in a tracepoint's arguments a thing lies (IO_SUBMIT_*, IO_COMPLETE_*, ...), or where in the request when it is
 * no argument (-1), differs between kernels and is found out when the programs are compiled. */
#ifdef IO_SUBMIT_RING

struct io_request_key {
	u64 ring;
	u64 id;			/* the request's address, or its user data where the kernel does not tell that */
};
#define THE_RING (~0ULL) /* as an id: not a request, but the thread that created the ring */

struct io_request {
	u32 tid;
	u32 pid;
	u32 phase;
	u32 what;		/* opcode | enum io_flag */
	u64 ts;			/* 0: not known when it began */
};

BPF_HASH(io_requests, struct io_request_key, struct io_request, IO_REQUESTS_ENTRIES);

/* The thread that created a ring: of requests that another thread submits for it, and of completions without one. */
TRACEPOINT(io_uring_create)
{
	struct io_request_key key = {.ring = ctx->args[IO_CREATE_RING], .id = THE_RING};
	struct io_request owner = {.tid = bpf_get_current_pid_tgid()};
	struct thread *t = this_thread(owner.tid);

	if (!t) {
		io_requests.delete(&key); /* another program's ring, where one of the target was before */
		return 0;
	}
	owner.pid = t->pid;
	if (io_requests.update(&key, &owner))
		lose_other(LOST_IO_STATE);
	return 0;
}

#ifdef DETAIL_COUNTS
/* Whoever completes a request may do so beside the thread that it is billed to: added as one step. */
#define IO_ADD(field, n) __sync_fetch_and_add(&c->field, n)
#endif

/* Bills to r->phase. */
static __always_inline void send_io(u16 kind, struct io_request *r, u64 now, u64 value, u64 latency)
{
#ifdef DETAIL_COUNTS
	struct counters *c;

	if (r->what & IO_MORE)
		return; /* not a request's end */
	c = counters_of(r->tid, r->phase);
	if (!c)
		return; /* counted as lost there */
	if (kind == KIND_IO_SUBMIT) {
		IO_ADD(io_uring_submitted, 1);
		return;
	}
	IO_ADD(io_uring_completed, 1);
	IO_ADD(io_uring_ns, latency);
	if ((r->what & IO_BYTES) && (s64)value > 0)
		IO_ADD(io_uring_bytes, value);
#else
	emit(kind, r->tid, r->phase, now, r->what, value, latency);
#endif
}

TRACEPOINT(io_uring_submit)
{
	struct io_request_key key = {};
	struct io_request r = {.tid = bpf_get_current_pid_tgid()};
	struct thread *t = this_thread(r.tid);
	u64 user_data = 0;
	u8 opcode = 0;

#if IO_SUBMIT_RING >= 0
	key.ring = ctx->args[IO_SUBMIT_RING];
#else
	READ_KERNEL(key.ring, ctx->args[IO_SUBMIT_REQUEST], KIOCB_RING);
#endif
#if IO_SUBMIT_USER_DATA >= 0
	user_data = ctx->args[IO_SUBMIT_USER_DATA];
#else
	READ_KERNEL(user_data, ctx->args[IO_SUBMIT_REQUEST], KIOCB_USER_DATA);
#endif
#if IO_BY_ADDRESS
	key.id = ctx->args[IO_SUBMIT_REQUEST];
#else
	key.id = user_data;
#endif
	if (!t) {
		io_requests.delete(&key); /* what was left there by a request that ended without a completion */
		return 0;
	}
#if IO_SUBMIT_OPCODE >= 0
	opcode = ctx->args[IO_SUBMIT_OPCODE];
#else
	READ_KERNEL(opcode, ctx->args[IO_SUBMIT_REQUEST], KIOCB_OPCODE);
#endif
	r.ts = bpf_ktime_get_ns();
	r.pid = t->pid;
	r.phase = phase_of(t);
	r.what = opcode | (opcode < 64 && IO_BYTE_OPCODES >> opcode & 1 ? IO_BYTES : 0);
	if (t->in_kernel) { /* the polling thread */
		struct io_request_key ring = {.ring = key.ring, .id = THE_RING};
		struct io_request *owner = io_requests.lookup(&ring);
		if (owner)
			r.tid = owner->tid;
		r.what |= IO_POLLED;
	}
	send_io(KIND_IO_SUBMIT, &r, r.ts, user_data, 0);
#if !IO_BY_ADDRESS
	if (io_requests.lookup(&key))
		r.ts = 0; /* two under way with one user data: which of them ends first is not to be told */
#endif
	if (io_requests.update(&key, &r))
		lose_other(LOST_IO_STATE);
	return 0;
}

#if IO_QUEUE_REQUEST >= 0
TRACEPOINT(io_uring_queue_async_work)
{
	struct io_request_key key = {.id = ctx->args[IO_QUEUE_REQUEST]};
	struct io_request *r;

#if IO_QUEUE_RING >= 0
	key.ring = ctx->args[IO_QUEUE_RING];
#else
	READ_KERNEL(key.ring, key.id, KIOCB_RING);
#endif
	r = io_requests.lookup(&key);
	if (r)
		r->what |= IO_WORKER;
	return 0;
}
#endif

#if IO_OVERFLOW_RING >= 0
/* A completion that found no room in the ring of completions. Which request it ends is not told: it is only counted. */
TRACEPOINT(io_uring_cqe_overflow)
{
	struct io_request_key key = {.ring = ctx->args[IO_OVERFLOW_RING], .id = THE_RING};

	if (io_requests.lookup(&key)) /* else another program's */
		lose_other(IO_OVERFLOWS);
	return 0;
}
#endif

TRACEPOINT(io_uring_complete)
{
	struct io_request_key key = {.ring = ctx->args[IO_COMPLETE_RING]};
	struct io_request *found, r = {};
	u64 now, request = 1;
	s32 result = 0;

#if IO_COMPLETE_REQUEST >= 0
	request = ctx->args[IO_COMPLETE_REQUEST];
#endif
#if IO_BY_ADDRESS
	key.id = request;
#elif IO_COMPLETE_USER_DATA >= 0
	key.id = ctx->args[IO_COMPLETE_USER_DATA];
#else
	READ_KERNEL(key.id, ctx->args[IO_COMPLETE_COMPLETION], 0); /* struct io_uring_cqe: user data, result, flags */
#endif
	found = io_requests.lookup(&key);
	if (found) {
		r = *found;
		io_requests.delete(&key);
	} else {
		key.id = THE_RING;
		found = io_requests.lookup(&key);
		if (!found)
			return 0; /* another program's */
		r = *found;
		/* one more of a request that goes on, or from another ring; else of a request that was refused */
		r.what = IO_UNKNOWN_OPCODE | (request ? 0 : IO_MORE);
	}
#if IO_COMPLETE_RESULT >= 0
	result = ctx->args[IO_COMPLETE_RESULT];
#else
	READ_KERNEL(result, ctx->args[IO_COMPLETE_COMPLETION], 8);
#endif
	now = bpf_ktime_get_ns();
	struct process *p = processes.lookup(&r.pid);
	if (p)
		r.phase = p->phase; /* else its process is gone, and the phase is that of the submission */
	if (!r.ts)
		r.what |= IO_NO_LATENCY;
	send_io(KIND_IO_COMPLETE, &r, now, (s64)result, r.ts ? now - r.ts : 0);
	return 0;
}

#endif
