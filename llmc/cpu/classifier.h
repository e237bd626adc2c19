// Softmax and cross entropy, fused: loss and the gradient of the logits in one visit.
//
//   loss[i] = -log softmax(logits[i])[targets[i]]                 logits (N,Vp), of which V columns count; losses (N)
//   dlogits[i] = (softmax(logits[i]) - onehot(targets[i])) * weights[i] * normaliser        in place of logits; columns >= V: 0
//
// A target of -1 (ignored) has weight 0 and loss 0. weights (N) may be null: 1. normaliser = 1 / sum of all weights of the step, known before.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/math.h"

template <typename X>
void fused_classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, acc_t<X> normaliser, int N, int V, int Vp,
                      bool write_dlogits);
