// Muon: a matrix moves by the nearest (half-)orthogonal matrix to its momentum.   (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)
//
//   m = momentum m + g;  u = g + momentum m                    Nesterov's; the layers' part of this is the rule muon_momentum
//   X = u / |u|;  five times X = (a I + b X X^T + c (X X^T)^2) X         Newton-Schulz: all singular values come near 1
//   W = W - lr * 0.2 sqrt(max(rows, cols)) X - lr * weight_decay * W
//
// The factor gives steps of the size that AdamW's have (Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2), so that one learning rate
// serves both: embeddings, the LM head, heads and vectors have AdamW. Which tensors are matrices, and of how many stacked
// ones (query, key and value are three), the parameter table says.
//
// Several ranks. At stage 0 each does everything. Above, a rank has the momentum of its part of each bucket, which cuts matrices: u is
// gathered, each rank makes X of whole matrices that are its own in turn, and X goes back to the owners of its elements.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>
#include "llmc/model/arguments.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"

inline constexpr int kNewtonSchulzSteps = 5;
struct NewtonSchulz {
    float a, b, c;
};
inline constexpr NewtonSchulz kNewtonSchulz = {3.4445f, -4.7750f, 2.0315f};

template <typename A>
HOST_DEVICE inline A muon_momentum(A g, A& m, const UpdateNumbers<A>& u) {
    m = u.momentum * m + g;
    return g + u.momentum * m;
}

// Room for the largest matrix: (rows,cols) twice, and (s,s) twice, s = min(rows, cols).
template <typename X>
struct MuonScratch {
    X *x = nullptr, *y = nullptr, *gram = nullptr, *square = nullptr;
    double* norm_squared = nullptr;

    template <class Arena>
    void add_to(Arena& arena, const std::vector<Parameter>& table) {
        int64_t most = 0, side = 0;
        for (const Parameter& p : table)
            if (p.matrices > 0)
                most = std::max(most, p.size() / p.matrices),
                side = std::max(side, std::min(p.rows / p.matrices, p.cols));
        if (most == 0) return;
        arena.add(&x, most), arena.add(&y, most), arena.add(&gram, side * side), arena.add(&square, side * side);
        arena.add(&norm_squared, 1);
    }
};

// u = U S V^T (rows,cols) to U V^T, nearly, times the factor above.
template <typename X, class Stream>
void orthogonalise(grad_t<X>* u, int rows, int cols, MuonScratch<X> s, Stream stream) {
    const int64_t n = int64_t(rows) * cols;
    const bool tall = rows > cols;  // then X^T X takes the place of X X^T, which is larger
    const int side = tall ? cols : rows, other = tall ? rows : cols;
    global_norm_squared(s.norm_squared, u, n, false, stream);
    divide_by_norm(s.x, u, s.norm_squared, n, stream);
    for (int step = 0; step < kNewtonSchulzSteps; step++) {
        matmul(Matmul<X>{.out = s.gram,
                         .a = s.x,
                         .b = s.x,
                         .M = side,
                         .N = side,
                         .K = other,
                         .a_transposed = tall,
                         .b_transposed = !tall},
               stream);  // (s,s)
        matmul(Matmul<X>{.out = s.square, .a = s.gram, .b = s.gram, .M = side, .N = side, .K = side}, stream);
        newton_schulz_polynomial(s.square, s.gram, side, stream);
        if (tall) matmul(Matmul<X>{.out = s.y, .a = s.x, .b = s.square, .M = rows, .N = cols, .K = side}, stream);
        else matmul(Matmul<X>{.out = s.y, .a = s.square, .b = s.x, .M = rows, .N = cols, .K = side}, stream);
        std::swap(s.x, s.y);
    }
    scaled_copy(u, s.x, 0.2f * std::sqrt(static_cast<float>(std::max(rows, cols))), n, stream);
}
