// scale_bias_act on CPUs: one pass over memory, and one for all of its derivatives. Sums over pixels are taken block by
// block, so that they do not depend on the number of threads.
#include "cpu_kernels.h"

#include <algorithm>

namespace zoo {

template <class T> void scale_bias_act_cpu(
        const ScaleBiasAct& p, const ScaleBiasActTensors<T>& tensors, int64_t begin, int64_t end) {
    using S = compute_t<T>;
    with_act<0>(p.act, [&](auto, auto activation) {
        const Activation<activation, S> op(p.options);
        for (int64_t pixel = begin; pixel < end; ++pixel) {
            const T *__restrict x = tensors.x + (pixel - tensors.first) * p.channels, *__restrict b = tensors.b;
            const T* __restrict scale = tensors.scale + pixel / p.pixels * p.channels;
            T* __restrict y = tensors.y + pixel * p.channels;
            const S noise = widen(tensors.noise[p.own_noise ? pixel : pixel % p.pixels]);
            for (int64_t c = 0; c < p.channels; ++c)
                narrow(op.template apply<0>(S(0), S(0), widen(x[c]) * widen(scale[c]) + noise + widen(b[c])), y[c]);
        }
    });
}

template <bool from_y, class T> static void grad_of_blocks(
        const ScaleBiasAct& p, const ScaleBiasActGrads<T>& tensors, int64_t begin, int64_t end) {
    using S = compute_t<T>;
    with_act<1>(p.act, [&](auto, auto activation) {
        const Activation<activation, S> op(p.options);
        const S inverse_alpha = S(1 / p.options.alpha);
        for (int64_t block = begin; block < end; ++block) {
            const int64_t sample = block / p.blocks(), start = sample * p.pixels + block % p.blocks() * p.block_pixels;
            const int64_t stop = std::min(start + p.block_pixels, (sample + 1) * p.pixels);
            const T* __restrict scale = tensors.scale + sample * p.channels;
            S *__restrict d_scale = tensors.d_scale + block * p.channels, *__restrict d_b = tensors.d_b + block * p.channels;
            std::fill_n(d_scale, p.channels, S(0));
            std::fill_n(d_b, p.channels, S(0));
            for (int64_t pixel = start; pixel < stop; ++pixel) {
                const T *__restrict dy = tensors.dy + pixel * p.channels, *__restrict y = tensors.y + pixel * p.channels;
                const T* __restrict x = from_y ? tensors.b : tensors.x + pixel * p.channels;
                T* __restrict dx = tensors.dx + pixel * p.channels;
                const S noise = from_y ? S(widen(tensors.noise[p.own_noise ? pixel : pixel % p.pixels])) : S(0);
                S sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t c = 0; c < p.channels; ++c) {
                    const S d = op.template apply<1>(S(0), widen(dy[c]), widen(y[c]));
                    narrow(d * widen(scale[c]), dx[c]);
                    d_scale[c] += d * (from_y ? op.undone(widen(y[c]), inverse_alpha) - noise - widen(x[c]) : widen(x[c]));
                    d_b[c] += d;
                    sum += d;
                }
                narrow(sum, tensors.d_noise[pixel]);
            }
        }
    });
}

template <class T> void scale_bias_act_grad_cpu(
        const ScaleBiasAct& p, const ScaleBiasActGrads<T>& tensors, int64_t begin, int64_t end) {
    if (tensors.x)
        grad_of_blocks<false>(p, tensors, begin, end);
    else
        grad_of_blocks<true>(p, tensors, begin, end);
}

template void scale_bias_act_cpu(const ScaleBiasAct&, const ScaleBiasActTensors<float>&, int64_t, int64_t);
template void scale_bias_act_cpu(const ScaleBiasAct&, const ScaleBiasActTensors<double>&, int64_t, int64_t);
template void scale_bias_act_cpu(const ScaleBiasAct&, const ScaleBiasActTensors<BFloat16>&, int64_t, int64_t);
template void scale_bias_act_grad_cpu(const ScaleBiasAct&, const ScaleBiasActGrads<float>&, int64_t, int64_t);
template void scale_bias_act_grad_cpu(const ScaleBiasAct&, const ScaleBiasActGrads<double>&, int64_t, int64_t);
template void scale_bias_act_grad_cpu(const ScaleBiasAct&, const ScaleBiasActGrads<BFloat16>&, int64_t, int64_t);

}  // namespace zoo
