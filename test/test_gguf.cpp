// GGUF's number formats and half precision, against gguf's Python package; whole files: test_export.cpp.
#include "llmc/files/gguf.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include "llmc/base/f16.h"
#include "llmc/base/files.h"

namespace {

std::string rounded(GgufType type, const std::vector<float>& x, bool* fits = nullptr) {
    std::vector<unsigned char> out(static_cast<size_t>(gguf_bytes(type, static_cast<int64_t>(x.size()))));
    const bool good = gguf_round(type, x.data(), static_cast<int64_t>(x.size()), out.data());
    if (fits) *fits = good;
    std::string hex;
    for (unsigned char byte : out) hex += strf("%02x", byte);
    return hex;
}

}  // namespace

TEST(Gguf, BlocksAreThoseOfItsReference) {
    const auto j = nlohmann::json::parse(read_file("test/fixtures/gguf_blocks.json"));
    std::vector<float> x;
    for (uint32_t bits : j["x"]) x.push_back(std::bit_cast<float>(bits));
    ASSERT_EQ(x.size(), 192u);
    EXPECT_EQ(rounded(GgufType::f16, x), j["F16"]);
    EXPECT_EQ(rounded(GgufType::bf16, x), j["BF16"]);
    EXPECT_EQ(rounded(GgufType::q8_0, x), j["Q8_0"]);
    EXPECT_EQ(rounded(GgufType::q4_0, x), j["Q4_0"]);
}

TEST(Gguf, WhatF16CannotHoldIsSaid) {
    std::vector<float> x(32, 1.0f);
    const auto fits = [&](GgufType type, float large) {
        bool good;
        x[3] = large;
        rounded(type, x, &good);
        return good;
    };
    EXPECT_TRUE(fits(GgufType::f16, 65519) && fits(GgufType::f16, -65519));
    EXPECT_FALSE(fits(GgufType::f16, 65520) || fits(GgufType::f16, -65520));
    EXPECT_TRUE(fits(GgufType::q8_0, 1e6f));
    EXPECT_FALSE(fits(GgufType::q8_0, 1e7f));
    x.assign(32, 1e-39f);  // 1 / d would be infinite
    EXPECT_EQ(rounded(GgufType::q4_0, x).substr(4), std::string(32, '8').c_str());
}

TEST(Half, EveryOneComesBackAndTiesGoToEven) {
    for (uint32_t h = 0; h < 0x10000; h++)
        if ((h & 0x7c00) != 0x7c00 || (h & 0x3ff) == 0) {
            ASSERT_EQ(float_to_half(half_to_float(static_cast<uint16_t>(h))), h);
        }
    for (uint16_t h : {0x0000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bfe}) {
        const float low = half_to_float(h), high = half_to_float(static_cast<uint16_t>(h + 1)),
                    middle = (low + high) / 2;
        EXPECT_EQ(float_to_half(middle), h + (h & 1));
        EXPECT_EQ(float_to_half(std::nextafter(middle, 0.0f)), h);
        EXPECT_EQ(float_to_half(-std::nextafter(middle, 1e9f)), 0x8000 | (h + 1));
    }
    EXPECT_EQ(float_to_half(std::nanf("")) & 0x7fff, 0x7e00);
}
