// The CPU kernels: plain functions on memory. Each does a part [begin, end) of its work, so that a caller can spread it over
// threads. T is float, double or BFloat16.
#pragma once

#include "bias_act.h"
#include "upfirdn2d.h"

namespace zoo {

// bias_act (order 0) and its derivatives, see `Activation`. Work is counted in elements.
template <class T> void bias_act_cpu(
    int order, const BiasAct& p, int act, const BiasActTensors<T>& tensors, int64_t begin, int64_t end);

// y from x and the filter f [fh, fw]. Work is counted in the units that `upfirdn2d_cpu_units` tells the number of.
template <class T> void upfirdn2d_cpu(
    const Resample& r, const T* x, const float* f, T* y, int64_t begin, int64_t end);
int64_t upfirdn2d_cpu_units(const Resample& r);

}  // namespace zoo
