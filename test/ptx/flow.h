// Where lanes that a branch divided meet again: at the branch's immediate post-dominator, the first instruction that every
// way from the branch to the end passes. This is where ptxas puts its convergence barriers, and what `.aligned` relies on.
#pragma once
#include "test/ptx/module.h"

namespace ptx {

// Sets `reconverge` of each branch.
void find_reconvergence(Kernel& kernel);

}  // namespace ptx
