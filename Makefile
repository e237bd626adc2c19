# make            the programs: ./train_gpt2 and ./tokenize
# make train_gpt2cu   the CUDA program; `make` alone leaves it out, so that it stays quick and needs no CUDA
# make help       every target
#
# Variables: ARCH=-march=native (what to compile for), NO_ONEDNN=1, NO_OPENMP=1 (build without them), CXX, EXTRA_CXXFLAGS,
# V=1 (show the commands).
# CUDA: CUDA_ARCH="80 90" (GPU architectures; default: the GPUs of this machine), CUDA_HOME, USE_CUDNN=1, CUDA_CXX (nvcc's host compiler).
# Libraries are looked for in .deps/ (where dev/setup.sh unpacks them when it may not install), then in the system, then with pkg-config.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
ifeq ($(origin CXX),default)
  CXX := g++
endif
ARCH ?= -march=native

# ---- find the compiler and the libraries -----------------------------------------------------------------------------
# One preprocessor run says which headers are there; goals that compile nothing skip it.
NO_BUILD_GOALS := help clean format fuzz gpt2 quickstart setup gpu_pack gpu_check
ifneq ($(if $(MAKECMDGOALS),$(filter-out $(NO_BUILD_GOALS),$(MAKECMDGOALS)),all),)
  BUILDING := 1
endif

DEPS := $(CURDIR)/.deps/usr
HASH := \#
comma := ,
space := $(subst ,, )
ifdef BUILDING
  MULTIARCH := $(shell $(CXX) -print-multiarch 2>/dev/null)
  DEPS_INCLUDE := $(addprefix -isystem ,$(wildcard $(DEPS)/include $(DEPS)/include/$(MULTIARCH)))
  DEPS_LIB := $(wildcard $(DEPS)/lib/$(MULTIARCH) $(DEPS)/lib $(CURDIR)/.deps/lib/$(MULTIARCH))
  # disable-new-dtags: an RPATH, unlike a RUNPATH, also serves the libraries of our libraries
  DEPS_LDFLAGS := $(foreach d,$(DEPS_LIB),-L$(d) -Wl,-rpath,$(d) -Wl,-rpath-link,$(d)) $(if $(DEPS_LIB),-Wl$(comma)--disable-new-dtags)
  probe = $(shell { printf '$(HASH)if __has_include(<%s>)\nhave_%s\n$(HASH)endif\n' CLI/CLI.hpp CLI11 nlohmann/json.hpp nlohmann_json \
      dnnl.hpp dnnl gtest/gtest.h gtest pcre2.h libpcre2-8 omp.h openmp; \
      printf '$(HASH)if __GNUC__ < 11 && !defined(__clang__)\nold_compiler\n$(HASH)endif\n'; } \
      | $(CXX) $(1) -E -P -x c++ - 2>/dev/null && echo have_compiler)
  FOUND := $(call probe,$(DEPS_INCLUDE))
  # what the usual places do not have, pkg-config may know
  PKG := $(if $(filter have_compiler,$(FOUND)),$(foreach p,CLI11 nlohmann_json gtest libpcre2-8 dnnl,$(if $(filter have_$(p),$(FOUND)),,$(p))))
  PKG := $(if $(strip $(PKG)),$(foreach p,$(PKG),$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p))))
  ifneq ($(strip $(PKG)),)
    PKG_CFLAGS := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(PKG)))
    PKG_LDFLAGS := $(foreach d,$(patsubst -L%,%,$(shell pkg-config --libs-only-L $(PKG))),-L$(d) -Wl,-rpath,$(d))
    FOUND := $(call probe,$(DEPS_INCLUDE) $(PKG_CFLAGS))
  endif
  # what nobody has, `make gpu_pack` may have packed for a machine without a network
  PACKED := $(if $(filter-out $(FOUND:have_%=%),CLI11 nlohmann_json gtest),$(wildcard $(CURDIR)/.gpu_pack/usr))
  ifneq ($(PACKED),)
    DEPS_INCLUDE += -isystem $(PACKED)/include
    DEPS_LDFLAGS += -L$(PACKED)/lib
    FOUND := $(call probe,$(DEPS_INCLUDE) $(PKG_CFLAGS))
  endif
  have = $(filter have_$(1),$(FOUND))

  USE_ONEDNN := $(if $(NO_ONEDNN),,$(call have,dnnl))
  USE_OPENMP := $(if $(NO_OPENMP),,$(call have,openmp))
  # MPI: its compiler wrapper says how to use it; the flags have other names in Open MPI and in MPICH
  MPICC := $(if $(NO_MPI),,$(firstword $(wildcard $(DEPS)/bin/mpicc) $(shell command -v mpicc 2>/dev/null)))
  ifdef MPICC
    MPI_CFLAGS := $(patsubst -I%,-isystem %,$(filter -I%,$(shell $(MPICC) -showme:compile 2>/dev/null || $(MPICC) -compile_info 2>/dev/null)))
    MPI_LIBS := $(filter -l% -L%,$(shell $(MPICC) -showme:link 2>/dev/null || $(MPICC) -link_info 2>/dev/null))
  endif
  require = $(if $(call have,$(1)),,$(error $(strip $(2)) is missing (package $(strip $(3))): run dev/setup.sh))
  $(call require,compiler,A C++ compiler ($(CXX)),g++)
  $(if $(filter old_compiler,$(FOUND)),$(error $(CXX) is too old: C++20 needs g++ 11 or newer (make CXX=g++-12)))
  $(call require,CLI11,CLI11,libcli11-dev)
  $(call require,nlohmann_json,nlohmann-json,nlohmann-json3-dev)
  ifneq ($(filter test test_asan test_cuda check_cuda check_programs test_failure build/test/% build-asan/test/%,$(MAKECMDGOALS)),)
    $(call require,gtest,GoogleTest,libgtest-dev)
  endif

  # said once; a make inside a make stays quiet
  ifeq ($(LLMC_SAID),)
    export LLMC_SAID := 1
    where = $(if $(call have,$(1)),$(2)$(if $(wildcard $(DEPS)/include/$(3) $(DEPS)/include/$(MULTIARCH)/$(3)),(.deps)))
    SAY := $(CXX)-$(shell $(CXX) -dumpfullversion -dumpversion 2>/dev/null) $(call where,CLI11,CLI11,CLI) \
      $(call where,nlohmann_json,nlohmann-json,nlohmann) $(if $(USE_ONEDNN),$(call where,dnnl,oneDNN,dnnl.hpp)) \
      $(if $(USE_OPENMP),OpenMP) $(if $(MPICC),MPI) $(call where,gtest,GoogleTest,gtest) $(call where,libpcre2-8,PCRE2,pcre2.h)
    $(info found: $(subst $(space),$(comma)$(space),$(strip $(SAY))))
    lacking = $(if $(call have,$(1)),,$(info missing: $(strip $(2))))
    ifndef NO_ONEDNN
      $(call lacking,dnnl,oneDNN: matrix products will be several times slower (package libdnnl-dev; dev/setup.sh installs it))
    endif
    ifndef NO_OPENMP
      $(call lacking,openmp,OpenMP: the programs will use one core (package libgomp1 for g++$(comma) libomp-dev for clang))
    endif
    ifeq ($(MPICC)$(NO_MPI),)
      $(info missing: MPI: the CPU program runs as one rank only (packages libopenmpi-dev and openmpi-bin; dev/setup.sh installs them))
    endif
    $(call lacking,libpcre2-8,PCRE2: one tokenizer test will be skipped (package libpcre2-dev; dev/setup.sh installs it))
  endif
endif

# ---- flags -------------------------------------------------------------------------------------------------------------
# -Wrestrict: GCC 12 reports string concatenation by mistake (GCC bug 105651)
WARNINGS := -Wall -Wextra -Wshadow -Wno-restrict -Werror
CPPFLAGS := -I. $(DEPS_INCLUDE) $(PKG_CFLAGS) $(if $(USE_ONEDNN),-DUSE_ONEDNN) $(if $(call have,libpcre2-8),-DUSE_PCRE2)
CXXFLAGS := -std=c++20 $(ARCH) -fno-math-errno -fno-trapping-math $(WARNINGS)
CXXFLAGS += $(if $(USE_OPENMP),-fopenmp,-Wno-unknown-pragmas)
LDFLAGS := $(DEPS_LDFLAGS) $(PKG_LDFLAGS)
LDLIBS := -Wl,--as-needed $(if $(USE_ONEDNN),-ldnnl) $(MPI_LIBS) -lpthread
ifdef SANITIZE
  # -O1: stack traces stay readable and the compiler stays fast
  B := build-asan
  BIN := build-asan/
  # Half of the time to compile, and left out: null (the other sanitizer stops there, too), vptr, and alignment, which
  # only a GPU asks for (CUDA on the CPU checks it always). GCC 12 finds std::regex's own members uninitialised here.
  CXXFLAGS += -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=null,vptr,alignment \
    -fno-sanitize-recover=undefined -Wno-maybe-uninitialized
else ifdef FUZZ
  # for clang, whose warnings are others; what costs much time to compile is left out; float-cast-overflow: numbers of
  # others that become whole ones
  B := build-fuzz
  BIN := build-fuzz/
  CXXFLAGS := $(filter-out -W%,$(CXXFLAGS)) -Wno-unknown-pragmas -O1 -g1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined \
    -fno-sanitize=null,vptr,alignment,object-size,pointer-overflow -fsanitize=float-cast-overflow \
    -fno-sanitize-recover=undefined,float-cast-overflow
else
  B := build
  BIN :=
  CXXFLAGS += -O3
endif
CXXFLAGS += $(EXTRA_CXXFLAGS)

Q := $(if $(V),,@)

# ---- the programs ------------------------------------------------------------------------------------------------------
LLMC_OBJ := $(patsubst %.cpp,$(B)/%.o,$(filter-out llmc/cuda/%,$(wildcard llmc/*/*.cpp)))
LIB := $(B)/libllmc.a
TEST_OBJ := $(patsubst %.cpp,$(B)/%.o,$(wildcard test/*.cpp))
TEST_MODELS := $(B)/test/models.o
PROGRAMS := $(BIN)train_gpt2 $(BIN)tokenize

TESTS := $(patsubst %.cpp,$(B)/%,$(wildcard test/test_*.cpp))  # one file each, for make test T=NAME
PLAIN := $(BIN)train_gpt2_plain

.PHONY: all
all: $(PROGRAMS)  ## the programs ./train_gpt2 and ./tokenize (default)

$(BIN)train_gpt2: $(B)/train_gpt2.o $(LIB)
$(BIN)tokenize: $(patsubst %.cpp,$(B)/%.o,$(wildcard data/*.cpp)) $(LIB)
train_gpt2_plain:  ## train_gpt2 with the layers of llmc/plain/: slow, for tiny models
$(PLAIN): $(B)/dev/train_gpt2_plain.o $(LIB)
$(B)/test/run_tests $(TESTS): LDLIBS += -lgtest -lgtest_main $(if $(call have,libpcre2-8),-lpcre2-8)
$(B)/test/run_tests: $(TEST_OBJ) $(LIB)
$(TESTS): $(B)/test/%: $(B)/test/%.o $(TEST_MODELS) $(LIB)
# GCC takes half of an AVX-512 register by itself, for the sake of processors that clock lower for the whole of it.
ifeq ($(findstring x86_64,$(MULTIARCH)),x86_64)
  $(filter $(B)/llmc/cpu/%,$(LLMC_OBJ)): CXXFLAGS += -mprefer-vector-width=512
endif
# Compiled more often than they are waited for: -O1; under the sanitizers, which slow the compiler down by half, -O0 but for
# tests that compute.
$(TEST_OBJ) $(B)/llmc/base/json.o $(filter $(B)/llmc/run/%,$(LLMC_OBJ)): CXXFLAGS := $(CXXFLAGS:-O3=-O1)
QUICK_TESTS := $(TEST_OBJ)
ifdef SANITIZE
  QUICK_TESTS := $(patsubst %.cpp,$(B)/%.o,$(shell grep -LE '"llmc/(gpt2|plain|cpu|cuda|text)|(layer|tokenizer)_test' test/*.cpp))
  $(filter $(B)/llmc/run/% $(B)/llmc/files/%,$(LLMC_OBJ)) $(B)/train_gpt2.o $(QUICK_TESTS): CXXFLAGS := $(CXXFLAGS:-O1=-O0)
endif
# What most tests include is read once for all of them. GCC 12 then reports string concatenation (bug 105651) in more ways.
PRECOMPILED := $(B)/test/precompiled.h
$(QUICK_TESTS): private CPPFLAGS += -include $(PRECOMPILED) -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
$(QUICK_TESTS): $(PRECOMPILED).gch
$(PRECOMPILED).gch: CXXFLAGS := $(CXXFLAGS:-O%=$(if $(SANITIZE),-O0,-O1))
$(PRECOMPILED).gch: test/precompiled.h $(B)/flags
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -x c++-header -o $@ $<
CPU_BENCHES := $(patsubst dev/bench/%.cpp,$(B)/%,$(wildcard dev/bench/*.cpp))
$(CPU_BENCHES): $(B)/%: $(B)/dev/bench/%.o $(LIB)
$(PROGRAMS) $(PLAIN) $(B)/test/run_tests $(TESTS) $(CPU_BENCHES):
	@mkdir -p $(@D)
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(LLMC_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(B)/llmc/ranks/communicator.o $(B)/llmc/ranks/mpi.o: CPPFLAGS += $(if $(MPICC),-DUSE_MPI $(MPI_CFLAGS))

$(B)/%.o: %.cpp $(B)/flags
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<
-include $(shell [ -d $(B) ] && find $(B) -name '*.d')

# changes only when the compiler or its flags do, and then everything is compiled again
ifdef BUILDING
  FLAGS := $(shell $(CXX) --version 2>/dev/null | head -n 1) $(MPICC) $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS)
  ifneq ($(file <$(B)/flags),$(FLAGS))
    $(shell mkdir -p $(B))
    $(file >$(B)/flags,$(FLAGS))
  endif
endif
$(B)/flags: ;

# ---- the CUDA program ----------------------------------------------------------------------------------------------------
# Looked for only when a goal needs it. A root has include/ and lib64/ or lib/: a toolkit, or one of pip's packages.
CUDA_GOALS := train_gpt2cu test_cuda check_cuda bench_cuda build_gpu_check compile_cuda $(B)/bench_cuda
HOST_GOALS := test test_asan check_programs debug_build kernels kernel $(B)/kernels $(B)/test/run_cuda_tests $(B)/test/run_ptx_tests \
  $(B)/train_gpt2cu_cpu $(B)/bench_cuda_cpu $(B)/cudahost/%
ifneq ($(filter $(CUDA_GOALS) $(HOST_GOALS) $(BIN)train_gpt2cu $(B)/%.cu.o $(B)/test/cuda/run_tests $(B)/dev/cuda/%,$(MAKECMDGOALS)),)
  PIP := $(shell python3 -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")))' 2>/dev/null)
  CUDA_ROOTS := $(CUDA_HOME) $(wildcard .deps/python/nvidia/*) $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc))) \
    /usr/local/cuda $(wildcard $(PIP:%=%/nvidia/*)) .deps/python .deps/usr $(PIP) /usr/local /usr $(wildcard $(CURDIR)/.gpu_pack/usr)
endif
first = $(firstword $(wildcard $(foreach r,$(CUDA_ROOTS),$(foreach p,$(1),$(r)/$(p)))))
uniq = $(if $(1),$(firstword $(1)) $(call uniq,$(filter-out $(firstword $(1)),$(1))))
# compile_cuda: without optimisation, beside the real objects
CUDA_QUICK := $(filter compile_cuda,$(MAKECMDGOALS))
CU := $(B)$(if $(CUDA_QUICK),/quick)
ifneq ($(filter $(CUDA_GOALS) $(BIN)train_gpt2cu $(B)/%.cu.o $(B)/test/cuda/run_tests $(B)/dev/cuda/%,$(MAKECMDGOALS)),)
  NVCC := $(firstword $(wildcard $(CUDA_ROOTS:%=%/bin/nvcc)))
  ifeq ($(NVCC),)
    $(error nvcc is missing (not in CUDA_HOME, .deps, PATH, /usr/local/cuda, pip's packages): install the CUDA Toolkit 12.4 \
      or newer, or run dev/setup.sh --cuda; `make` alone builds ./train_gpt2 for the CPU)
  endif
  # nvcc in PATH may be a link or a script; it knows itself where it is. Its own headers come first.
  NVCC_ROOT := $(patsubst %/bin,%,$(shell $(NVCC) --dryrun -c -x cu /dev/null 2>&1 | sed -n 's/^#\$$ _HERE_=//p'))
  CUDA_ROOTS := $(NVCC_ROOT) $(CUDA_ROOTS)
  NVCC_VERSION := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  ifeq ($(NVCC_VERSION),)
    $(error $(NVCC) does not run)
  endif
  ifneq ($(shell printf '%s\n' 12.4 $(NVCC_VERSION) | sort -V | head -n 1),12.4)
    $(error $(NVCC) is of CUDA $(NVCC_VERSION); the program needs 12.4 or newer (CUDA_HOME=/path/to/another))
  endif
  # find_header NAME PACKAGE: an -isystem, unless nvcc or the compiler looks there anyway
  find_header = $(if $(call first,include/$(1)),$(patsubst %,-isystem %,$(filter-out /usr/include $(NVCC_ROOT)/include,\
    $(patsubst %/$(1),%,$(call first,include/$(1))))),$(error $(1) is missing: install $(2)$(if $(findstring cudnn,$(1)),, or run dev/setup.sh --cuda)))
  find_library = $(call first,lib64/$(1) lib/$(1) lib/$(MULTIARCH)/$(1))
  CUDA_INCLUDE := $(call find_header,cuda_runtime.h,pip's nvidia-cuda-runtime) $(call find_header,crt/host_config.h,pip's nvidia-cuda-crt) \
    $(call find_header,cublasLt.h,pip's nvidia-cublas) $(if $(call first,include/cccl/nv/target),,$(call find_header,nv/target,pip's nvidia-cuda-cccl))
  # optional: without it the program is for one GPU
  CUDA_INCLUDE += $(patsubst %,-isystem %,$(filter-out /usr/include $(NVCC_ROOT)/include,$(patsubst %/nccl.h,%,$(call first,include/nccl.h))))
  CUDART := $(call find_library,libcudart_static.a)
  $(if $(CUDART),,$(error libcudart_static.a is missing: install pip's nvidia-cuda-runtime or run dev/setup.sh --cuda))
  # These are opened at run time (llmc/base/dynamic_library.h); the program remembers where they were.
  CUBLASLT := $(call find_library,libcublasLt.so.1[23])
  NCCL := $(call find_library,libnccl.so.2)
  CUDNN := $(call find_library,libcudnn.so.9)
  CUDA_RPATH := $(sort $(patsubst %/,%,$(dir $(abspath $(CUBLASLT) $(NCCL) $(CUDNN) $(if $(USE_CUDNN),$(call find_library,libcudart.so.1[23]))))))
  CUDNN_INCLUDE := $(if $(USE_CUDNN),$(call find_header,cudnn.h,pip's nvidia-cudnn-cu13) $(call find_header,cudnn_frontend.h,pip's nvidia-cudnn-frontend))

  # Machine code for CUDA_ARCH, and PTX of the newest of them, which newer GPUs compile for themselves when the program
  # starts. Machine code runs on GPUs of the same major number and at least the minor one, so without a GPU in this
  # machine one for each major number serves all.
  NVCC_ARCHES := $(shell $(NVCC) --list-gpu-arch | sed 's/compute_//' | sort -n)
  ifdef CUDA_ARCH
    ARCHES := $(shell printf '%s\n' $(subst $(comma), ,$(subst sm_,,$(subst .,,$(CUDA_ARCH)))) | sort -nu)
    ARCHES_FROM := as CUDA_ARCH says
  else
    ARCHES := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n 's/^\([0-9]*\)\.\([0-9]\)$$/\1\2/p' | sort -nu)
    ARCHES_FROM := $(if $(ARCHES),the GPU of this machine,for all GPUs: there is none in this machine; CUDA_ARCH=90 for one)
    # a GPU newer than the toolkit takes the PTX of the newest architecture before it
    ARCHES := $(if $(ARCHES),$(foreach a,$(ARCHES),$(if $(filter $(a),$(NVCC_ARCHES)),$(a),\
      $(shell printf '%s\n' $(NVCC_ARCHES) | awk '$$1 < $(a)' | sort -n | tail -n 1))),$(filter 80 90 100 120,$(NVCC_ARCHES)))
  endif
  ifneq ($(if $(strip $(ARCHES)),$(filter-out $(NVCC_ARCHES),$(ARCHES:%a=%)),none),)
    $(error nvcc $(NVCC_VERSION) does not know the architecture $(ARCHES) ($(ARCHES_FROM)); it knows $(NVCC_ARCHES))
  endif
  NEWEST := $(lastword $(ARCHES))
  NVCCFLAGS := -std=c++20 $(if $(CUDA_QUICK),-O0 -Xcicc -O0 -Xptxas -O0,-O3) -lineinfo --expt-relaxed-constexpr --threads 0 -ccbin $(or $(CUDA_CXX),$(CXX)) \
    $(foreach a,$(ARCHES),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_$(NEWEST),code=compute_$(NEWEST) \
    -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wno-restrict$(if $(USE_OPENMP),$(comma)-fopenmp,$(comma)-Wno-unknown-pragmas) \
    -I. $(CUDA_INCLUDE) $(if $(USE_CUDNN),-DUSE_CUDNN)
  ifeq ($(LLMC_SAID_CUDA),)
    export LLMC_SAID_CUDA := 1
    $(info found: $(NVCC) $(NVCC_VERSION); compiling for $(ARCHES:%=sm_%) and PTX ($(ARCHES_FROM)))
    SAY := $(CUBLASLT) $(NCCL) $(CUDNN)
    $(if $(SAY),$(info found, to be opened at run time: $(subst $(space),$(comma) ,$(strip $(SAY)))))
    $(if $(call first,include/nccl.h),,$(info missing: nccl.h: the program is for one GPU (package libnccl-dev or pip's nvidia-nccl-cu13)))
    $(if $(CUBLASLT),,$(info missing: cuBLASLt (CUDA Toolkit or pip's nvidia-cublas): without it only --matmul own will run))
  endif
  ifneq ($(shell mkdir -p $(CU); echo '$(NVCC) $(NVCC_VERSION) $(NVCCFLAGS)' | cmp -s - $(CU)/cuda_flags || echo differs),)
    $(shell echo '$(NVCC) $(NVCC_VERSION) $(NVCCFLAGS)' >$(CU)/cuda_flags)
  endif
endif
$(CU)/cuda_flags: ;

# The layers, the slowest to compile first, so that two at a time end together.
CUDA_SLOW := $(addprefix llmc/cuda/,matmul_own.cu sort.cu attention_mma.cu attention_fp32.cu layernorm.cu)
CUDA_SOURCES := $(CUDA_SLOW) $(filter-out $(CUDA_SLOW),$(wildcard llmc/cuda/*.cu))
CUDA_HOST_SOURCES := $(filter-out %_cudnn.cpp,$(wildcard llmc/cuda/*.cpp))
CUDA_HOST_OBJ := $(CUDA_HOST_SOURCES:%=$(CU)/%.o) $(if $(USE_CUDNN),$(CU)/llmc/cuda/attention_cudnn.cpp.o)
CUDA_OBJ := $(CUDA_SOURCES:%=$(CU)/%.o) $(CUDA_HOST_OBJ)
CUDA_TEST_OBJ := $(patsubst %,$(CU)/%.o,$(wildcard test/cuda/*.cu))
NO_CPU_OBJ := $(filter-out $(B)/llmc/cpu/%,$(LLMC_OBJ))  # the CUDA program needs no CPU layers
ZOO := $(patsubst dev/cuda/%.cu,%,$(wildcard dev/cuda/*.cu))
ZOO_PAGES := $(ZOO:%=$(CU)/dev/cuda/%)
CUDA_LIBS := $(CUDART) -ldl -lrt
CUDA_PROGRAM_FILE := $(if $(CUDA_QUICK),$(CU)/,$(BIN))train_gpt2cu
train_gpt2cu:  ## the CUDA program (CUDA_ARCH="80 90": for these GPUs)
$(CUDA_PROGRAM_FILE): $(CU)/train_gpt2.cu.o $(CUDA_OBJ) $(NO_CPU_OBJ)
$(CU)/test/cuda/run_tests: LDLIBS += -lgtest -lgtest_main
$(CU)/test/cuda/run_tests: $(CUDA_TEST_OBJ) $(TEST_MODELS) $(CUDA_OBJ) $(LIB)
$(CU)/bench_cuda: $(CU)/dev/bench/bench_cuda.cu.o $(CUDA_OBJ) $(NO_CPU_OBJ)
$(ZOO_PAGES): $(CU)/dev/cuda/%: $(CU)/dev/cuda/%.cu.o $(CUDA_OBJ) $(LIB)
$(CUDA_PROGRAM_FILE) $(CU)/test/cuda/run_tests $(CU)/bench_cuda $(ZOO_PAGES):
	@mkdir -p $(@D)
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) $(LDFLAGS) $(CUDA_RPATH:%=-Wl,-rpath,%) -Wl,--disable-new-dtags -o $@ $^ $(CUDA_LIBS) $(LDLIBS)

$(CU)/%.cu.o: %.cu $(CU)/cuda_flags
	@mkdir -p $(@D)
	@echo "  nvcc     $<"
	$(Q)$(NVCC) $(NVCCFLAGS) -MMD -MP -c -o $@ $<
# what has no kernels, the program itself among it, needs no nvcc
$(CU)/train_gpt2.cu.o $(CUDA_HOST_OBJ): $(CU)/%.o: % $(B)/flags $(CU)/cuda_flags
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$(Q)$(CXX) -x c++ $(CPPFLAGS) $(if $(USE_CUDNN),-DUSE_CUDNN $(CUDNN_INCLUDE)) $(CUDA_INCLUDE) -isystem $(NVCC_ROOT)/include \
	  $(CXXFLAGS) -MMD -MP -c -o $@ $<

# nvcc's pass for the GPU reads the host's code, too, and finds what is wrong in it
$(CU)/%.ptx: %.cu $(CU)/cuda_flags
	@mkdir -p $(@D)
	@echo "  check    $<"
	$(Q)$(NVCC) $(filter-out -gencode arch=% --threads 0 -lineinfo,$(NVCCFLAGS)) -arch=compute_$(NEWEST) -MMD -MP -MF $(@:.ptx=.d) -ptx -o $@ $<
compile_cuda: $(CUDA_PROGRAM_FILE) $(patsubst %.cu,$(CU)/%.ptx,$(wildcard test/cuda/*.cu dev/cuda/*.cu dev/bench/*.cu))  ## that everything in CUDA compiles, and the program links, quickly: nothing is optimised

# ---- the kernel zoo ------------------------------------------------------------------------------------------------------
.PHONY: zoo compile_cuda
zoo:  ## one page of dev/cuda, checked and timed on this machine's GPU (P=layernorm_forward ARGS="-b 128 4096 768")
	@[ -n "$(filter $(P),$(ZOO))" ] || { echo "make zoo P=PAGE, where PAGE is one of: $(ZOO)" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(B)/dev/cuda/$(P)
	@$(B)/dev/cuda/$(P) $(ARGS)

# ---- CUDA on the CPU ---------------------------------------------------------------------------------------------------
# The real CUDA sources, compiled by $(CXX) and run on the CPU: test/cudahost/cudahost.h. Needs CUDA's headers (a toolkit, or
# pip's packages) and Boost.Context; no nvcc and no GPU. Without them the tests are one skipped test.
DEBUG_CUDA := $(filter debug_build,$(MAKECMDGOALS))
H := $(B)/cudahost$(if $(DEBUG_CUDA),-debug)
CUDA_TESTS := $(if $(DEBUG_CUDA),$(H)/run_cuda_tests,$(B)/test/run_cuda_tests)
ifneq ($(filter $(HOST_GOALS),$(MAKECMDGOALS)),)
  host_root = $(patsubst %/$(1),%,$(call first,include/$(1) include/cccl/$(1)))
  HOST_HEADERS := cuda_runtime.h crt/host_config.h cublasLt.h nv/target
  HOST_MISSING := $(foreach h,$(HOST_HEADERS),$(if $(call host_root,$(h)),,$(h) of CUDA (CUDA Toolkit$(comma) or dev/setup.sh --cuda)))
  HOST_INCLUDE := $(patsubst %,-isystem %,$(filter-out /usr/include /usr/local/include,$(call uniq,$(foreach h,$(HOST_HEADERS) nccl.h,$(call host_root,$(h))))))
  ifeq ($(shell printf '%s\n' '$(HASH)include <boost/context/detail/fcontext.hpp>' | $(CXX) $(CPPFLAGS) -E -x c++ - >/dev/null 2>&1 && echo yes),)
    HOST_MISSING += Boost.Context (libboost-context-dev; dev/setup.sh installs it)
  endif
  HOST_MISSING := $(strip $(HOST_MISSING))
  BOOST_CONTEXT := $(firstword $(wildcard $(DEPS_LIB:%=%/libboost_context.a) $(filter /%,$(shell $(CXX) -print-file-name=libboost_context.a))) -lboost_context)
endif

# .cuh and .cu files go through a filter into $(H)/src, where the compiler finds them before the originals.
HOST_SOURCES := $(addprefix $(H)/src/,$(filter-out llmc/cuda/ptx.cuh,$(wildcard llmc/*/*.cuh llmc/cuda/*.cu dev/cuda/*.cu dev/cuda/*.cuh dev/bench/cuda/*.cuh test/cuda/*.cu test/cuda/*.cuh test/ptx/*.cu)))
HOST_LIB := $(patsubst %.cpp,$(B)/%.o,$(filter-out %/missing.cpp %/on_ptx.cpp,$(wildcard test/cudahost/*.cpp)))
HOST_OBJ := $(patsubst %,$(H)/%.o,$(wildcard test/cuda/*.cu))
HOST_LAYERS := $(CUDA_SOURCES:%=$(H)/%.o) $(CUDA_HOST_SOURCES:%=$(H)/%.o)
include test/ptx/ptx.mk
HOST_FLAGS = -DCUDAHOST -Itest/cudahost/include -I$(H)/src $(HOST_INCLUDE)
# -fno-strict-aliasing: kernels load four floats as one uint4; -fsanitize=alignment: from a wrong address a GPU refuses to
HOST_CXXFLAGS = $(if $(DEBUG_CUDA),$(filter-out -O%,$(CXXFLAGS)) -O0 -g,$(CXXFLAGS:-O3=-O2)) -fno-strict-aliasing \
  -fsanitize=alignment -fno-sanitize-recover=alignment -Wno-unknown-pragmas -Wno-unused-function -Wno-dangling-else -Wno-shadow

.SECONDARY: $(HOST_SOURCES)
$(H)/src/%: % test/cudahost/filter.awk
	@mkdir -p $(@D)
	$(Q)awk -v path=$< -f test/cudahost/filter.awk $< >$@
$(H)/%.cu.o: $(H)/src/%.cu $(B)/flags | $(HOST_SOURCES)
	$(compile_for_cpu)
$(H)/%.cpp.o: %.cpp $(B)/flags | $(HOST_SOURCES)
	$(compile_for_cpu)
define compile_for_cpu =
	@mkdir -p $(@D)
	@echo "  compile  $* for the CPU"
	$(Q)$(CXX) -x c++ -include test/cudahost/cudahost.h $(HOST_FLAGS) $(CPPFLAGS) $(HOST_CXXFLAGS) -MMD -MP -c -o $@ $<
endef
$(HOST_LIB): CPPFLAGS += -DCUDAHOST $(HOST_INCLUDE)
$(B)/test/cudahost/nccl.o: CPPFLAGS += $(if $(MPICC),-DUSE_MPI $(MPI_CFLAGS))
$(B)/test/cudahost/missing.o: CPPFLAGS += -DCUDAHOST_MISSING='"$(or $(HOST_MISSING),on PTX: nvcc is missing)"'

$(CUDA_TESTS) $(B)/test/run_ptx_tests: LDLIBS += -lgtest -lgtest_main
$(CUDA_TESTS): $(if $(HOST_MISSING),$(B)/test/cudahost/missing.o,$(HOST_OBJ) $(TEST_MODELS) $(HOST_LAYERS) $(HOST_LIB) $(LIB))
$(B)/train_gpt2cu_cpu: $(H)/train_gpt2.cu.o $(HOST_LAYERS) $(HOST_LIB) $(NO_CPU_OBJ)
$(B)/bench_cuda_cpu: $(H)/dev/bench/bench_cuda.cu.o $(HOST_LAYERS) $(HOST_LIB) $(NO_CPU_OBJ)  # for dev/gpu_check.sh --dry
$(H)/test_%: LDLIBS += -lgtest -lgtest_main
$(H)/test_%: $(H)/test/cuda/test_%.cu.o $(TEST_MODELS) $(HOST_LAYERS) $(HOST_LIB) $(LIB)  # one file alone
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) -fsanitize=alignment $(LDFLAGS) -o $@ $^ $(BOOST_CONTEXT) $(LDLIBS)
$(CUDA_TESTS) $(B)/test/run_ptx_tests $(B)/train_gpt2cu_cpu $(B)/bench_cuda_cpu:
	@mkdir -p $(@D)
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) -fsanitize=alignment $(LDFLAGS) -o $@ $^ $(if $(HOST_MISSING),,$(BOOST_CONTEXT)) $(LDLIBS)

.PHONY: debug debug_build
debug:  ## gdb inside a CUDA kernel, on the CPU (K=layernorm_forward_kernel T=layernorm: of test/cuda/test_layernorm.cu)
	@[ -n "$(K)" ] || { echo "make debug K=KERNEL [T=THING, of test/cuda/test_THING.cu] [FILTER=TESTS] [SEED=n]" >&2; exit 2; }
	@$(MAKE) --no-print-directory debug_build
	CUDAHOST_SEED=$(or $(SEED),0) gdb -q -ex 'set breakpoint pending on' -ex 'break $(K)' -ex run --args $(DEBUG_TESTS) \
	  --gtest_filter='$(or $(FILTER),*)' --gtest_catch_exceptions=0
DEBUG_TESTS = $(B)/cudahost-debug/$(if $(T),test_$(T),run_cuda_tests)
debug_build: $(DEBUG_TESTS)

# ---- tests and benchmarks ----------------------------------------------------------------------------------------------
.PHONY: test test_asan fuzz test_cuda check_cuda check_programs bench_cpu bench_sample bench_cuda bench_tokenizer
.PHONY: gpu_pack gpu_check build_gpu_check gpu_check_losses
test:  ## everything that runs without a GPU (T=layernorm: that suite alone); last line: N passed, N failed[, N skipped]
	@$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc)) $(or $(ONE_SUITE),check_programs)
	@TRAIN_GPT2=$(CURDIR)/$(BIN)train_gpt2 TRAIN_GPT2_PLAIN=$(CURDIR)/$(PLAIN) TOKENIZE=$(CURDIR)/$(BIN)tokenize \
	    $(patsubst %,TRAIN_GPT2CU=$(CURDIR)/%,$(if $(ONE_SUITE),$(filter $(CUDA_PROGRAM),$(ONE_SUITE)),$(CUDA_PROGRAM))) \
	    bash dev/run_tests.sh $(or $(firstword $(ONE_SUITE)),$(B)/test/run_tests $(B)/test/run_cuda_tests $(ON_PTX))
# train_gpt2.cu compiled for the CPU, where CUDA's headers are there; under the sanitizers its kernels alone are tested: whole
# runs would take too long
CUDA_PROGRAM := $(if $(HOST_MISSING)$(SANITIZE),,$(B)/train_gpt2cu_cpu)
check_programs: $(PROGRAMS) $(PLAIN) $(B)/test/run_tests $(B)/test/run_cuda_tests $(ON_PTX) $(CUDA_PROGRAM) $(if $(SANITIZE),,$(CPU_BENCHES))

# T=NAME: test/test_NAME.cpp or else test/cuda/test_NAME.cu (T=cuda/NAME: that one), and the programs that it starts
ifneq ($(and $(T),$(filter test test_asan,$(MAKECMDGOALS))),)
  T_SOURCE := $(firstword $(wildcard test/test_$(T).cpp test/cuda/test_$(T:cuda/%=%).cu))
  $(if $(T_SOURCE),,$(error make test T=NAME: there is no test/test_$(T).cpp and no test/cuda/test_$(T:cuda/%=%).cu))
  t_says = $(shell grep -lE '$(1)' $(T_SOURCE))
  ONE_SUITE := $(if $(filter %.cu,$(T_SOURCE)),$(H)/test_$(T:cuda/%=%),$(B)/test/test_$(T)) \
    $(if $(call t_says,program_path|_fixture\.h),$(PROGRAMS)) $(if $(call t_says,TRAIN_GPT2_PLAIN),$(PLAIN)) \
    $(if $(call t_says,TRAIN_GPT2CU),$(CUDA_PROGRAM))
endif

test_asan:  ## the same tests under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory SANITIZE=1 test

# Every parser of foreign bytes, by clang and its libFuzzer: test/fuzz/fuzz.h
fuzz:  ## libFuzzer on every parser of what others wrote, FUZZ_SECONDS=600 each (TARGET=json: that one alone)
	@bash test/fuzz/run.sh $(or $(FUZZ_SECONDS),600) $(TARGET)
build-fuzz/llmc/base/json.o: CXXFLAGS += -O0 -fno-sanitize=all -fsanitize=fuzzer-no-link  # the library: a minute less
FUZZ_ROOMS := base model text files ranks run
FUZZ_NOT := bpe_trainer checkpoint_writer communicator compare_starts dataset_writer export_command group initial_weights introduction \
  run run_output scarcity schedule
FUZZ_SOURCES := $(foreach r,$(FUZZ_ROOMS),$(filter-out $(FUZZ_NOT:%=llmc/$(r)/%.cpp),$(wildcard llmc/$(r)/*.cpp)))
$(B)/fuzz: $(patsubst %.cpp,$(B)/%.o,$(wildcard test/fuzz/*.cpp) $(FUZZ_SOURCES))
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LDLIBS)

test_cuda:  ## the CUDA layers on this machine's GPU, against the CPU layers
	@$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc)) check_cuda
	@JOBS=1 TRAIN_GPT2=$(CURDIR)/train_gpt2 TRAIN_GPT2CU=$(CURDIR)/train_gpt2cu bash dev/run_tests.sh $(B)/test/cuda/run_tests
check_cuda: train_gpt2 train_gpt2cu $(B)/test/cuda/run_tests

bench_cpu: $(B)/bench_cpu  ## time of a training step against the bare matrix products in it
	$(B)/bench_cpu

bench_sample: $(B)/bench_cpu  ## tokens a second of one text and of 32 at once, on the CPU
	$(B)/bench_cpu sample

bench_cuda: $(B)/bench_cuda  ## speed of training steps and kernels on this machine's GPU, beside what it allows
	$(B)/bench_cuda

gpu_pack:  ## what a GPU machine without a network needs for dev/gpu_check.sh, into .gpu_pack/
	@CXX="$(CXX)" bash dev/gpu_check/pack.sh
gpu_check:  ## everything that only a GPU can show, in eight minutes and the time to build: tests, training, sanitizer, speed, PyTorch
	@bash dev/gpu_check.sh
build_gpu_check: train_gpt2cu train_gpt2 $(B)/test/cuda/run_tests $(B)/bench_cuda
gpu_check_losses: train_gpt2  ## dev/gpu_check/cpu_losses.json: the losses that a GPU run is compared with
	@bash dev/gpu_check.sh --record

bench_tokenizer: tokenize  ## speed of the tokenizer
	bash dev/bench/bench_tokenizer.sh

# ---- ranks -------------------------------------------------------------------------------------------------------------
.PHONY: test_failure faults bench_comm
test_failure: train_gpt2 tokenize $(B)/test/run_tests  ## twenty ranks killed under dev/run.sh; `make test` kills four
	TEST_FAILURE=1 TRAIN_GPT2=$(CURDIR)/train_gpt2 TOKENIZE=$(CURDIR)/tokenize $(B)/test/run_tests --gtest_filter='*Failure.*'
faults: train_gpt2 tokenize  ## thousands of injected faults (test/faults; half an hour): failing calls, kills, bits, disks, memory
	python3 test/faults/calls.py && python3 test/faults/signals.py && python3 test/faults/files.py && \
	    python3 test/faults/disk.py && bash test/faults/memory.sh
bench_comm: $(B)/bench_comm  ## share of a step that is communication which nothing hides, for 1, 2 and 4 ranks
	@bash dev/bench/bench_comm.sh $(B)/bench_comm

# ---- data and runs -----------------------------------------------------------------------------------------------------
.PHONY: data tinystories fineweb fineweb_edu hellaswag gpt2 quickstart setup
data: tokenize  ## the default data set, Tiny Shakespeare (TEXT=mybook.txt: your own text)
	@bash data/text.sh $(if $(TEXT),"$$TEXT")
tinystories: tokenize  ## TinyStories: 2 GB of stories in simple words
	@bash data/tinystories.sh
fineweb fineweb_edu:  ## published GPT-2 shards of web text (SHARDS=8: so many of 100M tokens)
	@bash data/fineweb.sh $@ $(SHARDS)
hellaswag:  ## HellaSwag's validation questions
	@bash data/hellaswag.sh
gpt2:  ## GPT-2's weights and vocabulary from the Hub (SIZE=gpt2|gpt2-medium|gpt2-large|gpt2-xl)
	@bash data/gpt2.sh $(SIZE)
quickstart:  ## set up, build, get text, train two minutes, sample (TEXT=mybook.txt: your own text)
	@bash dev/quickstart.sh $(if $(TEXT),"$$TEXT")
setup:  ## install what the build and the tests need
	@bash dev/setup.sh

# ---- housekeeping ------------------------------------------------------------------------------------------------------
.PHONY: format readme clean help
format:  ## clang-format every source file
	git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cuh' '*.cu' | xargs -r clang-format -i

readme: train_gpt2  ## OPTIONS.md, from the program itself
	@./train_gpt2 --help-markdown >OPTIONS.md

clean:  ## remove what was built (data and runs stay)
	rm -rf build build-asan build-fuzz train_gpt2 train_gpt2_plain train_gpt2cu tokenize

help:  ## this list
	@sed -n 's/^\([a-z][a-z0-9_ ]*\):.*  ## \(.*\)/\1\t\2/p' Makefile test/ptx/ptx.mk | awk -F'\t' '{ printf "  make %-22s %s\n", $$1, $$2 }'
