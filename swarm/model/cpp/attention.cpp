// The attention of decoding steps: few queries, many keys. What it costs is reading keys and values, so query heads that share them are done together, four at
// a time. Scores, weights and sums are float32. A token's sums are always taken in the same order, so its result depends neither on the other sessions nor on
// the number of threads.

#include "attention.h"

#include <cmath>
#include <vector>

#include "lanes.h"
#include "team.h"

namespace swarm {
namespace {

constexpr int TOGETHER = 4;  // query heads that share what is read
constexpr int64_t ALONE = 1 << 15;  // numbers to read below which no other thread is asked

template <class Number>
struct Head {
    using Stored = typename Number::Number;
    const Attention& all;
    const Session& session;
    int64_t token, head;  // the session's first token in the row, and which key/value head

    void run() const {
        const Slabs& slabs = session.slabs[all.layer];
        Stored *keys = static_cast<Stored*>(slabs.keys) + head * slabs.capacity * all.key_width;
        Stored *values = static_cast<Stored*>(slabs.values) + head * slabs.capacity * all.value_width;
        store(all.keys, all.key_strides, keys, all.key_width);
        store(all.values, all.value_strides, values, all.value_width);
        const int64_t shared = all.query_heads / all.heads;
        for (int64_t at = 0; at < session.count; at++)
            for (int64_t first = 0; first < shared; first += TOGETHER) {
                const int64_t query = head * shared + first;
                switch (std::min<int64_t>(shared - first, TOGETHER)) {
                    case 1: attend<1>(at, query, keys, values); break;
                    case 2: attend<2>(at, query, keys, values); break;
                    case 3: attend<3>(at, query, keys, values); break;
                    default: attend<TOGETHER>(at, query, keys, values);
                }
            }
    }

    void store(const void* from, const int64_t strides[2], Stored* slab, int64_t width) const {
        const auto* numbers = static_cast<const Stored*>(from) + token * strides[0] + head * strides[1];
        for (int64_t at = 0; at < session.count; at++)
            std::memcpy(slab + (session.start + at) * width, numbers + at * strides[0], width * sizeof(Stored));
    }

    template <int HEADS>
    void attend(int64_t at, int64_t query, const Stored* keys, const Stored* values) const {
        const int64_t stop = session.start + at + 1, since = all.window ? std::max<int64_t>(0, stop - all.window) : 0;
        const int64_t count = stop - since, room = (count + LANES - 1) / LANES * LANES, width = all.key_width;
        thread_local std::vector<float> memory;
        memory.resize(HEADS * (room + width));
        float *scores = memory.data(), *queries = scores + HEADS * room;
        const auto* given = static_cast<const Stored*>(all.queries) + (token + at) * all.query_strides[0] + query * all.query_strides[1];
        for (int head = 0; head < HEADS; head++)
            for (int64_t i = 0; i < width; i++) queries[head * width + i] = Number::widen(given[head * all.query_strides[1] + i]);

        keys += since * width;
        for (int64_t position = 0; position < count; position++) {
            const Stored* key = keys + position * width;
            Floats sums[HEADS] = {};
            int64_t i = 0;
            for (; i + LANES <= width; i += LANES) {
                const Floats k = Number::load(key + i);
                for (int head = 0; head < HEADS; head++) sums[head] = multiply_add(k, read<Floats>(queries + head * width + i), sums[head]);
            }
            for (int head = 0; head < HEADS; head++) {
                float score = total(sums[head]);
                for (int64_t rest = i; rest < width; rest++) score = multiply_add(Number::widen(key[rest]), queries[head * width + rest], score);
                score *= all.scaling;
                scores[head * room + position] = all.softcap ? std::tanh(score / all.softcap) * all.softcap : score;
            }
        }

        float shares[HEADS];
        for (int head = 0; head < HEADS; head++) {
            const float sink = all.sinks ? all.sinks[query + head] : -INFINITY;
            shares[head] = 1 / weigh(scores + head * room, count, room, sink);
        }

        auto* out = static_cast<Stored*>(all.out) + ((token + at) * all.query_heads + query) * all.value_width;
        values += since * all.value_width;
        int64_t i = 0;
        for (; i + 2 * LANES <= all.value_width; i += 2 * LANES) sum<HEADS, 2>(scores, shares, values + i, out + i, count, room);
        for (; i + LANES <= all.value_width; i += LANES) sum<HEADS, 1>(scores, shares, values + i, out + i, count, room);
        for (; i < all.value_width; i++)
            for (int head = 0; head < HEADS; head++) {
                float result = 0;
                for (int64_t position = 0; position < count; position++)
                    result = multiply_add(scores[head * room + position], Number::widen(values[position * all.value_width + i]), result);
                out[head * all.value_width + i] = Number::narrow(result * shares[head]);
            }
    }

    // Scores to weights that are not yet divided by their sum, which is returned. What is beyond `count` becomes 0.
    static float weigh(float* scores, int64_t count, int64_t room, float sink) {
        std::fill(scores + count, scores + room, -INFINITY);
        Floats highest = Floats{} - INFINITY, sums{};
        for (int64_t i = 0; i < room; i += LANES) {
            const Floats some = read<Floats>(scores + i);
            highest = some > highest ? some : highest;
        }
        float most = sink;
        for (int lane = 0; lane < LANES; lane++) most = std::max(most, highest[lane]);
        for (int64_t i = 0; i < room; i += LANES) {
            Floats some = exponential(read<Floats>(scores + i) - most);
            if (i + LANES > count)
                for (int lane = count - i; lane < LANES; lane++) some[lane] = 0;
            std::memcpy(scores + i, &some, sizeof some);
            sums += some;
        }
        return total(sums) + (sink == -INFINITY ? 0 : std::exp(sink - most));
    }

    // VECTORS x LANES numbers of the values, weighted.
    template <int HEADS, int VECTORS>
    void sum(const float* weights, const float* shares, const Stored* values, Stored* out, int64_t count, int64_t room) const {
        Floats sums[HEADS][VECTORS] = {};
        for (int64_t position = 0; position < count; position++) {
            Floats value[VECTORS];
            for (int i = 0; i < VECTORS; i++) value[i] = Number::load(values + position * all.value_width + i * LANES);
            for (int head = 0; head < HEADS; head++)
                for (int i = 0; i < VECTORS; i++) sums[head][i] = multiply_add(value[i], Floats{} + weights[head * room + position], sums[head][i]);
        }
        for (int head = 0; head < HEADS; head++)
            for (int i = 0; i < VECTORS; i++)
                for (int lane = 0; lane < LANES; lane++) out[head * all.value_width + i * LANES + lane] = Number::narrow(sums[head][i][lane] * shares[head]);
    }
};

struct Heads {
    const Attention& all;
    std::vector<int64_t> tokens;  // where each session begins in the row

    template <class Number>
    static void piece(const void* what, long number) {
        const auto& it = *static_cast<const Heads*>(what);
        const int64_t session = number / it.all.heads;
        Head<Number>{it.all, it.all.sessions[session], it.tokens[session], number % it.all.heads}.run();
    }
};

}  // namespace

extern "C" void attend(const Attention* what, int threads) {
    const Attention& all = *what;
    Heads heads{all, {}};
    int64_t token = 0, numbers = 0;
    for (int64_t i = 0; i < all.session_count; i++) {
        const Session& session = all.sessions[i];
        heads.tokens.push_back(token);
        token += session.count;
        numbers += session.count * (session.start + session.count) * all.heads * (all.key_width + all.value_width);
    }
    const auto work = all.numbers == FLOAT32 ? Heads::piece<Float32> : Heads::piece<BFloat16>;
    team().run({work, &heads}, all.session_count * all.heads, numbers < ALONE ? 0 : threads - 1);
}

}  // namespace swarm
