// Small PTX programs for the machine of test/ptx/.
#pragma once
#include <gtest/gtest.h>

#include "test/ptx/machine.h"

// A kernel of this body, with `params` ("u64 x, u32 n") loaded into registers of their names, %x and %n; besides, there are
// predicates %p0.., 32-bit registers %r0.., %f0.., and 64-bit %d0..; `outside` stands before it.
inline std::string ptx_text(const std::string& params, const std::string& body, const std::string& outside = "") {
    std::string list, loads, registers;
    for (size_t begin = 0; begin < params.size();) {
        size_t end = std::min(params.find(", ", begin), params.size()), space = params.find(' ', begin);
        std::string type = params.substr(begin, space - begin), name = params.substr(space + 1, end - space - 1);
        list += (list.empty() ? "" : ", ") + (".param ." + type + " p_" + name);
        registers += ".reg .b" + type.substr(1) + " %" + name + ";\n";
        loads += "ld.param." + type + " %" + name + ", [p_" + name + "];\n";
        begin = end + 2;
    }
    return ".version 9.0\n.target sm_80\n.address_size 64\n" + outside + "\n.visible .entry test_kernel(" + list +
           ")\n{\n.reg .pred %p<8>;\n.reg .b32 %r<32>;\n.reg .f32 %f<32>;\n.reg .b64 %d<16>;\n.reg .b16 %h<8>;\n" +
           registers + loads + "mov.u32 %r0, %tid.x;\n" + body + "\nret;\n}\n";
}

class PtxTest : public ::testing::Test {
  protected:
    ptx::Memory memory{size_t{1} << 42};
    ptx::Dim grid{1}, block{32};
    size_t shared_bytes = 0;
    std::vector<uint64_t> blocks;

    template <typename... Args>
    void run(const std::string& text, uint64_t seed, const Args&... args) {
        ptx::Module m = ptx::parse(text);
        ptx::Launch l{grid, block, shared_bytes, ptx::arguments(args...), blocks, seed};
        l.most_steps = 100000;
        ptx::launch(memory, *m.kernel("test_kernel"), l);
    }
    // The fault that a run finds, the same under each seed; empty: none.
    template <typename... Args>
    std::string fault(const std::string& text, const Args&... args) {
        std::string first;
        for (uint64_t seed = 0; seed < 4; seed++) {
            std::string now;
            try {
                run(text, seed, args...);
            } catch (const ptx::Fault& f) {
                now = f.what();
            }
            if (seed == 0) first = now;
            EXPECT_EQ(now.empty(), first.empty()) << "under seed " << seed << ": " << now << " but first: " << first;
        }
        return first;
    }
    template <typename T>
    T* tensor(size_t n, const std::string& name = "x") {
        return reinterpret_cast<T*>(memory.allocate(n * sizeof(T), name, true));
    }
};

#define EXPECT_FAULT(text, ...)                                                             \
    do {                                                                                    \
        std::string message = fault(__VA_ARGS__);                                           \
        EXPECT_NE(message.find(text), std::string::npos) << "message: '" << message << "'"; \
    } while (0)
#define EXPECT_CLEAN(...) EXPECT_EQ(fault(__VA_ARGS__), "")
