// Starting the CUDA kernels: what bindings_cuda.cpp, which knows torch, and the .cu files, which do not, share.
#pragma once

#include "bias_act.h"
#include "layer_act.h"
#include "upfirdn2d.h"

namespace zoo {

enum class Type { float32, float64, bfloat16, float16 };

// All return null, or what CUDA has to complain of. `stream` is a cudaStream_t.
const char* launch_bias_act(
    Type type, int order, const BiasAct& p, int act, const BiasActTensors<void>& tensors, void* stream);
const char* launch_upfirdn2d(Type type, const Resample& r, const void* x, const float* f, void* y, void* stream);


// `pack`: elements that are moved at once. `tiles` for the derivatives, null for the value.
const char* launch_layer_act(Type type, const LayerAct& p, int act, int pack, const LayerActTensors<void, void>& tensors,
                             const LayerActTiles* tiles, void* stream);

}  // namespace zoo
