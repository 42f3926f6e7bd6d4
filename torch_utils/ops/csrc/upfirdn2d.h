// The arithmetic of upfirdn2d, for CPU and CUDA: which taps of the filter meet which samples of the image.
//
// Along one axis, with z the image with up - 1 zeros after every sample:
//
//     y(o) = sum over k of h(k) z(o * down + k - before)
#pragma once

#include "portable.h"

namespace zoo {

struct Axis {
    int up, down, before;       // Factors; padding in front, negative = crop.
    int in, out;                // Numbers of samples.
    int taps;
};

struct Resample {
    Axis x, y;
    int64_t batch, channels;
    bool channels_last;         // Memory order of both images: [N, H, W, C] or [N, C, H, W].
    bool flip_filter;           // h is the filter as it is, or reversed.
    float gain;
};

HOST_DEVICE int floor_div(int a, int b) { return a / b - (a % b < 0); }
HOST_DEVICE int floor_mod(int a, int b) { return a % b + (a % b < 0 ? b : 0); }

// The taps that meet samples: `tap`, `tap` + up, ... meet `sample`, `sample` + 1, ..., `count` of them.
struct Span { int tap, sample, count; };

// All taps of one output sample that do not fall on stuffed zeros, as if the image had no end.
HOST_DEVICE Span unbounded_span(const Axis& axis, int out) {
    const int start = out * axis.down - axis.before;            // Where tap 0 is, on the upsampled grid.
    const int tap = floor_mod(-start, axis.up);
    return {tap, floor_div(start + tap, axis.up), tap < axis.taps ? (axis.taps - 1 - tap) / axis.up + 1 : 0};
}

// The same without those that fall outside the image.
HOST_DEVICE Span span(const Axis& axis, int out) {
    Span s = unbounded_span(axis, out);
    if (s.sample < 0) {
        s.tap -= s.sample * axis.up;
        s.count += s.sample;
        s.sample = 0;
    }
    if (s.count > axis.in - s.sample) s.count = axis.in - s.sample;
    if (s.count < 0) s.count = 0;
    return s;
}

// h(ky, kx) including the gain, formed in float32 whatever the type of the image.
HOST_DEVICE float weight(const Resample& r, const float* f, int ky, int kx) {
    const int last_x = r.x.taps - 1, last_y = r.y.taps - 1;
    return f[r.flip_filter ? ky * r.x.taps + kx : (last_y - ky) * r.x.taps + last_x - kx] * r.gain;
}

// Distances in memory between neighbours of an image with these channels and this width.
struct Strides { int64_t batch, channel, row, pixel; };

HOST_DEVICE Strides strides(const Resample& r, int height, int width) {
    const int64_t pixels = int64_t(height) * width;
    if (r.channels_last) return {pixels * r.channels, 1, width * r.channels, r.channels};
    return {pixels * r.channels, pixels, width, 1};
}

}  // namespace zoo
