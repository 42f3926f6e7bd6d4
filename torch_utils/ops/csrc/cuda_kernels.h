// The bodies of the CUDA kernels, which also run on a host, block by block and thread by thread (tests/ops/ops_host.cpp).
//
// A kernel is a plain value with its arguments. It does its work in phases, between which the threads of a block wait for one
// another: `phase<n>(block, thread, shared)`. `with_kernel` chooses the kernel for a problem.
#pragma once

#include "bias_act.h"
#include "upfirdn2d.h"

namespace zoo {

constexpr int block_threads = 256;

HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// bias_act and its derivatives: every thread does a few elements, neighbouring threads neighbouring elements.
template <class T, int order, Act act> struct BiasActKernel {
    using S = compute_t<T>;
    static constexpr int phases = 1, thread_elements = 4;
    struct Shared {};

    BiasAct p;
    Activation<act, S> op;
    BiasActTensors<T> tensors;

    int64_t blocks() const { return divide_up(p.size, block_threads * thread_elements); }

    template <int> HOST_DEVICE void phase(int64_t block, int thread, Shared&) const {
        for (int k = 0; k < thread_elements; ++k) {
            const int64_t i = (block * thread_elements + k) * block_threads + thread;
            if (i >= p.size) return;
            const S q = order < 2 ? S(0) : S(widen(tensors.q[i])), dy = order < 1 ? S(0) : S(widen(tensors.dy[i]));
            const S bias = tensors.b ? S(widen(tensors.b[channel(i)])) : S(0);
            narrow(op.template apply<order>(q, dy, widen(tensors.ref[i]) + bias), tensors.out[i]);
        }
    }

private:
    HOST_DEVICE int64_t channel(int64_t i) const {
        if (p.size > INT32_MAX) return i / p.inner % p.channels;
        return uint32_t(i) / uint32_t(p.inner) % uint32_t(p.channels);      // Much faster than in 64 bits.
    }
};

template <class T, class Run>
void with_kernel(int order, const BiasAct& p, int act, const BiasActTensors<T>& tensors, Run run) {
    with_order_and_act(order, act, [&](auto n, auto activation) {
        run(BiasActKernel<T, n, activation>{p, Activation<activation, compute_t<T>>(p), tensors});
    });
}

// upfirdn2d, any factors and any filter: one thread per output element.
template <class T> struct GatherKernel {
    using S = compute_t<T>;
    static constexpr int phases = 1;
    struct Shared {};

    Resample r;
    const T* x;
    const float* f;
    T* y;

    HOST_DEVICE int64_t elements() const { return r.batch * r.channels * r.y.out * r.x.out; }
    int64_t blocks() const { return divide_up(elements(), block_threads); }

    template <int> HOST_DEVICE void phase(int64_t block, int thread, Shared&) const {
        int64_t i = block * block_threads + thread;
        if (i >= elements()) return;
        T& out = y[i];
        int64_t c = 0;
        if (r.channels_last) c = i % r.channels, i /= r.channels;
        const int out_x = int(i % r.x.out), out_y = int(i / r.x.out % r.y.out);
        i /= int64_t(r.x.out) * r.y.out;
        if (!r.channels_last) c = i % r.channels, i /= r.channels;
        const Strides at = strides(r, r.y.in, r.x.in);
        const Span rows = span(r.y, out_y), cols = span(r.x, out_x);
        const T* source = x + i * at.batch + c * at.channel + rows.sample * at.row + cols.sample * at.pixel;
        S sum = 0;
        for (int v = 0; v < rows.count; ++v)
            for (int u = 0; u < cols.count; ++u)
                sum += S(weight(r, f, rows.tap + v * r.y.up, cols.tap + u * r.x.up)) * S(widen(source[v * at.row + u * at.pixel]));
        narrow(sum, out);
    }
};

// Factors and taps along an axis that are known when the kernel is compiled.
template <int up_, int down_, int taps_> struct Fixed {
    static constexpr int up = up_, down = down_, taps = taps_;
    static bool fits(const Axis& axis) { return axis.up == up && axis.down == down && axis.taps == taps; }
    static constexpr int samples(int outputs) { return ((outputs - 1) * down + taps - 1) / up + 1; }    // At most.
};

// upfirdn2d for common filters: a block takes the part of an image that its tile of outputs needs into shared memory.
template <class T, class X, class Y, bool channels_last> struct TileKernel {
    using S = compute_t<T>;
    static constexpr int phases = 2;
    static constexpr int channels = channels_last ? 16 : 1;             // Of one tile.
    static constexpr int width = channels_last ? 8 : 32, height = channels_last ? 8 : 16;
    static constexpr int samples_x = X::samples(width), samples_y = Y::samples(height);
    struct Shared {
        S image[samples_y * samples_x * channels];
        S taps[Y::taps * X::taps];
    };

    Resample r;
    const T* x;
    const float* f;
    T* y;

    int64_t blocks() const {
        return r.batch * divide_up(r.channels, channels) * divide_up(r.y.out, height) * divide_up(r.x.out, width);
    }

    template <int n> HOST_DEVICE void phase(int64_t block, int thread, Shared& shared) const {
        const Tile tile = locate(block);
        if (n == 0)
            load(tile, thread, shared);
        else
            filter(tile, thread, shared);
    }

private:
    struct Tile {
        int64_t batch, channel;
        int out_x, out_y, in_x, in_y;       // The first output, and the first sample that it or a later one needs.
    };

    // The axes with their constants for the compiler to see: then no division by a factor is left in the kernel.
    HOST_DEVICE Axis axis_x() const { return {X::up, X::down, r.x.before, r.x.in, r.x.out, X::taps}; }
    HOST_DEVICE Axis axis_y() const { return {Y::up, Y::down, r.y.before, r.y.in, r.y.out, Y::taps}; }

    // A grid has less than 2^31 blocks, so 32 bits do; divisions by 64 bits take several times as long.
    HOST_DEVICE Tile locate(int64_t block) const {
        unsigned rest = unsigned(block);
        Tile tile;
        tile.out_x = take(rest, r.x.out, width);
        tile.out_y = take(rest, r.y.out, height);
        tile.channel = take(rest, int(r.channels), channels);
        tile.batch = rest;
        tile.in_x = unbounded_span(axis_x(), tile.out_x).sample;
        tile.in_y = unbounded_span(axis_y(), tile.out_y).sample;
        return tile;
    }

    // Where a block begins along an axis of `size`, which has a tile for every `step`; `rest` counts the tiles of the others.
    HOST_DEVICE static int take(unsigned& rest, int size, int step) {
        const unsigned tiles = (unsigned(size) + step - 1) / step, block = rest;
        rest = block / tiles;
        return int(block - rest * tiles) * step;
    }

    HOST_DEVICE void load(const Tile& tile, int thread, Shared& shared) const {
        for (int k = thread; k < Y::taps * X::taps; k += block_threads)
            shared.taps[k] = weight(r, f, k / X::taps, k % X::taps);
        const Strides at = strides(r, r.y.in, r.x.in);
        const T* source = x + tile.batch * at.batch + tile.channel * at.channel;
        for (int i = thread; i < samples_y * samples_x * channels; i += block_threads) {
            const int c = i % channels, u = tile.in_x + i / channels % samples_x, v = tile.in_y + i / channels / samples_x;
            const bool inside = tile.channel + c < r.channels && u >= 0 && u < r.x.in && v >= 0 && v < r.y.in;
            shared.image[i] = inside ? S(widen(source[c * at.channel + v * at.row + u * at.pixel])) : S(0);
        }
    }

    HOST_DEVICE void filter(const Tile& tile, int thread, const Shared& shared) const {
        const Strides to = strides(r, r.y.out, r.x.out);
        for (int i = thread; i < height * width * channels; i += block_threads) {
            const int c = i % channels, out_x = tile.out_x + i / channels % width, out_y = tile.out_y + i / channels / width;
            if (tile.channel + c >= r.channels || out_x >= r.x.out || out_y >= r.y.out) continue;
            const Span rows = unbounded_span(axis_y(), out_y), cols = unbounded_span(axis_x(), out_x);
            const S* image = shared.image + ((rows.sample - tile.in_y) * samples_x + cols.sample - tile.in_x) * channels + c;
            S sum = 0;
            for (int v = 0; v < (Y::taps + Y::up - 1) / Y::up; ++v) {
                for (int u = 0; u < (X::taps + X::up - 1) / X::up; ++u) {
                    const int ky = rows.tap + v * Y::up, kx = cols.tap + u * X::up;
                    if (ky < Y::taps && kx < X::taps)
                        sum += shared.taps[ky * X::taps + kx] * image[(v * samples_x + u) * channels];
                }
            }
            narrow(sum, y[tile.batch * to.batch + (tile.channel + c) * to.channel + out_y * to.row + out_x * to.pixel]);
        }
    }
};

// Runs the tile kernel for X and Y if the problem is of that kind.
template <class X, class Y, class T, class Run>
bool with_tile_kernel(const Resample& r, const T* x, const float* f, T* y, Run run) {
    if (!X::fits(r.x) || !Y::fits(r.y)) return false;
    if (r.channels_last)
        run(TileKernel<T, X, Y, true>{r, x, f, y});
    else
        run(TileKernel<T, X, Y, false>{r, x, f, y});
    return true;
}

template <class T, class Run> void with_kernel(const Resample& r, const T* x, const float* f, T* y, Run run) {
    using None = Fixed<1, 1, 1>;
    // The networks' [1, 3, 3, 1]: plain, up, down.
    if (with_tile_kernel<Fixed<1, 1, 4>, Fixed<1, 1, 4>>(r, x, f, y, run)) return;
    if (with_tile_kernel<Fixed<2, 1, 4>, Fixed<2, 1, 4>>(r, x, f, y, run)) return;
    if (with_tile_kernel<Fixed<1, 2, 4>, Fixed<1, 2, 4>>(r, x, f, y, run)) return;
    // The augmentation's wavelet with 12 taps, one axis at a time: up, down.
    if (with_tile_kernel<Fixed<2, 1, 12>, None>(r, x, f, y, run)) return;
    if (with_tile_kernel<None, Fixed<2, 1, 12>>(r, x, f, y, run)) return;
    if (with_tile_kernel<Fixed<1, 2, 12>, None>(r, x, f, y, run)) return;
    if (with_tile_kernel<None, Fixed<1, 2, 12>>(r, x, f, y, run)) return;
    run(GatherKernel<T>{r, x, f, y});
}

}  // namespace zoo
