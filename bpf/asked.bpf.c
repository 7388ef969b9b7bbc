/* What threads asked of the scheduler, affinity and priority, and what they had when they ended. Rare calls. */

/* Fills the 64 bytes of `text` with a CPU mask of the caller's memory. In whole words: the kernel takes no others. */
static __always_inline void read_asked_mask(struct task_event *e, u64 bytes, u64 mask)
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (bytes >= 8 * (i + 1))
			read_user_memory(&e->text[8 * i], 8, (void *)mask + 8 * i);
}

static __always_inline void ask_ends(struct thread *t, u32 tid, s64 result, u64 now)
{
	/* of struct sched_attr: size, policy, flags (64 bits), nice, priority */
	struct { u32 size, policy; u64 flags; s32 nice; u32 priority; } attributes = {};
	u64 *arguments = t->call_arguments;
	u32 priority = 0;

	if (t->call_number == CALL_SETPRIORITY && arguments[0] != 0)
		return; /* of a process group, or of a user */
	struct task_event *e = reserve_task(TASK_ASKED, t->pid, tid, now);
	if (!e)
		return; /* counted as lost there */
	e->device = t->call_number;
	e->length = error_of(result);
	e->value = t->call_number == CALL_SETPRIORITY ? arguments[1] : arguments[0];
	switch (t->call_number) {
	case CALL_SETAFFINITY:
		read_asked_mask(e, arguments[1], arguments[2]);
		break;
	case CALL_SETSCHEDULER:
		e->address = arguments[1];
		read_user_memory(&priority, sizeof(priority), (void *)arguments[2]);
		e->offset = priority;
		break;
	case CALL_SETPARAM:
		read_user_memory(&priority, sizeof(priority), (void *)arguments[1]);
		e->offset = priority;
		break;
	case CALL_SETATTR:
		read_user_memory(&attributes, sizeof(attributes), (void *)arguments[1]);
		e->address = attributes.policy;
		e->offset = attributes.priority;
		e->inode = (s64)attributes.nice;
		break;
	default:
		e->inode = (s64)(s32)arguments[2];
	}
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* Of the running thread, which ends. */
static __always_inline void send_scheduled(struct thread *t, u32 tid, u64 task, u64 now)
{
	u32 policy = 0, priority = 0;
	s32 static_priority = 0;
	struct task_event *e = reserve_task(TASK_SCHEDULED, t->pid, tid, now);

	if (!e)
		return; /* counted as lost there */
	READ_KERNEL(policy, task, TASK_POLICY);
	READ_KERNEL(priority, task, TASK_RT_PRIORITY);
	READ_KERNEL(static_priority, task, TASK_STATIC_PRIO);
	bpf_probe_read_kernel(e->text, CPUMASK_BYTES, (void *)task + TASK_CPUS_MASK);
	e->value = tid;
	e->address = policy;
	e->offset = priority;
	e->inode = (s64)(static_priority - 120); /* nice, as PRIO_TO_NICE() has it */
	tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}
