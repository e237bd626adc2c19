// The program: build-fuzz/TARGET, a link to build-fuzz/fuzz for each target. Without one it names them.
#include "test/fuzz/fuzz.h"

#include <unistd.h>
#include <cstdio>
#include <cstdlib>

static FuzzTarget target;

const std::string& scratch() {
    static const std::string dir = fs::temp_directory_path() / ("fuzz_" + std::to_string(getpid()));
    return dir;
}

extern "C" int LLVMFuzzerInitialize(int*, char*** argv) {
    const auto found = fuzz_targets().find(fs::path((*argv)[0]).filename());
    if (found == fuzz_targets().end()) {
        for (const auto& [name, run] : fuzz_targets()) printf("%s\n", name.c_str());
        exit(0);
    }
    target = found->second;
    fs::create_directories(scratch());
    atexit([] { fs::remove_all(scratch()); });
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        target({reinterpret_cast<const char*>(data), size});
    } catch (const Error&) {
    }
    return 0;
}
