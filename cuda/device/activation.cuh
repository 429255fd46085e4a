// What the gate of a feed-forward makes of its two halves, and what becomes of products with a head.
#pragma once

#include <cmath>

#include "backend/backend.h"
#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// backend.h's Activation. NaN stays NaN.
__device__ inline float activated(Activation activation, float gate, float up) {
  if (activation == Activation::Silu) return gate / (std::exp(-gate) + 1.0f) * up;
  if (activation == Activation::Gelu) {
    const float z = (gate * gate * gate * 0.044715f + gate) * 1.5957691216057308f;  // 2 sqrt(2 / pi)
    return gate / (std::exp(-z) + 1.0f) * up;
  }
  if (activation == Activation::Sigmoid) return up / (std::exp(-gate) + 1.0f);
  gate = gate > 7.0f ? 7.0f : gate;
  up = up > 7.0f ? 7.0f : up;
  up = up < -7.0f ? -7.0f : up;
  return gate / (std::exp(gate * -1.702f) + 1.0f) * (up + 1.0f);
}

// cap tanh(x / cap). What is not finite becomes NaN: an overflow must not look like a large number.
__device__ inline float soft_capped(float x, float cap) {
  return (1.0f - 2.0f / (std::exp(x * (2.0f / cap)) + 1.0f)) * cap + (x - x);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
