// Threads that work on items at once, while the items come and go in order: encoding chunks of a text into shards.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// Runs produce(Item&) -> bool, one thread at a time; work(Item&), all at once; consume(Item&), one at a time in the
// order of production. The first exception ends everything and is thrown here.
template <typename Item, typename Produce, typename Work, typename Consume>
void ordered_pipeline(int threads, Produce produce, Work work, Consume consume) {
    std::mutex produce_mutex, consume_mutex;
    std::condition_variable turn;
    int64_t produced = 0, consumed = 0;
    bool at_end = false;
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    const auto run = [&] {
        try {
            Item item;
            while (!stop) {
                int64_t number;
                {
                    std::lock_guard lock(produce_mutex);
                    if (at_end || !produce(item)) {
                        at_end = true;
                        return;
                    }
                    number = produced++;
                }
                work(item);
                std::unique_lock lock(consume_mutex);
                turn.wait(lock, [&] { return consumed == number || stop; });
                if (stop) return;
                consume(item);
                ++consumed;
                turn.notify_all();
            }
        } catch (...) {
            std::lock_guard lock(consume_mutex);
            if (!stop.exchange(true)) failure = std::current_exception();
            turn.notify_all();
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run);
    run();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}
