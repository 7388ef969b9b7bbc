/* Other debuggers among the target and around it: who traces a thread of the target, and who could not because we do. */

enum ptrace_request { PTRACE_TRACEME = 0, PTRACE_ATTACH = 16, PTRACE_SEIZE = 0x4206 };
#define ERROR_PERM 1

/* At the exit of a ptrace call of any thread of the machine. A thread has one tracer: what we hold is refused to others.
 * One of ours that is refused stops on its way back, our tracer lets go of what it wanted, and it calls again without
 * knowing. Somebody else cannot be stopped: the tracer is told, for the next try. */
static __always_inline void ptrace_ends(u32 tid, u64 regs, s64 result)
{
	u64 request = LOAD_WORD(regs, REGISTER_DI);
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 wanted = tid;
	struct thread *t;

	if (result != 0 && result != -ERROR_PERM)
		return;
	if (request == PTRACE_ATTACH || request == PTRACE_SEIZE)
		wanted = LOAD_WORD(regs, REGISTER_SI);
	else if (request != PTRACE_TRACEME)
		return;
	t = this_thread(wanted);
	if (!t)
		return; /* not of the target */
	if (result != 0) {
		if (!held.lookup(&t->pid) || (t->pid == pid && request != PTRACE_TRACEME))
			return; /* not on our account */
		if (is_held(pid)) {
			stop_for_tracer();
			return;
		}
	}
	struct task_event *e = reserve_task(TASK_PTRACED, t->pid, wanted, bpf_ktime_get_ns());
	if (!e)
		return; /* counted as lost there */
	if (request == PTRACE_TRACEME) {
		u64 parent = 0;
		READ_KERNEL(parent, bpf_get_current_task(), TASK_REAL_PARENT);
		READ_KERNEL(pid, parent, TASK_TGID);
	}
	e->value = pid;
	e->length = result != 0;
	bpf_get_current_comm(e->text, 16); /* the parent's name too: the child has it until its exec */
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}
