// The bodies of the CUDA kernels, which also run on a host, block by block and thread by thread (tests/ops/ops_host.cpp).
//
// A kernel is a plain value with its arguments. It does its work in phases, between which the threads of a block wait for one
// another: `phase<n>(block, thread, shared)`. `with_kernel` chooses the kernel for a problem.
#pragma once

#include "bias_act.h"
#include "cuda_parts.h"
#include "cuda_upfirdn2d.h"
#include "layer_act.h"

#include <utility>

namespace zoo {

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

// layer_act, its value: every thread does a few packs of neighbours in memory, which are pixels or channels.
template <class T, Act act, bool channels_last, int size> struct LayerActKernel {
    using S = compute_t<T>;
    static constexpr int phases = 1, thread_packs = 2;
    struct Shared {};

    LayerAct p;
    Activation<act, S> op;
    LayerActTensors<T, S> tensors;

    int64_t packs() const { return p.samples * p.channels * p.pixels / size; }
    int64_t blocks() const { return divide_up(packs(), block_threads * thread_packs); }

    template <int> HOST_DEVICE void phase(int64_t block, int thread, Shared&) const {
        const int64_t elements = p.samples * p.channels * p.pixels;
        UNROLL
        for (int k = 0; k < thread_packs; ++k) {
            const int64_t i = ((block * thread_packs + k) * block_threads + thread) * size;
            if (i >= elements) return;
            if (elements <= INT32_MAX)                          // Much faster than in 64 bits.
                compute(i, locate(uint32_t(i)));
            else
                compute(i, locate(uint64_t(i)));
        }
    }

private:
    struct Place { int64_t sample, channel, pixel; };

    template <class Int> HOST_DEVICE Place locate(Int i) const {
        const Int fast = Int(channels_last ? p.channels : p.pixels), slow = Int(channels_last ? p.pixels : p.channels);
        const Int row = i / fast, sample = row / slow, first = i - row * fast, second = row - sample * slow;
        return {int64_t(sample), int64_t(channels_last ? first : second), int64_t(channels_last ? second : first)};
    }

    HOST_DEVICE void compute(int64_t i, const Place& at) const {
        const Pack<T, size> x = *reinterpret_cast<const Pack<T, size>*>(tensors.x + i);
        const S* noise = tensors.noise ? tensors.noise + (p.own_noise ? at.sample * p.pixels : 0) + at.pixel : nullptr;
        const S strength = tensors.strength ? *tensors.strength : S(1);
        Pack<T, size> y, base = {};
        if (tensors.base) base = *reinterpret_cast<const Pack<T, size>*>(tensors.base + i);
        UNROLL
        for (int k = 0; k < size; ++k) {
            const int64_t channel = at.channel + (channels_last ? k : 0);
            S t = widen(x.at[k]);
            if (tensors.scale) t *= tensors.scale[at.sample * p.channels + channel];
            if (noise) t += noise[channels_last ? 0 : k] * strength;
            if (tensors.b) t += tensors.b[channel];
            narrow(op.template apply<0>(S(0), S(0), t) + S(widen(base.at[k])), y.at[k]);
        }
        *reinterpret_cast<Pack<T, size>*>(tensors.out + i) = y;
    }
};

constexpr int tile_rounds = 16, slope_rounds = 4;       // Packs, or strips, of a thread of the derivatives.

// A column is what a thread does of the channels: `size` of them where they are neighbours, else one.
inline Tiles layer_act_tiles(const LayerAct& p, int size) {
    return tiles_of(p.channels_last ? p.channels / size : p.channels, p.channels_last ? p.pixels : divide_up(p.pixels, size),
                    p.channels_last, tile_rounds);
}

// layer_act, its derivatives, of order 1 or 2: a block does a tile of pixels of some channels, and adds up over the pixels.
template <class T, Act act, bool channels_last, int size, int order> struct LayerActGradKernel {
    using S = compute_t<T>;
    static constexpr int phases = 3, kinds = order == 1 ? 3 : 1;
    static constexpr int least_blocks = size == 1 || sizeof(S) == 8;        // Else ptxas gives these too few registers.
    static constexpr int channels = channels_last ? size : 1;   // Of a column.
    using Sums = BlockSums<S, kinds, channels, channels_last>;
    struct Shared { typename Sums::Shared sums; };

    LayerAct p;
    Activation<act, S> op;
    LayerActTensors<T, S> tensors;
    Sums sums;

    int64_t blocks() const { return p.samples * sums.tiles.column_blocks * sums.tiles.tiles; }

    template <int n> HOST_DEVICE void phase(int64_t block, int thread, Shared& shared) const {
        unsigned rest = unsigned(block);
        const Tiles& tiles = sums.tiles;
        const int64_t tile = take(rest, unsigned(tiles.tiles)), first = take(rest, unsigned(tiles.column_blocks)) * tiles.columns;
        const int64_t sample = rest;
        if (n == 0)
            differentiate(sample, first, tile, thread, shared);
        else if (n == 1)
            sums.shorten(thread, shared.sums);
        else
            write(sample, first, tile, thread, shared);
    }

private:
    using Places = Pack<T, size>;

    // What a thread needs of its channels; r of order 2 only.
    struct Channels { S scale[channels], b[channels], r[order == 1 ? 1 : 3][channels]; };

    HOST_DEVICE bool tells_x() const { return order == 1 && !tensors.x && tensors.scale; }

    HOST_DEVICE void differentiate(int64_t sample, int64_t first, int64_t tile, int thread, Shared& shared) const {
        const int64_t channel = (first + sums.column_of(thread)) * channels;
        S own_sums[kinds][channels] = {};
        if (channel < p.channels) {
            const Channels own = channels_of(sample, channel);
            const S strength = tensors.strength ? *tensors.strength : S(1);
            constexpr int pack_pixels = channels_last ? 1 : size;
            for (int k = 0; k < tile_rounds; ++k) {
                const int64_t pixel = ((tile * tile_rounds + k) * sums.tiles.lanes + sums.lane_of(thread)) * pack_pixels;
                if (pixel >= p.pixels) break;
                add(sample, channel, pixel, own, strength, own_sums);
            }
        }
        sums.keep(thread, own_sums, shared.sums);
    }

    HOST_DEVICE Channels channels_of(int64_t sample, int64_t channel) const {
        Channels own;
        UNROLL
        for (int c = 0; c < channels; ++c) {
            own.scale[c] = tensors.scale ? tensors.scale[sample * p.channels + channel + c] : S(1);
            own.b[c] = tensors.b ? tensors.b[channel + c] : S(0);
            if constexpr (order == 2) {
                UNROLL
                for (int kind = 0; kind < 3; ++kind)
                    own.r[kind][c] = tensors.r ? tensors.r[(kind * p.samples + sample) * p.channels + channel + c] : S(0);
            }
        }
        return own;
    }

    HOST_DEVICE static Places read(const T* image, int64_t i) {
        return image ? *reinterpret_cast<const Places*>(image + i) : Places{};
    }

    HOST_DEVICE void add(int64_t sample, int64_t channel, int64_t pixel, const Channels& own, S strength,
                         S (&own_sums)[kinds][channels]) const {
        const int64_t i = channels_last ? (sample * p.pixels + pixel) * p.channels + channel
                                        : (sample * p.channels + channel) * p.pixels + pixel;
        const Places dy = read(tensors.dy, i), y = read(tensors.y, i), x = read(tensors.x, i);
        const Places q = order == 1 ? Places{} : read(tensors.q, i);
        const S* noise = tensors.noise ? tensors.noise + (p.own_noise ? sample * p.pixels : 0) + pixel : nullptr;
        Places out, out_x;
        UNROLL
        for (int k = 0; k < size; ++k) {
            const int c = channels_last ? k : 0;
            const S drawn = noise ? noise[channels_last ? 0 : k] : S(0), added = drawn * strength + own.b[c];
            S argument = widen(x.at[k]);
            const S value = tensors.y ? S(widen(y.at[k])) : op.template apply<0>(S(0), S(0), argument * own.scale[c] + added);
            const S d = op.template apply<1>(S(0), widen(dy.at[k]), value);
            if constexpr (order == 1) {
                if (tells_x()) argument = op.undone(value, S(1) / op.alpha) - added;
                narrow(d * own.scale[c], out.at[k]);
                own_sums[0][c] += d * argument;
                own_sums[1][c] += d;
                own_sums[2][c] += d * drawn;
            } else {
                const S towards = widen(q.at[k]);
                const S inner = towards * own.scale[c] + own.r[0][c] * argument + own.r[1][c] + own.r[2][c] * drawn;
                narrow(op.template apply<1>(S(0), inner, value), out.at[k]);
                narrow(own.r[0][c] * d, out_x.at[k]);
                own_sums[0][c] += towards * d;
            }
        }
        *reinterpret_cast<Places*>(tensors.out + i) = out;
        if constexpr (order == 2)
            if (tensors.out_x) *reinterpret_cast<Places*>(tensors.out_x + i) = out_x;
    }

    HOST_DEVICE void write(int64_t sample, int64_t first, int64_t tile, int thread, const Shared& shared) const {
        sums.write(thread, shared.sums, [&](int kind, int place, S sum) {
            const int64_t channel = first * channels + place;
            if (channel >= p.channels) return;
            if (kind == 0 && tells_x()) sum /= tensors.scale[sample * p.channels + channel];
            tensors.sums[((kind * p.samples + sample) * sums.tiles.tiles + tile) * p.channels + channel] = sum;
        });
    }
};

// The derivatives of an activation before the networks' filter: the filter back, then the slope, which is formed anew from what
// was activated, in the place of the sums; a block does some strips of some channels, and adds up over them.
template <class T, bool channels_last, int lanes> struct SlopeKernel {
    using S = compute_t<T>;
    using Strips = StripKernel<T, Fixed<1, 1, 4>, Fixed<1, 1, 4>, channels_last, lanes, Sloped<T>>;
    using Sums = BlockSums<S, 1, lanes, channels_last>;
    static constexpr int phases = 4, rounds = slope_rounds;
    static constexpr int least_blocks = channels_last ? 0 : 2;
    struct Shared {
        typename Strips::Shared taps;
        typename Sums::Shared sums;
    };

    Strips strips;
    Sums sums;
    S* out;                                                     // [N, tiles, C]

    int64_t blocks() const { return strips.r.batch * sums.tiles.column_blocks * sums.tiles.tiles; }

    template <int n> HOST_DEVICE void phase(int64_t block, int thread, Shared& shared) const {
        unsigned rest = unsigned(block);
        const Tiles& tiles = sums.tiles;
        const int64_t tile = take(rest, unsigned(tiles.tiles)), first = take(rest, unsigned(tiles.column_blocks)) * tiles.columns;
        const int64_t sample = rest, channels = strips.r.channels;
        if (n == 0) {
            strips.template phase<0>(block, thread, shared.taps);
        } else if (n == 1) {
            const int64_t channel = (first + sums.column_of(thread)) * lanes;
            S own_sums[1][lanes] = {};
            if (channel < channels) {
                auto own = strips.parts.template of<lanes>(sample, channel);
                for (int k = 0; k < rounds; ++k) {
                    const int64_t strip = (tile * rounds + k) * tiles.lanes + sums.lane_of(thread);
                    if (strip >= int64_t(strips.strips_x) * strips.strips_y) break;
                    strips.filter_strip(sample, channel, unsigned(strip), shared.taps.taps, own);
                }
                UNROLL
                for (int c = 0; c < lanes; ++c) own_sums[0][c] = own.sums[c];
            }
            sums.keep(thread, own_sums, shared.sums);
        } else if (n == 2) {
            sums.shorten(thread, shared.sums);
        } else {
            sums.write(thread, shared.sums, [&](int, int place, S sum) {
                const int64_t channel = first * lanes + place;
                if (channel < channels) out[(sample * tiles.tiles + tile) * channels + channel] = sum;
            });
        }
    }
};

// How the derivatives share a result that is filtered back to `r.y.out` by `r.x.out` pixels.
inline Tiles slope_tiles(const Resample& r) {
    const int64_t width = r.channels_last ? 2 : 4, height = 4;  // Of strips.
    return tiles_of(r.channels_last ? r.channels / 4 : r.channels, divide_up(r.x.out, width) * divide_up(r.y.out, height),
                    r.channels_last, slope_rounds);
}

template <class T, class X, class Y, bool channels_last, int lanes, class Run>
void with_slopes(const StripKernel<T, X, Y, channels_last, lanes, Sloped<T>>& strips, compute_t<T>* sums, Run run) {
    using Kernel = SlopeKernel<T, channels_last, lanes>;
    static_assert(Kernel::Strips::width == (channels_last ? 2 : 4) && Kernel::Strips::height == 4, "as slope_tiles has them");
    run(Kernel{strips, {slope_tiles(strips.r)}, sums});
}

// False: there is no kernel for that.
template <class T, class Run>
bool with_slope_kernel(const Resample& r, const T* dy, const float* f, T* dx, const Sloped<T>& parts, compute_t<T>* sums, Run run) {
    return with_joint_kernel(r, dy, f, dx, parts, [&](const auto& strips) { with_slopes(strips, sums, run); });
}

// Elements of `bytes` that one thread can move at once: neighbours of one kind, from places where packs may stand.
template <class T, class S> int layer_act_pack(const LayerAct& p, int64_t bytes, const LayerActTensors<T, S>& t) {
    bool fits = (p.channels_last ? p.channels : p.pixels) % 4 == 0;
    for (const void* image : {static_cast<const void*>(t.x), static_cast<const void*>(t.y), static_cast<const void*>(t.dy),
                              static_cast<const void*>(t.base), static_cast<const void*>(t.q), static_cast<const void*>(t.out),
                              static_cast<const void*>(t.out_x)})
        fits = fits && reinterpret_cast<uintptr_t>(image) % (4 * bytes) == 0;
    return fits ? 4 : 1;
}

// Calls run with the kernel for the value (order 0), or for derivatives, for which `tiles` is given.
template <int order, Act act, int size, class T, class S, class Run>
void with_layer_act(const LayerAct& p, const LayerActTensors<T, S>& tensors, const Tiles* tiles, Run run) {
    const Activation<act, S> op(p.options);
    if constexpr (order == 0) {
        if (p.channels_last) return run(LayerActKernel<T, act, true, size>{p, op, tensors});
        run(LayerActKernel<T, act, false, size>{p, op, tensors});
    } else {
        if (p.channels_last) return run(LayerActGradKernel<T, act, true, size, order>{p, op, tensors, {*tiles}});
        run(LayerActGradKernel<T, act, false, size, order>{p, op, tensors, {*tiles}});
    }
}

template <int order, class T, class S, class Run>
void with_layer_act(const LayerAct& p, int act, int pack, const LayerActTensors<T, S>& tensors, const Tiles* tiles, Run run) {
    const bool bent = Act(act) == Act::lrelu;
    if (pack == 4 && bent) return with_layer_act<order, Act::lrelu, 4>(p, tensors, tiles, run);
    if (pack == 4) return with_layer_act<order, Act::linear, 4>(p, tensors, tiles, run);
    if (bent) return with_layer_act<order, Act::lrelu, 1>(p, tensors, tiles, run);
    with_layer_act<order, Act::linear, 1>(p, tensors, tiles, run);
}

template <class T, class S, class Run>
void with_kernel(int order, const LayerAct& p, int act, int pack, const LayerActTensors<T, S>& tensors, const Tiles* tiles,
                 Run run) {
    if (order == 0) return with_layer_act<0>(p, act, pack, tensors, tiles, run);
    if (order == 1) return with_layer_act<1>(p, act, pack, tensors, tiles, run);
    with_layer_act<2>(p, act, pack, tensors, tiles, run);
}

}  // namespace zoo
