// Where a run writes, and the run there that it continues.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <cerrno>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/run_rules.h"

namespace fs = std::filesystem;

// The data's name: that of its first shard without what says which part of the whole it is, or, where nothing is left
// (train_000000.bin), of the directory that it lies in.
static std::string data_name(const std::string& shard) {
    const fs::path path = fs::absolute(shard).lexically_normal();
    std::string name = path.stem();
    const auto drop = [&](const std::string& characters) {
        name.resize(name.find_last_not_of(characters) + 1);  // npos + 1 == 0: nothing is left
    };
    const size_t digits = name.find_last_not_of("0123456789") + 1;
    if (digits == 0 || name[digits - 1] == '_' || name[digits - 1] == '-') drop("0123456789"), drop("_-");
    for (const char* part : {"train", "val"})
        if (name.ends_with(part)) name.resize(name.size() - std::string(part).size()), drop("_-");
    if (name.empty()) name = path.parent_path().filename();
    return name.empty() ? "data" : name;
}

static std::string default_output(const Run& run) {
    std::string data = data_name(run.on_examples ? run.options.train_data[0] : run.train_shards[0]),
                model = run.options.model;
    if (run.source.kind != ModelSource::Kind::size)
        model = fs::path(model.back() == '/' ? model.substr(0, model.size() - 1) : model).stem();
    for (char& c : model)
        if (c == ':' || c == '/') c = '-';
    return "runs/" + data + "-" + model;
}

void choose_output(Run& run, Notes* notes) {
    const Options& o = run.options;
    run.output = o.output.empty() ? default_output(run) : o.output;
    std::vector<std::string> checkpoints = list_checkpoints(run.output);
    const std::string log = run.output + "/log.jsonl";
    const bool has_log = is_file(log) && fs::file_size(log) > 0;
    if ((has_log || !checkpoints.empty()) && !o.resume)
        throw Error(run.output + " has a run already" +
                    (checkpoints.empty() ? "" : " (" + fs::path(checkpoints.back()).filename().string() + ")") +
                    ": continue it with --resume (-y 1), or choose another --output (-o)");
    run.damaged = false_checkpoints(run.output);
    if (checkpoints.empty() && !run.damaged.empty())
        throw Error(
            strf("%s has no trainer_state.json: it is no checkpoint that a run could be resumed from, and would "
                 "be in the way of one; its weights can start another run (--model %s --output ...); move it "
                 "elsewhere to start afresh here",
                 run.damaged.back().c_str(), run.damaged.back().c_str()));
    if (o.resume && checkpoints.empty())
        notes->push_back("--resume: there is no checkpoint in " + run.output + ", starting afresh");
    for (const std::string& dir : run.damaged)
        notes->push_back(strf("note: %s has no trainer_state.json and is no checkpoint; it is set aside", dir.c_str()));
    while (!checkpoints.empty()) {
        run.resume_from = checkpoints.back();
        try {
            run.state = read_trainer_state(run.resume_from);
            break;
        } catch (const Error& e) {
            if (!o.fall_back || checkpoints.size() == 1) throw;
            notes->push_back(strf("note: %s; --fall-back: it is set aside", e.what()));
            run.damaged.push_back(run.resume_from);
            checkpoints.pop_back();
        }
    }
}

void obey_resumed_run(Run& run, Notes* notes) {
    Options& o = run.options;
    ModelSource saved =
        find_model(run.resume_from, run.source.kind == ModelSource::Kind::size ? o.base : run.source.path);
    ModelConfig recorded = saved.config, asked = run.config;
    if (asked.V == 0) asked.V = recorded.V;
    asked.head = recorded.head;  // which --head gave the run
    if (o.was_given("model") && !(asked == recorded))
        throw Error(
            strf("--resume: the run in %s is a model of the size %s, --model %s is not; leave out --model, give "
                 "the --vocab that the run began with, or choose another --output",
                 run.output.c_str(), model_size_text(recorded).c_str(), o.model.c_str()));
    if (!o.vocab.empty() && !Tokenizer::load(o.vocab).within(Tokenizer::load(run.resume_from)))
        throw Error(strf("--resume: the run in %s has another vocabulary than --vocab %s; leave it out",
                         run.output.c_str(), o.vocab.c_str()));
    run.config = recorded;
    for (const char* option : {"lora-rank", "prompt-tokens"})
        if (!saved.adapter && o.was_given(option))
            throw UsageError(
                strf("--resume: the run in %s trains the whole model; leave out --%s, or choose another "
                     "--output",
                     run.output.c_str(), option));
    if (saved.adapter) run.source = saved, run.adapters = {*saved.adapter};
    else run.adapters.clear();
    if (!o.was_given("model")) o.model = run.resume_from;
    const std::string begun = recorded_optimizer(run.state.options_json);
    if (o.was_given("optimizer") && o.optimizer != begun)
        throw UsageError(
            strf("--resume: the run in %s was begun with --optimizer %s, whose state %s cannot go on from; leave "
                 "--optimizer out, or start from the run's weights in another --output (finetune --model %s)",
                 run.output.c_str(), begun.c_str(), o.optimizer.c_str(), run.output.c_str()));
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
    int fd = error ? -1 : (unlink(probe.c_str()), open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    bool good = fd >= 0 && write(fd, "x", 1) == 1;
    if (fd >= 0) close(fd), unlink(probe.c_str());
    if (good) return;
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
    for (const std::string& dir : run.damaged)
        if (path_exists(dir)) set_aside(dir);
    if (newest_checkpoint(run.output) != run.resume_from)
        throw Error("another process has just trained into " + run.output + "; give the command again");
    clear_leftovers(run.output, *run.lock >= 0);
}
