/* BCC includes this before everything else: it stands where a kernel tree keeps its configuration. */
#ifndef BITNET_TRACE_KCONFIG_H
#define BITNET_TRACE_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1
#define CONFIG_X86_64 1
#endif
