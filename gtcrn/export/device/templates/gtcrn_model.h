/* $name: $system in integers, for gtcrn_host.c and TensorFlow Lite Micro.
 *
 * Written by gtcrn.export.device, revision $revision
 * Weights: $origin
 * Licence of the weights: $licence
 *
 * Tensors of the network; a number is scale x (code - zero point). Codes lie in memory as the last index
 * counts fastest. Input i of the network's states is the output i of the call before, of the same shape and scale; a
 * stream begins with the zero points.
 *
$tensors
 */
#ifndef GTCRN_MODEL_H
#define GTCRN_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$sizes
#define GTCRN_STATES $states
#define GTCRN_STATES_BYTES $states_bytes /* of all of them */
typedef struct {
    const char *name;
    uint32_t bytes;
    float scale;
    int8_t zero_point; /* of codes of 8 bits; of 16 it is 0: every byte of a new state holds it */
} gtcrn_state;
extern const gtcrn_state gtcrn_states[GTCRN_STATES];

extern const gtcrn_bin gtcrn_erb[GTCRN_BINS];

/* sin(pi n / GTCRN_N_FFT): half a window, and the FFT's factors. */
extern const float gtcrn_sine[GTCRN_N_FFT / 2 + 1];

/* The .tflite, at an address that is a multiple of 16. */
#define GTCRN_MODEL_SIZE $model_size
extern const unsigned char gtcrn_model[GTCRN_MODEL_SIZE];

/* Bytes. $arena_comment */
#ifndef GTCRN_ARENA_SIZE
#define GTCRN_ARENA_SIZE $arena
#endif

#ifdef __cplusplus
}
#endif

#endif
