// Layer normalisation, backward.                                           (the maths and the layer:
// llmc/cuda/layernorm.cuh)
//
//   g = dy * w, xhat = (x - mean) * rstd                    dx, dy, x (N,C); w, dw, db (C); mean, rstd (N)
//   dx += rstd * (g - mean_c(g) - xhat * mean_c(g * xhat))  dw += sum_n dy * xhat;  db += sum_n dy
//
// Two kinds of sums over the same two tensors: along the rows for dx, down the columns for dw and db. Threads that
// share a row are good at the first and bad at the second. Column sums by atomicAdd to dw and db would be easy, and
// wrong for this program: floating-point sums depend on their order, the order of atomics is whatever it happens to be,
// and two runs of the same training would differ. Every version below adds in a fixed order.
//
// The limit is memory: dy, x and dx read, dx written, 4 N C sizeof(X) bytes.
#include "dev/cuda/zoo.cuh"

namespace layernorm_backward_page {

// ---- 1: a thread per row, then a thread per column -----------------------------------------------------------------
// Two kernels. The rows have what is wrong with version 1 of layernorm_forward.cu: lanes that read C elements apart.
// The columns read well, 32 neighbours a warp, but there are only C = 768 of them: 24 warps for a GPU that can hold
// eight thousand, each walking down 32768 rows, one load after the other.
template <typename X>
__global__ void dx_thread_per_row_kernel(X* dx, const X* dy, const X* x, const X* w, const float* mean,
                                         const float* rstd, int N, int C) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;
    int64_t begin = static_cast<int64_t>(n) * C;
    float mean_g = 0, mean_gx = 0;
    for (int c = 0; c < C; c++) {
        float g = static_cast<float>(dy[begin + c]) * static_cast<float>(w[c]);
        mean_g += g, mean_gx += g * (static_cast<float>(x[begin + c]) - mean[n]);
    }
    mean_g /= C, mean_gx *= rstd[n] / C;
    for (int c = 0; c < C; c++) {
        float g = static_cast<float>(dy[begin + c]) * static_cast<float>(w[c]);
        float xhat = (static_cast<float>(x[begin + c]) - mean[n]) * rstd[n];
        dx[begin + c] = X(static_cast<float>(dx[begin + c]) + rstd[n] * (g - mean_g - xhat * mean_gx));
    }
}

template <typename X>
__global__ void thread_per_column_kernel(float* dw, float* db, const X* dy, const X* x, const float* mean,
                                         const float* rstd, int N, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float w_sum = 0, b_sum = 0;
    for (int n = 0; n < N; n++) {
        float d = static_cast<float>(dy[static_cast<int64_t>(n) * C + c]);
        w_sum += d * (static_cast<float>(x[static_cast<int64_t>(n) * C + c]) - mean[n]) * rstd[n], b_sum += d;
    }
    dw[c] += w_sum, db[c] += b_sum;
}

// ---- 2: a warp per row; column sums in two stages ------------------------------------------------------------------
// The rows get a warp each, as in the forward pass. The columns are cut into pieces of 256 rows, so that there are as
// many blocks as one wants: a block has 32 columns, one for each lane, and its warps take the rows of the piece in
// turn; then the first warp adds up the warps, in order, and writes the piece's sums to `partial` (pieces, 2, C). A
// second kernel adds the pieces, in order as well. The detour through memory is small: 2 C floats for 256 rows.
template <typename X>
__global__ void dx_warp_per_row_kernel(X* dx, const X* dy, const X* x, const X* w, const float* mean, const float* rstd,
                                       int N, int C) {
    int n = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (n >= N) return;
    int64_t begin = static_cast<int64_t>(n) * C;
    float m = mean[n], s = rstd[n], mean_g = 0, mean_gx = 0;
    for (int c = lane; c < C; c += 32) {
        float g = static_cast<float>(dy[begin + c]) * static_cast<float>(w[c]);
        mean_g += g, mean_gx += g * (static_cast<float>(x[begin + c]) - m);
    }
    mean_g = warp_sum(mean_g) / C, mean_gx = warp_sum(mean_gx) * s / C;
    for (int c = lane; c < C; c += 32) {
        float g = static_cast<float>(dy[begin + c]) * static_cast<float>(w[c]);
        float xhat = (static_cast<float>(x[begin + c]) - m) * s;
        dx[begin + c] = X(static_cast<float>(dx[begin + c]) + s * (g - mean_g - xhat * mean_gx));
    }
}

constexpr int piece_rows = 256;

template <typename X>
__global__ void piece_of_columns_kernel(float* partial, const X* dy, const X* x, const float* mean, const float* rstd,
                                        int N, int C) {
    __shared__ float sums[2][32][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, c = blockIdx.x * 32 + lane;
    int begin = blockIdx.y * piece_rows, end = min(N, begin + piece_rows);
    float w_sum = 0, b_sum = 0;
    if (c < C)
        for (int n = begin + warp; n < end; n += warps) {
            float d = static_cast<float>(dy[static_cast<int64_t>(n) * C + c]);
            w_sum += d * (static_cast<float>(x[static_cast<int64_t>(n) * C + c]) - mean[n]) * rstd[n], b_sum += d;
        }
    sums[0][warp][lane] = w_sum, sums[1][warp][lane] = b_sum;
    __syncthreads();
    if (warp != 0 || c >= C) return;
    for (int other = 1; other < warps; other++) w_sum += sums[0][other][lane], b_sum += sums[1][other][lane];
    float* to = partial + static_cast<int64_t>(blockIdx.y) * 2 * C;
    to[c] = w_sum, to[C + c] = b_sum;
}

// dw, db += the sums of partial (rows, 2, C) over its rows: 32 of the 2 C columns a block.
static __global__ void add_partial_kernel(float* dw, float* db, const float* partial, int rows, int C) {
    __shared__ float sums[32][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < 2 * C)
        for (int row = warp; row < rows; row += warps) sum += partial[static_cast<int64_t>(row) * 2 * C + c];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || c >= 2 * C) return;
    for (int other = 1; other < warps; other++) sum += sums[other][lane];
    (c < C ? dw[c] : db[c - C]) += sum;
}

// ---- 3: one visit for both kinds of sums ---------------------------------------------------------------------------
// Until here dy and x come from memory twice, once for the rows and once for the columns: 6 N C elements instead of
// 4 N C. To have both from one visit, a block takes a row at a time, rows blockIdx, blockIdx + gridDim, ..., and each
// of its threads the same columns in every row. The row's two sums go over the block; the column sums stay with the
// thread that owns the column: no other thread touches them, so they need neither atomics nor barriers. They are too
// many for registers if C may be anything, so they live in shared memory, 2 C floats for each block. A block writes
// them to `partial` once, when it has done all its rows. A few blocks on each multiprocessor are as many as fit anyway,
// so partial stays small.
//
// block_sum has one barrier. Two arrays, one for each sum, are what keeps a fast warp from overwriting what a slow one
// has yet to read: nobody can be a whole row ahead.
//
// ---- 4: 16 bytes at a time; no bank conflicts ----------------------------------------------------------------------
// The same kernel with W = 8 or 4. There is a trap in it. Shared memory has 32 banks, bank b holding every 32nd word; a
// warp's access is done in one go if its lanes touch different banks (or the same word), else in as many rounds as the
// fullest bank has lanes. Were the sums of column c at word c, the lanes' packs would be 8 words apart, lanes 0, 4, 8
// ... 28 would meet in one bank, and each of the four accesses per element take eight rounds. So element i of pack p is
// kept at word i * (C / W) + p: neighbouring lanes, neighbouring words.
template <int W, typename X>
__global__ void fused_kernel(X* dx, float* partial, const X* dy, const X* x, const X* w, const float* mean,
                             const float* rstd, int N, int C) {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    float *w_sums = reinterpret_cast<float*>(shared_memory), *b_sums = w_sums + C;
    __shared__ float g_sums[32];
    __shared__ float gx_sums[32];
    int packs = C / W;
    for (int p = threadIdx.x; p < packs; p += blockDim.x)
        for (int i = 0; i < W; i++) w_sums[i * packs + p] = 0, b_sums[i * packs + p] = 0;

    for (int n = blockIdx.x; n < N; n += gridDim.x) {
        int64_t begin = static_cast<int64_t>(n) * C;
        float m = mean[n], s = rstd[n], sum_g = 0, sum_gx = 0;
        for (int p = threadIdx.x; p < packs; p += blockDim.x) {
            float d[W], v[W], weight[W];
            load_pack(d, dy + begin + p * W), load_pack(v, x + begin + p * W), load_pack(weight, w + p * W);
            for (int i = 0; i < W; i++) {
                float g = d[i] * weight[i], xhat = (v[i] - m) * s;
                sum_g += g, sum_gx += g * xhat;
                w_sums[i * packs + p] += d[i] * xhat, b_sums[i * packs + p] += d[i];
            }
        }
        float mean_g = block_sum(sum_g, g_sums) / C, mean_gx = block_sum(sum_gx, gx_sums) / C;
        for (int p = threadIdx.x; p < packs; p += blockDim.x) {  // dy and x now come from the L1 cache
            float d[W], v[W], weight[W], out[W];
            load_pack(d, dy + begin + p * W), load_pack(v, x + begin + p * W), load_pack(weight, w + p * W);
            load_pack(out, dx + begin + p * W);
            for (int i = 0; i < W; i++) out[i] += s * (d[i] * weight[i] - mean_g - (v[i] - m) * s * mean_gx);
            store_pack(dx + begin + p * W, out);
        }
    }
    float* to = partial + static_cast<int64_t>(blockIdx.x) * 2 * C;
    for (int p = threadIdx.x; p < packs; p += blockDim.x)
        for (int i = 0; i < W; i++) to[p * W + i] = w_sums[i * packs + p], to[C + p * W + i] = b_sums[i * packs + p];
}

// ---- 5: llmc/cuda/layernorm.cuh -----------------------------------------------------------------------------------------
// Three things more. How many packs a thread has is known to the compiler, so that the column sums and the row itself
// fit into registers: no shared memory for the one, no second load for the other. The row waits there as it came, two
// 16-bit elements a register. And a block takes several rows at a time: their loads are all under way together, and one
// barrier serves them all.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {"N C", {32768, 768}, {{1, 1}, {5, 65}, {37, 40}, {3, 520}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int N = setup.size[0], C = setup.size[1], block = setup.block;
    int64_t n = static_cast<int64_t>(N) * C;
    std::vector<X> x = zoo::random<X>(n, 1), dy = zoo::random<X>(n, 2), dx = zoo::random<X>(n, 3),
                   w = zoo::random<X>(C, 4), new_dx = dx;
    std::vector<float> dw = zoo::random<float>(C, 5), db = zoo::random<float>(C, 6), new_dw = dw, new_db = db;
    std::vector<float> mean = zoo::random<float>(N, 7, 0.1f), rstd = zoo::random<float>(N, 8, 0.1f);
    for (float& r : rstd) r += 1;
    if (setup.reference)
        layernorm_backward(new_dx.data(), new_dw.data(), new_db.data(), dy.data(), x.data(), w.data(), mean.data(),
                           rstd.data(), N, C);
    zoo::Page p;
    p.bytes = 4.0 * n * sizeof(X);
    p.workspace_bytes = layernorm_backward_workspace_bytes(N, C, device().multiprocessors);
    const X *d_dy = p.input(dy), *d_x = p.input(x), *d_w = p.input(w);
    const float *d_mean = p.input(mean), *d_rstd = p.input(rstd);
    X* d_dx = p.output("dx", new_dx, dx);
    float *d_dw = p.output("dw", new_dw, dw), *d_db = p.output("db", new_db, db);

    int pieces = ceil_div(N, piece_rows), blocks = std::min(N, 4 * device().multiprocessors), rows = block / 32;
    float* partial = p.input(std::vector<float>(static_cast<size_t>(std::max(pieces, blocks)) * 2 * C, NAN));
    auto fused = [=](void (*kernel)(X*, float*, const X*, const X*, const X*, const float*, const float*, int, int)) {
        return [=](cudaStream_t s) {
            launch(kernel, blocks, block, 2 * C * sizeof(float), s, d_dx, partial, d_dy, d_x, d_w, d_mean, d_rstd, N,
                   C);
            launch(add_partial_kernel, ceil_div(2 * C, 32), block, 0, s, d_dw, d_db, partial, blocks, C);
        };
    };
    p.versions = {
        {1, "a thread per row, then a thread per column",
         [=](cudaStream_t s) {
             launch(dx_thread_per_row_kernel<X>, ceil_div(N, block), block, 0, s, d_dx, d_dy, d_x, d_w, d_mean, d_rstd,
                    N, C);
             launch(thread_per_column_kernel<X>, ceil_div(C, block), block, 0, s, d_dw, d_db, d_dy, d_x, d_mean, d_rstd,
                    N, C);
         }},
        {2, "a warp per row; column sums in two stages",
         [=](cudaStream_t s) {
             launch(dx_warp_per_row_kernel<X>, ceil_div(N, rows), block, 0, s, d_dx, d_dy, d_x, d_w, d_mean, d_rstd, N,
                    C);
             launch(piece_of_columns_kernel<X>, dim3(ceil_div(C, 32), pieces), block, 0, s, partial, d_dy, d_x, d_mean,
                    d_rstd, N, C);
             launch(add_partial_kernel, ceil_div(2 * C, 32), block, 0, s, d_dw, d_db, partial, pieces, C);
         }},
        {3, "one visit for both kinds of sums", fused(fused_kernel<1, X>)},
        {4, "16 bytes at a time; no bank conflicts",
         fused(C % pack_width<X> == 0 ? fused_kernel<pack_width<X>, X> : fused_kernel<1, X>)},
        {5, "llmc/cuda/layernorm.cuh",
         [=](cudaStream_t s) {
             layernorm_backward(d_dx, d_dw, d_db, d_dy, d_x, d_w, d_mean, d_rstd, N, C, nullptr, s);
         }},
    };
    return p;
}

}  // namespace layernorm_backward_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    namespace layer = layernorm_backward_page;
    return zoo::run(argc, argv, "layernorm_backward", layer::sizes, layer::page<float>, layer::page<bf16>);
}
#endif
