// The torch operators on CPUs: kernels spread over torch's threads.
#include "bindings.h"
#include "cpu_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/div.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

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

    static void upfirdn2d(const Resample& r, const Tensor& x, const Tensor& f, const Tensor& y, const Tensor& base) {
        with_type(x.scalar_type(), [&](auto type) { filter<decltype(type)>(r, x, f, y, nullptr); });
        if (base.defined()) y.add_(base);
    }

    template <class T> static void filter(const Resample& r, const Tensor& x, const Tensor& f, const Tensor& y,
                                          const Finish<T>* finish) {
        const int64_t units = upfirdn2d_cpu_units(r), elements = y.numel() / units + 1;
        at::parallel_for(0, units, (least_elements + elements - 1) / elements, [&](int64_t begin, int64_t end) {
            upfirdn2d_cpu(r, in<T>(x), in<float>(f), out<T>(y), begin, end, finish);
        });
    }
};

// scale_bias_act, which is for CPUs only.

constexpr auto channels_last = at::MemoryFormat::ChannelsLast;

ScaleBiasAct scale_bias_act_arguments(const Tensor& x, const Tensor& scale, int64_t act, double alpha, double gain,
                                      std::optional<double> clamp) {
    TORCH_CHECK(x.dim() == 4 && x.is_contiguous(channels_last), "x ", x.sizes(), ": must be channels-last images");
    TORCH_CHECK(Act(act) != Act::swish, "act=", act, ": its derivatives need more than its result");
    check_same(scale, "scale", x, "x");
    TORCH_CHECK(scale.dim() == 2 && scale.size(0) == x.size(0) && scale.size(1) == x.size(1), "scale ", scale.sizes(),
                ": must be [", x.size(0), ", ", x.size(1), "]");
    const BiasAct options = bias_act_arguments(x, {}, 1, act, alpha, gain, clamp);
    return {x.size(0), x.size(2) * x.size(3), x.size(1), false, int(act), options};
}

void check_noise_and_bias(ScaleBiasAct& p, const Tensor& x, const Tensor& noise, const Tensor& b) {
    check_same(noise, "noise", x, "x");
    TORCH_CHECK(noise.dim() == 4 && noise.size(1) == 1 && noise.size(2) == x.size(2) && noise.size(3) == x.size(3) &&
                (noise.size(0) == 1 || noise.size(0) == p.samples), "noise ", noise.sizes(), ": must be [N or 1, 1, H, W]");
    check_same(b, "b", x, "x");
    TORCH_CHECK(b.dim() == 1 && b.size(0) == p.channels, "b ", b.sizes(), ": must be [", p.channels, "]");
    p.own_noise = noise.size(0) == p.samples;
}

Tensor scale_bias_act(const Tensor& x, const Tensor& scale, const Tensor& noise, const Tensor& b, int64_t act, double alpha,
                      double gain, std::optional<double> clamp) {
    ScaleBiasAct p = scale_bias_act_arguments(x, scale, act, alpha, gain, clamp);
    check_noise_and_bias(p, x, noise, b);
    const Tensor y = at::empty_like(x), s = scale.contiguous(), n = noise.contiguous(), bias = b.contiguous();
    with_type(x.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const ScaleBiasActTensors<T> tensors{in<T>(x), in<T>(s), in<T>(n), in<T>(bias), out<T>(y), 0};
        const int64_t grain = least_elements / std::max<int64_t>(p.channels, 1) + 1;
        at::parallel_for(0, p.samples * p.pixels, grain, [&](int64_t begin, int64_t end) {
            scale_bias_act_cpu(p, tensors, begin, end);
        });
    });
    return y;
}

// All derivatives from y and x, or from y with noise and b; x, or noise and b, are undefined.
std::tuple<Tensor, Tensor, Tensor, Tensor> gradients(
        const ScaleBiasAct& p, const Tensor& dy, const Tensor& y, const Tensor& x, const Tensor& scale, const Tensor& noise,
        const Tensor& b) {
    const auto dtype = y.scalar_type();
    const auto sums = y.options().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat);
    const Tensor dx = at::empty_like(y), d_noise = at::empty({p.samples, 1, y.size(2), y.size(3)}, y.options());
    const Tensor d_scale = at::empty({p.samples, p.blocks(), p.channels}, sums), d_b = at::empty_like(d_scale);
    const Tensor cotangent = like(dy, "dy", y, channels_last), s = scale.contiguous();
    with_type(dtype, [&](auto type) {
        using T = decltype(type);
        using S = compute_t<T>;
        const ScaleBiasActGrads<T> tensors{in<T>(cotangent), in<T>(y), in<T>(x), in<T>(s), in<T>(noise), in<T>(b),
                                           out<T>(dx), out<T>(d_noise), out<S>(d_scale), out<S>(d_b)};
        const int64_t grain = least_elements / std::max<int64_t>(p.channels * std::min(p.pixels, p.block_pixels), 1) + 1;
        at::parallel_for(0, p.samples * p.blocks(), grain, [&](int64_t begin, int64_t end) {
            scale_bias_act_grad_cpu(p, tensors, begin, end);
        });
    });
    const Tensor sum = d_scale.sum(1);
    return {dx, (x.defined() ? sum : sum / scale).to(dtype), d_noise, d_b.sum(at::IntArrayRef({0, 1})).to(dtype)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_bias_act_grad(
        const Tensor& dy, const Tensor& y, const Tensor& x, const Tensor& scale, int64_t act, double alpha, double gain,
        std::optional<double> clamp) {
    const ScaleBiasAct p = scale_bias_act_arguments(x, scale, act, alpha, gain, clamp);
    return gradients(p, dy, like(y, "y", x, channels_last), x, scale, {}, {});
}

// A filter and scale_bias_act in one pass. Its derivatives end at what has been filtered, which they do without.

Tensor filter_act(const Tensor& x, const Tensor& f, at::IntArrayRef padding, bool flip_filter, double filter_gain,
                  const Tensor& scale, const Tensor& noise, const Tensor& b, int64_t act, double alpha, double gain,
                  std::optional<double> clamp) {
    TORCH_CHECK(has_layer_act(act), "act=", act, ": must be linear or lrelu");
    Resample r = upfirdn2d_arguments(x, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    TORCH_CHECK(x.is_contiguous(channels_last), "x ", x.sizes(), ": must be channels-last images");
    r.channels_last = true;             // Of one channel, images are both.
    const Tensor y = at::empty({r.batch, r.channels, r.y.out, r.x.out}, x.options().memory_format(channels_last));
    ScaleBiasAct p = scale_bias_act_arguments(y, scale, act, alpha, gain, clamp);
    check_noise_and_bias(p, y, noise, b);
    if (y.numel() == 0) return y;
    const Tensor taps = f.contiguous(), s = scale.contiguous(), n = noise.contiguous(), bias = b.contiguous();
    with_type(x.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const Finish<T> finish{p, {nullptr, in<T>(s), in<T>(n), in<T>(bias), out<T>(y), 0}};
        Cpu::filter(r, x, taps, y, &finish);
    });
    return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> filter_act_grad(
        const Tensor& dy, const Tensor& y, const Tensor& scale, const Tensor& noise, const Tensor& b, int64_t act, double alpha,
        double gain, std::optional<double> clamp) {
    ScaleBiasAct p = scale_bias_act_arguments(y, scale, act, alpha, gain, clamp);
    TORCH_CHECK(has_layer_act(act), "act=", act, ": must be linear or lrelu");
    check_noise_and_bias(p, y, noise, b);
    return gradients(p, dy, y, {}, scale, noise.contiguous(), b.contiguous());
}

// layer_act, which has kernels on CUDA only, as its definition reads.

Tensor spread(const Tensor& part) { return part.unsqueeze(-1).unsqueeze(-1); }

// x * scale + noise * strength + b
Tensor layer_act_argument(const Tensor& x, const LayerActParts& parts) {
    Tensor t = x;
    if (parts.scale) t = t * spread(*parts.scale);
    if (parts.noise) t = t + (parts.strength ? *parts.noise * *parts.strength : *parts.noise);
    if (parts.b) t = t + spread(*parts.b);
    return t;
}

Tensor layer_act(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                 const OptionalTensor& b, const OptionalTensor& base, int64_t act, double alpha, double gain,
                 std::optional<double> clamp) {
    const LayerAct p = layer_act_arguments(x, {scale, noise, strength, b}, act, alpha, gain, clamp);
    Tensor t = layer_act_argument(x.to(compute_type(x)), {scale, noise, strength, b});
    if (Act(act) == Act::lrelu) t = at::where(t > 0, t, t * alpha);
    t = t * gain;
    if (clamp) t = t.clamp(-p.options.clamp, p.options.clamp);
    if (base) t = t + like(*base, "base", x, layout(x));
    return t.to(x.options(), false, false, layout(x));
}

// The slope [N, C, H, W], by which dy is multiplied.
Tensor layer_act_slope(const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const LayerActParts& parts, int64_t act,
                       double alpha, double gain, std::optional<double> clamp) {
    const auto wide = compute_type(dy);
    const Tensor slope = at::full_like(dy, gain, dy.options().dtype(wide));
    if (!y && !x) return slope;
    const LayerAct p = layer_act_arguments(layer_act_shaped(dy, y, x), parts, act, alpha, gain, clamp);
    const Tensor value = y ? *y : layer_act(*x, parts.scale, parts.noise, parts.strength, parts.b, {}, act, alpha, gain, clamp);
    Tensor bent = Act(act) == Act::lrelu ? at::where(value > 0, slope, slope * alpha) : slope;
    return clamp ? bent * (value.abs() < p.options.clamp) : bent;
}

std::tuple<Tensor, Tensor> layer_act_grad(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
        const OptionalTensor& strength, const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor& shaped = layer_act_shaped(dy, y, x);
    const LayerActParts parts{scale, noise, strength, b};
    const LayerAct p = layer_act_arguments(shaped, parts, act, alpha, gain, clamp);
    const auto wide = compute_type(dy);
    const Tensor d = dy.to(wide) * layer_act_slope(dy, y, x, parts, act, alpha, gain, clamp);
    constexpr std::array<int64_t, 2> pixels{2, 3};
    Tensor first = d.new_zeros({p.samples, p.channels});
    if (x) {
        first = (d * x->to(wide)).sum(pixels);
    } else if (y && scale) {            // What scale was multiplied with.
        Tensor t = y->to(wide) / gain;
        if (Act(act) == Act::lrelu) t = at::where(t < 0, t / alpha, t);
        first = (d * (t - layer_act_argument(at::zeros_like(t), {{}, noise, strength, b}))).sum(pixels) / *scale;
    }
    const Tensor none = d.new_zeros({p.samples, p.channels});
    const Tensor sums = at::stack({first, d.sum(pixels), noise ? (d * *noise).sum(pixels) : none});
    const Tensor dx = scale ? d * spread(*scale) : d;
    return {dx.to(shaped.options(), false, true, layout(shaped)), sums};
}

std::tuple<Tensor, Tensor, Tensor> layer_act_grad2(
        const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength, const OptionalTensor& b,
        int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor& shaped = layer_act_shaped(dy, y, x);
    const LayerActParts parts{scale, noise, strength, b};
    const LayerAct p = layer_act_arguments(shaped, parts, act, alpha, gain, clamp);
    check_part(r, "r", shaped, {3, p.samples, p.channels});
    const auto wide = compute_type(dy);
    const Tensor slope = layer_act_slope(dy, y, x, parts, act, alpha, gain, clamp), d = dy.to(wide) * slope, towards = q.to(wide);
    Tensor inner = (scale ? towards * spread(*scale) : towards) + spread(r[1]);
    if (x) inner = inner + x->to(wide) * spread(r[0]);
    if (noise) inner = inner + *noise * spread(r[2]);
    const auto image = [&](const Tensor& t) { return t.to(shaped.options(), false, true, layout(shaped)); };
    return {image(inner * slope), image(spread(r[0]) * d), (towards * d).sum({2, 3})};
}

// layer_act with a filter behind or before it, likewise.

Tensor act_filter(const Tensor& x, const OptionalTensor& b, const Tensor& f, at::IntArrayRef padding, bool flip_filter,
                  double filter_gain, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor activated = layer_act(x, {}, {}, {}, b, {}, act, alpha, gain, clamp);
    return Operators<Cpu>::upfirdn2d(activated, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
}

// {dx, its sums [N, C]}; padding and flip_filter are those of the filter back, from dy to x.
std::tuple<Tensor, Tensor> act_filter_grad(
        const Tensor& dy, const Tensor& x, const OptionalTensor& b, const Tensor& f, at::IntArrayRef padding, bool flip_filter,
        double filter_gain, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor d = Operators<Cpu>::upfirdn2d(dy, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    const auto [dx, sums] = layer_act_grad(like(d, "dy filtered back", x, layout(x)), {}, x, {}, {}, {}, b, act, alpha, gain, clamp);
    return {dx, sums[1].clone()};
}

Tensor filter_layer_act(const Tensor& x, const Tensor& f, at::IntArrayRef padding, bool flip_filter, double filter_gain,
                        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                        const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const Tensor filtered = Operators<Cpu>::upfirdn2d(x, f, {1, 1}, {1, 1}, padding, flip_filter, filter_gain);
    return layer_act(filtered, scale, noise, strength, b, {}, act, alpha, gain, clamp);
}

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, CPU, library) {
    implement<Cpu>(library);
    library.impl("layer_act", layer_act);
    library.impl("layer_act_grad", layer_act_grad);
    library.impl("layer_act_grad2", layer_act_grad2);
    library.impl("act_filter", act_filter);
    library.impl("act_filter_grad", act_filter_grad);
    library.impl("filter_layer_act", filter_layer_act);
    library.impl("scale_bias_act", scale_bias_act);
    library.impl("scale_bias_act_grad", scale_bias_act_grad);
    library.impl("filter_act", filter_act);
    library.impl("filter_act_grad", filter_act_grad);
}

}  // namespace
}  // namespace zoo
