// GPT-2 with one setting changed, as transformers runs it: loss and norm of its gradient by transformers 4.40 with PyTorch
// 1.13 in float64, of the weights and the first batch of test/fixtures/gpt2_l3h2c28; finite differences; the cache.
#include <cstring>
#include <fstream>
#include "llmc/files/config_json.h"
#include "llmc/files/model_files.h"
#include "llmc/files/safetensors.h"
#include "test/command.h"
#include "test/model_test.h"

namespace {

const std::string kFixture = "test/fixtures/gpt2_l3h2c28";

struct Variant {
    const char *field, *value;  // of config.json
    double loss, norm;
};
const Variant kVariants[] = {{"activation_function", "\"gelu_new\"", 5.595672055, 2.362250610},
                             {"activation_function", "\"gelu_fast\"", 5.595672055, 2.362250610},
                             {"activation_function", "\"gelu_pytorch_tanh\"", 5.595672055, 2.362250610},
                             {"activation_function", "\"gelu\"", 5.595623783, 2.362195655},
                             {"layer_norm_epsilon", "0.01", 5.597930689, 2.337374437},
                             {"scale_attn_by_inverse_layer_idx", "true", 5.585692412, 2.348715559},
                             {"scale_attn_weights", "false", 5.537362187, 3.517538461},
                             {"tie_word_embeddings", "false", 5.715830152, 3.045462348},
                             {"n_inner", "20", 5.773131962, 2.516794790}};

// A config.json of the fixture's sizes with that field.
ModelConfig read_config(const std::string& field, const std::string& value) {
    TemporaryDirectory dir;
    std::ofstream(dir / "config.json") << R"({"model_type": "gpt2", "n_layer": 3, "n_head": 2, "n_embd": 28,)"
                                       << R"( "n_positions": 17, "vocab_size": 131, ")" << field << "\": " << value
                                       << "}";
    return read_model_config(dir.path);
}

// The fixture's weights; of a narrower MLP its first channels; an LM head of its own is wte upside down.
template <typename X, class Machine>
void take_weights(GPT2<X, Machine>& model) {
    SafetensorsFile file(kFixture + "/model.safetensors");
    const ModelTensors tensors = model.tensors();
    for (const Parameter& p : tensors.table) {
        const bool head = p.name == "lm_head.weight";
        const TensorInfo& t = file.at(head ? "transformer.wte.weight" : p.name);
        std::vector<float> all(static_cast<size_t>(t.elements())), x(static_cast<size_t>(p.size()));
        file.read_float(t, 0, t.elements(), all.data());
        for (int64_t r = 0; r < p.rows; r++)
            for (int64_t c = 0; c < p.cols; c++) {
                const int64_t from =
                    p.transposed_in_file ? c * t.shape[1] + r : (head ? p.rows - 1 - r : r) * p.cols + c;
                x[static_cast<size_t>(r * p.cols + c)] = all[static_cast<size_t>(from)];
            }
        tensors.write(Buffer::weights, p.offset, p.size(), x.data());
    }
}

template <typename X, class Machine>
void check_variants(double tolerance) {
    SafetensorsFile reference(kFixture + "_reference.safetensors");
    Batch batch;
    batch.sequences = 3, batch.T = 17;
    for (const char* name : {"inputs", "targets"}) {
        std::vector<int> ids(3 * 17);
        std::memcpy(ids.data(), reference.bytes(reference.at(name)), ids.size() * sizeof(int));
        (name[0] == 'i' ? batch.inputs : batch.targets) = ids;
    }
    for (const Variant& v : kVariants)
        for (int recompute : {0, 1, 2, 3}) {
            SCOPED_TRACE(std::string(v.field) + " " + v.value + ", recompute " + std::to_string(recompute));
            StepOptions options;
            options.B = 3, options.T = 17, options.recompute = recompute;
            GPT2<X, Machine> model(read_config(v.field, v.value), options);
            take_weights(model);
            StepState state = step_state(batch, 0, 0.0f);
            model.step(batch, &state);
            EXPECT_NEAR(static_cast<double>(state.loss) / v.loss, 1, tolerance);
            EXPECT_NEAR(static_cast<double>(state.grad_norm) / v.norm, 1, tolerance);
        }
}

}  // namespace

TEST(ModelVariants, PlainDouble) { check_variants<double, PlainCpu>(3e-7); }
TEST(ModelVariants, Float) { check_variants<float, Cpu>(3e-6); }

// In sizes, and all of them at once: gradients, the cache of keys and values, and files.
const char* const kSizes[] = {"L2:H2:C8:T7:V11:F12",
                              "L2:H2:C8:T7:V11:F6:gelu",
                              "L2:H2:C8:T7:V11:E0.03",
                              "L2:H2:C8:T7:V11:unscaled",
                              "L2:H2:C8:T7:V11:by_layer",
                              "L2:H2:C8:T7:V11:untied",
                              "L2:H2:C8:T7:V11:F5:gelu:E0.03:unscaled:by_layer:untied"};

ModelConfig sized(const std::string& name) {
    ModelConfig m;
    EXPECT_TRUE(parse_model_size(name, &m)) << name;
    EXPECT_EQ(model_size_text(m).size(), name.size()) << model_size_text(m);
    return m;
}

TEST(ModelVariants, FiniteDifferences) {
    Threads one(1);
    for (const char* size : kSizes) {
        SCOPED_TRACE(size);
        StepOptions options;
        options.B = 2, options.T = 5;
        const Batch batch = random_batch(3, 5, 11, 1);  // micro-batches of 2 and 1
        auto model = random_model<double>(sized(size), options);
        StepState state = step_state(batch, 3, 0.0f);
        model->step(batch, &state);
        const Doubles gradients = gradients_of(*model);
        auto loss = [&] {
            StepState again = step_state(batch, 3, 0.0f);
            again.skip_loss_above = -1;
            model->step(batch, &again);
            return again.sums[0] * static_cast<double>(again.loss_normaliser);
        };
        for (const Parameter& p : model->table()) {
            Doubles gradient(gradients.begin() + p.offset, gradients.begin() + p.offset + p.size());
            EXPECT_LT(gradient_error(model->weights() + p.offset, gradient, loss, 0, 2), 1e-7) << p.name;
            for (int64_t i = p.size(); i < p.padded_size(); i++) ASSERT_EQ(gradients[p.offset + i], 0) << p.name;
        }
    }
}

TEST(ModelVariants, TheCacheGivesTheLogitsOfTheWholePass) {
    for (const char* size : kSizes) {
        SCOPED_TRACE(size);
        const ModelConfig m = sized(size);
        StepOptions options;
        options.B = 1, options.T = m.T, options.training = false;
        auto model = random_model<float>(m, options);
        const Batch batch = random_batch(1, m.T, m.V, 7);
        const auto logits = all_logits(*model, batch.inputs.data(), 1, m.T);
        Decoder decoder(*model, 1, m.T);
        for (int t = 0; t < m.T; t++) {
            const float* got = decoder.decode(batch.inputs.data() + t, 1, t == 0);
            EXPECT_LT(relative_error(widen(got, m.V), widen(logits.data() + int64_t(t) * m.Vp(), m.V)), 5e-6) << t;
        }
    }
}

TEST(ModelVariants, DirectoriesComeBackTheSame) {
    for (const char* size : kSizes) {
        SCOPED_TRACE(size);
        TemporaryDirectory dir;
        StepOptions options;
        options.training = false;
        auto model = random_model<float>(sized(size), options);
        write_model_directory(dir.path, model->config(), model->tensors(), nullptr);
        const ModelSource source = find_model(dir.path);
        EXPECT_EQ(source.config, model->config()) << model_size_text(source.config);
        EXPECT_EQ(source.notes.size(), 0u);
        GPT2<float, Cpu> again(source.config, options);
        load_weights(source, again.tensors());
        EXPECT_EQ(weights_of(again), weights_of(*model));
    }
}
