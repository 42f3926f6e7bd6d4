// The torch operators on CUDA: kernels started on torch's current stream.
#include "bindings.h"
#include "cuda_kernels.h"
#include "cuda_launch.h"

#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
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

    static void report(const char* error) { TORCH_CHECK(error == nullptr, "the kernel was not started: ", error); }
};

Tensor contiguous(const OptionalTensor& part) { return part ? part->contiguous() : Tensor(); }

Tensor layer_act(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                 const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const LayerAct p = layer_act_arguments(x, {scale, noise, strength, b}, act, alpha, gain, clamp);
    const auto format = layout(x);
    const Tensor y = at::empty_like(x, x.options().memory_format(format)), image = x.contiguous(format);
    if (p.options.size == 0) return y;
    const Tensor s = contiguous(scale), n = contiguous(noise), bias = contiguous(b), factor = contiguous(strength);
    const c10::cuda::CUDAGuard guard(x.device());
    const LayerActTensors<void, void> tensors{in<void>(image), nullptr, nullptr, in<void>(s), in<void>(n), in<void>(factor),
                                              in<void>(bias), out<void>(y), nullptr};
    const int pack = layer_act_pack(p, x.element_size(), tensors);
    Cuda::report(launch_layer_act(type_of(x), p, int(act), pack, tensors, nullptr, c10::cuda::getCurrentCUDAStream().stream()));
    return y;
}

std::tuple<Tensor, Tensor> layer_act_grad(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
        int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor& shaped = y ? *y : x ? *x : dy;        // Its memory format is that of the result.
    const LayerAct p = layer_act_arguments(shaped, {scale, noise, {}, {}}, act, alpha, gain, clamp);
    const auto format = layout(shaped);
    const Tensor dx = at::empty_like(shaped, shaped.options().memory_format(format)), cotangent = like(dy, "dy", shaped, format);
    const Tensor result = y ? y->contiguous(format) : Tensor(), argument = x ? like(*x, "x", shaped, format) : Tensor();
    const Tensor s = contiguous(scale), n = contiguous(noise);
    LayerActTensors<void, void> tensors{in<void>(argument), in<void>(result), in<void>(cotangent), in<void>(s), in<void>(n),
                                        nullptr, nullptr, out<void>(dx), nullptr};
    const int pack = layer_act_pack(p, dx.element_size(), tensors);
    const LayerActTiles tiles = layer_act_tiles(p, pack);
    const auto options = shaped.options().dtype(compute_type(shaped));
    if (p.options.size == 0) return {dx, at::zeros({3, p.samples, p.channels}, options)};
    const Tensor sums = at::empty({3, p.samples, tiles.tiles, p.channels}, options);
    tensors.sums = out<void>(sums);
    const c10::cuda::CUDAGuard guard(dx.device());
    Cuda::report(launch_layer_act(type_of(dx), p, int(act), pack, tensors, &tiles, c10::cuda::getCurrentCUDAStream().stream()));
    return {dx, tiles.tiles == 1 ? sums.squeeze(2) : sums.sum(2)};
}

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, CUDA, library) {
    implement<Cuda>(library);
    library.impl("layer_act", layer_act);
    library.impl("layer_act_grad", layer_act_grad);
}

}  // namespace
}  // namespace zoo
