// What an adapter is like: what is trained beside a model that is frozen (adapter.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "llmc/model/head_config.h"

// A block's linear layers, in the order in which it comes to them.
enum class Linear { qkv, attproj, fc, fcproj };
inline constexpr Linear kLinears[] = {Linear::qkv, Linear::attproj, Linear::fc, Linear::fcproj};
inline constexpr const char* kLinearNames[] = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"};

// Matrices beside linear layers (lora.h has the formula).
struct LoraConfig {
    int rank = 0;  // R; 0: there are none
    float alpha = 16, dropout = 0;
    bool rank_stabilised = false;  // s = alpha / sqrt(R)                                          (Kalajdzievski 2023)
    unsigned linears = 0b1111;     // bit i: kLinears[i] of each block has one
    std::vector<int> layers = {};  // blocks that have any; empty: all
    bool operator==(const LoraConfig&) const = default;

    float scale() const {
        return alpha / (rank_stabilised ? std::sqrt(static_cast<float>(rank)) : static_cast<float>(rank));
    }
    bool has(int layer, Linear which) const {
        return rank > 0 && (linears >> static_cast<int>(which) & 1) &&
               (layers.empty() || std::find(layers.begin(), layers.end(), layer) != layers.end());
    }
};

// Vectors that stand among a text's tokens (prompts.h).
struct PromptConfig {
    int tokens = 0;        // P; 0: there are none
    bool encoder = false;  // in training they come out of the prompt encoder; else they are trained themselves
    bool operator==(const PromptConfig&) const = default;
};

struct AdapterConfig {
    LoraConfig lora = {};
    PromptConfig prompts = {};
    HeadConfig head = {};  // of its own
    bool operator==(const AdapterConfig&) const = default;
};
