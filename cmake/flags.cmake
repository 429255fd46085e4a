# Compiler flags: `frspec_flags` is linked by every target; each instruction-set file has flags of its own.

add_library(frspec_flags INTERFACE)
# The bits of a result must not depend on where a compiler chooses to fuse a multiply and an add: kernels fuse
# explicitly, nobody else does.
target_compile_options(frspec_flags INTERFACE
  -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
if(FRSPEC_WERROR)
  target_compile_options(frspec_flags INTERFACE -Werror)
endif()
if(FRSPEC_SANITIZE)
  string(REPLACE ";" "," sanitizers "${FRSPEC_SANITIZE}")
  target_compile_options(frspec_flags INTERFACE
    -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(frspec_flags INTERFACE -fsanitize=${sanitizers})
endif()

# Called from cpp/. The processor decides at run time which instruction set is used, so no file but these may be
# compiled for more than the base instruction set. `sources` is the name of a list; files of other processors are taken
# out of it.
function(frspec_select_instruction_sets sources)
  # Where nothing better is at hand, speed is lost anyway; the third level takes half as long again to compile.
  set_source_files_properties(cpu/kernels_generic.cpp PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O2>")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    target_compile_definitions(frspec_flags INTERFACE FRSPEC_X86=1)
    set(avx2 -mavx2 -mfma -mf16c)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512)
    set(avx512bf16 ${avx512} -mavx512bf16)
    set_source_files_properties(cpu/kernels_avx2.cpp PROPERTIES COMPILE_OPTIONS "${avx2}")
    set_source_files_properties(cpu/kernels_avx2vnni.cpp PROPERTIES COMPILE_OPTIONS "${avx2};-mavxvnni")
    set_source_files_properties(cpu/kernels_avx512.cpp PROPERTIES COMPILE_OPTIONS "${avx512}")
    set_source_files_properties(cpu/kernels_avx512bf16.cpp PROPERTIES COMPILE_OPTIONS "${avx512bf16}")
    set_source_files_properties(cpu/kernels_amx.cpp PROPERTIES COMPILE_OPTIONS
      "${avx512bf16};-mamx-tile;-mamx-int8;-mamx-bf16")
    if(FRSPEC_TESTING)
      set_source_files_properties(cpu/kernels_amx_emulated.cpp PROPERTIES COMPILE_OPTIONS "${avx512bf16}")
      set_source_files_properties(cpu/instruction_set.cpp PROPERTIES COMPILE_DEFINITIONS FRSPEC_TESTING=1)
    else()
      list(FILTER ${sources} EXCLUDE REGEX "/cpp/cpu/kernels_amx_emulated\\.cpp$")
    endif()
  else()
    list(FILTER ${sources} EXCLUDE REGEX "/cpp/cpu/kernels_a(vx|mx)[^/]*\\.cpp$")
  endif()
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
    target_compile_definitions(frspec_flags INTERFACE FRSPEC_ARM64=1)
    set_source_files_properties(cpu/kernels_neon.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
  else()
    list(FILTER ${sources} EXCLUDE REGEX "/cpp/cpu/kernels_neon\\.cpp$")
  endif()
  set(${sources} ${${sources}} PARENT_SCOPE)
endfunction()
