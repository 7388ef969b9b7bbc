/* Appended to the project's own sources: what the offsets of capture/btf.py find, in the name of one thread that calls
 * getppid() with a descriptor as its argument, and at the last execve of anybody. */
struct facts {
	u64 minor, major, voluntary, involuntary, ran_ns, run_delay_ns, blocked, resident;
	u64 inode, size;
	u32 seen, pid, tgid, state, exit_code, device, max_fds, flags;
	char comm[16];
	char name[64];
	char program[64];
};

BPF_ARRAY(subject, u32, 1);
BPF_ARRAY(facts, struct facts, 1);

int take_facts(struct bpf_raw_tracepoint_args *ctx)
{
	int zero = 0;
	u32 tid = bpf_get_current_pid_tgid();
	u32 *wanted = subject.lookup(&zero);
	struct facts *f = facts.lookup(&zero);
	u64 task = bpf_get_current_task(), fd = 0, file, inode = 0, super = 0, dentry = 0, name = 0, files = 0, table = 0;

	if (!wanted || !f || *wanted != tid || ctx->args[1] != 110 /* getppid */)
		return 0;
	READ_KERNEL(f->pid, task, TASK_PID);
	READ_KERNEL(f->tgid, task, TASK_TGID);
	READ_KERNEL(f->comm, task, TASK_COMM_OFFSET);
	READ_KERNEL(f->minor, task, TASK_MIN_FLT);
	READ_KERNEL(f->major, task, TASK_MAJ_FLT);
	READ_KERNEL(f->voluntary, task, TASK_NVCSW);
	READ_KERNEL(f->involuntary, task, TASK_NIVCSW);
	READ_KERNEL(f->ran_ns, task, TASK_SUM_RUNTIME);
	READ_KERNEL(f->run_delay_ns, task, TASK_RUN_DELAY);
	READ_KERNEL(f->blocked, task, TASK_BLOCKED);
	READ_KERNEL(f->state, task, TASK_STATE);
	READ_KERNEL(f->exit_code, task, TASK_EXIT_CODE);
	READ_KERNEL(f->flags, task, TASK_FLAGS);
	READ_KERNEL(files, task, TASK_FILES);
	READ_KERNEL(table, files, FILES_FDT);
	READ_KERNEL(f->max_fds, table, FDT_MAX_FDS);
	f->resident = resident_bytes();
	READ_KERNEL(fd, ctx->args[0], 14 * sizeof(long)); /* rdi of struct pt_regs */
	file = open_file(fd);
	READ_KERNEL(inode, file, FILE_INODE);
	READ_KERNEL(f->inode, inode, INODE_INO);
	READ_KERNEL(f->size, inode, INODE_SIZE);
	READ_KERNEL(super, inode, INODE_SB);
	READ_KERNEL(f->device, super, SB_DEV);
	READ_KERNEL(dentry, file, FILE_DENTRY);
	READ_KERNEL(name, dentry, DENTRY_NAME);
	bpf_probe_read_kernel_str(f->name, sizeof(f->name), (void *)name);
	f->seen++;
	return 0;
}

int take_program(struct bpf_raw_tracepoint_args *ctx)
{
	int zero = 0;
	struct facts *f = facts.lookup(&zero);
	u64 name = 0;

	if (!f)
		return 0;
	READ_KERNEL(name, ctx->args[2], BPRM_FILENAME);
	bpf_probe_read_kernel_str(f->program, sizeof(f->program), (void *)name);
	return 0;
}
