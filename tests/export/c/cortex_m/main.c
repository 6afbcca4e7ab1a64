/* A C file of task=export on an emulated core. Compiled with NAME, which its functions begin with, MODEL, its path,
 * and PS_OF_A_TICK, of the board's clock: with -icount shift=0 an instruction takes 1000.
 *
 * Reads codes.bin and samples.bin through semihosting: codes of the bands for its network, samples for all of it. Writes
 * masks.bin, memory.bin, oldest.bin, enhanced.bin (float) and enhanced_int16.bin, and a line of numbers in JSON:
 * instructions of a hop, bytes of state and stack. */
#include MODEL

#define JOINED(a, b) a##b
#define OF(a, b) JOINED(a, b)
#define HOP GTCRN_HOP

enum { OPEN = 1, CLOSE = 2, WRITE0 = 4, WRITE = 5, READ = 6, EXIT = 0x20 };
enum { READING = 1, WRITING = 5 };

void ended(int status);
int main(void);
extern uint32_t stack_begin[], stack_end[];

static OF(NAME, _state) state;

static int call(int number, const void *arguments)
{
    register int r0 __asm("r0") = number;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void ended(int status)
{
    const uint32_t arguments[2] = {0x20026, (uint32_t)status}; /* the application's own exit */
    call(EXIT, arguments);
    for (;;)
        ;
}

static int opened(const char *name, int mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, (uint32_t)mode, (uint32_t)strlen(name)};
    const int file = call(OPEN, arguments);
    if (file < 0)
        ended(3);
    return file;
}

static void closed(int file)
{
    const int arguments[1] = {file};
    call(CLOSE, arguments);
}

/* Whether all was read. */
static int take(int file, void *place, uint32_t bytes)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)place, bytes};
    return call(READ, arguments) == 0;
}

static void put(int file, const void *place, uint32_t bytes)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)place, bytes};
    if (call(WRITE, arguments))
        ended(4);
}

static void put_file(const char *name, const void *place, uint32_t bytes)
{
    const int file = opened(name, WRITING);
    put(file, place, bytes);
    closed(file);
}

static volatile uint32_t *const systick = (uint32_t *)0xE000E010; /* control, reload, current */

static void begin(void)
{
    systick[0] = 0;
    systick[1] = 0xFFFFFF;
    systick[2] = 0; /* any write clears it */
    systick[0] = 5; /* on, at the core's clock, without interrupts */
}

static uint32_t instructions(void)
{
    return (uint32_t)((uint64_t)(0xFFFFFF - systick[2]) * PS_OF_A_TICK / 1000);
}

enum { PAINT = 0x5AFE57AC };

static void paint(void)
{
    uint32_t *const here = (uint32_t *)__builtin_frame_address(0) - 16;
    for (volatile uint32_t *word = stack_begin; word < here; word++)
        *word = PAINT;
}

/* Bytes of stack below the caller that were used since the last paint. */
static uint32_t used(void)
{
    const uint32_t *word = stack_begin;
    while (*word == PAINT)
        word++;
    return (uint32_t)((uint8_t *)__builtin_frame_address(0) - (uint8_t *)word);
}

static char *number(char *end, const char *name, uint32_t value)
{
    char digits[10];
    int count = 0;
    *end++ = '"';
    while (*name)
        *end++ = *name++;
    *end++ = '"';
    *end++ = ':';
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *end++ = digits[--count];
    *end++ = ',';
    return end;
}

int main(void)
{
    static float samples[HOP];
    static int16_t pcm[HOP];
    uint32_t most_network = 0, most = 0, stack = 0, stack_int16 = 0;

    int input = opened("codes.bin", READING), output = opened("masks.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, state.input, GTCRN_INPUT_SIZE)) {
        begin();
        network(&state);
        const uint32_t count = instructions();
        most_network = count > most_network ? count : most_network;
        put(output, state.mask, GTCRN_MASK_SIZE);
    }
    closed(input);
    closed(output);
    put_file("memory.bin", state.memory, sizeof state.memory);
    put_file("oldest.bin", state.at, sizeof state.at);

    input = opened("samples.bin", READING), output = opened("enhanced.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, samples, sizeof samples)) {
        paint();
        begin();
        OF(NAME, _process)(&state, samples, samples);
        const uint32_t count = instructions();
        most = count > most ? count : most;
        const uint32_t bytes = used();
        stack = bytes > stack ? bytes : stack;
        put(output, samples, sizeof samples);
    }
    closed(input);
    closed(output);

    input = opened("samples.bin", READING), output = opened("enhanced_int16.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, samples, sizeof samples)) {
        for (int n = 0; n < HOP; n++)
            pcm[n] = (int16_t)rintf(samples[n] * 32768.0f);
        paint();
        OF(NAME, _process_int16)(&state, pcm, pcm);
        const uint32_t bytes = used();
        stack_int16 = bytes > stack_int16 ? bytes : stack_int16;
        put(output, pcm, sizeof pcm);
    }
    closed(input);
    closed(output);

    static char line[256];
    char *end = line;
    *end++ = '{';
    end = number(end, "network", most_network);
    end = number(end, "hop", most);
    end = number(end, "state", sizeof state);
    end = number(end, "stack", stack);
    end = number(end, "stack_int16", stack_int16);
    end[-1] = '}';
    end[0] = '\n';
    call(WRITE0, line);
    return 0;
}
