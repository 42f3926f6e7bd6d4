// layer_act on CUDA.
#include "cuda_launch.cuh"

const char* zoo::launch_layer_act(Type type, int order, const LayerAct& p, int act, int pack,
                                  const LayerActTensors<void, void>& tensors, const Tiles* tiles, void* stream) {
    return with_type(type, [&](auto value) {
        const char* error = nullptr;
        with_kernel(order, p, act, pack, tensors_of<decltype(value)>(tensors), tiles,
                    [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}
