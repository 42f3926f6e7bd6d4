// The torch operators on CUDA: kernels started on torch's current stream.
#include "bindings.h"
#include "cuda_launch.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace zoo {
namespace {

Type type_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case at::kFloat: return Type::float32;
        case at::kDouble: return Type::float64;
        case at::kBFloat16: return Type::bfloat16;
        case at::kHalf: return Type::float16;
        default: TORCH_CHECK(false, "x is ", x.scalar_type(), ": must be float32, float64, bfloat16 or float16");
    }
}

struct Cuda {
    static void bias_act(int order, const BiasAct& p, int act, const Tensor& q, const Tensor& dy, const Tensor& ref,
                         const Tensor& b, const Tensor& y) {
        const c10::cuda::CUDAGuard guard(ref.device());
        const BiasActTensors<void> tensors{in<void>(q), in<void>(dy), in<void>(ref), in<void>(b), out<void>(y)};
        report(launch_bias_act(type_of(ref), order, p, act, tensors, c10::cuda::getCurrentCUDAStream().stream()));
    }

    static void upfirdn2d(const Resample& r, const Tensor& x, const Tensor& f, const Tensor& y) {
        const c10::cuda::CUDAGuard guard(x.device());
        void* const stream = c10::cuda::getCurrentCUDAStream().stream();
        report(launch_upfirdn2d(type_of(x), r, in<void>(x), in<float>(f), out<void>(y), stream));
    }

private:
    static void report(const char* error) { TORCH_CHECK(error == nullptr, "the kernel was not started: ", error); }
};

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, CUDA, library) { implement<Cuda>(library); }

}  // namespace
}  // namespace zoo
