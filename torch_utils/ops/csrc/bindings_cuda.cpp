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

    static void upfirdn2d(const Resample& r, const Tensor& x, const Tensor& f, const Tensor& y, const Tensor& base) {
        const c10::cuda::CUDAGuard guard(x.device());
        void* const stream = c10::cuda::getCurrentCUDAStream().stream();
        report(launch_upfirdn2d(type_of(x), r, in<void>(x), in<float>(f), out<void>(y), in<void>(base), stream));
    }

    static void report(const char* error) { TORCH_CHECK(error == nullptr, "the kernel was not started: ", error); }
};

Tensor contiguous(const OptionalTensor& part) { return part ? part->contiguous() : Tensor(); }

Tensor contiguous(const OptionalTensor& image, const char* name, const Tensor& x) {
    return image ? like(*image, name, x, layout(x)) : Tensor();
}

void launch(int order, const Tensor& x, const LayerAct& p, int64_t act, int pack, const LayerActTensors<void, void>& tensors,
            const Tiles* tiles) {
    const c10::cuda::CUDAGuard guard(x.device());
    void* const stream = c10::cuda::getCurrentCUDAStream().stream();
    Cuda::report(launch_layer_act(type_of(x), order, p, int(act), pack, tensors, tiles, stream));
}

Tensor layer_act(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                 const OptionalTensor& b, const OptionalTensor& base, int64_t act, double alpha, double gain,
                 std::optional<double> clamp) {
    const LayerAct p = layer_act_arguments(x, {scale, noise, strength, b}, act, alpha, gain, clamp);
    const auto format = layout(x);
    const Tensor y = at::empty_like(x, x.options().memory_format(format)), image = x.contiguous(format);
    const Tensor added = contiguous(base, "base", x);
    if (p.options.size == 0) return y;
    const Tensor s = contiguous(scale), n = contiguous(noise), bias = contiguous(b), factor = contiguous(strength);
    LayerActTensors<void, void> tensors{};
    tensors.x = in<void>(image), tensors.base = in<void>(added), tensors.out = out<void>(y);
    tensors.scale = in<void>(s), tensors.noise = in<void>(n), tensors.strength = in<void>(factor), tensors.b = in<void>(bias);
    launch(0, x, p, act, layer_act_pack(p, x.element_size(), tensors), tensors, nullptr);
    return y;
}

// Of order 1: {dx, undefined, sums [3, N, C]}, without q and r. Of order 2: {d_dy, d_x, sums [1, N, C]}.
std::tuple<Tensor, Tensor, Tensor> derivatives(
        int order, const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
        const LayerActParts& parts, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor& shaped = layer_act_shaped(dy, y, x);          // Its memory format is that of the result.
    const LayerAct p = layer_act_arguments(shaped, parts, act, alpha, gain, clamp);
    const auto format = layout(shaped);
    const auto options = shaped.options().dtype(compute_type(shaped));
    const int64_t kinds = order == 1 ? 3 : 1;
    const Tensor main = at::empty_like(shaped, shaped.options().memory_format(format)), other = order == 1 ? Tensor() : at::empty_like(main);
    if (p.options.size == 0) return {main, other, at::zeros({kinds, p.samples, p.channels}, options)};
    if (r.defined()) check_part(r, "r", shaped, {3, p.samples, p.channels});
    const Tensor cotangent = like(dy, "dy", shaped, format), result = contiguous(y, "y", shaped), argument = contiguous(x, "x", shaped);
    const Tensor towards = q.defined() ? like(q, "q", shaped, format) : q, of_sums = r.defined() ? r.contiguous() : r;
    const Tensor s = contiguous(parts.scale), n = contiguous(parts.noise), factor = contiguous(parts.strength), bias = contiguous(parts.b);
    LayerActTensors<void, void> tensors{};
    tensors.x = in<void>(argument), tensors.y = in<void>(result), tensors.dy = in<void>(cotangent), tensors.q = in<void>(towards);
    tensors.scale = in<void>(s), tensors.noise = in<void>(n), tensors.strength = in<void>(factor), tensors.b = in<void>(bias);
    tensors.r = in<void>(of_sums), tensors.out = out<void>(main), tensors.out_x = other.defined() ? out<void>(other) : nullptr;
    const int pack = layer_act_pack(p, shaped.element_size(), tensors);
    const Tiles tiles = layer_act_tiles(p, pack);
    const Tensor sums = at::empty({kinds, p.samples, tiles.tiles, p.channels}, options);
    tensors.sums = out<void>(sums);
    launch(order, shaped, p, act, pack, tensors, &tiles);
    return {main, other, tiles.tiles == 1 ? sums.squeeze(2) : sums.sum(2)};
}

std::tuple<Tensor, Tensor> layer_act_grad(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
        const OptionalTensor& strength, const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const auto [dx, none, sums] = derivatives(1, {}, {}, dy, y, x, {scale, noise, strength, b}, act, alpha, gain, clamp);
    return {dx, sums};
}

std::tuple<Tensor, Tensor, Tensor> layer_act_grad2(
        const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength, const OptionalTensor& b,
        int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const auto [d_dy, d_x, sums] = derivatives(2, q, r, dy, y, x, {scale, noise, strength, b}, act, alpha, gain, clamp);
    return {d_dy, d_x, sums.squeeze(0)};
}

Tensor act_filter(const Tensor& x, const OptionalTensor& b, const Tensor& f, at::IntArrayRef padding, bool flip_filter,
                  double filter_gain, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const LayerAct p = layer_act_arguments(x, {{}, {}, {}, b}, act, alpha, gain, clamp);
    const Resample r = upfirdn2d_arguments(x, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    const Tensor y = empty_filtered(r, x), image = x.contiguous(layout(x)), taps = f.contiguous(), bias = contiguous(b);
    if (y.numel() == 0) return y;
    const c10::cuda::CUDAGuard guard(x.device());
    void* const stream = c10::cuda::getCurrentCUDAStream().stream();
    const char* const error = launch_act_filter(type_of(x), r, in<void>(image), in<void>(bias), p.options, int(act), in<float>(taps),
                                                out<void>(y), stream);
    if (error != no_kernel) {
        Cuda::report(error);
        return y;
    }
    const Tensor activated = layer_act(x, {}, {}, {}, b, {}, act, alpha, gain, clamp);
    return Operators<Cuda>::upfirdn2d(activated, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
}

std::tuple<Tensor, Tensor> act_filter_grad(
        const Tensor& dy, const Tensor& x, const OptionalTensor& b, const Tensor& f, at::IntArrayRef padding, bool flip_filter,
        double filter_gain, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const auto format = layout(x);
    const LayerAct p = layer_act_arguments(x, {{}, {}, {}, b}, act, alpha, gain, clamp);
    const Tensor cotangent = dy.contiguous(format), argument = x.contiguous(format), taps = f.contiguous(), bias = contiguous(b);
    Resample r = upfirdn2d_arguments(cotangent, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    r.channels_last = p.channels_last;
    check_same(dy, "dy", x, "x");
    TORCH_CHECK(r.batch == x.size(0) && r.channels == x.size(1) && r.y.out == x.size(2) && r.x.out == x.size(3), "dy ", dy.sizes(),
                ": does not lead back to x ", x.sizes());
    const Tensor dx = at::empty_like(x, x.options().memory_format(format));
    const auto options = x.options().dtype(compute_type(x));
    if (p.options.size == 0) return {dx, at::zeros({p.samples, p.channels}, options)};
    const Tiles tiles = slope_tiles(r);
    const Tensor sums = at::empty({p.samples, tiles.tiles, p.channels}, options);
    const c10::cuda::CUDAGuard guard(x.device());
    void* const stream = c10::cuda::getCurrentCUDAStream().stream();
    const char* const error = launch_act_filter_grad(type_of(x), r, in<void>(cotangent), in<void>(argument), in<void>(bias), p.options,
                                                     int(act), in<float>(taps), out<void>(dx), out<void>(sums), stream);
    if (error != no_kernel) {
        Cuda::report(error);
        return {dx, tiles.tiles == 1 ? sums.squeeze(1) : sums.sum(1)};
    }
    const Tensor d = Operators<Cuda>::upfirdn2d(cotangent, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    const auto [image, all] = layer_act_grad(d, {}, x, {}, {}, {}, b, act, alpha, gain, clamp);
    return {image, all[1].clone()};
}

Tensor filter_layer_act(const Tensor& x, const Tensor& f, at::IntArrayRef padding, bool flip_filter, double filter_gain,
                        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                        const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Resample r = upfirdn2d_arguments(x, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    const Tensor y = empty_filtered(r, x), image = x.contiguous(layout(x)), taps = f.contiguous();
    const LayerAct p = layer_act_arguments(y, {scale, noise, strength, b}, act, alpha, gain, clamp);
    if (y.numel() == 0) return y;
    const Tensor s = contiguous(scale), n = contiguous(noise), bias = contiguous(b), factor = contiguous(strength);
    LayerActTensors<void, void> tensors{};
    tensors.x = in<void>(image), tensors.out = out<void>(y);
    tensors.scale = in<void>(s), tensors.noise = in<void>(n), tensors.strength = in<void>(factor), tensors.b = in<void>(bias);
    const c10::cuda::CUDAGuard guard(x.device());
    void* const stream = c10::cuda::getCurrentCUDAStream().stream();
    const char* const error = launch_filter_layer_act(type_of(x), r, in<float>(taps), p, int(act), tensors, stream);
    if (error != no_kernel) {
        Cuda::report(error);
        return y;
    }
    const Tensor filtered = Operators<Cuda>::upfirdn2d(x, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    return layer_act(filtered, scale, noise, strength, b, {}, act, alpha, gain, clamp);
}

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, CUDA, library) {
    implement<Cuda>(library);
    library.impl("layer_act", layer_act);
    library.impl("layer_act_grad", layer_act_grad);
    library.impl("layer_act_grad2", layer_act_grad2);
    library.impl("act_filter", act_filter);
    library.impl("act_filter_grad", act_filter_grad);
    library.impl("filter_layer_act", filter_layer_act);
}

}  // namespace
}  // namespace zoo
