#include "llmc/files/llmc_bin.h"

#include <algorithm>
#include <cstring>
#include <map>
#include "llmc/base/bf16.h"
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/files/parameter_files.h"

namespace {

constexpr size_t kHeaderInts = 256;
constexpr int kMagic = 20240326;

struct BinHeader {
    ModelConfig config;
    int64_t element_bytes, Vp;
};

BinHeader read_header(const std::string& path, const MappedFile& file) {
    int32_t h[kHeaderInts] = {};
    if (file.size() > 0) memcpy(h, file.data(), std::min(file.size(), sizeof h));
    if (file.size() < sizeof h || h[0] != kMagic) {
        const char* is = "it is no llm.c model file";
        if (file.size() >= 4 && (h[0] == 20240520 || h[0] == 20240801)) is = "it is a shard of tokens, not a model";
        if (file.size() >= 4 && h[0] == 20240327)
            is = "it is the optimizer state of an llm.c run; give its model_*.bin";
        throw Error(strf("--model %s: %s (a directory, a size or an llm.c model .bin is expected)", path.c_str(), is));
    }
    if (h[1] != 3 && h[1] != 5)
        throw Error(
            strf("%s: llm.c model file of version %d; versions 3 (fp32) and 5 (bf16) can be read", path.c_str(), h[1]));
    BinHeader header{{.L = h[4], .NH = h[5], .C = h[6], .T = h[2], .V = h[3]}, h[1] == 3 ? 4 : 2, h[7]};
    const ModelConfig& m = header.config;
    check_model_config(m, path);
    if (m.V < 1 || header.Vp < m.V)
        throw Error(strf("%s: vocabulary of %d tokens padded to %d is impossible", path.c_str(), m.V, h[7]));
    int64_t elements = parameter_count(m) + (header.Vp - m.V) * m.C;
    uint64_t expected = sizeof h + static_cast<uint64_t>(elements * header.element_bytes);
    if (file.size() != expected)
        throw Error(strf("%s has %zu bytes; its header (%s) calls for %llu", path.c_str(), file.size(),
                         model_size_text(m).c_str(), static_cast<unsigned long long>(expected)));
    return header;
}

}  // namespace

ModelConfig read_llmc_bin_config(const std::string& path) { return read_header(path, MappedFile(path)).config; }

void load_llmc_bin(const std::string& path, const ModelConfig& config, const ModelTensors& tensors) {
    MappedFile file(path);
    BinHeader header = read_header(path, file);
    CHECK(header.config == config, "%s changed", path.c_str());
    const unsigned char* data = file.data() + kHeaderInts * 4;
    // The table goes layer by layer; the file goes kind by kind, all layers of each: a stable sort by the kind's first
    // row.
    std::vector<std::pair<size_t, const Parameter*>> order;
    std::map<std::string, size_t> kinds;
    for (const Parameter& p : tensors.table) {
        std::string layer = strf("transformer.h.%d.", p.layer);
        size_t kind = kinds.emplace(p.layer < 0 ? p.name : p.name.substr(layer.size()), kinds.size()).first->second;
        order.push_back({kind, &p});
    }
    std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first < b.first; });
    for (auto& [kind, p] : order) {
        auto read = [&](int64_t offset, int64_t n, float* out) {
            const unsigned char* in = data + offset * header.element_bytes;
            file.was_read(static_cast<size_t>(n * header.element_bytes));  // those before these
            if (header.element_bytes == 4) {
                memcpy(out, in, static_cast<size_t>(n) * 4);
            } else {
                for (int64_t i = 0; i < n; i++) {
                    bf16 x;
                    memcpy(&x, in + 2 * i, 2);
                    out[i] = x;
                }
            }
        };
        fill_parameter(*p, false, tensors, weight_buffers(tensors), path + ": tensor " + p->name, read);
        data += (kind == 0 ? header.Vp * p->cols : p->size()) * header.element_bytes;  // kind 0: wte
    }
}
