/* Operations of the graph: which thread begins its part of which node, and when. Attached in windows only, and compiled
 * only for --detail ops. */
#ifdef OPERATIONS

/* Where `struct ggml_tensor` of the process that is looked at has these, in bytes. */
struct tensor_layout {
	u32 operation;
	u32 name;
	u32 source;	/* the first of its sources */
	u32 unused;
};
BPF_ARRAY(tensor_layout, struct tensor_layout, 1);

struct tensor_key {
	u64 address;
	u64 pid;
};
struct tensor_name {
	u64 words[8];
};
BPF_TABLE("lru_hash", struct tensor_key, struct tensor_name, tensor_names, 16384);

/* Tells what a tensor is called, where that is not known: graphs are built anew, most often in the same memory. */
static __always_inline void tell_tensor(struct window_caller *caller, u64 tensor, u32 name_offset, u64 now)
{
	struct tensor_key key = {.address = tensor, .pid = caller->thread->pid};
	struct tensor_name name = {}, *known = tensor_names.lookup(&key);
	struct task_event *e;

	if (read_user_memory(&name, sizeof(name), (void *)(tensor + name_offset)))
		return; /* no such tensor: the operation stays without a name */
	if (known && known->words[0] == name.words[0] && known->words[1] == name.words[1] &&
	    known->words[2] == name.words[2] && known->words[3] == name.words[3] && known->words[4] == name.words[4] &&
	    known->words[5] == name.words[5] && known->words[6] == name.words[6] && known->words[7] == name.words[7])
		return;
	e = reserve_task(TASK_TENSOR, caller->thread->pid, caller->tid, now);
	if (!e)
		return;
	e->address = tensor;
	__builtin_memcpy(e->text, &name, sizeof(name));
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	tensor_names.update(&key, &name); /* a name that is not kept is told again */
}

/* A register by its place in struct pt_regs: of an inlined copy it may be any, and not only those of arguments. */
static __always_inline u64 any_register(struct pt_regs *regs, u32 number)
{
	volatile u64 r15 = regs->r15, r14 = regs->r14, r13 = regs->r13, r12 = regs->r12, bp = regs->bp, bx = regs->bx,
		     r11 = regs->r11, r10 = regs->r10, ax = regs->ax;

	switch (number) {
	case 0: return r15;
	case 1: return r14;
	case 2: return r13;
	case 3: return r12;
	case 4: return bp;
	case 5: return bx;
	case 6: return r11;
	case 7: return r10;
	case 10: return ax;
	default: return register_value(regs, number);
	}
}

int enter_operation(struct pt_regs *regs)
{
	struct window_caller caller;
	struct tensor_layout *layout;
	u64 tensor, source = 0, now;
	u32 operation = 0;
	int zero = 0;

	if (!in_window(regs, &caller))
		return 0;
	layout = tensor_layout.lookup(&zero);
	tensor = any_register(regs, caller.probe->argument_register);
	if (!layout || !tensor) {
		lose_event(KIND_OPERATION); /* never: it is an array, and an operation has a tensor */
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (read_user_memory(&operation, sizeof(operation), (void *)(tensor + layout->operation)))
		operation = UNKNOWN_OPERATION;
	if (!read_user_memory(&source, sizeof(source), (void *)(tensor + layout->source)) && source)
		tell_tensor(&caller, source, layout->name, now);
	tell_tensor(&caller, tensor, layout->name, now);
	emit(KIND_OPERATION, caller.tid, phase_of(caller.thread), now, operation, tensor, source);
	return 0;
}
#endif
