// What the bodies of the CUDA kernels have in common.
#pragma once

#include "portable.h"

namespace zoo {

constexpr int block_threads = 256;

// How many blocks a kernel wants at a time on a multiprocessor; 0: whatever the compiler thinks.
template <class Kernel, class = void> struct LeastBlocks { static constexpr int value = 0; };
template <class Kernel> struct LeastBlocks<Kernel, decltype(void(Kernel::least_blocks))> {
    static constexpr int value = Kernel::least_blocks;
};

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

// How threads of a block share channels and pixels where they add up over the pixels: along channels, and along pixels.
struct Tiles {
    int columns, lanes;             // Of a block of threads; their product is its size.
    int64_t tiles, column_blocks;   // Of a sample: along pixels, along channels.
};

// For `columns` of a sample, at most `most` of them in a block, each with `steps` for a thread, of which it takes so many. Threads
// for one column are not more than there is to do, unless neighbours in memory are columns.
inline Tiles tiles_of(int64_t columns, int64_t steps, bool neighbours_are_columns, int rounds) {
    const int64_t most = neighbours_are_columns ? 16 : block_threads;
    Tiles t{1, block_threads, 0, 0};
    while (t.columns < most && t.columns < columns && (neighbours_are_columns || t.lanes / 2 >= steps)) t.columns *= 2, t.lanes /= 2;
    t.tiles = divide_up(steps, int64_t(t.lanes) * rounds);
    t.column_blocks = divide_up(columns, t.columns);
    return t;
}

// The sums of a block's threads, of several kinds, and of `channels` of a column each.
template <class S, int kinds, int channels, bool neighbours_are_columns> struct BlockSums {
    static constexpr int parts = 16;
    using Shared = S[kinds][channels][block_threads];

    Tiles tiles;

    // Neighbouring threads do neighbours in memory.
    HOST_DEVICE int column_of(int thread) const { return neighbours_are_columns ? thread % tiles.columns : thread / tiles.lanes; }
    HOST_DEVICE int lane_of(int thread) const { return neighbours_are_columns ? thread / tiles.columns : thread % tiles.lanes; }
    HOST_DEVICE int thread_of(int column, int lane) const {
        return neighbours_are_columns ? lane * tiles.columns + column : column * tiles.lanes + lane;
    }

    HOST_DEVICE void keep(int thread, const S (&sums)[kinds][channels], Shared& shared) const {
        UNROLL
        for (int kind = 0; kind < kinds; ++kind) {
            UNROLL
            for (int c = 0; c < channels; ++c) shared[kind][c][thread] = sums[kind][c];
        }
    }

    // Sums of a column in so many parts at most.
    HOST_DEVICE void shorten(int thread, Shared& shared) const {
        if (tiles.lanes <= parts) return;
        const int column = column_of(thread), lane = lane_of(thread);
        if (lane >= parts) return;
        S sums[kinds][channels] = {};
        for (int other = lane; other < tiles.lanes; other += parts) {      // Loads of all sums are on their way together.
            UNROLL
            for (int kind = 0; kind < kinds; ++kind) {
                UNROLL
                for (int c = 0; c < channels; ++c) sums[kind][c] += shared[kind][c][thread_of(column, other)];
            }
        }
        keep(thread, sums, shared);
    }

    // write(kind, channel counted from the block's first, sum)
    template <class Write> HOST_DEVICE void write(int thread, const Shared& shared, Write write) const {
        const int lanes = tiles.lanes < parts ? tiles.lanes : parts;
        for (int i = thread; i < kinds * channels * tiles.columns; i += block_threads) {
            const int kind = i / (channels * tiles.columns), place = i % (channels * tiles.columns);
            S sum = 0;
            for (int lane = 0; lane < lanes; ++lane) sum += shared[kind][place % channels][thread_of(place / channels, lane)];
            write(kind, place, sum);
        }
    }
};

}  // namespace zoo
