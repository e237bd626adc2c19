// Events: marks in a stream, which others wait for.
#include "test/cudahost/streams.h"

using namespace cudahost;

extern "C" {

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    stream = resolve(stream);
    if (event->capture) {  // the stream joins the capture
        if (event->capture->ended) return result(cudaErrorInvalidValue);
        if (stream->capture && stream->capture != event->capture) return result(cudaErrorStreamCaptureIsolation);
        if (!stream->capture) stream->tail.clear();
        stream->capture = event->capture;
        stream->tail.insert(stream->tail.end(), event->nodes.begin(), event->nodes.end());
        return cudaSuccess;
    }
    if (stream->capture) return result(cudaErrorStreamCaptureIsolation);
    if (event->stream) stream->waits.emplace_back(event->stream, event->number);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    *event = new CUevent_st;
    (*event)->timing = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    keep_bug([&] {
        if (event->stream && !the().pending_bug) run_until(event->stream, event->number);
    });
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    stream = resolve(stream);
    if (stream->capture) {
        event->capture = stream->capture, event->nodes = stream->tail;
        return cudaSuccess;
    }
    event->capture = nullptr;
    uint64_t version = ++event->recorded;
    cudaError_t error =
        enqueue(stream, [=] { event->done = version, event->time = std::chrono::steady_clock::now() + the().planted; });
    event->stream = stream, event->number = stream->last;
    return error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->capture) return result(cudaErrorCapturedEvent);
    if (event->stream) run_until(event->stream, event->number);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    if (!start->timing || !end->timing || !start->stream || !end->stream) return result(cudaErrorInvalidResourceHandle);
    if (start->capture || end->capture) return result(cudaErrorInvalidValue);
    if (start->done != start->recorded || end->done != end->recorded) return result(cudaErrorNotReady);
    *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
}

}  // extern "C"
