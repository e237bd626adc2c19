// Graphs: what a stream is given while it captures becomes nodes; a launch runs them in any order that their edges
// allow.
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

namespace cudahost {

void add_node(CUstream_st& stream, std::function<void()> work) {
    stream.capture->nodes.push_back({std::move(work), std::move(stream.tail)});
    stream.tail = {static_cast<int>(stream.capture->nodes.size()) - 1};
}

bool breaks_capture() {
    cudaStream_t capturing = nullptr;
    for_each_stream([&](cudaStream_t s) {
        if (s->capture) capturing = s;
    });
    if (capturing) capturing->capture->invalid = true;
    return capturing != nullptr;
}

}  // namespace cudahost

using namespace cudahost;

namespace {

void run_graph(const CUgraph_st& graph) {
    std::vector<size_t> open(graph.nodes.size());
    std::vector<std::vector<int>> followers(graph.nodes.size());
    std::vector<int> ready;
    for (size_t i = 0; i < graph.nodes.size(); i++) {
        open[i] = graph.nodes[i].after.size();
        for (int before : graph.nodes[i].after) followers[static_cast<size_t>(before)].push_back(static_cast<int>(i));
        if (open[i] == 0) ready.push_back(static_cast<int>(i));
    }
    while (!ready.empty()) {
        size_t which = schedule.shuffle ? schedule.random.below(static_cast<uint32_t>(ready.size())) : 0;
        auto node = static_cast<size_t>(ready[which]);
        ready.erase(ready.begin() + static_cast<long>(which));
        if (graph.nodes[node].work) graph.nodes[node].work();
        look_at_guards();
        for (int next : followers[node])
            if (--open[static_cast<size_t>(next)] == 0) ready.push_back(next);
    }
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream = resolve(stream);
    if (stream == &the().legacy) return result(cudaErrorStreamCaptureUnsupported);
    if (stream->capture) return result(cudaErrorIllegalState);
    stream->capture = std::make_shared<CUgraph_st>();
    stream->capture->origin = stream;
    stream->tail.clear();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    stream = resolve(stream);
    *graph = nullptr;
    if (!stream->capture) return result(cudaErrorIllegalState);
    std::shared_ptr<CUgraph_st> captured = stream->capture;
    if (captured->origin != stream) return result(cudaErrorStreamCaptureUnmatched);
    // nodes that the stream's end does not come after belong to a stream that was not joined
    std::vector<int> stack = stream->tail;
    std::vector<bool> before(captured->nodes.size());
    while (!stack.empty()) {
        auto node = static_cast<size_t>(stack.back());
        stack.pop_back();
        if (before[node]) continue;
        before[node] = true;
        for (int n : captured->nodes[node].after) stack.push_back(n);
    }
    for_each_stream([&](cudaStream_t s) {
        if (s->capture == captured) s->capture = nullptr, s->tail.clear();
    });
    captured->ended = true;
    if (captured->invalid) return result(cudaErrorStreamCaptureInvalidated);
    if (std::find(before.begin(), before.end(), false) != before.end()) return result(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraphExec_st{*graph};
    the().executables.insert(*executable);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    cudaError_t error = enqueue(stream, [executable] { run_graph(executable->graph); });
    if (executable->graph.last_collective >= 0) run_until(resolve(stream), resolve(stream)->last);
    return error;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    keep_bug([] {
        if (!the().pending_bug) run_everything();
    });
    the().let_go.insert(the().let_go.end(), executable->graph.registered.begin(), executable->graph.registered.end());
    the().executables.erase(executable);
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

}  // extern "C"
