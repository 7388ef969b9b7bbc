/* Calls llama_decode() N times under a seccomp filter that kills for any system call but those that it makes itself:
 * `filtered filter|strict N`. The function begins with a nop of 5 bytes, where the kernel may put a jump to a system call
 * of its own in place of a breakpoint. */
#include "truth.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

int llama_decode(void *context, struct llama_batch batch);
int llama_sampler_sample(void *sampler, void *context, int index);

#define FUNCTION(name) \
	asm(".globl " #name "\n.type " #name ", @function\n" #name ":\n" \
	    ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" \
	    "push %rbx\nmov %rdi, %rbx\npop %rbx\nret\n" \
	    ".size " #name ", . - " #name "\n")
FUNCTION(llama_decode);
FUNCTION(llama_sampler_sample);

#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

int main(int argc, char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the call's number */
		ALLOW(SYS_write), ALLOW(SYS_exit), ALLOW(SYS_sched_yield),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog filter = {.len = sizeof(code) / sizeof(*code), .filter = code};
	struct llama_batch batch = {.n_tokens = 5};
	char text[200];

	if (argc < 3)
		return 2;
	int n = atoi(argv[2]), strict = argv[1][0] == 's', yields = 0;
	int length = snprintf(text, sizeof(text), "{\"pid\": %d, \"tid\": %d, \"calls\": %d, \"yields\": %d}\n", getpid(), own_tid(),
			      n, strict ? 0 : n);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (strict ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 3;
	for (int i = 0; i < n; i++) {
		llama_decode(0, batch);
		if (!strict)
			yields += !syscall(SYS_sched_yield);
		llama_sampler_sample(0, 0, i);
		batch.n_tokens = 1;
	}
	syscall(SYS_exit, write(1, text, length) != length || yields != (strict ? 0 : n));
	return 4;
}
