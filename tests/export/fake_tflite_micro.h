// As much of TensorFlow Lite Micro's interface as gtcrn_tflm.cc uses, around a network that counts: every byte of a state
// grows by one, the mask's code i is the last byte of state i, or the input's code i where there is no such state.
//
// As in the real one, outputs lie in memory where inputs lay.
#ifndef FAKE_TFLITE_MICRO_H
#define FAKE_TFLITE_MICRO_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gtcrn_model.h"

enum TfLiteStatus { kTfLiteOk, kTfLiteError };

#define TF_LITE_ENSURE_STATUS(status) \
  if ((status) != kTfLiteOk) return kTfLiteError

struct TfLiteTensor {
  struct {
    char* raw;
  } data;
};

namespace tflite {

struct Model {};

inline const Model* GetModel(const void* data) {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  return aligned && !std::memcmp(static_cast<const char*>(data) + 4, "TFL3", 4) ? static_cast<const Model*>(data)
                                                                                : nullptr;
}

template <unsigned int size>
class MicroMutableOpResolver {
 public:
  TfLiteStatus AddAdd() { return Add(); }
  TfLiteStatus AddConcatenation() { return Add(); }
  TfLiteStatus AddConv2D() { return Add(); }
  TfLiteStatus AddDepthwiseConv2D() { return Add(); }
  TfLiteStatus AddLeakyRelu() { return Add(); }
  TfLiteStatus AddLogistic() { return Add(); }
  TfLiteStatus AddMean() { return Add(); }
  TfLiteStatus AddMul() { return Add(); }
  TfLiteStatus AddPad() { return Add(); }
  TfLiteStatus AddQuantize() { return Add(); }
  TfLiteStatus AddReshape() { return Add(); }
  TfLiteStatus AddSlice() { return Add(); }
  TfLiteStatus AddTanh() { return Add(); }
  bool full() const { return count_ == size; }

 private:
  TfLiteStatus Add() { return count_++ < size ? kTfLiteOk : kTfLiteError; }
  unsigned int count_ = 0;
};

class MicroInterpreter {
 public:
  template <class Resolver>
  MicroInterpreter(const Model* model, const Resolver& resolver, uint8_t* arena, size_t size)
      : fits_(model && resolver.full() && size >= kBytes) {
    char* front = reinterpret_cast<char*>(arena);
    char* back = front + kBytes;
    for (size_t i = 0; i <= GTCRN_STATES; ++i) {
      inputs_[i].data.raw = front;
      front += i ? gtcrn_states[i - 1].bytes : sizeof(Input);
      back -= i ? gtcrn_states[i - 1].bytes : sizeof(Mask);
      outputs_[i].data.raw = back;
    }
  }

  TfLiteStatus AllocateTensors() { return fits_ ? kTfLiteOk : kTfLiteError; }
  size_t inputs_size() const { return 1 + GTCRN_STATES; }
  size_t outputs_size() const { return 1 + GTCRN_STATES; }
  TfLiteTensor* input(size_t i) { return &inputs_[i]; }
  TfLiteTensor* output(size_t i) { return &outputs_[i]; }

  TfLiteStatus Invoke() {
    Input input;
    Mask mask;
    std::memcpy(input, inputs_[0].data.raw, sizeof input);
    for (int i = 0; i < GTCRN_MASK_SIZE; ++i) mask[i] = static_cast<gtcrn_mask_code>(input[i]);
    std::vector<std::vector<signed char>> states;
    for (int i = 0; i < GTCRN_STATES; ++i) {
      const char* state = inputs_[1 + i].data.raw;
      states.emplace_back(state, state + gtcrn_states[i].bytes);
      mask[i] = states.back().back();
    }
    std::memcpy(outputs_[0].data.raw, mask, sizeof mask);
    for (int i = 0; i < GTCRN_STATES; ++i)
      for (size_t k = 0; k < states[i].size(); ++k)
        outputs_[1 + i].data.raw[k] = static_cast<char>(states[i][k] + 1);
    return kTfLiteOk;
  }

 private:
  using Input = gtcrn_input_code[GTCRN_INPUT_SIZE];
  using Mask = gtcrn_mask_code[GTCRN_MASK_SIZE];
  static constexpr size_t kBytes = sizeof(Input) + GTCRN_STATES_BYTES;
  bool fits_;
  TfLiteTensor inputs_[1 + GTCRN_STATES], outputs_[1 + GTCRN_STATES];
};

}  // namespace tflite

#endif
