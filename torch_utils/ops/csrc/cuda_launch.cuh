// How the .cu files start a kernel of cuda_kernels.h.
#pragma once

#include "cuda_block.cuh"
#include "cuda_launch.h"

namespace zoo {

template <class Kernel>
__global__ void __launch_bounds__(block_threads, LeastBlocks<Kernel>::value) run_kernel(const Kernel kernel) { run_block(kernel); }

template <class Kernel> const char* launch(const Kernel& kernel, void* stream) {
    if (kernel.blocks() > INT32_MAX) return "more blocks than a grid can have";
    run_kernel<<<unsigned(kernel.blocks()), block_threads, 0, static_cast<cudaStream_t>(stream)>>>(kernel);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Returns f(a value of the kernel's type).
template <class F> const char* with_type(Type type, F f) {
    switch (type) {
        case Type::float32: return f(float());
        case Type::float64: return f(double());
        case Type::bfloat16: return f(BFloat16());
        case Type::float16: return f(Half());
    }
    return "unknown type";
}

// The same addresses as those of the types that a kernel for T has.
template <class T> LayerActTensors<T, compute_t<T>> tensors_of(const LayerActTensors<void, void>& t) {
    using S = compute_t<T>;
    const auto image = [](const void* pointer) { return static_cast<const T*>(pointer); };
    const auto other = [](const void* pointer) { return static_cast<const S*>(pointer); };
    return {image(t.x), image(t.y), image(t.dy), image(t.base), image(t.q), other(t.scale), other(t.noise), other(t.strength),
            other(t.b), other(t.r), static_cast<T*>(t.out), static_cast<T*>(t.out_x), static_cast<S*>(t.sums)};
}

}  // namespace zoo
