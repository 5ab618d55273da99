// Products of a few rows with a large matrix, y[T,O] = x[T,I] w[O,I]^T, at the speed at which memory gives the weights: every weight is read once, in the order
// in which it lies, and multiplied with all rows while it is near. Weights are float32, bfloat16, int8 with a scale for each output, or int4; sums are float32. A
// row's sums are always taken in the same order, so a row's result depends neither on the other rows nor on the number of threads.
//
// Compiled on the machine that runs it (native.py), for its processor. No Python, no torch: plain memory in, plain memory out.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "lanes.h"
#include "team.h"

namespace swarm {
namespace {

// OUTPUTS x ROWS running sums fit into the registers.
#ifdef __AVX512F__
constexpr int OUTPUTS = 4;
#else
constexpr int OUTPUTS = 3;
#endif
constexpr int ROWS = 4;

// How weights are multiplied with inputs: widened to float32, both of them,
template <class Weight>
struct Widened {
    using Weights = Weight;
    using Inputs = Float32;
    using Vector = Floats;
    static constexpr int STEP = LANES;
    static Vector weights(const typename Weights::Number* from) { return Weights::load(from); }
    static Vector inputs(const float* from) { return read<Floats>(from); }
    static Floats add(Floats sums, Vector w, Vector x) { return multiply_add(w, x, sums); }
    static float rest(typename Weights::Place w, const float* x, long count, float sum) {
        for (long at = 0; at < count; at++) sum = multiply_add(Weights::widen(w[at]), x[at], sum);
        return sum;
    }
};

template <>
struct Widened<Int4> {
    using Weights = Int4;
    using Inputs = Float32;
    using Vector = Int4::Group;
    static constexpr int STEP = Int4::GROUP;
    static Vector weights(Int4::Place from) { return Int4::load(from); }
    static Vector inputs(const float* from) { return read<Vector>(from); }
    static Floats add(Floats sums, const Vector& w, const Vector& x) {
        for (int part = 0; part < STEP / LANES; part++) sums = multiply_add(w.parts[part], x.parts[part], sums);
        return sums;
    }
    static float rest(Int4::Place, const float*, long, float sum) { return sum; }  // groups are whole
};

// or by an instruction that multiplies pairs of bfloat16, which holds every int8.
#ifdef __AVX512BF16__
inline __m512bh pairs(const uint16_t* from) { return read<__m512bh>(from); }
inline __m512bh pairs(const int8_t* from) { return _mm512_cvtne2ps_pbh((__m512)Int8::load(from + LANES), (__m512)Int8::load(from)); }
inline __m512bh pairs(Int4::Place from) {  // what each of the sixteen numbers stands for, rounded to bfloat16, is looked up
    const Floats steps = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    const auto meanings = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh((__m512)(steps * BFloat16::widen(*from.widths))));
    const __m128i bytes = read<__m128i>(from.bytes), low = _mm_set1_epi8(15);
    const __m256i numbers = _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(bytes, 4), low), _mm_and_si128(bytes, low));
    return (__m512bh)_mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(numbers), meanings);
}

template <class Weight>
struct Pairs {
    using Weights = Weight;
    using Inputs = BFloat16;
    using Vector = __m512bh;
    static constexpr int STEP = 2 * LANES;
    static Vector weights(typename Weights::Place from) { return pairs(from); }
    static Vector inputs(const uint16_t* from) { return pairs(from); }
    static Floats add(Floats sums, Vector w, Vector x) { return (Floats)_mm512_dpbf16_ps((__m512)sums, w, x); }
    static float rest(typename Weights::Place w, const uint16_t* x, long count, float sum) {
        if constexpr (!std::is_same_v<Weights, Int4>)
            for (long at = 0; at < count; at++) sum = multiply_add(Weights::widen(w[at]), Inputs::widen(x[at]), sum);
        return sum;
    }
};
#endif

// `rows` rows of x with the first WIDE outputs of w; `scales` of outputs, none where all are 1.
template <class Way, class Result>
struct Tiles {
    using Input = typename Way::Inputs::Number;
    using Weights = typename Way::Weights::Place;
    using Output = typename Result::Number;

    template <int WIDE>
    static void all_rows(const Input* x, Weights w, const float* scales, Output* y, long rows, long inputs, long outputs) {
        for (; rows >= ROWS; rows -= ROWS, x += ROWS * inputs, y += ROWS * outputs) tile<ROWS, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 3) tile<3, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 2) tile<2, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 1) tile<1, WIDE>(x, w, scales, y, inputs, outputs);
    }

    template <int HIGH, int WIDE>
    static void tile(const Input* x, Weights w, const float* scales, Output* y, long inputs, long outputs) {
        constexpr int LINE = std::max(Way::Weights::LINE, Way::STEP);
        Floats sums[WIDE][HIGH] = {};
        const auto step = [&](long at) {
            typename Way::Vector weights[WIDE];
            for (int out = 0; out < WIDE; out++) weights[out] = Way::weights(w + (out * inputs + at));
            for (int row = 0; row < HIGH; row++) {
                const auto values = Way::inputs(x + row * inputs + at);
                for (int out = 0; out < WIDE; out++) sums[out][row] = Way::add(sums[out][row], weights[out], values);
            }
        };
        long at = 0;
        for (; at + LINE <= inputs; at += LINE) {
            for (int out = 0; out < WIDE; out++) __builtin_prefetch(w + ((out + WIDE) * inputs + at), 0, 2);  // the same place of the next tile
            for (int more = 0; more < LINE; more += Way::STEP) step(at + more);
        }
        for (; at + Way::STEP <= inputs; at += Way::STEP) step(at);
        for (int out = 0; out < WIDE; out++)
            for (int row = 0; row < HIGH; row++) {
                const float result = Way::rest(w + (out * inputs + at), x + (row * inputs + at), inputs - at, total(sums[out][row]));
                y[row * outputs + out] = Result::narrow(scales ? result * scales[out] : result);
            }
    }
};

// For more rows than one tile has, bytes are unpacked once for all of them, a few outputs at a time, so that they stay near.
#ifdef __AVX512BF16__
inline void unpack(const int8_t* from, uint16_t* to, long count) {
    long at = 0;
    for (; at + 2 * LANES <= count; at += 2 * LANES) {
        const auto some = pairs(from + at);
        std::memcpy(to + at, &some, sizeof some);
    }
    for (; at < count; at++) to[at] = BFloat16::narrow(from[at]);
}
#endif
inline void unpack(const int8_t* from, float* to, long count) { std::copy(from, from + count, to); }

template <class Way, class Number>
inline void unpack_groups(Int4::Place from, Number* to, long count) {
    for (long at = 0; at < count; at += Int4::GROUP) {
        const auto group = Way::weights(from + at);
        std::memcpy(to + at, &group, sizeof group);
    }
}
#ifdef __AVX512BF16__
inline void unpack(Int4::Place from, uint16_t* to, long count) { unpack_groups<Pairs<Int4>>(from, to, count); }
#endif
inline void unpack(Int4::Place from, float* to, long count) { unpack_groups<Widened<Int4>>(from, to, count); }

template <class Way>
struct Unpacked {
    using type = void;
};
template <>
struct Unpacked<Widened<Int8>> {
    using type = Widened<Float32>;
};
template <>
struct Unpacked<Widened<Int4>> {
    using type = Widened<Float32>;
};
#ifdef __AVX512BF16__
template <>
struct Unpacked<Pairs<Int8>> {
    using type = Pairs<BFloat16>;
};
template <>
struct Unpacked<Pairs<Int4>> {
    using type = Pairs<BFloat16>;
};
#endif

constexpr long PIECES = 4;  // for each thread: enough that nobody waits long for the last one

template <class Way, class Result>
struct Product {
    using Tile = Tiles<Way, Result>;
    const typename Tile::Input* x;
    typename Tile::Weights w;
    const float* scales;
    typename Tile::Output* y;
    long rows, inputs, outputs, share = 0;

    static void piece(const void* what, long number) {
        const auto& it = *static_cast<const Product*>(what);
        const long end = std::min((number + 1) * it.share, it.outputs);
        long out = number * it.share;
        for (; out + OUTPUTS <= end; out += OUTPUTS) it.template with<OUTPUTS>(out);
        for (; out < end; out++) it.template with<1>(out);
    }

    template <int WIDE>
    void with(long out) const {
        using Wide = typename Unpacked<Way>::type;
        const float* scale = scales ? scales + out : nullptr;
        if constexpr (!std::is_void_v<Wide>)
            if (rows > ROWS) {
                thread_local std::vector<typename Wide::Weights::Number> weights;
                weights.resize(WIDE * inputs);
                unpack(w + out * inputs, weights.data(), WIDE * inputs);
                return Tiles<Wide, Result>::template all_rows<WIDE>(x, weights.data(), scale, y + out, rows, inputs, outputs);
            }
        Tile::template all_rows<WIDE>(x, w + out * inputs, scale, y + out, rows, inputs, outputs);
    }

    void run(int threads) {
        share = (outputs / (PIECES * threads) / OUTPUTS + 1) * OUTPUTS;
        team().run({piece, this}, (outputs + share - 1) / share, threads - 1);
    }
};

// The same numbers in float32, until this thread asks again.
const float* widened(const uint16_t* x, long count) {
    thread_local std::vector<float> wide;
    wide.resize(count);
    std::transform(x, x + count, wide.begin(), BFloat16::widen);
    return wide.data();
}

}  // namespace
}  // namespace swarm

extern "C" {
using namespace swarm;

void product_float32(const float* x, const float* w, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Float32>, Float32>{x, w, nullptr, y, rows, inputs, outputs}.run(threads);
}
void product_bfloat16(const uint16_t* x, const uint16_t* w, uint16_t* y, long rows, long inputs, long outputs, int threads) {
#ifdef __AVX512BF16__
    Product<Pairs<BFloat16>, BFloat16>{x, w, nullptr, y, rows, inputs, outputs}.run(threads);
#else
    Product<Widened<BFloat16>, BFloat16>{widened(x, rows * inputs), w, nullptr, y, rows, inputs, outputs}.run(threads);
#endif
}
void product_int8_float32(const float* x, const int8_t* w, const float* scales, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Int8>, Float32>{x, w, scales, y, rows, inputs, outputs}.run(threads);
}
void product_int8_bfloat16(const uint16_t* x, const int8_t* w, const float* scales, uint16_t* y, long rows, long inputs, long outputs, int threads) {
#ifdef __AVX512BF16__
    Product<Pairs<Int8>, BFloat16>{x, w, scales, y, rows, inputs, outputs}.run(threads);
#else
    Product<Widened<Int8>, BFloat16>{widened(x, rows * inputs), w, scales, y, rows, inputs, outputs}.run(threads);
#endif
}

// `inputs` are whole groups, with a number of `widths` for each.
void product_int4_float32(const float* x, const uint8_t* w, const uint16_t* widths, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Int4>, Float32>{x, {w, widths}, nullptr, y, rows, inputs, outputs}.run(threads);
}
void product_int4_bfloat16(const uint16_t* x, const uint8_t* w, const uint16_t* widths, uint16_t* y, long rows, long inputs, long outputs, int threads) {
#ifdef __AVX512BF16__
    Product<Pairs<Int4>, BFloat16>{x, {w, widths}, nullptr, y, rows, inputs, outputs}.run(threads);
#else
    Product<Widened<Int4>, BFloat16>{widened(x, rows * inputs), {w, widths}, nullptr, y, rows, inputs, outputs}.run(threads);
#endif
}
}
