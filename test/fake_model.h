// A model that is nothing but its buffers, for the tests of the file code.
#pragma once
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "llmc/base/bf16.h"
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/files/model_files.h"
#include "test/command.h"

namespace {

struct FakeModel {
    ModelConfig config;
    ModelTensors tensors;
    std::vector<float> buffers[4];  // by Buffer; weights of a bf16 model are rounded

    FakeModel(const ModelConfig& c, bool bf16_weights, bool master) : config(c) {
        tensors.table = parameter_table(c);
        tensors.bf16 = bf16_weights;
        tensors.has_master = master;
        for (auto& b : buffers) b.assign(static_cast<size_t>(arena_size(tensors.table)), 0.0f);
        tensors.read = [this](Buffer b, int64_t offset, int64_t n, float* out) {
            memcpy(out, at(b) + offset, static_cast<size_t>(n) * sizeof(float));
        };
        tensors.write = [this](Buffer b, int64_t offset, int64_t n, const float* in) {
            for (int64_t i = 0; i < n; i++)
                at(b)[offset + i] = b == Buffer::weights && tensors.bf16 ? static_cast<float>(bf16(in[i])) : in[i];
        };
    }
    FakeModel(const FakeModel&) = delete;
    float* at(Buffer b) { return buffers[static_cast<size_t>(b)].data(); }

    // A value for each element that no other element of the model shares (up to 2^22 of them), and another for each
    // seed.
    void fill(int seed) {
        for (size_t k = 0; k < 4; k++)
            for (const Parameter& p : tensors.table)
                for (int64_t i = p.offset; i < p.offset + p.size(); i++) {
                    float x =
                        (static_cast<float>(i) + 0.25f * static_cast<float>(k)) * 1e-3f + static_cast<float>(seed);
                    buffers[k][static_cast<size_t>(i)] = k == 0 && tensors.bf16 ? static_cast<float>(bf16(x)) : x;
                }
    }
};

// The message of the Error that f() throws; "" if it throws none.
template <typename F>
std::string error_of(F&& f) {
    try {
        f();
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

}  // namespace
