// Runs the body of a CUDA kernel on the host: blocks, phases and threads as loops.
#pragma once

#include "cuda_kernels.h"

#include <vector>

template <class Kernel> void run(const Kernel& kernel) {
    // Fresh for every block and full of what is not a number, so that whatever a kernel forgets to load shows.
    std::vector<unsigned char> memory(sizeof(typename Kernel::Shared));
    for (int64_t block = 0; block < kernel.blocks(); ++block) {
        memset(memory.data(), 0xff, memory.size());
        auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory.data());
        for (int thread = 0; thread < zoo::block_threads; ++thread) kernel.template phase<0>(block, thread, shared);
        if constexpr (Kernel::phases >= 2)
            for (int thread = 0; thread < zoo::block_threads; ++thread) kernel.template phase<1>(block, thread, shared);
        if constexpr (Kernel::phases >= 3)
            for (int thread = 0; thread < zoo::block_threads; ++thread) kernel.template phase<2>(block, thread, shared);
        if constexpr (Kernel::phases >= 4)
            for (int thread = 0; thread < zoo::block_threads; ++thread) kernel.template phase<3>(block, thread, shared);
    }
}
