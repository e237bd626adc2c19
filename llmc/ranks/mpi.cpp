#include "llmc/ranks/mpi.h"

#include <unistd.h>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include "llmc/base/error.h"
#include "llmc/ranks/awake_clock.h"

void no_mpi() {
    throw Error(
        "this build has no MPI, which more than one rank needs here: install libopenmpi-dev (or another MPI with "
        "mpicc) and run make again");
}

#ifdef USE_MPI
void mpi_check(int error, const char* call, const char* file, int line) {
    if (error == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(error, text, &n);
    throw Error(strf("%s:%d: %s: %s", file, line, call, text));
}

namespace {

// Ends the program if it is still there after `seconds` in which this process was not stopped.
class Watchdog {
  public:
    Watchdog(int rank, double seconds, const char* what)
        : thread_([=, this] {
              AwakeClock clock(1);
              std::unique_lock<std::mutex> lock(mutex_);
              while (!changed_.wait_for(lock, std::chrono::milliseconds(200), [&] { return over_; })) {
                  // rank 0 speaks for all, if it can
                  if (clock.now() < seconds + (rank > 0 ? 1 : 0)) continue;
                  fprintf(stderr, "error: MPI does not %s within %g s (--comm-timeout): a rank hangs\n", what, seconds);
                  _exit(1);
              }
          }) {}
    ~Watchdog() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            over_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    Watchdog(const Watchdog&) = delete;

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool over_ = false;
    std::thread thread_;
};

}  // namespace

void start_mpi(int rank, double timeout) {
    static int own_rank = 0;
    static double limit = 0;
    static bool started = false;
    if (started) return;
    own_rank = rank, limit = timeout, started = true;
    Watchdog watchdog(rank, timeout, "begin");
    int level = 0;
    MPI_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level));
    if (level < MPI_THREAD_SERIALIZED) throw Error("this MPI cannot be called from more than one thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    atexit([] {
        fflush(stdout);  // nothing that was said is lost
        Watchdog last(own_rank, limit, "end");
        MPI_Finalize();
    });
}

void mpi_broadcast_text(std::string* text, int rank, double timeout) {
    start_mpi(rank, timeout);
    Watchdog watchdog(rank, timeout, "begin");
    int n = static_cast<int>(text->size());
    MPI_CHECK(MPI_Bcast(&n, 1, MPI_INT, 0, MPI_COMM_WORLD));
    text->resize(static_cast<size_t>(n));
    MPI_CHECK(MPI_Bcast(text->data(), n, MPI_CHAR, 0, MPI_COMM_WORLD));
}

#else
void mpi_broadcast_text(std::string*, int, double) { no_mpi(); }
#endif
