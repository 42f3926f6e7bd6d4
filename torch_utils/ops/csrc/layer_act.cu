// layer_act on CUDA.
#include "cuda_launch.cuh"

const char* zoo::launch_layer_act(Type type, const LayerAct& p, int act, int pack, const LayerActTensors<void, void>& tensors,
                                  const LayerActTiles* tiles, void* stream) {
    return with_type(type, [&](auto value) {
        using T = decltype(value);
        using S = compute_t<T>;
        const auto image = [](const void* pointer) { return static_cast<const T*>(pointer); };
        const auto other = [](const void* pointer) { return static_cast<const S*>(pointer); };
        const LayerActTensors<T, S> typed{
            image(tensors.x), image(tensors.y), image(tensors.dy), other(tensors.scale), other(tensors.noise),
            other(tensors.strength), other(tensors.b), static_cast<T*>(tensors.out), static_cast<S*>(tensors.sums)};
        const char* error = nullptr;
        with_kernel(p, act, pack, typed, tiles, [&](const auto& kernel) { error = launch(kernel, stream); });
        return error;
    });
}
