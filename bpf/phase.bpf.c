/* Phases: every process is in exactly one at any time, and the phases tile its life.
 *
 * A call of the engine begins at a probed entry and ends at one of the function's `ret` instructions: the one
 * where the stack pointer is what it was at the entry. No return probe is used, so an exception may pass. */

/* Unique in the recording and growing. The compiler in BCC is set to a BPF version without an atomic add that returns
 * a result, so a number is claimed by inserting it: of two that try the same one, one gets the next. */
static __always_inline u32 next_phase_id(void)
{
	int zero = 0;
	struct phase_state fresh = {};
	u64 *counter = phase_counter.lookup(&zero);
	u32 id;

	if (!counter)
		return 0; /* cannot be: the map has one entry */
	id = (u32)*counter + 1;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 8; i++) {
		if (!phase_states.insert(&id, &fresh)) {
			__sync_fetch_and_add(counter, 1);
			return id;
		}
		id++;
	}
	lose_other(LOST_PHASE);
	return 0;
}

/* The process leaves its phase for a new one of the given role; returns the new one's id, 0 when none could be had. */
static __always_inline u32 enter_phase(struct process *p, u32 pid, u32 tid, u32 role, u64 now, u64 context,
				       u32 n_tokens)
{
	u32 id = next_phase_id();
	u64 bytes = resident_bytes();

	if (!id)
		return 0; /* counted as lost there; it stays in its phase */
	if (p->phase)
		note_resident(tid, pid, p->phase, now, bytes);
	p->phase = id;
	p->role = role;
	tell_phase_change();
	p->marked = 0;
	p->rss_peak = bytes;
	emit_phase(KIND_PHASE_BEGIN, tid, id, now, role, context, n_tokens | (u64)pid << 32);
	note_resident(tid, pid, id, now, bytes);
	return id;
}

static __always_inline void leave_phase(u32 pid, u32 tid, u32 phase, u32 how, u64 now)
{
	emit_phase(KIND_PHASE_END, tid, phase, now, how, 0, (u64)pid << 32);
}

static __always_inline int is_result(u32 role)
{
	return role == ROLE_SAMPLE || role == ROLE_LOGITS;
}

static __always_inline int is_gap(u32 role)
{
	return role == ROLE_STARTUP || role == ROLE_GAP || role == ROLE_IDLE || role == ROLE_ATTACHED;
}

/* The caller of the engine went to sleep between two calls: what follows is idle time, not work after a call. */
static __always_inline void fall_idle(struct process *p, u32 pid, u32 tid, u64 now)
{
	if (p->role != ROLE_GAP || p->caller != tid)
		return;
	leave_phase(pid, tid, p->phase, END_GAP, now);
	enter_phase(p, pid, tid, ROLE_IDLE, now, 0, 0);
}

/* The outermost call of this thread is over. Its process falls back to a call of another thread that is open still
 * (calls may overlap: the newest is billed). Returns 1 when there is none: the process has to enter another phase. */
static __always_inline int close_engine_call(struct thread *t, struct process *p, u32 tid, u32 how, u64 now)
{
	u32 ended = t->engine_phase;
	u32 candidate = ended;
	struct phase_state *state;

	t->engine_phase = 0;
	leave_phase(t->pid, tid, ended, how, now);
	state = phase_states.lookup(&ended);
	if (state)
		state->open = 0;
	if (p->phase != ended)
		return 0; /* a newer call of another thread is current */
	p->caller = tid;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		state = phase_states.lookup(&candidate);
		if (!state)
			break;
		if (state->open) {
			p->phase = candidate;
			tell_phase_change();
			p->role = ROLE_DECODE;
			return 0;
		}
		candidate = state->previous;
	}
	return 1;
}

/* The thread ends within its call: the process is likely to end too, and stays in that phase until the next begins. */
static __always_inline void abandon_engine_call(struct thread *t, u32 tid, u64 now)
{
	struct phase_state *state = phase_states.lookup(&t->engine_phase);
	if (state)
		state->open = 0;
	leave_phase(t->pid, tid, t->engine_phase, END_EXIT, now);
	t->engine_phase = 0;
}

/* Numbers are positions in struct pt_regs. The values are read first, each from its own fixed place: of a context
 * the verifier takes no computed address, and `volatile` keeps the compiler from making one. */
static __always_inline u64 register_value(struct pt_regs *regs, u32 number)
{
	volatile u64 r9 = regs->r9, r8 = regs->r8, cx = regs->cx, dx = regs->dx, si = regs->si, di = regs->di,
		     sp = regs->sp;

	switch (number) {
	case 8: return r9;
	case 9: return r8;
	case 11: return cx;
	case 12: return dx;
	case 13: return si;
	case 14: return di;
	case 19: return sp;
	default: return 0;
	}
}

/* An argument by the probe's description; the memory of the stopped thread is its own, and mapped or unreadable. */
static __always_inline u64 argument_value(struct pt_regs *regs, u32 kind, u32 number, u32 offset, u32 sp_offset)
{
	u64 base = register_value(regs, number);
	u32 value = 0;

	if (kind == LOCATION_REGISTER)
		return base;
	if (kind != LOCATION_MEMORY)
		return 0;
	if (number == 19)
		base += sp_offset;
	if (read_user_memory(&value, sizeof(value), (void *)base + offset))
		return 0; /* paged out at this moment: unknown, the row says so */
	return value;
}

/* Stops this thread for our ptrace, on its way back to user mode; the tracer swallows the signal. SIGURG, because it does
 * nothing where the tracer has died meanwhile, and programs have to bear it at any time. Only a thread that blocks it gets
 * SIGSTOP, which nobody can block. */
static __always_inline void stop_for_tracer(void)
{
	u64 blocked = 0;

	READ_KERNEL(blocked, bpf_get_current_task(), TASK_BLOCKED);
	bpf_send_signal_thread(blocked & (1ULL << (SIGNAL_URG - 1)) ? SIGNAL_STOP : SIGNAL_URG);
}

static __always_inline int is_held(u32 pid)
{
	u32 *how = held.lookup(&pid);
	return how && *how == HELD;
}

/* Whether a conditional jump with this condition code would be taken now. */
static __always_inline int holds(u64 flags, u32 code)
{
	u32 carry = flags & 1, parity = flags >> 2 & 1, zero = flags >> 6 & 1, sign = flags >> 7 & 1;
	u32 overflow = flags >> 11 & 1, result;

	switch (code >> 1) {
	case 0: result = overflow; break;
	case 1: result = carry; break;
	case 2: result = zero; break;
	case 3: result = carry | zero; break;
	case 4: result = sign; break;
	case 5: result = parity; break;
	case 6: result = sign ^ overflow; break;
	default: result = zero | (sign ^ overflow);
	}
	return result != (code & 1);
}

int engine_probe(struct pt_regs *regs)
{
	u32 cookie = bpf_get_attach_cookie(regs);
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = this_thread(tid);
	struct probe *probe;
	struct process *p;
	u64 now, sp, *hits, tokens, context;

	if (!t)
		return 0; /* another process that maps the same file */
	probe = probes.lookup(&cookie);
	hits = probe_hits.lookup(&cookie);
	if (!probe || !hits)
		return 0; /* not ours: cookies are below MAX_PROBES */
	(*hits)++;
	if (probe->condition && !holds(regs->flags, probe->condition - 1))
		return 0;

	if (probe->action == ACTION_HOLD) {
		if (is_held(t->pid))
			stop_for_tracer();
		return 0;
	}
	p = processes.lookup(&t->pid);
	if (!p)
		return 0; /* counted when the process could not be kept */
	now = bpf_ktime_get_ns();
	sp = regs->sp + probe->sp_offset;

	tokens = argument_value(regs, probe->tokens_kind, probe->tokens_register, probe->tokens_offset, probe->sp_offset);
	context = argument_value(regs, probe->context_kind, probe->context_register, probe->context_offset,
				 probe->sp_offset);

	/* At most one phase is entered per hit: which, is found out first. */
	u32 enters = 0;
	switch (probe->action) {
	case ACTION_TOKENS:
		if (t->engine_phase)
			emit_phase(KIND_PHASE_TOKENS, tid, t->engine_phase, now, probe->role, context,
				   (u32)tokens | (u64)t->pid << 32);
		return 0;
	case ACTION_END:
		if (!t->engine_phase || t->engine_sp != sp)
			return 0; /* of a deeper call */
		if (close_engine_call(t, p, tid, END_RETURN, now))
			enters = ROLE_GAP;
		break;
	case ACTION_MARK:
		if (t->engine_phase && sp > t->engine_sp) { /* its return was not seen */
			if (close_engine_call(t, p, tid, END_NEXT, now))
				enters = ROLE_GAP;
		} else if (p->role == ROLE_IDLE && p->caller == tid && is_result(probe->role)) {
			leave_phase(t->pid, tid, p->phase, END_GAP, now);
			enters = ROLE_GAP; /* work goes on */
		}
		break;
	default: /* ACTION_BEGIN */
		if (t->engine_phase) {
			if (sp < t->engine_sp)
				return 0; /* deeper: the outermost counts */
			if (sp == t->engine_sp && regs->ip != t->engine_ip)
				return 0; /* the same call under another name, by a tail jump */
			close_engine_call(t, p, tid, END_NEXT, now); /* an exception passed it */
		} else if (is_gap(p->role)) {
			leave_phase(t->pid, tid, p->phase, END_GAP, now);
		}
		enters = probe->role;
	}
	if (enters) {
		/* a call of another thread that is open goes on below this one */
		u32 previous = is_gap(p->role) ? 0 : p->phase;
		u32 id = enter_phase(p, t->pid, tid, enters, now, enters == ROLE_GAP ? 0 : context,
				     enters == ROLE_GAP ? 0 : tokens);
		if (enters != ROLE_GAP) {
			struct phase_state call = {.previous = previous, .open = 1};
			if (phase_states.update(&id, &call))
				lose_other(LOST_PHASE); /* another's call that it interrupts is not gone back to */
			t->engine_phase = id;
			t->engine_sp = sp;
			t->engine_ip = regs->ip;
		}
	}
	if (probe->action == ACTION_MARK) {
		u64 argument = argument_value(regs, probe->argument_kind, probe->argument_register,
					      probe->argument_offset, probe->sp_offset);
		if (is_result(probe->role))
			p->marked = 1;
		emit_phase(KIND_PHASE_MARK, tid, p->phase, now, probe->role, argument, (u64)t->pid << 32);
	}
	counter_edge(t, tid);
	return 0;
}
