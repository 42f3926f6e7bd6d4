// The torch operators on CPUs: kernels spread over torch's threads.
#include "bindings.h"
#include "cpu_kernels.h"

#include <ATen/Parallel.h>

namespace zoo {
namespace {

constexpr int64_t least_elements = 16384;       // Less than this is not worth a second thread.

// Calls f(a value of the kernel's type for `dtype`).
template <class F> void with_type(at::ScalarType dtype, F f) {
    switch (dtype) {
        case at::kFloat: return f(float());
        case at::kDouble: return f(double());
        case at::kBFloat16: return f(BFloat16());
        default: TORCH_CHECK(false, "x is ", dtype, ": on CPUs it must be float32, float64 or bfloat16");
    }
}

struct Cpu {
    static void bias_act(int order, const BiasAct& p, int act, const Tensor& q, const Tensor& dy, const Tensor& ref,
                         const Tensor& b, const Tensor& y) {
        with_type(ref.scalar_type(), [&](auto type) {
            using T = decltype(type);
            const BiasActTensors<T> tensors{in<T>(q), in<T>(dy), in<T>(ref), in<T>(b), out<T>(y)};
            at::parallel_for(0, p.size, least_elements, [&](int64_t begin, int64_t end) {
                bias_act_cpu(order, p, act, tensors, begin, end);
            });
        });
    }

    static void upfirdn2d(const Resample& r, const Tensor& x, const Tensor& f, const Tensor& y) {
        const int64_t units = upfirdn2d_cpu_units(r), elements = y.numel() / units + 1;
        with_type(x.scalar_type(), [&](auto type) {
            using T = decltype(type);
            at::parallel_for(0, units, (least_elements + elements - 1) / elements, [&](int64_t begin, int64_t end) {
                upfirdn2d_cpu(r, in<T>(x), in<float>(f), out<T>(y), begin, end);
            });
        });
    }
};

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, CPU, library) { implement<Cpu>(library); }

}  // namespace
}  // namespace zoo
