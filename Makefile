# make            the programs: ./train_gpt2 and ./tokenize
# make help       every target
#
# Variables: ARCH=-march=native (what to compile for), NO_ONEDNN=1, NO_OPENMP=1 (build without them), CXX, EXTRA_CXXFLAGS,
# V=1 (show the commands).
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
NO_BUILD_GOALS := help clean format gpt2 quickstart setup
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
  have = $(filter have_$(1),$(FOUND))

  USE_ONEDNN := $(if $(NO_ONEDNN),,$(call have,dnnl))
  USE_OPENMP := $(if $(NO_OPENMP),,$(call have,openmp))
  require = $(if $(call have,$(1)),,$(error $(strip $(2)) is missing (package $(strip $(3))): run dev/setup.sh))
  $(call require,compiler,A C++ compiler ($(CXX)),g++)
  $(if $(filter old_compiler,$(FOUND)),$(error $(CXX) is too old: C++20 needs g++ 11 or newer (make CXX=g++-12)))
  $(call require,CLI11,CLI11,libcli11-dev)
  $(call require,nlohmann_json,nlohmann-json,nlohmann-json3-dev)
  ifneq ($(filter test test_asan check_programs build/test/% build-asan/test/%,$(MAKECMDGOALS)),)
    $(call require,gtest,GoogleTest,libgtest-dev)
  endif

  # said once; a make inside a make stays quiet
  ifeq ($(LLMC_SAID),)
    export LLMC_SAID := 1
    where = $(if $(call have,$(1)),$(2)$(if $(wildcard $(DEPS)/include/$(3) $(DEPS)/include/$(MULTIARCH)/$(3)),(.deps)))
    SAY := $(CXX)-$(shell $(CXX) -dumpfullversion -dumpversion 2>/dev/null) $(call where,CLI11,CLI11,CLI) \
      $(call where,nlohmann_json,nlohmann-json,nlohmann) $(if $(USE_ONEDNN),$(call where,dnnl,oneDNN,dnnl.hpp)) \
      $(if $(USE_OPENMP),OpenMP) $(call where,gtest,GoogleTest,gtest) $(call where,libpcre2-8,PCRE2,pcre2.h)
    $(info found: $(subst $(space),$(comma)$(space),$(strip $(SAY))))
    lacking = $(if $(call have,$(1)),,$(info missing: $(strip $(2))))
    ifndef NO_ONEDNN
      $(call lacking,dnnl,oneDNN: matrix products will be several times slower (package libdnnl-dev; dev/setup.sh installs it))
    endif
    ifndef NO_OPENMP
      $(call lacking,openmp,OpenMP: the programs will use one core (package libgomp1 for g++$(comma) libomp-dev for clang))
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
LDLIBS := -Wl,--as-needed $(if $(USE_ONEDNN),-ldnnl) -lpthread
ifdef SANITIZE
  # -O1: stack traces stay readable and the compiler stays fast
  B := build-asan
  BIN := build-asan/
  CXXFLAGS += -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
else
  B := build
  BIN :=
  CXXFLAGS += -O3
endif
CXXFLAGS += $(EXTRA_CXXFLAGS)

Q := $(if $(V),,@)

# ---- the programs ------------------------------------------------------------------------------------------------------
LLMC_OBJ := $(patsubst %.cpp,$(B)/%.o,$(wildcard llmc/*.cpp llmc/cpu/*.cpp))
LIB := $(B)/libllmc.a
TEST_OBJ := $(patsubst %.cpp,$(B)/%.o,$(wildcard test/*.cpp))
PROGRAMS := $(BIN)train_gpt2 $(BIN)tokenize

.PHONY: all
all: $(PROGRAMS)  ## the programs ./train_gpt2 and ./tokenize (default)

$(BIN)train_gpt2: $(B)/train_gpt2.o $(LIB)
$(BIN)tokenize: $(B)/data/tokenize.o $(B)/data/bpe_trainer.o $(LIB)
$(B)/test/run_tests: LDLIBS += -lgtest -lgtest_main $(if $(call have,libpcre2-8),-lpcre2-8)
$(B)/test/run_tests: $(TEST_OBJ) $(B)/data/bpe_trainer.o $(LIB)
$(B)/bench_cpu: $(B)/dev/bench/bench_cpu.o $(LIB)
$(PROGRAMS) $(B)/test/run_tests $(B)/bench_cpu:
	@mkdir -p $(@D)
	@echo "  link     $@"
	$(Q)$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(LLMC_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# tests and benchmarks include train_gpt2.cpp for its model; TESTING leaves its main out
$(B)/test/%.o $(B)/dev/%.o: CPPFLAGS += -DTESTING
$(B)/%.o: %.cpp $(B)/flags
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<
-include $(shell [ -d $(B) ] && find $(B) -name '*.d')

# changes only when the compiler or its flags do, and then everything is compiled again
ifdef BUILDING
  FLAGS := $(shell $(CXX) --version 2>/dev/null | head -n 1) $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS)
  ifneq ($(file <$(B)/flags),$(FLAGS))
    $(shell mkdir -p $(B))
    $(file >$(B)/flags,$(FLAGS))
  endif
endif
$(B)/flags: ;

# ---- tests and benchmarks ----------------------------------------------------------------------------------------------
.PHONY: test test_asan check_programs bench_cpu bench_tokenizer
test:  ## everything that runs without a GPU; last line: N passed, N failed[, N skipped]
	@$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc)) check_programs
	@TRAIN_GPT2=$(CURDIR)/$(BIN)train_gpt2 TOKENIZE=$(CURDIR)/$(BIN)tokenize bash dev/run_tests.sh $(B)/test/run_tests
check_programs: $(PROGRAMS) $(B)/test/run_tests

test_asan:  ## the same tests under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory SANITIZE=1 test

bench_cpu: $(B)/bench_cpu  ## time of a training step against the bare matrix products in it
	$(B)/bench_cpu

bench_tokenizer: tokenize  ## speed of the tokenizer
	bash dev/bench/bench_tokenizer.sh

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

readme: train_gpt2  ## README.md's table of options, from the program itself
	@./train_gpt2 --help-markdown >build/options.md
	@sed -i -e '/^<!-- options:/r build/options.md' -e '/^<!-- options:/,/^<!-- end of options/{/^<!--/!d}' README.md

clean:  ## remove what was built (data and runs stay)
	rm -rf build build-asan train_gpt2 tokenize

help:  ## this list
	@sed -n 's/^\([a-z][a-z0-9_ ]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | awk -F'\t' '{ printf "  make %-22s %s\n", $$1, $$2 }'
