// Attention of a few new positions of some sessions to all that each of them may look at. Knows memory and shapes; not torch.

#pragma once

#include <cstdint>

namespace swarm {

// Keys and values of one layer, each [heads, capacity, width]. Python holds them (cache.py).
struct Slabs {
    void *keys, *values;
    int64_t capacity;
};

// One session's part of a row of tokens: `count` new positions from `start` on, and its slabs, one layer's after the other's.
struct Session {
    const Slabs* slabs;
    int64_t start, count;
};

enum Numbers : int32_t { FLOAT32, BFLOAT16 };

// Shapes: T = tokens of the row, Q = query heads, K = key/value heads, D = width of a query or key head, E = width of a value head. Strides are in numbers; the
// numbers of a head lie side by side.
struct Attention {
    const Session* sessions;
    int64_t session_count, layer;  // `layer` counts those in the slabs
    const void *queries, *keys, *values;  // [T, Q, D], [T, K, D], [T, K, E]
    int64_t query_strides[2], key_strides[2], value_strides[2];  // of tokens and of heads
    void* out;  // [T, Q, E], contiguous
    int64_t query_heads, heads, key_width, value_width;
    int64_t window;  // how many positions a token sees, itself included; 0 for all
    float scaling, softcap;  // softcap 0 for none
    const float* sinks;  // [Q], or nullptr
    int32_t numbers;  // which of Numbers
};

// Puts the new keys and values into the slabs, and attends.
extern "C" void attend(const Attention* all, int threads);

// `count` new positions of one session from `start` on, whose keys and values are in its slabs already: those from `since` on are at hand. All in bfloat16.
struct Prompt {
    const void *queries, *keys, *values;  // [T, Q, D], [K, L, D], [K, L, E]
    int64_t query_strides[2];  // of tokens and of heads
    int64_t key_stride, value_stride;  // of heads
    void* out;  // [T, Q, E], contiguous
    int64_t count, start, since, query_heads, heads, key_width, value_width;
    int64_t window;  // as above
    float scaling, softcap;
    const float* sinks;
};

extern "C" int attends_to_prompts();  // 0 where torch had better
extern "C" void attend_to_prompt(const Prompt* all, int threads);

}  // namespace swarm
