#include "llmc/files/word_vectors.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/f16.h"
#include "llmc/base/files.h"
#include "llmc/text/vocabulary.h"

void write_word_vectors(const std::string& path, bool npy, bool half, const ModelTensors& tensors,
                        const Tokenizer* tokenizer) {
    const Parameter& wte = tensors.table[0];
    const auto V = static_cast<int>(wte.rows), C = static_cast<int>(wte.cols);
    FileWriter file(path);
    std::string front;
    if (npy) {
        // magic, version 1.0, the header's length; all of it a multiple of 64 bytes
        std::string header =
            strf("{'descr': '%s', 'fortran_order': False, 'shape': (%d, %d), }", half ? "<f2" : "<f4", V, C);
        header.resize(static_cast<size_t>(round_up(static_cast<int64_t>(10 + header.size() + 1), 64)) - 11, ' ');
        header += '\n';
        const auto length = static_cast<uint16_t>(header.size());
        front = std::string("\x93NUMPY\x01\x00", 8) + std::string(reinterpret_cast<const char*>(&length), 2) + header;
    } else {
        int words = 0;
        for (int id = 0; id < V; id++) words += !tokenizer->bytes(id).empty();
        front = strf("%d %d\n", words, C);
    }
    file.write(front.data(), front.size());
    std::vector<float> row(static_cast<size_t>(C));
    for (int id = 0; id < V; id++) {
        tensors.read(Buffer::weights, wte.offset + static_cast<int64_t>(id) * C, C, row.data());
        std::string out;
        if (!npy) out = spell_bytes(tokenizer->bytes(id));
        if (!npy && out.empty()) continue;
        for (float x : row) {
            const uint16_t h = half ? float_to_half(x) : 0;
            if (half) x = half_to_float(h);
            if (!std::isfinite(x))
                throw Error(strf("%s has a value that f16 cannot hold; choose --type f32", wte.name.c_str()));
            char text[32];
            if (!npy) out.append(1, ' ').append(text, std::to_chars(text, text + sizeof text, x).ptr);
            else if (half) out.append(reinterpret_cast<const char*>(&h), 2);
            else out.append(reinterpret_cast<const char*>(&x), 4);
        }
        if (!npy) out += '\n';
        file.write(out.data(), out.size());
    }
    file.close();
}
