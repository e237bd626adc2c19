# Included by the Makefile: the machine of test/ptx/, and the tests of the CUDA layers on it (README.md here).

# Its arithmetic is a GPU's, not the compiler's.
PTX_MACHINE := $(patsubst %.cpp,$(B)/%.o,$(wildcard test/ptx/*.cpp))
$(PTX_MACHINE): CXXFLAGS := $(CXXFLAGS:-O3=-O2) -fno-strict-aliasing -frounding-math -ffp-contract=off
$(B)/test/run_tests $(patsubst %,$(B)/test/test_ptx_%,machine faults counters): $(PTX_MACHINE)
HOST_LIB += $(PTX_MACHINE)

# What nvcc makes of the kernels. sort.cu is CUB's, which has other code on the CPU.
PTX_SOURCES := $(filter-out %/sort.cu,$(CUDA_SOURCES)) test/cuda/test_ptx.cu test/cuda/test_dropout.cu
PTX := $(PTX_SOURCES:%.cu=$(B)/ptx/%.ptx)
PTX_NVCC := $(firstword $(wildcard $(CUDA_ROOTS:%=%/bin/nvcc)))
PTX_ROOT = $(patsubst %/bin,%,$(shell $(PTX_NVCC) --dryrun -c -x cu /dev/null 2>&1 | sed -n 's/^\#\$$ _HERE_=//p'))
PTX_INCLUDE = $(patsubst %,-isystem %,$(filter-out -isystem $(PTX_ROOT)/include,$(HOST_INCLUDE)))
$(B)/ptx/%.ptx: %.cu $(B)/flags
	@mkdir -p $(@D)
	@echo "  ptx      $<"
	$(Q)$(PTX_NVCC) -std=c++20 -O3 -lineinfo --expt-relaxed-constexpr -ccbin $(or $(CUDA_CXX),$(CXX)) -arch=compute_80 -I. $(PTX_INCLUDE) \
	  -MMD -MP -MF $(@:.ptx=.d) -ptx -o $@ $<

# Without nvcc: one skipped test. Under the sanitizers, which nvcc's code would not have: none.
ON_PTX := $(if $(HOST_MISSING)$(SANITIZE),,$(B)/test/run_ptx_tests)
PTX_TESTS := attention attention_decode classifier cublaslt distill_loss dropout encoder gelu layernorm matmul objectives optimizer \
  prompts ptx score_loss
PTXAS = $(dir $(PTX_NVCC))ptxas
$(H)/test/ptx/test_kernels.cu.o: CPPFLAGS += -DPTXAS='"$(PTXAS)"'
$(B)/test/cudahost/on_ptx.o: CPPFLAGS += -DPTX_DIRECTORY='"$(CURDIR)/$(B)/ptx"'
$(B)/test/run_ptx_tests: $(if $(PTX_NVCC),$(PTX_TESTS:%=$(H)/test/cuda/test_%.cu.o) $(H)/test/ptx/test_sizes.cu.o $(H)/test/ptx/test_kernels.cu.o $(B)/test/cudahost/on_ptx.o $(HOST_LAYERS) $(HOST_LIB) \
  $(LIB),$(B)/test/cudahost/missing.o) | $(if $(PTX_NVCC),$(PTX))

# What they ask of a GPU.
.PHONY: kernels kernel
KERNELS_NEED = @$(if $(HOST_MISSING)$(if $(PTX_NVCC),,x),echo "make $@ needs $(or $(HOST_MISSING),nvcc (CUDA Toolkit$(comma) or dev/setup.sh --cuda))" >&2; exit 1,:)
kernels:  ## dev/reports/kernels.md (and kernels.json, for make gpu_check): every kernel of a step, its limiter and time on an A100, H100 and RTX 4090, by counting; no GPU
	$(KERNELS_NEED)
	@$(MAKE) --no-print-directory $(B)/kernels
	@$(B)/kernels $(B)/ptx $(PTXAS) --json $(B)/kernels.json >$(B)/kernels.md && mv $(B)/kernels.md $(B)/kernels.json dev/reports/
kernel:  ## one kernel's page (K=layernorm_forward_kernel): counters, limiter, the lines of the source that cost most
	$(KERNELS_NEED)
	@[ -n "$(K)" ] || { echo "make kernel K=NAME, of a kernel or a part of it" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(B)/kernels
	@$(B)/kernels $(B)/ptx $(PTXAS) --kernel '$(K)'
check_programs: $(if $(ON_PTX),$(if $(PTX_NVCC),$(B)/kernels))
$(B)/kernels: $(H)/test/ptx/report.cu.o $(HOST_LAYERS) $(HOST_LIB) $(LIB) | $(PTX)
	@mkdir -p $(@D)
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) -fsanitize=alignment $(LDFLAGS) -o $@ $^ $(BOOST_CONTEXT) $(LDLIBS)
