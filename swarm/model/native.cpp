// Products of a few rows with a large matrix, y[T,O] = x[T,I] w[O,I]^T, at the speed at which memory gives the weights: every weight is read once, in the order
// in which it lies, and multiplied with all rows while it is near. Weights are float32, bfloat16, or int8 with a scale for each output; sums are float32. A
// row's sums are always taken in the same order, so a row's result depends neither on the other rows nor on the number of threads.
//
// Threads take pieces of the outputs as they come (Team). One that is late, because it slept or another process has its core, delays nobody: the others take
// what it would have taken.
//
// Compiled on the machine that runs it (native.py), for its processor. No Python, no torch: plain memory in, plain memory out.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __FMA__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, OUTPUTS = 4;
#else
constexpr int LANES = 8, OUTPUTS = 3;
#endif
constexpr int ROWS = 4;  // OUTPUTS x ROWS running sums fit into the registers

using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
using Halves = uint16_t __attribute__((vector_size(2 * LANES)));
using Bytes = int8_t __attribute__((vector_size(LANES)));

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

// How numbers lie in memory.
struct Float32 {
    using Number = float;
    static Floats load(const Number* from) { return read<Floats>(from); }
    static float widen(Number number) { return number; }
    static Number narrow(float number) { return number; }
};

struct BFloat16 {
    using Number = uint16_t;
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
};

// or by an instruction that multiplies pairs of bfloat16.
#ifdef __AVX512BF16__
struct Pairs {
    using Weights = BFloat16;
    using Inputs = BFloat16;
    using Vector = __m512bh;
    static constexpr int STEP = 2 * LANES;
    static Vector weights(const uint16_t* from) { return read<Vector>(from); }
    static Vector inputs(const uint16_t* from) { return read<Vector>(from); }
    static Floats add(Floats sums, Vector w, Vector x) { return (Floats)_mm512_dpbf16_ps((__m512)sums, w, x); }
};
#endif

inline float total(Floats sums) {
    float lanes[LANES];
    std::memcpy(lanes, &sums, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// `rows` rows of x with the first WIDE outputs of w; `scales` of outputs, none where all are 1.
template <class Way, class Result>
struct Tiles {
    using Input = typename Way::Inputs::Number;
    using Weight = typename Way::Weights::Number;
    using Output = typename Result::Number;

    template <int WIDE>
    static void all_rows(const Input* x, const Weight* w, const float* scales, Output* y, long rows, long inputs, long outputs) {
        for (; rows >= ROWS; rows -= ROWS, x += ROWS * inputs, y += ROWS * outputs) tile<ROWS, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 3) tile<3, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 2) tile<2, WIDE>(x, w, scales, y, inputs, outputs);
        if (rows == 1) tile<1, WIDE>(x, w, scales, y, inputs, outputs);
    }

    template <int HIGH, int WIDE>
    static void tile(const Input* x, const Weight* w, const float* scales, Output* y, long inputs, long outputs) {
        constexpr int LINE = std::max(64 / int(sizeof(Weight)), Way::STEP);
        Floats sums[WIDE][HIGH] = {};
        const auto step = [&](long at) {
            typename Way::Vector weights[WIDE];
            for (int out = 0; out < WIDE; out++) weights[out] = Way::weights(w + out * inputs + at);
            for (int row = 0; row < HIGH; row++) {
                const auto values = Way::inputs(x + row * inputs + at);
                for (int out = 0; out < WIDE; out++) sums[out][row] = Way::add(sums[out][row], weights[out], values);
            }
        };
        long at = 0;
        for (; at + LINE <= inputs; at += LINE) {
            for (int out = 0; out < WIDE; out++) __builtin_prefetch(w + (out + WIDE) * inputs + at, 0, 2);  // the same place of the next tile
            for (int more = 0; more < LINE; more += Way::STEP) step(at + more);
        }
        for (; at + Way::STEP <= inputs; at += Way::STEP) step(at);
        for (int out = 0; out < WIDE; out++)
            for (int row = 0; row < HIGH; row++) {
                float result = total(sums[out][row]);
                for (long rest = at; rest < inputs; rest++) result += Way::Weights::widen(w[out * inputs + rest]) * Way::Inputs::widen(x[row * inputs + rest]);
                y[row * outputs + out] = Result::narrow(scales ? result * scales[out] : result);
            }
    }
};

// The pieces [0, pieces) of one product: `work(what, piece)` computes one.
struct Job {
    void (*work)(const void* what, long piece);
    const void* what;
};

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Helpers of the one thread that computes. They look out for the next product for a moment, since it usually follows at once, and then sleep.
class Team {
public:
    // Returns when every piece is done. `helpers` threads help at most.
    void run(Job next, uint32_t pieces, int helpers) {
        const std::unique_lock alone(busy, std::try_to_lock);
        if (!alone || helpers < 1 || pieces < 2) {  // some other thread has the helpers: do without
            for (uint32_t piece = 0; piece < pieces; piece++) next.work(next.what, piece);
            return;
        }
        for (; hired < helpers; hired++) std::thread(&Team::help, this, hired).detach();
        wanted.store(helpers, std::memory_order_relaxed);
        job = next;
        done.store(0, std::memory_order_relaxed);
        const uint32_t round = uint32_t(ticket.load(std::memory_order_relaxed) >> 32) + 1;
        ticket.store(uint64_t(round) << 32 | pieces);
        ticket.notify_all();
        take(round);
        for (int spins = 0; done.load(std::memory_order_acquire) != pieces; spins++) spins < 1000 ? pause() : std::this_thread::yield();
    }

private:
    static constexpr std::chrono::microseconds LOOKOUT{50};

    // Do pieces of this round until none is left. A ticket is the round and how many pieces of it nobody has taken yet: whoever lowers the number has the piece,
    // and until that piece is done nobody begins another round, so what it reads of `job` is this round's.
    void take(uint32_t round) {
        uint64_t seen = ticket.load(std::memory_order_acquire);
        while (seen >> 32 == round && uint32_t(seen) > 0) {
            if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
            job.work(job.what, uint32_t(seen) - 1);
            done.fetch_add(1, std::memory_order_release);
            seen = ticket.load(std::memory_order_acquire);
        }
    }

    void help(int number) {
        for (uint64_t last = ticket.load(std::memory_order_acquire);;) {
            const uint64_t seen = next_after(last);
            if (number < wanted.load(std::memory_order_relaxed)) take(seen >> 32);
            last = ticket.load(std::memory_order_acquire);
            if (uint32_t(last) > 0) last = seen;  // another round has begun meanwhile
        }
    }

    // A ticket with pieces to take, of a later round than `last`.
    uint64_t next_after(uint64_t last) {
        const auto until = std::chrono::steady_clock::now() + LOOKOUT;
        for (int spins = 1;; spins++) {
            const uint64_t seen = ticket.load(std::memory_order_acquire);
            if (seen >> 32 != last >> 32) return seen;
            if (spins % 64 == 0 && std::chrono::steady_clock::now() > until) break;
            pause();
        }
        for (uint64_t seen = ticket.load(std::memory_order_acquire);; seen = ticket.load(std::memory_order_acquire)) {
            if (seen >> 32 != last >> 32) return seen;
            ticket.wait(seen);
        }
    }

    std::mutex busy;
    int hired = 0;
    Job job{};
    std::atomic<int> wanted{0};
    alignas(64) std::atomic<uint64_t> ticket{0};
    alignas(64) std::atomic<uint32_t> done{0};
};

Team& team() {
    static Team* const one = new Team;  // never deleted: its helpers sleep until the process ends
    return *one;
}

constexpr long PIECES = 8;  // for each thread: enough that nobody waits long for the last one

template <class Way, class Result>
struct Product {
    using Tile = Tiles<Way, Result>;
    const typename Tile::Input* x;
    const typename Tile::Weight* w;
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
        Tile::template all_rows<WIDE>(x, w + out * inputs, scales ? scales + out : nullptr, y + out, rows, inputs, outputs);
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

extern "C" {
void product_float32(const float* x, const float* w, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Float32>, Float32>{x, w, nullptr, y, rows, inputs, outputs}.run(threads);
}
void product_bfloat16(const uint16_t* x, const uint16_t* w, uint16_t* y, long rows, long inputs, long outputs, int threads) {
#ifdef __AVX512BF16__
    Product<Pairs, BFloat16>{x, w, nullptr, y, rows, inputs, outputs}.run(threads);
#else
    Product<Widened<BFloat16>, BFloat16>{widened(x, rows * inputs), w, nullptr, y, rows, inputs, outputs}.run(threads);
#endif
}
void product_int8_float32(const float* x, const int8_t* w, const float* scales, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Int8>, Float32>{x, w, scales, y, rows, inputs, outputs}.run(threads);
}
void product_int8_bfloat16(const uint16_t* x, const int8_t* w, const float* scales, uint16_t* y, long rows, long inputs, long outputs, int threads) {
    Product<Widened<Int8>, BFloat16>{widened(x, rows * inputs), w, scales, y, rows, inputs, outputs}.run(threads);
}
}
