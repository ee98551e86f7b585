/* Loaded before libc (LD_PRELOAD) into the process of one simulated run: entropy that is the same every time. What the
 * runtime and the standard library draw for themselves (the order in which waiters of one channel wake, the keys of hash
 * maps) is then part of the run, too. */
#include <string.h>
#include <sys/types.h>

ssize_t getrandom(void *into, size_t bytes, unsigned int flags) {
    (void)flags;
    memset(into, 42, bytes);
    return (ssize_t)bytes;
}
