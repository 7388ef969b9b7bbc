// C++ functions whose names contain one another, for the tests of name matching.
#include <functional>
#include <vector>

#define API __attribute__((visibility("default"), noinline, noclone))

struct batch { int n_tokens; };
struct batch_ext { int n_tokens; };

volatile int sink;

namespace engine {

struct context {
	API int decode(const batch & one);
	API int decode(const batch_ext & one);
	API int decode_internal(int n);
	API int encode(const batch & one);
};

API int run(const std::function<int(int)> & function) { return function(3) + 1; }

// A lambda inside: its symbol contains the whole name of this function.
int context::decode(const batch_ext & one)
{
	std::vector<int> kept(one.n_tokens);
	return run([&kept](int n) __attribute__((noinline)) { sink = n; return (int) kept.size() + sink; }) + decode_internal(2);
}

int context::decode(const batch & one)
{
	batch_ext other = {one.n_tokens};
	return decode(other) + 1;
}

int context::decode_internal(int n) { return sink += n; }
int context::encode(const batch & one) { return sink -= one.n_tokens; }

} // namespace engine

namespace other {
struct context { API int decode(const batch & one); };
int context::decode(const batch & one) { return sink ^= one.n_tokens; }
} // namespace other

template <int bits, int groups> API int lut_kernel(int * values) { return sink += values[bits % groups]; }

namespace {
__attribute__((noinline, used)) int hidden_kernel(int n) { return sink *= n; }
} // namespace

API int sampler_sample(engine::context * context, int n) { return context->encode({n}) + hidden_kernel(n); }

int main(int argc, char **)
{
	int values[16] = {argc};
	engine::context one;
	other::context two;

	return (one.decode(batch{argc}) + two.decode(batch{argc}) + lut_kernel<8, 2>(values) + lut_kernel<16, 4>(values) +
		sampler_sample(&one, argc)) & 1;
}
