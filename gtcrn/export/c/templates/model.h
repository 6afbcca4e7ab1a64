/* $name: $system in integers as one file of C, samples in, samples out, one hop at a time.
 *
 * Written by gtcrn.export.c, revision $revision
 * Weights: $origin
 * Licence of the weights: $licence
 *
 * C99 with sqrtf and rintf of the mathematical library; no allocation, no variables that are written to but the state. A
 * stream is one state; there may be as many as there is memory for.
 *
 *     static ${name}_state state;
 *     ${name}_init(&state);
 *     for (;;)
 *         ${name}_process(&state, samples, samples);
 *
 * The output is later than the input by ${NAME}_LATENCY samples.
 */
#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_SAMPLE_RATE $sample_rate /* Hz, one channel */
#define ${NAME}_HOP $hop_length /* samples of a call */
#define ${NAME}_LATENCY $latency /* samples from the input to the output */

/* $state_bytes bytes. */
typedef struct {
    float past[$latency];     /* the newest samples: what the next frame begins with */
    float overlap[$latency];  /* what the frames so far give to samples that are not complete yet */
    float spectrum[$spectrum_size]; /* real and imaginary part of every bin; the FFTs work in this place */
    float bands[$bands_size];    /* |S|, re and im of every band */
    int16_t wide[$wide_size];   /* the input of a convolution */
    int8_t codes[$codes_size];   /* what lies between the layers */
    int8_t input[$input_size];   /* of the network */
    int8_t mask[$mask_room];    /* its output */
    int8_t memory[$memory_size]; /* the frames that the convolutions remember */
    uint16_t at[$memories]; /* the oldest of them, for every convolution */
} ${name}_state;

/* Begins a stream. */
void ${name}_init(${name}_state *state);

/* Enhances a hop of samples in [-1, 1], which may be in the same place. */
void ${name}_process(${name}_state *state, const float in[${NAME}_HOP], float out[${NAME}_HOP]);

/* The same for 16-bit samples. */
void ${name}_process_int16(${name}_state *state, const int16_t in[${NAME}_HOP], int16_t out[${NAME}_HOP]);

#ifdef __cplusplus
}
#endif

#endif
