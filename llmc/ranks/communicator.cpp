#include "llmc/ranks/communicator.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "llmc/base/error.h"
#include "llmc/ranks/mpi.h"

// ---- a stream of the host ----

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct HostStream::State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    int64_t added = 0, done = 0;
    Times times;
    bool stop = false;
    std::exception_ptr error;
    std::thread thread;

    void run() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [&] { return stop || !work.empty(); });
            if (work.empty()) return;
            std::function<void()> next = std::move(work.front());
            work.pop_front();
            bool good = !error;
            lock.unlock();
            Clock::time_point begin = Clock::now();
            std::exception_ptr thrown;
            try {
                if (good) next();
            } catch (...) {
                thrown = std::current_exception();
            }
            next = nullptr;  // what it holds goes before anybody hears that it is done
            lock.lock();
            if (thrown) error = thrown;
            times.busy += seconds_since(begin);
            done++;
            changed.notify_all();
        }
    }
};

HostStream::HostStream() : state_(std::make_unique<State>()) {}
HostStream::~HostStream() {
    if (!state_->thread.joinable()) return;
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        state_->stop = true;
    }
    state_->changed.notify_all();
    state_->thread.join();
}
int64_t HostStream::add(std::function<void()> work) {
    std::unique_lock<std::mutex> lock(state_->mutex);
    if (!state_->thread.joinable()) state_->thread = std::thread([s = state_.get()] { s->run(); });
    state_->work.push_back(std::move(work));
    state_->changed.notify_all();
    int64_t ticket = ++state_->added;
    lock.unlock();
    if (!overlap) wait(ticket);
    return ticket;
}
void HostStream::wait(int64_t ticket) {
    std::unique_lock<std::mutex> lock(state_->mutex);
    Clock::time_point begin = Clock::now();
    state_->changed.wait(lock, [&] { return state_->done >= ticket; });
    state_->times.waited += seconds_since(begin);
    if (state_->error) std::rethrow_exception(std::exchange(state_->error, nullptr));
}
int64_t HostStream::last() const { return state_->added; }
void HostStream::wait() { wait(state_->added); }  // only the caller adds
HostStream::Times HostStream::times() const {
    std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->times;
}
void HostStream::clear_times() {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->times = {};
}

// ---- MPI ----

static void copy(void* out, const void* in, size_t bytes) {
    if (bytes > 0) memmove(out, in, bytes);  // nothing may be at no address
}

#ifdef USE_MPI
struct Communicator::State {
    Group* group;
    MPI_Comm comm = MPI_COMM_NULL;  // null: one rank
    int rank = 0, size = 1;

    // Puts a collective into the stream: start(request) begins it; the stream's thread keeps it going and sleeps in
    // between, because the cores have other work: longer the longer it has waited, as for a rank that is late, and never
    // so long that the pieces of a large message would wait for it.
    template <typename Start>
    int64_t run(HostStream& stream, size_t count, Start start) {
        CHECK(count <= INT_MAX, "%zu elements at once", count);  // MPI counts in int
        return stream.add([this, start] {
            group->begin_wait();
            MPI_Request request = MPI_REQUEST_NULL;
            start(&request);
            const Clock::time_point begin = Clock::now();
            for (int done = 0, tries = 0; !done; tries++) {
                MPI_CHECK(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
                if (!done && tries > 100)
                    std::this_thread::sleep_for(std::clamp<Clock::duration>((Clock::now() - begin) / 16, 20us, 200us));
            }
            group->end_wait();
        });
    }
};

Communicator::Communicator(Group& group) : state_(std::make_unique<State>()) {
    state_->group = &group;
    if (group.world() == 1) return;
    start_mpi(group.rank(), group.timeout());
    state_->comm = MPI_COMM_WORLD;
    MPI_CHECK(MPI_Comm_rank(state_->comm, &state_->rank));
    MPI_CHECK(MPI_Comm_size(state_->comm, &state_->size));
    if (state_->size != group.world() || state_->rank != group.rank())
        throw Error(strf("%s says rank %d of %d, MPI says %d of %d: start the CPU program's ranks with mpirun",
                         group.ranks().source.c_str(), group.rank(), group.world(), state_->rank, state_->size));
}

int64_t Communicator::all_reduce_numbers(void* data, size_t n, bool is_double, HostStream& stream) {
    if (size() == 1) return 0;
    return state_->run(stream, n, [=, comm = state_->comm](MPI_Request* request) {
        MPI_CHECK(MPI_Iallreduce(MPI_IN_PLACE, data, static_cast<int>(n), is_double ? MPI_DOUBLE : MPI_FLOAT, MPI_SUM,
                                 comm, request));
    });
}
int64_t Communicator::reduce_scatter_numbers(void* out, const void* in, size_t n, bool is_double, HostStream& stream) {
    size_t bytes = n * (is_double ? sizeof(double) : sizeof(float));
    if (size() == 1) return copy(out, in, bytes), 0;
    const void* own = static_cast<const char*>(in) + static_cast<size_t>(rank()) * bytes;
    // MPI's in-place form would leave the result at the start of `in`: it goes through a buffer instead.
    auto buffer = std::make_shared<std::vector<char>>(out == own ? bytes : 0);
    void* to = out == own ? buffer->data() : out;
    int64_t ticket = state_->run(stream, n, [=, comm = state_->comm](MPI_Request* request) {
        MPI_CHECK(MPI_Ireduce_scatter_block(in, to, static_cast<int>(n), is_double ? MPI_DOUBLE : MPI_FLOAT, MPI_SUM,
                                            comm, request));
    });
    if (out != own || bytes == 0) return ticket;
    return stream.add([=] { memcpy(out, buffer->data(), bytes); });
}
int64_t Communicator::all_gather_bytes(void* out, const void* in, size_t bytes, HostStream& stream) {
    if (size() == 1) return copy(out, in, bytes), 0;
    bool in_place = static_cast<char*>(out) + static_cast<size_t>(rank()) * bytes == in;
    return state_->run(stream, bytes, [=, comm = state_->comm](MPI_Request* request) {
        MPI_CHECK(MPI_Iallgather(in_place ? MPI_IN_PLACE : in, in_place ? 0 : static_cast<int>(bytes), MPI_BYTE, out,
                                 static_cast<int>(bytes), MPI_BYTE, comm, request));
    });
}
int64_t Communicator::broadcast_bytes(void* data, size_t bytes, int root, HostStream& stream) {
    if (size() == 1) return 0;
    return state_->run(stream, bytes, [=, comm = state_->comm](MPI_Request* request) {
        MPI_CHECK(MPI_Ibcast(data, static_cast<int>(bytes), MPI_BYTE, root, comm, request));
    });
}

#else  // one rank: nothing to send, and copies are made at once

struct Communicator::State {
    int rank = 0, size = 1;
};
Communicator::Communicator(Group& group) : state_(std::make_unique<State>()) {
    if (group.world() > 1) no_mpi();
}
int64_t Communicator::all_reduce_numbers(void*, size_t, bool, HostStream&) { return 0; }
int64_t Communicator::reduce_scatter_numbers(void* out, const void* in, size_t n, bool is_double, HostStream&) {
    return copy(out, in, n * (is_double ? sizeof(double) : sizeof(float))), 0;
}
int64_t Communicator::all_gather_bytes(void* out, const void* in, size_t bytes, HostStream&) {
    return copy(out, in, bytes), 0;
}
int64_t Communicator::broadcast_bytes(void*, size_t, int, HostStream&) { return 0; }
#endif

Communicator::~Communicator() = default;
int Communicator::rank() const { return state_->rank; }
int Communicator::size() const { return state_->size; }
