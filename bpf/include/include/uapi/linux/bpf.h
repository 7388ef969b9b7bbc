/* The BPF ABI: BCC carries its own copy. */
#include <linux/types.h>
#include <bcc/bpf.h>
