// The whole model: against PyTorch's numbers (test/fixtures, written by dev/make_fixtures.py), against finite
// differences, and its cache of keys and values against the whole pass.
#include <cstring>
#include "llmc/files/model_files.h"
#include "llmc/files/safetensors.h"
#include "test/model_test.h"

namespace {

const std::string kFixtures[] = {"test/fixtures/gpt2_l3h2c28", "test/fixtures/gpt2_l1h3c48"};

template <typename X, class Machine>
std::unique_ptr<GPT2<X, Machine>> load_model(const std::string& directory, StepOptions options) {
    ModelSource source = find_model(directory);
    options.T = source.config.T;
    auto model = std::make_unique<GPT2<X, Machine>>(source.config, options);
    load_weights(source, model->tensors());
    return model;
}

// A tensor of an arena as files have it: Conv1D keeps (C,OC).
Doubles as_in_file(const Parameter& p, const Doubles& arena) {
    Doubles out(p.size());
    for (int64_t r = 0; r < p.rows; r++)
        for (int64_t c = 0; c < p.cols; c++)
            out[p.transposed_in_file ? c * p.rows + r : r * p.cols + c] = arena[p.offset + r * p.cols + c];
    return out;
}

Doubles read_tensor(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& t = file.at(name);
    std::vector<float> x(t.elements());
    file.read_float(t, 0, t.elements(), x.data());
    return widen(x.data(), t.elements());
}
std::vector<int> read_ints(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& t = file.at(name);
    EXPECT_EQ(t.dtype, "I32");
    std::vector<int> x(t.elements());
    std::memcpy(x.data(), file.bytes(t), x.size() * sizeof(int));
    return x;
}

}  // namespace

// --------------------------------------------------------------------------------------------- PyTorch

template <typename X, class Machine>
void check_fixture(const std::string& name, double tolerance) {
    SCOPED_TRACE(name);
    SafetensorsFile reference(name + "_reference.safetensors");
    const auto& shape = reference.at("inputs").shape;  // (2,B,T)
    int B = static_cast<int>(shape[1]), T = static_cast<int>(shape[2]);
    StepOptions options;
    options.B = B;
    auto model = load_model<X, Machine>(name, options);
    const int V = model->config().V, Vp = model->config().Vp();
    ASSERT_EQ(model->config().T, T);

    std::vector<int> inputs = read_ints(reference, "inputs"), targets = read_ints(reference, "targets");
    Batch batches[2];
    for (int i = 0; i < 2; i++) {
        batches[i].sequences = B, batches[i].T = T;
        batches[i].inputs.assign(inputs.begin() + i * B * T, inputs.begin() + (i + 1) * B * T);
        batches[i].targets.assign(targets.begin() + i * B * T, targets.begin() + (i + 1) * B * T);
    }

    Doubles logits;
    auto padded = all_logits(*model, batches[0].inputs.data(), B, T);
    for (int n = 0; n < B * T; n++) {
        Doubles row = widen(padded.data() + n * Vp, V);
        logits.insert(logits.end(), row.begin(), row.end());
    }
    EXPECT_LT(relative_error(logits, read_tensor(reference, "logits")), tolerance) << "logits";

    std::vector<float> losses(B * T);
    model->token_losses(losses.data(), batches[0]);
    double mean = 0;
    for (float loss : losses) mean += static_cast<double>(loss) / (B * T);
    EXPECT_NEAR(mean / read_tensor(reference, "loss")[0], 1, 1e-6);

    Doubles want_losses = read_tensor(reference, "adamw_losses"), want_norms = read_tensor(reference, "adamw_norms");
    for (int step = 0; step < 10; step++) {
        StepState state = step_state(batches[step % 2], step, 1e-3f);
        model->step(batches[step % 2], &state);
        EXPECT_NEAR(static_cast<double>(state.loss) / want_losses[step], 1, 2e-6) << "step " << step;
        EXPECT_NEAR(static_cast<double>(state.grad_norm) / want_norms[step], 1, tolerance) << "step " << step;
        EXPECT_FLOAT_EQ(state.clip_scale, std::min(1.0f, 1.0f / state.grad_norm));
        EXPECT_EQ(state.skip, 0);
        if (step > 0) continue;
        Doubles gradients = gradients_of(*model);
        for (const Parameter& p : model->table())
            EXPECT_LT(relative_error(as_in_file(p, gradients), read_tensor(reference, "grad." + p.name)), tolerance)
                << "gradient of " << p.name;
    }
    Doubles weights = weights_of(*model);
    for (const Parameter& p : model->table()) {
        Doubles got = as_in_file(p, weights), want = read_tensor(reference, "adamw." + p.name);
        // The true gradient of the key bias is zero: softmax does not see it. Adam makes steps of full size of what
        // rounding leaves there, and they differ from one program to the next.
        if (p.name.find("c_attn.bias") != std::string::npos) {
            size_t C = want.size() / 3;
            for (Doubles* x : {&got, &want}) x->erase(x->begin() + int64_t(C), x->begin() + int64_t(2 * C));
        }
        EXPECT_LT(relative_error(got, want), tolerance) << "after ten steps: " << p.name;
    }
}

// In double what is left is the rounding of the fixtures' floats.
TEST(ModelFixtures, PlainFloat) {
    for (const std::string& name : kFixtures) check_fixture<float, PlainCpu>(name, 3e-6);
}
TEST(ModelFixtures, PlainDouble) {
    for (const std::string& name : kFixtures) check_fixture<double, PlainCpu>(name, 3e-7);
}
TEST(ModelFixtures, Float) {
    for (const std::string& name : kFixtures) check_fixture<float, Cpu>(name, 3e-6);
}
TEST(ModelFixtures, Double) {
    for (const std::string& name : kFixtures) check_fixture<double, Cpu>(name, 3e-7);
}

// -------------------------------------------------------------------------------- finite differences

TEST(ModelFiniteDifferences, EveryWeightOfATinyModelWithDropout) {
    StepOptions options;
    options.B = 2, options.T = 5, options.dropout = 0.2f;
    check_model_gradients({2, 2, 8, 7, 11}, options, random_batch(3, 5, 11, 1), 10'000);  // micro-batches of 2 and 1
}

TEST(ModelFiniteDifferences, RandomDirections) {
    for (float dropout : {0.0f, 0.15f}) {
        StepOptions options;
        options.B = 2, options.T = 37, options.dropout = dropout, options.recompute = dropout > 0 ? 3 : 0;
        check_model_gradients({3, 3, 30, 37, 131}, options, random_batch(2, 37, 131, 2), 0);
    }
}

// --------------------------------------------------------------------------------------------- decoding

template <typename X>
void check_decode(const ModelConfig& config, double tolerance) {
    StepOptions options;
    options.B = 1, options.T = config.T, options.training = false;
    auto model = random_model<X>(config, options);
    Batch batch = random_batch(1, config.T, config.V, 7);
    auto logits = all_logits(*model, batch.inputs.data(), 1, config.T);
    Decoder decoder(*model, 1, config.T);
    for (const std::vector<int>& pieces :
         std::vector<std::vector<int>>{{1, 1, 1, 3, 7, 1}, {5, 2, 31}, {config.T}, {config.T - 1, 1}, {1}}) {
        int fed = 0;
        for (int n : pieces) {
            if (fed + n > config.T) break;
            const float* got = decoder.decode(batch.inputs.data() + fed, n, fed == 0);
            fed += n;
            EXPECT_LT(
                relative_error(widen(got, config.V), widen(logits.data() + int64_t(fed - 1) * config.Vp(), config.V)),
                tolerance)
                << n << " tokens, " << fed << " in all, of " << config.T;
        }
    }
    // One token at a time to the end of the context; a token more is a bug of the caller.
    for (int t = 0; t < config.T; t++) {
        const float* got = decoder.decode(batch.inputs.data() + t, 1, t == 0);
        ASSERT_LT(relative_error(widen(got, config.V), widen(logits.data() + int64_t(t) * config.Vp(), config.V)),
                  tolerance)
            << t;
    }
    EXPECT_THROW(decoder.decode(batch.inputs.data(), 1, false), std::logic_error);
}

// Texts of different lengths, fed in pieces of different lengths, some together; then a copy of one, and one cut short.
template <typename X>
void check_texts(const ModelConfig& config, double tolerance) {
    StepOptions options;
    options.B = 3, options.T = config.T, options.training = false;
    auto model = random_model<X>(config, options);
    Batch batch = random_batch(3, config.T, config.V, 7);
    const auto logits = all_logits(*model, batch.inputs.data(), 3, config.T);
    Decoder decoder(*model, 5, config.T);
    struct Piece {
        int text, row, n;  // of the decoder, of the batch
    };
    const auto feed = [&](const std::vector<Piece>& pieces) {
        std::vector<Feed> feeds;
        for (auto [text, row, n] : pieces)
            feeds.push_back({text, &batch.inputs[row * config.T + decoder.length(text)], n});
        const float* got = decoder.decode(feeds);
        for (auto [text, row, n] : pieces) {
            const int64_t at = int64_t(row) * config.T + decoder.length(text) - 1;
            EXPECT_LT(relative_error(widen(got, config.V), widen(logits.data() + at * config.Vp(), config.V)),
                      tolerance)
                << "text " << text << ", " << decoder.length(text) << " tokens";
            got += config.V;
        }
    };
    feed({{4, 0, 7}, {0, 1, 1}, {2, 2, config.T - 3}});
    feed({{0, 1, 1}, {2, 2, 1}, {4, 0, 1}});
    feed({{0, 1, 1}, {2, 2, 1}, {4, 0, 1}});
    feed({{4, 0, 3}, {2, 2, 1}});
    feed({{0, 1, 2}});
    decoder.copy(1, 4, 9), decoder.copy(2, 4, 12), decoder.keep(4, 5);
    feed({{2, 0, 1}, {4, 0, 1}, {1, 0, 5}});
    decoder.keep(0, 0);
    feed({{0, 2, 20}, {4, 0, 2}});
    EXPECT_THROW(feed({{0, 2, config.T - 19}}), std::logic_error);
    EXPECT_THROW(decoder.decode({{5, batch.inputs.data(), 1}}), std::logic_error);
}
TEST(ModelDecode, ManyTextsAtOnce) {
    check_texts<double>({3, 3, 30, 41, 131}, 1e-7);
    check_texts<float>({3, 3, 30, 41, 131}, 5e-6);
    check_texts<bf16>({3, 3, 30, 41, 131}, 3e-2);
    check_texts<float>({2, 2, 32, 293, 257}, 5e-6);
}
// More texts than attention takes rows at once.
TEST(ModelDecode, MoreTextsThanAPieceOfAPromptHasTokens) {
    const ModelConfig config{2, 2, 16, 6, 37};
    StepOptions options;
    options.B = 20, options.T = 6, options.training = false;
    auto model = random_model<float>(config, options);
    const Batch batch = random_batch(20, 6, 37, 3);
    const auto logits = all_logits(*model, batch.inputs.data(), 20, 6);
    Decoder decoder(*model, 20, 4);
    for (int t = 0; t < 4; t++) {
        std::vector<Feed> feeds;
        for (int b = 0; b < 20; b++) feeds.push_back({b, &batch.inputs[b * 6 + t], 1});
        const float* got = decoder.decode(feeds);
        for (int b = 0; b < 20; b++)
            EXPECT_LT(relative_error(widen(got + b * 37, 37), widen(logits.data() + (b * 6 + t) * config.Vp(), 37)),
                      5e-6);
    }
}
// A model in training: the decoder reads the weights as they are now.
TEST(ModelDecode, FollowsTheWeightsInTraining) {
    const ModelConfig config{2, 2, 16, 12, 37};
    StepOptions options;
    options.B = 2, options.T = 12;
    auto model = random_model<float>(config, options);
    const Batch batch = random_batch(2, 12, 37, 3);
    Decoder decoder(*model, 2, 12);
    std::vector<float> before;
    for (int step = 0; step < 2; step++) {
        const auto logits = all_logits(*model, batch.inputs.data(), 2, 12);
        decoder.keep(1, 0);
        const float* got = decoder.decode({{1, batch.inputs.data() + 12, 12}});
        EXPECT_LT(relative_error(widen(got, 37), widen(logits.data() + 23 * config.Vp(), 37)), 5e-6);
        EXPECT_NE(before, std::vector<float>(got, got + 37));
        before.assign(got, got + 37);
        StepState state = step_state(batch, step, 1e-2f);
        model->step(batch, &state);
    }
}

TEST(ModelDecode, CachedLogitsAreThoseOfTheWholePass) {
    check_decode<double>({3, 3, 30, 41, 131}, 1e-7);
    check_decode<float>({3, 3, 30, 41, 131}, 5e-6);
    check_decode<bf16>({3, 3, 30, 41, 131}, 3e-2);
    check_decode<float>({2, 2, 32, 293, 257}, 5e-6);  // longer than the pieces in which a prompt is fed
}
