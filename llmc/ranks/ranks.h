// Who takes part in a run: which of how many processes this one is, and where they meet.
#pragma once
#include <string>

// What the command line says about it (llm.c's -pn -pr -pg -pi -ps -pp -pf).
struct RankOptions {
    int num_processes = 0, process_rank = 0, gpus_per_node = 8;  // num_processes 0: not said
    std::string nccl_init_method = "mpi", server_ip, fs_path = "/tmp";
    int server_port = 29500;
    std::string job;  // fs: what tells this job from others that meet in the same directory; the same in all its ranks
};

struct Ranks {
    enum class Meeting { none, mpi, tcp, file };
    int rank = 0, world = 1;
    int local_rank = 0, local_world = 1;  // among the processes of this machine
    Meeting meeting = Meeting::none;      // how the others learn where rank 0 listens
    bool one_machine = true;              // all ranks are on one: rank 0 listens on the loopback alone
    std::string address;                  // by which rank 0 is reached; "": by any of its addresses
    int port = 0;                         // of rank 0; 0: the one that it gets
    std::string file;                     // file: path that all ranks see; rank 0 writes there where it listens
    std::string secret;                   // tcp: what the ranks of this job know (TRAIN_GPT2_SECRET)
    std::string source = "one process";   // where the numbers come from, for messages
};

// From the options (llm.c's -pn -pr -pg -pi -ps -pf), else torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK,
// MASTER_ADDR, MASTER_PORT), else Open MPI's (OMPI_COMM_WORLD_RANK ...), else SLURM's (inside a step that srun started;
// one process in an allocation's shell waits for nobody). UsageError: numbers that contradict each other, an address or
// a port that cannot be one.
Ranks find_ranks(const RankOptions& options);
// This process's number as a launcher gives it, before anything is checked: for commands that one process does, and for errors that all ranks
// have in common. 0 where it is not known.
int rank_if_known();
bool launcher_ends_all();  // when one rank ends with an error: mpirun and torchrun do
