// Which of cuBLASLt's algorithms each product takes: the words in which ranks exchange that and checkpoints record it.
//
// For most shapes the library has several, and its heuristic's first is not always the fastest. So in the first step of a
// run each product goes by the heuristic's first, as ever, and beside it the first few are timed, of those whose sums have
// one order and one precision (matmul_cublaslt.cuh). After that step the ranks agree: what rank 0 has timed holds for all,
// and what it did not meet, by the lowest rank that did. From then on a shape takes what was agreed, or the heuristic's
// first where nothing was. Timing thus decides once in a run, between two steps; it is recorded, and a resume obeys it.
// With --algorithms first it never decides anything.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <vector>

// The kind of a product: M, N, K; flags; how the addresses of a, b, out, bias, aux are aligned.
using CublasLtKey = std::array<int, 9>;
// The library's own description of an algorithm, which means something to the same version on the same GPU.
using CublasLtWords = std::array<uint64_t, 8>;

struct CublasLtChoice {
    std::string machine;  // "NVIDIA H100 80GB HBM3, cuBLASLt 130000"
    std::map<CublasLtKey, CublasLtWords> at;

    // "MACHINE; M N K ... = WORD WORD ...; ..."; words in hexadecimal, without zeros at the end; none: the heuristic's first
    std::string text() const {
        std::ostringstream out;
        out << machine;
        for (const auto& [key, words] : at) {
            out << ";";
            for (int n : key) out << " " << n;
            out << " =" << std::hex;
            size_t count = words.size();
            while (count > 0 && words[count - 1] == 0) count--;
            for (size_t i = 0; i < count; i++) out << " " << words[i];
            out << std::dec;
        }
        return out.str();
    }
    static CublasLtChoice parse(const std::string& text) {
        CublasLtChoice choice;
        std::istringstream in(text);
        std::getline(in, choice.machine, ';');
        for (std::string entry; std::getline(in, entry, ';');) {
            std::istringstream words(entry);
            CublasLtKey key{};
            CublasLtWords algorithm{};
            std::string equals;
            for (int& n : key) words >> n;
            words >> equals >> std::hex;
            for (uint64_t& word : algorithm)
                if (!(words >> word)) word = 0;
            if (equals == "=") choice.at[key] = algorithm;
        }
        return choice;
    }
};

// Of what each rank has timed. Ranks on different machines cannot take each other's: all keep the heuristic's first.
inline CublasLtChoice agreed_choice(const std::vector<std::string>& ranks) {
    CublasLtChoice all = CublasLtChoice::parse(ranks[0]);
    for (const std::string& rank : ranks) {
        CublasLtChoice its = CublasLtChoice::parse(rank);
        if (its.machine != all.machine) return {all.machine, {}};
        all.at.merge(its.at);  // keeps what is there
    }
    std::erase_if(all.at, [](const auto& entry) { return entry.second == CublasLtWords{}; });
    return all;
}
