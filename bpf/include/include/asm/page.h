/* x86-64 page size, the only thing that BCC takes from here. */
#ifndef BITNET_TRACE_PAGE_H
#define BITNET_TRACE_PAGE_H
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL
#endif
