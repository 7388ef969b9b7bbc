// Functions of every kind that a symbol table, debug information or nothing at all can tell of. What each is for is in
// its name; those of an engine have names of an engine.
#include <immintrin.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

volatile int sink;

#define NOINLINE __attribute__((noinline))

extern "C" {
NOINLINE int llama_decode(void *context, int n) { sink = n; return n + (context != nullptr); }
NOINLINE int ggml_vec_dot_exported(const int *x, int n) { int s = 0; while (n--) s += x[n] * sink; return s; }
static NOINLINE int ggml_vec_dot_local(const int *x, int n) { int s = 1; while (n--) s ^= x[n] + sink; return s; }
static inline __attribute__((always_inline)) void ggml_barrier(void) { while (sink == 12345) _mm_pause(); sink++; }
NOINLINE void ggml_graph_compute_exported(int n)
{
	for (int i = 0; i < n; i++) {
		sink += i;
		ggml_barrier();
	}
	sink ^= 7;
	ggml_barrier();
}

// chosen at start, by the processor
static int avx_version(int x) { return x + 2 + sink; }
static int plain_version(int x) { return x + 1 + sink; }
int (*choose(void))(int);
int (*choose(void))(int) { __builtin_cpu_init(); return __builtin_cpu_supports("avx") ? avx_version : plain_version; }
int quantize_row_chosen(int x) __attribute__((ifunc("choose")));
}

template <int N> NOINLINE int ggml_vec_dot_template(const int *x) { int s = 0; for (int i = 0; i < N; i++) s += x[i] * sink; return s; }
namespace engine {
NOINLINE int quantize_row_mangled(const int *x, int n) { sink = n; return x[0] + 1; }
}
namespace {
NOINLINE int dequantize_row_hidden(const int *x) { sink = 3; return x[1] ^ sink; }
}

// a lambda in a function is not that function
NOINLINE int ggml_compute_forward_with_lambda(int n)
{
	auto inner = [](int i) NOINLINE { sink += i; return i * sink; };
	return inner(n) + inner(n + 1);
}

// the compiler makes a copy for the one constant that it is called with, or takes a part out
static NOINLINE int rope_constant(int x, int scale) { int s = 0; for (int i = 0; i < x; i++) s += scale * i + sink; return s; }
static NOINLINE int rope_unlikely(int x)
{
	if (__builtin_expect(x == 54321, 0)) { sink = 9; abort(); }
	return x ^ sink;
}

struct pair { int a, b; };
static NOINLINE int rope_field(const pair *p, int n) { int a = p->a, s = a; while (n--) s += a * sink; return s; }
NOINLINE int field_user(pair *p, int n) { return rope_field(p, n) + sink; }
NOINLINE int other_field_user(pair *p, int n) { return rope_field(p + 1, n * 2) + sink; }
static int rope_early(int x)
{
	if (x < 1000)
		return 0;
	for (int i = 0; i < x; i++) { sink += i; printf("%d %d", i, sink); sink *= 3; }
	printf("%d", sink);
	for (int i = 0; i < x; i++) { sink ^= x; printf("%d %d", i, x); sink *= 5; }
	return sink * 5;
}
NOINLINE int rope_user(int x) { return rope_early(x) + sink; }
NOINLINE int rope_other_user(int x) { return rope_early(x * 3) ^ sink; }

int main(int argc, char **argv)
{
	int x[64] = {argc};
	pair p[3] = {{argc, 2}};
	char copy[64];
	memcpy(copy, argv, sizeof copy);
	sink = copy[argc];
	ggml_graph_compute_exported(argc);
	return llama_decode(argv, argc) + ggml_vec_dot_exported(x, argc) + ggml_vec_dot_local(x, argc) +
	       ggml_vec_dot_template<4>(x) + ggml_vec_dot_template<8>(x) + engine::quantize_row_mangled(x, argc) +
	       dequantize_row_hidden(x) + ggml_compute_forward_with_lambda(argc) + rope_constant(argc, 7) +
	       rope_constant(argc + 1, 7) + rope_unlikely(argc) + field_user(p, argc) + other_field_user(p, argc) + rope_user(argc) + rope_other_user(argc) + quantize_row_chosen(argc);
}
