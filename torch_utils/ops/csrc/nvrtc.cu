// All kernels, each under a name of its own; compiled by NVRTC where there is no nvcc.
#include "cuda_block.cuh"

#define KERNEL(name, ...) \
    extern "C" __global__ void __launch_bounds__(block_threads, LeastBlocks<__VA_ARGS__>::value) \
    name(const __VA_ARGS__ kernel) { run_block(kernel); }
#define OFFSET(field, ...) __INTADDR__(&static_cast<__VA_ARGS__*>(nullptr)->field)     // offsetof, which NVRTC has not.

namespace zoo {
#include "kernels.inc"          // From kernels.py.
}  // namespace zoo
