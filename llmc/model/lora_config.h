// What an adapter is like (lora.h has the formula and the matrices).
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

// A block's linear layers, in the order in which it comes to them.
enum class Linear { qkv, attproj, fc, fcproj };
inline constexpr Linear kLinears[] = {Linear::qkv, Linear::attproj, Linear::fc, Linear::fcproj};
inline constexpr const char* kLinearNames[] = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"};

struct LoraConfig {
    int rank = 0;  // R; 0: no adapter
    float alpha = 16, dropout = 0;
    bool rank_stabilised = false;  // s = alpha / sqrt(R)                                          (Kalajdzievski 2023)
    unsigned linears = 0b1111;     // bit i: kLinears[i] of each block has one
    std::vector<int> layers = {};  // blocks that have any; empty: all
    bool operator==(const LoraConfig&) const = default;

    float scale() const {
        return alpha / (rank_stabilised ? std::sqrt(static_cast<float>(rank)) : static_cast<float>(rank));
    }
    bool has(int layer, Linear which) const {
        return (linears >> static_cast<int>(which) & 1) &&
               (layers.empty() || std::find(layers.begin(), layers.end(), layer) != layers.end());
    }
};
