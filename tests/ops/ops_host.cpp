// Runs the bodies of the CUDA kernels on the host. Called through ctypes.
#include "host_run.h"

namespace {

template <class T> void run_bias_act(int order, const zoo::BiasAct& p, int act, const void* q, const void* dy, const void* ref,
                                     const void* b, void* out) {
    const auto in = [](const void* pointer) { return static_cast<const T*>(pointer); };
    zoo::with_kernel(order, p, act, zoo::BiasActTensors<T>{in(q), in(dy), in(ref), in(b), static_cast<T*>(out)},
                     [](const auto& kernel) { run(kernel); });
}

// `general`: the kernel for any filter even where there is a special one. Returns whether there is a special one.
template <class T> bool run_upfirdn2d(const zoo::Resample& r, const void* x, const float* f, void* y, const void* base, bool general) {
    bool special = false;
    zoo::with_kernel(r, static_cast<const T*>(x), f, static_cast<T*>(y), static_cast<const T*>(base), [&](const auto& kernel) {
        special = kernel.phases == 2;
        if (!general) run(kernel);
    });
    if (general) run(zoo::GatherKernel<T>{r, static_cast<const T*>(x), f, static_cast<T*>(y), static_cast<const T*>(base)});
    return special;
}

// images: x, y, dy, base, q; others: scale, noise, strength, b, r; results: out, out_x, sums.
template <class T>
zoo::LayerActTensors<T, zoo::compute_t<T>> typed(const void* const* images, const void* const* others, void* const* results) {
    using S = zoo::compute_t<T>;
    const auto image = [&](int i) { return static_cast<const T*>(images[i]); };
    const auto other = [&](int i) { return static_cast<const S*>(others[i]); };
    return {image(0), image(1), image(2), image(3), image(4), other(0), other(1), other(2), other(3), other(4),
            static_cast<T*>(results[0]), static_cast<T*>(results[1]), static_cast<S*>(results[2])};
}

// Returns the number of tiles; of derivatives without `sums` only that.
template <class T> int64_t run_layer_act(int order, const zoo::LayerAct& p, int act, const void* const* images,
                                         const void* const* others, void* const* results) {
    const auto tensors = typed<T>(images, others, results);
    const int pack = zoo::layer_act_pack(p, sizeof(T), tensors);
    const zoo::Tiles tiles = zoo::layer_act_tiles(p, pack);
    if (order == 0 || tensors.sums)
        zoo::with_kernel(order, p, act, pack, tensors, order ? &tiles : nullptr, [](const auto& kernel) { run(kernel); });
    return tiles.tiles;
}

// The activation after the filter (kind 0), before it (1), or the derivatives of that (2). Returns whether there is a kernel.
template <class T> bool run_joint(const zoo::Resample& r, const zoo::LayerAct& p, int act, const float* f, const void* const* images,
                                  const void* const* others, void* const* results, int kind) {
    const auto tensors = typed<T>(images, others, results);
    const auto start = [](const auto& kernel) { run(kernel); };
    const auto op = zoo::as_lrelu<zoo::compute_t<T>>(p.options, act);
    if (kind == 0) return zoo::with_joint_kernel(r, tensors.x, f, tensors.out, zoo::finished<T>(p, act, tensors), start);
    if (kind == 1) return zoo::with_joint_kernel(r, tensors.x, f, tensors.out, zoo::Activated<T>{tensors.b, op}, start);
    const zoo::Sloped<T> parts{tensors.x, tensors.b, op};
    return zoo::with_slope_kernel(r, tensors.dy, f, tensors.out, parts, tensors.sums, start);
}

zoo::Resample resample(const int* axes, int64_t batch, int64_t channels, bool channels_last, bool flip_filter, float gain) {
    zoo::Resample r{{}, {}, batch, channels, channels_last, flip_filter, gain};
    memcpy(&r.x, axes, sizeof(r.x));
    memcpy(&r.y, axes + 6, sizeof(r.y));
    return r;
}

zoo::LayerAct layer(const int64_t* sizes, bool channels_last, bool own_noise, const double* numbers) {
    const zoo::BiasAct options{sizes[0] * sizes[1] * sizes[2], 1, 1, numbers[0], numbers[1], numbers[2]};
    return {sizes[0], sizes[1], sizes[2], channels_last, own_noise, options};
}

}  // namespace

// Types: 0 float32, 1 float64, 2 bfloat16, 3 float16.

extern "C" void host_bias_act(int type, int order, const int64_t* sizes, const double* numbers, int act, const void* q,
                              const void* dy, const void* ref, const void* b, void* out) {
    const zoo::BiasAct p{sizes[0], sizes[1], sizes[2], numbers[0], numbers[1], numbers[2]};
    if (type == 0) run_bias_act<float>(order, p, act, q, dy, ref, b, out);
    if (type == 1) run_bias_act<double>(order, p, act, q, dy, ref, b, out);
    if (type == 2) run_bias_act<zoo::BFloat16>(order, p, act, q, dy, ref, b, out);
    if (type == 3) run_bias_act<zoo::Half>(order, p, act, q, dy, ref, b, out);
}

// axes: up, down, before, in, out, taps for x, then for y.
extern "C" bool host_upfirdn2d(int type, const int* axes, int64_t batch, int64_t channels, bool channels_last, bool flip_filter,
                               float gain, const void* x, const float* f, void* y, const void* base, bool general) {
    const zoo::Resample r = resample(axes, batch, channels, channels_last, flip_filter, gain);
    if (type == 0) return run_upfirdn2d<float>(r, x, f, y, base, general);
    if (type == 1) return run_upfirdn2d<double>(r, x, f, y, base, general);
    if (type == 2) return run_upfirdn2d<zoo::BFloat16>(r, x, f, y, base, general);
    return run_upfirdn2d<zoo::Half>(r, x, f, y, base, general);
}

// The conversions of float16 and bfloat16 that have no test elsewhere.
extern "C" void host_convert(bool bfloat16, const float* from, uint16_t* narrowed, float* widened, int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
        zoo::BFloat16 b;
        zoo::Half h;
        zoo::narrow(from[i], b);
        zoo::narrow(from[i], h);
        narrowed[i] = bfloat16 ? b.bits : h.bits;
        widened[i] = bfloat16 ? zoo::widen(b) : zoo::widen(h);
    }
}

// sizes: samples, channels, pixels; numbers: alpha, gain, clamp.
extern "C" int64_t host_layer_act(int type, int order, const int64_t* sizes, bool channels_last, bool own_noise, const double* numbers,
                                  int act, const void* const* images, const void* const* others, void* const* results) {
    const zoo::LayerAct p = layer(sizes, channels_last, own_noise, numbers);
    if (type == 0) return run_layer_act<float>(order, p, act, images, others, results);
    if (type == 1) return run_layer_act<double>(order, p, act, images, others, results);
    if (type == 2) return run_layer_act<zoo::BFloat16>(order, p, act, images, others, results);
    return run_layer_act<zoo::Half>(order, p, act, images, others, results);
}

// How many tiles the sums of kind 2 have.
extern "C" int64_t host_slope_tiles(const int* axes, int64_t batch, int64_t channels, bool channels_last) {
    return zoo::slope_tiles(resample(axes, batch, channels, channels_last, false, 1)).tiles;
}

// sizes are those of the activation.
extern "C" bool host_joint(int type, int kind, const int* axes, const int64_t* sizes, bool channels_last, bool own_noise,
                           bool flip_filter, float filter_gain, const double* numbers, int act, const float* f,
                           const void* const* images, const void* const* others, void* const* results) {
    const zoo::Resample r = resample(axes, sizes[0], sizes[1], channels_last, flip_filter, filter_gain);
    const zoo::LayerAct p = layer(sizes, channels_last, own_noise, numbers);
    if (type == 0) return run_joint<float>(r, p, act, f, images, others, results, kind);
    if (type == 1) return run_joint<double>(r, p, act, f, images, others, results, kind);
    if (type == 2) return run_joint<zoo::BFloat16>(r, p, act, f, images, others, results, kind);
    return run_joint<zoo::Half>(r, p, act, f, images, others, results, kind);
}
