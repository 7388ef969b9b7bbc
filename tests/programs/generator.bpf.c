/* Events in any number: each getppid() of a chosen process sends EVENTS_PER_CALL of them through emit(), all kinds in turn,
 * numbered, and counts by kind what it meant to send. */
#define EVENTS_PER_CALL 100
#define N_KINDS 33
#define CALL_GETPPID 110

BPF_HASH(generators, u32, u64, 64); /* tid: number of the next event */
BPF_ARRAY(kinds, u32, N_KINDS);
BPF_PERCPU_ARRAY(produced, u64, KIND_MAX);

int generate(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 *next;

	if (ctx->args[1] != CALL_GETPPID)
		return 0;
	next = generators.lookup(&tid);
	if (!next)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < EVENTS_PER_CALL; i++) {
		u64 number = *next;
		u32 turn = number % N_KINDS;
		u32 *kind = kinds.lookup(&turn);
		if (!kind)
			return 0;
		u64 *count = produced.lookup(kind);
		if (count)
			(*count)++;
		emit(*kind, tid, 1, bpf_ktime_get_ns(), (u32)number, number, ~number);
		*next = number + 1;
	}
	return 0;
}
