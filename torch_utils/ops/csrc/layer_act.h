// What follows a convolution, in one pass, and all of its first derivatives in another, on CUDA:
//
//     y = clamp(gain * act(x * scale + noise * strength + b))
//
// for images x, with every part but act optional, and act linear or lrelu. Whatever is not an image is in the compute type.
#pragma once

#include "bias_act.h"

namespace zoo {

struct LayerAct {
    int64_t samples, channels, pixels;          // Pixels of one sample.
    bool channels_last, own_noise;              // Memory order of images; noise for each sample, or one for all.
    BiasAct options;
};

// x, y, dy, out [N, C, H, W]; scale [N, C], noise [N or 1, H, W], strength [], b [C]; null where there is none. For the
// derivatives out is dx, and sums [3, N, tiles, C] has the sums over the pixels of each tile of d * x, d and d * noise, d being
// the derivative with respect to what act is applied to.
template <class T, class S> struct LayerActTensors {
    const T *x, *y, *dy;
    const S *scale, *noise, *strength, *b;
    T* out;
    S* sums;
};

// How threads of a block share the work of the derivatives: along channels, and along pixels.
struct LayerActTiles {
    int columns, lanes;             // Of a block of threads; their product is its size.
    int64_t tiles, column_blocks;   // Of a sample: along pixels, along channels.
};

constexpr bool has_layer_act(int64_t act) { return act == int64_t(Act::linear) || act == int64_t(Act::lrelu); }

}  // namespace zoo
