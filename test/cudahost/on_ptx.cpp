// Linked beside the tests of the layers, runs them on PTX. PTX_DIRECTORY: what the Makefile had nvcc make.
#include <gtest/gtest.h>

#include "test/cudahost/tests.h"

namespace {

class UsePtx : public ::testing::Environment {
  public:
    void SetUp() override { cudahost::use_ptx(PTX_DIRECTORY); }
};
[[maybe_unused]] auto* const use_ptx = ::testing::AddGlobalTestEnvironment(new UsePtx);

}  // namespace
