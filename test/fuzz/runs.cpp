// Command lines, and what a run leaves and a resume reads.
#include <cmath>
#include <cstdlib>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/checkpoint.h"
#include "llmc/run/log.h"
#include "llmc/run/options.h"
#include "llmc/run/plan.h"
#include "llmc/run/run_rules.h"
#include "test/fuzz/fuzz.h"

static const ProgramInfo kProgram{"train_gpt2", "L6:H6:C384:T256", "fp32", 4096};

// What a run records of its options is what a resume has then.
static void check_record(const Options& o) {
    const std::string record = arithmetic_options_json(o);
    Options again;
    again.command = o.command, again.model = o.model;
    std::vector<std::string> notes;
    cannot_fail([&] { obey_recorded_options(record, &again, &notes); });
    CHECK(arithmetic_options_json(again) == record, "%s becomes %s", record.c_str(),
          arithmetic_options_json(again).c_str());
}

// Lines: NAME=value for the environment, then an argument each.
FUZZ(options) {
    for (const char* name :
         {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
          "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE",
          "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"}) {
        unsetenv(name);
        if (!input.starts_with(name) || !input.substr(std::string_view(name).size()).starts_with('=')) continue;
        const std::string line(input.substr(0, input.find('\n')));
        setenv(name, line.substr(line.find('=') + 1).c_str(), 1);
        input.remove_prefix(std::min(line.size() + 1, input.size()));
    }
    std::vector<std::string> words = {"train_gpt2"};
    for (; !input.empty(); input.remove_prefix(std::min(words.back().size() + 1, input.size())))
        words.emplace_back(input.substr(0, input.find('\n')));
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());

    Options o;
    if (!parse_options(static_cast<int>(argv.size()), argv.data(), kProgram, &o)) return;
    check_record(o);
    const int known = rank_if_known();
    const Ranks r = find_ranks(o.ranks);
    CHECK(r.rank >= 0 && r.rank < r.world, "rank %d of %d", r.rank, r.world);
    CHECK(known >= 0, "rank %d", known);
    if (r.meeting == Ranks::Meeting::none) return;
    CHECK(!r.one_machine || !r.address.empty(), "no address");
    if (r.meeting == Ranks::Meeting::tcp) CHECK(r.port > 0 && r.port < 65536, "port %d", r.port);
}

FUZZ(log) {
    const std::string dir = fresh_directory("log"), path = dir + "/log.jsonl";
    const int64_t step = 1 + take_byte(&input);
    put(path, input);
    {
        RunLog log(dir, step, step % 2 ? 60 : 0, 60);
        for (const LogEntry& e : log.entries()) CHECK(e.step <= step, "step %lld", static_cast<long long>(e.step));
        log.write_plot();
    }
    const std::string kept = read_file(path), plot = read_file(dir + "/loss.svg");
    CHECK(plot.find("nan") == std::string::npos && plot.find("inf") == std::string::npos, "%s", plot.c_str());
    RunLog log(dir, step, step % 2 ? 60 : 0, 60);
    CHECK(read_file(path) == kept, "cut off twice: %s", kept.c_str());
}

// trainer_state.json, which is given its checksum; beside it lies model.safetensors, of 7 bytes.
FUZZ(state) {
    const std::string dir = fresh_directory("state"), checkpoint = dir + "/step_00000005";
    fs::create_directory(checkpoint);
    std::string text(input);
    if (OrderedJson j = try_json<OrderedJson>(input); j.is_object()) {
        j.erase("crc32c");
        text = j.dump();
        j["crc32c"] = crc32c_hex(crc32c(0, text.data(), text.size()));
        text = j.dump();
    }
    put(checkpoint + "/trainer_state.json", text), put(checkpoint + "/model.safetensors", "weights");
    complaint_of([&] { check_model_files(checkpoint); });
    Run run;
    run.output = dir, run.resume_from = checkpoint;
    run.state = read_trainer_state(checkpoint);
    std::vector<std::string> notes;
    complaint_of([&] {
        obey_recorded_options(run.state.options_json, &run.options, &notes);
        check_record(run.options);
    });
    choose_training_data(run, &notes);
}

FUZZ(rates) {
    const bool bf16 = take_byte(&input) % 2;
    const std::string path = fresh_directory("rates") + "/rates.json";
    put(path, input);
    const char* argv[] = {"train_gpt2",           "plan",    "-e",        "L2:H2:C64:T64", "--precision",
                          bf16 ? "bf16" : "fp32", "--rates", path.c_str()};
    Options o;
    cannot_fail([&] { parse_options(8, argv, kProgram, &o); });
    const PlanSetup s = plan_setup(o);
    for (double x : {s.rates.product, s.rates.attention, s.rates.copy, s.memory_bytes})
        CHECK(x > 0 && std::isfinite(x), "%g", x);
    CHECK(s.multiprocessors > 0 && s.capability > 0, "%d, %d", s.multiprocessors, s.capability);
}
