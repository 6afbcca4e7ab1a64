/* Cortex-M: what runs before main (the vector table, the FPU, the variables), semihosting and the counter, which is
 * SysTick at the board's clock, PS_OF_A_TICK picoseconds. Every fault ends the emulation. */
#include "machine.h"

extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[];
void reset(void);
void fault(void);

void fault(void)
{
    ended(2);
}

void reset(void)
{
    volatile uint32_t *const coprocessors = (uint32_t *)0xE000ED88; /* CPACR */
    *coprocessors |= 0xFu << 20;
    __asm volatile("dsb\n isb");
    for (uint32_t *from = data_source, *to = data_begin; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
    ended(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_end, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};

int call(int number, const void *arguments)
{
    register int r0 __asm("r0") = number;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static volatile uint32_t *const systick = (uint32_t *)0xE000E010; /* control, reload, current */

void begin_count(void)
{
    systick[0] = 0;
    systick[1] = 0xFFFFFF;
    systick[2] = 0; /* any write clears it */
    systick[0] = 5; /* on, at the core's clock, without interrupts */
}

uint32_t counted(void)
{
    return (uint32_t)((uint64_t)(0xFFFFFF - systick[2]) * PS_OF_A_TICK / 1000);
}
