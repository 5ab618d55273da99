// The attention of a prompt: many queries, so that multiplying is what it costs. Blocks of queries meet blocks of keys, and of all scores only those of two
// blocks are ever held (Dao et al., "FlashAttention", 2022). Made for bfloat16 and processors that multiply pairs of it; elsewhere torch attends to prompts.
//
// Scores and sums are float32, weights are rounded to bfloat16 before they meet the values. Blocks of keys begin at fixed positions, so a token's result does
// not depend on the pieces in which its prompt came, on what else is in the row, or on the number of threads.

#include <cmath>
#include <vector>

#include "attention.h"
#include "lanes.h"
#include "team.h"

namespace swarm {
namespace {

#ifdef __AVX512BF16__

constexpr int64_t TOKENS = 64, KEYS = 128;  // of a block; what is held of one fits into the second cache
constexpr int HIGH = 6, WIDE = 4;  // rows and vectors of a tile: its sums fit into the registers

using Pair = uint32_t;  // two numbers of bfloat16, one behind the other

inline __m512bh pairs(const Pair* from) { return read<__m512bh>(from); }
inline __m512bh pair_everywhere(Pair pair) { return (__m512bh)_mm512_set1_epi32(pair); }

// sums[rows, vectors of 16] (+)= x[rows, steps] y[steps, vectors], a step being a pair of numbers.
struct Tile {
    const Pair* x;
    const Pair* y;
    float* sums;
    int64_t steps, x_stride, y_stride, sums_stride;
    bool adds;

    void run(int64_t rows, int64_t vectors) const {
        for (int64_t at = 0; at < vectors; at += WIDE) {
            Tile here = *this;
            here.y += at * LANES;
            here.sums += at * LANES;
            switch (std::min<int64_t>(vectors - at, WIDE)) {
                case 1: here.all_rows<1>(rows); break;
                case 2: here.all_rows<2>(rows); break;
                case 3: here.all_rows<3>(rows); break;
                default: here.all_rows<WIDE>(rows);
            }
        }
    }

private:
    template <int VECTORS>
    void all_rows(int64_t rows) const {
        Tile here = *this;
        for (; rows >= HIGH; rows -= HIGH, here.x += HIGH * x_stride, here.sums += HIGH * sums_stride) here.tile<HIGH, VECTORS>();
        for (; rows > 0; rows--, here.x += x_stride, here.sums += sums_stride) here.tile<1, VECTORS>();
    }

    template <int ROWS, int VECTORS>
    void tile() const {
        __m512 all[ROWS][VECTORS];
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < VECTORS; i++) all[row][i] = adds ? _mm512_loadu_ps(sums + row * sums_stride + i * LANES) : _mm512_setzero_ps();
        for (int64_t step = 0; step < steps; step++) {
            __m512bh some[VECTORS];
            for (int i = 0; i < VECTORS; i++) some[i] = pairs(y + step * y_stride + i * LANES);
            for (int row = 0; row < ROWS; row++) {
                const auto one = pair_everywhere(x[row * x_stride + step]);
                for (int i = 0; i < VECTORS; i++) all[row][i] = _mm512_dpbf16_ps(all[row][i], one, some[i]);
            }
        }
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < VECTORS; i++) _mm512_storeu_ps(sums + row * sums_stride + i * LANES, all[row][i]);
    }
};

// What a thread holds of two blocks, rows being the tokens of each of the query heads that share keys.
struct Room {
    std::vector<Pair> queries, keys, values, weights;
    std::vector<float> scores, sums, highest, totals;
};

struct Prompts {
    const Prompt& all;
    int64_t shared, steps, vectors;  // query heads of a key head; pairs of a key; vectors of a value

    explicit Prompts(const Prompt& all)
        : all(all), shared(all.query_heads / all.heads), steps((all.key_width + 1) / 2), vectors((all.value_width + LANES - 1) / LANES) {}

    int64_t blocks() const { return (all.count + TOKENS - 1) / TOKENS; }

    // The last blocks, which see most, are taken first.
    static void piece(const void* what, long number) {
        const auto& it = *static_cast<const Prompts*>(what);
        it.run(number / it.all.heads, number % it.all.heads);
    }

    void run(int64_t block, int64_t head) const {
        thread_local Room room;
        const int64_t first = block * TOKENS, count = std::min(TOKENS, all.count - first), rows = shared * count;
        room.queries.assign(rows * steps, 0);
        room.keys.resize(steps * KEYS);
        room.values.resize(KEYS / 2 * vectors * LANES);
        room.weights.resize(rows * KEYS / 2);
        room.scores.resize(rows * KEYS);
        room.sums.assign(rows * vectors * LANES, 0);
        room.highest.assign(rows, -INFINITY);
        room.totals.assign(rows, 0);
        const auto* queries = static_cast<const uint16_t*>(all.queries);
        for (int64_t row = 0; row < rows; row++) {
            const auto* from = queries + (first + row % count) * all.query_strides[0] + (head * shared + row / count) * all.query_strides[1];
            std::memcpy(&room.queries[row * steps], from, all.key_width * sizeof(uint16_t));
        }
        // positions are those of the model; the keys at hand begin at `since`
        const int64_t start = all.start + first, stop = start + count;
        const int64_t low = std::max(all.since, all.window ? start + 1 - all.window : 0);
        for (int64_t begin = low / KEYS * KEYS; begin < stop; begin += KEYS) {
            const int64_t from = std::max(begin, all.since), end = std::min(begin + KEYS, stop);
            pack(room, head, begin, from, end);
            Tile{room.queries.data(), room.keys.data(), room.scores.data(), steps, steps, KEYS, KEYS, false}.run(rows, KEYS / LANES);
            for (int64_t row = 0; row < rows; row++) {
                const int64_t position = start + row % count;
                const int64_t sees = std::max(from, all.window ? position + 1 - all.window : 0);
                weigh(room, row, sees - begin, std::min(end, position + 1) - begin);
            }
            Tile{room.weights.data(), room.values.data(), room.sums.data(), KEYS / 2, KEYS / 2, vectors * LANES, vectors * LANES, true}.run(rows, vectors);
        }
        give(room, first, count, head);
    }

    // Keys [from, end) as [steps, KEYS] and values as [KEYS / 2, width] pairs, from position `begin` on; what is not there is 0.
    void pack(Room& room, int64_t head, int64_t begin, int64_t from, int64_t end) const {
        const auto* keys = static_cast<const uint16_t*>(all.keys) + head * all.key_stride - all.since * all.key_width;
        const auto* values = static_cast<const uint16_t*>(all.values) + head * all.value_stride - all.since * all.value_width;
        alignas(64) Pair lines[LANES][LANES];
        for (int64_t key = 0; key < KEYS; key += LANES)
            for (int64_t step = 0; step < steps; step += LANES) {
                const int64_t some = std::min<int64_t>(LANES, steps - step), numbers = std::min<int64_t>(2 * some, all.key_width - 2 * step);
                for (int64_t line = 0; line < LANES; line++) {
                    const int64_t position = begin + key + line;
                    const __mmask32 there = position >= from && position < end ? (numbers == 32 ? ~0u : (1u << numbers) - 1) : 0;
                    _mm512_store_si512(lines[line], _mm512_maskz_loadu_epi16(there, keys + position * all.key_width + 2 * step));
                }
                transpose(lines);
                for (int64_t at = 0; at < some; at++) std::memcpy(&room.keys[(step + at) * KEYS + key], lines[at], sizeof lines[at]);
            }
        const int64_t width = vectors * LANES;
        for (int64_t pair = 0; pair < KEYS / 2; pair++)
            for (int64_t at = 0; at < vectors; at++) {
                const int64_t numbers = std::min<int64_t>(LANES, all.value_width - at * LANES);
                const auto line = [&](int64_t position) {
                    const __mmask16 there = position >= from && position < end ? (1u << numbers) - 1 : 0;
                    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, values + position * all.value_width + at * LANES));
                };
                const __m512i both = _mm512_or_si512(line(begin + 2 * pair), _mm512_slli_epi32(line(begin + 2 * pair + 1), 16));
                std::memcpy(&room.values[pair * width + at * LANES], &both, sizeof both);
            }
    }

    static void transpose(Pair lines[LANES][LANES]) {
        __m512i a[LANES], b[LANES];
        for (int i = 0; i < LANES; i++) a[i] = _mm512_load_si512(lines[i]);
        for (int i = 0; i < LANES; i += 2) {
            b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        }
        for (int i = 0; i < LANES; i += 4)
            for (int half = 0; half < 2; half++) {
                a[i + 2 * half] = _mm512_unpacklo_epi64(b[i + half], b[i + half + 2]);
                a[i + 2 * half + 1] = _mm512_unpackhi_epi64(b[i + half], b[i + half + 2]);
            }
        for (int i = 0; i < 4; i++) {
            const __m512i low = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
            const __m512i more_low = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88), more_high = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
            _mm512_store_si512(lines[i], _mm512_shuffle_i32x4(low, more_low, 0x88));
            _mm512_store_si512(lines[i + 8], _mm512_shuffle_i32x4(low, more_low, 0xdd));
            _mm512_store_si512(lines[i + 4], _mm512_shuffle_i32x4(high, more_high, 0x88));
            _mm512_store_si512(lines[i + 12], _mm512_shuffle_i32x4(high, more_high, 0xdd));
        }
    }

    // softcap * tanh(scores / softcap), tanh x being (1 - e^-2x) / (1 + e^-2x) for x that are not negative.
    Floats capped(Floats scores) const {
        const Floats x = scores / all.softcap;
        const Floats power = exponential((x < 0 ? x : -x) * 2);
        const Floats bent = (1 - power) / (1 + power) * all.softcap;
        return x < 0 ? -bent : bent;
    }

    // Scores of a row with the keys [low, high) of a block become weights, as far as is known: when a higher score is found, earlier sums are made less.
    void weigh(Room& room, int64_t row, int64_t low, int64_t high) const {
        float* scores = &room.scores[row * KEYS];
        auto* weights = reinterpret_cast<uint16_t*>(&room.weights[row * KEYS / 2]);
        if (low >= high) {
            std::memset(weights, 0, KEYS * sizeof(uint16_t));
            return;
        }
        Floats most = Floats{} - INFINITY;
        for (int64_t at = 0; at < KEYS; at += LANES) {
            Floats some = read<Floats>(scores + at) * all.scaling;
            if (all.softcap) some = capped(some);
            if (at < low || at + LANES > high)
                for (int lane = 0; lane < LANES; lane++)
                    if (at + lane < low || at + lane >= high) some[lane] = -INFINITY;
            std::memcpy(scores + at, &some, sizeof some);
            most = some > most ? some : most;
        }
        float highest = room.highest[row];
        for (int lane = 0; lane < LANES; lane++) highest = std::max(highest, most[lane]);
        if (highest > room.highest[row]) {
            const float less = std::exp(room.highest[row] - highest);  // 0 for the first
            room.totals[row] *= less;
            float* sums = &room.sums[row * vectors * LANES];
            for (int64_t at = 0; at < vectors * LANES; at++) sums[at] *= less;
            room.highest[row] = highest;
        }
        Floats sums{};
        for (int64_t at = 0; at < KEYS; at += LANES) {
            const Floats score = read<Floats>(scores + at);
            Floats weight = exponential(score - highest);
            weight = score == Floats{} - INFINITY ? Floats{} : weight;
            sums += weight;
            const __m256bh narrow = _mm512_cvtneps_pbh((__m512)weight);
            std::memcpy(weights + at, &narrow, sizeof narrow);
        }
        room.totals[row] += total(sums);
    }

    void give(const Room& room, int64_t first, int64_t count, int64_t head) const {
        auto* out = static_cast<uint16_t*>(all.out);
        for (int64_t row = 0; row < shared * count; row++) {
            const int64_t query = head * shared + row / count;
            const float share = 1 / (room.totals[row] + (all.sinks ? std::exp(all.sinks[query] - room.highest[row]) : 0));
            auto* to = out + ((first + row % count) * all.query_heads + query) * all.value_width;
            for (int64_t at = 0; at < all.value_width; at++) to[at] = BFloat16::narrow(room.sums[row * vectors * LANES + at] * share);
        }
    }
};

#endif

}  // namespace

extern "C" int attends_to_prompts() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

extern "C" void attend_to_prompt([[maybe_unused]] const Prompt* what, [[maybe_unused]] int threads) {
#ifdef __AVX512BF16__
    const Prompts prompts{*what};
    team().run({Prompts::piece, &prompts}, prompts.blocks() * what->heads, threads - 1);
#endif
}

}  // namespace swarm
