// Where a run writes, and the run there that it continues.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include "llmc/base/error.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/run_rules.h"

namespace fs = std::filesystem;

static std::string default_output(const Run& run) {
    std::string data = fs::absolute(run.train_shards[0]).parent_path().filename(), model = run.options.model;
    if (run.source.kind != ModelSource::Kind::size)
        model = fs::path(model.back() == '/' ? model.substr(0, model.size() - 1) : model).stem();
    for (char& c : model)
        if (c == ':' || c == '/') c = '-';
    return "runs/" + data + "-" + model;
}

void choose_output(Run& run, Notes* notes) {
    const Options& o = run.options;
    run.output = o.output.empty() ? default_output(run) : o.output;
    const std::string newest = newest_checkpoint(run.output);
    std::error_code no_log;
    const bool has_log = fs::file_size(run.output + "/log.jsonl", no_log) > 0 && !no_log;
    if ((has_log || !newest.empty()) && !o.resume)
        throw Error(run.output + " has a run already" +
                    (newest.empty() ? "" : " (" + fs::path(newest).filename().string() + ")") +
                    ": continue it with --resume (-y 1), or choose another --output (-o)");
    if (o.resume && newest.empty())
        notes->push_back("--resume: there is no checkpoint in " + run.output + ", starting afresh");
    run.resume_from = newest;
}

void obey_resumed_run(Run& run, Notes* notes) {
    Options& o = run.options;
    run.state = read_trainer_state(run.resume_from);
    ModelConfig recorded = find_model(run.resume_from).config, asked = run.config;
    if (asked.V == 0) asked.V = recorded.V;
    if (o.was_given("model") && !(asked == recorded))
        throw Error(
            strf("--resume: the run in %s is a model of the size %s, --model %s is not; leave out --model, or choose "
                 "another --output",
                 run.output.c_str(), model_size_text(recorded).c_str(), o.model.c_str()));
    run.config = recorded;
    if (!o.was_given("model")) o.model = run.resume_from;
    obey_recorded_options(run.state.options_json, &o, notes);
    if (o.max_steps > 0 && o.max_steps < run.state.step)
        throw UsageError(strf("--max-steps (-x) %lld: the run in %s has done %lld steps already; give more",
                              static_cast<long long>(o.max_steps), run.output.c_str(),
                              static_cast<long long>(run.state.step)));
}

static void check_writable(const std::string& output) {
    std::error_code error;
    fs::create_directories(output, error);
    std::string probe = output + "/.write_test";
    if (!error && std::ofstream(probe) << "x") {
        fs::remove(probe, error);
        return;
    }
    throw Error("cannot write into " + output + (error ? ": " + error.message() : "") +
                "; choose another directory with --output (-o)");
}

// One process at a time may train into a directory: two would delete each other's checkpoints. The kernel gives the
// lock back when the process ends, however it ends.
static std::shared_ptr<const int> lock_output(const std::string& output) {
    std::string path = output + "/.lock";
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    std::shared_ptr<const int> lock(new int(fd), [](const int* p) {
        if (*p >= 0) close(*p);
        delete p;
    });
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        throw Error("another process is training into " + output +
                    "; wait for it, or choose another directory with --output (-o)");
    return lock;
}

void take_output(Run& run) {
    check_writable(run.output);
    run.lock = lock_output(run.output);
    if (newest_checkpoint(run.output) != run.resume_from)
        throw Error("another process has just trained into " + run.output + "; give the command again");
}
