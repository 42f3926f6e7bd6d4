// How the .cu files start a kernel of cuda_kernels.h.
#pragma once

#include "cuda_block.cuh"
#include "cuda_launch.h"

namespace zoo {

template <class Kernel> __global__ void __launch_bounds__(block_threads) run_kernel(const Kernel kernel) { run_block(kernel); }

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

}  // namespace zoo
