#include "llmc/run/run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include "llmc/base/error.h"
#include "llmc/text/shards.h"

namespace fs = std::filesystem;

static constexpr int kGpt2Vocabulary = 50257;

StepOptions Run::step_options(int B) const {
    StepOptions o;
    o.B = B, o.T = T;
    o.recompute = options.recompute;
    o.dropout = static_cast<float>(options.dropout), o.grad_clip = static_cast<float>(options.grad_clip);
    o.beta1 = static_cast<float>(options.beta1), o.beta2 = static_cast<float>(options.beta2);
    o.epsilon = static_cast<float>(options.epsilon), o.weight_decay = static_cast<float>(options.weight_decay);
    o.rank = rank, o.world = world, o.zero_stage = options.zero_stage;
    o.master_weights = options.master_weights, o.stochastic_rounding = options.stochastic_rounding;
    return o;
}

// The default data set: what `make data` has made.
static std::string default_data(const char* split) {
    for (const char* name : {"tinyshakespeare", "bible"})
        if (fs::exists(strf("data/%s/%s_000000.bin", name, split))) return strf("data/%s/%s_*.bin", name, split);
    throw Error(strf("there is no data in data/tinyshakespeare: run `make data`, or name token shards with %s",
                     std::string(split) == "train" ? "--train-data (-i)" : "--val-data (-j)"));
}

// Where GPT-2's vocabulary is, or "".
static std::string gpt2_vocabulary() {
    for (const char* dir : {"data/gpt2", "gpt2"})
        if (Tokenizer::present(dir)) return dir;
    return "";
}

// Vocabulary of shards: directory ("" if GPT-2's files are not at hand) and size.
static void find_vocabulary(Run& run, const std::vector<std::string>& shards) {
    std::string beside = vocabulary_dir(shards), models = run.source.vocabulary;  // what the model was trained with
    if (!run.resume_from.empty()) models = Tokenizer::present(run.resume_from) ? run.resume_from : "";
    run.vocabulary = beside.empty() && run.config.V == kGpt2Vocabulary ? models : beside;
    if (beside.empty() && run.vocabulary.empty()) run.vocabulary = gpt2_vocabulary();
    if (!run.vocabulary.empty()) run.tokenizer = Tokenizer::load(run.vocabulary);
    int V = run.tokenizer ? run.tokenizer->vocab_size() : kGpt2Vocabulary;
    if (run.config.V == 0) run.config.V = V;
    if (run.config.V != V)
        throw Error(
            strf("the data (%s) has a vocabulary of %d tokens, the model (%s) one of %d: encode the text with the "
                 "model's vocabulary (./tokenize "
                 "encode --vocab), or train a new model",
                 shards[0].c_str(), V, run.options.model.c_str(), run.config.V));
    if (run.tokenizer && !models.empty() && models != run.vocabulary && !run.tokenizer->same(Tokenizer::load(models)))
        throw Error(
            strf("the vocabularies of the data (%s) and of the model (%s) have the same size and different tokens: "
                 "encode the text with the model's vocabulary (./tokenize encode --vocab), or train a new model",
                 run.vocabulary.c_str(), models.c_str()));
}

static std::string data_json(const Run& run) {
    nlohmann::json shards = nlohmann::json::array();
    for (const std::string& path : run.train_shards)
        shards.push_back({{"file", fs::path(path).filename()}, {"tokens", Shard(path, 0).size()}});
    return nlohmann::json{{"train", shards}, {"vocabulary_size", run.config.V}}.dump(
        -1, ' ', false, nlohmann::json::error_handler_t::replace);  // of a name that is no UTF-8
}

static void check_output(const std::string& output) {
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

static std::string default_output(const Run& run) {
    std::string data = fs::absolute(run.train_shards[0]).parent_path().filename(), model = run.options.model;
    if (run.source.kind != ModelSource::Kind::size)
        model = fs::path(model.back() == '/' ? model.substr(0, model.size() - 1) : model).stem();
    for (char& c : model)
        if (c == ':' || c == '/') c = '-';
    return "runs/" + data + "-" + model;
}

Run prepare_training(const Options& given, const ProgramInfo& program, int rank, int world,
                     std::vector<std::string>* notes) {
    Run run;
    run.options = given;
    run.rank = rank, run.world = world;
    Options& o = run.options;
    if (o.zero_stage > 0 && world == 1) notes->push_back("note: --zero-stage has no effect with one process");
    if (o.model.empty()) o.model = program.default_model;
    run.source = find_model(o.model);
    if (o.train_data.empty()) o.train_data = {default_data("train")};
    run.train_shards = expand_shards(o.train_data, "--train-data (-i)");
    if (o.val_data.empty() && !given.train_data.empty()) {
        // The validation shards beside the training shards; none there is no error: then nothing is validated.
        std::string pattern = fs::path(run.train_shards[0]).parent_path() / "val_*.bin";
        try {
            run.val_shards = expand_shards({pattern}, "--val-data");
        } catch (const Error&) {
            notes->push_back("note: no --val-data and no " + pattern + ": validation loss is not measured");
        }
    } else {
        if (o.val_data.empty()) o.val_data = {default_data("val")};
        run.val_shards = expand_shards(o.val_data, "--val-data (-j)");
    }
    if (o.command == Command::finetune && run.source.kind == ModelSource::Kind::size)
        throw UsageError("finetune: --model " + o.model + " is a size; name a model directory, a run or a .bin file");

    run.output = o.output.empty() ? default_output(run) : o.output;
    std::string newest = newest_checkpoint(run.output);
    std::error_code no_log;
    bool has_run = !newest.empty() || (fs::file_size(run.output + "/log.jsonl", no_log) > 0 && !no_log);
    if (has_run && !o.resume)
        throw Error(run.output + " has a run already" +
                    (newest.empty() ? "" : " (" + fs::path(newest).filename().string() + ")") +
                    ": continue it with --resume (-y 1), or choose another --output (-o)");
    if (o.resume && newest.empty())
        notes->push_back("--resume: there is no checkpoint in " + run.output + ", starting afresh");
    run.config = run.source.config;
    if (o.resume && !newest.empty()) {
        run.resume_from = newest;
        run.state = read_trainer_state(newest);
        ModelConfig recorded = find_model(newest).config, asked = run.config;
        if (asked.V == 0) asked.V = recorded.V;
        if (given.was_given("model") && !(asked == recorded))
            throw Error(
                strf("--resume: the run in %s is a model of L=%d NH=%d C=%d T=%d V=%d, --model %s is not; leave out "
                     "--model, or choose another --output",
                     run.output.c_str(), recorded.L, recorded.NH, recorded.C, recorded.T, recorded.V, o.model.c_str()));
        run.config = recorded;
        if (!given.was_given("model")) o.model = newest;
        obey_recorded_options(run.state.options_json, &o, notes);
        if (o.max_steps > 0 && o.max_steps < run.state.step)
            throw UsageError(strf("--max-steps (-x) %lld: the run in %s has done %lld steps already; give more",
                                  static_cast<long long>(o.max_steps), run.output.c_str(),
                                  static_cast<long long>(run.state.step)));
    }
    std::vector<std::string> all_shards = run.train_shards;
    all_shards.insert(all_shards.end(), run.val_shards.begin(), run.val_shards.end());
    find_vocabulary(run, all_shards);
    check_model_config(run.config, "--model " + o.model);

    std::string precision = o.precision.empty() ? program.default_precision : o.precision;
    o.precision = precision;
    run.bf16 = precision == "bf16";
    run.T = o.seq_len > 0 ? o.seq_len : run.config.T;
    if (run.T > run.config.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the model's longest context, %d; give at most that",
                              run.T, run.config.T));
    o.seq_len = run.T;
    if (o.total_batch_size == 0)
        o.total_batch_size = o.micro_batch_size > 0 ? int64_t(o.micro_batch_size) * run.T * world
                                                    : std::max<int64_t>(1, program.default_total_batch / run.T) * run.T;
    if (o.total_batch_size % run.T != 0) {
        int64_t below = o.total_batch_size / run.T * run.T;
        throw UsageError(strf(
            "--total-batch-size (-d) %lld is no multiple of --seq-len (-t) %d; the nearest that are: %lld and %lld",
            static_cast<long long>(o.total_batch_size), run.T, static_cast<long long>(std::max<int64_t>(below, run.T)),
            static_cast<long long>(below + run.T)));
    }
    run.sequences = o.total_batch_size / run.T;
    if (run.sequences < world)
        throw UsageError(
            strf("--total-batch-size (-d) %lld gives %lld sequences a step, fewer than the %d ranks; make it "
                 "larger, or start fewer ranks",
                 static_cast<long long>(o.total_batch_size), static_cast<long long>(run.sequences), world));
    if (o.micro_batch_size > run.sequences)
        throw UsageError(
            strf("--micro-batch-size (-b) %d x --seq-len (-t) %d is more than --total-batch-size (-d) %lld; make one "
                 "smaller or the other larger",
                 o.micro_batch_size, run.T, static_cast<long long>(o.total_batch_size)));
    std::string data = data_json(run);
    if (!run.resume_from.empty() && run.state.data_json != data)
        notes->push_back(
            "note: --resume: the training shards are not those of the interrupted run; the order of samples changes");
    run.state.data_json = data;
    if (rank > 0) return run;
    check_output(run.output);
    run.lock = lock_output(run.output);
    if (newest_checkpoint(run.output) != newest)
        throw Error("another process has just trained into " + run.output + "; give the command again");
    return run;
}

std::string start_description(const Run& run, const std::string& device) {
    nlohmann::json j = nlohmann::json::parse(arithmetic_options_json(run.options));
    j["training data"] = nlohmann::json::parse(run.state.data_json);
    std::string validation;
    for (const std::string& path : run.val_shards)
        validation +=
            strf("%s (%lld tokens) ", fs::path(path).filename().c_str(), static_cast<long long>(Shard(path, 0).size()));
    j["validation data"] = validation, j["model"] = run.options.model, j["device"] = device;
    j["output"] = run.output, j["checkpoint to resume from"] = run.resume_from, j["step"] = run.state.step;
    return j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
std::string start_description(const Error& error) {
    return nlohmann::json{{"error", error.what()}, {"exit code", error.exit_code}}.dump(
        -1, ' ', false, nlohmann::json::error_handler_t::replace);
}
void compare_starts(const std::vector<std::string>& descriptions) {
    std::vector<nlohmann::json> all;
    for (const std::string& text : descriptions) all.push_back(nlohmann::json::parse(text));
    for (size_t r = 0; r < all.size(); r++)
        if (all[r].contains("error"))
            throw Error(strf("rank %zu: %s", r, all[r]["error"].get<std::string>().c_str()),
                        all[r]["exit code"].get<int>());
    for (size_t r = 1; r < all.size(); r++)
        for (auto& [key, value] : all[0].items())
            if (all[r][key] != value)
                throw Error(strf("rank %zu differs from rank 0 in %s: %s instead of %s; start all ranks alike", r,
                                 key.c_str(), all[r][key].dump().c_str(), value.dump().c_str()));
}

Run prepare_inference(const Options& given, const ProgramInfo& program) {
    Run run;
    run.options = given;
    Options& o = run.options;
    std::string verb = o.command == Command::sample ? "sample" : "eval";
    if (o.model.empty())
        throw UsageError(verb + ": --model (-e) is missing: a run's directory, a model directory or a .bin file");
    run.source = find_model(o.model);
    if (run.source.kind == ModelSource::Kind::size)
        throw UsageError(verb + ": --model " + o.model +
                         " is a size without weights; name a run, a model directory or a .bin file");
    run.config = run.source.config;
    check_model_config(run.config, "--model " + o.model);
    run.vocabulary = run.source.vocabulary;
    if (run.vocabulary.empty() && run.config.V == kGpt2Vocabulary) run.vocabulary = gpt2_vocabulary();
    if (o.command == Command::eval && o.task.empty()) {
        if (o.val_data.empty()) o.val_data = {default_data("val")};
        run.val_shards = expand_shards(o.val_data, "--val-data (-j)");
        find_vocabulary(run, run.val_shards);
    } else if (!run.vocabulary.empty()) {
        run.tokenizer = Tokenizer::load(run.vocabulary);
        if (run.tokenizer->vocab_size() != run.config.V)
            throw Error(
                strf("%s: vocab.json has %d tokens, the model %d; put the vocabulary it was trained with beside it",
                     run.vocabulary.c_str(), run.tokenizer->vocab_size(), run.config.V));
    }
    bool needs_text = o.command == Command::sample || !o.task.empty();
    if (needs_text && !run.tokenizer)
        throw Error(
            o.model +
            " has no vocab.json and merges.txt beside it: copy those it was trained with there (GPT-2's: `make gpt2`)");
    run.bf16 = (o.precision.empty() ? program.default_precision : o.precision) == "bf16";
    run.T = o.seq_len > 0 ? o.seq_len : run.config.T;
    if (run.T > run.config.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the model's longest context, %d; give at most that",
                              run.T, run.config.T));
    return run;
}

int choose_micro_batch(const Run& run, const std::function<size_t(int)>& bytes, double available) {
    auto refuse = [&](int B, double need) {
        throw Error(
            strf("not enough memory: %d sequence(s) of %d tokens at a time need %s, %s are available; try a smaller "
                 "%s--model (-e) or --seq-len (-t), "
                 "or --recompute (-r) 3",
                 B, run.T, human_bytes(need).c_str(), human_bytes(available).c_str(),
                 B > 1 ? "--micro-batch-size (-b), " : ""));
    };
    if (int B = run.options.micro_batch_size; B > 0) {
        if (double need = static_cast<double>(bytes(B)); need > available) refuse(B, need);
        return B;
    }
    int64_t sequences = (run.sequences + run.world - 1) / run.world;
    for (int64_t parts = 1;; parts++) {
        int B = static_cast<int>((sequences + parts - 1) / parts);
        double need = static_cast<double>(bytes(B));
        if (need <= 0.8 * available) return B;
        if (B == 1) refuse(B, need);
    }
}
