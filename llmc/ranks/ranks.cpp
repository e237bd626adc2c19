#include "llmc/ranks/ranks.h"

#include <arpa/inet.h>
#include <unistd.h>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "llmc/base/error.h"
#include "llmc/base/sha256.h"

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

// ---- rank 0's address ----

static bool is_address(int family, const std::string& text) {
    unsigned char bytes[sizeof(in6_addr)];
    return inet_pton(family, text.c_str(), bytes) == 1;
}

// Refuses what can never be an address of rank 0; the brackets of [::1] go.
static std::string checked_address(std::string a, const std::string& option, const std::string& port_option) {
    auto refuse = [&](const std::string& why) {
        throw UsageError(strf("%s %s %s", option.c_str(), a.c_str(), why.c_str()));
    };
    const std::string name = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_";
    size_t colon = a.rfind(':');
    bool port = colon != std::string::npos && colon + 1 < a.size() &&
                a.find_first_not_of("0123456789", colon + 1) == std::string::npos;
    if (port && (a.find(':') == colon || a[colon - 1] == ']'))
        refuse("has a port in it; give that with " + port_option);
    if (a.size() > 2 && a.front() == '[' && a.back() == ']') a = a.substr(1, a.size() - 2);
    const bool v6 = a.find_first_of(":[]") != std::string::npos;
    if (v6 && !is_address(AF_INET6, a.substr(0, a.find('%')))) refuse("is no IPv6 address");
    if (!v6 && a.find_first_not_of("0123456789.") == std::string::npos && !is_address(AF_INET, a))
        refuse("is no IPv4 address");
    if (!v6 && a.find_first_not_of(name) != std::string::npos) refuse("is no name of a machine and no address");
    if (a == "0.0.0.0" || a == "::") refuse("names no machine; give rank 0's own address, 127.0.0.1 on one machine");
    return a;
}

// At an address and a port that the user gives. A file that only this user can read carries the secret: on one machine,
// or in a directory that all see.
static void meet_at(Ranks* r, const RankOptions& o, const std::string& option, const std::string& port_option) {
    if (r->port < 1 || r->port > 65535)
        throw UsageError(strf("%s %d is no port; give one from 1 to 65535", port_option.c_str(), r->port));
    std::string& a = r->address;
    a = checked_address(a, option, port_option);
    r->one_machine = r->one_machine || a == "localhost" || a == "::1" || a.starts_with("127.");
    if (r->one_machine && a != "::1" && !a.starts_with("127.")) a = "127.0.0.1";
    r->secret = text_variable("TRAIN_GPT2_SECRET");
    const bool by_file = r->secret.empty() && (r->one_machine || o.fs_path != RankOptions().fs_path);
    r->meeting = by_file ? Ranks::Meeting::file : Ranks::Meeting::tcp;
    r->file = meeting_file(o.fs_path, strf("%d_%d", static_cast<int>(geteuid()), r->port));
}

// ---- who they are ----

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
            r.address = o.server_ip, r.port = o.server_port, r.one_machine = false;
            if (r.address.empty()) throw UsageError("--nccl-init-method tcp needs --server-ip (-ps), rank 0's address");
            meet_at(&r, o, "--server-ip (-ps)", "--server-port");
        } else {
            r.meeting = Ranks::Meeting::file, r.one_machine = r.local_world == r.world;
            r.file = meeting_file(o.fs_path, strf("ranks_%d_%.8s", r.world, hmac_sha256("job", o.job).c_str()));
        }
    } else if (from_variables(&r, "RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")) {
        r.address = text_variable("MASTER_ADDR"), r.port = number_variable("MASTER_PORT");
        r.one_machine = number_variable("LOCAL_WORLD_SIZE") == r.world;
        if (r.world > 1 && (r.address.empty() || r.port < 0))
            throw UsageError("RANK and WORLD_SIZE are set, and MASTER_ADDR or MASTER_PORT is not");
        if (r.world > 1) meet_at(&r, o, "MASTER_ADDR", "MASTER_PORT");
    } else if (from_variables(&r, "mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")) {
        // On one machine a file will do; across machines rank 0's address travels by MPI.
        r.one_machine = r.local_world == r.world;
        r.meeting = r.one_machine && !open_mpi_job.empty() ? Ranks::Meeting::file : Ranks::Meeting::mpi;
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
        r.one_machine = r.local_world == r.world;
    }
    if (r.world < 1 || r.rank >= r.world)
        throw UsageError(strf("%s: rank %d of %d is not possible", r.source.c_str(), r.rank, r.world));
    if (o.num_processes > 0 && o.num_processes != r.world)
        throw UsageError(
            strf("--num-processes (-pn) says %d, %s %d; leave it out, or start with mpirun -np %d, srun, "
                 "torchrun's variables, or -pi tcp or fs",
                 o.num_processes, r.world == 1 ? "there is" : (r.source + " says").c_str(), r.world, o.num_processes));
    if (r.world == 1) r.meeting = Ranks::Meeting::none;
    else if (r.address.empty() && r.one_machine) r.address = "127.0.0.1";
    else if (r.address.empty() && !o.server_ip.empty())
        r.address = checked_address(o.server_ip, "--server-ip (-ps)", "--server-port");
    return r;
}

int rank_if_known() {
    try {
        return find_ranks({}).rank;
    } catch (const UsageError&) {
        for (const char* name : {"RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"})
            if (std::string text = text_variable(name); !text.empty()) return atoi(text.c_str());
        return 0;
    }
}

bool launcher_ends_all() { return getenv("OMPI_COMM_WORLD_RANK") || getenv("TORCHELASTIC_RUN_ID"); }
