// What runs a torch operator on a device, but for the kernel: checked arguments, memory order, memory for the result.
//
// A `Device` has two functions, which compute into tensors that fit the arguments:
//
//     bias_act(order, p, act, q, dy, ref, b, out)     (tensors that do not apply are undefined)
//     upfirdn2d(r, x, f, y, base)                      (base likewise)
#pragma once

#include "arguments.h"

#include <torch/library.h>

namespace zoo {

template <class Device> struct Operators {
    static Tensor bias_act(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                           std::optional<double> clamp) {
        return run(0, {}, {}, x, b, dim, act, alpha, gain, clamp);
    }

    static Tensor bias_act_grad(const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim, int64_t act,
                                double alpha, double gain, std::optional<double> clamp) {
        return run(1, {}, dy, ref, b, dim, act, alpha, gain, clamp);
    }

    static Tensor bias_act_grad2(const Tensor& q, const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim,
                                 int64_t act, double alpha, double gain, std::optional<double> clamp) {
        return run(2, q, dy, ref, b, dim, act, alpha, gain, clamp);
    }

    static Tensor upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                            at::IntArrayRef padding, bool flip_filter, double gain) {
        const Resample r = upfirdn2d_arguments(x, f, up, down, padding, flip_filter, gain);
        const Tensor y = empty_filtered(r, x);
        if (y.numel() > 0) Device::upfirdn2d(r, x.contiguous(layout(x)), f.contiguous(), y, {});
        return y;
    }

    static Tensor filter_add(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                             at::IntArrayRef padding, bool flip_filter, double gain, const Tensor& base) {
        const Resample r = upfirdn2d_arguments(x, f, up, down, padding, flip_filter, gain);
        const Tensor y = empty_filtered(r, x), added = like(base, "base", y, layout(x));
        if (y.numel() > 0) Device::upfirdn2d(r, x.contiguous(layout(x)), f.contiguous(), y, added);
        return y;
    }

private:
    static Tensor run(int order, const Tensor& q, const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim,
                      int64_t act, double alpha, double gain, std::optional<double> clamp) {
        const BiasAct p = bias_act_arguments(ref, b, dim, act, alpha, gain, clamp);
        const auto format = bias_act_layout(ref, b, dim);
        const Tensor out = at::empty_like(ref, ref.options().memory_format(format));
        if (p.size > 0)
            Device::bias_act(order, p, int(act), q.defined() ? like(q, "q", ref, format) : q,
                             dy.defined() ? like(dy, "dy", ref, format) : dy, ref.contiguous(format),
                             b ? b->contiguous() : Tensor(), out);
        return out;
    }
};

template <class Device> void implement(torch::Library& library) {
    library.impl("bias_act", Operators<Device>::bias_act);
    library.impl("bias_act_grad", Operators<Device>::bias_act_grad);
    library.impl("bias_act_grad2", Operators<Device>::bias_act_grad2);
    library.impl("upfirdn2d", Operators<Device>::upfirdn2d);
    library.impl("filter_add", Operators<Device>::filter_add);
}

template <class T> const T* in(const Tensor& x) { return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr; }
template <class T> T* out(const Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

}  // namespace zoo
