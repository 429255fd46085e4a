#include "base/machine.h"

#include <algorithm>
#include <fstream>

namespace frspec {

std::size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  for (std::string name, unit; info >> name;) {
    std::size_t kilobytes = 0;
    info >> kilobytes;
    std::getline(info, unit);
    if (name == "MemAvailable:") return kilobytes << 10;
  }
  return 0;
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown processor";
}

}  // namespace frspec
