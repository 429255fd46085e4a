// Which kernels run: the best that the machine has, or those named by FRSPEC_CPU.
#include <array>
#include <cstdlib>
#include <string_view>

#ifdef FRSPEC_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#if defined(FRSPEC_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "backend/registry.h"
#include "base/error.h"
#include "cpu/kernels.h"

namespace frspec {
namespace cpu {
namespace {

struct Choice {
  const Kernels& (*kernels)() noexcept;
  bool (*runs_here)();
};

#ifdef FRSPEC_X86
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx2vnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
// The processor may have tiles and the system still not let a process use them: it has to ask, once, before it starts
// threads that use them.
bool has_amx() {
#ifdef __linux__
  static const bool granted = [] {
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!has_avx512bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  return (edx & (kBf16 | kTile | kInt8)) == (kBf16 | kTile | kInt8) && granted;
#else
  return false;
#endif
}

// The best first; what comes after the generic kernels is chosen by name only.
const std::array kChoices = {
    Choice{amx_kernels, has_amx},
    Choice{avx512bf16_kernels, has_avx512bf16},
    Choice{avx512_kernels, has_avx512},
    Choice{avx2vnni_kernels, has_avx2vnni},
    Choice{avx2_kernels, has_avx2},
    Choice{generic_kernels, [] { return true; }},
#ifdef FRSPEC_TESTING
    Choice{amx_emulated_kernels, has_avx512bf16},
#endif
};
#elif defined(FRSPEC_ARM64)
bool has_neon() {
#ifdef __linux__
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // every 64-bit ARM of Apple's
#endif
}
const std::array kChoices = {Choice{neon_kernels, has_neon}, Choice{generic_kernels, [] { return true; }}};
#else
const std::array kChoices = {Choice{generic_kernels, [] { return true; }}};
#endif

}  // namespace

const Kernels& choose_kernels() {
  const char* wanted = std::getenv("FRSPEC_CPU");
  std::string names;
  for (const Choice& choice : kChoices) {
    if (!choice.runs_here()) continue;
    if (wanted == nullptr || *wanted == '\0' || std::string_view(wanted) == choice.kernels().name)
      return choice.kernels();
    names += concat(names.empty() ? "" : ", ", choice.kernels().name);
  }
  fail("environment variable FRSPEC_CPU: found '", wanted,
       "', expected one of the instruction sets of this machine: ", names);
}

}  // namespace cpu

std::vector<std::string> cpu_instruction_sets() {
  std::vector<std::string> names;
  for (const cpu::Choice& choice : cpu::kChoices) {
    if (choice.runs_here()) names.emplace_back(choice.kernels().name);
  }
  return names;
}

}  // namespace frspec
