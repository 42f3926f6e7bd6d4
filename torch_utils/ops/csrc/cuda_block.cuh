// What a block of threads does of a kernel of cuda_kernels.h.
#pragma once

#include "cuda_kernels.h"

namespace zoo {

template <class Kernel> __device__ __forceinline__ void run_block(const Kernel& kernel) {
    __shared__ typename Kernel::Shared shared;
    kernel.template phase<0>(blockIdx.x, threadIdx.x, shared);
    if constexpr (Kernel::phases >= 2) {
        __syncthreads();
        kernel.template phase<1>(blockIdx.x, threadIdx.x, shared);
    }
    if constexpr (Kernel::phases >= 3) {
        __syncthreads();
        kernel.template phase<2>(blockIdx.x, threadIdx.x, shared);
    }
    if constexpr (Kernel::phases >= 4) {
        __syncthreads();
        kernel.template phase<3>(blockIdx.x, threadIdx.x, shared);
    }
}

}  // namespace zoo
