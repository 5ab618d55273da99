// The threads that compute together. They take pieces of the work as they come: one that is late, because it slept or another process has its core, delays
// nobody, since the others take what it would have taken.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

namespace swarm {

// The pieces [0, pieces) of some work: `work(what, piece)` computes one.
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

// Helpers of the one thread that computes. They look out for the next job for a moment, since it usually follows at once, and then sleep.
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

inline Team& team() {
    static Team* const one = new Team;  // never deleted: its helpers sleep until the process ends
    return *one;
}

}  // namespace swarm
