// Products of a few rows with a large matrix, y[T,O] = x[T,I] w[O,I]^T, at the speed at which memory gives the weights: every weight is read once, in the order
// in which it lies, and multiplied with all rows while it is in a register. A row's sums are always taken in the same order, so a row's result depends neither
// on the other rows nor on the number of threads.
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

template <class Type>
struct Product {
    const typename Type::Number *x, *w;
    typename Type::Number* y;
    long rows, inputs, outputs, share;

    static void piece(const void* what, long number) {
        const auto& it = *static_cast<const Product*>(what);
        const long end = std::min((number + 1) * it.share, it.outputs);
        long out = number * it.share;
        for (; out + OUTPUTS <= end; out += OUTPUTS) all_rows<Type, OUTPUTS>(it.x, it.w + out * it.inputs, it.y + out, it.rows, it.inputs, it.outputs);
        for (; out < end; out++) all_rows<Type, 1>(it.x, it.w + out * it.inputs, it.y + out, it.rows, it.inputs, it.outputs);
    }

    void run(int threads) {
        share = (outputs / (PIECES * threads) / OUTPUTS + 1) * OUTPUTS;
        team().run({piece, this}, (outputs + share - 1) / share, threads - 1);
    }
};

}  // namespace

extern "C" {
void product_float32(const float* x, const float* w, float* y, long rows, long inputs, long outputs, int threads) {
    Product<Float32>{x, w, y, rows, inputs, outputs, 0}.run(threads);
}
void product_bfloat16(const uint16_t* x, const uint16_t* w, uint16_t* y, long rows, long inputs, long outputs, int threads) {
    Product<BFloat16>{x, w, y, rows, inputs, outputs, 0}.run(threads);
}
}
