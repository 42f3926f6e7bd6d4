// bias_act on CUDA.
#include "cuda_launch.cuh"

const char* zoo::launch_bias_act(
        Type type, int order, const BiasAct& p, int act, const BiasActTensors<void>& tensors, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        const auto in = [](const void* pointer) { return static_cast<const T*>(pointer); };
        const BiasActTensors<T> typed{in(tensors.q), in(tensors.dy), in(tensors.ref), in(tensors.b), static_cast<T*>(tensors.out)};
        const char* error = nullptr;
        with_kernel(order, p, act, typed, [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}
