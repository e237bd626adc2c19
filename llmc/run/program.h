// main() of both programs: parse, choose the precision, run the command; every error ends here in one line.
#pragma once
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/run/commands.h"
#include "llmc/run/compare_starts.h"
#include "llmc/run/plan.h"

inline void handle_signals_of_files() {
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is then a failed write, with a message, like a full disk
    std::signal(SIGBUS, [](int) {   // how a mapped file says that it has become shorter
        const char message[] =
            "error: a token shard or model file was cut short while it was in use; write it again, and go on from the "
            "newest checkpoint with --resume\n";
        [[maybe_unused]] ssize_t n = write(STDERR_FILENO, message, sizeof message - 1);
        _exit(1);
    });
}

inline void check_stdout() {
    if (fflush(stdout) != 0 || ferror(stdout)) throw Error("cannot write to standard output");
}

// One line on stderr; returns the exit code. With several ranks rank 0 speaks for all, and none waits for another any
// more. `reason` is what the others hear, `line` what a person reads.
inline int end_with_error(const ProgramInfo& program, Group* group, const std::string& line, const std::string& reason,
                          int code) {
    fflush(stdout);
    const bool several = group && group->world() > 1;
    // What went wrong in all ranks alike, rank 0 says, and that ends this one while it waits.
    if (several && group->rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    if (several) group->fail(reason, code);
    if (several && group->rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(3));  // rank 0 ends us
    else fprintf(stderr, "%s: %s\n", program.name.c_str(), line.c_str());
    if (several) fflush(nullptr), _exit(code);
    return code;
}

// A run of its command with the model of its precision. `group` is made here; the caller keeps it for errors.
template <template <typename X> class ModelOf, typename Half>
int run_options(Options& options, const ProgramInfo& program, std::unique_ptr<Group>& group) {
    using Device = typename ModelOf<float>::Device;
    const bool training = options.command == Command::train || options.command == Command::finetune;
    const Ranks ranks = options.command == Command::sample ? Ranks{} : find_ranks(options.ranks);
    if (ranks.rank > 0 && !freopen("/dev/null", "w", stdout)) throw Error("/dev/null cannot be opened");
    std::vector<std::string> notes;
    Run run;
    try {
        Device::open(options.device, ranks.local_rank);
        run = training ? prepare_training(options, program, ranks.rank, ranks.world, &notes)
                       : prepare_inference(options, program, &notes);
        Device::configure(run.options.device, run.bf16);
        group = std::make_unique<Group>(ranks, options.comm_timeout);
    } catch (const Error& e) {
        // The others learn why this rank does not take part. If it is alone, or did not meet them, it just ends.
        if (ranks.world == 1 || group) throw;
        group = std::make_unique<Group>(ranks, options.comm_timeout);
        group->exchange(start_description(e));
        throw;
    }
    if (group->world() > 1) compare_starts(group->exchange(start_description(run, Device::name())));
    for (const std::string& note : notes) fprintf(training ? stdout : stderr, "%s\n", note.c_str());
    const int code = run.bf16 ? run_command<ModelOf<Half>>(std::move(run), *group)
                              : run_command<ModelOf<float>>(std::move(run), *group);
    if (!training) check_stdout();  // training goes on and ends well without anybody who reads
    return code;
}

// ModelOf<X>: the model with weights and activations of type X; Half: the type of --precision bf16.
template <template <typename X> class ModelOf, typename Half>
int run_program(int argc, char** argv, const ProgramInfo& program) {
    handle_signals_of_files();
    open_standard_streams();
    std::unique_ptr<Group> group;
    const auto end = [&](const std::string& line, const std::string& reason, int code) {
        return end_with_error(program, group.get(), line, reason, code);
    };
    try {
        Options options;
        const bool help_was_printed = !parse_options(argc, argv, program, &options);
        if (!help_was_printed && options.command != Command::plan)
            return run_options<ModelOf, Half>(options, program, group);
        if (!help_was_printed) plan_command(options);
        check_stdout();
        return 0;
    } catch (const Error& e) {
        return end(strf("error: %s", e.what()), e.what(), e.exit_code);
    } catch (const std::filesystem::filesystem_error& e) {
        const std::string reason = e.path1().string() + ": " + e.code().message();
        return end("error: " + reason, reason, 1);
    } catch (const std::bad_alloc&) {
        const std::string reason =
            "out of memory; try a smaller --micro-batch-size (-b), --seq-len (-t) or --model (-e)";
        return end("error: " + reason, reason, 1);
    } catch (const std::exception& e) {
        return end(strf("internal error: %s; please report it with the command line", e.what()), e.what(), 1);
    }
}
