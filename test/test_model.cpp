// The whole model: against PyTorch's numbers (test/fixtures, written by dev/make_fixtures.py), against finite
// differences, and against itself where two ways must lead to the same result.
#include <gtest/gtest.h>
#include <cstring>
#include <memory>
#include "llmc/cpu/machine.h"
#include "llmc/files/model_files.h"
#include "llmc/files/safetensors.h"
#include "llmc/gpt2.h"
#include "test/finite_difference.h"
#include "test/model_access.h"

namespace {

const std::string kFixtures[] = {"test/fixtures/gpt2_l3h2c28", "test/fixtures/gpt2_l1h3c48"};

size_t size(int64_t n) { return static_cast<size_t>(n); }

template <typename T>
Doubles widen(const T* x, int64_t n) {
    Doubles out(size(n));
    for (size_t i = 0; i < out.size(); i++) {
        if constexpr (std::is_same_v<T, bf16>) out[i] = static_cast<float>(x[i]);
        else out[i] = static_cast<double>(x[i]);
    }
    return out;
}

template <typename X>
std::unique_ptr<GPT2<X, Cpu>> load_model(const std::string& directory, StepOptions options) {
    ModelSource source = find_model(directory);
    options.T = source.config.T;
    auto model = std::make_unique<GPT2<X, Cpu>>(source.config, options);
    load_weights(source, model->tensors());
    return model;
}

// Weight i, and its fp32 master where there is one.
template <typename X>
void set_weight(GPT2<X, Cpu>& model, int64_t i, float x) {
    ModelTensors tensors = model.tensors();
    tensors.write(Buffer::weights, i, 1, &x);
    if (tensors.has_master) tensors.write(Buffer::master, i, 1, &x);
}

// Weights large enough that no part of the network is close to linear or trivial.
template <typename X>
std::unique_ptr<GPT2<X, Cpu>> random_model(const ModelConfig& config, const StepOptions& options,
                                           double deviation = 0.2) {
    auto model = std::make_unique<GPT2<X, Cpu>>(config, options);
    model->init_weights(1);
    uint64_t seed = 50;
    for (const Parameter& p : model->table()) {
        Doubles x = random_vector(p.size(), seed++, deviation);
        for (int64_t i = 0; i < p.size(); i++)
            set_weight(*model, p.offset + i, static_cast<float>(x[size(i)] + (p.init == Init::ones ? 1 : 0)));
    }
    return model;
}

Batch random_batch(int sequences, int T, int V, uint64_t seed) {
    std::mt19937_64 generator(seed);
    Batch batch;
    batch.sequences = sequences, batch.T = T;
    for (int i = 0; i < sequences * T; i++) {
        batch.inputs.push_back(static_cast<int>(generator() % static_cast<uint64_t>(V)));
        batch.targets.push_back(static_cast<int>(generator() % static_cast<uint64_t>(V)));
    }
    return batch;
}

StepState step_state(const Batch& batch, int step, float learning_rate) {
    StepState state;
    state.seed = 42, state.step = static_cast<uint32_t>(step), state.learning_rate = learning_rate;
    state.beta1_correction = static_cast<float>(1 - std::pow(0.9, step + 1));
    state.beta2_correction = static_cast<float>(1 - std::pow(0.95, step + 1));
    auto counted = std::count_if(batch.targets.begin(), batch.targets.end(), [](int t) { return t >= 0; });
    state.loss_normaliser = 1.0f / static_cast<float>(counted);
    return state;
}

template <typename X>
Doubles gradients_of(GPT2<X, Cpu>& model) {
    return widen(model.gradients(), model.arena_elements());
}
template <typename X>
Doubles weights_of(GPT2<X, Cpu>& model) {
    return widen(model.weights(), model.arena_elements());
}

// Relative error by norm of each tensor of two arenas; the largest.
double largest_error(const std::vector<Parameter>& table, const Doubles& got, const Doubles& want) {
    double largest = 0;
    for (const Parameter& p : table) {
        auto part = [&](const Doubles& x) { return Doubles(x.begin() + p.offset, x.begin() + p.offset + p.size()); };
        largest = std::max(largest, relative_error(part(got), part(want)));
    }
    return largest;
}

// A tensor of an arena as files have it: Conv1D keeps (C,OC).
Doubles as_in_file(const Parameter& p, const Doubles& arena) {
    Doubles out(size(p.size()));
    for (int64_t r = 0; r < p.rows; r++)
        for (int64_t c = 0; c < p.cols; c++)
            out[size(p.transposed_in_file ? c * p.rows + r : r * p.cols + c)] = arena[size(p.offset + r * p.cols + c)];
    return out;
}

Doubles read_tensor(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& t = file.at(name);
    std::vector<float> x(size(t.elements()));
    file.read_float(t, 0, t.elements(), x.data());
    return widen(x.data(), t.elements());
}
std::vector<int> read_ints(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& t = file.at(name);
    EXPECT_EQ(t.dtype, "I32");
    std::vector<int> x(size(t.elements()));
    std::memcpy(x.data(), file.bytes(t), x.size() * sizeof(int));
    return x;
}

}  // namespace

// --------------------------------------------------------------------------------------------- PyTorch

template <typename X>
void check_fixture(const std::string& name, double tolerance) {
    SCOPED_TRACE(name);
    SafetensorsFile reference(name + "_reference.safetensors");
    const auto& shape = reference.at("inputs").shape;  // (2,B,T)
    int B = static_cast<int>(shape[1]), T = static_cast<int>(shape[2]);
    StepOptions options;
    options.B = B;
    auto model = load_model<X>(name, options);
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

    std::vector<float> losses(size(B * T));
    model->token_losses(losses.data(), batches[0].inputs.data(), batches[0].targets.data(), B, T);
    double mean = 0;
    for (float loss : losses) mean += static_cast<double>(loss) / (B * T);
    EXPECT_NEAR(mean / read_tensor(reference, "loss")[0], 1, 1e-6);

    Doubles want_losses = read_tensor(reference, "adamw_losses"), want_norms = read_tensor(reference, "adamw_norms");
    for (int step = 0; step < 10; step++) {
        StepState state = step_state(batches[step % 2], step, 1e-3f);
        model->step(batches[step % 2], &state);
        EXPECT_NEAR(static_cast<double>(state.loss) / want_losses[size(step)], 1, 2e-6) << "step " << step;
        EXPECT_NEAR(static_cast<double>(state.grad_norm) / want_norms[size(step)], 1, tolerance) << "step " << step;
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

TEST(ModelFixtures, Float) {
    for (const std::string& name : kFixtures) check_fixture<float>(name, 3e-6);
}
TEST(ModelFixtures, Double) {  // what is left is the rounding of the fixtures' floats
    for (const std::string& name : kFixtures) check_fixture<double>(name, 3e-7);
}

// -------------------------------------------------------------------------------- finite differences

// Gradients that a step leaves, against differences of the loss in double over the same micro-batches.
void check_model_gradients(const ModelConfig& config, StepOptions options, Batch batch, size_t all_up_to) {
    Threads one(1);  // thousands of tiny passes: starting threads would take most of the time
    auto model = random_model<double>(config, options);
    batch.targets[1] = batch.targets[batch.targets.size() - 2] = -1;
    StepState state = step_state(batch, 3, 0.0f);  // learning rate 0: the weights stay
    model->step(batch, &state);
    Doubles gradients = gradients_of(*model);
    auto loss = [&] {
        StepState again = step_state(batch, 3, 0.0f);
        again.skip_loss_above = -1;  // no update
        model->step(batch, &again);
        return again.loss_sum * static_cast<double>(again.loss_normaliser);
    };
    EXPECT_FLOAT_EQ(static_cast<float>(loss()), state.loss);
    for (const Parameter& p : model->table()) {
        Doubles gradient(gradients.begin() + p.offset, gradients.begin() + p.offset + p.size());
        EXPECT_LT(gradient_error(model->weights() + p.offset, gradient, loss, all_up_to, 6), 1e-7) << p.name;
        for (int64_t i = p.size(); i < p.padded_size(); i++)
            ASSERT_EQ(gradients[size(p.offset + i)], 0) << "padding of " << p.name;
    }
}

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

// ------------------------------------------------------------------------- two ways to the same result

template <typename X>
void check_recompute(float dropout) {
    Batch batch = random_batch(3, 19, 131, 4);
    Doubles gradients, weights;
    float loss = 0;
    for (int level = 0; level <= 3; level++) {
        SCOPED_TRACE(testing::Message() << "level " << level << ", dropout " << dropout);
        StepOptions options;
        options.B = 2, options.T = 19, options.dropout = dropout, options.recompute = level;
        auto model = random_model<X>({3, 3, 30, 19, 131}, options);
        float last = 0;
        for (int step = 0; step < 2; step++) {
            StepState state = step_state(batch, step, 1e-3f);
            model->step(batch, &state);
            last = state.loss;
        }
        if (level == 0) loss = last, gradients = gradients_of(*model), weights = weights_of(*model);
        EXPECT_EQ(last, loss);
        EXPECT_EQ(gradients_of(*model), gradients);
        EXPECT_EQ(weights_of(*model), weights);
    }
}

TEST(ModelRecompute, LevelsGiveTheSameBits) {
    for (float dropout : {0.0f, 0.2f}) {
        check_recompute<float>(dropout);
        check_recompute<bf16>(dropout);
        check_recompute<double>(dropout);
    }
}

template <typename X>
void check_accumulation(double tolerance, double loss_tolerance) {
    Batch batch = random_batch(6, 19, 131, 5);
    batch.targets[3] = batch.targets[40] = -1;
    Doubles whole;
    double loss = 0;
    for (int B : {6, 6, 3, 2, 1, 4, 5}) {  // 4 and 5: the last micro-batch is smaller
        SCOPED_TRACE(testing::Message() << "B " << B);
        StepOptions options;
        options.B = B, options.T = 19, options.dropout = 0.1f;
        auto model = random_model<X>({2, 3, 30, 19, 131}, options);
        StepState state = step_state(batch, 0, 1e-3f);
        model->step(batch, &state);
        Doubles gradients = gradients_of(*model);
        if (whole.empty()) {
            whole = gradients, loss = static_cast<double>(state.loss);
        } else if (B == 6) {
            EXPECT_EQ(gradients, whole);
            EXPECT_EQ(static_cast<double>(state.loss), loss);
        }
        EXPECT_LT(largest_error(model->table(), gradients, whole), tolerance);
        EXPECT_NEAR(static_cast<double>(state.loss) / loss, 1, loss_tolerance);
    }
}

TEST(ModelAccumulation, Float) { check_accumulation<float>(1e-5, 1e-6); }
TEST(ModelAccumulation, Double) { check_accumulation<double>(1e-11, 1e-7); }
TEST(ModelAccumulation, Bf16) { check_accumulation<bf16>(2e-3, 1e-4); }

TEST(ModelLmHead, ChunksOfRowsGiveTheSameGradients) {
    Batch batch = random_batch(2, 19, 131, 6);
    Doubles whole;
    for (int64_t chunk : {38, 37, 19, 7, 1}) {
        StepOptions options;
        options.B = 2, options.T = 19;
        auto model = random_model<double>({1, 3, 30, 19, 131}, options);
        ASSERT_GE(model->activations().chunk, 38);
        model->activations().chunk = chunk;
        StepState state = step_state(batch, 0, 0.0f);
        model->step(batch, &state);
        if (whole.empty()) whole = gradients_of(*model);
        EXPECT_LT(largest_error(model->table(), gradients_of(*model), whole), 1e-12) << chunk;
    }
}

template <typename X>
void check_decode(const ModelConfig& config, double tolerance) {
    StepOptions options;
    options.B = 1, options.T = config.T, options.training = false;
    auto model = random_model<X>(config, options);
    Batch batch = random_batch(1, config.T, config.V, 7);
    auto logits = all_logits(*model, batch.inputs.data(), 1, config.T);
    for (const std::vector<int>& pieces :
         std::vector<std::vector<int>>{{1, 1, 1, 3, 7, 1}, {5, 2, 31}, {config.T}, {config.T - 1, 1}, {1}}) {
        int fed = 0;
        for (int n : pieces) {
            if (fed + n > config.T) break;
            const float* got = model->decode(batch.inputs.data() + fed, n, fed == 0);
            fed += n;
            EXPECT_LT(
                relative_error(widen(got, config.V), widen(logits.data() + int64_t(fed - 1) * config.Vp(), config.V)),
                tolerance)
                << n << " tokens, " << fed << " in all, of " << config.T;
        }
    }
    // One token at a time to the end of the context; a token more is a bug of the caller.
    for (int t = 0; t < config.T; t++) {
        const float* got = model->decode(batch.inputs.data() + t, 1, t == 0);
        ASSERT_LT(relative_error(widen(got, config.V), widen(logits.data() + int64_t(t) * config.Vp(), config.V)),
                  tolerance)
            << t;
    }
    EXPECT_THROW(model->decode(batch.inputs.data(), 1, false), std::logic_error);
}

TEST(ModelDecode, CachedLogitsAreThoseOfTheWholePass) {
    check_decode<double>({3, 3, 30, 41, 131}, 1e-7);
    check_decode<float>({3, 3, 30, 41, 131}, 5e-6);
    check_decode<bf16>({3, 3, 30, 41, 131}, 3e-2);
    check_decode<float>({2, 2, 32, 293, 257}, 5e-6);  // longer than the pieces in which a prompt is fed
}

// Losses of `steps` steps of a model on three batches in turn.
template <typename X>
std::vector<float> train(const ModelConfig& config, const StepOptions& options, int steps, Doubles* weights = nullptr) {
    auto model = std::make_unique<GPT2<X, Cpu>>(config, options);
    model->init_weights(11);
    std::vector<float> losses;
    for (int step = 0; step < steps; step++) {
        Batch batch = random_batch(6, config.T, config.V, 20 + static_cast<uint64_t>(step % 3));
        for (size_t i = 0; i < batch.targets.size(); i += 2)
            batch.targets[i] = (batch.inputs[i] * 7 + 3) % config.V;  // half can be learned
        StepState state = step_state(batch, step, 2e-3f);
        model->step(batch, &state);
        losses.push_back(state.loss);
    }
    Doubles trained = weights_of(*model);
    for (const Parameter& p : model->table())
        for (int64_t i = p.size(); i < p.padded_size(); i++) EXPECT_EQ(trained[size(p.offset + i)], 0) << "padding";
    if (weights) *weights = trained;
    return losses;
}

TEST(ModelTraining, Bf16FollowsFloat) {
    ModelConfig config{3, 3, 48, 33, 131};
    StepOptions options;
    options.B = 3, options.T = 33, options.dropout = 0.1f;
    auto exact = train<float>(config, options, 50);
    EXPECT_LT(exact.back(), 0.75f * exact.front()) << "the task is learned, else there is little to compare";
    auto half = train<bf16>(config, options, 50);
    for (size_t i = 0; i < 50; i++) EXPECT_NEAR(half[i] / exact[i], 1, 0.01) << "step " << i;
    options.master_weights = false, options.stochastic_rounding = true;
    auto stochastic = train<bf16>(config, options, 50);
    for (size_t i = 0; i < 50; i++)
        EXPECT_NEAR(stochastic[i] / exact[i], 1, 0.03) << "without master weights, step " << i;
}

template <typename X>
void check_same_bits() {
    ModelConfig config{2, 3, 48, 65, 131};
    StepOptions options;
    options.B = 4, options.T = 65, options.dropout = 0.1f;
    Doubles weights[2];
    auto first = train<X>(config, options, 8, &weights[0]), second = train<X>(config, options, 8, &weights[1]);
    EXPECT_EQ(first, second);
    EXPECT_EQ(weights[0], weights[1]);
}

TEST(ModelTraining, SameSeedSameBits) {
    check_same_bits<float>();
    check_same_bits<bf16>();
}

TEST(ModelTraining, SkippedStepChangesNothing) {
    Batch batch = random_batch(2, 9, 31, 8);
    StepOptions options;
    options.B = 2, options.T = 9;
    auto model = random_model<float>({1, 2, 8, 9, 31}, options);
    Doubles before = weights_of(*model);
    for (int way = 0; way < 3; way++) {
        StepState state = step_state(batch, 0, 1e-2f);
        if (way == 0) state.skip_loss_above = 0.5f;
        if (way == 1) state.skip_norm_above = 1e-3f;
        if (way == 2) state.loss_normaliser = std::numeric_limits<float>::quiet_NaN();
        model->step(batch, &state);
        EXPECT_EQ(state.skip, 1) << way;
        EXPECT_EQ(weights_of(*model), before) << way;
    }
    StepState state = step_state(batch, 0, 1e-2f);
    model->step(batch, &state);
    EXPECT_EQ(state.skip, 0);
    EXPECT_NE(weights_of(*model), before);
}

TEST(ModelTraining, NamesTheFirstTensorThatIsNotFinite) {
    Batch batch = random_batch(2, 9, 31, 8);
    StepOptions options;
    options.B = 2, options.T = 9;
    auto model = random_model<float>({2, 2, 8, 9, 31}, options);
    StepState state = step_state(batch, 0, 1e-3f);
    model->step(batch, &state);
    EXPECT_EQ(model->first_non_finite(), "none any more");
    const Parameter& p = model->table()[2 + 12 + 8];
    set_weight(*model, p.offset + 5, NAN);
    state = step_state(batch, 1, 1e-3f);
    model->step(batch, &state);
    EXPECT_TRUE(std::isnan(state.loss));
    EXPECT_EQ(state.skip, 1);
    EXPECT_EQ(model->first_non_finite(), "weight " + p.name);
}
