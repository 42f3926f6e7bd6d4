// A CUDA driver that has no GPU: it runs the bodies of the kernels on the host, block by block and thread by thread, having
// compared kernel, arguments and number of blocks with those that the compiled binding would start.
#include "host_run.h"

#include <cstddef>
#include <map>
#include <string>
#include <type_traits>

namespace {

constexpr int not_found = 500, wrong_argument = 1, wrong_kernel = 2, wrong_blocks = 3, wrong_grid = 4;

// What the compiled binding chooses for the problem that a kernel was given.

template <class T, int order, zoo::Act act, class F> void choose(const zoo::BiasActKernel<T, order, act>& k, F f) {
    zoo::with_kernel<T>(order, k.p, int(act), k.tensors, f);
}
template <class T, class F> void choose(const zoo::GatherKernel<T>& k, F f) { zoo::with_kernel(k.r, k.x, k.f, k.y, k.base, f); }
template <class T, class X, class Y, bool last, int lanes, class Parts, class F>
void choose(const zoo::StripKernel<T, X, Y, last, lanes, Parts>& k, F f) {
    if constexpr (std::is_same_v<Parts, zoo::Alone<T>>)
        zoo::with_kernel(k.r, k.x, k.f, k.y, k.parts.base, f);
    else
        zoo::with_joint_kernel(k.r, k.x, k.f, k.y, k.parts, f);
}
template <class T, zoo::Act act, bool last, int size, class F> void choose(const zoo::LayerActKernel<T, act, last, size>& k, F f) {
    zoo::with_kernel(0, k.p, int(act), zoo::layer_act_pack(k.p, sizeof(T), k.tensors), k.tensors, nullptr, f);
}
template <class T, zoo::Act act, bool last, int size, int order, class F>
void choose(const zoo::LayerActGradKernel<T, act, last, size, order>& k, F f) {
    const int pack = zoo::layer_act_pack(k.p, sizeof(T), k.tensors);
    const zoo::Tiles tiles = zoo::layer_act_tiles(k.p, pack);
    zoo::with_kernel(order, k.p, int(act), pack, k.tensors, &tiles, f);
}

template <class T, bool last, int lanes, class F> void choose(const zoo::SlopeKernel<T, last, lanes>& k, F f) {
    zoo::with_slope_kernel(k.strips.r, k.strips.x, k.strips.f, k.strips.y, k.strips.parts, k.out, f);
}

// Bytes between fields are not compared.
template <class Kernel> auto pad(Kernel& k) -> decltype(k.r, void()) {
    memset(reinterpret_cast<char*>(&k.r.flip_filter) + 1, 0, offsetof(zoo::Resample, gain) - offsetof(zoo::Resample, flip_filter) - 1);
}
template <class Kernel> auto pad(Kernel& k) -> decltype(k.strips, void()) { pad(k.strips); }
template <class Kernel> auto pad(Kernel& k) -> decltype(k.p.own_noise, void()) {
    memset(reinterpret_cast<char*>(&k.p.own_noise) + 1, 0, offsetof(zoo::LayerAct, options) - offsetof(zoo::LayerAct, own_noise) - 1);
}
template <class Kernel> auto pad(Kernel& k) -> decltype(k.p.inner, void()) {}

template <class Kernel> int start(const void* argument, unsigned blocks) {
    Kernel kernel = *static_cast<const Kernel*>(argument);
    int error = wrong_kernel;
    choose(kernel, [&](auto chosen) {
        if constexpr (std::is_same_v<decltype(chosen), Kernel>) {
            pad(kernel), pad(chosen);
            error = memcmp(&kernel, &chosen, sizeof(kernel)) ? wrong_argument : blocks != chosen.blocks() ? wrong_blocks : 0;
        }
    });
    if (!error) run(kernel);
    return error;
}

using Start = int (*)(const void*, unsigned);
std::map<std::string, Start>& kernels() {
    static std::map<std::string, Start> all;
    return all;
}

}  // namespace

#define KERNEL(name, ...) const bool has_##name = (kernels()[#name] = start<__VA_ARGS__>, true);
#define OFFSET(field, ...) __builtin_offsetof(__VA_ARGS__, field)

namespace zoo {
#include "kernels.inc"
}  // namespace zoo

extern "C" {

int launches = 0, contexts = 0;
bool thread_has_context = true;

int cuModuleLoadData(void** module, const void* image) {
    *module = const_cast<void*>(image);
    return memcmp(image, "\x7f" "ELF", 4) ? 209 : 0;
}

int cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return not_found;
    *function = &found->second;
    return 0;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                   unsigned shared, void* stream, void** arguments, void** extra) {
    if (!thread_has_context) return 201;
    const bool is_plain = y == 1 && z == 1 && threads_y == 1 && threads_z == 1 && shared == 0 && extra == nullptr;
    if (!is_plain || threads != zoo::block_threads || stream != reinterpret_cast<void*>(7)) return wrong_grid;
    ++launches;
    return (*static_cast<Start*>(function))(arguments[0], x);
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = reinterpret_cast<void*>(intptr_t(device + 100));
    return 0;
}

int cuCtxSetCurrent(void* context) {
    thread_has_context = context == reinterpret_cast<void*>(103);
    ++contexts;
    return 0;
}

int cuGetErrorString(int error, const char** text) {
    *text = error == not_found ? "named symbol not found" : error == wrong_argument ? "another argument"
            : error == wrong_kernel ? "another kernel" : error == wrong_blocks ? "another number of blocks"
            : error == 209 ? "no kernel image is available for execution on the device" : "another grid";
    return 0;
}

}
