/* The network in TensorFlow Lite Micro. */
#ifndef GTCRN_TFLM_H
#define GTCRN_TFLM_H

#include "gtcrn_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Begins a stream, at the first call with the interpreter. Gives 0, or -1 if that can't be made: TensorFlow Lite Micro
 * then says why, most often that GTCRN_ARENA_SIZE is too small. */
int gtcrn_tflm_reset(void);

/* A gtcrn_network; context is not used. */
int gtcrn_tflm(void *context, const gtcrn_input_code *input, gtcrn_mask_code *mask);

#ifdef __cplusplus
}
#endif

#endif
