// What the bodies of the CUDA kernels have in common.
#pragma once

#include "portable.h"

namespace zoo {

constexpr int block_threads = 256;

HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// So many neighbours in memory, moved by one instruction.
template <class T, int size> struct alignas(sizeof(T) * size) Pack { T at[size]; };

template <int size, class T> bool can_pack(const T* x) { return reinterpret_cast<uintptr_t>(x) % sizeof(Pack<T, size>) == 0; }

// rest = rest / size; returns the remainder.
HOST_DEVICE int take(unsigned& rest, unsigned size) {
    const unsigned before = rest;
    rest /= size;
    return int(before - rest * size);
}

}  // namespace zoo
