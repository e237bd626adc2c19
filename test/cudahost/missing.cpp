// Takes the place of the tests of the CUDA layers where they cannot be built: one skipped test, which says why.
#include <gtest/gtest.h>

TEST(CudaOnTheCpu, IsBuilt) { GTEST_SKIP() << "the CUDA layers were not tested: " << CUDAHOST_MISSING; }
