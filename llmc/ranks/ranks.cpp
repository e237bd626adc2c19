#include "llmc/ranks/ranks.h"

#include <unistd.h>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "llmc/base/error.h"

// An environment variable that holds a number; -1: not set. UsageError if it is no number.
static int number_variable(const char* name) {
    const char* text = getenv(name);
    if (!text || !*text) return -1;
    int value = -1;
    auto [end, error] = std::from_chars(text, text + strlen(text), value);
    if (error != std::errc() || *end || value < 0)
        throw UsageError(strf("%s=%s is no number of 0 or more", name, text));
    return value;
}
static std::string text_variable(const char* name) {
    const char* text = getenv(name);
    return text ? text : "";
}

// From a launcher's four variables; false where the first two are not set.
static bool from_variables(Ranks* r, const char* source, const char* rank, const char* world, const char* local_rank,
                           const char* local_world) {
    if (number_variable(rank) < 0 || number_variable(world) < 0) return false;
    r->rank = number_variable(rank), r->world = number_variable(world);
    int local = number_variable(local_rank), locals = number_variable(local_world);
    r->local_rank = local >= 0 ? local : r->rank;
    r->local_world = locals > 0 ? locals : r->world;
    r->source = source;
    return true;
}

// Started by srun; not by an allocation's shell or batch script, whose steps have reserved numbers (slurm.h).
static bool in_slurm_step() {
    std::string step = text_variable("SLURM_STEP_ID");
    return !step.empty() && strtoull(step.c_str(), nullptr, 10) < 0xfffffff0;
}

// A path that only the processes of one start know: nobody reads what an earlier start left behind.
static std::string meeting_file(const std::string& directory, const std::string& job) {
    return (directory.empty() ? "." : directory) + "/.train_gpt2_" + job;
}

Ranks find_ranks(const RankOptions& o) {
    Ranks r;
    std::string slurm_job = text_variable("SLURM_JOB_ID"), open_mpi_job = text_variable("PMIX_NAMESPACE");
    for (char& c : open_mpi_job)
        if (!isalnum(static_cast<unsigned char>(c))) c = '_';
    bool by_hand = o.num_processes > 0 && o.nccl_init_method != "mpi";
    if (by_hand) {
        r.rank = o.process_rank, r.world = o.num_processes;
        r.local_world = std::min(o.gpus_per_node, r.world), r.local_rank = r.rank % o.gpus_per_node;
        r.source = "--num-processes";
        if (o.nccl_init_method == "tcp") {
            r.meeting = Ranks::Meeting::tcp, r.address = o.server_ip, r.port = o.server_port;
            if (r.address.empty()) throw UsageError("--nccl-init-method tcp needs --server-ip (-ps), rank 0's address");
        } else {
            r.meeting = Ranks::Meeting::file, r.file = meeting_file(o.fs_path, "ranks_" + std::to_string(r.world));
        }
    } else if (from_variables(&r, "RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")) {
        r.meeting = Ranks::Meeting::tcp;
        r.address = text_variable("MASTER_ADDR"), r.port = number_variable("MASTER_PORT");
        if (r.world > 1 && (r.address.empty() || r.port < 0))
            throw UsageError("RANK and WORLD_SIZE are set, and MASTER_ADDR or MASTER_PORT is not");
    } else if (from_variables(&r, "mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")) {
        // On one machine a file will do; across machines rank 0's address travels by MPI.
        r.meeting = r.local_world == r.world && !open_mpi_job.empty() ? Ranks::Meeting::file : Ranks::Meeting::mpi;
        r.file = meeting_file(o.fs_path, open_mpi_job);
    } else if (in_slurm_step() &&
               from_variables(&r, "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")) {
        // SLURM's log directory, where the job was started, is the one place that all its machines share.
        std::string restarts = text_variable("SLURM_RESTART_COUNT");
        r.meeting = Ranks::Meeting::file;
        r.file = meeting_file(text_variable("SLURM_SUBMIT_DIR"),
                              "slurm_" + slurm_job + "_" + text_variable("SLURM_STEP_ID") + "_" + restarts);
        // "4(x2),3": four on each of two machines, three on another
        r.local_world = std::max(1, atoi(text_variable("SLURM_STEP_TASKS_PER_NODE").c_str()));
    }
    if (r.world < 1 || r.rank >= r.world)
        throw UsageError(strf("%s: rank %d of %d is not possible", r.source.c_str(), r.rank, r.world));
    if (o.num_processes > 0 && o.num_processes != r.world)
        throw UsageError(
            strf("--num-processes (-pn) says %d, %s %d; leave it out, or start with mpirun -np %d, srun, "
                 "torchrun's variables, or -pi tcp or fs",
                 o.num_processes, r.world == 1 ? "there is" : (r.source + " says").c_str(), r.world, o.num_processes));
    if (r.world == 1) r.meeting = Ranks::Meeting::none;
    return r;
}
