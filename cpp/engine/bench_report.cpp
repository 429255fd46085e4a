// Reports of the bench as text.
#include "engine/bench_report.h"

#include <array>
#include <cstdio>
#include <sstream>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"

namespace frspec {
namespace {

constexpr double kGiga = 1e9;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Bytes per second that a pass moved, and the share of the measured bandwidth.
double gigabytes_per_second(const BenchRow& row) { return row.bytes / (row.milliseconds * 1e-3) / kGiga; }

double share_of_bandwidth(const BenchRow& row) { return gigabytes_per_second(row) * kGiga / row.bytes_per_second; }

double over_floor(const BenchRow& row) { return row.milliseconds / row.floor_milliseconds; }

constexpr std::array<const char*, kArithmetics> kArithmeticNames = {"int8", "bf16", "f32", "f16"};

// "1090 / 500 / 270 GMAC/s int8 / bf16 / f32": those that the device uses.
std::string ceilings_of(const BenchReport& r) {
  std::string speeds, names;
  for (std::size_t i = 0; i < kArithmeticNames.size(); ++i) {
    if (r.macs_per_second[i] == 0.0) continue;
    speeds += (speeds.empty() ? "" : " / ") + fixed(r.macs_per_second[i] / kGiga, 0);
    names += concat(names.empty() ? "" : " / ", kArithmeticNames[i]);
  }
  return concat(speeds, " GMAC/s ", names);
}

std::string as_markdown(const BenchReport& r) {
  std::ostringstream out;
  out << r.machine << "; " << r.device << "\n\n"
      << r.model << ": " << fixed(static_cast<double>(r.parameters) / kGiga, 3) << "G parameters and "
      << fixed(static_cast<double>(r.model_bytes) / kGiga, 3) << " GB per pass (" << r.types << "); " << r.context
      << " tokens of context\n\n"
      << "Ceilings measured in this run: " << fixed(r.bytes_per_second / kGiga, 1) << " GB/s read; " << ceilings_of(r)
      << "\n\n";
  if (r.synthetic_acceptance) {
    out << "**The loops are synthetic**: a node's best child is accepted with probability "
        << fixed(static_cast<double>(*r.synthetic_acceptance), 3)
        << ", whatever the models say. Their texts mean nothing; their times are those of real steps.\n\n";
  }
  out << "| test | ms | ± | t/s | GB/s | of bandwidth | bound by | over the floor |\n"
         "|---|---|---|---|---|---|---|---|\n";
  for (const BenchRow& row : r.rows) {
    if (row.loop) continue;
    out << "| " << row.test << " | " << fixed(row.milliseconds, 2) << " | " << fixed(row.deviation, 2) << " | "
        << fixed(row.tokens_per_second, 1) << " | " << fixed(gigabytes_per_second(row), 1) << " | "
        << fixed(100 * share_of_bandwidth(row), 0) << " % | " << (row.memory_bound ? "memory" : "arithmetic") << " | "
        << fixed(over_floor(row), 2) << "x |\n";
  }
  bool first = true;
  for (const BenchRow& row : r.rows) {
    if (row.share == 0.0) continue;
    if (first) out << "\n| part of a pass | of its time |\n|---|---|\n";
    first = false;
    out << "| " << row.test << " | " << fixed(100 * row.share, 1) << " % |\n";
  }
  first = true;
  for (const BenchRow& row : r.rows) {
    if (!row.loop) continue;
    if (first) out << "\n| test | accepted length | ms/step | t/s | over plain |\n|---|---|---|---|---|\n";
    first = false;
    out << "| " << row.test << " | " << fixed(row.accepted_length, 2) << " | " << fixed(row.milliseconds, 2) << " | "
        << fixed(row.tokens_per_second, 1) << " | " << fixed(row.speedup, 2) << "x |\n";
  }
  return out.str();
}

std::string as_csv(const BenchReport& r) {
  std::ostringstream out;
  out << "machine,device,model,context,test,rows,ms,ms_stddev,tokens_per_second,bytes,macs,gb_per_second,"
         "bandwidth_gb_per_second,floor_ms,bound_by,synthetic_acceptance,accepted_length,speedup,share_of_pass\n";
  const auto quote = [](const std::string& text) {
    std::string result = "\"";
    for (const char c : text) result += c == '"' ? std::string("\"\"") : std::string(1, c);
    return result + "\"";
  };
  for (const BenchRow& row : r.rows) {
    const bool loop = row.loop;
    out << quote(r.machine) << ',' << quote(r.device) << ',' << quote(r.model) << ',' << r.context << ','
        << quote(row.test) << ',' << row.rows << ',' << row.milliseconds << ',' << row.deviation << ','
        << row.tokens_per_second << ',';
    if (loop) {
      out << ",,,,,," << (r.synthetic_acceptance ? concat(*r.synthetic_acceptance) : "") << ',' << row.accepted_length
          << ',' << row.speedup << ",\n";
    } else {
      out << row.bytes << ',' << row.macs << ',' << gigabytes_per_second(row) << ',' << row.bytes_per_second / kGiga
          << ',' << row.floor_milliseconds << ',' << (row.memory_bound ? "memory" : "arithmetic") << ",,,,"
          << (row.share > 0.0 ? concat(row.share) : "") << '\n';
    }
  }
  return out.str();
}

std::string as_json(const BenchReport& r) {
  std::ostringstream out;
  JsonWriter json(out);
  json.begin_object();
  json.member("machine", std::string_view(r.machine));
  json.member("device", std::string_view(r.device));
  json.member("model", std::string_view(r.model));
  json.member("types", std::string_view(r.types));
  json.member("model_bytes", r.model_bytes);
  json.member("parameters", r.parameters);
  json.member("context", r.context);
  json.key("ceilings");
  json.begin_object();
  json.member("bytes_per_second", r.bytes_per_second);
  for (std::size_t i = 0; i < kArithmeticNames.size(); ++i) {
    if (r.macs_per_second[i] > 0.0) {
      json.member(concat(kArithmeticNames[i], "_macs_per_second"), r.macs_per_second[i]);
    }
  }
  json.end_object();
  if (r.synthetic_acceptance) json.member("synthetic_acceptance", static_cast<double>(*r.synthetic_acceptance));
  json.key("rows");
  json.begin_array();
  for (const BenchRow& row : r.rows) {
    json.begin_object();
    json.member("test", std::string_view(row.test));
    json.member("rows", row.rows);
    json.member("ms", row.milliseconds);
    json.member("tokens_per_second", row.tokens_per_second);
    if (row.loop) {
      json.member("accepted_length", row.accepted_length);
      json.member("speedup", row.speedup);
    } else {
      json.member("ms_stddev", row.deviation);
      json.member("bytes", row.bytes);
      json.member("macs", row.macs);
      json.member("gb_per_second", gigabytes_per_second(row));
      json.member("bytes_per_second_then", row.bytes_per_second);
      json.member("share_of_bandwidth", share_of_bandwidth(row));
      json.member("floor_ms", row.floor_milliseconds);
      json.member("over_floor", over_floor(row));
      json.member("bound_by", row.memory_bound ? "memory" : "arithmetic");
      if (row.share > 0.0) json.member("share_of_pass", row.share);
    }
    json.end_object();
  }
  json.end_array();
  json.end_object();
  out << '\n';
  return out.str();
}

}  // namespace

BenchFormat parse_bench_format(std::string_view name) {
  if (name == "md") return BenchFormat::Markdown;
  if (name == "csv") return BenchFormat::Csv;
  if (name == "json") return BenchFormat::Json;
  fail("output format: found ", quoted(name), ", expected md, csv or json");
}

std::string format_bench(const BenchReport& report, BenchFormat format) {
  switch (format) {
    case BenchFormat::Csv:
      return as_csv(report);
    case BenchFormat::Json:
      return as_json(report);
    case BenchFormat::Markdown:
      break;
  }
  return as_markdown(report);
}

}  // namespace frspec
