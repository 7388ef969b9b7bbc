/* BCC asks for a version; our programs never do (alternatives are tried, versions not compared). */
#ifndef BITNET_TRACE_VERSION_H
#define BITNET_TRACE_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif
