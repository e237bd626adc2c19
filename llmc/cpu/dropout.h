// Dropout.                                                                                     (Srivastava et al. 2014)
//
// Counter-based: the mask is a function of (seed, step, sample, element, site), see Dropout in step_state.h, so forward
// and backward compute it anew instead of storing it.
#pragma once
#include <algorithm>

#include "llmc/base/bf16.h"
#include "llmc/cpu/math.h"
#include "llmc/base/parallel.h"
#include "llmc/model/arguments.h"
#include "llmc/base/philox.h"
#include "llmc/model/step_state.h"

// words[4 j + i] = philox(key; first + j, c1, c2, c3)[i] for `lanes` consecutive counters side by side, which the
// compiler turns into vector code.
template <int lanes>
inline void philox_block(uint32_t* words, uint64_t key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3) {
    for (int j = 0; j < lanes; j++) {
        Philox4 r = philox(key, first + static_cast<uint32_t>(j), c1, c2, c3);
        for (int i = 0; i < 4; i++) words[4 * j + i] = r.v[i];
    }
}

// scale[i] = 0 or 1 / (1 - p) for elements e0 + i of row b's sample, i in [0, n).
inline void dropout_scales(float* scale, Dropout d, int b, int64_t e0, int n) {
    constexpr int lanes = 16;
    float keep = 1.0f / (1.0f - d.p);
    uint32_t words[4 * lanes];
    for (int64_t e = e0 & ~int64_t(3); e < e0 + n; e += 4 * lanes) {
        philox_block<lanes>(words, d.state->seed, static_cast<uint32_t>(e / 4),
                            d.state->first_sample + static_cast<uint32_t>(b), d.state->step,
                            (static_cast<uint32_t>(Use::dropout) << 24) | d.site);
        int begin = static_cast<int>(std::max<int64_t>(e0 - e, 0)),
            end = static_cast<int>(std::min<int64_t>(e0 + n - e, 4 * lanes));
        float* to = scale + (e - e0);
        for (int i = begin; i < end; i++) to[i] = uniform01(words[i]) >= d.p ? keep : 0.0f;
    }
}

// y[i] = x[i] * scale of element e0 + i, for i in [0, n), on the calling thread; y may be x.
template <typename X>
void dropout_row(X* y, const X* x, int64_t n, Dropout d, int b, int64_t e0) {
    constexpr int64_t chunk = 256;
    float scale[chunk];
    for (int64_t i = 0; i < n; i += chunk) {
        int m = static_cast<int>(std::min(chunk, n - i));
        dropout_scales(scale, d, b, e0 + i, m);
#pragma omp simd
        for (int j = 0; j < m; j++) store(y[i + j], acc_t<X>(x[i + j]) * acc_t<X>(scale[j]));
    }
}
