// upfirdn2d on CUDA, and the activations that are computed with it.
#include "cuda_launch.cuh"

const char* const zoo::no_kernel = "there is no kernel for that";

const char* zoo::launch_upfirdn2d(Type type, const Resample& r, const void* x, const float* f, void* y, const void* base,
                                  void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        const char* error = nullptr;
        with_kernel(r, static_cast<const T*>(x), f, static_cast<T*>(y), static_cast<const T*>(base),
                    [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}

const char* zoo::launch_act_filter(Type type, const Resample& r, const void* x, const void* b, const BiasAct& options, int act,
                                   const float* f, void* y, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        using S = compute_t<T>;
        const Activated<T> parts{static_cast<const S*>(b), as_lrelu<S>(options, act)};
        const char* error = no_kernel;
        with_joint_kernel(r, static_cast<const T*>(x), f, static_cast<T*>(y), parts,
                          [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}

const char* zoo::launch_act_filter_grad(Type type, const Resample& r, const void* dy, const void* x, const void* b,
                                        const BiasAct& options, int act, const float* f, void* dx, void* sums, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        using S = compute_t<T>;
        const Sloped<T> parts{static_cast<const T*>(x), static_cast<const S*>(b), as_lrelu<S>(options, act)};
        const char* error = no_kernel;
        with_slope_kernel(r, static_cast<const T*>(dy), f, static_cast<T*>(dx), parts, static_cast<S*>(sums),
                          [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}

const char* zoo::launch_filter_layer_act(Type type, const Resample& r, const float* f, const LayerAct& p, int act,
                                         const LayerActTensors<void, void>& tensors, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        const auto typed = tensors_of<T>(tensors);
        const char* error = no_kernel;
        with_joint_kernel(r, typed.x, f, typed.out, finished<T>(p, act, typed),
                          [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}
