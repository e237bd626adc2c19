// An access of one lane, checked.
#pragma once
#include "test/ptx/opcode.h"

namespace ptx {

// [base + offset] of each lane
void addresses(Warp& warp, const Operand& o, uint64_t (&out)[32]);
inline Who who(const Warp& warp, int lane) { return {warp.number, lane, &warp.clocks}; }

enum class Access { read, write, update };
// Where the bytes lie; fails where the access is wrong. mask: bytes that the kernel uses of what it reads.
char* access(Warp& warp, int lane, Access what, Space space, uint64_t address, uint32_t bytes, uint64_t mask = ~0ull);
// The offset in shared memory, which must be that of a variable.
uint32_t shared_offset(Warp& warp, int lane, uint64_t address, uint32_t bytes);

}  // namespace ptx
