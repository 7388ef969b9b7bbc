/* struct taskstats as the kernel's header of one version has it (-DVERSION=8...17), each member set to a value of its
 * own: `taskstats_struct` prints a JSON object of name: [offset, value], `taskstats_struct raw` the bytes. The members
 * are those of include/uapi/linux/taskstats.h in its history, laid out by the compiler. */
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#if VERSION == 15
#define EXTREMES(X, what) X(__u64, what##_delay_max) X(__u64, what##_delay_min)
#else
#define EXTREMES(X, what)
#endif
#define DELAY(X, what) X(__u64, what##_count) X(__u64, what##_delay_total) EXTREMES(X, what)

#define UP_TO_8(X) \
	X(__u32, ac_exitcode) X(__u8, ac_flag) X(__u8, ac_nice) \
	X(__u64 __attribute__((aligned(8))), cpu_count) X(__u64, cpu_delay_total) EXTREMES(X, cpu) \
	DELAY(X, blkio) DELAY(X, swapin) X(__u64, cpu_run_real_total) X(__u64, cpu_run_virtual_total)
#define AFTER_COMM(X) \
	X(__u8 __attribute__((aligned(8))), ac_sched) X(__u8, pad1) X(__u8, pad2) X(__u8, pad3) \
	X(__u32 __attribute__((aligned(8))), ac_uid) X(__u32, ac_gid) X(__u32, ac_pid) X(__u32, ac_ppid) \
	X(__u32, ac_btime) X(__u64 __attribute__((aligned(8))), ac_etime) X(__u64, ac_utime) X(__u64, ac_stime) \
	X(__u64, ac_minflt) X(__u64, ac_majflt) X(__u64, coremem) X(__u64, virtmem) X(__u64, hiwater_rss) \
	X(__u64, hiwater_vm) X(__u64, read_char) X(__u64, write_char) X(__u64, read_syscalls) X(__u64, write_syscalls) \
	X(__u64, read_bytes) X(__u64, write_bytes) X(__u64, cancelled_write_bytes) X(__u64, nvcsw) X(__u64, nivcsw) \
	X(__u64, ac_utimescaled) X(__u64, ac_stimescaled) X(__u64, cpu_scaled_run_real_total) DELAY(X, freepages)
#define V9(X) DELAY(X, thrashing)
#define V10(X) X(__u64, ac_btime64)
#define V11(X) DELAY(X, compact)
#define V12(X) \
	X(__u32, ac_tgid) X(__u64 __attribute__((aligned(8))), ac_tgetime) X(__u64, ac_exe_dev) X(__u64, ac_exe_inode)
#define V13(X) DELAY(X, wpcopy)
#define V14(X) DELAY(X, irq)
#define BOTH(X, what) X(__u64, what##_delay_max) X(__u64, what##_delay_min)
#define V16(X) \
	BOTH(X, cpu) BOTH(X, blkio) BOTH(X, swapin) BOTH(X, freepages) BOTH(X, thrashing) BOTH(X, compact) \
	BOTH(X, wpcopy) BOTH(X, irq)
#define TIMESPEC(X, what) X(__s64, what##_delay_max_sec) X(__s64, what##_delay_max_nsec)
#define V17(X) \
	TIMESPEC(X, cpu) TIMESPEC(X, blkio) TIMESPEC(X, swapin) TIMESPEC(X, freepages) TIMESPEC(X, thrashing) \
	TIMESPEC(X, compact) TIMESPEC(X, wpcopy) TIMESPEC(X, irq)

#define NONE(X)
#if VERSION < 9
#undef V9
#define V9 NONE
#endif
#if VERSION < 10
#undef V10
#define V10 NONE
#endif
#if VERSION < 11
#undef V11
#define V11 NONE
#endif
#if VERSION < 12
#undef V12
#define V12 NONE
#endif
#if VERSION < 13
#undef V13
#define V13 NONE
#endif
#if VERSION < 14
#undef V14
#define V14 NONE
#endif
#if VERSION < 16
#undef V16
#define V16 NONE
#endif
#if VERSION < 17
#undef V17
#define V17 NONE
#endif
#define REST(X) AFTER_COMM(X) V9(X) V10(X) V11(X) V12(X) V13(X) V14(X) V16(X) V17(X)
#define MEMBER(type, name) type name;

struct taskstats {
	__u16 version;
	UP_TO_8(MEMBER)
	char ac_comm[32];
	REST(MEMBER)
};

int main(int argc, char **argv)
{
	struct taskstats t;
	unsigned long n = 0;

	(void)argv;
	memset(&t, 0, sizeof(t));
	t.version = VERSION;
	strcpy(t.ac_comm, "a thread's name");
	/* a value that no other member has, and that fills its bytes */
#define SET(type, name) t.name = ++n * 0x0102030405060708ul;
	UP_TO_8(SET)
	REST(SET)
	if (argc > 1)
		return fwrite(&t, sizeof(t), 1, stdout) != 1;
#define PRINT(type, name) printf(", \"%s\": [%zu, %llu]", #name, offsetof(struct taskstats, name), (unsigned long long)t.name);
	printf("{\"version\": [0, %d]", t.version);
	UP_TO_8(PRINT)
	REST(PRINT)
	printf(", \"size\": [%zu, 0]}\n", sizeof(t));
	return 0;
}
