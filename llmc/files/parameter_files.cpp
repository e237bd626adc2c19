#include "llmc/files/parameter_files.h"

#include <algorithm>
#include <cmath>
#include "llmc/base/error.h"
#include "llmc/model/moments.h"

static constexpr int64_t kPiece = 1 << 20;  // elements that are read or converted at a time: 4 MB of floats

static std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "(";
    for (int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
    return text + ")";
}

TensorInfo file_tensor(const Parameter& p, const std::string& name, const std::string& dtype) {
    TensorInfo t;
    t.name = name;
    t.dtype = dtype;
    if (p.cols == 1) t.shape = {p.rows};
    else if (p.transposed_in_file) t.shape = {p.cols, p.rows};
    else t.shape = {p.rows, p.cols};
    return t;
}

static bool transposed(const Parameter& p) { return p.transposed_in_file && p.cols > 1; }
// A transposed tensor is read whole: its columns lie all over it.
static int64_t piece_of(const Parameter& p) { return transposed(p) ? p.size() : std::min(p.size(), kPiece); }

void copy_parameter(const Parameter& p, const ModelTensors& tensors, Buffer buffer, float* to) {
    for (int64_t i = 0, piece = piece_of(p); i < p.size(); i += piece)
        tensors.read(buffer, p.offset + i, std::min(piece, p.size() - i), to + i);
}

// What is no number would be read back by nobody.
static void check_finite(const float* x, int64_t n, const Parameter& p, const std::string& dtype) {
    for (int64_t i = 0; i < n; i++) {
        if (!std::isfinite(x[i]))
            throw Error(
                strf("%s has the value %g; no file is written of that", p.name.c_str(), static_cast<double>(x[i])));
        if (dtype == "F16" && std::abs(x[i]) >= 65520)
            throw Error(strf("%s has the value %g, which f16 cannot hold; choose bf16 or f32", p.name.c_str(),
                             static_cast<double>(x[i])));
    }
}

void write_parameter(SafetensorsWriter* file, const std::string& dtype, const Parameter& p, const ModelTensors& tensors,
                     Buffer buffer) {
    const int64_t piece = piece_of(p);
    std::vector<float> in(static_cast<size_t>(piece)), out;
    if (!transposed(p)) {
        for (int64_t i = 0; i < p.size(); i += piece) {
            int64_t n = std::min(piece, p.size() - i);
            tensors.read(buffer, p.offset + i, n, in.data());
            if (file) check_finite(in.data(), n, p, dtype), file->write_float(dtype, in.data(), n);
        }
        return;
    }
    tensors.read(buffer, p.offset, p.size(), in.data());
    if (!file) return;
    check_finite(in.data(), p.size(), p, dtype);
    constexpr int64_t kColumns = 16;  // a cache line of floats is read at once
    out.resize(static_cast<size_t>(kColumns * p.rows));
    for (int64_t c0 = 0; c0 < p.cols; c0 += kColumns) {
        int64_t n = std::min(kColumns, p.cols - c0);
        for (int64_t r = 0; r < p.rows; r++)
            for (int64_t c = 0; c < n; c++)
                out[static_cast<size_t>(c * p.rows + r)] = in[static_cast<size_t>(r * p.cols + c0 + c)];
        file->write_float(dtype, out.data(), n * p.rows);
    }
}

std::vector<WrittenFile> write_parameters(const std::string& dir, const std::string& stem, const std::string& dtype,
                                          const std::vector<FileTensor>& all, const ModelTensors& tensors, int64_t most,
                                          std::vector<std::string>* which) {
    std::vector<std::vector<const FileTensor*>> files(1);
    int64_t bytes = 0;
    for (const FileTensor& t : all) {
        const int64_t size = t.p->size() * (dtype == "F32" ? 4 : 2);
        if (bytes > 0 && bytes + size > most) files.emplace_back(), bytes = 0;
        files.back().push_back(&t), bytes += size;
    }
    std::vector<WrittenFile> written;
    for (size_t i = 0; i < files.size(); i++) {
        std::string name = stem + ".safetensors";
        if (files.size() > 1) name = strf("%s-%05zu-of-%05zu.safetensors", stem.c_str(), i + 1, files.size());
        std::vector<TensorInfo> infos;
        for (const FileTensor* t : files[i]) infos.push_back(file_tensor(*t->p, t->name, dtype));
        SafetensorsWriter file(dir + "/" + name, infos);
        for (const FileTensor* t : files[i]) write_parameter(&file, dtype, *t->p, tensors, t->buffer);
        const std::string checksum = file.close();
        written.push_back({name, checksum, file.file_bytes()});
        if (which) which->resize(which->size() + files[i].size(), name);
    }
    return written;
}

// A few rows of memory at a time.
void fill_parameter(const Parameter& p, bool transposed, const ModelTensors& tensors,
                    const std::vector<Buffer>& buffers, const std::string& where, const ReadElements& read) {
    // whole blocks of moments (model/moments.h) at a time
    int64_t rows_at_once = std::min(p.rows, std::max<int64_t>(1, kPiece / p.cols / kMomentBlock) * kMomentBlock);
    std::vector<float> rows(static_cast<size_t>(rows_at_once * p.cols)), columns(transposed ? rows.size() : 0);
    for (int64_t r0 = 0; r0 < p.rows; r0 += rows_at_once) {
        int64_t R = std::min(rows_at_once, p.rows - r0), n = R * p.cols;
        if (transposed) {
            for (int64_t c = 0; c < p.cols; c++) read(c * p.rows + r0, R, columns.data() + c * R);
            for (int64_t c0 = 0; c0 < p.cols; c0 += 16)  // 16 floats: a cache line is written at once
                for (int64_t r = 0; r < R; r++)
                    for (int64_t c = c0; c < std::min(c0 + 16, p.cols); c++)
                        rows[static_cast<size_t>(r * p.cols + c)] = columns[static_cast<size_t>(c * R + r)];
        } else {
            read(r0 * p.cols, n, rows.data());
        }
        for (int64_t i = 0; i < n; i++)
            if (!std::isfinite(rows[static_cast<size_t>(i)]))
                throw Error(strf("%s has the value %g, which no sound model has", where.c_str(),
                                 static_cast<double>(rows[static_cast<size_t>(i)])));
        for (Buffer b : buffers) tensors.write(b, p.offset + r0 * p.cols, n, rows.data());
    }
}

void read_parameter(const SafetensorsFile& file, const std::string& name, const Parameter& p,
                    const ModelTensors& tensors, const std::vector<Buffer>& buffers) {
    const TensorInfo& t = file.at(name);
    std::string where = file.path() + ": tensor " + name;
    std::vector<int64_t> expected = file_tensor(p, name, t.dtype).shape;
    if (t.shape != expected)
        throw Error(strf("%s has shape %s; this model needs %s", where.c_str(), shape_text(t.shape).c_str(),
                         shape_text(expected).c_str()));
    fill_parameter(p, transposed(p), tensors, buffers, where,
                   [&](int64_t offset, int64_t n, float* out) { file.read_float(t, offset, n, out); });
}
