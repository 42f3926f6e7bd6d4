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
template <class T> bool run_upfirdn2d(const zoo::Resample& r, const void* x, const float* f, void* y, bool general) {
    bool special = false;
    zoo::with_kernel(r, static_cast<const T*>(x), f, static_cast<T*>(y), [&](const auto& kernel) {
        special = kernel.phases == 2;
        if (!general) run(kernel);
    });
    if (general) run(zoo::GatherKernel<T>{r, static_cast<const T*>(x), f, static_cast<T*>(y)});
    return special;
}

// images: x, y, dy; others: scale, noise, strength, b. Returns the number of tiles; without `sums` only that.
template <class T> int64_t run_layer_act(const zoo::LayerAct& p, int act, const void* const* images, const void* const* others,
                                         void* out, void* sums, bool derivatives) {
    using S = zoo::compute_t<T>;
    const auto image = [&](int i) { return static_cast<const T*>(images[i]); };
    const auto other = [&](int i) { return static_cast<const S*>(others[i]); };
    const zoo::LayerActTensors<T, S> tensors{image(0), image(1), image(2), other(0), other(1), other(2), other(3),
                                             static_cast<T*>(out), static_cast<S*>(sums)};
    const int pack = zoo::layer_act_pack(p, sizeof(T), tensors);
    const zoo::LayerActTiles tiles = zoo::layer_act_tiles(p, pack);
    if (!derivatives || sums)
        zoo::with_kernel(p, act, pack, tensors, derivatives ? &tiles : nullptr, [](const auto& kernel) { run(kernel); });
    return tiles.tiles;
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
extern "C" bool host_upfirdn2d(int type, const int* axes, int64_t batch, int64_t channels, bool channels_last,
                               bool flip_filter, float gain, const void* x, const float* f, void* y, bool general) {
    zoo::Resample r{{}, {}, batch, channels, channels_last, flip_filter, gain};
    memcpy(&r.x, axes, sizeof(r.x));
    memcpy(&r.y, axes + 6, sizeof(r.y));
    if (type == 0) return run_upfirdn2d<float>(r, x, f, y, general);
    if (type == 1) return run_upfirdn2d<double>(r, x, f, y, general);
    if (type == 2) return run_upfirdn2d<zoo::BFloat16>(r, x, f, y, general);
    return run_upfirdn2d<zoo::Half>(r, x, f, y, general);
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
extern "C" int64_t host_layer_act(int type, const int64_t* sizes, bool channels_last, bool own_noise, const double* numbers, int act,
                                  const void* const* images, const void* const* others, void* out, void* sums, bool derivatives) {
    const zoo::BiasAct options{sizes[0] * sizes[1] * sizes[2], 1, 1, numbers[0], numbers[1], numbers[2]};
    const zoo::LayerAct p{sizes[0], sizes[1], sizes[2], channels_last, own_noise, options};
    if (type == 0) return run_layer_act<float>(p, act, images, others, out, sums, derivatives);
    if (type == 1) return run_layer_act<double>(p, act, images, others, out, sums, derivatives);
    if (type == 2) return run_layer_act<zoo::BFloat16>(p, act, images, others, out, sums, derivatives);
    return run_layer_act<zoo::Half>(p, act, images, others, out, sums, derivatives);
}
