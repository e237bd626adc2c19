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
// order of production. An exception ends everything and is thrown here: the first in that order, so that what the user
// hears depends neither on threads nor on the size of items.
template <typename Item, typename Produce, typename Work, typename Consume>
void ordered_pipeline(int threads, Produce produce, Work work, Consume consume) {
    std::mutex produce_mutex, consume_mutex;
    std::condition_variable turn;
    int64_t produced = 0, consumed = 0;
    bool at_end = false;
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    const auto run = [&] {
        Item item;
        while (!stop) {
            int64_t number;
            std::exception_ptr wrong;
            {
                std::lock_guard lock(produce_mutex);
                if (at_end) return;
                try {
                    at_end = !produce(item);
                } catch (...) {
                    at_end = true;
                    wrong = std::current_exception();
                }
                if (at_end && !wrong) return;
                number = produced++;
            }
            try {
                if (!wrong) work(item);
            } catch (...) {
                wrong = std::current_exception();
            }
            std::unique_lock lock(consume_mutex);
            turn.wait(lock, [&] { return consumed == number || stop; });
            if (stop) return;
            try {
                if (wrong) std::rethrow_exception(wrong);
                consume(item);
            } catch (...) {
                failure = std::current_exception();
                stop = true;
            }
            ++consumed;
            turn.notify_all();
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run);
    run();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}
