// Products of a few rows with a large matrix, y[T,O] = x[T,I] w[O,I]^T, at the speed at which memory gives the weights: every weight is read once, in the order
// in which it lies, and multiplied with all rows while it is in a register. A row's sums are always taken in the same order, so a row's result depends neither
// on the other rows nor on the number of threads.
//
// Compiled on the machine that runs it (native.py), for its processor. No Python, no torch: plain memory in, plain memory out.

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, OUTPUTS = 4;
#else
constexpr int LANES = 8, OUTPUTS = 2;
#endif
constexpr int MOST_ROWS = 4;  // OUTPUTS x MOST_ROWS running sums fit into the registers

using Floats = float __attribute__((vector_size(4 * LANES)));
using Bits = uint32_t __attribute__((vector_size(4 * LANES)));
using Halves = uint16_t __attribute__((vector_size(2 * LANES)));

template <class Vector>
inline Vector read(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

struct Float32 {
    using Number = float;
    using Vector = Floats;
    static constexpr int STEP = LANES;
    static Vector load(const Number* from) { return read<Vector>(from); }
    static Floats add(Floats sums, Vector w, Vector x) { return sums + w * x; }
    static float widen(Number number) { return number; }
    static Number narrow(float number) { return number; }
};

struct BFloat16 {
    using Number = uint16_t;
#ifdef __AVX512BF16__
    using Vector = __m512bh;
    static constexpr int STEP = 2 * LANES;
    static Vector load(const Number* from) { return read<Vector>(from); }
    static Floats add(Floats sums, Vector w, Vector x) { return (Floats)_mm512_dpbf16_ps((__m512)sums, w, x); }
#else
    using Vector = Floats;
    static constexpr int STEP = LANES;
    static Vector load(const Number* from) { return (Vector)(__builtin_convertvector(read<Halves>(from), Bits) << 16); }
    static Floats add(Floats sums, Vector w, Vector x) { return sums + w * x; }
#endif
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

inline float total(Floats sums) {
    float lanes[LANES];
    std::memcpy(lanes, &sums, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// ROWS rows with WIDE outputs.
template <class Type, int ROWS, int WIDE>
void tile(const typename Type::Number* x, const typename Type::Number* w, typename Type::Number* y, long inputs, long outputs) {
    Floats sums[WIDE][ROWS] = {};
    long at = 0;
    for (; at + Type::STEP <= inputs; at += Type::STEP) {
        typename Type::Vector rows[ROWS];
        for (int row = 0; row < ROWS; row++) rows[row] = Type::load(x + row * inputs + at);
        for (int out = 0; out < WIDE; out++) {
            const auto* here = w + out * inputs + at;
            const auto weights = Type::load(here);
            __builtin_prefetch(here + WIDE * inputs, 0, 2);  // the same place of the next tile
            for (int row = 0; row < ROWS; row++) sums[out][row] = Type::add(sums[out][row], weights, rows[row]);
        }
    }
    for (int out = 0; out < WIDE; out++)
        for (int row = 0; row < ROWS; row++) {
            float result = total(sums[out][row]);
            for (long rest = at; rest < inputs; rest++) result += Type::widen(w[out * inputs + rest]) * Type::widen(x[row * inputs + rest]);
            y[row * outputs + out] = Type::narrow(result);
        }
}

template <class Type, int WIDE>
void all_rows(const typename Type::Number* x, const typename Type::Number* w, typename Type::Number* y, long rows, long inputs, long outputs) {
    for (; rows >= MOST_ROWS; rows -= MOST_ROWS, x += MOST_ROWS * inputs, y += MOST_ROWS * outputs) tile<Type, MOST_ROWS, WIDE>(x, w, y, inputs, outputs);
    if (rows == 3) tile<Type, 3, WIDE>(x, w, y, inputs, outputs);
    if (rows == 2) tile<Type, 2, WIDE>(x, w, y, inputs, outputs);
    if (rows == 1) tile<Type, 1, WIDE>(x, w, y, inputs, outputs);
}

template <class Type>
void product(const typename Type::Number* x, const typename Type::Number* w, typename Type::Number* y, long rows, long inputs, long outputs, int threads) {
    const long share = (outputs / threads + OUTPUTS) / OUTPUTS * OUTPUTS;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
        const long end = std::min((thread + 1) * share, outputs);
        long out = thread * share;
        for (; out + OUTPUTS <= end; out += OUTPUTS) all_rows<Type, OUTPUTS>(x, w + out * inputs, y + out, rows, inputs, outputs);
        for (; out < end; out++) all_rows<Type, 1>(x, w + out * inputs, y + out, rows, inputs, outputs);
    }
}

}  // namespace

extern "C" {
void product_float32(const float* x, const float* w, float* y, long rows, long inputs, long outputs, int threads) {
    product<Float32>(x, w, y, rows, inputs, outputs, threads);
}
void product_bfloat16(const uint16_t* x, const uint16_t* w, uint16_t* y, long rows, long inputs, long outputs, int threads) {
    product<BFloat16>(x, w, y, rows, inputs, outputs, threads);
}
}
