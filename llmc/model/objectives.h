// Arguments of what objectives compute (plain/objectives.h).
#pragma once

// How a policy learns from rewards (objectives/rewards.h).
struct RewardOptions {
    float clip = 0.2f;          // how far a token's probability may move from what it was, as a part of it
    float kl = 0;               // what it costs to go away from the reference, in the loss
    float value_clip = 0.2f;    // the same of the value head
    float value_weight = 0.1f;  // its loss beside the policy's
};

// Of tokens (N) each.
template <typename A>
struct PolicyNumbers {
    A *weights, *losses, *clipped, *changes;
};
