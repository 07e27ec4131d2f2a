/* Holds a pod's namespaces: sleeps until told to end, reaps orphans meanwhile. */
#include <signal.h>
#include <unistd.h>

static void leave(int signal_number) { (void)signal_number; _exit(0); }

int main(void) {
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGCHLD, SIG_IGN); /* ended children vanish without being waited for */
    for (;;) pause();
}
