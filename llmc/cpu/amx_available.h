// Whether products may use AMX (amx.h): a header of its own, for who plans memory.
#pragma once
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <sys/syscall.h>
#include <unistd.h>
constexpr bool kCompiledForAmx = true;
#else
constexpr bool kCompiledForAmx = false;
#endif

// Whether this process may use the tiles: the kernel gives them on demand.
inline bool amx_available() {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
    constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool available = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return available;
#else
    return false;
#endif
}
