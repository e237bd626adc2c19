#include "llmc/files/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "llmc/base/bf16.h"
#include "llmc/base/f16.h"
#include "llmc/base/json.h"

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is read as it lies");

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

// Bytes of an element; 0 for a dtype that is not known here (or not whole bytes).
uint64_t dtype_bytes(const std::string& dtype) {
    static const std::map<std::string, uint64_t> bytes = {
        {"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2},
        {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4},     {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}};
    auto found = bytes.find(dtype);
    return found == bytes.end() ? 0 : found->second;
}

// Elements may lie on any byte: a header's length need not be a multiple of 8 in files of others.
template <typename X, typename Convert>
void convert(const unsigned char* in, int64_t n, float* out, Convert&& to_float) {
    for (int64_t i = 0; i < n; i++) {
        X x;
        memcpy(&x, in + i * static_cast<int64_t>(sizeof(X)), sizeof(X));
        out[i] = to_float(x);
    }
}

}  // namespace

int64_t TensorInfo::elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) {
    auto fail = [&](const std::string& why) {
        throw Error(strf("%s is not a valid safetensors file: %s", path.c_str(), why.c_str()));
    };
    uint64_t header_bytes = 0;
    if (file_.size() < 8) fail(strf("it has only %zu bytes", file_.size()));
    memcpy(&header_bytes, file_.data(), 8);
    if (header_bytes > kMaxHeaderBytes) fail("the header's length is beyond 100 MB; is it another kind of file?");
    if (header_bytes > file_.size() - 8)
        fail(strf("the header of %llu bytes does not fit in the file of %zu; it was cut off",
                  static_cast<unsigned long long>(header_bytes), file_.size()));
    data_begin_ = 8 + header_bytes;
    uint64_t data_bytes = file_.size() - data_begin_;

    const char* text = reinterpret_cast<const char*>(file_.data()) + 8;
    if (header_bytes == 0 || text[0] != '{') fail("the header does not start with '{'");
    std::set<std::string> keys;
    auto watch = [&](int depth, Json::parse_event_t event, Json& value) {  // what the finished document no longer shows
        if (depth > 8) fail("the header is nested too deeply");
        if (event == Json::parse_event_t::key && depth == 1 && !keys.insert(value.get<std::string>()).second)
            fail(strf("tensor %s is there twice", value.get<std::string>().c_str()));
        return true;
    };
    Json header;
    try {
        header = Json::parse(text, text + header_bytes, watch);
    } catch (const JsonError&) {
        fail("the header is not valid JSON");
    }

    for (auto& [name, value] : header.items()) {
        if (name == "__metadata__") {
            if (!value.is_object()) fail("__metadata__ is no object");
            for (auto& [key, v] : value.items()) {
                if (!v.is_string()) fail(strf("__metadata__ %s is no string", key.c_str()));
                metadata_[key] = v.get<std::string>();
            }
            continue;
        }
        auto bad = [&, &name = name](const std::string& why) {
            fail(strf("tensor %s: %s", name.c_str(), why.c_str()));
        };
        auto unsigned_array = [](const Json& a) {
            return a.is_array() &&
                   std::all_of(a.begin(), a.end(), [](const Json& x) { return x.is_number_unsigned(); });
        };
        if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
            !value.contains("data_offsets"))
            bad("dtype, shape and data_offsets are not all there");
        const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
        if (!dtype.is_string()) bad("its dtype is no string");
        if (!unsigned_array(shape)) bad("its shape is no list of whole numbers");
        if (!unsigned_array(offsets) || offsets.size() != 2) bad("its data_offsets are not two whole numbers");

        TensorInfo t;
        t.name = name;
        t.dtype = dtype.get<std::string>();
        t.begin = offsets[0].get<uint64_t>();
        t.end = offsets[1].get<uint64_t>();
        uint64_t bytes = dtype_bytes(t.dtype);
        if (bytes == 0) bad(strf("dtype %s is not known here", t.dtype.c_str()));
        // Sizes are multiplied with the zero dimensions left out: {0, 2^40, 2^40} must not overflow elements() either.
        uint64_t product = bytes;
        bool empty = false;
        for (const Json& d : shape) {
            uint64_t dim = d.get<uint64_t>();
            empty |= dim == 0;
            if (__builtin_mul_overflow(product, std::max<uint64_t>(dim, 1), &product) || product > INT64_MAX)
                bad("its shape is too large");
            t.shape.push_back(static_cast<int64_t>(dim));
        }
        if (empty) product = 0;
        if (t.begin > t.end || t.end > data_bytes)
            bad(strf(
                "its bytes %llu to %llu are not within the %llu bytes of data; the file was cut off or is mislabelled",
                static_cast<unsigned long long>(t.begin), static_cast<unsigned long long>(t.end),
                static_cast<unsigned long long>(data_bytes)));
        if (t.end - t.begin != product)
            bad(strf("its shape needs %llu bytes, its data_offsets hold %llu", static_cast<unsigned long long>(product),
                     static_cast<unsigned long long>(t.end - t.begin)));
        tensors_.push_back(std::move(t));
    }

    std::sort(tensors_.begin(), tensors_.end(),
              [](auto& a, auto& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
    uint64_t end = 0;
    for (const TensorInfo& t : tensors_) {
        if (t.begin < end) fail(strf("tensor %s overlaps the one before it", t.name.c_str()));
        if (t.begin > end) fail(strf("there is a gap before tensor %s", t.name.c_str()));
        end = t.end;
    }
    if (end != data_bytes)
        fail(strf("%llu bytes follow the last tensor", static_cast<unsigned long long>(data_bytes - end)));
    for (size_t i = 0; i < tensors_.size(); i++) index_[tensors_[i].name] = i;
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
    auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorInfo& SafetensorsFile::at(const std::string& name) const {
    const TensorInfo* t = find(name);
    if (!t) throw Error(strf("%s has no tensor %s", path_.c_str(), name.c_str()));
    return *t;
}

void SafetensorsFile::read_float(const TensorInfo& t, int64_t offset, int64_t n, float* out) const {
    CHECK(offset >= 0 && n >= 0 && offset + n <= t.elements(), "%s: offset %lld, n %lld of %lld", t.name.c_str(),
          static_cast<long long>(offset), static_cast<long long>(n), static_cast<long long>(t.elements()));
    const unsigned char* in = bytes(t) + static_cast<uint64_t>(offset) * dtype_bytes(t.dtype);
    if (n == 0) return;
    file_.was_read(static_cast<size_t>(n) * dtype_bytes(t.dtype));  // those before these
    if (t.dtype == "F32") memcpy(out, in, static_cast<size_t>(n) * 4);
    else if (t.dtype == "BF16") convert<bf16>(in, n, out, [](bf16 x) { return static_cast<float>(x); });
    else if (t.dtype == "F16") convert<uint16_t>(in, n, out, half_to_float);
    else if (t.dtype == "F64") convert<double>(in, n, out, [](double x) { return static_cast<float>(x); });
    else
        throw Error(strf("%s: tensor %s is of dtype %s; F32, BF16, F16 or F64 is needed", path_.c_str(), t.name.c_str(),
                         t.dtype.c_str()));
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorInfo>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
    OrderedJson header = OrderedJson::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    for (const TensorInfo& t : tensors) {
        uint64_t bytes = dtype_bytes(t.dtype);
        CHECK(bytes > 0, "%s: dtype %s", t.name.c_str(), t.dtype.c_str());
        CHECK(!header.contains(t.name), "tensor %s twice", t.name.c_str());
        uint64_t end = to_come_ + static_cast<uint64_t>(t.elements()) * bytes;
        header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {to_come_, end}}};
        to_come_ = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // so that tensors lie on multiples of 8 bytes
    uint64_t length = text.size();
    file_bytes_ = 8 + length + to_come_;
    file_.write(&length, 8);
    file_.write(text.data(), text.size());
}

void SafetensorsWriter::write(const void* bytes, size_t n) {
    CHECK(n <= to_come_, "%zu bytes written, %llu to come", n, static_cast<unsigned long long>(to_come_));
    to_come_ -= n;
    file_.write(bytes, n);
}

void SafetensorsWriter::write_float(const std::string& dtype, const float* in, int64_t n) {
    if (dtype == "F32") return write(in, static_cast<size_t>(n) * 4);
    CHECK(dtype == "BF16" || dtype == "F16", "dtype %s", dtype.c_str());
    uint16_t block[4096];
    for (int64_t i = 0; i < n;) {
        int64_t part = std::min<int64_t>(n - i, 4096);
        for (int64_t j = 0; j < part; j++) block[j] = dtype == "BF16" ? bf16(in[i + j]).bits : float_to_half(in[i + j]);
        write(block, static_cast<size_t>(part) * 2);
        i += part;
    }
}

std::string SafetensorsWriter::close() {
    CHECK(to_come_ == 0, "%llu bytes of tensors were not written", static_cast<unsigned long long>(to_come_));
    return file_.close();
}
