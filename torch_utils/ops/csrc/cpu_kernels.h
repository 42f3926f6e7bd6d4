// The CPU kernels: plain functions on memory. Each does a part [begin, end) of its work, so that a caller can spread it over
// threads. T is float, double or BFloat16.
#pragma once

#include "bias_act.h"
#include "upfirdn2d.h"

namespace zoo {

// bias_act (order 0) and its derivatives, see `Activation`. Work is counted in elements.
template <class T> void bias_act_cpu(
    int order, const BiasAct& p, int act, const BiasActTensors<T>& tensors, int64_t begin, int64_t end);

// y = clamp(gain * act(x * scale + noise + b)), for images [N, H, W, C] in memory.
struct ScaleBiasAct {
    int64_t samples, pixels, channels;          // Pixels of one sample.
    bool own_noise;                             // One for each sample? Else one for all.
    int act;
    BiasAct options;

    static constexpr int64_t block_pixels = 256;
    int64_t blocks() const { return (pixels + block_pixels - 1) / block_pixels; }     // Of one sample.
};

// scale [N, C], noise [N or 1, H, W], b [C]; x begins with pixel `first`.
template <class T> struct ScaleBiasActTensors { const T *x, *scale, *noise, *b; T* y; int64_t first; };

// dx, and the gradients of scale and b as sums over each block [N, blocks, C]; of noise [N, H, W]. Where x is null, noise and b
// are there: x is then formed from y, for linear and lrelu, and d_scale is scale times the gradient.
template <class T> struct ScaleBiasActGrads {
    const T *dy, *y, *x, *scale, *noise, *b;
    T *dx, *d_noise;
    compute_t<T> *d_scale, *d_b;
};

// Work is counted in pixels of all samples, that of the derivatives in blocks of all samples.
template <class T> void scale_bias_act_cpu(
    const ScaleBiasAct& p, const ScaleBiasActTensors<T>& tensors, int64_t begin, int64_t end);
template <class T> void scale_bias_act_grad_cpu(
    const ScaleBiasAct& p, const ScaleBiasActGrads<T>& tensors, int64_t begin, int64_t end);

// What is done with pixels that upfirdn2d has computed, row by row, while they are in the cache; for images [N, H, W, C].
template <class T> struct Finish { ScaleBiasAct p; ScaleBiasActTensors<T> tensors; };

// y from x and the filter f [fh, fw]. Work is counted in the units that `upfirdn2d_cpu_units` tells the number of.
template <class T> void upfirdn2d_cpu(
    const Resample& r, const T* x, const float* f, T* y, int64_t begin, int64_t end, const Finish<T>* finish = nullptr);
int64_t upfirdn2d_cpu_units(const Resample& r);

}  // namespace zoo
