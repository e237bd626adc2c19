#include "llmc/run/export_command.h"

#include <cstring>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/files/gguf.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/word_vectors.h"
#include "llmc/run/run.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;

// The weights of a model in this process's memory, once, as fp32.
namespace {
struct HostWeights {
    std::vector<float> arena;
    ModelTensors tensors;

    explicit HostWeights(const ModelConfig& config) {
        tensors.table = parameter_table(config);
        arena.resize(static_cast<size_t>(arena_size(tensors.table)));
        tensors.read = [this](Buffer, int64_t offset, int64_t n, float* out) {
            memcpy(out, arena.data() + offset, static_cast<size_t>(n) * sizeof(float));
        };
        tensors.write = [this](Buffer, int64_t offset, int64_t n, const float* in) {
            memcpy(arena.data() + offset, in, static_cast<size_t>(n) * sizeof(float));
        };
    }
    HostWeights(const HostWeights&) = delete;
};
}  // namespace

// Nothing that is there is overwritten, but an empty directory or file.
static void check_free(const std::string& path, bool directory) {
    const auto in_the_way = [&](const char* what) {
        throw UsageError(strf("--output (-o) %s: %s; choose another path, or move it elsewhere", path.c_str(), what));
    };
    if (!path_exists(path)) return;
    if (is_directory(path) != directory)
        in_the_way(directory ? "is a file, and a directory is to be written"
                             : "is a directory, and a file is to be written");
    if (directory ? !names_in(path).empty() : fs::file_size(path) > 0) in_the_way("is there already, and not empty");
}

// write(a temporary path beside it) first; what it has written is then on disk, and takes its name as a whole.
template <typename Write>
static void write_whole(const std::string& path, Write&& write) {
    const fs::path parent = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
    const std::string temporary = temporary_name(parent, fs::path(path).filename());
    std::error_code error;
    try {
        fs::create_directories(parent, error);
        if (error) throw Error(strf("cannot create directory %s: %s", parent.c_str(), error.message().c_str()));
        write(temporary);
        rename_path(temporary, path);
        sync_directory(parent);
    } catch (...) {
        fs::remove_all(temporary, error);
        throw;
    }
}

int export_command(const Options& o, const ProgramInfo& program) {
    const bool hf = o.format == "hf", gguf = o.format == "gguf", npy = o.output.ends_with(".npy");
    fs::path normal = fs::path(o.output).lexically_normal();
    if (!normal.has_filename()) normal = normal.parent_path();  // a slash at the end
    const std::string path = normal;
    check_free(path, hf);
    std::vector<std::string> notes;
    const Run run = prepare_inference(o, program, &notes);
    const Tokenizer* tokenizer = run.tokenizer ? &*run.tokenizer : nullptr;
    const std::string dtype = o.type == "f16" ? "F16" : o.type == "bf16" ? "BF16" : "F32";
    const GgufType type = o.type == "f32"    ? GgufType::f32
                          : o.type == "f16"  ? GgufType::f16
                          : o.type == "bf16" ? GgufType::bf16
                          : o.type == "q8_0" ? GgufType::q8_0
                                             : GgufType::q4_0;
    ModelConfig config = run.config;
    config.head = run.head;  // the adapter's, if it has one
    if (gguf && config.head.outputs > 0) {
        config.head = {};
        notes.push_back("note: llama.cpp has no head of classes or numbers; the language model alone is written");
    }
    if (gguf) check_gguf(config, type);
    if (!tokenizer && !(o.format == "vectors" && npy)) {
        const std::string lacks = o.model + " has no vocabulary beside it that can be read";
        if (!hf) throw Error(lacks + ", and --format " + o.format + " needs one: copy there what it was trained with");
        notes.push_back("note: " + lacks + "; none is written");
    }
    if (gguf && run.tokenizer->vocabulary().prefix_space)
        notes.push_back("note: the vocabulary wants a space in front of a text; llama.cpp does not put it there");
    for (const std::string& note : notes) fprintf(stderr, "%s\n", note.c_str());

    HostWeights weights(config);
    ModelSource source = run.source;
    if (source.adapter && source.adapter->config.head.outputs > 0) source.config.head = {};
    load_weights(source, weights.tensors);
    if (run.source.adapter) merge_adapter(*run.source.adapter, config, weights.tensors);
    write_whole(path, [&](const std::string& to) {
        if (gguf) {
            write_gguf(to, normal.stem(), config, weights.tensors, *tokenizer, type);
        } else if (!hf) {
            write_word_vectors(to, npy, o.type == "f16", weights.tensors, tokenizer);
        } else {
            std::error_code error;
            if (!fs::create_directory(to, error))
                throw Error(strf("cannot create directory %s: %s", to.c_str(), error.message().c_str()));
            write_model_directory(to, config, weights.tensors, tokenizer, {dtype, o.shard_size});
            sync_directory(to);
        }
    });
    double bytes = 0;
    if (!hf) bytes = static_cast<double>(fs::file_size(path));
    else
        for (const auto& entry : fs::directory_iterator(path)) bytes += static_cast<double>(entry.file_size());
    const bool vectors = o.format == "vectors";
    printf("%s: %s %s as %s, %s\n", path.c_str(), human_count(vectors ? config.C : parameter_count(config)).c_str(),
           vectors ? "numbers a token" : "parameters", o.type.c_str(), human_bytes(bytes).c_str());
    return 0;
}
