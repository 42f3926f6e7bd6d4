// What follows a convolution, in one pass, all of its first derivatives in another, and those of these in a third, on CUDA:
//
//     y = clamp(gain * act(x * scale + noise * strength + b)) + base
//
// for images x, with every part but act optional, and act linear or lrelu. Whatever is not an image is in the compute type.
//
// With d = dL/dy times the slope there, the first derivatives are
//
//     dx = d * scale,    and the sums over the pixels of    d * x,    d,    d * noise.
//
// The slope is told from y without base, or from x. Where x is missing, x * scale is told from y. As the slope is constant but
// for kinks, the derivatives of these, from those q and r[0 ... 2] with respect to dx and the sums, are
//
//     slope * (q * scale + r[0] * x + r[1] + r[2] * noise) for dL/dy,    r[0] * d for x,    the sum of q * d for scale;
//
// without scale the first of the sums is not asked for, and x gets none.
#pragma once

#include "bias_act.h"

namespace zoo {

struct LayerAct {
    int64_t samples, channels, pixels;          // Pixels of one sample.
    bool channels_last, own_noise;              // Memory order of images; noise for each sample, or one for all.
    BiasAct options;
};

// x, y, dy, base, q, out, out_x [N, C, H, W]; scale [N, C], noise [N or 1, H, W], strength [], b [C], r [3, N, C]; null where
// there is none. Of the first derivatives out is dx and sums [3, N, tiles, C] are those over the pixels of each tile; of the
// second, out is for dL/dy, out_x for x, and sums [1, N, tiles, C].
template <class T, class S> struct LayerActTensors {
    const T *x, *y, *dy, *base, *q;
    const S *scale, *noise, *strength, *b, *r;
    T *out, *out_x;
    S* sums;
};

constexpr bool has_layer_act(int64_t act) { return act == int64_t(Act::linear) || act == int64_t(Act::lrelu); }

}  // namespace zoo
