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

/* What a bin gives to a band and to the next band, and gets of their masks. */
typedef struct {
    float weight, next_weight;
    uint16_t band;
} gtcrn_bin;
