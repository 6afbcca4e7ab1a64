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

#define GTCRN_SAMPLE_RATE $sample_rate
#define GTCRN_N_FFT $n_fft /* samples of a frame, under a square-root Hann window; a power of 2 */
#define GTCRN_HOP $hop_length /* samples from frame to frame */
#define GTCRN_LATENCY $latency /* samples from the input to the output */
#define GTCRN_BINS $bins
#define GTCRN_BANDS $bands

typedef int${input_bits}_t gtcrn_input_code;
#define GTCRN_INPUT_SIZE $input_size /* codes: |S|, re, im of a band, what rounding left of each, then the next band */
#define GTCRN_INPUT_MIN ($input_min)
#define GTCRN_INPUT_MAX $input_max
#define GTCRN_INPUT_SCALE $input_scale
#define GTCRN_INPUT_ZERO ($input_zero)
#define GTCRN_RHO ${residual_gain}.0f /* what rounding left has steps so many times as fine */

typedef int${mask_bits}_t gtcrn_mask_code;
#define GTCRN_MASK_SIZE $mask_size /* codes: real, imaginary part of a band's mask, then the next band's */
#define GTCRN_MASK_SCALE $mask_scale
#define GTCRN_MASK_ZERO ($mask_zero)

#define GTCRN_STATES $states
#define GTCRN_STATES_BYTES $states_bytes /* of all of them */
typedef struct {
    const char *name;
    uint32_t bytes;
    float scale;
    int8_t zero_point; /* of codes of 8 bits; of 16 it is 0: every byte of a new state holds it */
} gtcrn_state;
extern const gtcrn_state gtcrn_states[GTCRN_STATES];

/* What a bin gives to a band and to the next band, and gets of their masks. */
typedef struct {
    float weight, next_weight;
    uint16_t band;
} gtcrn_bin;
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
