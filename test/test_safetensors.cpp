#include "llmc/files/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "test/fake_model.h"

namespace {

bool contains(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

std::string with_header(const std::string& header, size_t data_bytes) {
    uint64_t n = header.size();
    return std::string(reinterpret_cast<const char*>(&n), 8) + header + std::string(data_bytes, '\1');
}

// What the reader says about a file of these bytes.
std::string verdict(const std::string& bytes) {
    TemporaryDirectory dir;
    std::string path = dir / "x.safetensors";
    std::ofstream(path, std::ios::binary) << bytes;
    std::string message = error_of([&] { SafetensorsFile file(path); });
    if (!message.empty()) {
        EXPECT_TRUE(contains(message, path)) << message;
    }
    EXPECT_FALSE(contains(message, "\n")) << message;
    return message;
}

std::string verdict(const std::string& header, size_t data_bytes) { return verdict(with_header(header, data_bytes)); }

}  // namespace

TEST(Crc32c, KnownValues) {  // RFC 3720, B.4
    EXPECT_EQ(crc32c_hex(crc32c(0, "", 0)), "00000000");
    EXPECT_EQ(crc32c_hex(crc32c(0, "123456789", 9)), "e3069283");
    EXPECT_EQ(crc32c_hex(crc32c(0, std::string(32, '\0').data(), 32)), "8a9136aa");
    EXPECT_EQ(crc32c_hex(crc32c(0, std::string(32, '\xff').data(), 32)), "62a8ab43");
    std::string s = "The quick brown fox jumps over the lazy dog";
    for (size_t cut = 0; cut <= s.size(); cut++)
        EXPECT_EQ(crc32c(crc32c(0, s.data(), cut), s.data() + cut, s.size() - cut), crc32c(0, s.data(), s.size()));
}

TEST(Files, WriteReadAndErrors) {
    TemporaryDirectory dir;
    std::string text(3000001, 'x');
    for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<char>(i * 31 >> 3);
    EXPECT_EQ(write_file(dir / "a", text), crc32c_hex(crc32c(0, text.data(), text.size())));
    EXPECT_EQ(read_file(dir / "a"), text);
    EXPECT_EQ(file_crc32c(dir / "a"), crc32c_hex(crc32c(0, text.data(), text.size())));
    write_file(dir / "empty", "");
    EXPECT_EQ(read_file(dir / "empty"), "");
    EXPECT_EQ(MappedFile(dir / "empty").size(), 0u);
    EXPECT_TRUE(contains(error_of([&] { read_file(dir / "a", 1000); }), "at most 1000"));
    EXPECT_TRUE(contains(error_of([&] { read_file(dir / "none"); }), dir / "none"));
    EXPECT_TRUE(contains(error_of([&] { read_file(dir.path); }), "no regular file"));
    EXPECT_TRUE(contains(error_of([&] { MappedFile m(dir.path); }), "no regular file"));
    EXPECT_TRUE(contains(error_of([&] { file_crc32c(dir / "none"); }), dir / "none"));
    EXPECT_TRUE(contains(error_of([&] { write_file(dir / "a/b", "x"); }), dir / "a/b"));
    EXPECT_TRUE(contains(error_of([&] { sync_directory(dir / "none"); }), dir / "none"));
    if (std::filesystem::exists("/dev/full")) {
        EXPECT_TRUE(contains(error_of([&] { write_file("/dev/full", "x"); }), "No space left"));
    }
}

TEST(Safetensors, RoundTripOfEveryDtypeThatIsRead) {
    TemporaryDirectory dir;
    std::string path = dir / "x.safetensors";
    std::vector<float> f32 = {1.5f, -2.25f, 3e-8f, 4, 5, 6};
    std::vector<double> f64 = {1.0 / 3, -7};
    uint16_t f16[] = {0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x3555, 0x0400, 0xfc00};
    float f16_values[] = {
        1, -2, 0x1p-24f, -0.0f, 65504, 0.333251953125f, 0x1p-14f, -std::numeric_limits<float>::infinity()};
    int64_t i64 = 77;
    std::string checksum;
    {
        SafetensorsWriter w(path,
                            {{"a", "F32", {2, 3}},
                             {"h\"\u00e9", "F16", {8}},
                             {"none", "F32", {0, 4}},
                             {"d", "F64", {2}},
                             {"i", "I64", {}},
                             {"b", "BF16", {1, 2, 3}}},
                            {{"format", "pt"}, {"k", "v"}});
        w.write(f32.data(), 7);  // pieces of any size
        w.write(reinterpret_cast<char*>(f32.data()) + 7, 17);
        w.write(f16, 16);
        w.write(f64.data(), 16);
        w.write(&i64, 8);
        w.write_float("BF16", f32.data(), 6);
        checksum = w.close();
        EXPECT_EQ(w.file_bytes(), std::filesystem::file_size(path));
    }
    EXPECT_EQ(checksum, file_crc32c(path));
    uint64_t header = 0;
    memcpy(&header, read_file(path).data(), 8);
    EXPECT_EQ(header % 8, 0u);

    SafetensorsFile f(path);
    ASSERT_EQ(f.tensors().size(), 6u);
    EXPECT_EQ(f.tensors()[0].name, "a");
    EXPECT_EQ(f.at("b").shape, (std::vector<int64_t>{1, 2, 3}));
    EXPECT_EQ(f.at("i").elements(), 1);
    EXPECT_EQ(f.at("none").elements(), 0);
    EXPECT_EQ(f.metadata().at("k"), "v");
    EXPECT_EQ(f.find("c"), nullptr);
    EXPECT_TRUE(contains(error_of([&] { f.at("c"); }), "has no tensor c"));
    float x[8];
    f.read_float(f.at("a"), 2, 4, x);
    EXPECT_EQ(0, memcmp(x, f32.data() + 2, 16));
    f.read_float(f.at("h\"\u00e9"), 0, 8, x);
    EXPECT_EQ(0, memcmp(x, f16_values, sizeof x));
    f.read_float(f.at("d"), 1, 1, x);
    EXPECT_EQ(x[0], -7);
    f.read_float(f.at("b"), 0, 6, x);
    for (size_t i = 0; i < 6; i++) EXPECT_EQ(x[i], static_cast<float>(bf16(f32[i])));
    EXPECT_EQ(0, memcmp(f.bytes(f.at("i")), &i64, 8));
    EXPECT_TRUE(contains(error_of([&] { f.read_float(f.at("i"), 0, 1, x); }), "I64"));
    EXPECT_THROW(f.read_float(f.at("a"), 3, 4, x), std::logic_error);
}

TEST(Safetensors, HalfNansStayNans) {
    TemporaryDirectory dir;
    uint16_t bits = 0x7e01;
    SafetensorsWriter w(dir / "x", {{"a", "F16", {1}}});
    w.write(&bits, 2);
    w.close();
    SafetensorsFile f(dir / "x");
    float x;
    f.read_float(f.at("a"), 0, 1, &x);
    EXPECT_TRUE(std::isnan(x));
}

TEST(Safetensors, WriterNoticesWhatIsMissingOrTooMuch) {
    TemporaryDirectory dir;
    SafetensorsWriter w(dir / "x", {{"a", "F32", {3}}});
    float x[4] = {};
    w.write(x, 8);
    EXPECT_THROW(w.close(), std::logic_error);
    EXPECT_THROW(w.write(x, 8), std::logic_error);
    w.write(x, 4);
    w.close();
    EXPECT_THROW(SafetensorsWriter(dir / "y", {{"a", "F99", {3}}}), std::logic_error);
    EXPECT_THROW(SafetensorsWriter(dir / "y", {{"a", "F32", {3}}, {"a", "F32", {3}}}), std::logic_error);
    EXPECT_TRUE(contains(error_of([&] { SafetensorsWriter v(dir / "none/y", {}); }), dir / "none/y"));
    if (std::filesystem::exists("/dev/full")) {
        EXPECT_TRUE(contains(error_of([&] {
                                 SafetensorsWriter v("/dev/full", {{"a", "F32", {4}}});
                                 v.write(x, 16);
                                 v.close();
                             }),
                             "/dev/full"));
    }
}

TEST(Safetensors, GoodHeadersOfOthers) {
    EXPECT_EQ(verdict("{}", 0), "");
    EXPECT_EQ(verdict(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   )", 4), "");
    // order in the header is free; a header of odd length leaves the data unaligned
    EXPECT_EQ(
        verdict(
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"b":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})",
            8),
        "");
    EXPECT_EQ(verdict(R"({"a":{"dtype":"F32","shape":[0,1099511627776],"data_offsets":[0,0]}})", 0), "");
    EXPECT_TRUE(contains(error_of([] { SafetensorsFile f("/none/x"); }), "/none/x"));
}

TEST(Safetensors, BadFilesAreRefused) {
    const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    EXPECT_EQ(verdict(good, 8), "");
    EXPECT_TRUE(contains(verdict(std::string()), "only 0 bytes"));
    EXPECT_TRUE(contains(verdict(std::string("1234567")), "only 7 bytes"));
    EXPECT_TRUE(contains(verdict(std::string(8, '\0')), "does not start"));
    EXPECT_TRUE(contains(verdict(std::string(100, '\xff')), "beyond 100 MB"));
    EXPECT_TRUE(contains(verdict(with_header(good, 8).substr(0, 30)), "cut off"));
    EXPECT_TRUE(contains(verdict(good, 7), "cut off"));
    EXPECT_TRUE(contains(verdict(good, 9), "1 bytes follow"));
    EXPECT_TRUE(contains(verdict(good.substr(0, good.size() - 1), 8), "not valid JSON"));
    EXPECT_TRUE(contains(verdict(good + "x", 8), "not valid JSON"));
    EXPECT_TRUE(contains(verdict(" " + good, 8), "does not start"));
    EXPECT_TRUE(contains(verdict("[1]", 8), "does not start"));
    EXPECT_TRUE(contains(verdict("{\"\xff\":1}", 8), "not valid JSON"));
    EXPECT_TRUE(
        contains(verdict("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0), "too deeply"));

    auto tensor = [](const std::string& fields) { return verdict("{\"a\":{" + fields + "}}", 8); };
    EXPECT_TRUE(contains(verdict(R"({"a":5})", 8), "tensor a: dtype"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2])"), "tensor a: dtype, shape and data_offsets"));
    EXPECT_TRUE(contains(tensor(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"), "dtype is no string"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), "F31"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), "its shape"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "its shape"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "its shape"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "data_offsets"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,-8])"), "data_offsets"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "not within"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), "not within"));
    EXPECT_TRUE(
        contains(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999])"), "data_offsets"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), "needs 4 bytes"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"F64","shape":[2],"data_offsets":[0,8])"), "needs 16 bytes"));
    // 2^62 * 4 bytes wraps to 0; with a dimension of 0 the others must not overflow either
    EXPECT_TRUE(contains(tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), "too large"));
    EXPECT_TRUE(
        contains(tensor(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "too large"));
    EXPECT_TRUE(contains(tensor(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8])"), "too large"));

    auto two = [](const std::string& a, const std::string& b, const std::string& second = "b") {
        return verdict(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a + R"(},")" + second +
                           R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                       8);
    };
    EXPECT_EQ(two("[0,4]", "[4,8]"), "");
    EXPECT_TRUE(contains(two("[0,4]", "[3,7]"), "overlaps"));
    EXPECT_TRUE(contains(two("[0,4]", "[0,4]"), "overlaps"));
    EXPECT_TRUE(contains(two("[0,4]", "[4,8]", "a"), "tensor a is there twice"));
    EXPECT_TRUE(contains(verdict(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8), "gap"));
    EXPECT_TRUE(contains(verdict(R"({"__metadata__":{"k":1}})", 0), "__metadata__ k"));
    EXPECT_TRUE(contains(verdict(R"({"__metadata__":[]})", 0), "__metadata__"));
}

// Whatever bytes change, the reader throws Error or gives tensors that lie within the file.
TEST(Safetensors, RandomDamageIsNeverACrash) {
    TemporaryDirectory dir;
    SafetensorsWriter w(dir / "good", {{"first", "F32", {2, 3}}, {"second", "BF16", {4}}});
    float x[6] = {};
    w.write_float("F32", x, 6);
    w.write_float("BF16", x, 4);
    w.close();
    const std::string good = read_file(dir / "good");
    std::mt19937 random(5);
    int accepted = 0;
    for (int round = 0; round < 3000; round++) {
        std::string bad = good;
        for (unsigned k = random() % 3 + 1; k > 0; k--) bad[random() % bad.size()] = static_cast<char>(random());
        if (random() % 4 == 0) bad.resize(random() % bad.size());
        std::filesystem::remove(dir /
                                "bad");  // a new file: some file systems flush one that is emptied and written again
        std::ofstream(dir / "bad", std::ios::binary) << bad;
        try {
            SafetensorsFile f(dir / "bad");
            accepted++;
            for (const TensorInfo& t : f.tensors()) {
                std::vector<float> out(static_cast<size_t>(t.elements()));
                ASSERT_LE(f.bytes(t) + (t.end - t.begin), f.bytes(f.tensors()[0]) + bad.size());
                try {
                    f.read_float(t, 0, t.elements(), out.data());
                } catch (const Error&) {
                }
            }
        } catch (const Error&) {
        }
    }
    EXPECT_GT(accepted, 100);  // damage to the data alone is not the header's to notice
}
