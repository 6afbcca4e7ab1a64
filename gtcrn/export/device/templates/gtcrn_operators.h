// The operators that the network needs, for TensorFlow Lite Micro.
#ifndef GTCRN_OPERATORS_H
#define GTCRN_OPERATORS_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using GtcrnResolver = tflite::MicroMutableOpResolver<$operator_count>;

inline TfLiteStatus gtcrn_register(GtcrnResolver& resolver) {
$operator_rows
  return kTfLiteOk;
}

#endif
