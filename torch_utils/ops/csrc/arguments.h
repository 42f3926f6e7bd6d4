// From the arguments of the torch operators to those of the kernels: every argument is checked, with a sentence, before
// memory is touched. For CPU and CUDA alike.
#pragma once

#include "bias_act.h"
#include "layer_act.h"
#include "upfirdn2d.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>


#include <algorithm>
#include <array>
#include <limits>
#include <optional>

namespace zoo {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The memory order of the result: that of x if its strides are those of a dense channels-last tensor, else contiguous.
inline at::MemoryFormat layout(const Tensor& x) {
    const auto format = x.suggest_memory_format();
    const bool kept = format == at::MemoryFormat::ChannelsLast && x.is_contiguous(format);
    return kept ? format : at::MemoryFormat::Contiguous;
}

template <class Int> Int out_size(const Int& in, int64_t up, int64_t down, const Int& before, const Int& after, const Int& taps) {
    return (in * up + before + after - taps) / down + 1;
}

inline void check_same(const Tensor& a, const char* name, const Tensor& b, const char* other) {
    TORCH_CHECK(a.scalar_type() == b.scalar_type(), name, " is ", a.scalar_type(), ", ", other, " is ", b.scalar_type());
    TORCH_CHECK(a.device() == b.device(), name, " lies on ", a.device(), ", ", other, " on ", b.device());
}

// bias_act and its derivatives.

// The order in which the kernel walks through tensors shaped like x: a bias belongs to axis 1 of channels-last images or
// to any axis of contiguous tensors.
inline at::MemoryFormat bias_act_layout(const Tensor& x, const OptionalTensor& b, int64_t dim) {
    return b && dim != 1 ? at::MemoryFormat::Contiguous : layout(x);
}

// A number as tensors of a type can hold it. The derivatives tell from a result whether it was clamped, so the clamp must be
// one of the results that there are: in float16, 256 * sqrt(1/2) is not.
inline double rounded(double value, at::ScalarType type) {
    switch (type) {
        case at::kHalf: return c10::Half(float(value));
        case at::kBFloat16: return c10::BFloat16(float(value));
        default: return value;
    }
}

inline BiasAct bias_act_arguments(
        const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
        std::optional<double> clamp) {
    TORCH_CHECK(act >= int64_t(Act::linear) && act <= int64_t(Act::swish), "act=", act, ": must be 0 ... ", int(Act::swish));
    TORCH_CHECK(!clamp || *clamp >= 0, "clamp=", *clamp, ": must be None, or 0 or more");
    const double limit = clamp ? rounded(*clamp, x.scalar_type()) : std::numeric_limits<double>::quiet_NaN();
    BiasAct p{x.numel(), 1, 1, alpha, gain, limit};
    if (!b) return p;
    check_same(*b, "b", x, "x");
    TORCH_CHECK(dim >= 0 && dim < x.dim(), "dim=", dim, ": x has ", x.dim(), " axes");
    TORCH_CHECK(b->dim() == 1 && b->size(0) == x.size(dim), "b ", b->sizes(), ": must be [", x.size(dim), "]");
    p.channels = x.size(dim);
    if (bias_act_layout(x, b, dim) == at::MemoryFormat::Contiguous)
        for (int64_t axis = dim + 1; axis < x.dim(); ++axis) p.inner *= x.size(axis);
    return p;
}

// `tensor`, which must be shaped like x, in the memory order of the kernel.
inline Tensor like(const Tensor& tensor, const char* name, const Tensor& x, at::MemoryFormat format) {
    check_same(tensor, name, x, "the tensor it belongs to");
    TORCH_CHECK(tensor.sizes() == x.sizes(), name, " ", tensor.sizes(), ": must be ", x.sizes());
    return tensor.contiguous(format);
}

// layer_act and its derivatives. What is no image has the type that the kernel computes in.

struct LayerActParts { OptionalTensor scale, noise, strength, b; };

inline at::ScalarType compute_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// `part`, if it is there, must have this shape; -1 stands for any size.
inline void check_part(const OptionalTensor& part, const char* name, const Tensor& x, at::IntArrayRef shape) {
    if (!part) return;
    TORCH_CHECK(part->scalar_type() == compute_type(x) && part->device() == x.device(), name, " is ", part->scalar_type(), " on ",
                part->device(), ": must be ", compute_type(x), " on ", x.device());
    bool fits = part->dim() == int64_t(shape.size());
    for (int64_t axis = 0; fits && axis < part->dim(); ++axis) fits = shape[axis] == -1 || part->size(axis) == shape[axis];
    TORCH_CHECK(fits, name, " ", part->sizes(), ": must be ", shape, " for x ", x.sizes());
}

inline LayerAct layer_act_arguments(const Tensor& x, const LayerActParts& parts, int64_t act, double alpha, double gain,
                                    std::optional<double> clamp) {
    TORCH_CHECK(x.dim() == 4, "x has ", x.dim(), " axes: must be [N, C, H, W]");
    TORCH_CHECK(has_layer_act(act), "act=", act, ": must be linear or lrelu");
    check_part(parts.scale, "scale", x, {x.size(0), x.size(1)});
    check_part(parts.noise, "noise", x, {-1, 1, x.size(2), x.size(3)});
    check_part(parts.strength, "strength", x, {});
    check_part(parts.b, "b", x, {x.size(1)});
    const bool own_noise = parts.noise && parts.noise->size(0) == x.size(0);
    TORCH_CHECK(!parts.noise || own_noise || parts.noise->size(0) == 1, "noise ", parts.noise->sizes(), ": must be [N or 1, 1, H, W]");
    return {x.size(0), x.size(1), x.size(2) * x.size(3), layout(x) == at::MemoryFormat::ChannelsLast, own_noise,
            bias_act_arguments(x, {}, 1, act, alpha, gain, clamp)};
}

// What tensors of the derivatives are shaped like, memory format included.
inline const Tensor& layer_act_shaped(const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x) {
    return y ? *y : x ? *x : dy;
}

// upfirdn2d.

inline Axis axis_arguments(const char* name, int64_t in, int64_t up, int64_t down, int64_t before, int64_t after, int64_t taps) {
    constexpr int64_t most = int64_t(1) << 30;
    TORCH_CHECK(up >= 1 && down >= 1, name, ": up=", up, ", down=", down, ": must be positive");
    TORCH_CHECK(std::max({in, up, down, std::abs(before), std::abs(after), taps}) < most, name, ": numbers beyond ", most);
    const int64_t out = out_size(in, up, down, before, after, taps);
    TORCH_CHECK(in * up + before + after >= taps, name, ": no output from ", in, " samples with up=", up, ", padding ",
                before, " and ", after, ", and ", taps, " taps");
    TORCH_CHECK(in * up < most && out * down < most, name, ": more than ", most, " samples");
    return {int(up), int(down), int(before), int(in), int(out), int(taps)};
}

inline Resample upfirdn2d_arguments(
        const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
        bool flip_filter, double gain) {
    TORCH_CHECK(x.dim() == 4, "x has ", x.dim(), " axes: must be [N, C, H, W]");
    TORCH_CHECK(f.dim() == 2 && f.scalar_type() == at::kFloat && f.numel() > 0,
                "f is ", f.scalar_type(), " ", f.sizes(), ": must be float32 [fh, fw]");
    TORCH_CHECK(f.device() == x.device(), "f lies on ", f.device(), ", x on ", x.device());
    TORCH_CHECK(up.size() == 2 && down.size() == 2, "up and down: must be pairs (x, y)");
    TORCH_CHECK(padding.size() == 4, "padding: must be (left, right, top, bottom)");
    return {axis_arguments("x axis", x.size(3), up[0], down[0], padding[0], padding[1], f.size(1)),
            axis_arguments("y axis", x.size(2), up[1], down[1], padding[2], padding[3], f.size(0)),
            x.size(0), x.size(1), layout(x) == at::MemoryFormat::ChannelsLast, flip_filter, float(gain)};
}

// Memory for the result.
inline Tensor empty_filtered(const Resample& r, const Tensor& x) {
    const std::array<int64_t, 4> shape{r.batch, r.channels, r.y.out, r.x.out};
    return at::empty(shape, x.options().memory_format(layout(x)));
}

}  // namespace zoo
