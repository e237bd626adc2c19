#include "test/ptx/flow.h"

#include <algorithm>

namespace ptx {

// Post-dominators are dominators of the graph with its edges turned round. (Cooper, Harvey and Kennedy 2001, "A Simple, Fast
// Dominance Algorithm")
void find_reconvergence(Kernel& kernel) {
    auto& code = kernel.code;
    const int n = static_cast<int>(code.size());
    std::vector<char> starts(code.size() + 1, 0);
    starts[0] = 1;
    for (int i = 0; i < n; i++) {
        Flow flow = code[i].flow;
        if (flow == Flow::branch) starts[code[i].target] = 1;
        if (flow == Flow::branch || flow == Flow::exit) starts[i + 1] = 1;
    }
    std::vector<int> first, block_of(code.size() + 1);
    for (int i = 0; i < n; i++) {
        if (starts[i]) first.push_back(i);
        block_of[i] = static_cast<int>(first.size()) - 1;
    }
    const int blocks = static_cast<int>(first.size()), end = blocks;  // end: where all have exited
    first.push_back(n);
    std::vector<std::vector<int>> next(blocks + 1), before(blocks + 1);
    for (int b = 0; b < blocks; b++) {
        const Instruction& last = code[first[b + 1] - 1];
        bool falls = last.guard >= 0 || (last.flow != Flow::branch && last.flow != Flow::exit);
        if (last.flow == Flow::branch) next[b].push_back(last.target == n ? end : block_of[last.target]);
        if (last.flow == Flow::exit) next[b].push_back(end);
        if (falls) next[b].push_back(b + 1);
        for (int to : next[b]) before[to].push_back(b);
    }

    // backwards from the end, in post-order of the turned graph
    std::vector<int> order(blocks + 1, -1), by_order, dominator(blocks + 1, -1);
    std::vector<std::pair<int, size_t>> stack{{end, 0}};
    std::vector<char> seen(blocks + 1, 0);
    seen[end] = 1;
    while (!stack.empty()) {
        auto& [b, i] = stack.back();
        if (i < before[b].size()) {
            int to = before[b][i++];
            if (!seen[to]) seen[to] = 1, stack.emplace_back(to, 0);
        } else {
            order[b] = static_cast<int>(by_order.size());
            by_order.push_back(b);
            stack.pop_back();
        }
    }
    dominator[end] = end;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t k = by_order.size() - 1; k-- > 0;) {
            int b = by_order[k], found = -1;
            for (int s : next[b]) {
                if (dominator[s] < 0) continue;
                if (found < 0) found = s;
                for (int other = s; found != other;) {
                    while (order[found] < order[other]) found = dominator[found];
                    while (order[other] < order[found]) other = dominator[other];
                }
            }
            if (found >= 0 && dominator[b] != found) dominator[b] = found, changed = true;
        }
    }
    for (int i = 0; i < n; i++) {
        if (code[i].flow != Flow::branch) continue;
        int meets = dominator[block_of[i]];  // -1: an endless loop
        code[i].reconverge = meets < 0 || meets == end ? -1 : first[meets];
    }
}

}  // namespace ptx
