// The bodies of the CUDA kernels of upfirdn2d; cuda_kernels.h says what a kernel is.
#pragma once

#include "cuda_parts.h"
#include "layer_act.h"
#include "upfirdn2d.h"

#include <utility>

namespace zoo {

// upfirdn2d, any factors and any filter: one thread per output element.
template <class T> struct GatherKernel {
    using S = compute_t<T>;
    static constexpr int phases = 1;
    struct Shared {};

    Resample r;
    const T* x;
    const float* f;
    T* y;
    const T* base;                                              // Added to the result, or null.

    HOST_DEVICE int64_t elements() const { return r.batch * r.channels * r.y.out * r.x.out; }
    int64_t blocks() const { return divide_up(elements(), block_threads); }

    template <int> HOST_DEVICE void phase(int64_t block, int thread, Shared&) const {
        int64_t i = block * block_threads + thread;
        if (i >= elements()) return;
        T& out = y[i];
        S sum = base ? S(widen(base[i])) : S(0);
        int64_t c = 0;
        if (r.channels_last) c = i % r.channels, i /= r.channels;
        const int out_x = int(i % r.x.out), out_y = int(i / r.x.out % r.y.out);
        i /= int64_t(r.x.out) * r.y.out;
        if (!r.channels_last) c = i % r.channels, i /= r.channels;
        const Strides at = strides(r, r.y.in, r.x.in);
        const Span rows = span(r.y, out_y), cols = span(r.x, out_x);
        const T* source = x + i * at.batch + c * at.channel + rows.sample * at.row + cols.sample * at.pixel;
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

// What a strip kernel does besides: to samples before they are filtered, and to the sums. `of` is that for the channels of a
// thread; `after` is given `size` neighbours in memory, which are channels of a pixel if there are several `lanes`, else pixels
// of a channel, and where they are: in the result, and of the pixels of their sample.

// Nothing, or adds another image to the result.
template <class T> struct Alone {
    using S = compute_t<T>;
    const T* base;                                              // Null: none.

    bool can_pack() const { return zoo::can_pack<4>(base); }

    template <int lanes> struct Own {
        const T* base;
        HOST_DEVICE void before(S (&)[lanes]) const {}
        template <int size> HOST_DEVICE void after(S (&values)[size], int64_t place, int64_t) const {
            if (!base) return;
            const Pack<T, size> pack = *reinterpret_cast<const Pack<T, size>*>(base + place);
            UNROLL
            for (int k = 0; k < size; ++k) values[k] += S(widen(pack.at[k]));
        }
    };
    template <int lanes> HOST_DEVICE Own<lanes> of(int64_t, int64_t) const { return {base}; }
};

// Bias and activation before the filter; a linear one is lrelu of slope 1.
template <class T> struct Activated {
    using S = compute_t<T>;
    const S* b;                                                 // Null: none.
    Activation<Act::lrelu, S> op;

    bool can_pack() const { return true; }

    template <int lanes> struct Own {
        S b[lanes];
        Activation<Act::lrelu, S> op;
        HOST_DEVICE void before(S (&samples)[lanes]) const {
            UNROLL
            for (int c = 0; c < lanes; ++c) samples[c] = op.template apply<0>(S(0), S(0), samples[c] + b[c]);
        }
        template <int size> HOST_DEVICE void after(S (&)[size], int64_t, int64_t) const {}
    };
    template <int lanes> HOST_DEVICE Own<lanes> of(int64_t, int64_t channel) const {
        Own<lanes> own{{}, op};
        UNROLL
        for (int c = 0; c < lanes; ++c) own.b[c] = b ? b[channel + c] : S(0);
        return own;
    }
};

// What layer_act.h says after the filter.
template <class T> struct Finished {
    using S = compute_t<T>;
    const S *scale, *noise, *strength, *b;                      // Null: none.
    int64_t channels, noise_step;                               // From a sample's noise to the next.
    Activation<Act::lrelu, S> op;

    bool can_pack() const { return true; }

    template <int lanes> struct Own {
        S scale[lanes], b[lanes], strength;
        const S* noise;
        Activation<Act::lrelu, S> op;
        HOST_DEVICE void before(S (&)[lanes]) const {}
        template <int size> HOST_DEVICE void after(S (&values)[size], int64_t, int64_t pixel) const {
            UNROLL
            for (int k = 0; k < size; ++k) {
                const int c = lanes > 1 ? k : 0;
                S t = values[k] * scale[c] + b[c];
                if (noise) t += noise[pixel + (lanes > 1 ? 0 : k)] * strength;
                values[k] = op.template apply<0>(S(0), S(0), t);
            }
        }
    };
    template <int lanes> HOST_DEVICE Own<lanes> of(int64_t sample, int64_t channel) const {
        Own<lanes> own{{}, {}, strength ? *strength : S(1), noise ? noise + sample * noise_step : nullptr, op};
        UNROLL
        for (int c = 0; c < lanes; ++c) {
            own.scale[c] = scale ? scale[sample * channels + channel + c] : S(1);
            own.b[c] = b ? b[channel + c] : S(0);
        }
        return own;
    }
};

// The slope of an activation after the filter, told from what it was applied to; and sums of the results, of each channel.
template <class T> struct Sloped {
    using S = compute_t<T>;
    const T* x;                                                 // Shaped like the result.
    const S* b;                                                 // Null: none.
    Activation<Act::lrelu, S> op;

    bool can_pack() const { return zoo::can_pack<4>(x); }

    template <int lanes> struct Own {
        const T* x;
        const S* b;                                             // Not in registers, of which there are few.
        Activation<Act::lrelu, S> op;
        S sums[lanes];
        HOST_DEVICE void before(S (&)[lanes]) const {}
        template <int size> HOST_DEVICE void after(S (&values)[size], int64_t place, int64_t) {
            const Pack<T, size> pack = *reinterpret_cast<const Pack<T, size>*>(x + place);
            UNROLL
            for (int k = 0; k < size; ++k) {
                const int c = lanes > 1 ? k : 0;
                const S value = op.template apply<0>(S(0), S(0), S(widen(pack.at[k])) + (b ? b[c] : S(0)));
                values[k] = op.template apply<1>(S(0), values[k], value);
                sums[c] += values[k];
            }
        }
    };
    template <int lanes> HOST_DEVICE Own<lanes> of(int64_t, int64_t channel) const {
        return {x, b ? b + channel : nullptr, op, {}};
    }
};

// An activation of layer_act.h as lrelu.
template <class S> Activation<Act::lrelu, S> as_lrelu(BiasAct options, int act) {
    if (Act(act) == Act::linear) options.alpha = 1;
    return Activation<Act::lrelu, S>(options);
}

// upfirdn2d for common filters: a thread makes `width` neighbouring outputs in each of `height` rows, of `lanes` channels.
// It reads what these need of the image row by row, every sample once, and adds it to all of their sums. Neighbouring threads
// read neighbouring places at the same time; what they have in common comes from the cache.
template <class T, class X, class Y, bool channels_last, int lanes, class Parts = Alone<T>> struct StripKernel {
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
    Parts parts;

    StripKernel(const Resample& r_, const T* x_, const float* f_, T* y_, const Parts& parts_)
        : r(r_), x(x_), f(f_), y(y_), parts(parts_) {
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
            const Strip strip = locate(unsigned(block) * block_threads + thread);
            auto own = parts.template of<lanes>(strip.batch, strip.channel);
            filter(strip, shared.taps, own);
        }
    }

    // One of the strips of a channel, or of channels, of a sample.
    template <class Own> HOST_DEVICE void filter_strip(int64_t batch, int64_t channel, unsigned rest, const S* taps, Own& own) const {
        const int out_x = take(rest, strips_x) * width;
        filter({batch, channel, out_x, int(rest) * height}, taps, own);
    }

private:
    struct Strip { int64_t batch, channel; int out_x, out_y; };

    // There are less than 2^32 threads, so 32 bits do; divisions by 64 bits take several times as long.
    HOST_DEVICE Strip locate(unsigned rest) const {
        const int first = take(rest, inner), out_x = take(rest, strips_x) * width, out_y = take(rest, strips_y) * height;
        const int channel = (take(rest, outer) * int(inner) + first) * lanes;
        return {int64_t(rest), channel, out_x, out_y};
    }

    template <class Own> HOST_DEVICE void filter(const Strip& strip, const S* taps, Own& own) const {
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
                read(source + u * at.pixel, inside && unsigned(in_x + u) < unsigned(r.x.in), own, samples[u]);
            source += at.row;
            written_out<height>([&](auto output) {
                constexpr int o = decltype(output)::value;
                constexpr int ky = v * Y::up - o * Y::down;
                if constexpr (ky >= 0 && ky < Y::reach) add(samples, taps + ky * X::reach, sums[o]);
                if constexpr (v == (o * Y::down + Y::reach - 1) / Y::up) {                  // No later row is part of it.
                    if (strip.out_y + o < r.y.out) write(target, strip.out_y + o, strip.out_x, to.pixel, own, sums[o]);
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

    template <class Own> HOST_DEVICE static void read(const T* source, bool inside, const Own& own, S (&samples)[lanes]) {
        Pack<T, lanes> pack = {};
        if (inside) pack = *reinterpret_cast<const Pack<T, lanes>*>(source);
        UNROLL
        for (int c = 0; c < lanes; ++c) samples[c] = widen(pack.at[c]);
        if (inside) own.before(samples);
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

    template <class Own>
    HOST_DEVICE void write(T* target, int out_y, int out_x, int64_t step, Own& own, const S (&sums)[width][lanes]) const {
        const int64_t pixel = int64_t(out_y) * r.x.out + out_x;
        if (!channels_last && r.x.out % width == 0) {           // Then all of them are there, and in their places.
            S values[width];
            UNROLL
            for (int p = 0; p < width; ++p) values[p] = sums[p][0];
            finish(target, pixel, own, values);
            return;
        }
        UNROLL
        for (int p = 0; p < width; ++p) {
            if (out_x + p >= r.x.out) continue;
            S values[lanes];
            UNROLL
            for (int c = 0; c < lanes; ++c) values[c] = sums[p][c];
            finish(target + p * step, pixel + p, own, values);
        }
    }

    template <class Own, int size> HOST_DEVICE void finish(T* target, int64_t pixel, Own& own, S (&values)[size]) const {
        own.after(values, target - y, pixel);
        Pack<T, size> pack;
        UNROLL
        for (int k = 0; k < size; ++k) narrow(values[k], pack.at[k]);
        *reinterpret_cast<Pack<T, size>*>(target) = pack;
    }
};

// Runs the strip kernel for X and Y if the problem is of that kind: float64 and channels that do not come in fours are rare.
template <class X, class Y, class T, class Parts, class Run>
bool with_strip_kernel(const Resample& r, const T* x, const float* f, T* y, const Parts& parts, Run run) {
    if constexpr (sizeof(T) <= sizeof(float)) {
        if (!X::fits(r.x) || !Y::fits(r.y) || !can_pack<4>(y) || !parts.can_pack()) return false;
        if (!r.channels_last) {
            run(StripKernel<T, X, Y, false, 1, Parts>(r, x, f, y, parts));
            return true;
        }
        if constexpr (X::taps == Y::taps) {
            if (r.channels % 4 == 0 && can_pack<4>(x)) {
                run(StripKernel<T, X, Y, true, 4, Parts>(r, x, f, y, parts));
                return true;
            }
        }
    }
    return false;
}

template <class T, class Run> void with_kernel(const Resample& r, const T* x, const float* f, T* y, const T* base, Run run) {
    using None = Fixed<1, 1, 1>;
    const Alone<T> parts{base};
    // The networks' [1, 3, 3, 1]: plain, up, down.
    if (with_strip_kernel<Fixed<1, 1, 4>, Fixed<1, 1, 4>>(r, x, f, y, parts, run)) return;
    if (with_strip_kernel<Fixed<2, 1, 4>, Fixed<2, 1, 4>>(r, x, f, y, parts, run)) return;
    if (with_strip_kernel<Fixed<1, 2, 4>, Fixed<1, 2, 4>>(r, x, f, y, parts, run)) return;
    // The augmentation's wavelet with 12 taps, one axis at a time, on contiguous images: up, down.
    if (with_strip_kernel<Fixed<2, 1, 12>, None>(r, x, f, y, parts, run)) return;
    if (with_strip_kernel<None, Fixed<2, 1, 12>>(r, x, f, y, parts, run)) return;
    if (with_strip_kernel<Fixed<1, 2, 12>, None>(r, x, f, y, parts, run)) return;
    if (with_strip_kernel<None, Fixed<1, 2, 12>>(r, x, f, y, parts, run)) return;
    run(GatherKernel<T>{r, x, f, y, base});
}

// Activation before the networks' filter, or what layer_act does after it. False: there is no kernel for that.
template <class T, class Parts, class Run>
bool with_joint_kernel(const Resample& r, const T* x, const float* f, T* y, const Parts& parts, Run run) {
    return with_strip_kernel<Fixed<1, 1, 4>, Fixed<1, 1, 4>>(r, x, f, y, parts, run);
}

template <class T> Finished<T> finished(const LayerAct& p, int act, const LayerActTensors<T, compute_t<T>>& t) {
    return {t.scale, t.noise, t.strength, t.b, p.channels, p.own_noise ? p.pixels : 0, as_lrelu<compute_t<T>>(p.options, act)};
}

}  // namespace zoo
