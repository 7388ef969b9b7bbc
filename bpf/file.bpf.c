/* Which file a descriptor is of: its number, its size, its path. */

struct file_key {
	u64 inode;
	u32 device;
	u32 unused;
};

/* Files whose path was told. One that was pushed out is told again, which does no harm. */
BPF_TABLE("lru_hash", struct file_key, u32, told_files, 4096);

/* From a descriptor to its file: task->files->fdt->fd[n]. */
static __always_inline u64 open_file(u32 fd)
{
	u64 files = 0, table = 0, array = 0, file = 0;
	u32 size = 0;

	READ_KERNEL(files, bpf_get_current_task(), TASK_FILES);
	if (!files)
		return 0;
	READ_KERNEL(table, files, FILES_FDT);
	READ_KERNEL(size, table, FDT_MAX_FDS);
	if (fd >= size)
		return 0;
	READ_KERNEL(array, table, FDT_FD);
	READ_KERNEL(file, array, fd * sizeof(u64));
	return file;
}

static __always_inline struct file_key file_key(u64 file)
{
	u64 inode = 0, super = 0;
	struct file_key key = {};

	READ_KERNEL(inode, file, FILE_INODE);
	READ_KERNEL(key.inode, inode, INODE_INO);
	READ_KERNEL(super, inode, INODE_SB);
	READ_KERNEL(key.device, super, SB_DEV);
	return key;
}

static __always_inline s64 file_size(u64 file)
{
	u64 inode = 0;
	s64 size = 0;

	READ_KERNEL(inode, file, FILE_INODE);
	READ_KERNEL(size, inode, INODE_SIZE);
	return size;
}

static __always_inline int is_regular_file(u64 file)
{
	u64 inode = 0;
	u16 mode = 0;

	READ_KERNEL(inode, file, FILE_INODE);
	READ_KERNEL(mode, inode, INODE_MODE);
	return (mode & 0170000) == 0100000;
}

/* The path of a file, from its last part up to the root, over mount points: short programs are gone before they can be
 * asked. As the kernel's d_path(), but for renames meanwhile. */
static __always_inline void tell_path(struct file_key *key, u64 file, u32 pid, u32 tid, u64 now)
{
	u64 dentry = 0, mount = 0, parent, root, name;
	u32 told = 1, level = 0, piece = 0;

	if (told_files.lookup(key))
		return;
	told_files.update(key, &told);
	READ_KERNEL(dentry, file, FILE_DENTRY);
	READ_KERNEL(mount, file, FILE_MOUNT);
	mount -= MOUNT_VFSMOUNT;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 32; i++) { /* more, and the kernel's verifier gives up */
		root = 0;
		READ_KERNEL(root, mount, MOUNT_VFSMOUNT + MOUNT_ROOT);
		if (dentry == root) {
			parent = mount;
			READ_KERNEL(parent, mount, MOUNT_PARENT);
			if (parent == mount)
				return; /* the root of all */
			READ_KERNEL(dentry, mount, MOUNT_POINT);
			mount = parent;
			continue;
		}
		parent = dentry;
		READ_KERNEL(parent, dentry, DENTRY_PARENT);
		if (parent == dentry)
			return; /* of no tree: a pipe, a memfd, a file of the kernel's own */
		struct task_event *e = reserve_task(TASK_FILE_NAME, pid, tid, now);
		if (!e)
			return; /* counted as lost there */
		e->device = key->device;
		e->inode = key->inode;
		e->value = level << 8 | piece;
		name = 0;
		READ_KERNEL(name, dentry, DENTRY_NAME);
		int length = bpf_probe_read_kernel_str(e->text, sizeof(e->text), (void *)name + piece * (sizeof(e->text) - 1));
		tasks.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
		if (length == sizeof(e->text) && piece < 4) {
			piece++;
		} else {
			dentry = parent;
			piece = 0;
			level++;
		}
	}
}
