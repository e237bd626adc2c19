// What is too large for a device stays in page-locked memory of the host, and travels beside the layers' work.
//
//   in       fetch 1 | fetch 2    | fetch 3           copies to the device, in a stream of their own
//   layers     use 0 | use 1      | use 2
//   out              | put away 0 | put away 1        copies back, in another: PCIe carries both ways at once
//
// A machine (llmc/cuda/machine.cuh) has these streams as lanes, and events by which one waits for another.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

enum class Lane { layers, network, in, out };

// So many buffers of the device that are filled and emptied again and again. All waiting is between lanes, the host goes on.
template <class Machine, int kBuffers>
class Turns {
  public:
    explicit Turns(Machine& machine) : machine_(machine) {}
    void start() {
        for (int i = 0; i < kBuffers; i++) here_[i] = machine_.make_event(), away_[i] = machine_.make_event();
    }
    // copies() puts what fills buffer i into the lane. That begins when what the layers have been given so far is done, and
    // what was put away from there is away.
    template <typename Copies>
    void fetch(int i, Copies copies, Lane lane = Lane::in) {
        machine_.follow_computation(lane);
        if (std::exchange(going_[i], false)) machine_.wait_for(away_[i], lane);
        copies();
        machine_.record(here_[i], lane), coming_[i] = true;
    }
    // What comes next in a lane begins when the buffer is filled.
    void need(int i, Lane lane = Lane::layers) {
        if (std::exchange(coming_[i], false)) machine_.wait_for(here_[i], lane);
    }
    // copies() empties the buffer, when the layers have done with what they have been given so far.
    template <typename Copies>
    void put_away(int i, Copies copies, Lane lane = Lane::out) {
        machine_.follow_computation(lane);
        copies();
        machine_.record(away_[i], lane), going_[i] = true;
    }
    // The layers may write to the buffer again.
    void need_room(int i) {
        if (std::exchange(going_[i], false)) machine_.wait_for(away_[i]);
    }
    // After machine.join() of the lanes: nothing is on its way.
    void forget() { std::fill_n(coming_, kBuffers, false), std::fill_n(going_, kBuffers, false); }

  private:
    Machine& machine_;
    typename Machine::Event here_[kBuffers], away_[kBuffers];
    bool coming_[kBuffers] = {}, going_[kBuffers] = {};
};

// What stands on the device for so many elements of arrays that lie on the host, two in turn; null: that array is here.
template <class Arrays>
struct Pieces {
    Arrays at[2]{};
    int64_t elements = 0;  // 0: all arrays are here
};

// A row of arrays that are written from the first to the last and then read from the last to the first, of which the device
// has two; the last two never leave it. host: where the others go; empty: all are on the device.
template <typename X, class Machine>
class TwoOfMany {
  public:
    TwoOfMany(Machine& machine, const std::vector<X*>& host) : machine_(machine), host_(host), turns_(machine) {}
    void start() { turns_.start(); }
    void begin() { turns_.forget(); }
    void before_writing(int i) { turns_.need_room(i % 2); }
    void written(int i, const X* array, int64_t n) {
        if (travels(i)) turns_.put_away(i % 2, [&] { machine_.put_away(host_[static_cast<size_t>(i)], array, n); });
    }
    void before_reading(int i) { turns_.need(i % 2); }
    void fetch(int i, X* array, int64_t n) {
        if (travels(i)) turns_.fetch(i % 2, [&] { machine_.bring(array, host_[static_cast<size_t>(i)], n); });
    }

  private:
    bool travels(int i) const { return i >= 0 && i < static_cast<int>(host_.size()); }
    Machine& machine_;
    const std::vector<X*>& host_;
    Turns<Machine, 2> turns_;
};
