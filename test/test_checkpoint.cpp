#include "llmc/files/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/run/run_rules.h"
#include "test/fake_model.h"

namespace {

namespace fs = std::filesystem;
const ModelConfig kSmall{2, 2, 12, 7, 131};
const double kInfinity = std::numeric_limits<double>::infinity();

bool contains(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

TrainerState state_of(int64_t step) {
    TrainerState s;
    s.step = step;
    s.optimizer_updates = step;
    return s;
}

// Saves a model whose values tell the step.
std::string save(const std::string& output, int step, bool half = false) {
    FakeModel model(kSmall, half, half);
    model.fill(step);
    return save_checkpoint(output, kSmall, model.tensors, nullptr, nullptr, state_of(step));
}

// Saves an almost empty directory that counts as a checkpoint.
void pretend(const std::string& output, int64_t step) {
    std::string dir = output + strf("/step_%08lld", static_cast<long long>(step));
    fs::create_directories(dir);
    put(dir + "/trainer_state.json", "{}");
}

std::vector<std::string> sorted_names_in(const std::string& dir) {
    std::vector<std::string> names = names_in(dir);
    std::sort(names.begin(), names.end());
    return names;
}

// True if the newest checkpoint verifies and all of its tensors are those of its step.
void expect_newest_is_sound(const std::string& output) {
    std::string newest = newest_checkpoint(output);
    ASSERT_NE(newest, "");
    TrainerState s = read_trainer_state(newest);
    FakeModel model(kSmall, false, false), expected(kSmall, false, false);
    load_training_state(newest, kSmall, model.tensors);
    expected.fill(static_cast<int>(s.step));
    for (size_t k : {0, 2, 3}) EXPECT_EQ(model.buffers[k], expected.buffers[k]);
}

// Runs f in a child process and returns its status.
template <typename F>
int in_child(F&& f) {
    pid_t child = fork();
    if (child == 0) {
        int code = 99;
        try {
            code = f();
        } catch (...) {
        }
        _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

}  // namespace

TEST(Checkpoint, StateComesBackExactly) {
    TemporaryDirectory dir;
    TrainerState s;
    s.step = 123456789012;
    s.optimizer_updates = 42;
    s.next_sample = int64_t{1} << 60;
    s.seed = 0xfedcba9876543210;
    s.seconds = 5e-324, s.last_norm = 0.1;
    std::mt19937_64 random(3);
    for (int i = 0; i < 200; i++) {
        double x;
        do {
            uint64_t bits = random();
            memcpy(&x, &bits, 8);
        } while (!std::isfinite(x));
        s.loss_window.push_back(x);
        s.norm_window.push_back(-x / 3);
    }
    s.norm_window.insert(s.norm_window.end(), {kInfinity, -kInfinity, 0.0, -0.0});
    s.options_json = R"({"z":1,"a":[0.1,"x",true,null],"seed":18446744073709551615})";
    s.data_json = R"({"train":[{"file":"b","tokens":5}]})";
    FakeModel model(kSmall, false, false);
    std::string path = save_checkpoint(dir / "new/output", kSmall, model.tensors, nullptr, nullptr, s);
    EXPECT_EQ(path, dir / "new/output/step_123456789012");
    EXPECT_EQ(newest_checkpoint(dir / "new/output"), path);
    EXPECT_EQ(newest_checkpoint(dir / "new/output/"), path);
    TrainerState t = read_trainer_state(path);
    EXPECT_EQ(t.step, s.step);
    EXPECT_EQ(t.optimizer_updates, s.optimizer_updates);
    EXPECT_EQ(t.next_sample, s.next_sample);
    EXPECT_EQ(t.seed, s.seed);
    EXPECT_EQ(t.seconds, s.seconds);
    EXPECT_EQ(t.loss_window, s.loss_window);
    EXPECT_EQ(t.norm_window, s.norm_window);
    EXPECT_EQ(t.last_norm, s.last_norm);
    EXPECT_TRUE(std::signbit(t.norm_window.back()));
    EXPECT_EQ(t.options_json, s.options_json);
    EXPECT_EQ(t.data_json, s.data_json);

    s.seconds = std::nan("");
    s.options_json = s.data_json = "";
    s.step = 1;
    t = read_trainer_state(save_checkpoint(dir.path, kSmall, model.tensors, nullptr, nullptr, s));
    EXPECT_TRUE(std::isnan(t.seconds));
    EXPECT_EQ(t.options_json, "");
}

TEST(Checkpoint, TensorsComeBackAtEitherPrecision) {
    TemporaryDirectory dir;
    enum { fp32, bf16_master, bf16_alone };
    for (int from : {fp32, bf16_master, bf16_alone})
        for (int to : {fp32, bf16_master, bf16_alone})
            for (int64_t file_bytes : {int64_t{1} << 40, int64_t{5000}}) {
                FakeModel a(kSmall, from != fp32, from == bf16_master), b(kSmall, to != fp32, to == bf16_master);
                a.fill(1);
                std::string path =
                    save_checkpoint(dir.path, kSmall, a.tensors, nullptr, nullptr, state_of(1), file_bytes);
                read_trainer_state(path);
                EXPECT_EQ(fs::exists(path + "/optimizer.safetensors"), file_bytes > 5000);
                EXPECT_EQ(fs::exists(path + "/optimizer-00001-of-00002.safetensors"), false);  // there are more
                b.fill(7);
                load_training_state(path, kSmall, b.tensors);
                EXPECT_EQ(a.buffers[2], b.buffers[2]);
                EXPECT_EQ(a.buffers[3], b.buffers[3]);
                const auto& exact = from == bf16_master ? a.buffers[1] : a.buffers[0];
                if (to == fp32) {
                    EXPECT_EQ(b.buffers[0], exact);
                }
                if (to == bf16_master) {
                    EXPECT_EQ(b.buffers[1], exact);
                }
                if (to != fp32) {
                    for (size_t i = 0; i < exact.size(); i++)
                        ASSERT_EQ(b.buffers[0][i], static_cast<float>(bf16(a.buffers[0][i])));
                }
            }
}

// bf16 weights need not be their masters rounded to nearest (stochastic rounding): both are kept.
TEST(Checkpoint, WeightsAndMastersAreKeptApart) {
    TemporaryDirectory dir;
    FakeModel a(kSmall, true, true), b(kSmall, true, true);
    a.fill(1);
    a.buffers[0][5] = 64;
    load_training_state(save_checkpoint(dir.path, kSmall, a.tensors, nullptr, nullptr, state_of(1)), kSmall, b.tensors);
    EXPECT_EQ(a.buffers[0], b.buffers[0]);
    EXPECT_EQ(a.buffers[1], b.buffers[1]);
}

TEST(Checkpoint, AnotherModelIsRefused) {
    TemporaryDirectory dir;
    std::string path = save(dir.path, 1);
    ModelConfig other = kSmall;
    other.NH = 3;  // the same shapes, yet another model
    FakeModel model(other, false, false);
    std::string message = error_of([&] { load_training_state(path, other, model.tensors); });
    EXPECT_TRUE(contains(message, "L2:H2:C12:T7:V131, not L2:H3")) << message;
}

TEST(Checkpoint, NewestAndListIgnoreEverythingElse) {
    TemporaryDirectory dir;
    EXPECT_EQ(newest_checkpoint(dir / "none"), "");
    EXPECT_EQ(newest_checkpoint(dir.path), "");
    for (int64_t step : {900, 1000, 20}) pretend(dir.path, step);
    pretend(dir.path, 100000000);  // sorts by number, not by name
    for (const char* other : {"step_foo", "step_1", "step_000000001", "step_00000002x", "xstep_00002000",
                              ".tmp_step_00003000.5", "step_99999999999999999999", "step_-0000001", "best"}) {
        fs::create_directory(dir / other);
        put(dir / other + "/trainer_state.json", "{}");
    }
    fs::create_directory(dir / "step_00005000");  // half a checkpoint
    put(dir / "step_00006000", "a file");
    EXPECT_EQ(list_checkpoints(dir.path), (std::vector<std::string>{dir / "step_00000020", dir / "step_00000900",
                                                                    dir / "step_00001000", dir / "step_100000000"}));
    EXPECT_EQ(newest_checkpoint(dir.path), dir / "step_100000000");
}

TEST(Checkpoint, FindModelTakesTheNewest) {
    TemporaryDirectory dir;
    save(dir.path, 1);
    std::string path = save(dir.path, 2);
    ModelSource source = find_model(dir.path);
    EXPECT_EQ(source.path, path);
    EXPECT_EQ(source.config, kSmall);
}

TEST(Checkpoint, SameStepIsReplaced) {
    TemporaryDirectory dir;
    save(dir.path, 3);
    FakeModel model(kSmall, false, false);
    model.fill(4);
    TrainerState s = state_of(3);
    s.seed = 99;
    std::string path = save_checkpoint(dir.path, kSmall, model.tensors, nullptr, nullptr, s);
    EXPECT_EQ(read_trainer_state(path).seed, 99u);
    EXPECT_EQ(sorted_names_in(dir.path), std::vector<std::string>{"step_00000003"});

    // cut short between the two renames, the old one is found, and comes back at the next save
    fs::rename(path, path + ".old");
    EXPECT_EQ(newest_checkpoint(dir.path), path + ".old");
    EXPECT_EQ(read_trainer_state(newest_checkpoint(dir.path)).seed, 99u);
    save(dir.path, 2);
    EXPECT_EQ(sorted_names_in(dir.path), (std::vector<std::string>{"step_00000002", "step_00000003"}));
    // after the second rename the new one counts, and the old one goes at the next save
    fs::copy(path, path + ".old", fs::copy_options::recursive);
    EXPECT_EQ(newest_checkpoint(dir.path), path);
    save(dir.path, 2);
    EXPECT_EQ(sorted_names_in(dir.path), (std::vector<std::string>{"step_00000002", "step_00000003"}));
}

TEST(Checkpoint, WhatIsInTheWayStays) {
    TemporaryDirectory dir;
    save(dir.path, 1);
    fs::create_directory(dir / "step_00000002");
    put(dir / "step_00000002/mine", "dear");
    std::string message = error_of([&] { save(dir.path, 2); });
    EXPECT_TRUE(contains(message, "step_00000002 is in the way")) << message;
    EXPECT_EQ(read_file(dir / "step_00000002/mine"), "dear");
    put(dir / "step_00000003", "a file");
    EXPECT_TRUE(contains(error_of([&] { save(dir.path, 3); }), "in the way"));
    EXPECT_EQ(sorted_names_in(dir.path), (std::vector<std::string>{"step_00000001", "step_00000002", "step_00000003"}));
}

TEST(Checkpoint, LeftoversOfDeadProcessesGo) {
    TemporaryDirectory dir;
    pid_t dead = fork();
    if (dead == 0) _exit(0);
    waitpid(dead, nullptr, 0);
    pid_t child = fork();  // a living process of this program
    if (child == 0)
        for (;;) pause();
    std::string another = ".tmp_step_00000001.1";  // a number that has come to belong to another program
    std::string gone = strf(".tmp_step_00000001.%d", dead), living = strf(".tmp_step_00000001.%d", child);
    for (const std::string& name : {gone, another, living, std::string(".tmp_step_x"), std::string(".tmp_other")})
        fs::create_directory(dir / name);
    put(dir / gone + "/model.safetensors", "half");
    save(dir.path, 2);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_EQ(sorted_names_in(dir.path),
              (std::vector<std::string>{".tmp_other", living, ".tmp_step_x", "step_00000002"}));
}

TEST(Checkpoint, DamageIsNamedWithTheRemedy) {
    TemporaryDirectory dir;
    std::string older = save(dir.path, 1);
    const std::string path = save(dir.path, 2, true);
    auto damaged = [&](const std::string& why) {
        std::string message = error_of([&] { read_trainer_state(path); });
        EXPECT_TRUE(contains(message, path + " is damaged: ") && contains(message, why)) << message;
        EXPECT_TRUE(contains(message, "to go on from " + older + ", remove it")) << message;
    };
    for (const char* name : {"model.safetensors", "optimizer.safetensors", "config.json", "generation_config.json"}) {
        const std::string file = path + "/" + name, good = read_file(file);
        std::string bad = good;
        bad[bad.size() / 2] ^= 4;
        put(file, bad);
        damaged(std::string(name) + " does not match its checksum");
        put(file, good.substr(0, good.size() - 1));
        damaged(name);
        put(file, good + "x");
        damaged(name);
        fs::remove(file);
        damaged(std::string(name) + ": No such file");
        put(file, good);
    }
    EXPECT_EQ(read_trainer_state(path).step, 2);

    const std::string state = path + "/trainer_state.json", good = read_file(state);
    auto json = nlohmann::ordered_json::parse(good);
    for (size_t cut : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 2}) {
        put(state, good.substr(0, cut));
        damaged("trainer_state.json is not a valid JSON object");
    }
    json["step"] = 3;
    put(state, json.dump());
    damaged("its own checksum");
    json["format"] = 2;
    put(state, json.dump());
    damaged("format 2");
    put(state, "{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}");
    damaged("trainer_state.json is not a valid JSON object");
    for (const char* text : {"[]", "{}", "null", "{\"format\":1}", "{\"format\":1,\"crc32c\":7}"}) {
        put(state, text);
        damaged("trainer_state.json");
    }
    // a state that is whole but lacks what it must have, or has it in another type
    const std::
        pair<const char*, nlohmann::json>
            wrong[] = {{"step", "x"},      {"files", "x"},       {"seed", "x"}, {"loss_window", "x"},
                       {"step", 1e30},     {"step", UINT64_MAX}, {"seed", -1},  {"next_sample", -1e300},
                       {"seconds", "0x10"}};  // numbers that no conversion may touch
    for (const auto& [field, value] : wrong) {
        json = nlohmann::ordered_json::parse(good);
        json.erase("crc32c");
        json[field] = value;
        std::string text = json.dump();
        json["crc32c"] = crc32c_hex(crc32c(0, text.data(), text.size()));
        put(state, json.dump());
        damaged("");
    }
    put(state, good);
    EXPECT_EQ(read_trainer_state(path).step, 2);

    put(older + "/config.json", "{}");
    EXPECT_TRUE(contains(error_of([&] { read_trainer_state(older + "/"); }), "there is no older one"));
}

TEST(Checkpoint, DataThatIsNoneIsAnError) {
    std::vector<std::string> notes;
    for (const char* data : {"[1]", "{\"train_paths\":5}", "{\"train_paths\":[5]}"}) {
        struct Run resumed;
        resumed.resume_from = "runs/x/step_00000005", resumed.state.data_json = data;
        EXPECT_TRUE(contains(error_of([&] { choose_training_data(resumed, &notes); }),
                             "runs/x/step_00000005/trainer_state.json: "))
            << data;
    }
}

TEST(Checkpoint, MissingTensorsAreNamed) {
    TemporaryDirectory dir;
    std::string path = save(dir.path, 1);
    SafetensorsWriter(path + "/optimizer.safetensors", {}).close();
    FakeModel model(kSmall, false, false);
    std::string message = error_of([&] { load_training_state(path, kSmall, model.tensors); });
    EXPECT_TRUE(contains(message, "m.transformer.wte.weight is missing")) << message;
}

TEST(Checkpoint, DeletingOldOnes) {
    auto left = [](int keep, int64_t major, std::vector<int64_t> steps) {
        TemporaryDirectory dir;
        for (int64_t step : steps) pretend(dir.path, step);
        fs::create_directory(dir / "step_foo");       // of others: they stay and are not counted
        fs::create_directory(dir / "step_00000001");  // half a checkpoint
        put(dir / "log.jsonl", "x");
        delete_old_checkpoints(dir.path, keep, major);
        EXPECT_TRUE(fs::exists(dir / "step_foo") && fs::exists(dir / "step_00000001") && fs::exists(dir / "log.jsonl"));
        EXPECT_EQ(sorted_names_in(dir.path).size(), list_checkpoints(dir.path).size() + 3);  // nothing half deleted
        std::string text;
        for (const std::string& path : list_checkpoints(dir.path))
            text += std::to_string(std::stoll(fs::path(path).filename().string().substr(5))) + " ";
        return text;
    };
    EXPECT_EQ(left(0, 0, {10, 20, 30}), "10 20 30 ");
    EXPECT_EQ(left(-1, 0, {10, 20, 30}), "10 20 30 ");
    EXPECT_EQ(left(1, 0, {10, 20, 30}), "30 ");
    EXPECT_EQ(left(2, 0, {10, 20, 30, 70}), "30 70 ");
    EXPECT_EQ(left(5, 0, {10, 20, 30}), "10 20 30 ");
    EXPECT_EQ(left(1, 0, {}), "");
    EXPECT_EQ(left(1, 0, {10}), "10 ");
    EXPECT_EQ(left(2, 1000, {250, 500, 1000, 1250, 2000, 2125}), "1000 2000 2125 ");
    EXPECT_EQ(left(1, 1000, {0, 999, 1000, 1001}), "0 1000 1001 ");
    EXPECT_EQ(left(1, 1, {5, 6, 7}), "5 6 7 ");
    EXPECT_EQ(left(1, 0, {99999999, 100000000}), "100000000 ");
    delete_old_checkpoints("/none", 1, 0);
}

TEST(Checkpoint, OutputThatCannotBeWritten) {
    TemporaryDirectory dir;
    put(dir / "file", "dear");
    for (const std::string& output : {dir / "file", dir / "file/below", std::string("/proc/none")}) {
        std::string message = error_of([&] { save(output, 1); });
        EXPECT_TRUE(contains(message, output) && contains(message, "checkpoint of step 1 was not saved")) << message;
        EXPECT_FALSE(contains(message, "\n"));
    }
    EXPECT_EQ(read_file(dir / "file"), "dear");
    EXPECT_EQ(sorted_names_in(dir.path), std::vector<std::string>{"file"});
}

// A limit on file sizes stands for a full disk: the write fails half-way.
TEST(Checkpoint, FullDiskLosesNothing) {
    TemporaryDirectory dir;
    save(dir.path, 1);
    save(dir.path, 2);
    const auto before = sorted_names_in(dir.path);
    for (rlim_t limit : {0, 10000, 40000})  // nothing at all, within the model, within the optimizer
        for (int step : {2, 3}) {
            int status = in_child([&] {
                signal(SIGXFSZ, SIG_IGN);
                rlimit l{limit, limit};
                setrlimit(RLIMIT_FSIZE, &l);
                std::string message = error_of([&] { save(dir.path, step); });
                return contains(message, "cannot write " + dir.path) && contains(message, "File too large") &&
                               contains(message, strf("checkpoint of step %d was not saved", step))
                           ? 0
                           : 1;
            });
            EXPECT_EQ(status, 0) << "limit " << limit;
            EXPECT_EQ(sorted_names_in(dir.path), before);
            expect_newest_is_sound(dir.path);
        }
}

// A process is killed at a random moment while it saves, replaces and deletes, again and again.
TEST(Checkpoint, AKillAtAnyMomentLeavesAWholeCheckpoint) {
    TemporaryDirectory dir;
    save(dir.path, 1);
    std::mt19937 random(1);
    int interrupted = 0;
    for (int round = 0; round < 25; round++) {
        pid_t child = fork();
        if (child == 0) {
            try {
                int step = static_cast<int>(read_trainer_state(newest_checkpoint(dir.path)).step);
                for (;;) {
                    save(dir.path, step);  // the same step again: a replacement
                    save(dir.path, ++step);
                    delete_old_checkpoints(dir.path, 1, 0);
                }
            } catch (...) {
            }
            _exit(1);
        }
        usleep(random() % 40000);
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status)) << "the child gave up";
        for (const std::string& name : sorted_names_in(dir.path))
            interrupted += name[0] == '.' || contains(name, ".old");
        expect_newest_is_sound(dir.path);
        if (HasFatalFailure()) return;
    }
    EXPECT_GT(interrupted, 3);  // else the test tests nothing
    int last = static_cast<int>(read_trainer_state(newest_checkpoint(dir.path)).step);
    save(dir.path, last + 1);
    delete_old_checkpoints(dir.path, 1, 0);
    EXPECT_EQ(sorted_names_in(dir.path), std::vector<std::string>{strf("step_%08d", last + 1)});
}

// A checkpoint that is half deleted is none: it has another name before the first of its files goes.
TEST(Checkpoint, AKillWhileDeletingLeavesNoHalf) {
    TemporaryDirectory dir;
    const size_t files = 2000;
    for (int round = 0; round < 4; round++) {
        pretend(dir.path, 1);
        pretend(dir.path, 2);
        for (size_t i = 1; i < files; i++) put(dir / "step_00000001/" + std::to_string(i), "");
        pid_t child = fork();
        if (child == 0) {
            delete_old_checkpoints(dir.path, 1, 0);
            _exit(0);
        }
        // until the directory is gone from its place, or has lost files
        while (fs::exists(dir / "step_00000001/1") && fs::exists(dir / strf("step_00000001/%zu", files - 1)))
            usleep(100);
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        for (const std::string& path : list_checkpoints(dir.path))
            EXPECT_EQ(sorted_names_in(path).size(), path == dir / "step_00000002" ? 1 : files);
        delete_old_checkpoints(dir.path, 1, 0);
    }
}
