// Libraries that are opened when they are first needed, so that a machine without one can do all that does not need it.
#pragma once
#include <dlfcn.h>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include "llmc/base/error.h"

// Opens the first of base.VERSION that is there. Error, in one line: what is missing, where it was looked for, and
// `remedy`. The library stays open until the process ends.
inline void* open_library(const char* what, const std::string& base, std::initializer_list<int> versions,
                          const char* remedy) {
    const char* home = getenv("CUDA_HOME");
    std::string reason, tried;
    for (int version : versions) {
        std::string name = strf("%s.%d", base.c_str(), version);
        if (tried.find(name) != std::string::npos) continue;
        // the loader's own places first: the program's RPATH (where the build found it), LD_LIBRARY_PATH, the system's
        for (std::string path :
             {name, std::string(home ? home : "") + "/lib64/" + name, std::string("/usr/local/cuda/lib64/") + name}) {
            if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
            const char* error = dlerror();  // interesting only where the library is there and something else is not
            if (error && std::string(error).rfind(path + ": cannot open", 0) != 0) reason = error;
        }
        tried += (tried.empty() ? "" : " or ") + name;
    }
    throw Error(
        strf("%s is missing: no %s where the program was built, in LD_LIBRARY_PATH, CUDA_HOME, /usr/local/cuda "
             "or the system's libraries%s%s; %s",
             what, tried.c_str(), reason.empty() ? "" : ": ", reason.c_str(), remedy));
}

// The function of that name, with the type that its header declares.
template <typename Function>
Function* find_function(void* library, const char* name) {
    void* function = dlsym(library, name);
    if (!function) throw Error(strf("%s; the library is too old or of another kind", dlerror()));
    return reinterpret_cast<Function*>(function);
}
