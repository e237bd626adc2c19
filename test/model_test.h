// Models for tests: small ones, with weights at which no part of them is nearly linear, and what they leave behind.
#pragma once
#include <gtest/gtest.h>
#include <memory>
#include "test/finite_difference.h"
#include "test/models.h"

// Weight i, and its fp32 master where there is one.
template <typename X, class Machine>
void set_weight(GPT2<X, Machine>& model, int64_t i, float x) {
    ModelTensors tensors = model.tensors();
    tensors.write(Buffer::weights, i, 1, &x);
    if (tensors.has_master) tensors.write(Buffer::master, i, 1, &x);
}

// Weights large enough that no part of the network is close to linear or trivial.
template <typename X, class Machine = Cpu>
std::unique_ptr<GPT2<X, Machine>> random_model(const ModelConfig& config, const StepOptions& options,
                                               double deviation = 0.2) {
    auto model = std::make_unique<GPT2<X, Machine>>(config, options);
    model->init_weights(1);
    uint64_t seed = 50;
    const auto fill = [&](const ModelTensors& tensors) {
        for (const Parameter& p : tensors.table) {
            Doubles x = random_vector(p.size(), seed++, deviation);
            if (p.init == Init::ones)
                for (double& v : x) v += 1;
            const std::vector<float> values = narrow<float>(x);
            tensors.write(Buffer::weights, p.offset, p.size(), values.data());
            if (tensors.has_master) tensors.write(Buffer::master, p.offset, p.size(), values.data());
        }
    };
    fill(model->tensors());
    for (size_t i = 0; i < options.adapters.size(); i++) fill(model->adapter_tensors(i));
    return model;
}

// Weights and what the optimizer keeps, to the end of `all`.
inline void append_state(const ModelTensors& tensors, Optimizer optimizer, std::vector<float>* all) {
    for (const Parameter& p : tensors.table)
        for (Buffer buffer : {Buffer::weights, Buffer::master, Buffer::m, Buffer::v}) {
            if (buffer == Buffer::master && !tensors.has_master) continue;
            if (buffer == Buffer::m && !keeps_m(optimizer)) continue;
            if (buffer == Buffer::v && !keeps_v(optimizer, p.matrices)) continue;
            std::vector<float> values(static_cast<size_t>(p.size()));
            tensors.read(buffer, p.offset, p.size(), values.data());
            all->insert(all->end(), values.begin(), values.end());
        }
}

inline Batch random_batch(int sequences, int T, int V, uint64_t seed) {
    std::mt19937_64 generator(seed);
    Batch batch;
    batch.sequences = sequences, batch.T = T;
    for (int i = 0; i < sequences * T; i++) {
        batch.inputs.push_back(static_cast<int>(generator() % static_cast<uint64_t>(V)));
        batch.targets.push_back(static_cast<int>(generator() % static_cast<uint64_t>(V)));
    }
    return batch;
}

inline StepState step_state(const Batch& batch, int step, float learning_rate) {
    StepState state;
    state.seed = 42, state.step = static_cast<uint32_t>(step), state.learning_rate = learning_rate;
    state.beta1_correction = static_cast<float>(1 - std::pow(0.9, step + 1));
    state.beta2_correction = static_cast<float>(1 - std::pow(0.95, step + 1));
    double counted = 0;
    for (size_t i = 0; i < batch.targets.size(); i++)
        if (batch.targets[i] >= 0) counted += batch.weights.empty() ? 1.0 : static_cast<double>(batch.weights[i]);
    if (!batch.labels.empty()) counted = 0;  // texts: the weights are parts of them
    for (size_t i = 0; i < batch.labels.size(); i++)
        if (has_label(batch.labels[i])) counted += batch.partners[i] < 0 ? 1.0 : 0.5;
    state.loss_normaliser = static_cast<float>(1 / counted);
    return state;
}

template <typename X, class Machine>
Doubles gradients_of(GPT2<X, Machine>& model) {
    return widen(model.gradients(), model.arena_elements());
}
template <typename X, class Machine>
Doubles weights_of(GPT2<X, Machine>& model) {
    return widen(model.weights(), model.arena_elements());
}

// Gradients that a step leaves of what it trains, against differences of the loss in double over the same micro-batches.
template <class Machine = Cpu>
void check_model_gradients(
    const ModelConfig& config, StepOptions options, Batch batch, size_t all_up_to,
    const std::function<void(GPT2<double, Machine>&)>& prepare = [](auto&) {}) {
    Threads one(1);  // thousands of tiny passes: starting threads would take most of the time
    int directions = 3;
    double tolerance = 1e-7;
#ifdef __SANITIZE_ADDRESS__  // every pass reads and writes the same places: a few are enough, though one direction says little
    all_up_to = std::min<size_t>(all_up_to, 8), directions = 1, tolerance = 1e-4;
#endif
    auto model = random_model<double, Machine>(config, options);
    prepare(*model);
    batch.targets[1] = batch.targets[batch.targets.size() - 2] = -1;
    StepState state = step_state(batch, 3, 0.0f);  // learning rate 0: the weights stay
    model->step(batch, &state);
    const auto& trained = model->trained().memory;
    Doubles gradients = widen(trained.grads, trained.size);
    auto loss = [&] {
        StepState again = step_state(batch, 3, 0.0f);
        again.skip_loss_above = -1;  // no update
        model->step(batch, &again);
        return again.sums[0] * static_cast<double>(again.loss_normaliser);
    };
    EXPECT_FLOAT_EQ(static_cast<float>(loss()), state.loss);
    for (const Parameter& p : trained.table) {
        if (!p.trainable) continue;
        Doubles gradient(gradients.begin() + p.offset, gradients.begin() + p.offset + p.size());
        EXPECT_LT(gradient_error(trained.weights + p.offset, gradient, loss, all_up_to, directions), tolerance)
            << p.name;
        for (int64_t i = p.size(); i < p.padded_size(); i++)
            ASSERT_EQ(gradients[p.offset + i], 0) << "padding of " << p.name;
    }
}

// Relative error by norm of each tensor of two arenas; the largest.
inline double largest_error(const std::vector<Parameter>& table, const Doubles& got, const Doubles& want) {
    double largest = 0;
    for (const Parameter& p : table) {
        auto part = [&](const Doubles& x) { return Doubles(x.begin() + p.offset, x.begin() + p.offset + p.size()); };
        largest = std::max(largest, relative_error(part(got), part(want)));
    }
    return largest;
}

// Logits (N,Vp) of a whole forward pass without dropout.
template <typename X, class Machine>
std::vector<float> all_logits(GPT2<X, Machine>& model, const int* inputs, int B, int T) {
    const ModelConfig& m = model.config();
    std::vector<float> losses(B * T);
    const std::vector<int> tokens(inputs, inputs + B * T);
    model.token_losses(losses.data(), {0, B, T, tokens, tokens, {}, {}});  // leaves what goes into the LM head
    std::vector<X> logits(int64_t(B) * T * m.Vp());
    const int64_t head = m.untied ? model.table().back().offset : 0;
    matmul_forward<X>(logits.data(), nullptr, model.activations().h[m.L].ln1, model.weights() + head, nullptr, B * T,
                      m.C, m.Vp(), false, model.stream());
    return {logits.begin(), logits.end()};
}
