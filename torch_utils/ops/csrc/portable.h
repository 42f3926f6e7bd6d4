// What the headers that are compiled for both CPU and CUDA need of either: a function marker, a hint that a loop of known
// length be written out, and half-precision storage.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#define HOST_DEVICE inline
#define UNROLL
#endif

namespace zoo {

struct BFloat16 { uint16_t bits; };
struct Half { uint16_t bits; };

// The type in which values of T are added and multiplied.
template <class T> struct Compute { using type = float; };
template <> struct Compute<double> { using type = double; };
template <class T> using compute_t = typename Compute<T>::type;

template <class To, class From> HOST_DEVICE To reinterpret(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

// widen: storage -> compute type.

HOST_DEVICE float widen(float value) { return value; }
HOST_DEVICE double widen(double value) { return value; }
HOST_DEVICE float widen(BFloat16 value) { return reinterpret<float>(uint32_t(value.bits) << 16); }

HOST_DEVICE float widen(Half value) {
#if defined(__CUDA_ARCH__)
    float result;                                               // As in CUDA's headers, which not every compiler has by it.
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
    if (magnitude >= 0x7c00)                                    // Infinite, or not a number.
        return reinterpret<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    const float scale = 5.192296858534828e33f;                  // 2^112 moves the exponent's bias from 15 to 127.
    return reinterpret<float>(sign | reinterpret<uint32_t>(reinterpret<float>(magnitude << 13) * scale));
#endif
}

// narrow: compute type -> storage, rounded to nearest, ties to even.

HOST_DEVICE void narrow(float value, float& to) { to = value; }
HOST_DEVICE void narrow(double value, double& to) { to = value; }

HOST_DEVICE void narrow(float value, BFloat16& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
    const uint32_t bits = reinterpret<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
#endif
}

HOST_DEVICE void narrow(float value, Half& to) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
    const uint32_t bits = reinterpret<uint32_t>(value), magnitude = bits & 0x7fffffff;
    uint32_t result;
    if (magnitude > 0x7f800000) {
        result = 0x7e00;                                        // Not a number.
    } else if (magnitude >= 0x477ff000) {
        result = 0x7c00;                                        // 65520 and more round to infinity.
    } else if (magnitude < 0x38800000) {                        // Below 2^-14: the sum with 0.5 rounds at 2^-24.
        result = reinterpret<uint32_t>(reinterpret<float>(magnitude) + 0.5f) - 0x3f000000;
    } else {
        result = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    to.bits = uint16_t((bits >> 16 & 0x8000) | result);
#endif
}

}  // namespace zoo
