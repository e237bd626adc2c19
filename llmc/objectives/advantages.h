// What each token of an answer has been worth, by the rewards of the answers.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>
#include "llmc/model/batch.h"

// GRPO: of each group of answers to one prompt, by how many standard deviations an answer's reward is above the group's mean
// (Shao et al. 2024, section 4.1.2). All tokens of the answer have that advantage. Equal rewards: 0.
inline std::vector<float> group_advantages(std::span<const double> rewards, size_t group) {
    std::vector<float> all(rewards.size());
    for (size_t first = 0; first < rewards.size(); first += group) {
        const auto of = rewards.subspan(first, group);
        double mean = 0, squares = 0;
        for (double r : of) mean += r / static_cast<double>(group);
        for (double r : of) squares += (r - mean) * (r - mean) / static_cast<double>(group);
        for (size_t i = 0; i < group; i++)  // rewards that are equal but for rounding teach nothing
            if (squares > 1e-12 * (1 + mean * mean))
                all[first + i] = static_cast<float>((of[i] - mean) / (std::sqrt(squares) + 1e-4));
    }
    return all;
}

// PPO: generalised advantages (Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16; gamma 1) of one answer's
// tokens, whose value, log_p and log_q are there. Each token pays kl (log p - log q); the reward comes with the last one.
//
//   delta_t = r_t + value_{t+1} - value_t,   A_t = delta_t + lambda A_{t+1},   target_t = A_t + value_t
inline void generalised_advantages(std::span<TokenSignals> answer, double reward, double kl, double lambda) {
    double advantage = 0, next = 0;  // nothing comes after the end
    for (size_t t = answer.size(); t-- > 0;) {
        TokenSignals& s = answer[t];
        const double paid = -kl * (static_cast<double>(s.log_p) - static_cast<double>(s.log_q)),
                     r = paid + (t + 1 == answer.size() ? reward : 0);
        advantage = r + next - static_cast<double>(s.value) + lambda * advantage;
        next = static_cast<double>(s.value);
        s.advantage = static_cast<float>(advantage), s.target = static_cast<float>(advantage + next);
    }
}

// To mean 0 and standard deviation 1 over all of these tokens, as PPO's are before they are used.
inline void whiten_advantages(std::span<TokenSignals* const> tokens) {
    double mean = 0, squares = 0;
    const double n = static_cast<double>(std::max<size_t>(1, tokens.size()));
    for (const TokenSignals* s : tokens) mean += static_cast<double>(s->advantage) / n;
    for (const TokenSignals* s : tokens) {
        const double d = static_cast<double>(s->advantage) - mean;
        squares += d * d / n;
    }
    for (TokenSignals* s : tokens)
        s->advantage = static_cast<float>((static_cast<double>(s->advantage) - mean) / std::sqrt(squares + 1e-8));
}
