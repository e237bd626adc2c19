// What the loop around the step needs of a model.
#pragma once
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include "llmc/model/activations.h"
#include "llmc/model/batch.h"
#include "llmc/model/config.h"
#include "llmc/model/decoder.h"
#include "llmc/base/device_options.h"
#include "llmc/model/step_state.h"
#include "llmc/model/tensors.h"
#include "llmc/ranks/group.h"

// GPT2<X, Cpu> and GPT2<X, Gpu> of llmc/gpt2.h are such models.
template <typename M>
concept Model = requires(M model, const ModelConfig& config, const StepOptions& options, DeviceOptions& device_options,
                         uint64_t seed, const Batch& batch, StepState* state, std::function<const Batch*()> next_batch,
                         std::function<void()> before_update, float* losses, const int* tokens, int n) {
    // The device, and how a rank reaches the others from it. Known before there is a model.
    M::Device::open(device_options, /*local_rank*/ n);
    M::Device::configure(device_options, /*bf16*/ true);
    { M::Device::choices(device_options, config, options) } -> std::same_as<std::vector<std::string>>;  // lines to read
    { M::Device::begin_algorithms(device_options) } -> std::same_as<bool>;  // and timed_, take_: llmc/cuda/device.cuh
    { M::Device::name() } -> std::convertible_to<std::string>;              // ranks compare it
    { M::Device::health() } -> std::convertible_to<std::string>;            // clock, power, temperature; "" if unknown
    { M::Device::available_memory() } -> std::convertible_to<double>;       // bytes
    { M::Device::peak_flops(true) } -> std::convertible_to<double>;         // FLOP/s; 0 if unknown
    requires std::same_as<decltype(M::Device::kIsHost), const bool>;        // its memory is the host's
    { M::memory_plan(config, options) } -> std::same_as<MemoryPlan>;        // bytes that a model would take
    requires std::constructible_from<typename M::Communicator, Group&>;
    // A model with room for micro-batches of options.B sequences of options.T tokens; without a communicator, alone.
    requires std::constructible_from<M, const ModelConfig&, const StepOptions&,
                                     std::unique_ptr<typename M::Communicator>>;
    requires std::constructible_from<M, const ModelConfig&, const StepOptions&>;
    { model.config() } -> std::convertible_to<ModelConfig>;
    // Weights: new ones, or in and out of files; and the first tensor with a NaN or an infinity, for a message.
    model.init_weights(seed);
    // Which rows of words a step trains (0: all there is), and an optimizer without history.
    model.train_words_from(/*first*/ n);
    model.clear_optimizer();
    { model.tensors() } -> std::same_as<ModelTensors>;
    { model.trained_tensors() } -> std::same_as<ModelTensors>;  // the model's, or those of the adapter that is trained
    { model.adapter_tensors(size_t()) } -> std::same_as<ModelTensors>;
    model.init_adapter(size_t(), seed);
    model.use_adapter(size_t());
    model.follow({});  // an objective (llmc/objectives/)
    // One training step of this rank's part of the batch. While the device works, next_batch() reads the next one;
    // before_update() ends what reads the weights beside the step.
    model.step(batch, state, next_batch, before_update);
    // Losses of a batch's tokens; logits (V) after the tokens of a text that grows.
    model.token_losses(losses, batch);
    model.scores(losses, batch);  // a head's
    model.forward_only(batch, losses, /*scores*/ losses);
    { Decoder<typename M::Model>(model, n, n).decode(tokens, n, /*reset*/ true) } -> std::convertible_to<const float*>;
};
