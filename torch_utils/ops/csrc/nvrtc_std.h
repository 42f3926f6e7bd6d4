// What the kernels need of C++'s own headers, for NVRTC, which has none; it stands for all of them.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;
#define INT32_MAX 2147483647

namespace std {

template <class T, T number> struct integral_constant {
    static constexpr T value = number;
    constexpr operator T() const { return number; }
};

template <class T, T... numbers> struct integer_sequence {};
template <int count, int... numbers> struct Counted : Counted<count - 1, count - 1, numbers...> {};
template <int... numbers> struct Counted<0, numbers...> { using type = integer_sequence<int, numbers...>; };
template <class T, int count> using make_integer_sequence = typename Counted<count>::type;

}  // namespace std
