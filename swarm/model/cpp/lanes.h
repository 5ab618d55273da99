// Vectors of a processor, and how numbers lie in memory. Sums are float32 everywhere.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __FMA__
#include <immintrin.h>
#endif

namespace swarm {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
using Halves = uint16_t __attribute__((vector_size(2 * LANES)));
using Bytes = int8_t __attribute__((vector_size(LANES)));
using UnsignedBytes = uint8_t __attribute__((vector_size(LANES)));

template <class Vector>
inline Vector read(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

// sums + w * x, rounded once. (Where GCC takes it for faster on a processor, it multiplies and adds in two steps; that depends on what stands around it, and so
// results would.)
inline Floats multiply_add(Floats w, Floats x, Floats sums) {
#if defined __AVX512F__
    return (Floats)_mm512_fmadd_ps((__m512)w, (__m512)x, (__m512)sums);
#elif defined __FMA__
    return (Floats)_mm256_fmadd_ps((__m256)w, (__m256)x, (__m256)sums);
#else
    return sums + w * x;
#endif
}

inline float multiply_add(float w, float x, float sum) { return __builtin_fmaf(w, x, sum); }

// How numbers lie in memory. `Place` is where some begin, LINE how many of them one line of a cache holds.
struct Float32 {
    using Number = float;
    using Place = const Number*;
    static constexpr int LINE = 16;
    static Floats load(const Number* from) { return read<Floats>(from); }
    static float widen(Number number) { return number; }
    static Number narrow(float number) { return number; }
};

struct BFloat16 {
    using Number = uint16_t;
    using Place = const Number*;
    static constexpr int LINE = 32;
    static Floats load(const Number* from) { return (Floats)(__builtin_convertvector(read<Halves>(from), Ints) << 16); }
    static float widen(Number number) {
        const uint32_t bits = uint32_t(number) << 16;
        float wide;
        std::memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    static Number narrow(float number) {  // to the nearest, ties to even
        uint32_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        if (number != number) return (bits >> 16) | 64;
        return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    }
};

struct Int8 {
    using Number = int8_t;
    using Place = const Number*;
    static constexpr int LINE = 64;
    static Floats load(const Number* from) {
#if defined __AVX512F__
        return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(read<__m128i>(from)));
#elif defined __FMA__ && defined __AVX2__
        return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
        return __builtin_convertvector(__builtin_convertvector(read<Bytes>(from), Ints), Floats);
#endif
    }
    static float widen(Number number) { return number; }
};

// Half a byte each, in groups of 32: byte b of a group holds its numbers b (low) and b + 16 (high), 8 more than how many steps they are. The steps of a group
// are as wide as a number of bfloat16 says, negative or not. A place is the beginning of a group.
struct Int4 {
    static constexpr int GROUP = 32, LINE = 128;

    struct Place {
        const uint8_t* bytes;
        const uint16_t* widths;
        Place operator+(long numbers) const { return {bytes + numbers / 2, widths + numbers / GROUP}; }
        operator const void*() const { return bytes; }
    };

    struct Group {
        Floats parts[GROUP / LANES];
    };

    static Group load(Place from) {
        Group group;
        const float width = BFloat16::widen(*from.widths);
        for (int part = 0; part < GROUP / LANES; part++) {
            const auto bytes = widen(from.bytes + part * LANES % 16);
            group.parts[part] = __builtin_convertvector(((part * LANES < 16 ? bytes : bytes >> 4) & 15) - 8, Floats) * width;
        }
        return group;
    }

    static Ints widen(const uint8_t* from) {
#if defined __AVX512F__
        return (Ints)_mm512_cvtepu8_epi32(read<__m128i>(from));
#elif defined __FMA__ && defined __AVX2__
        return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
#else
        return __builtin_convertvector((UnsignedBytes)read<Bytes>(from), Ints);
#endif
    }
};

// e^x, x at most 0, to about one unit in the last place: 2^n e^r with |r| at most half of ln 2 (Cephes). What is no number stays so.
inline Floats exponential(Floats given) {
    const Floats least = Floats{} - 87.3f;
    const Floats x = given > least ? given : least;
    const Floats magic = Floats{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to whole numbers
    const Floats n = (x * 1.44269504f + magic) - magic;
    const Floats r = multiply_add(n, Floats{} + 2.12194440e-4f, multiply_add(n, Floats{} - 0.693359375f, x));
    Floats sum = Floats{} + 1.9875691500e-4f;
    for (const float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = multiply_add(sum, r, Floats{} + next);
    sum = multiply_add(sum * r, r, r) + 1.0f;
    const Floats power = (Floats)((Ints)sum + (__builtin_convertvector(n, Ints) << 23));
    return given == given ? power : given;
}

// The two halves added lane by lane, and so on: always in this order.
inline float total(Floats sums) {
    float all;
#ifdef __AVX512F__
    all = _mm512_reduce_add_ps((__m512)sums);
#else
    float lanes[LANES];
    std::memcpy(lanes, &sums, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    all = lanes[0];
#endif
    return all;
}

}  // namespace swarm
