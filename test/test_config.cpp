#include "llmc/model/config.h"

#include <gtest/gtest.h>

#include <climits>

#include "llmc/base/error.h"
#include "llmc/model/parameters.h"

namespace {

ModelConfig parsed(const std::string& name) {
    ModelConfig m;
    EXPECT_TRUE(parse_model_size(name, &m)) << name;
    return m;
}

std::string usage_error(const std::string& name) {
    ModelConfig m;
    try {
        bool is_size = parse_model_size(name, &m);
        ADD_FAILURE() << name << (is_size ? " was accepted" : " was taken for a path");
    } catch (const UsageError& e) {
        EXPECT_EQ(m, ModelConfig()) << "changed by a refused size";
        return e.what();
    }
    return "";
}

bool contains(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

}  // namespace

TEST(Config, NamedSizes) {
    EXPECT_EQ(parsed("d6"), (ModelConfig{6, 6, 384, 1024, 0}));
    EXPECT_EQ(parsed("d12"), (ModelConfig{12, 12, 768, 1024, 0}));
    EXPECT_EQ(parsed("d24"), (ModelConfig{24, 16, 1024, 1024, 0}));
    EXPECT_EQ(parsed("d36"), (ModelConfig{36, 20, 1280, 1024, 0}));
    EXPECT_EQ(parsed("d48"), (ModelConfig{48, 25, 1600, 1024, 0}));
    EXPECT_EQ(parsed("d60"), (ModelConfig{60, 30, 1920, 1024, 0}));
    EXPECT_EQ(parsed("gpt2:d48"), parsed("d48"));
    EXPECT_EQ(parsed("D12"), parsed("d12"));
    EXPECT_EQ(parsed("gpt3:125m"), (ModelConfig{12, 12, 768, 2048, 0}));
    EXPECT_EQ(parsed("GPT3:1.3B"), (ModelConfig{24, 16, 2048, 2048, 0}));
    EXPECT_EQ(parsed("gpt3:c1536"), (ModelConfig{24, 16, 1536, 2048, 0}));
    EXPECT_EQ(parsed("gpt3:c2560").HS(), 80);
    EXPECT_EQ(parsed("gpt3:175b"), (ModelConfig{96, 96, 12288, 2048, 0}));
    EXPECT_EQ(parsed("gpt3:c12288"), parsed("gpt3:175b"));
    // every name that is listed can be parsed and is a possible model
    std::string names = model_size_names();
    int n = 0;
    for (size_t begin = 0, end; (end = names.find(", ", begin)) != std::string::npos; begin = end + 2, n++)
        EXPECT_NO_THROW(check_model_config(parsed(names.substr(begin, end - begin)), "list"));
    EXPECT_GE(n, 23);
}

TEST(Config, ExplicitSizes) {
    EXPECT_EQ(parsed("L6:H6:C384:T256"), (ModelConfig{6, 6, 384, 256, 0}));
    EXPECT_EQ(parsed("t33:v5000:c40:l3:h5"), (ModelConfig{3, 5, 40, 33, 5000}));
    EXPECT_EQ(parsed("L1:H1:C2:T1:V1"), (ModelConfig{1, 1, 2, 1, 1}));
}

TEST(Config, NamedSizesWithChanges) {
    EXPECT_EQ(parsed("d12:V32000"), (ModelConfig{12, 12, 768, 1024, 32000}));
    EXPECT_EQ(parsed("gpt2:d24:t512"), (ModelConfig{24, 16, 1024, 512, 0}));
    EXPECT_EQ(parsed("GPT3:1.3B:V50257:T1024"), (ModelConfig{24, 16, 2048, 1024, 50257}));
    EXPECT_THROW(parsed("d12:H7"), UsageError);  // 768 channels
    EXPECT_THROW(parsed("d12:V1:V2"), UsageError);
    EXPECT_THROW(parsed("d12:"), UsageError);
    EXPECT_THROW(parsed("d120:V5"), UsageError);
}

TEST(Config, SizesComeBackFromTheirText) {
    EXPECT_EQ(model_size_text(parsed("d12")), "L12:H12:C768:T1024");
    EXPECT_EQ(model_size_text(parsed("v5000:T33:c40:l3:h5")), "L3:H5:C40:T33:V5000");
    for (ModelConfig m : {parsed("gpt3:175b"), ModelConfig{1, 2, 4, 3, 0}, ModelConfig{6, 6, 384, 256, INT_MAX - 127}})
        EXPECT_EQ(parsed(model_size_text(m)), m);
}

TEST(Config, AFieldMayBeOneOfAFewNames) {
    const ConfigField norm = {
        .letter = 'N',
        .key = "norm",
        .text = "norm",
        .member = {[](const ModelConfig& m) { return m.V; }, [](ModelConfig& m, int v) { m.V = v; }},
        .names = "layernorm|rms"};
    ModelConfig m;
    EXPECT_EQ(norm.value_text(m), "layernorm");
    EXPECT_TRUE(norm.assign("RMS", &m));
    EXPECT_EQ(m.V, 1);
    EXPECT_EQ(norm.value_text(m), "rms");
    EXPECT_EQ(norm.possible_text(), "layernorm or rms");
    for (const char* bad : {"", "1", "batch", "rms|", "layer"}) EXPECT_FALSE(norm.assign(bad, &m)) << bad;
    EXPECT_EQ(m.V, 1);
}

TEST(Config, ImpossibleSizesNameThePart) {
    EXPECT_TRUE(contains(usage_error("L6:H6:C384"), "T is missing"));
    EXPECT_TRUE(contains(usage_error("C384:T256"), "L is missing"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T256:L6"), "L is given twice"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T0"), "T (longest context) is 0; it must be"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T256:V0"), "V (vocabulary) is 0; it must be"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T256:X5"), "'X5'"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T-5"), "'T-5'"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T256:"), "''"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T99999999999999999999999"), "T99999999999999999999999"));
    EXPECT_TRUE(contains(usage_error("L6:H7:C384:T256"), "H=7"));
    EXPECT_TRUE(contains(usage_error("L6:H1:C384:T256"), "heads of 384"));
    EXPECT_TRUE(contains(usage_error("L6:H4:C12:T256"), "heads of 3 "));
    EXPECT_TRUE(contains(usage_error("L2000000000:H6:C384:T256"), "L (layers) is 2000000000"));
    EXPECT_TRUE(contains(usage_error("L60000:H8388606:C536870784:T2147483646"), "too large"));
    EXPECT_TRUE(contains(usage_error("L6:H6:C384:T256:V2147483646"), "V (vocabulary)"));
    for (const char* near :
         {"d13", "d0", "d999999999999", "gpt3:126m", "gpt3:", "gpt3:c769", "gpt2:d13", "gpt2:medium"}) {
        std::string message = usage_error(near);
        EXPECT_TRUE(contains(message, near) && contains(message, "d12") && contains(message, "gpt3:125m")) << message;
    }
    EXPECT_TRUE(contains(usage_error("gpt3:c5140"), "gpt3:c5120"));
}

TEST(Config, PathsAreNoSizes) {
    ModelConfig m;
    for (const char* path : {"gpt2", "gpt2-medium", "data/gpt2", "./d13", "runs/L6:H6:C384:T256", "d12.bin", "dir", "d",
                             "", "v2", "t5", "model:1", "C:\\models"})
        EXPECT_FALSE(parse_model_size(path, &m)) << path;
    EXPECT_EQ(m, ModelConfig());
}

TEST(Config, CheckNamesTheFile) {
    auto message = [](ModelConfig m) -> std::string {
        try {
            check_model_config(m, "some/config.json");
        } catch (const Error& e) {
            return e.what();
        }
        return "";
    };
    EXPECT_EQ(message({6, 6, 384, 256, 0}), "");
    EXPECT_EQ(message({1, 1, 256, 1, INT_MAX - 127}), "");
    for (ModelConfig bad : {ModelConfig{0, 6, 384, 256, 5},
                            {6, 0, 384, 256, 5},
                            {6, 6, 0, 256, 5},
                            {6, 6, 384, -1, 5},
                            {6, 6, 384, 256, -1},
                            {6, 6, 385, 256, 5},
                            {6, 1, 258, 256, 5},
                            {INT_MAX, 1, 2, 1, 5}})
        EXPECT_TRUE(contains(message(bad), "some/config.json: "));
}

TEST(Config, Counts) {
    ModelConfig gpt2{12, 12, 768, 1024, 50257};
    EXPECT_EQ(parameter_count(gpt2), 124439808);  // as transformers counts GPT2LMHeadModel
    EXPECT_EQ(gpt2.Vp(), 50304);
    EXPECT_DOUBLE_EQ(flops_per_token(gpt2, 1024), 6.0 * 124439808 + 12.0 * 12 * 768 * 1024);
    EXPECT_EQ(parameter_count({1, 1, 2, 3, 5}), 5 * 2 + 3 * 2 + 12 * 4 + 13 * 2 + 4);
}
