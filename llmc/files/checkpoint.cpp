#include "llmc/files/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/adapter_files.h"
#include "llmc/files/config_json.h"
#include "llmc/files/parameter_files.h"
#include "llmc/files/run_directory.h"
#include "llmc/model/optimizer.h"

namespace fs = std::filesystem;

namespace {

constexpr int kFormat = 1;

// JSON has no infinities and NaNs; they are kept as strings. Finite doubles come back exactly: the shortest decimal
// that reads as the same double is written.
OrderedJson number_json(double x) { return std::isfinite(x) ? OrderedJson(x) : OrderedJson(strf("%g", x)); }
double json_number(const OrderedJson& j) {
    if (!j.is_string()) return j.get<double>();
    for (double x : {HUGE_VAL, -HUGE_VAL, std::nan(""), -std::nan("")})
        if (j == number_json(x)) return x;
    throw Error(strf("%s is no number", j.dump().c_str()));
}

OrderedJson window_json(const std::vector<double>& window) {
    OrderedJson j = OrderedJson::array();
    for (double x : window) j.push_back(number_json(x));
    return j;
}

std::vector<double> json_window(const OrderedJson& j) {
    std::vector<double> window;
    for (const OrderedJson& x : j) window.push_back(json_number(x));
    return window;
}

OrderedJson parse_part(const std::string& text) {
    OrderedJson j = text.empty() ? OrderedJson() : try_json<OrderedJson>(text);
    CHECK(!j.is_discarded(), "not JSON: %s", text.c_str());
    return j;
}

// trainer_state.json, whose last field is the CRC-32C of all the others, in their order. What it throws names no
// checkpoint: that is for with_remedy().
OrderedJson read_state_json(const std::string& checkpoint) {
    OrderedJson j = parse_json_object<OrderedJson>(read_file(checkpoint + "/trainer_state.json"), "trainer_state.json");
    if (j.value("format", OrderedJson()) != kFormat)
        throw Error(strf("trainer_state.json has format %s, this program reads %d",
                         j.value("format", OrderedJson()).dump().c_str(), kFormat));
    OrderedJson checksum = j.value("crc32c", OrderedJson());
    j.erase("crc32c");
    std::string text = j.dump();
    if (checksum != crc32c_hex(crc32c(0, text.data(), text.size())))
        throw Error("trainer_state.json does not match its own checksum");
    return j;
}

// Runs `read` and adds to what goes wrong the checkpoint's name and what to do.
template <typename Read>
auto with_remedy(const std::string& checkpoint, Read&& read) {
    std::string why;
    try {
        return read();
    } catch (const Error& e) {
        why = e.what();
    } catch (const JsonError&) {
        why = "trainer_state.json lacks a field, or one has the wrong type";
    }
    fs::path dir = fs::path(checkpoint).lexically_normal();
    if (!dir.has_filename()) dir = dir.parent_path();
    std::string older, output = dir.has_parent_path() ? dir.parent_path().string() : ".";
    int64_t step = step_of(dir.filename().string());
    for (auto& [s, path] : checkpoints_by_step(output))
        if (s < step) older = path;
    throw Error(
        strf("checkpoint %s is damaged: %s; %s", checkpoint.c_str(), why.c_str(),
             older.empty() ? "there is no older one" : strf("to go on from %s, remove it", older.c_str()).c_str()));
}

// What the optimizer's files hold of a tensor, in their order. All ranks read in it, so it stands here once.
std::vector<std::pair<Buffer, std::string>> optimizer_parts(const ModelTensors& tensors, const Parameter& p) {
    std::vector<std::pair<Buffer, std::string>> parts;
    if (keeps_m(tensors.optimizer)) parts.push_back({Buffer::m, "m."});
    if (keeps_v(tensors.optimizer, p.matrices)) parts.push_back({Buffer::v, "v."});
    if (tensors.has_master) parts.push_back({Buffer::master, "master."});
    return parts;
}

// m, v and masters, in files of at most about `file_bytes`.
void write_optimizer(const std::string& dir, const ModelTensors& tensors, int64_t file_bytes,
                     std::vector<WrittenFile>* written) {
    std::vector<FileTensor> all;
    for (const Parameter& p : tensors.table)
        for (const auto& [buffer, prefix] : optimizer_parts(tensors, p)) all.push_back({&p, buffer, prefix + p.name});
    for (WrittenFile& file : write_parameters(dir, "optimizer", "F32", all, tensors, file_bytes))
        written->push_back(std::move(file));
}

void write_state(const std::string& dir, const ModelConfig& config, const ModelTensors& tensors,
                 const TrainerState& state, const std::vector<WrittenFile>& files) {
    OrderedJson j = {{"format", kFormat},
                     {"step", state.step},
                     {"optimizer_updates", state.optimizer_updates},
                     {"next_sample", state.next_sample},
                     {"seed", state.seed},
                     {"seconds", number_json(state.seconds)},
                     {"loss_window", window_json(state.loss_window)},
                     {"norm_window", window_json(state.norm_window)},
                     {"last_norm", number_json(state.last_norm)},
                     {"parameters", parameter_count(config)},
                     {"precision", tensors.bf16 ? "bf16" : "fp32"},
                     {"options", parse_part(state.options_json)},
                     {"data", parse_part(state.data_json)}};
    if (state.clock.limit > 0)
        j["clock"] = {{"limit", number_json(state.clock.limit)},
                      {"position", number_json(state.clock.position)},
                      {"end", state.clock.end}};
    if (state.best.step >= 0)
        j["best"] = {{"loss", number_json(state.best.loss)}, {"step", state.best.step}, {"waited", state.best.waited}};
    for (const WrittenFile& f : files) j["files"][f.name] = {{"bytes", f.bytes}, {"crc32c", f.checksum}};
    std::string text = j.dump();
    j["crc32c"] = crc32c_hex(crc32c(0, text.data(), text.size()));
    write_file(dir + "/trainer_state.json", j.dump(1) + "\n");
}

// That a file is as trainer_state.json says.
void check_file(const std::string& checkpoint, const std::string& name, const OrderedJson& file) {
    std::string path = checkpoint + "/" + name;
    std::error_code error;
    uint64_t bytes = fs::file_size(path, error);
    if (error) throw Error(strf("%s: %s", name.c_str(), error.message().c_str()));
    if (bytes != json_whole_at<uint64_t>(file, "bytes"))
        throw Error(strf("%s has %llu bytes instead of %s", name.c_str(), static_cast<unsigned long long>(bytes),
                         file.at("bytes").dump().c_str()));
    if (file_crc32c(path) != file.at("crc32c").get<std::string>())
        throw Error(strf("%s does not match its checksum", name.c_str()));
}

}  // namespace

std::string save_checkpoint(const std::string& output, const ModelConfig& config, const ModelTensors& tensors,
                            const Tokenizer* tokenizer, const AdapterInfo* adapter, const TrainerState& state,
                            int64_t optimizer_file_bytes) {
    CHECK(state.step >= 0, "step %lld", static_cast<long long>(state.step));
    std::string name = step_name(state.step), dir = (fs::path(output) / name).string(), aside = dir + ".old";
    std::string temporary = temporary_name(output, name);
    std::error_code error;
    try {
        fs::create_directories(output, error);
        if (error) throw Error(strf("cannot create directory %s: %s", output.c_str(), error.message().c_str()));
        clear_leftovers(output);
        if (path_exists(dir) && !is_whole_checkpoint(dir))
            throw Error(strf("%s is in the way: it has no trainer_state.json and is no checkpoint; move it elsewhere",
                             dir.c_str()));
        if (!fs::create_directory(temporary, error))
            throw Error(strf("cannot create directory %s: %s", temporary.c_str(), error.message().c_str()));

        std::vector<WrittenFile> files = adapter
                                             ? write_adapter_directory(temporary, *adapter, config, tensors, tokenizer)
                                             : write_model_directory(temporary, config, tensors, tokenizer);
        write_optimizer(temporary, tensors, optimizer_file_bytes, &files);
        write_state(temporary, config, tensors, state, files);
        sync_directory(temporary);

        bool replaces = path_exists(dir);
        if (replaces) rename_path(dir, aside);
        rename_path(temporary, dir);
        sync_directory(output);
        if (replaces) delete_checkpoint(output, aside);
    } catch (const Error& e) {
        fs::remove_all(temporary, error);
        throw Error(
            strf("the checkpoint of step %lld was not saved: %s", static_cast<long long>(state.step), e.what()));
    } catch (...) {
        fs::remove_all(temporary, error);
        throw;
    }
    return dir;
}

std::vector<std::pair<const Parameter*, Buffer>> checkpoint_order(const ModelTensors& tensors) {
    std::vector<std::pair<const Parameter*, Buffer>> order;
    for (const Parameter& p : tensors.table) order.push_back({&p, Buffer::weights});
    for (const Parameter& p : tensors.table)
        for (const auto& [buffer, prefix] : optimizer_parts(tensors, p)) order.push_back({&p, buffer});
    return order;
}

void take_part_in_checkpoint(const ModelTensors& tensors) {
    if (!tensors.collective) return;
    for (const auto& [p, buffer] : checkpoint_order(tensors)) write_parameter(nullptr, "", *p, tensors, buffer);
}

std::vector<std::string> check_model_files(const std::string& checkpoint) {
    return with_remedy(checkpoint, [&] {
        std::vector<std::string> notes;
        const OrderedJson state = read_state_json(checkpoint);
        for (auto& [name, file] : state.at("files").items()) {
            if (name.starts_with("optimizer")) continue;
            try {
                check_file(checkpoint, name, file);
            } catch (const Error& e) {
                if (name.ends_with(".safetensors")) throw;
                notes.push_back(
                    strf("note: %s: %s; it was changed after it had been saved", checkpoint.c_str(), e.what()));
            }
        }
        return notes;
    });
}

TrainerState read_trainer_state(const std::string& checkpoint) {
    return with_remedy(checkpoint, [&] {
        OrderedJson j = read_state_json(checkpoint);
        for (auto& [name, file] : j.at("files").items()) check_file(checkpoint, name, file);
        TrainerState s;
        s.step = json_whole_at<int64_t>(j, "step");
        s.optimizer_updates = json_whole_at<int64_t>(j, "optimizer_updates");
        s.next_sample = json_whole_at<int64_t>(j, "next_sample");
        s.seed = json_whole_at<uint64_t>(j, "seed");
        s.seconds = json_number(j.at("seconds"));
        s.loss_window = json_window(j.at("loss_window"));
        s.norm_window = json_window(j.at("norm_window"));
        if (j.contains("last_norm")) s.last_norm = json_number(j["last_norm"]);
        if (j.contains("clock")) {
            s.clock.limit = json_number(j["clock"].at("limit"));
            s.clock.position = json_number(j["clock"].at("position"));
            s.clock.end = json_whole_at<int64_t>(j["clock"], "end");
        }
        if (j.contains("best")) {
            s.best.loss = json_number(j["best"].at("loss"));
            s.best.step = json_whole_at<int64_t>(j["best"], "step");
            s.best.waited = json_whole_at<int64_t>(j["best"], "waited");
        }
        if (!j.at("options").is_null()) s.options_json = j["options"].dump();
        if (!j.at("data").is_null()) s.data_json = j["data"].dump();
        return s;
    });
}

void load_training_state(const std::string& checkpoint, const ModelConfig& config, const ModelTensors& tensors) {
    const bool adapter = is_adapter_directory(checkpoint);
    ModelConfig saved = adapter ? config : read_model_config(checkpoint);
    if (config.head.value) saved.head = config.head;  // which only a training knows
    if (saved != config)
        throw Error(strf("%s is of a model %s, not %s", checkpoint.c_str(), model_size_text(saved).c_str(),
                         model_size_text(config).c_str()));
    std::vector<std::unique_ptr<SafetensorsFile>> files;
    std::map<std::string, const SafetensorsFile*> holder;  // tensor -> file
    OrderedJson j = with_remedy(checkpoint, [&] { return read_state_json(checkpoint); });
    for (auto& [name, unused] : j["files"].items()) {
        if (!name.ends_with(".safetensors")) continue;
        files.push_back(std::make_unique<SafetensorsFile>(checkpoint + "/" + name));
        for (const TensorInfo& t : files.back()->tensors()) holder[t.name] = files.back().get();
    }
    auto read = [&](const std::string& name, const Parameter& p, const std::vector<Buffer>& buffers) {
        auto found = holder.find(name);
        if (found == holder.end()) throw Error(strf("%s: tensor %s is missing", checkpoint.c_str(), name.c_str()));
        read_parameter(*found->second, name, p, tensors, buffers);
    };
    for (const Parameter& p : tensors.table) {
        std::string master = "master." + p.name;
        bool saved_master = holder.count(master) > 0;
        // What is exact comes first: weights of fp32 from masters, masters from masters; bf16 weights as they were.
        std::vector<Buffer> from_weights, from_master;
        (saved_master && !tensors.bf16 ? from_master : from_weights).push_back(Buffer::weights);
        if (tensors.has_master) (saved_master ? from_master : from_weights).push_back(Buffer::master);
        if (!from_weights.empty()) read(adapter ? adapter_tensor_name(p) : p.name, p, from_weights);
        if (!from_master.empty()) read(master, p, from_master);
        for (const auto& [buffer, prefix] : optimizer_parts(tensors, p))
            if (buffer != Buffer::master) read(prefix + p.name, p, {buffer});
    }
}
