// Models: safetensors, model directories, llm.c's files, and shards of tokens.
#include <cmath>
#include <cstring>
#include "llmc/base/json.h"
#include "llmc/files/config_json.h"
#include "llmc/files/llmc_bin.h"
#include "llmc/files/model_files.h"
#include "llmc/files/safetensors.h"
#include "llmc/text/shards.h"
#include "test/fake_model.h"
#include "test/fuzz/fuzz.h"

// A file of this header, and of as many bytes as its tensors want, each of them 1: a small number in any dtype.
static std::string safetensors(std::string_view header) {
    uint64_t data = 0;
    const Json j = try_json(header);
    for (const Json& tensor : j.is_object() ? j : Json::object())
        if (tensor.is_object() && tensor.contains("data_offsets"))
            for (const Json& offset : tensor["data_offsets"])
                if (offset.is_number_unsigned()) data = std::max(data, offset.get<uint64_t>());
    const uint64_t length = header.size();
    std::string file(reinterpret_cast<const char*>(&length), sizeof length);
    return file.append(header).append(std::min<uint64_t>(data, 1 << 16), '\1');
}

static std::vector<float> floats(const SafetensorsFile& file, const TensorInfo& t, int64_t first) {
    std::vector<float> all(static_cast<size_t>(t.elements()));
    file.read_float(t, 0, first, all.data());
    file.read_float(t, first, t.elements() - first, all.data() + first);
    return all;
}

FUZZ(safetensors) {
    const bool whole = take_byte(&input) % 2;
    const std::string dir = fresh_directory("safetensors"), path = dir + "/a", again = dir + "/b";
    put(path, whole ? std::string(input) : safetensors(input));
    const SafetensorsFile file(path);
    SafetensorsWriter writer(again, file.tensors(), file.metadata());
    for (const TensorInfo& t : file.tensors()) {
        CHECK(file.find(t.name) && &file.at(t.name) == file.find(t.name), "%s", t.name.c_str());
        writer.write(file.bytes(t), t.end - t.begin);
        if (t.dtype == "F32" || t.dtype == "BF16" || t.dtype == "F16" || t.dtype == "F64") {
            const std::vector<float> a = floats(file, t, 0), b = floats(file, t, t.elements() / 2);
            CHECK(a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, "%s", t.name.c_str());
        }
    }
    writer.close();
    cannot_fail([&] {
        const SafetensorsFile second(again);
        CHECK(second.tensors().size() == file.tensors().size() && second.metadata() == file.metadata(), "other");
        for (const TensorInfo& t : file.tensors()) {
            const TensorInfo& u = second.at(t.name);
            CHECK(u.dtype == t.dtype && u.shape == t.shape && u.end - u.begin == t.end - t.begin, "%s", t.name.c_str());
            CHECK(memcmp(second.bytes(u), file.bytes(t), t.end - t.begin) == 0, "%s", t.name.c_str());
        }
    });
}

// ---- models --------------------------------------------------------------------------------------------------------------

static bool is_small(const ModelConfig& c) {
    return static_cast<int64_t>(c.V) + c.T + c.L + c.C + c.F() < 1 << 10 && arena_size(parameter_table(c)) < 1 << 14;
}

// The same architecture, however it is written.
static void check_config(const ModelConfig& c) {
    ModelConfig again;
    cannot_fail([&] { CHECK(parse_model_size(model_size_text(c), &again), "%s", model_size_text(c).c_str()); });
    CHECK(again == c, "%s becomes %s", model_size_text(c).c_str(), model_size_text(again).c_str());
    if (c.V == 0) return;
    const std::string dir = fresh_directory("config");
    put(dir + "/config.json", config_json(c, "F32", -1, {}));
    cannot_fail([&] { again = read_model_config(dir); });
    CHECK(again == c, "%s becomes %s", model_size_text(c).c_str(), model_size_text(again).c_str());
}

// Weights that were read are written, and read again.
static void check_weights(const ModelSource& source) {
    if (!is_small(source.config)) return;
    const FakeModel model(source.config, false, false);
    load_weights(source, model.tensors);
    const std::string dir = fresh_directory("written");
    write_model_directory(dir, source.config, model.tensors, nullptr);
    const FakeModel second(source.config, false, false);
    cannot_fail([&] {
        const ModelSource found = find_model(dir);
        load_weights(found, second.tensors);
        CHECK(found.config == source.config || found.config.untied != source.config.untied, "another model");
    });
    CHECK(second.buffers[0] == model.buffers[0], "other weights");
}

FUZZ(model) {
    const std::string dir = fresh_directory("model");
    put_files(
        input, dir,
        {"config.json", "model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors", "size"});
    for (const char* name : {"/model.safetensors", "/a.safetensors", "/b.safetensors"})
        if (fs::exists(dir + name)) put(dir + name, safetensors(read_file(dir + name)));
    if (fs::exists(dir + "/size")) {
        ModelConfig c;
        if (parse_model_size(read_file(dir + "/size"), &c)) check_config(c);
    }
    const ModelSource source = find_model(dir);
    check_config(source.config);
    check_weights(source);
}

// ---- llm.c's files --------------------------------------------------------------------------------------------------------

// A byte, the first 32 bytes of a header, the data. Where the byte says so, the header is given the size of the data, or the
// data the size that the header wants.
FUZZ(binary) {
    const uint8_t kind = take_byte(&input);
    const std::string dir = fresh_directory("binary"), path = dir + "/x.bin";
    int32_t h[256] = {};
    memcpy(h, input.data(), std::min<size_t>(input.size(), 32));
    std::string data(input.substr(std::min<size_t>(input.size(), 32)));
    const ModelConfig c{.L = h[4], .NH = h[5], .C = h[6], .T = h[2], .V = h[3]};
    const bool is_model = h[0] == 20240326;
    if (kind % 2 && !is_model) h[2] = static_cast<int32_t>(data.size() / (h[0] == 20240520 ? 2 : 4));
    if (kind % 2 && is_model && complaint_of([&] { check_model_config(c, ""); }).empty() && is_small(c) &&
        h[7] >= c.V && h[7] < 1 << 10)
        data.resize(static_cast<size_t>(parameter_count(c) + (h[7] - c.V) * c.C) * (h[1] == 3 ? 4 : 2), '\1');
    put(path, std::string(reinterpret_cast<const char*>(h), sizeof h) + data);
    if (is_model) {
        const ModelSource source = find_model(path);
        check_config(source.config);
        return check_weights(source);
    }

    const int vocab_size = kind & 2 ? 1 << (kind / 16) : 0;
    const Shard shard(path, vocab_size);
    std::vector<int> ids(static_cast<size_t>(shard.size())), parts;
    CHECK(shard.read(0, shard.size(), ids.data()) == shard.size(), "%zu tokens", ids.size());
    Cuts cuts(kind);
    for (int64_t n = 1, at = 0; n > 0; at += n) {
        int some[1 << 8];
        n = shard.read(at, static_cast<int64_t>(cuts.next()), some);
        parts.insert(parts.end(), some, some + n);
    }
    CHECK(parts == ids, "%zu tokens, in pieces %zu", ids.size(), parts.size());
    const bool wide = h[0] != 20240520;
    for (int id : ids) CHECK(id >= 0 && (vocab_size == 0 || id < vocab_size), "id %d", id);
    ShardWriter writer(dir + "/y.bin", wide ? INT32_MAX : 1 << 16);
    writer.write(ids.data(), shard.size());
    writer.close();
    cannot_fail([&] {
        const Shard second(dir + "/y.bin", vocab_size);
        CHECK(second.size() == shard.size(), "tokens");
        second.read(0, second.size(), parts.data());
    });
    CHECK(parts == ids, "other tokens");
}
