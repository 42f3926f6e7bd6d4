// bias_act on CPUs. Loops are left to the compiler to vectorise, and made long enough for that.
#include "cpu_kernels.h"

#include <algorithm>
#include <vector>

namespace zoo {
namespace {

constexpr int64_t shortest_loop = 256;      // A bias of fewer channels, one per element, is repeated to this length.

// Calls f(element, value of the bias for it) for the elements [begin, end).
template <class T, class F> void for_elements(const BiasAct& p, const T* b, int64_t begin, int64_t end, F f) {
    using S = compute_t<T>;
    if (b == nullptr) {
        for (int64_t i = begin; i < end; ++i) f(i, S(0));
    } else if (p.inner > 1) {
        while (begin < end) {
            const int64_t stop = std::min(end, begin - begin % p.inner + p.inner);
            const S bias = widen(b[begin / p.inner % p.channels]);
            for (; begin < stop; ++begin) f(begin, bias);
        }
    } else {
        const int64_t period = (shortest_loop + p.channels - 1) / p.channels * p.channels;
        std::vector<S> bias(period);
        for (int64_t i = 0; i < period; ++i) bias[i] = widen(b[i % p.channels]);
        while (begin < end) {
            const int64_t start = begin - begin % period, stop = std::min(end, start + period);
            for (; begin < stop; ++begin) f(begin, bias[begin - start]);
        }
    }
}

}  // namespace

template <class T> void bias_act_cpu(
        int order, const BiasAct& p, int act, const BiasActTensors<T>& tensors, int64_t begin, int64_t end) {
    using S = compute_t<T>;
    with_order_and_act(order, act, [&](auto n, auto activation) {
        const Activation<activation, S> op(p);
        const T *__restrict q = tensors.q, *__restrict dy = tensors.dy, *__restrict ref = tensors.ref;
        T* __restrict out = tensors.out;
        for_elements(p, tensors.b, begin, end, [=](int64_t i, S bias) {
            const S cotangent = n < 2 ? S(0) : S(widen(q[i])), slope = n < 1 ? S(0) : S(widen(dy[i]));
            narrow(op.template apply<n>(cotangent, slope, widen(ref[i]) + bias), out[i]);
        });
    });
}

template void bias_act_cpu(int, const BiasAct&, int, const BiasActTensors<float>&, int64_t, int64_t);
template void bias_act_cpu(int, const BiasAct&, int, const BiasActTensors<double>&, int64_t, int64_t);
template void bias_act_cpu(int, const BiasAct&, int, const BiasActTensors<BFloat16>&, int64_t, int64_t);

}  // namespace zoo
