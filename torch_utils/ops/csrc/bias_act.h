// The arithmetic of bias_act, for CPU and CUDA: activation functions and their first and second derivatives.
//
//     y = clamp(gain * act(x + b))
//
// Derivatives are formed from one saved tensor `ref`, which is y wherever the slope can be told from the value
// v = act(x + b) = y / gain, and x for swish, where it cannot.
#pragma once

#include "portable.h"

#include <type_traits>

namespace zoo {

enum class Act : int { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };    // As in bias_act.py.

struct BiasAct {
    int64_t size;           // Number of elements.
    int64_t inner;          // Number of neighbouring elements that share an element of the bias.
    int64_t channels;       // Number of elements of the bias.
    double alpha;           // Slope of lrelu for negative values.
    double gain;
    double clamp;           // Not a number: no clamp. No comparison with it holds, so it needs no case of its own.
};

constexpr double selu_scale = 1.0507009873554804934193349852946;
constexpr double selu_alpha = 1.6732632423543772848170429916717;

template <class S> HOST_DEVICE S sigmoid(S t) { return S(1) / (S(1) + exp(-t)); }

// act(t). Comparisons are such that a value that is not a number stays one.
template <Act act, class S> HOST_DEVICE S value(S t, S alpha) {
    switch (act) {
        case Act::linear: return t;
        case Act::relu: return t < 0 ? S(0) : t;
        case Act::lrelu: return t > 0 ? t : t * alpha;
        case Act::tanh: return tanh(t);
        case Act::sigmoid: return sigmoid(t);
        case Act::elu: return t >= 0 ? t : expm1(t);
        case Act::selu: return t >= 0 ? t * S(selu_scale) : expm1(t) * S(selu_scale * selu_alpha);
        case Act::softplus: return t > 80 ? t : log1p(exp(t));
        case Act::swish: return t * sigmoid(t);
    }
    return t;
}

// The derivative of act, from its value v, or from its argument for swish.
template <Act act, class S> HOST_DEVICE S slope(S v, S alpha) {
    switch (act) {
        case Act::linear: return S(1);
        case Act::relu: return v > 0 ? S(1) : S(0);
        case Act::lrelu: return v > 0 ? S(1) : alpha;
        case Act::tanh: return S(1) - v * v;
        case Act::sigmoid: return v * (S(1) - v);
        case Act::elu: return v >= 0 ? S(1) : v + S(1);
        case Act::selu: return v >= 0 ? S(selu_scale) : v + S(selu_scale * selu_alpha);
        case Act::softplus: return -expm1(-v);
        case Act::swish: {
            const S s = sigmoid(v);
            return s * (S(1) + v * (S(1) - s));
        }
    }
    return S(0);
}

// The derivative of `slope` with respect to its first argument; zero for linear, relu and lrelu.
template <Act act, class S> HOST_DEVICE S bend(S v) {
    switch (act) {
        case Act::tanh: return S(-2) * v;
        case Act::sigmoid: return S(1) - S(2) * v;
        case Act::elu:
        case Act::selu: return v >= 0 ? S(0) : S(1);
        case Act::softplus: return exp(-v);
        case Act::swish: {
            const S s = sigmoid(v);
            return s * (S(1) - s) * (S(2) + v * (S(1) - S(2) * s));
        }
        default: return S(0);
    }
}

// bias_act and its derivatives for one element, with the constants in the type S that it computes in.
template <Act act, class S> struct Activation {
    S alpha, gain, clamp, inverse_gain;

    HOST_DEVICE explicit Activation(const BiasAct& p)
        : alpha(S(p.alpha)), gain(S(p.gain)), clamp(S(p.clamp)), inverse_gain(p.gain == 0 ? S(0) : S(1 / p.gain)) {}

    // Order 0: y, ref being t = x + b. Order 1: dx from dy, ref being y, or t for swish. Order 2: the derivative of q dx
    // with respect to ref. Lower orders have no use for q, or q and dy.
    template <int order> HOST_DEVICE S apply(S q, S dy, S ref) const {
        if (order == 0) return clamped(value<act>(ref, alpha) * gain);
        if (blocked(ref)) return S(0);
        if (order == 1) return dy * (gain * slope<act>(argument(ref), alpha));
        return q * dy * bend<act>(argument(ref)) * (act == Act::swish ? gain : S(1));
    }

    // What act was applied to, from a y that was not clamped; for linear and lrelu, with 1 / alpha.
    HOST_DEVICE S undone(S y, S inverse_alpha) const {
        const S v = y * inverse_gain;
        return act == Act::lrelu && v < 0 ? v * inverse_alpha : v;
    }

private:
    HOST_DEVICE S clamped(S u) const { return u > clamp ? clamp : u < -clamp ? -clamp : u; }

    HOST_DEVICE S argument(S ref) const { return act == Act::swish ? ref : ref * inverse_gain; }

    HOST_DEVICE bool blocked(S ref) const {
        const S y = act == Act::swish ? value<act>(ref, alpha) * gain : ref;
        return y >= clamp || y <= -clamp;
    }
};

template <Act act> using ActConstant = std::integral_constant<Act, act>;

// Calls f(integral constants for the order and the activation) with what is known only at run time.
template <int order, class F> void with_act(int act, F f) {
    constexpr std::integral_constant<int, order> n;
    switch (Act(act)) {
        case Act::linear: return f(n, ActConstant<Act::linear>());
        case Act::relu: return f(n, ActConstant<Act::relu>());
        case Act::lrelu: return f(n, ActConstant<Act::lrelu>());
        case Act::tanh: return f(n, ActConstant<Act::tanh>());
        case Act::sigmoid: return f(n, ActConstant<Act::sigmoid>());
        case Act::elu: return f(n, ActConstant<Act::elu>());
        case Act::selu: return f(n, ActConstant<Act::selu>());
        case Act::softplus: return f(n, ActConstant<Act::softplus>());
        case Act::swish: return f(n, ActConstant<Act::swish>());
    }
}

template <class F> void with_order_and_act(int order, int act, F f) {
    if (order == 0) return with_act<0>(act, f);
    if (order == 1) return with_act<1>(act, f);
    return with_act<2>(act, f);
}

// The tensors of one call, with p.size elements each but b, which may be null. Those an order has no use for are null.
template <class T> struct BiasActTensors { const T *q, *dy, *ref, *b; T* out; };

}  // namespace zoo
