// MPI, where the build has it (USE_MPI): started when first needed, ended with the program.
#pragma once
#include <string>
#ifdef USE_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface alone
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

void mpi_check(int error, const char* call, const char* file, int line);
#define MPI_CHECK(call) mpi_check((call), #call, __FILE__, __LINE__)

// Calls come from one thread at a time. A rank that lets this one wait for longer than `timeout` seconds while MPI begins
// or ends, when no Group watches, ends the program.
void start_mpi(int rank, double timeout);
#endif

// Before there is a Group: rank 0's text to all ranks that mpirun started. Error: the build has no MPI.
void mpi_broadcast_text(std::string* text, int rank, double timeout);
// Error: how to get a build that has MPI.
[[noreturn]] void no_mpi();
