// Every version of every page of the kernel zoo (dev/cuda) against the CPU layer, at odd sizes, in fp32 and bf16.
// A new page is an #include and a TEST here.
#define ZOO_PAGES  // without their main()
#include "test/cuda/device_test.h"
#include "dev/cuda/adamw.cu"
#include "dev/cuda/attention_forward.cu"
#include "dev/cuda/classifier.cu"
#include "dev/cuda/gelu.cu"
#include "dev/cuda/layernorm_backward.cu"
#include "dev/cuda/layernorm_forward.cu"
#include "dev/cuda/matmul_forward.cu"

// A type that a page does not have is null.
static void check_page(const zoo::Sizes& sizes, zoo::Page (*page_fp32)(const zoo::Setup&),
                       zoo::Page (*page_bf16)(const zoo::Setup&)) {
    for (auto make_page : {page_fp32, page_bf16}) {
        if (!make_page) continue;
        if (make_page == page_bf16 && device().capability < 80) GTEST_SKIP() << "bf16 needs sm_80";
        for (const std::vector<int>& size : sizes.tested) {
            zoo::Page page = make_page({size, 64, true});
            reserve_workspace(page.workspace_bytes);
            std::string at = make_page == page_fp32 ? "fp32" : "bf16";
            for (int n : size) at += " " + std::to_string(n);
            for_each_schedule([&] {
                for (const zoo::Version& version : page.versions) {
                    zoo::Check check = zoo::check(page, version, current_stream());
                    EXPECT_LE(check.error, check.tolerance)
                        << check.output << " of version " << version.number << " (" << version.idea << "), " << at;
                }
            });
        }
    }
}

TEST(Zoo, LayernormForward) {
    namespace page = layernorm_forward_page;
    check_page(page::sizes, page::page<float>, page::page<bf16>);
}
TEST(Zoo, LayernormBackward) {
    namespace page = layernorm_backward_page;
    check_page(page::sizes, page::page<float>, page::page<bf16>);
}
TEST(Zoo, Gelu) { check_page(gelu_page::sizes, gelu_page::page<float>, gelu_page::page<bf16>); }
TEST(Zoo, Classifier) { check_page(classifier_page::sizes, classifier_page::page<float>, classifier_page::page<bf16>); }
TEST(Zoo, MatmulForward) {
    namespace page = matmul_forward_page;
    check_page(page::sizes, page::page<float>, page::page<bf16>);
}
TEST(Zoo, AttentionForward) {
    namespace page = attention_forward_page;
    check_page(page::sizes, page::page<float>, page::page<bf16>);
}
TEST(Zoo, AdamW) { check_page(adamw_page::sizes, adamw_page::page<float>, adamw_page::page<bf16>); }
