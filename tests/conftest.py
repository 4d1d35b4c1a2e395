"""What all tests need."""

import signal

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and children inherit that;
# what is tested here is what happens to a person's Ctrl-C and closed terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
