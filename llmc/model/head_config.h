// What a head is like: a few outputs of a text, read off the representation of its last token (head.h has the formula).
#pragma once
#include <cfloat>
#include <string>
#include <vector>
#include "llmc/base/host_device.h"

struct HeadConfig {
    int outputs = 0;                       // K; 0: no head; 1: a number (regression); more: classes
    std::vector<std::string> labels = {};  // the classes' names
    bool both_orders = false;              // of a pair: the scores of both orders are added
    bool value = false;                    // it says what a policy in training expects, and is of no use beside that
    bool operator==(const HeadConfig&) const = default;

    bool of_model() const { return outputs > 0 && !value; }  // a part of what the model is for
    bool regression() const { return outputs == 1; }
    int padded() const { return (outputs + 7) / 8 * 8; }  // rows in memory: products like multiples of 8
};

// What stands for a token in place of a label (batch.h) where it has none.
inline constexpr float kNoLabel = -FLT_MAX;
HOST_DEVICE inline bool has_label(float label) { return label > kNoLabel; }
