// Threads that work on items at once, while the items come and go in order: encoding chunks of a text into shards.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

// Runs produce(Item&) -> bool, one thread at a time; work(Item&), all at once; consume(Item&), one at a time in the
// order of production. An exception ends everything and is thrown here: the first in that order, so that what the user
// hears depends neither on threads nor on the size of items. A thread whose item is not due yet goes on with another one:
// where a thread waits for its turn on the processor, the others do not wait for it at once.
template <typename Item, typename Produce, typename Work, typename Consume>
void ordered_pipeline(int threads, Produce produce, Work work, Consume consume) {
    struct Place {
        Item item;
        std::exception_ptr wrong;
    };
    std::vector<Place> places(static_cast<size_t>(threads + std::min(threads, 8)));
    std::vector<Place*> idle;
    for (Place& place : places) idle.push_back(&place);
    std::map<int64_t, Place*> ready;
    std::mutex produce_mutex, order_mutex;
    std::condition_variable freed;
    int64_t produced = 0, consumed = 0;
    bool at_end = false, consuming = false;
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    const auto next_item = [&](int64_t* number) -> Place* {
        std::lock_guard producing(produce_mutex);
        Place* place;
        {
            std::unique_lock order(order_mutex);
            freed.wait(order, [&] { return !idle.empty() || stop; });
            if (stop || at_end) return nullptr;
            place = idle.back();
            idle.pop_back();
        }
        place->wrong = nullptr;
        try {
            at_end = !produce(place->item);
            if (at_end) return nullptr;
        } catch (...) {
            at_end = true;
            place->wrong = std::current_exception();
        }
        *number = produced++;
        return place;
    };
    const auto run = [&] {
        int64_t number;
        while (Place* const place = next_item(&number)) {
            try {
                if (!place->wrong) work(place->item);
            } catch (...) {
                place->wrong = std::current_exception();
            }
            std::unique_lock order(order_mutex);
            ready[number] = place;
            if (consuming) continue;  // who does that will find it
            consuming = true;
            for (auto due = ready.find(consumed); due != ready.end() && !stop; due = ready.find(consumed)) {
                Place& next = *ready.extract(due).mapped();
                order.unlock();
                try {
                    if (next.wrong) std::rethrow_exception(next.wrong);
                    consume(next.item);
                } catch (...) {
                    failure = std::current_exception();
                    stop = true;
                }
                order.lock();
                ++consumed;
                idle.push_back(&next);
                freed.notify_all();
            }
            consuming = false;
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run);
    run();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}
