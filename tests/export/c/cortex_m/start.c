/* What runs before main: the vector table, the FPU, the variables. Every fault ends the emulation. */
#include <stdint.h>

extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[], stack_end[];
int main(void);
void ended(int status);
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
