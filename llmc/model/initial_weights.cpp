#include "llmc/model/initial_weights.h"

#include <algorithm>

#include "llmc/base/parallel.h"
#include "llmc/base/philox.h"

void initial_weights(float* out, const Parameter& p, size_t index, int L, uint64_t seed, int64_t begin, int64_t end) {
    const float std = p.init == Init::normal_residual ? 0.02f / sqrtf(2.0f * static_cast<float>(L))
                      : p.init == Init::unit_normal   ? 1
                                                      : 0.02f;
    parallel_blocks(end - begin, 4096, [=, &p](int64_t block_begin, int64_t block_end) {
        for (int64_t i = begin + block_begin; i < begin + block_end; i += 4) {
            float x[4] = {0, 0, 0, 0};
            if (p.init == Init::ones) x[0] = x[1] = x[2] = x[3] = 1;
            if (p.init != Init::zeros && p.init != Init::ones) {
                Philox4 r = philox(seed, static_cast<uint32_t>(i / 4), static_cast<uint32_t>((i / 4) >> 32),
                                   static_cast<uint32_t>(index), static_cast<uint32_t>(Use::init) << 24);
                if (p.init == Init::uniform) {
                    for (int k = 0; k < 4; k++) x[k] = (2 * uniform01(r.v[k]) - 1) / sqrtf(static_cast<float>(p.cols));
                } else {
                    normal2(r.v[0], r.v[1], &x[0], &x[1]);
                    normal2(r.v[2], r.v[3], &x[2], &x[3]);
                    for (float& value : x) value *= std;
                }
            }
            for (int64_t j = i; j < std::min(end, i + 4); j++) out[j - begin] = x[j - i];
        }
    });
}
