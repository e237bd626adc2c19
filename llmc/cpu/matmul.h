// What the CPU's matrix products share (matmul.cpp, matmul_amx.cpp, matmul_onednn.cpp).
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"

// Off: the portable tiles even where oneDNN is built in, for tests and benchmarks.
inline bool& matmul_use_onednn() {
    static bool use = true;
    return use;
}

// By tiles of AMX, or loops where the CPU has none: then for tests alone.
void matmul_amx(const Matmul<bf16, bf16>& args);
void matmul_amx(const Matmul<bf16, float>& args);

#ifdef USE_ONEDNN
bool multiplies_bf16();  // whether this CPU has instructions for it

// False where this CPU or library has no product of these types (bf16): the caller computes it otherwise.
bool matmul_onednn(const Matmul<float, float>& args);
bool matmul_onednn(const Matmul<bf16, bf16>& args);
bool matmul_onednn(const Matmul<bf16, float>& args);
#endif
