// What operators.cpp consists of: what operators with derivatives have in common, and layer_act.
#pragma once

#include "arguments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace zoo {
namespace {

using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature> auto find(const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// What an activation is told besides its tensors.
struct Options {
    int64_t dim, act;
    double alpha, gain;
    std::optional<double> clamp;

    bool from_x() const { return Act(act) == Act::swish; }      // What the slope is computed from; else from y.
    bool bends() const { return act > int64_t(Act::lrelu); }

    void save(AutogradContext* ctx) const {
        ctx->saved_data["dim"] = dim;
        ctx->saved_data["act"] = act;
        ctx->saved_data["alpha"] = alpha;
        ctx->saved_data["gain"] = gain;
        ctx->saved_data["clamp"] = clamp;
    }

    static Options load(AutogradContext* ctx) {
        auto& saved = ctx->saved_data;
        return {saved["dim"].toInt(), saved["act"].toInt(), saved["alpha"].toDouble(), saved["gain"].toDouble(),
                saved["clamp"].toOptional<double>()};
    }
};

Tensor bias_act_grad(const Tensor& dy, const Tensor& ref, const OptionalTensor& b, int64_t dim, int64_t act, double alpha,
                     double gain, std::optional<double> clamp) {
    static const auto op = find<decltype(bias_act_grad)>("stylegan2_loss_zoo::bias_act_grad");
    return op.call(dy, ref, b, dim, act, alpha, gain, clamp);
}

// layer_act. Its derivatives are an operator of their own, whose derivatives are a third one, and there it ends.

Tensor layer_act(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                 const OptionalTensor& b, const OptionalTensor& base, int64_t act, double alpha, double gain,
                 std::optional<double> clamp) {
    static const auto op = find<decltype(layer_act)>("stylegan2_loss_zoo::layer_act");
    return op.call(x, scale, noise, strength, b, base, act, alpha, gain, clamp);
}

std::tuple<Tensor, Tensor> layer_act_grad(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
        const OptionalTensor& strength, const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    static const auto op = find<decltype(layer_act_grad)>("stylegan2_loss_zoo::layer_act_grad");
    return op.call(dy, y, x, scale, noise, strength, b, act, alpha, gain, clamp);
}

std::tuple<Tensor, Tensor, Tensor> layer_act_grad2(
        const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength, const OptionalTensor& b,
        int64_t act, double alpha, double gain, std::optional<double> clamp) {
    static const auto op = find<decltype(layer_act_grad2)>("stylegan2_loss_zoo::layer_act_grad2");
    return op.call(q, r, dy, y, x, scale, noise, strength, b, act, alpha, gain, clamp);
}

// The parts that a layer has, of its arguments, and which of these want a gradient: those that are missing have no place.
struct Wanted {
    AutogradContext* ctx;
    size_t place = 0;
    bool next(bool is_there) { return is_there && ctx->needs_input_grad(place++); }
};

struct LayerActFunction : torch::autograd::Function<LayerActFunction> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
                          const OptionalTensor& strength, const OptionalTensor& b, const OptionalTensor& base, const Options& o) {
        o.save(ctx);
        ctx->saved_data["has_b"] = b.has_value();
        ctx->saved_data["has_strength"] = strength.has_value();
        ctx->saved_data["has_base"] = base.has_value();
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor y = zoo::layer_act(x, scale, noise, strength, b, base, o.act, o.alpha, o.gain, o.clamp);
        // The slope is told from y, or from x where something was added to it.
        const bool bent = Act(o.act) != Act::linear || o.clamp, again = bent && base;
        ctx->save_for_backward({scale || again ? x : Tensor(), scale.value_or(Tensor()), noise.value_or(Tensor()),
                                bent && !again ? y : Tensor(), again ? strength.value_or(Tensor()) : Tensor(),
                                again ? b.value_or(Tensor()) : Tensor()});
        return y;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto saved = ctx->get_saved_variables();
        const auto x = optional(saved[0]), scale = optional(saved[1]), noise = optional(saved[2]), y = optional(saved[3]);
        const auto o = Options::load(ctx);
        Wanted wanted{ctx};
        const bool needs_x = wanted.next(true), needs_scale = wanted.next(scale.has_value());
        TORCH_CHECK(!wanted.next(noise.has_value()), "layer_act: noise has no derivative");
        const bool needs_strength = wanted.next(ctx->saved_data["has_strength"].toBool());
        const bool needs_b = wanted.next(ctx->saved_data["has_b"].toBool());
        const bool needs_base = wanted.next(ctx->saved_data["has_base"].toBool());
        Tensor dx, d_scale, d_strength, d_b;
        if (needs_x && y && !scale && !needs_strength && !needs_b) {        // Without sums it is one kernel, not two.
            dx = zoo::bias_act_grad(grads[0], *y, {}, 1, o.act, o.alpha, o.gain, o.clamp);
        } else if (needs_x || needs_scale || needs_strength || needs_b) {
            const auto [image, sums] = zoo::layer_act_grad(grads[0], y, x, scale, noise, optional(saved[4]), optional(saved[5]), o.act,
                                                           o.alpha, o.gain, o.clamp);
            if (needs_x) dx = image;
            if (needs_scale) d_scale = sums[0];
            if (needs_b) d_b = sums[1].sum(0);
            if (needs_strength) d_strength = sums[2].sum();
        }
        return {dx, d_scale, Tensor(), d_strength, d_b, needs_base ? grads[0] : Tensor(), Tensor()};
    }
};

struct LayerActGrad : torch::autograd::Function<LayerActGrad> {
    static variable_list forward(AutogradContext* ctx, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
                                 const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                                 const OptionalTensor& b, const Options& o) {
        o.save(ctx);
        ctx->save_for_backward({dy, y.value_or(Tensor()), x.value_or(Tensor()), scale.value_or(Tensor()), noise.value_or(Tensor()),
                                strength.value_or(Tensor()), b.value_or(Tensor())});
        at::AutoDispatchBelowADInplaceOrView guard;
        const auto [dx, sums] = zoo::layer_act_grad(dy, y, x, scale, noise, strength, b, o.act, o.alpha, o.gain, o.clamp);
        return {dx, sums};
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto saved = ctx->get_saved_variables();
        const auto y = optional(saved[1]), x = optional(saved[2]), scale = optional(saved[3]);
        const auto o = Options::load(ctx);
        TORCH_CHECK(x || !scale, "layer_act_grad: without x its sums have no derivative");
        Wanted wanted{ctx};
        const bool needs_dy = wanted.next(true);
        wanted.next(y.has_value());
        const bool needs_x = wanted.next(x.has_value()) && scale, needs_scale = wanted.next(scale.has_value());
        const auto [d_dy, d_x, d_scale] = zoo::layer_act_grad2(
            grads[0], grads[1], saved[0], y, x, scale, optional(saved[4]), optional(saved[5]), optional(saved[6]), o.act, o.alpha,
            o.gain, o.clamp);
        return {needs_dy ? d_dy : Tensor(), Tensor(), needs_x ? d_x : Tensor(), needs_scale ? d_scale : Tensor(), Tensor(), Tensor(),
                Tensor(), Tensor()};
    }
};

struct LayerActGrad2 : torch::autograd::Function<LayerActGrad2> {
    static variable_list forward(AutogradContext*, const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y,
                                 const OptionalTensor& x, const LayerActParts& parts, const OptionalTensor& scale, const Options& o) {
        at::AutoDispatchBelowADInplaceOrView guard;
        const auto [d_dy, d_x, d_scale] = zoo::layer_act_grad2(q, r, dy, y, x, scale, parts.noise, parts.strength, parts.b, o.act,
                                                               o.alpha, o.gain, o.clamp);
        return {d_dy, d_x, d_scale};
    }

    static variable_list backward(AutogradContext*, const variable_list&) {
        TORCH_CHECK(false, "layer_act: the compiled operator has no third derivative; use impl='ref'");
    }
};

Tensor layer_act_autograd(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                          const OptionalTensor& b, const OptionalTensor& base, int64_t act, double alpha, double gain,
                          std::optional<double> clamp) {
    return LayerActFunction::apply(x, scale, noise, strength, b, base, Options{1, act, alpha, gain, clamp});
}

std::tuple<Tensor, Tensor> layer_act_grad_autograd(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor& scale, const OptionalTensor& noise,
        const OptionalTensor& strength, const OptionalTensor& b, int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const auto found = LayerActGrad::apply(dy, y, x, scale, noise, strength, b, Options{1, act, alpha, gain, clamp});
    return {found[0], found[1]};
}

std::tuple<Tensor, Tensor, Tensor> layer_act_grad2_autograd(
        const Tensor& q, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x,
        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength, const OptionalTensor& b,
        int64_t act, double alpha, double gain, std::optional<double> clamp) {
    const LayerActParts parts{{}, noise, strength, b};
    const auto found = LayerActGrad2::apply(q, r, dy, y, x, parts, scale, Options{1, act, alpha, gain, clamp});
    return {found[0], found[1], found[2]};
}

Tensor layer_act_meta(const Tensor& x, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                      const OptionalTensor&, int64_t, double, double, std::optional<double>) {
    return at::empty_like(x, x.options().memory_format(layout(x)));
}

std::tuple<Tensor, Tensor> layer_act_grad_meta(
        const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor&, const OptionalTensor&,
        const OptionalTensor&, const OptionalTensor&, int64_t, double, double, std::optional<double>) {
    const Tensor& shaped = layer_act_shaped(dy, y, x);
    const std::array<SymInt, 3> sums{3, dy.sym_size(0), dy.sym_size(1)};
    return {at::empty_like(shaped, shaped.options().memory_format(layout(shaped))),
            at::empty_symint(sums, dy.options().dtype(compute_type(dy)))};
}

std::tuple<Tensor, Tensor, Tensor> layer_act_grad2_meta(
        const Tensor&, const Tensor& r, const Tensor& dy, const OptionalTensor& y, const OptionalTensor& x, const OptionalTensor&,
        const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, double, double, std::optional<double>) {
    const Tensor& shaped = layer_act_shaped(dy, y, x);
    const auto image = [&] { return at::empty_like(shaped, shaped.options().memory_format(layout(shaped))); };
    const std::array<SymInt, 2> sums{dy.sym_size(0), dy.sym_size(1)};
    return {image(), image(), at::empty_symint(sums, r.options())};
}

}  // namespace
}  // namespace zoo
