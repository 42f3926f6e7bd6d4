// The torch operators: their schemas, shapes and derivatives. What computes them is registered by bindings_cpu.cpp and
// bindings_cuda.cpp.
#include "layer_act_operators.h"

#include <ATen/ops/mul.h>

namespace zoo {
namespace {

// upfirdn2d: the derivative is the operator with the transposed axes, which is again differentiable.

Tensor upfirdn2d(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, c10::SymIntArrayRef padding,
                 bool flip_filter, double gain) {
    static const auto op = find<decltype(upfirdn2d)>("stylegan2_loss_zoo::upfirdn2d");
    return op.call(x, f, up, down, padding, flip_filter, gain);
}

struct Upfirdn2d : torch::autograd::Function<Upfirdn2d> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                          c10::SymIntArrayRef padding, bool flip_filter, double gain) {
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor y = zoo::upfirdn2d(x, f, up, down, padding, flip_filter, gain);
        ctx->save_for_backward({f});
        ctx->saved_data["sizes"] = std::vector<SymInt>{x.sym_size(3), x.sym_size(2)};
        ctx->saved_data["up"] = up;
        ctx->saved_data["down"] = down;
        ctx->saved_data["padding"] = padding.vec();
        ctx->saved_data["flip_filter"] = flip_filter;
        ctx->saved_data["gain"] = gain;
        return y;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const Tensor& dy = grads[0];
        const Tensor f = ctx->get_saved_variables()[0];
        const auto sizes = ctx->saved_data["sizes"].toSymIntVector(), padding = ctx->saved_data["padding"].toSymIntVector();
        const auto up = ctx->saved_data["up"].toIntVector(), down = ctx->saved_data["down"].toIntVector();
        std::vector<SymInt> transposed;
        for (int axis : {0, 1}) {
            const SymInt before = padding[2 * axis], in = sizes[axis], out = dy.sym_size(3 - axis);
            transposed.push_back(f.sym_size(1 - axis) - before - 1);
            transposed.push_back(in * up[axis] - out * down[axis] + before - up[axis] + 1);
        }
        Tensor dx = zoo::upfirdn2d(dy, f, down, up, transposed, !ctx->saved_data["flip_filter"].toBool(),
                                   ctx->saved_data["gain"].toDouble());
        return {dx, {}, {}, {}, {}, {}, {}};
    }
};

Tensor upfirdn2d_autograd(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                          c10::SymIntArrayRef padding, bool flip_filter, double gain) {
    return Upfirdn2d::apply(x, f, up, down, padding, flip_filter, gain);
}

Tensor upfirdn2d_meta(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                      c10::SymIntArrayRef padding, bool, double) {
    const std::array<SymInt, 4> shape{
        x.sym_size(0), x.sym_size(1),
        out_size(x.sym_size(2), up[1], down[1], padding[2], padding[3], f.sym_size(0)),
        out_size(x.sym_size(3), up[0], down[0], padding[0], padding[1], f.sym_size(1))};
    return at::empty_symint(shape, x.options().memory_format(layout(x)));
}

// bias_act. Its derivative is an operator of its own, whose derivative needs a third one, and there it ends.

Tensor bias_act(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                std::optional<double> clamp) {
    static const auto op = find<decltype(bias_act)>("stylegan2_loss_zoo::bias_act");
    return op.call(x, b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_grad2(const Tensor& q, const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim,
                      int64_t act, double alpha, double gain, std::optional<double> clamp) {
    static const auto op = find<decltype(bias_act_grad2)>("stylegan2_loss_zoo::bias_act_grad2");
    return op.call(q, dy, ref, b, dim, act, alpha, gain, clamp);
}

// The gradient of the bias from that of x + b.
Tensor sum_but(const Tensor& dx, int64_t dim) {
    std::vector<int64_t> axes;
    for (int64_t axis = 0; axis < dx.dim(); ++axis)
        if (axis != dim) axes.push_back(axis);
    return axes.empty() ? dx : dx.sum(axes);
}

struct BiasActFunction : torch::autograd::Function<BiasActFunction> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& b, const Options& o) {
        o.save(ctx);
        ctx->saved_data["biased"] = b.has_value();
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor y = zoo::bias_act(x, b, o.dim, o.act, o.alpha, o.gain, o.clamp);
        if (o.from_x())
            ctx->save_for_backward({x, b.value_or(Tensor())});
        else if (Act(o.act) != Act::linear || o.clamp)
            ctx->save_for_backward({y, Tensor()});
        return y;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto saved = ctx->get_saved_variables();
        const auto o = Options::load(ctx);
        Tensor dx;
        if (saved.empty())
            dx = o.gain == 1 ? grads[0] : at::mul(grads[0], o.gain);
        else
            dx = zoo::bias_act_grad(grads[0], saved[0], optional(saved[1]), o.dim, o.act, o.alpha, o.gain, o.clamp);
        const bool needs_b = ctx->saved_data["biased"].toBool() && ctx->needs_input_grad(1);
        return {dx, needs_b ? sum_but(dx, o.dim) : Tensor(), {}};
    }
};

struct BiasActGrad : torch::autograd::Function<BiasActGrad> {
    static Tensor forward(AutogradContext* ctx, const Tensor& dy, const Tensor& ref, const OptionalTensor& b,
                          const Options& o) {
        o.save(ctx);
        ctx->save_for_backward({dy, ref, b.value_or(Tensor())});
        at::AutoDispatchBelowADInplaceOrView guard;
        return zoo::bias_act_grad(dy, ref, b, o.dim, o.act, o.alpha, o.gain, o.clamp);
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto saved = ctx->get_saved_variables();
        const auto o = Options::load(ctx);
        const Tensor &q = grads[0], &dy = saved[0], &ref = saved[1];
        const auto b = optional(saved[2]);
        Tensor d_dy, d_ref, d_b;
        if (ctx->needs_input_grad(0))
            d_dy = zoo::bias_act_grad(q, ref, b, o.dim, o.act, o.alpha, o.gain, o.clamp);
        const bool needs_b = b && ctx->needs_input_grad(2);
        if (o.bends() && (ctx->needs_input_grad(1) || needs_b))
            d_ref = zoo::bias_act_grad2(q, dy, ref, b, o.dim, o.act, o.alpha, o.gain, o.clamp);
        if (needs_b && d_ref.defined()) d_b = sum_but(d_ref, o.dim);
        return {d_dy, d_ref, d_b, {}};
    }
};

struct BiasActGrad2 : torch::autograd::Function<BiasActGrad2> {
    static Tensor forward(AutogradContext*, const Tensor& q, const Tensor& dy, const Tensor& ref, const OptionalTensor& b,
                          const Options& o) {
        at::AutoDispatchBelowADInplaceOrView guard;
        return zoo::bias_act_grad2(q, dy, ref, b, o.dim, o.act, o.alpha, o.gain, o.clamp);
    }

    static variable_list backward(AutogradContext*, const variable_list&) {
        TORCH_CHECK(false, "bias_act: the compiled operator has no third derivative; use impl='ref'");
    }
};

Tensor bias_act_autograd(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                         std::optional<double> clamp) {
    return BiasActFunction::apply(x, b, Options{dim, act, alpha, gain, clamp});
}

Tensor bias_act_grad_autograd(const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim, int64_t act,
                              double alpha, double gain, std::optional<double> clamp) {
    return BiasActGrad::apply(dy, ref, b, Options{dim, act, alpha, gain, clamp});
}

Tensor bias_act_grad2_autograd(const Tensor& q, const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim,
                               int64_t act, double alpha, double gain, std::optional<double> clamp) {
    return BiasActGrad2::apply(q, dy, ref, b, Options{dim, act, alpha, gain, clamp});
}

Tensor empty_like_in_layout(const Tensor& x, const OptionalTensor& b, int64_t dim) {
    return at::empty_like(x, x.options().memory_format(bias_act_layout(x, b, dim)));
}

Tensor bias_act_meta(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t, double, double, std::optional<double>) {
    return empty_like_in_layout(x, b, dim);
}

Tensor bias_act_grad_meta(const Tensor&, const Tensor& ref, const OptionalTensor& b, int64_t dim, int64_t, double, double,
                          std::optional<double>) {
    return empty_like_in_layout(ref, b, dim);
}

Tensor bias_act_grad2_meta(const Tensor&, const Tensor&, const Tensor& ref, const OptionalTensor& b, int64_t dim, int64_t,
                           double, double, std::optional<double>) {
    return empty_like_in_layout(ref, b, dim);
}

// These have their derivatives in joint.py, those for CPUs in scale_bias_act.py.

Tensor filter_add_meta(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down, c10::SymIntArrayRef padding,
                       bool flip_filter, double gain, const Tensor&) {
    return upfirdn2d_meta(x, f, up, down, padding, flip_filter, gain);
}

Tensor act_filter_meta(const Tensor& x, const OptionalTensor&, const Tensor& f, c10::SymIntArrayRef padding, bool, double, int64_t,
                       double, double, std::optional<double>) {
    return upfirdn2d_meta(x, f, {1, 1}, {1, 1}, padding, false, 1);
}

std::tuple<Tensor, Tensor> act_filter_grad_meta(
        const Tensor&, const Tensor& x, const OptionalTensor&, const Tensor&, c10::SymIntArrayRef, bool, double, int64_t, double,
        double, std::optional<double>) {
    const std::array<SymInt, 2> sums{x.sym_size(0), x.sym_size(1)};
    return {at::empty_like(x, x.options().memory_format(layout(x))), at::empty_symint(sums, x.options().dtype(compute_type(x)))};
}

Tensor filter_layer_act_meta(const Tensor& x, const Tensor& f, c10::SymIntArrayRef padding, bool, double, const OptionalTensor&,
                             const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, double, double,
                             std::optional<double>) {
    return upfirdn2d_meta(x, f, {1, 1}, {1, 1}, padding, false, 1);
}

Tensor scale_bias_act_meta(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, int64_t, double, double,
                           std::optional<double>) {
    return at::empty_like(x);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_bias_act_grad_meta(
        const Tensor&, const Tensor&, const Tensor& x, const Tensor& scale, int64_t, double, double, std::optional<double>) {
    const std::array<SymInt, 4> noise{x.sym_size(0), 1, x.sym_size(2), x.sym_size(3)};
    const std::array<SymInt, 1> b{x.sym_size(1)};
    return {at::empty_like(x), at::empty_like(scale), at::empty_symint(noise, x.options()), at::empty_symint(b, x.options())};
}

Tensor filter_act_meta(const Tensor& x, const Tensor& f, c10::SymIntArrayRef padding, bool, double, const Tensor&, const Tensor&,
                       const Tensor&, int64_t, double, double, std::optional<double>) {
    return upfirdn2d_meta(x, f, {1, 1}, {1, 1}, padding, false, 1);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> filter_act_grad_meta(
        const Tensor&, const Tensor& y, const Tensor& scale, const Tensor&, const Tensor&, int64_t act, double alpha, double gain,
        std::optional<double> clamp) {
    return scale_bias_act_grad_meta(y, y, y, scale, act, alpha, gain, clamp);
}

constexpr const char* schemas[] = {
#include "schemas.inc"
};

TORCH_LIBRARY(stylegan2_loss_zoo, m) {
    for (const char* schema : schemas) m.def(schema);
}

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, Autograd, m) {
    m.impl("layer_act", layer_act_autograd);
    m.impl("layer_act_grad", layer_act_grad_autograd);
    m.impl("layer_act_grad2", layer_act_grad2_autograd);
    m.impl("upfirdn2d", upfirdn2d_autograd);
    m.impl("bias_act", bias_act_autograd);
    m.impl("bias_act_grad", bias_act_grad_autograd);
    m.impl("bias_act_grad2", bias_act_grad2_autograd);
}

TORCH_LIBRARY_IMPL(stylegan2_loss_zoo, Meta, m) {
    m.impl("layer_act", layer_act_meta);
    m.impl("layer_act_grad", layer_act_grad_meta);
    m.impl("layer_act_grad2", layer_act_grad2_meta);
    m.impl("upfirdn2d", upfirdn2d_meta);
    m.impl("bias_act", bias_act_meta);
    m.impl("bias_act_grad", bias_act_grad_meta);
    m.impl("bias_act_grad2", bias_act_grad2_meta);
    m.impl("filter_add", filter_add_meta);
    m.impl("act_filter", act_filter_meta);
    m.impl("act_filter_grad", act_filter_grad_meta);
    m.impl("filter_layer_act", filter_layer_act_meta);
    m.impl("scale_bias_act", scale_bias_act_meta);
    m.impl("scale_bias_act_grad", scale_bias_act_grad_meta);
    m.impl("filter_act", filter_act_meta);
    m.impl("filter_act_grad", filter_act_grad_meta);
}

}  // namespace
}  // namespace zoo
