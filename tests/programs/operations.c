/* An engine that computes a graph, and what it knows of that: `operations THREADS CALLS LOG`.
 *
 * With -DINLINED the function that computes a node is, as optimised builds of ggml have it. With -DODD tensors are laid out as nobody's are, which debug information tells; else as llama.cpp's are today. Each of
 * CALLS calls of llama_decode() computes 3 layers of 5 nodes on THREADS threads. When all is over LOG is written: begin and
 * end of each node's work (CLOCK_MONOTONIC, ns, 64 bits), by call, node and thread. */
#include "truth.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum ggml_op { GGML_OP_NONE, GGML_OP_ADD, GGML_OP_RMS_NORM, GGML_OP_MUL_MAT, GGML_OP_COUNT };
static const char *GGML_OP_NAME[GGML_OP_COUNT] = {"NONE", "ADD", "RMS_NORM", "MUL_MAT"};

struct ggml_tensor {
	int type;
#ifdef ODD
	char name[64];
	long ne[4];
	struct ggml_tensor *src[10];
	enum ggml_op op;
#else
	void *buffer;
	long ne[4], nb[4];
	enum ggml_op op;
	int op_params[16], flags;
	struct ggml_tensor *src[10], *view_src;
	size_t view_offs;
	void *data;
	char name[64];
	void *extra;
#endif
};

__attribute__((noipa)) const char *ggml_get_name(const struct ggml_tensor *tensor)
{
	return tensor->name;
}

__attribute__((noipa)) const char *ggml_op_name(enum ggml_op op)
{
	return GGML_OP_NAME[op];
}

#define LAYERS 3
#define NODES_A_LAYER 5
#define N_NODES (LAYERS * NODES_A_LAYER)
#define MAX_THREADS 8
static struct ggml_tensor graph[N_NODES], *nodes[N_NODES], weights[N_NODES];
static int n_threads, n_calls;
static struct span {
	uint64_t begin_ns, end_ns;
} *known; /* [call][node][thread] */
static _Atomic int arrived, passed, started;

__attribute__((noipa)) void ggml_barrier(void *pool)
{
	if (n_threads == 1) /* as ggml has it: a place for a probe before others can see that this thread has come */
		return;
	int before = passed;
	(void)pool;
	if (atomic_fetch_add(&arrived, 1) == n_threads - 1) {
		arrived = 0;
		passed++;
		return;
	}
	while (passed == before)
		__builtin_ia32_pause();
}

#ifdef INLINED
#define COMPUTE static inline __attribute__((always_inline))
#else
#define COMPUTE __attribute__((noipa))
#endif

/* Matrix products take the last thread twice as long. */
COMPUTE void ggml_compute_forward(const int *place, struct ggml_tensor *tensor)
{
	if (tensor->op == GGML_OP_NONE)
		return;
	uint64_t ns = tensor->op == GGML_OP_MUL_MAT ? 40000 * (1 + (*place == n_threads - 1)) : 10000;
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + ns;

	while (clock_ns(CLOCK_MONOTONIC) < end)
		;
	if (tensor->src[0])
		*(volatile int *)&tensor->src[0]->type = tensor->type; /* it is needed to the end, as tensors are */
}

__attribute__((noipa)) static void ggml_graph_compute_thread(int place, int call)
{
	for (int node = 0; node < N_NODES; node++) {
		struct span *span = &known[(call * N_NODES + node) * n_threads + place];
		span->begin_ns = clock_ns(CLOCK_MONOTONIC);
		ggml_compute_forward(&place, nodes[node]);
		span->end_ns = clock_ns(CLOCK_MONOTONIC);
		ggml_barrier(&passed);
	}
}

static void pin(int place)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(place, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void *worker(void *place)
{
	pin((long)place);
	for (int call = 0; call < n_calls; call++) {
		while (started <= call)
			__builtin_ia32_pause();
		ggml_graph_compute_thread((long)place, call);
	}
	return 0;
}

__attribute__((noipa)) int llama_decode(void *context, struct llama_batch batch)
{
	ggml_graph_compute_thread(0, started++);
	return context ? batch.n_tokens : 0;
}

__attribute__((noipa)) int llama_sampler_sample(void *sampler, void *context, int index)
{
	return sampler == context ? index : 0;
}

int main(int argc, char **argv)
{
	static const enum ggml_op ops[NODES_A_LAYER] = {GGML_OP_RMS_NORM, GGML_OP_MUL_MAT, GGML_OP_MUL_MAT, GGML_OP_ADD, GGML_OP_ADD};
	static const char *names[NODES_A_LAYER] = {"norm-%d", "Qcur-%d", "ffn_out-%d (view)", "cache_k_l%d", "l_out-%d"};
	struct llama_batch batch = {.n_tokens = 1};
	pthread_t threads[MAX_THREADS];

	if (argc != 4 || (n_threads = atoi(argv[1])) > MAX_THREADS)
		return 2;
	n_calls = atoi(argv[2]);
	size_t size = sizeof(struct span) * n_calls * N_NODES * n_threads;
	known = memset(malloc(size), 1, size);
	for (int node = 0; node < N_NODES; node++) {
		int layer = node / NODES_A_LAYER, which = node % NODES_A_LAYER;
		nodes[node] = &graph[node];
		graph[node].op = ops[which];
		snprintf(graph[node].name, sizeof(graph[node].name), names[which], layer);
		if (ops[which] == GGML_OP_MUL_MAT) {
			graph[node].src[0] = &weights[node];
			snprintf(weights[node].name, sizeof(weights[node].name), "blk.%d.%s.weight", layer, which == 1 ? "attn_q" : "ffn_down");
		}
	}
	for (long i = 1; i < n_threads; i++)
		pthread_create(&threads[i], 0, worker, (void *)i);
	pin(0);
	for (int call = 0; call < n_calls; call++) {
		llama_decode(&batch, batch);
		llama_sampler_sample(0, 0, 0);
	}
	for (int i = 1; i < n_threads; i++)
		pthread_join(threads[i], 0);
	FILE *log = fopen(argv[3], "w");
	if (!log)
		return 3;
	fwrite(known, size, 1, log);
	printf("%s %s\n", ggml_op_name(graph[1].op), ggml_get_name(&graph[1]));
	return fclose(log) ? 3 : 0;
}
