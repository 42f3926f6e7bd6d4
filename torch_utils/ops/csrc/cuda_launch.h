// Starting the CUDA kernels: what bindings_cuda.cpp, which knows torch, and the .cu files, which do not, share.
#pragma once

#include "bias_act.h"
#include "cuda_parts.h"
#include "layer_act.h"
#include "upfirdn2d.h"

namespace zoo {

enum class Type { float32, float64, bfloat16, float16 };

// All return null, or what CUDA has to complain of. `stream` is a cudaStream_t.
const char* launch_bias_act(
    Type type, int order, const BiasAct& p, int act, const BiasActTensors<void>& tensors, void* stream);
const char* launch_upfirdn2d(
    Type type, const Resample& r, const void* x, const float* f, void* y, const void* base, void* stream);

// These are not null, either, where there is no kernel for the problem: `no_kernel`, and nothing was started.
extern const char* const no_kernel;
const char* launch_act_filter(
    Type type, const Resample& r, const void* x, const void* b, const BiasAct& options, int act, const float* f, void* y, void* stream);
const char* launch_act_filter_grad(
    Type type, const Resample& r, const void* dy, const void* x, const void* b, const BiasAct& options, int act, const float* f, void* dx,
    void* sums, void* stream);
const char* launch_filter_layer_act(
    Type type, const Resample& r, const float* f, const LayerAct& p, int act, const LayerActTensors<void, void>& tensors, void* stream);

// `pack`: elements that are moved at once. `tiles` for derivatives, null for the value (order 0).
const char* launch_layer_act(Type type, int order, const LayerAct& p, int act, int pack, const LayerActTensors<void, void>& tensors,
                             const Tiles* tiles, void* stream);

}  // namespace zoo
