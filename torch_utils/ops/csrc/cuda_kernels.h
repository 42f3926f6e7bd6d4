// The bodies of the CUDA kernels, which also run on a host, block by block and thread by thread (tests/ops/ops_host.cpp).
//
// A kernel is a plain value with its arguments. It does its work in phases, between which the threads of a block wait for one
// another: `phase<n>(block, thread, shared)`. `with_kernel` chooses the kernel for a problem.
#pragma once

#include "bias_act.h"
#include "layer_act.h"
#include "upfirdn2d.h"

#include <utility>

namespace zoo {

constexpr int block_threads = 256;

HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// So many neighbours in memory, moved by one instruction.
template <class T, int size> struct alignas(sizeof(T) * size) Pack { T at[size]; };

template <int size, class T> bool can_pack(const T* x) { return reinterpret_cast<uintptr_t>(x) % sizeof(Pack<T, size>) == 0; }

// rest = rest / size; returns the remainder.
HOST_DEVICE int take(unsigned& rest, unsigned size) {
    const unsigned before = rest;
    rest /= size;
    return int(before - rest * size);
}

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
        Pack<T, size> y;
        UNROLL
        for (int k = 0; k < size; ++k) {
            const int64_t channel = at.channel + (channels_last ? k : 0);
            S t = widen(x.at[k]);
            if (tensors.scale) t *= tensors.scale[at.sample * p.channels + channel];
            if (noise) t += noise[channels_last ? 0 : k] * strength;
            if (tensors.b) t += tensors.b[channel];
            narrow(op.template apply<0>(S(0), S(0), t), y.at[k]);
        }
        *reinterpret_cast<Pack<T, size>*>(tensors.out + i) = y;
    }
};

constexpr int tile_rounds = 16;     // Packs of a thread of the derivatives.

// A column is what a thread does of the channels: `size` of them where they are neighbours, else one.
inline LayerActTiles layer_act_tiles(const LayerAct& p, int size) {
    const int64_t columns = p.channels_last ? p.channels / size : p.channels, most = p.channels_last ? 16 : block_threads;
    const int64_t pixels = p.channels_last ? p.pixels : divide_up(p.pixels, size);
    LayerActTiles t{1, block_threads, 0, 0};
    while (t.columns < most && t.columns < columns && (p.channels_last || t.lanes / 2 >= pixels)) t.columns *= 2, t.lanes /= 2;
    t.tiles = divide_up(pixels, int64_t(t.lanes) * tile_rounds);
    t.column_blocks = divide_up(columns, t.columns);
    return t;
}

// layer_act, its derivatives: a block does a tile of pixels of some channels, and adds up over the pixels.
template <class T, Act act, bool channels_last, int size> struct LayerActGradKernel {
    using S = compute_t<T>;
    static constexpr int phases = 3, kinds = 3, parts = 16;
    static constexpr int channels = channels_last ? size : 1;   // Of a column.
    struct Shared { S sums[kinds][channels][block_threads]; };

    LayerAct p;
    Activation<act, S> op;
    LayerActTensors<T, S> tensors;
    LayerActTiles tiles;

    int64_t blocks() const { return p.samples * tiles.column_blocks * tiles.tiles; }

    template <int n> HOST_DEVICE void phase(int64_t block, int thread, Shared& shared) const {
        unsigned rest = unsigned(block);
        const int64_t tile = take(rest, unsigned(tiles.tiles)), first = take(rest, unsigned(tiles.column_blocks)) * tiles.columns;
        const int64_t sample = rest;
        if (n == 0)
            differentiate(sample, first, tile, thread, shared);
        else if (n == 1)
            shorten(thread, shared);
        else
            write(sample, first, tile, thread, shared);
    }

private:
    // Neighbouring threads do neighbours in memory.
    HOST_DEVICE int column_of(int thread) const { return channels_last ? thread % tiles.columns : thread / tiles.lanes; }
    HOST_DEVICE int lane_of(int thread) const { return channels_last ? thread / tiles.columns : thread % tiles.lanes; }
    HOST_DEVICE int thread_of(int column, int lane) const {
        return channels_last ? lane * tiles.columns + column : column * tiles.lanes + lane;
    }

    HOST_DEVICE void differentiate(int64_t sample, int64_t first, int64_t tile, int thread, Shared& shared) const {
        const int64_t channel = (first + column_of(thread)) * channels;
        S sums[kinds][channels] = {};
        if (channel < p.channels) {
            S scale[channels];
            UNROLL
            for (int c = 0; c < channels; ++c)
                scale[c] = tensors.scale ? tensors.scale[sample * p.channels + channel + c] : S(1);
            constexpr int pack_pixels = channels_last ? 1 : size;
            for (int k = 0; k < tile_rounds; ++k) {
                const int64_t pixel = ((tile * tile_rounds + k) * tiles.lanes + lane_of(thread)) * pack_pixels;
                if (pixel >= p.pixels) break;
                add(sample, channel, pixel, scale, sums);
            }
        }
        UNROLL
        for (int kind = 0; kind < kinds; ++kind) {
            UNROLL
            for (int c = 0; c < channels; ++c) shared.sums[kind][c][thread] = sums[kind][c];
        }
    }

    HOST_DEVICE void add(int64_t sample, int64_t channel, int64_t pixel, const S (&scale)[channels],
                         S (&sums)[kinds][channels]) const {
        using Places = Pack<T, size>;
        const int64_t i = channels_last ? (sample * p.pixels + pixel) * p.channels + channel
                                        : (sample * p.channels + channel) * p.pixels + pixel;
        const Places dy = *reinterpret_cast<const Places*>(tensors.dy + i);
        Places y = {}, x = {}, dx;
        if (tensors.y) y = *reinterpret_cast<const Places*>(tensors.y + i);
        if (tensors.x) x = *reinterpret_cast<const Places*>(tensors.x + i);
        const S* noise = tensors.noise ? tensors.noise + (p.own_noise ? sample * p.pixels : 0) + pixel : nullptr;
        UNROLL
        for (int k = 0; k < size; ++k) {
            const int c = channels_last ? k : 0;
            const S d = op.template apply<1>(S(0), widen(dy.at[k]), widen(y.at[k]));
            narrow(d * scale[c], dx.at[k]);
            sums[0][c] += d * widen(x.at[k]);
            sums[1][c] += d;
            if (noise) sums[2][c] += d * noise[channels_last ? 0 : k];
        }
        *reinterpret_cast<Places*>(tensors.out + i) = dx;
    }

    // Sums of a column in so many parts at most.
    HOST_DEVICE void shorten(int thread, Shared& shared) const {
        if (tiles.lanes <= parts) return;
        const int column = column_of(thread), lane = lane_of(thread);
        if (lane >= parts) return;
        UNROLL
        for (int kind = 0; kind < kinds; ++kind) {
            UNROLL
            for (int c = 0; c < channels; ++c) {
                S sum = 0;
                for (int other = lane; other < tiles.lanes; other += parts) sum += shared.sums[kind][c][thread_of(column, other)];
                shared.sums[kind][c][thread] = sum;
            }
        }
    }

    HOST_DEVICE void write(int64_t sample, int64_t first, int64_t tile, int thread, const Shared& shared) const {
        const int lanes = tiles.lanes < parts ? tiles.lanes : parts;
        for (int i = thread; i < kinds * channels * tiles.columns; i += block_threads) {
            const int kind = i / (channels * tiles.columns), place = i % (channels * tiles.columns);
            const int column = place / channels, c = place % channels;
            const int64_t channel = first * channels + place;
            if (channel >= p.channels) continue;
            S sum = 0;
            for (int lane = 0; lane < lanes; ++lane) sum += shared.sums[kind][c][thread_of(column, lane)];
            tensors.sums[((kind * p.samples + sample) * tiles.tiles + tile) * p.channels + channel] = sum;
        }
    }
};

// Elements of `bytes` that one thread can move at once: neighbours of one kind, from places where packs may stand.
template <class T, class S> int layer_act_pack(const LayerAct& p, int64_t bytes, const LayerActTensors<T, S>& t) {
    bool fits = (p.channels_last ? p.channels : p.pixels) % 4 == 0;
    for (const void* image : {static_cast<const void*>(t.x), static_cast<const void*>(t.y), static_cast<const void*>(t.dy),
                              static_cast<const void*>(t.out)})
        fits = fits && reinterpret_cast<uintptr_t>(image) % (4 * bytes) == 0;
    return fits ? 4 : 1;
}

// Calls run with the kernel for the value, or for the derivatives if `tiles` is given.
template <Act act, int size, class T, class S, class Run>
void with_layer_act(const LayerAct& p, const LayerActTensors<T, S>& tensors, const LayerActTiles* tiles, Run run) {
    const Activation<act, S> op(p.options);
    if (tiles && p.channels_last)
        run(LayerActGradKernel<T, act, true, size>{p, op, tensors, *tiles});
    else if (tiles)
        run(LayerActGradKernel<T, act, false, size>{p, op, tensors, *tiles});
    else if (p.channels_last)
        run(LayerActKernel<T, act, true, size>{p, op, tensors});
    else
        run(LayerActKernel<T, act, false, size>{p, op, tensors});
}

template <class T, class S, class Run>
void with_kernel(const LayerAct& p, int act, int pack, const LayerActTensors<T, S>& tensors, const LayerActTiles* tiles, Run run) {
    const bool bent = Act(act) == Act::lrelu;
    if (pack == 4 && bent) return with_layer_act<Act::lrelu, 4>(p, tensors, tiles, run);
    if (pack == 4) return with_layer_act<Act::linear, 4>(p, tensors, tiles, run);
    if (bent) return with_layer_act<Act::lrelu, 1>(p, tensors, tiles, run);
    with_layer_act<Act::linear, 1>(p, tensors, tiles, run);
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
    static constexpr int reach = taps + up - 1;     // Taps of the filter with zeros for the places of a sample among `up`.
    static bool fits(const Axis& axis) { return axis.up == up && axis.down == down && axis.taps == taps; }
    static constexpr int samples(int outputs) { return ((outputs - 1) * down + reach - 1) / up + 1; }
};

// f(0), f(1), ... f(num - 1), as constants for the compiler to see.
template <class F, int... i> HOST_DEVICE void written_out(std::integer_sequence<int, i...>, F f) {
    (f(std::integral_constant<int, i>()), ...);
}
template <int num, class F> HOST_DEVICE void written_out(F f) { written_out(std::make_integer_sequence<int, num>(), f); }

// upfirdn2d for common filters: a thread makes `width` neighbouring outputs in each of `height` rows, of `lanes` channels.
// It reads what these need of the image row by row, every sample once, and adds it to all of their sums. Neighbouring threads
// read neighbouring places at the same time; what they have in common comes from the cache.
template <class T, class X, class Y, bool channels_last, int lanes> struct StripKernel {
    using S = compute_t<T>;
    static constexpr int phases = 2;
    static constexpr int width = channels_last ? 2 : 4, height = 4;
    static constexpr int samples_x = X::samples(width), samples_y = Y::samples(height);
    static constexpr int neighbours = 16;                       // Threads for one pixel before those for the next, at most.
    static_assert(width * X::down % X::up == 0 && height * Y::down % Y::up == 0, "every strip begins at the same phase");
    static_assert(channels_last || lanes == 1, "channels of a pixel are neighbours in memory");
    struct Shared { S taps[Y::reach * X::reach]; };

    Resample r;
    const T* x;
    const float* f;
    T* y;
    unsigned inner, strips_x, strips_y, outer;                  // Numbers of threads along channels, x, y, channels.
    int phase_x, phase_y;                                       // Of the first output between two samples.

    StripKernel(const Resample& r_, const T* x_, const float* f_, T* y_) : r(r_), x(x_), f(f_), y(y_) {
        const int64_t threads = channels_last ? r.channels / lanes : 1;
        for (inner = 1; inner < neighbours && threads % (2 * inner) == 0;) inner *= 2;
        outer = unsigned(channels_last ? threads / inner : r.channels);
        strips_x = unsigned(divide_up(r.x.out, width));
        strips_y = unsigned(divide_up(r.y.out, height));
        phase_x = floor_mod(-r.x.before, X::up);
        phase_y = floor_mod(-r.y.before, Y::up);
    }

    HOST_DEVICE int64_t threads() const { return r.batch * outer * strips_y * strips_x * inner; }
    int64_t blocks() const { return divide_up(threads(), block_threads); }

    template <int n> HOST_DEVICE void phase(int64_t block, int thread, Shared& shared) const {
        if (n == 0) {
            if (thread >= Y::reach * X::reach) return;
            const int ky = thread / X::reach - phase_y, kx = thread % X::reach - phase_x;
            const bool inside = ky >= 0 && ky < Y::taps && kx >= 0 && kx < X::taps;
            shared.taps[thread] = inside ? S(weight(r, f, ky, kx)) : S(0);
        } else if (block * block_threads + thread < threads()) {
            filter(locate(unsigned(block) * block_threads + thread), shared.taps);
        }
    }

private:
    struct Strip { int64_t batch, channel; int out_x, out_y; };

    // There are less than 2^32 threads, so 32 bits do; divisions by 64 bits take several times as long.
    HOST_DEVICE Strip locate(unsigned rest) const {
        const int first = take(rest, inner), out_x = take(rest, strips_x) * width, out_y = take(rest, strips_y) * height;
        const int channel = (take(rest, outer) * int(inner) + first) * lanes;
        return {int64_t(rest), channel, out_x, out_y};
    }

    HOST_DEVICE void filter(const Strip& strip, const S* taps) const {
        const Strides at = strides(known(), r.y.in, r.x.in), to = strides(known(), r.y.out, r.x.out);
        const int in_x = floor_div(strip.out_x * X::down - r.x.before, X::up);
        const int in_y = floor_div(strip.out_y * Y::down - r.y.before, Y::up);
        const T* source = x + strip.batch * at.batch + strip.channel * at.channel + in_y * at.row + in_x * at.pixel;
        T* target = y + strip.batch * to.batch + strip.channel * to.channel + strip.out_y * to.row + strip.out_x * to.pixel;
        S sums[height][width][lanes] = {};
        written_out<samples_y>([&](auto row) {
            constexpr int v = decltype(row)::value;
            const bool inside = unsigned(in_y + v) < unsigned(r.y.in);
            S samples[samples_x][lanes];
            UNROLL
            for (int u = 0; u < samples_x; ++u)
                read(source + u * at.pixel, inside && unsigned(in_x + u) < unsigned(r.x.in), samples[u]);
            source += at.row;
            written_out<height>([&](auto output) {
                constexpr int o = decltype(output)::value;
                constexpr int ky = v * Y::up - o * Y::down;
                if constexpr (ky >= 0 && ky < Y::reach) add(samples, taps + ky * X::reach, sums[o]);
                if constexpr (v == (o * Y::down + Y::reach - 1) / Y::up) {                  // No later row is part of it.
                    if (strip.out_y + o < r.y.out) write(target, strip.out_x, to.pixel, sums[o]);
                    target += to.row;
                }
            });
        });
    }

    // The problem with its memory format for the compiler to see: then most places are at a fixed distance.
    HOST_DEVICE Resample known() const {
        Resample copy = r;
        copy.channels_last = channels_last;
        return copy;
    }

    HOST_DEVICE static void read(const T* source, bool inside, S (&samples)[lanes]) {
        Pack<T, lanes> pack = {};
        if (inside) pack = *reinterpret_cast<const Pack<T, lanes>*>(source);
        UNROLL
        for (int c = 0; c < lanes; ++c) samples[c] = widen(pack.at[c]);
    }

    HOST_DEVICE static void add(const S (&samples)[samples_x][lanes], const S* taps, S (&sums)[width][lanes]) {
        UNROLL
        for (int p = 0; p < width; ++p) {
            UNROLL
            for (int u = 0; u < samples_x; ++u) {
                const int kx = u * X::up - p * X::down;
                if (kx < 0 || kx >= X::reach) continue;
                UNROLL
                for (int c = 0; c < lanes; ++c) sums[p][c] += taps[kx] * samples[u][c];
            }
        }
    }

    HOST_DEVICE void write(T* target, int out_x, int64_t pixel, const S (&sums)[width][lanes]) const {
        if (!channels_last && r.x.out % width == 0) {           // Then all of them are there, and in their places.
            Pack<T, width> pack;
            UNROLL
            for (int p = 0; p < width; ++p) narrow(sums[p][0], pack.at[p]);
            *reinterpret_cast<Pack<T, width>*>(target) = pack;
            return;
        }
        UNROLL
        for (int p = 0; p < width; ++p) {
            Pack<T, lanes> pack;
            UNROLL
            for (int c = 0; c < lanes; ++c) narrow(sums[p][c], pack.at[c]);
            if (out_x + p < r.x.out) *reinterpret_cast<Pack<T, lanes>*>(target + p * pixel) = pack;
        }
    }
};

// Runs the strip kernel for X and Y if the problem is of that kind: float64 and channels that do not come in fours are rare.
template <class X, class Y, class T, class Run>
bool with_strip_kernel(const Resample& r, const T* x, const float* f, T* y, Run run) {
    if constexpr (sizeof(T) <= sizeof(float)) {
        if (!X::fits(r.x) || !Y::fits(r.y) || !can_pack<4>(y)) return false;
        if (!r.channels_last) {
            run(StripKernel<T, X, Y, false, 1>(r, x, f, y));
            return true;
        }
        if constexpr (X::taps == Y::taps) {
            if (r.channels % 4 == 0 && can_pack<4>(x)) {
                run(StripKernel<T, X, Y, true, 4>(r, x, f, y));
                return true;
            }
        }
    }
    return false;
}

template <class T, class Run> void with_kernel(const Resample& r, const T* x, const float* f, T* y, Run run) {
    using None = Fixed<1, 1, 1>;
    // The networks' [1, 3, 3, 1]: plain, up, down.
    if (with_strip_kernel<Fixed<1, 1, 4>, Fixed<1, 1, 4>>(r, x, f, y, run)) return;
    if (with_strip_kernel<Fixed<2, 1, 4>, Fixed<2, 1, 4>>(r, x, f, y, run)) return;
    if (with_strip_kernel<Fixed<1, 2, 4>, Fixed<1, 2, 4>>(r, x, f, y, run)) return;
    // The augmentation's wavelet with 12 taps, one axis at a time, on contiguous images: up, down.
    if (with_strip_kernel<Fixed<2, 1, 12>, None>(r, x, f, y, run)) return;
    if (with_strip_kernel<None, Fixed<2, 1, 12>>(r, x, f, y, run)) return;
    if (with_strip_kernel<Fixed<1, 2, 12>, None>(r, x, f, y, run)) return;
    if (with_strip_kernel<None, Fixed<1, 2, 12>>(r, x, f, y, run)) return;
    run(GatherKernel<T>{r, x, f, y});
}

}  // namespace zoo
