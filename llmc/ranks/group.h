// The processes of a run as the host sees them: a star of TCP connections around rank 0.
//
// It is how ranks find each other (NCCL's id travels here), compare what they were started with, agree on small
// decisions once a step, and notice each other's death. Gradients and weights do not travel here (communicator.h).
//
// How they find each other, and who may come: meeting.h. A thread in each process sends heartbeats, which say whether the process waits in a collective. Rank 0 watches: a
// connection that breaks is a process that died; heartbeats that stay away for `timeout` seconds are a process that
// hangs (by a clock that stands still while this process does: a job that is suspended as a whole goes on); and where some wait in a collective for that long, those that have not come to it are the ones that stall.
// Every process then ends at once, with one line that names the rank. Checkpoints on disk are whole at any moment, so
// there is nothing to tidy up.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>
#include "llmc/ranks/ranks.h"

class Group {
  public:
    // Meets the others (meeting.h: its Errors); world == 1: does nothing at all.
    Group(const Ranks& ranks, double timeout);
    ~Group();  // says goodbye: the others do not take the end for a death
    Group(const Group&) = delete;

    int rank() const { return ranks_.rank; }
    int world() const { return ranks_.world; }
    const Ranks& ranks() const { return ranks_; }
    double timeout() const { return timeout_; }

    // What each rank gave, by rank. All ranks call it, in the same order of calls.
    std::vector<std::string> exchange(const std::string& mine);
    void barrier() { exchange(""); }
    // Of a number of each rank: the largest, and the sum in the order of ranks. The same bits in all ranks.
    double most(double x);
    double sum(double x);

    // Around each wait for the others (exchange() does it itself), in all ranks alike: it is the count by which a rank
    // that stalls is found.
    void begin_wait() { begun_++; }
    void end_wait() { ended_++; }

    // Tells the others why this process ends with an error. They end with the same exit code, which is never 0.
    void fail(const std::string& message, int exit_code = 1);

  private:
    struct Connections;
    Ranks ranks_;
    double timeout_;
    std::atomic<int64_t> begun_{0}, ended_{0};
    std::unique_ptr<Connections> connections_;
};
