// upfirdn2d on CUDA.
#include "cuda_launch.cuh"

const char* zoo::launch_upfirdn2d(Type type, const Resample& r, const void* x, const float* f, void* y, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        const char* error = nullptr;
        with_kernel(r, static_cast<const T*>(x), f, static_cast<T*>(y), [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}
