/* Functions that return in different ways, for the tests of symbol lookup and of where a call ends. */
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"), noinline, noclone))

volatile int sink;

API int leaf(int a)
{
	return a * 3 + 1;
}

/* several returns, also from inside a loop */
API int many_returns(const int *values, int count)
{
	if (!values)
		return -1;
	for (int i = 0; i < count; i++) {
		sink += leaf(values[i]);
		if (values[i] == 7)
			return leaf(i) + leaf(i + 1);
	}
	sink = count;
	return leaf(count) - 2;
}

/* ends in a jump to a function of this file, through the PLT where it may be replaced */
API int tail_call(int a)
{
	sink = a;
	return leaf(a + 1);
}

API int tail_call_twice(int a)
{
	sink = a + 1;
	return tail_call(a - 1);
}

/* nothing but a jump, as the old name of a renamed function is */
API int old_name(const int *values, int count)
{
	return many_returns(values, count);
}

/* ends in a jump to another library */
API void tail_to_library(void *pointer)
{
	sink++;
	free(pointer);
}

/* ends in a jump that only the running program knows the target of */
API int tail_to_pointer(int (**table)(int), int a)
{
	return table[1](a);
}

/* an indirect jump that stays inside */
API int jump_table(int a)
{
	switch (a) {
	case 0: sink = 5; return leaf(3) + 2;
	case 1: sink = 9; return leaf(1) + sink;
	case 2: sink = 2; return leaf(7) - 3;
	case 3: sink = 7; return leaf(2) + 11;
	case 4: sink = 3; return leaf(9) - sink;
	case 5: sink = 8; return leaf(6) + 17;
	case 6: sink = 1; return leaf(4) - 19;
	default: return 0;
	}
}

static __attribute__((noinline, noclone)) int hidden_leaf(int a)
{
	return sink += a * 5;
}

/* ends in a jump to a function that a stripped file has no name for */
API int tail_to_hidden(int a)
{
	sink -= 3;
	return hidden_leaf(a - 2);
}

__attribute__((cold, noinline)) static void complain(const int *value)
{
	sink = *value;
	abort();
}

/* has a part that the compiler moves away (.cold) */
API int with_cold_part(const int *value, int a)
{
	if (__builtin_expect(a < 0, 0)) {
		complain(value);
		return leaf(a);
	}
	return leaf(*value) + 1;
}

struct batch {
	int n_tokens;
	void *pointers[6];
};

API int by_value(void *context, struct batch batch)
{
	sink += batch.n_tokens;
	return leaf(batch.n_tokens) + (context != NULL);
}

static int (*pointers[2])(int) = {leaf, tail_call};

int main(int argc, char **argv)
{
	struct batch batch = {.n_tokens = argc};
	int values[] = {1, 2, 7};

	tail_to_library(strdup(argv[0]));
	return (many_returns(values, 3) + old_name(values, argc) + tail_call_twice(argc) + tail_to_pointer(pointers, argc) +
		jump_table(argc) + tail_to_hidden(argc) + with_cold_part(values, argc) + by_value(argv, batch)) & 1;
}
