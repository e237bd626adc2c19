// main() of both programs: parse, choose the precision, run the command; every error ends here in one line.
#pragma once
#include <malloc.h>
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/scarcity.h"
#include "llmc/run/commands.h"
#include "llmc/run/compare_starts.h"
#include "llmc/run/export_command.h"
#include "llmc/run/plan.h"
#include "llmc/run/plot.h"

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

// What an exception says to a person. `reason`: the same for those who hear of it from another rank.
struct Ending {
    std::string line, reason;
    int code = 1;
};
inline Ending ending_of(const std::exception_ptr& exception) {
    const auto error = [](const std::string& reason, int code) { return Ending{"error: " + reason, reason, code}; };
    try {
        std::rethrow_exception(exception);
    } catch (const Error& e) {
        return error(e.what(), e.exit_code);
    } catch (const std::filesystem::filesystem_error& e) {
        return error(e.path1().string() + ": " + e.code().message(), 1);
    } catch (const std::bad_alloc&) {
        return error("out of memory; try a smaller --micro-batch-size (-b), --seq-len (-t) or --model (-e)", 1);
    } catch (const std::exception& e) {
        if (const std::string why = scarcity_reason(e); !why.empty()) return error(why, 1);
        return {strf("internal error: %s; please report it with the command line", e.what()), e.what(), 1};
    }
}

// One line on stderr; returns the exit code. With several ranks rank 0 speaks for all, and none waits for another any
// more.
inline int end_with_error(const ProgramInfo& program, Group* group, const Ending& e) {
    fflush(stdout);
    const bool several = group && group->world() > 1, follows = several && group->rank() > 0;
    // What went wrong in all ranks alike, rank 0 says, and that ends this one while it waits: of a wrong command line
    // the launcher does that, mpirun after a second.
    if (follows) std::this_thread::sleep_for(std::chrono::seconds(1));
    else if (!group && e.code == 2 && rank_if_known() > 0 && launcher_ends_all())
        std::this_thread::sleep_for(std::chrono::seconds(3));
    if (several) group->fail(e.reason, e.code);
    if (follows) std::this_thread::sleep_for(std::chrono::seconds(3));  // rank 0 ends us
    else fprintf(stderr, "%s: %s\n", program.name.c_str(), printable(e.line).c_str());
    if (several) fflush(nullptr), _exit(e.code);
    return e.code;
}

// A run of its command with the model of its precision. `group` is made here; the caller keeps it for errors.
template <template <typename X> class ModelOf, typename Half>
int run_options(Options& options, const ProgramInfo& program, std::unique_ptr<Group>& group) {
    using Device = typename ModelOf<float>::Device;
    const bool training = options.command == Command::train || options.command == Command::finetune;
    options.ranks.job = options.output.empty() ? options.model : options.output;
    if (options.output.empty())
        for (const auto* list : {&options.train_data, &options.val_data})
            for (const std::string& path : *list) options.ranks.job += " " + path;
    const bool alone = options.command == Command::sample || options.command == Command::chat;
    const Ranks ranks = alone ? Ranks{} : find_ranks(options.ranks);
    if (ranks.rank > 0 && !freopen("/dev/null", "w", stdout)) throw Error("/dev/null cannot be opened");
    std::vector<std::string> notes;
    if (ranks.meeting == Ranks::Meeting::tcp && ranks.secret.empty())
        notes.push_back("note: whoever reaches port " + std::to_string(ranks.port) +
                        " can take a rank's place; to prevent that, give all ranks the same TRAIN_GPT2_SECRET, or a "
                        "--fs-path (-pf) that all see");
    Run run;
    std::exception_ptr failed;
    try {
        start_threads();
        Device::open(options.device, ranks.local_rank);
        run = training ? prepare_training(options, program, ranks.rank, ranks.world, &notes)
                       : prepare_inference(options, program, &notes);
        if (!training)
            run.options.device.attention = "own", run.options.device.algorithms = "first";  // no backward pass
        Device::configure(run.options.device, run.bf16);
    } catch (const std::exception&) {
        if (ranks.world == 1) throw;
        failed = std::current_exception();
    }
    // Of a rank that could not prepare all learn why.
    group = std::make_unique<Group>(ranks, options.comm_timeout);
    if (group->world() > 1) {
        const Ending why = failed ? ending_of(failed) : Ending{};
        compare_starts(group->exchange(failed ? start_description(Error(why.reason, why.code))
                                              : start_description(run, Device::name())));
    }
    for (const std::string& note : notes) fprintf(training ? stdout : stderr, "%s\n", note.c_str());
    const int code = run.bf16 ? run_command<ModelOf<Half>>(std::move(run), *group)
                              : run_command<ModelOf<float>>(std::move(run), *group);
    if (!training) check_stdout();  // training goes on and ends well without anybody who reads
    return code;
}

// ModelOf<X>: the model with weights and activations of type X; Half: the type of --precision bf16.
template <template <typename X> class ModelOf, typename Half>
int run_program(int argc, char** argv, const ProgramInfo& program) {
    mallopt(M_MMAP_THRESHOLD, 4 << 20);  // large pieces go back to the system when they are freed, at any time of a run
    end_in_one_line(program.name.c_str());
    handle_signals_of_files();
    open_standard_streams();
    std::unique_ptr<Group> group;
    try {
        Options options;
        const bool first = rank_if_known() == 0;
        if (!first && !freopen("/dev/null", "w", stdout)) throw Error("/dev/null cannot be opened");
        const bool help_was_printed = !parse_options(argc, argv, program, &options);
        // what one process does, the first of several does alone
        const bool needs_model = options.command < Command::export_model;  // export, plan and plot do not
        if (!first && (options.command == Command::sample || options.command == Command::chat || !needs_model))
            return 0;
        if (!help_was_printed && needs_model) return run_options<ModelOf, Half>(options, program, group);
        if (!help_was_printed && options.command == Command::plan) plan_command(options);
        if (!help_was_printed && options.command == Command::export_model) export_command(options, program);
        if (!help_was_printed && options.command == Command::plot) plot_command(options);
        check_stdout();
        return 0;
    } catch (const std::exception&) {
        return end_with_error(program, group.get(), ending_of(std::current_exception()));
    }
}
