"""Where faults fell, how models got in, sizes of pages, TLBs, and NUMA nodes."""

from bitnet_trace.columns.column import CALLS, FAULTS, LATENCY, Column

# Where faults fell: a row per region, layer or tensor. `phases` is {phase name: {key of PLACE_SUMS: value}}.
PLACE_SUMS: tuple[Column, ...] = (
    Column("faults_minor", "minor faults", "count", "user and kernel faults without I/O", needs=FAULTS),
    Column("faults_major", "major faults", "count", "user and kernel faults that read a disk", needs=FAULTS),
    Column("faults_kernel", "kernel faults", "count", "those of both that were raised in kernel mode", needs=FAULTS),
    Column("faults_populate", "populate faults", "count", "faults that the kernel took ahead of use", needs=CALLS),
    Column("fault_ns", "fault time", "ns", "time from the exception to the handled fault", needs=LATENCY),
    Column("bytes", "faulted", "bytes", "4 KiB for each minor or major fault", how="derived", needs=FAULTS),
    Column("populated_bytes", "populated", "bytes", "what calls brought in ahead of use", needs=CALLS),
    Column("read_bytes", "read", "bytes", "what calls of the read family took from the file", needs=CALLS),
)
_PLACE_PHASES = Column("phases", "by phase", "text", "the same, by phase, where it is not 0")
_PATH = Column("path", "file", "text", "the file that is mapped or read")
PLACES_REGION: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)
PLACES_LAYER: tuple[Column, ...] = (
    Column("layer", "layer", "number", "layer of the model; missing: embedding, output"),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)
PLACES_TENSOR: tuple[Column, ...] = (
    Column("tensor", "tensor", "text", "tensor of the model file"),
    Column("layer", "layer", "number", "its layer; missing: embedding, output"),
    Column("type", "type", "text", "its type: a name, or the number in the file where that is not known"),
    Column("tensor_bytes", "size", "bytes", "its size"),
    Column("read_once_bytes", "read, different", "bytes", "of its bytes those that were read, each once", needs=CALLS),
    _PATH,
    *PLACE_SUMS,
    _PLACE_PHASES,
)

# Resident memory: a row per process, moment, region and page size.
PAGES: tuple[Column, ...] = (
    Column("pid", "pid", "number", "process"),
    Column("moment", "moment", "text", "after load, decode (the first), end (exactly), or interval"),
    Column("ts_ns", "at", "number", "when, by CLOCK_MONOTONIC"),
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    Column("page_bytes", "page size", "bytes", "what one entry of the page table maps, or the folio behind it"),
    Column("file", "of a file", "text", "pages of files and shared memory; else anonymous"),
    Column("resident_bytes", "resident", "bytes", "resident in pages of that size"),
)
PAGES_ADVISED: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    _PATH,
    Column("advice", "advice", "text", "what madvise was told"),
    Column("advised_bytes", "advised", "bytes", "about how much, added up over the calls"),
)

# How models got in: a row per phase in which their bytes came.
LOAD_PATH: tuple[Column, ...] = (
    Column("phase", "phase", "text", "when"),
    Column("dur_ns", "duration", "ns", "how long the phase lasted"),
    Column("populated_bytes", "populated", "bytes", "of the mapped model, ahead of use (MAP_POPULATE)"),
    Column("faulted_bytes", "faulted", "bytes", "of the mapped model, 4 KiB for each fault", how="derived"),
    Column("cached_read_bytes", "read", "bytes", "by calls of the read family, through the page cache"),
    Column("direct_read_bytes", "O_DIRECT", "bytes", "by such calls, past the page cache"),
    Column("io_uring_bytes", "io_uring", "bytes", "by io_uring, of any file"),
    Column("missed_bytes", "not cached", "bytes", "of the model, brought into the page cache meanwhile"),
    Column(
        "cache",
        "page cache",
        "text",
        "of what came through it 90 % was not there: cold; 10 % at most: warm",
        how="derived",
    ),
    Column(
        "readahead_waited",
        "readahead waited for",
        "count",
        "times that the kernel read from disk because a page was missing",
    ),
    Column("readahead_ahead", "ahead of need", "count", "times that it read on before anybody asked"),
    Column("io_uring_depth_mean", "depth", "number", "io_uring's requests under way, on average", how="derived"),
    Column("depth_max", "most at once", "count", "reads and io_uring's requests under way at one moment"),
    Column("gb_per_s", "GB/s", "number", "all of them over the time of the phase", how="derived"),
    Column("faults_major", "major faults", "count", "faults in the model that waited for a disk"),
)

# How much memory TLBs reach over: a row per TLB of data and page size.
TLB_REACH: tuple[Column, ...] = (
    Column("level", "TLB", "number", "1: the first level"),
    Column("page_bytes", "page size", "bytes", "of the pages that are translated"),
    Column("entries", "entries", "count", "by CPUID"),
    Column("shared", "shared", "text", "yes: pages of other sizes have the same entries"),
    Column("reach_bytes", "reach", "bytes", "entries times page size", how="estimated"),
    Column("reach_pct", "of a token", "pct", "share of the weights that one token reads", how="estimated"),
    Column("resident_pct", "weights in such pages", "pct", "share of the resident weights in pages of that size"),
)

# Huge pages that the kernel made of small ones, or tried to: a row per phase, kind of memory and outcome.
COLLAPSES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "of the process whose memory it is"),
    Column("what", "memory", "text", "anonymous, or of a file"),
    Column("result", "result", "text", "made, or why not, as the kernel calls it (enum scan_result)"),
    Column("n", "2 MiB blocks", "count", "how often"),
)

# NUMA nodes: a row per region and node, and per phase and node.
NUMA_REGIONS: tuple[Column, ...] = (
    Column("region", "region", "text", "what the memory is for"),
    Column("node", "node", "number", "NUMA node"),
    Column("resident_bytes", "on it", "bytes", "resident on that node, when it was last looked at"),
    Column(
        "local_pct",
        "local",
        "pct",
        "of its accesses, were they spread as threads and pages are",
        how="estimated",
    ),
)
NUMA_PHASES: tuple[Column, ...] = (
    Column("phase", "phase", "text", "name, or total"),
    Column("node", "node", "number", "NUMA node"),
    Column("cpu_pct", "CPU time", "pct", "share of the phase's timer samples on CPUs of that node", how="sampled"),
    Column("node_moves", "moves between nodes", "count", "threads that went to a CPU of another node; of all nodes"),
)
