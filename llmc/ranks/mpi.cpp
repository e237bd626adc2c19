#include "llmc/ranks/mpi.h"

#include <cstdlib>
#include "llmc/base/error.h"

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

void start_mpi() {
    static const bool started = [] {
        int level = 0;
        MPI_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level));
        if (level < MPI_THREAD_SERIALIZED) throw Error("this MPI cannot be called from more than one thread");
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        atexit([] { MPI_Finalize(); });
        return true;
    }();
    (void)started;
}

void mpi_broadcast_text(std::string* text) {
    start_mpi();
    int rank = 0, n = static_cast<int>(text->size());
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    MPI_CHECK(MPI_Bcast(&n, 1, MPI_INT, 0, MPI_COMM_WORLD));
    text->resize(static_cast<size_t>(n));
    MPI_CHECK(MPI_Bcast(text->data(), n, MPI_CHAR, 0, MPI_COMM_WORLD));
}

#else
void mpi_broadcast_text(std::string*) { no_mpi(); }
#endif
